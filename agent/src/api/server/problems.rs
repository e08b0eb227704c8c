//! What is wrong, and what can be done about it.

mod host;

use crate::{
    control::{State, hold::describe},
    model::membership::Trust,
    problem::Problem,
};

/// Everything that is wrong, the gravest first.
pub(super) fn problems(state: &State) -> Vec<Problem> {
    let mut problems = Vec::new();
    store(state, &mut problems);
    if let Some(reason) = &state.join_problem {
        problems.push(reason.clone().within("this node has not joined the cluster"));
    }
    problems.extend(state.uplink_problem.clone());
    for endpoint in state.facts.endpoints.values() {
        if let Some(reason) = &endpoint.lost {
            let name = endpoint.name.as_ref().unwrap_or(&endpoint.id);
            let what =
                format!("endpoint {name} of network {} is not served: {reason}", endpoint.network_name);
            let mend = match endpoint.handle() {
                Some(_) => format!(
                    "docker network disconnect {0} {name}, and connect it again",
                    endpoint.network_name
                ),
                None => format!("margay endpoint detach {}, and attach it again", endpoint.id),
            };
            add(&mut problems, what, &mend);
        }
    }
    for (key, reason) in &state.snapshot.unreadable {
        let what = format!("{key} {reason}: this node keeps the last value that it could read");
        add(
            &mut problems,
            what,
            "upgrade this agent if a newer one wrote the value, else write the value again",
        );
    }
    for (key, pending) in state.retry.pending() {
        let Problem { problem, mend } = &pending.reason;
        let what = format!("{key}: {problem}; tried {} times", pending.failures);
        add(&mut problems, what, mend);
    }
    host::problems(state, &mut problems);
    problems
}

fn store(state: &State, problems: &mut Vec<Problem>) {
    if let (None, Some((why, _))) = (&state.store.away, &state.store.unwritable) {
        let what = format!(
            "the store takes no writes ({}): traffic goes on and this node follows the others' changes, but can \
             change nothing itself",
            why.problem
        );
        let stash = "containers get addresses from the stash meanwhile";
        add(problems, what, &format!("{}; {stash}", why.mend));
    }
    match (&state.store.away, &state.trust) {
        (Some((away, _)), Trust::Unseen) => add(
            problems,
            format!(
                "the store has not answered since the agent started ({}): this node serves its own endpoints \
                 and changes nothing else in the kernel",
                away.problem
            ),
            &away.mend,
        ),
        (Some((away, _)), _) => add(
            problems,
            format!(
                "the store is away ({}): traffic goes on, and this node learns of no change",
                away.problem
            ),
            &format!("{}; containers get addresses from the stash meanwhile", away.mend),
        ),
        (None, Trust::Unseen) => {
            add(problems, "the store has not been read yet".into(), "wait, it is being read");
        }
        (None, Trust::Whole) => {}
        (None, doubt) => problems.push(describe(doubt)),
    }
}

pub(super) fn add(problems: &mut Vec<Problem>, problem: String, mend: &str) {
    problems.push(Problem { problem, mend: mend.into() });
}
