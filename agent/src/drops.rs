//! Dropped packets in the log: program, endpoint, addresses and reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use margay_common::{
    log::Logged,
    net::Addr,
    verdict::{Count, Note, Program},
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    control::{Control, State},
    kernel::{
        counters,
        log::Drops,
        pins::Pins,
        table::{PerCpu, Single},
    },
    model::endpoint::Endpoint,
};

/// Lines per second of all senders together. The programs limit each sender.
const LINES_PER_SECOND: u64 = 200;
/// How long drops gather before they are logged together.
const GATHER: Duration = Duration::from_millis(100);

/// Switches the log of drops on and off.
pub struct Switch {
    in_kernel: Mutex<Single<u32>>,
    on: watch::Sender<bool>,
}

impl Switch {
    /// Starts logging, if `on`; `in_kernel` tells the programs. Fails if a map
    /// cannot be opened.
    pub async fn new(
        control: &Control,
        (in_kernel, counters): (Single<u32>, &Arc<PerCpu<Count>>),
        pins: &Pins,
        on: bool,
    ) -> Result<Self> {
        let drops = Drops::open(pins)?;
        let (send, watching) = watch::channel(false);
        let switch = Self { in_kernel: Mutex::new(in_kernel), on: send };
        switch.turn(on).await?;
        tokio::spawn(tell(control.clone(), Arc::clone(counters), drops, watching));
        Ok(switch)
    }

    /// Switches the log on or off, until the agent ends.
    pub async fn turn(&self, on: bool) -> Result<()> {
        self.in_kernel.lock().await.put(u32::from(on))?;
        self.on.send_replace(on);
        Ok(())
    }
}

/// Logs drops until the control loop ends.
async fn tell(
    control: Control,
    counters: Arc<PerCpu<Count>>,
    mut drops: Drops,
    mut on: watch::Receiver<bool>,
) {
    let mut limit = Limit::default();
    loop {
        if on.wait_for(|on| *on).await.is_err() {
            return;
        }
        limit.withheld = withheld(&counters);
        while *on.borrow_and_update() {
            tokio::select! {
                _ = on.changed() => continue,
                () = sleep(Duration::from_secs(1)) => {}
                found = drops.wait() => match found {
                    Ok(()) => sleep(GATHER).await,
                    Err(error) => return warn!("cannot read the drops, so the log no longer has them: {error:#}"),
                },
            }
            let found = drops.take();
            let Ok(lines) = control.look(move |state| lines(state, &found)).await else { return };
            for line in lines {
                if limit.grants() {
                    info!("{line}");
                }
            }
            if limit.second_is_over() {
                let more = limit.left_out(withheld(&counters));
                if more > 0 {
                    info!("{more} more drops are not logged (rate limit); margay counters counts all");
                }
            }
        }
    }
}

/// Drops that the programs left out so far; 0 if the counters cannot be read.
fn withheld(counters: &PerCpu<Count>) -> u64 {
    let counters = counters::read(counters).unwrap_or_default();
    counters.iter().filter(|found| found.reason == Note::LogLimited.label()).map(|found| found.packets).sum()
}

/// Counts lines and omissions of the current second.
struct Limit {
    since: Instant,
    lines: u64,
    withheld: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { since: Instant::now(), lines: 0, withheld: 0 }
    }
}

impl Limit {
    fn grants(&mut self) -> bool {
        self.lines += 1;
        self.lines <= LINES_PER_SECOND
    }

    fn second_is_over(&self) -> bool {
        self.since.elapsed() >= Duration::from_secs(1)
    }

    /// Ends the second: how many drops it left out, given the programs' total so far.
    fn left_out(&mut self, withheld: u64) -> u64 {
        let before = std::mem::replace(&mut self.withheld, withheld);
        let lines = std::mem::take(&mut self.lines);
        self.since = Instant::now();
        withheld.saturating_sub(before) + lines.saturating_sub(LINES_PER_SECOND)
    }
}

/// One line for each drop, in one pass over the endpoints.
fn lines(state: &State, drops: &[Logged]) -> Vec<String> {
    let indices: BTreeSet<u32> = drops.iter().map(|drop| drop.ifindex).collect();
    let addrs: BTreeSet<IpAddr> =
        drops.iter().flat_map(|drop| [drop.src, drop.dst]).map(IpAddr::from).collect();
    let mut here = Here::default();
    for endpoint in state.facts.endpoints.values() {
        if let Some(index) = state.facts.interfaces.get(&endpoint.host_interface)
            && indices.contains(index)
        {
            here.by_index.insert(*index, endpoint);
        }
        let wanted = endpoint.addresses.iter().filter(|addr| addrs.contains(addr));
        here.by_addr.extend(wanted.map(|addr| (*addr, endpoint)));
    }
    drops.iter().filter_map(|drop| here.line(drop)).collect()
}

/// The endpoints that the drops mention.
#[derive(Default)]
struct Here<'a> {
    by_index: BTreeMap<u32, &'a Endpoint>,
    by_addr: BTreeMap<IpAddr, &'a Endpoint>,
}

impl Here<'_> {
    fn line(&self, drop: &Logged) -> Option<String> {
        let (program, reason) = (drop.program()?, drop.reason()?);
        let [src, dst] = [drop.src, drop.dst].map(address);
        let (from, claimed) = self.sender(program, drop.ifindex, src);
        let claimed = claimed.map(|src| format!(", as {src}")).unwrap_or_default();
        let to = dst.map(|dst| format!(", to {}", self.named(dst))).unwrap_or_default();
        let (program, reason, len) = (program.label(), reason.label(), drop.len);
        Some(format!("{program} dropped {len} bytes from {from}: {reason}{claimed}{to}"))
    }

    /// The sender, and the packet's source if it is not an address of the sender.
    fn sender(&self, program: Program, ifindex: u32, src: Option<IpAddr>) -> (String, Option<IpAddr>) {
        if program != Program::FromWorkload {
            let from = src.map_or_else(|| "an unreadable source".into(), |src| self.named(src));
            return (from, None);
        }
        let Some(endpoint) = self.by_index.get(&ifindex) else {
            return (format!("interface {ifindex}"), src);
        };
        let own = src.filter(|src| endpoint.addresses.contains(src));
        let addr = own.or_else(|| endpoint.addresses.first().copied());
        let from = addr.map_or_else(|| name(endpoint).into(), |addr| format!("{} ({addr})", name(endpoint)));
        (from, src.filter(|_| own.is_none()))
    }

    fn named(&self, addr: IpAddr) -> String {
        self.by_addr.get(&addr).map_or_else(|| addr.to_string(), |found| format!("{} ({addr})", name(found)))
    }
}

fn name(endpoint: &Endpoint) -> &str {
    endpoint.name.as_ref().unwrap_or(&endpoint.id)
}

fn address(addr: Addr) -> Option<IpAddr> {
    (!addr.is_unspecified()).then(|| addr.into())
}

#[cfg(test)]
mod tests;
