//! What is wrong, and what can be done about it.

mod host;

use crate::{
    api::wire::Problem,
    control::{State, hold::describe},
    model::membership::Trust,
    tables::Key,
};

/// Everything that is wrong, the gravest first.
pub(super) fn problems(state: &State) -> Vec<Problem> {
    let mut problems = Vec::new();
    store(state, &mut problems);
    if let Some(reason) = &state.join_problem {
        let what = format!("this node has not joined the cluster: {reason}");
        add(&mut problems, what, "nothing is attached until that is mended; the agent tries again by itself");
    }
    if let Some(reason) = &state.uplink_problem {
        add(&mut problems, reason.clone(), "containers here reach nobody elsewhere until it is back");
    }
    for endpoint in state.facts.endpoints.values() {
        if let Some(reason) = &endpoint.lost {
            let name = endpoint.name.as_ref().unwrap_or(&endpoint.id);
            let what =
                format!("endpoint {name} of network {} is not served: {reason}", endpoint.network_name);
            let mend = match &endpoint.docker {
                Some(_) => format!(
                    "docker network disconnect {0} {name}, and connect it again",
                    endpoint.network_name
                ),
                None => format!("margay endpoint detach {}, and attach it anew", endpoint.id),
            };
            add(&mut problems, what, &mend);
        }
    }
    for (key, reason) in &state.snapshot.unreadable {
        let what = format!("{key} {reason}: what was known of it before stays in force");
        add(&mut problems, what, "upgrade this agent if a newer one wrote it, else write the value anew");
    }
    for (key, pending) in state.retry.pending() {
        let what = format!("{}: {}; tried {} times", name(key), pending.reason, pending.failures);
        add(&mut problems, what, "it is tried again by itself; the reason says what is in the way");
    }
    host::problems(state, &mut problems);
    problems
}

fn store(state: &State, problems: &mut Vec<Problem>) {
    match (&state.store.away, &state.trust) {
        (Some((reason, _)), Trust::Unseen) => add(
            problems,
            format!(
                "the store has not answered since the agent started ({reason}): own endpoints are served, \
                 nothing else in the kernel is changed"
            ),
            "see that it runs and can be reached; --store says where it is",
        ),
        (Some((reason, _)), _) => add(
            problems,
            format!("the store is away ({reason}): traffic goes on, nothing new is learnt"),
            "see that it runs and can be reached; containers get addresses from the stash meanwhile",
        ),
        (None, Trust::Unseen) => {
            add(problems, "the store has not been read yet".into(), "wait, it is being read");
        }
        (None, Trust::Whole) => {}
        (None, doubt) => {
            let text = describe(doubt);
            match text.split_once("; ") {
                Some((what, mend)) => add(problems, what.into(), mend),
                None => add(problems, text, "margay store adopt"),
            }
        }
    }
}

/// An entry of the kernel in words.
fn name(key: &Key) -> String {
    match key {
        Key::Interface(name) => format!("interface {name}"),
        Key::Node(()) => "this node's own entry".into(),
        Key::Workload(index) => format!("the container behind interface {index}"),
        Key::Attachment(name) => format!("the program on {name}"),
        Key::Route(key) => format!("the route to {}", std::net::IpAddr::from(key.addr)),
        Key::Prefix(key) => format!("the prefix {}", std::net::IpAddr::from(key.addr)),
        Key::Guard(key) => format!("the guard's prefix {}", std::net::IpAddr::from(key.addr)),
        Key::OwnAddress(addr) => format!("this host's own address {}", std::net::IpAddr::from(*addr)),
        Key::Xdp(name) => format!("the XDP program on {name}"),
        Key::Endpoint(addr) => format!("the endpoint {}", std::net::IpAddr::from(*addr)),
        Key::HostRoute(dst) => format!("the host's route to {dst}"),
        Key::Firewall(()) => "masquerading".into(),
        Key::Accept(accept) => format!("the exception in iptables' chain {}", accept.chain),
        Key::Sysctl(key) => format!("the kernel's switch {}", key.path),
    }
}

pub(super) fn add(problems: &mut Vec<Problem>, problem: String, mend: &str) {
    problems.push(Problem { problem, mend: mend.into() });
}
