//! The comparison: every candidate does every kind of work in turn, round after
//! round, so that whatever disturbs the machine disturbs all of them.

use std::time::{Duration, Instant};

use crate::{
    candidate::{self, Candidate, Ready},
    congestion,
    cpu::{Cpu, Machine},
    report::{Record, Report},
    work::{Place, Work},
};

/// What is compared, and how often.
#[derive(clap::Args)]
pub struct Options {
    /// Four candidates and three kinds of work: below four minutes
    #[arg(long)]
    quick: bool,
    /// Only these candidates, and the host (a name or its first words; several with commas)
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = candidate::Names)]
    only: Vec<String>,
    /// Only these kinds of work
    #[arg(long, value_delimiter = ',', value_name = "WORK")]
    work: Vec<Work>,
    /// Rounds [default: 8, quick 16, or as many as there is time for]
    #[arg(long)]
    rounds: Option<usize>,
    /// Congestion control of TCP, for all candidates
    #[arg(long, default_value = congestion::CUBIC, value_name = "NAME", value_parser = congestion::parse)]
    congestion: String,
    /// Folder of the report
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    out: std::path::PathBuf,
}

/// When the last round of the whole and of the quick form ends, so that the bench is
/// done within 45 minutes and within four.
const WHOLE_ENDS: Duration = Duration::from_secs(44 * 60 + 30);
const QUICK_ENDS: Duration = Duration::from_secs(3 * 60 + 50);

/// The kinds of work of the quick form.
const QUICK: [Work; 3] = [Work::Stream, Work::TcpRequests, Work::Packets];

impl Options {
    fn candidates(&self) -> Vec<Candidate> {
        let named = |c: &Candidate| self.only.iter().any(|name| c.is_called(name));
        let wanted = |c: &Candidate| {
            if self.only.is_empty() {
                !self.quick || c.does == candidate::Does::Quick
            } else {
                c.name == candidate::LIMIT || named(c)
            }
        };
        candidate::ALL.into_iter().filter(wanted).collect()
    }

    fn cases(&self) -> Vec<(Place, Work)> {
        let wanted = |work: &Work| match self.work.is_empty() {
            true => !self.quick || QUICK.contains(work),
            false => self.work.contains(work),
        };
        let places: &[Place] =
            if self.quick { &[Place::Across] } else { &[Place::Across, Place::Pinned, Place::Local] };
        let cases = places.iter().flat_map(|place| Work::ALL.into_iter().map(move |work| (*place, work)));
        cases.filter(|(place, work)| wanted(work) && work.is_done(*place)).collect()
    }
}

/// Compares, and writes the report.
pub fn run(options: &Options) -> std::io::Result<()> {
    let begun = (Instant::now(), Cpu::now());
    let mut report = Report::new(Machine::look(), command());
    let rounds = options.rounds.unwrap_or(if options.quick { 16 } else { 8 });
    let mut ready = Vec::new();
    for candidate in options.candidates() {
        println!("bench: {}: {}", candidate.name, candidate.what);
        report.describe(candidate);
        match candidate.set_up(&options.congestion) {
            Ok(made) => ready.push(made),
            Err(why) => report.lacks(candidate, &why),
        }
    }
    report.congestion(&options.congestion, ready.iter().flat_map(Ready::congestion));
    let cases = options.cases();
    let ends = if options.quick { QUICK_ENDS } else { WHOLE_ENDS };
    ready.iter().for_each(warm_up);
    let mut longest = Duration::ZERO;
    for round in 1..=rounds {
        let so_far = begun.0.elapsed();
        if options.rounds.is_none() && !fits(so_far, longest, ends) {
            report.left_out(rounds + 1 - round, rounds);
            break;
        }
        println!("bench: round {round} of {rounds}, {} s so far", so_far.as_secs());
        report.listen();
        play(&ready, round, &cases, &mut report);
        longest = longest.max(begun.0.elapsed() - so_far);
    }
    report.finish(begun.1, begun.0.elapsed());
    report.write(&options.out)
}

/// Whether there is time for one more round: it may take a little longer than the
/// longest so far.
fn fits(so_far: Duration, longest: Duration, ends: Duration) -> bool {
    so_far + longest.mul_f64(1.05) <= ends
}

/// One round: all of them in turn, case after case.
fn play(ready: &[Ready], round: usize, cases: &[(Place, Work)], report: &mut Report) {
    for (place, work) in cases {
        // Nobody is always first.
        for i in 0..ready.len() {
            let ready = &ready[(i + round) % ready.len()];
            if ready.candidate.does(*place, *work) {
                report.add(measure(ready, round, *place, *work));
            }
        }
    }
}

/// One stream and one exchange, not recorded: caches, neighbours, routes.
fn warm_up(ready: &Ready) {
    for place in [Place::Across, Place::Local] {
        for work in [Work::Stream, Work::Connections] {
            // What fails here fails again where it is recorded.
            drop(work.measure(ready.at(place).0, false));
        }
    }
}

fn measure(ready: &Ready, round: usize, place: Place, work: Work) -> Record {
    let (way, servers) = ready.at(place);
    let pinned = place == Place::Pinned;
    if pinned {
        servers.pin(true);
    }
    let mut result = work.measure(way, pinned);
    if result.is_err() {
        // A server may still be busy with the end of the last measurement.
        std::thread::sleep(Duration::from_millis(200));
        result = work.measure(way, pinned);
    }
    if pinned {
        servers.pin(false);
    }
    Record { round, candidate: ready.candidate.name, place, work, result }
}

fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask bench {}", words.join(" ")).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn only(names: &str) -> Result<Vec<&'static str>, String> {
        let line = Line::try_parse_from(["bench", "--only", names]).map_err(|error| error.to_string())?;
        Ok(line.options.candidates().iter().map(|candidate| candidate.name).collect())
    }

    #[test]
    fn only_option_takes_names_and_leading_words_with_commas() {
        let bridges = ["docker bridge + routes", "docker bridge + ports", "docker bridge + proxy"];
        assert_eq!(only("tinc,docker bridge").unwrap(), [&["host"], &bridges[..], &["tinc"]].concat());
    }

    #[test]
    fn help_of_the_only_option_lists_all_candidates() {
        let help = Line::command().render_long_help().to_string();
        for candidate in candidate::ALL {
            let item = format!("- {}:", candidate.name);
            assert!(help.lines().any(|line| line.trim_start().starts_with(&item)), "{item} in {help}");
        }
    }

    #[test]
    fn unknown_candidate_is_refused_with_a_list_of_all() {
        let refusal = only("margay,marten").unwrap_err();
        assert!(refusal.contains("'marten'"), "{refusal}");
        for candidate in candidate::ALL {
            assert!(refusal.contains(candidate.name), "{} in {refusal}", candidate.name);
        }
    }

    #[test]
    fn round_that_would_exceed_the_time_limit_is_skipped() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert!(fits(minutes(2), Duration::ZERO, minutes(45)), "the first is always played");
        assert!(fits(minutes(33), minutes(11), minutes(45)));
        assert!(!fits(minutes(34), minutes(11), minutes(45)));
    }
}
