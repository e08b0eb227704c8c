//! TCP streams between containers, by iperf3, and captures of them on the way.

use std::{net::IpAddr, path::Path};

use crate::{container::Namespace, eventually::eventually, process::Process};

/// Serves streams at an address, one after the other, for as long as the value lives.
pub fn serve(namespace: &Namespace, addr: IpAddr, log: &Path) -> Process {
    namespace.start(&format!("iperf3 -s -B {addr}"), log)
}

/// Sends a stream of `bytes`, in iperf3's notation (`20M`). Returns its output, or the error,
/// also if no server listens yet.
pub fn send(from: &Namespace, addr: IpAddr, bytes: &str) -> Result<String, String> {
    // Through a black hole it would take hours.
    let said = from.run(&format!("timeout 120 iperf3 -c {addr} -n {bytes}"));
    if said.ok() { Ok(said.out) } else { Err(format!("{said:?}")) }
}

/// Writes a line into a log for every packet of more than `bytes` bytes on an interface, from
/// now on.
pub fn larger(namespace: &Namespace, interface: &str, bytes: u32, log: &Path) -> Process {
    // The log of another would tell that this one listens.
    assert!(!log.exists(), "{}", log.display());
    let dump =
        namespace.start(&format!("tcpdump -n -i {interface} --immediate-mode -l -q greater {bytes}"), log);
    eventually("tcpdump listens", || {
        let log = dump.log();
        if log.contains("listening on") { Ok(()) } else { Err(log) }
    });
    dump
}
