//! Echoes during some event, none of which may be lost.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use nix::sys::signal::Signal;

use crate::{container::Namespace, eventually::eventually, process::Process};

/// An endless ping.
pub struct Flow {
    ping: Process,
}

impl Flow {
    /// Starts one, fifty times a second, and waits until answers come.
    #[track_caller]
    pub fn start(from: &Namespace, addr: IpAddr, log: &Path) -> Self {
        let flow = Self { ping: from.start(&format!("ping -n -i 0.02 {addr}"), log) };
        flow.goes_on();
        flow
    }

    /// The echoes that were answered, by their numbers from 1.
    fn answered(&self) -> BTreeSet<u32> {
        let log = self.ping.log();
        // An ICMP error also carries the number of the echo that it is about.
        let answers = log.lines().filter(|line| line.contains(" ttl="));
        let numbers = answers.filter_map(|line| line.split_once("icmp_seq=")?.1.split(' ').next());
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// Waits for answers to echoes that are sent from now on.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.answered().len();
        eventually("echoes are answered", || {
            if self.answered().len() > before + 2 { Ok(()) } else { Err(self.ping.log()) }
        });
    }

    /// Waits for further answers, then ends the ping. Every echo before the last answered one has
    /// to be answered; echoes still under way at the end do not count.
    #[track_caller]
    pub fn end(mut self) {
        self.goes_on();
        self.ping.signal(Signal::SIGINT);
        self.ping.wait();
        let answered = self.answered();
        let last = answered.last().copied().unwrap_or_default();
        let lost: Vec<u32> = (1..=last).filter(|number| !answered.contains(number)).collect();
        assert!(lost.is_empty(), "of {last} echoes these were lost: {lost:?}");
    }
}
