//! Who runs the tests, and what it tells of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    run::{self, cargo},
    stages::Tally,
};

/// What is built for tests, at once and by the same words in every stage: with others
/// cargo would choose other features and build nearly everything once more.
const TARGETS: [&str; 3] = ["--lib", "--bins", "--tests"];
/// Where a test tells that it cannot be done here.
const SKIPPED: &str = "MARGAY_TEST_SKIPPED";

/// The suite that is a package of its own.
const BENCH: &str = "bench";

/// Builds agent, suites and everything else that tests run; where each executable is.
pub fn build() -> Result<BTreeMap<String, PathBuf>> {
    let mut build = cargo(&["build", "--quiet", "--message-format=json-render-diagnostics"]);
    Ok(executables(&run::output_of(build.args(TARGETS))?))
}

/// Where cargo's messages say that executables are.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?;
        let is_suite = message["target"]["kind"][0] == "test";
        let is_program = message["profile"]["test"] == false;
        (is_suite || is_program).then_some((name.to_owned(), message["executable"].as_str()?.into()))
    };
    messages.lines().filter_map(executable).collect()
}

/// Builds the agent with another layout of one map, which tests of upgrades start in the
/// place of the usual one, and puts it beside that.
pub fn build_other_layout() -> Result<()> {
    let mut build =
        cargo(&["build", "--quiet", "--message-format=json-render-diagnostics", "--bin", "margay"]);
    let messages = run::output_of(build.args(["--features", "margay/other-layout"]))?;
    let built = executables(&messages);
    let agent = executable(&built, "margay")?;
    let beside = agent.with_file_name("margay-other-layout");
    // The old one may run: it is another file from now on.
    drop(fs::remove_file(&beside));
    fs::copy(agent, &beside).with_context(|| beside.display().to_string())?;
    Ok(())
}

/// Which tests run: those of all suites, or of the named; of these all, or those with one
/// of the texts in their names.
pub struct Chosen<'a> {
    /// Names of suites; `unit` is everything that needs no root.
    pub suites: &'a [&'a str],
    /// Parts of names.
    pub filter: &'a [String],
}

impl Chosen<'_> {
    /// nextest's words for it.
    fn expression(&self) -> String {
        let suite = |name: &&str| match *name {
            "unit" => "kind(lib) | kind(bin)".to_owned(),
            BENCH => "all()".to_owned(),
            name => format!("binary(={name})"),
        };
        let suites = self.suites.iter().map(suite).collect::<Vec<_>>().join(" | ");
        if self.filter.is_empty() {
            return suites;
        }
        let filter: Vec<String> = self.filter.iter().map(|text| format!("test({text})")).collect();
        format!("({suites}) & ({})", filter.join(" | "))
    }

    /// What cargo builds for them; the bench is built here, where there is a network.
    fn targets(&self) -> Result<Vec<&str>> {
        if self.suites != [BENCH] {
            return Ok(TARGETS.into());
        }
        // It has no library.
        let bench = vec!["--package", "margay-bench", "--bins", "--tests"];
        run::check(cargo(&["test", "--no-run", "--quiet"]).args(&bench))?;
        Ok(bench)
    }

    /// cargo's own.
    fn words(&self) -> Vec<String> {
        let suite = |name: &&str| match *name {
            "unit" => vec!["--lib".into(), "--bins".into()],
            BENCH => vec!["--package".into(), "margay-bench".into()],
            name => vec!["--test".into(), name.into()],
        };
        let filter = (!self.filter.is_empty()).then(|| "--".to_owned());
        let filter = filter.into_iter().chain(self.filter.iter().cloned());
        self.suites.iter().flat_map(suite).chain(filter).collect()
    }
}

/// The suite whose tests share the programs that one process loads, which is what takes the
/// time in it; nextest would load them for each test.
const SHARED: &str = "datapath";

/// Runs tests by nextest where it is installed, else by cargo's own runner: each command is
/// handed to `go`, which may take it elsewhere.
///
/// # Errors
///
/// A test failed, or none is meant.
pub fn run(
    chosen: &Chosen<'_>,
    built: &BTreeMap<String, PathBuf>,
    tally: &mut Tally,
    go: impl Fn(&mut Command) -> Result<()>,
) -> Result<()> {
    // Of nextest's own choice, wherever cargo builds.
    let dir = run::root().join("target/nextest/default");
    fs::create_dir_all(&dir)?;
    let skipped = dir.join("skipped");
    drop(fs::remove_file(&skipped));
    let go = |tests: &mut Command| go(tests.env(SKIPPED, &skipped));
    let mut told = Tally::default();
    let ran = match run::has("cargo-nextest") {
        true => by_nextest(chosen, built, &dir, &mut told, &go),
        false => by_cargo(chosen, &dir, &mut told, &go),
    };
    let has = |text: &String| told.names.iter().any(|name| name.contains(text));
    if let Some(text) = chosen.filter.iter().find(|text| !has(text)).filter(|_| ran.is_ok()) {
        bail!("no test of these suites has {text:?} in its name");
    }
    told.skip(&fs::read_to_string(&skipped).unwrap_or_default());
    tally.add(told);
    ran
}

fn by_nextest(
    chosen: &Chosen<'_>,
    built: &BTreeMap<String, PathBuf>,
    dir: &Path,
    tally: &mut Tally,
    go: &impl Fn(&mut Command) -> Result<()>,
) -> Result<()> {
    let mut suites = chosen.suites.to_vec();
    let mut shared = Ok(());
    if suites.contains(&SHARED) {
        suites.retain(|suite| *suite != SHARED);
        let mut tests = Command::new(executable(built, SHARED)?);
        shared = told(tests.args(chosen.filter).current_dir(run::root()), dir, tally, go);
    }
    if suites.is_empty() {
        return shared;
    }
    let chosen = Chosen { suites: &suites, ..*chosen };
    if let Err(error) = run::check(&mut cargo(&["fetch", "--quiet", "--locked"])) {
        println!("test: {error}; if everything has been fetched before, it goes on");
    }
    let junit = dir.join("junit.xml");
    drop(fs::remove_file(&junit));
    // Nothing is fetched from within a machine without a network; most tests wait for others
    // half of the time; whether any has run is seen to in the end.
    let mut tests = cargo(&["nextest", "run", "--profile", "default", "--offline", "--no-tests", "pass"]);
    let at_once = 2 * thread::available_parallelism().map_or(1, usize::from);
    tests.args(["-E", &chosen.expression(), "--test-threads", &at_once.to_string()]);
    let ran = go(tests.args(chosen.targets()?));
    if let Ok(text) = fs::read_to_string(junit) {
        tally.add(of_junit(&text)?);
    }
    shared.and(ran)
}

fn by_cargo(
    chosen: &Chosen<'_>,
    dir: &Path,
    tally: &mut Tally,
    go: &impl Fn(&mut Command) -> Result<()>,
) -> Result<()> {
    println!("test: with cargo-nextest (cargo install cargo-nextest) it also tells how long each took");
    chosen.targets()?;
    let mut tests = cargo(&["test", "--no-fail-fast", "--offline"]);
    told(tests.args(chosen.words()), dir, tally, go)
}

/// Runs what prints a line for each test, and takes what it prints.
fn told(
    tests: &mut Command,
    dir: &Path,
    tally: &mut Tally,
    go: &impl Fn(&mut Command) -> Result<()>,
) -> Result<()> {
    let log = dir.join("printed");
    drop(fs::remove_file(&log));
    let mut teed = Command::new("bash");
    teed.args(["-o", "pipefail", "-c", "\"$@\" | tee \"$0\""]).arg(&log);
    run::surround(teed.arg(tests.get_program()).args(tests.get_args()), tests);
    let ran = go(&mut teed);
    let printed = fs::read(&log).unwrap_or_default();
    tally.add(of_console(&String::from_utf8_lossy(&printed)));
    ran
}

impl Tally {
    /// Takes tests that passed by doing nothing for what they were: skipped.
    fn skip(&mut self, lines: &str) {
        self.passed = self.passed.saturating_sub(lines.lines().count());
        self.skipped.extend(lines.lines().map(str::to_owned));
    }
}

/// What nextest's file says.
fn of_junit(text: &str) -> Result<Tally> {
    let document = roxmltree::Document::parse(text).context("nextest's junit.xml")?;
    let mut tally = Tally::default();
    for case in document.descendants().filter(|node| node.has_tag_name("testcase")) {
        let name = |attribute| case.attribute(attribute).unwrap_or_default();
        let suite = name("classname").rsplit("::").next().unwrap_or_default().to_owned();
        let seconds = name("time").parse().unwrap_or_default();
        let failed =
            case.children().any(|child| ["failure", "error"].iter().any(|tag| child.has_tag_name(*tag)));
        *(if failed { &mut tally.failed } else { &mut tally.passed }) += 1;
        tally.took.push((seconds, format!("{suite} {}", name("name"))));
        tally.names.push(name("name").to_owned());
    }
    Ok(tally)
}

/// What the console of a machine says of the tests that ran in it, one line each.
pub fn of_console(console: &str) -> Tally {
    let ended = |how: &str| {
        let of =
            |line: &str| Some(line.strip_prefix("test ")?.trim_end().strip_suffix(how)?.trim().to_owned());
        console.lines().filter_map(of).collect::<Vec<_>>()
    };
    let (passed, failed) = (ended("... ok"), ended("... FAILED"));
    let (count, names) = ((passed.len(), failed.len()), [passed, failed].concat());
    let mut tally = Tally { passed: count.0, failed: count.1, names, ..Tally::default() };
    let skipped = console.lines().filter_map(|line| line.trim_end().strip_prefix("skipped: "));
    tally.skip(&skipped.collect::<Vec<_>>().join("\n"));
    tally
}

/// An executable that was built.
pub fn executable<'a>(built: &'a BTreeMap<String, PathBuf>, name: &str) -> Result<&'a Path> {
    built.get(name).map(PathBuf::as_path).ok_or_else(|| anyhow!("cargo does not say where {name} is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_report_is_parsed() {
        let text = r#"<testsuites><testsuite name="margay-tests::node">
            <testcase name="xdp::a" classname="margay-tests::node" time="1.5"/>
            <testcase name="xdp::b" classname="margay-tests::node" time="0.5"><failure type="x"/></testcase>
            <testcase name="netkit::c" classname="margay-tests::node" time="0.25"><system-out/></testcase>
            </testsuite></testsuites>"#;
        let mut told = of_junit(text).expect("XML");
        assert_eq!((told.passed, told.failed), (2, 1));
        assert_eq!(told.took[0], (1.5, "node xdp::a".to_owned()));
        told.skip("netkit::c: this kernel makes no netkit\n");
        assert_eq!((told.passed, told.skipped.len()), (1, 1), "a skipped test has not passed");
        told.skip("");
        assert_eq!((told.passed, told.skipped.len()), (1, 1), "nor is it skipped twice");
        assert!(of_junit("<testsuites>").is_err());
    }

    #[test]
    fn test_results_are_parsed_from_the_console() {
        let console =
            "test a ... ok\r\ntest b ... FAILED\r\nskipped: c: no card\r\ntest c ... ok\r\nfailures:\r\n";
        let told = of_console(console);
        assert_eq!((told.passed, told.failed, told.skipped), (1, 1, vec!["c: no card".to_owned()]));
        assert_eq!(told.names, ["a", "c", "b"]);
    }

    #[test]
    fn nextest_and_the_machine_get_the_same_filters() {
        let filter = ["mtu::".to_owned(), "reach".to_owned()];
        let chosen = Chosen { suites: &["unit", "node"], filter: &filter };
        assert_eq!(
            chosen.expression(),
            "(kind(lib) | kind(bin) | binary(=node)) & (test(mtu::) | test(reach))"
        );
        assert_eq!(chosen.words(), ["--lib", "--bins", "--test", "node", "--", "mtu::", "reach"]);
        assert_eq!(Chosen { suites: &["node"], filter: &[] }.expression(), "binary(=node)");
    }
}
