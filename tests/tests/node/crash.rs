//! An agent killed at every step of attaching and detaching.

use std::path::Path;

use margay::journal::Journal;
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
    process::Process,
};

/// System calls by which something changes: in the kernel, on disk, in the
/// store (which is a file here).
const STEPS: &str = "bpf,sendto,sendmsg,write,pwrite64,rename,unlink,fsync,fdatasync,ftruncate,setns";
/// More steps than any thread takes.
const STEPS_MAX: usize = 120;

/// Has the agent killed when one of its threads comes to its `n`th step.
fn killed_at(lab: &mut Lab, n: usize) -> Process {
    let log = lab.plan.dir.join(format!("strace{n}-{}", lab.h(1).agent_id()));
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-p", &lab.h(1).agent_id().to_string()]);
    strace.args(["-e", &format!("trace={STEPS}"), "-e", &format!("inject={STEPS}:signal=SIGKILL:when={n}")]);
    let strace = Process::start(strace, &log, true);
    eventually("strace is there", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        if log.contains("attached") { Ok(()) } else { Err(log) }
    });
    strace
}

/// How many files a folder has.
fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// How many endpoints the journal has, by a copy of it: the agent has it open.
fn journalled(dir: &Path) -> usize {
    let copy = dir.join("copy");
    std::fs::create_dir_all(&copy).expect("a folder");
    std::fs::copy(dir.join("state/journal.redb"), copy.join("journal.redb")).expect("a journal");
    Journal::peek(&copy).map_or(0, |journal| journal.endpoints().len())
}

/// Waits until kernel, store and journal say the same of how many endpoints
/// there are, and gives that number.
fn agreed(lab: &Lab) -> usize {
    let host = lab.h(1);
    eventually("everything, or nothing", || {
        let listed = host.json(&["endpoint", "ls"]).as_array().map_or(0, Vec::len);
        let status = host.json(&["status"]);
        let used = |name: &str| {
            let maps = status["maps"].as_array().into_iter().flatten();
            maps.filter(|map| map["name"] == name).filter_map(|map| map["used"].as_u64()).sum::<u64>()
                as usize
        };
        let veths = host.namespace.sh("ip -o link").lines().filter(|line| line.contains(": mgy")).count();
        let export: serde_json::Value =
            serde_json::from_str(&host.ok(&["store", "export"])).expect("an export is JSON");
        let held = |(key, value): (&String, &serde_json::Value)| match key.contains("/ipam/") {
            true => value["addresses"].as_object().map_or(0, serde_json::Map::len),
            false => 0,
        };
        let held: usize = export["entries"].as_object().expect("entries").iter().map(held).sum();
        let journal = journalled(host.dir());
        let links = files(&lab.plan.bpffs.join("h1/links")).saturating_sub(2);
        let found = [used("WORKLOADS"), used("ENDPOINTS"), veths, held, journal, links];
        if found.iter().all(|n| *n == listed) { Ok(listed) } else { Err((listed, found)) }
    })
}

fn killed_at_each(step: impl Fn(&Lab, &Namespace) -> bool, before: usize) -> Vec<usize> {
    let mut lab = Lab::single(Plan::for_test(1));
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let container = lab.container();
    let mut outcomes = Vec::new();
    for n in 1..STEPS_MAX {
        if before == 1 {
            lab.h(1).attach(&container, "blue", &[]);
        } else {
            lab.h(1).ok(&["endpoint", "detach", "--netns", &container.path().display().to_string()]);
        }
        assert_eq!(agreed(&lab), before);
        let strace = killed_at(&mut lab, n);
        let done = step(&lab, &container);
        drop(strace);
        if done {
            assert!(outcomes.len() > 5, "the agent was killed: {outcomes:?}");
            return outcomes;
        }
        lab.host(1).kill();
        lab.host(1).up();
        let there = agreed(&lab);
        assert!(there <= 1);
        if there == 1 {
            assert!(container.pings("10.1.0.1".parse().expect("an address"), 1), "attached means attached");
        } else {
            assert!(!container.run("ip link show eth0").ok(), "detached means detached");
        }
        outcomes.push(there);
    }
    panic!("killed at every one of {STEPS_MAX} steps: {outcomes:?}");
}

#[test]
fn agent_killed_at_any_step_of_attaching_recovers() {
    let path = |container: &Namespace| container.path().display().to_string();
    let attach = |lab: &Lab, container: &Namespace| {
        lab.h(1).margay(&["endpoint", "attach", "--network", "blue", "--netns", &path(container)]).ok()
    };
    let outcomes = killed_at_each(attach, 0);
    assert!(outcomes.contains(&0), "{outcomes:?}");
}

#[test]
fn agent_killed_at_any_step_of_detaching_recovers() {
    let path = |container: &Namespace| container.path().display().to_string();
    let detach = |lab: &Lab, container: &Namespace| {
        lab.h(1).margay(&["endpoint", "detach", "--netns", &path(container)]).ok()
    };
    killed_at_each(detach, 1);
}
