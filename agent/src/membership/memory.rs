//! What is worth remembering of the cluster, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    control::State,
    model::{
        denied::Denied,
        membership::{Known, Trust},
        node::Node,
    },
};

/// How often a revision alone is worth a write to disk.
pub(super) const REMEMBER: Duration = Duration::from_secs(5);
/// How often, for each node, nodes that come and go are: of many that join at once
/// each would otherwise be a write of all, on every node.
const REMEMBER_NODE: Duration = Duration::from_millis(1);

/// What to write now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// The cluster as it is seen, if it is worth a write.
    pub(super) known: Option<Known>,
    /// Whether nodes have come or gone that are worth one later.
    pub(super) later: bool,
}

/// What of the state is to be written now: everything if `must`, else what has changed, where the
/// last write is long enough ago. `node` is this one as it is written in the store, `revision`
/// the highest that it knows of.
pub(super) fn due(state: &State, node: &Node, revision: i64, must: bool, since: Option<Duration>) -> Due {
    let Some(cluster) = &state.snapshot.cluster else { return Due::default() };
    let waited = |least| since.is_none_or(|since| since >= least);
    let revision = state.revision.max(revision);
    let before = state.known.as_ref();
    let others = before.is_some_and(|before| !same_nodes(state, before));
    let must = must
        || before.is_none_or(|before| {
            before.cluster != cluster.id
                || before.epoch != cluster.epoch
                || before.node != *node
                || before.denied != denied(state)
                || (before.revision < revision && waited(REMEMBER))
        });
    let others_due = others && waited(REMEMBER_NODE * state.snapshot.nodes.len() as u32);
    if !must && !others_due {
        return Due { known: None, later: others };
    }
    let mut nodes = nodes(state);
    nodes.insert(node.name.clone());
    let known = Known {
        cluster: cluster.id.clone(),
        epoch: cluster.epoch,
        revision,
        node: node.clone(),
        nodes,
        denied: denied(state),
    };
    Due { known: Some(known), later: false }
}

/// Whether the nodes are those that are remembered, without a copy of all names
/// where the store is whole.
fn same_nodes(state: &State, before: &Known) -> bool {
    match state.trust {
        Trust::Whole => before.nodes.iter().eq(state.snapshot.nodes.keys()),
        _ => before.nodes == nodes(state),
    }
}

/// The nodes. Those that a store lost are still awaited should it lose more.
fn nodes(state: &State) -> BTreeSet<String> {
    let mut nodes: BTreeSet<String> = state.snapshot.nodes.keys().cloned().collect();
    if state.trust != Trust::Whole {
        nodes.extend(state.known.iter().flat_map(|known| known.nodes.iter().cloned()));
    }
    nodes
}

/// The deny list, with what a store lost of it.
fn denied(state: &State) -> BTreeMap<IpNet, Denied> {
    let mut denied = BTreeMap::from(state.snapshot.denied.clone());
    if state.trust != Trust::Whole {
        let before = state.known.iter().flat_map(|known| &known.denied);
        denied.extend(before.map(|(cidr, denied)| (*cidr, denied.clone())));
    }
    denied
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{membership::Loss, snapshot::Event};

    fn put(state: &mut State, key: &str, value: &str) {
        let (key, value) = (format!("/margay/v1/{key}"), value.as_bytes().to_vec());
        state.snapshot.apply(&Event::Put { key, value, revision: 1 });
    }

    fn node(state: &mut State, name: &str) -> Node {
        put(state, &format!("nodes/{name}"), &format!(r#"{{"v":1,"name":"{name}","addresses":[]}}"#));
        state.snapshot.nodes[name].clone()
    }

    /// A whole store with this node; the node remembers everything in it.
    fn settled() -> (State, Node) {
        let mut state = State { trust: Trust::Whole, revision: 7, ..State::default() };
        put(&mut state, "cluster", r#"{"v":1,"id":"c","epoch":0}"#);
        let own = node(&mut state, "h1");
        let known = due(&state, &own, 0, false, None).known.expect("nothing was remembered before");
        state.known = Some(Arc::new(known));
        (state, own)
    }

    #[test]
    fn unchanged_memory_is_not_written_again() {
        let (mut state, own) = settled();
        assert_eq!(due(&state, &own, 0, false, Some(REMEMBER)), Due::default());
        assert!(due(&state, &own, 0, true, Some(Duration::ZERO)).known.is_some(), "unless it must");
        state.revision += 1;
        assert_eq!(due(&state, &own, 0, false, Some(Duration::ZERO)), Due::default());
        assert_eq!(due(&state, &own, 0, false, Some(REMEMBER)).known.map(|known| known.revision), Some(8));
    }

    #[test]
    fn nodes_that_join_at_once_are_remembered_in_one_write() {
        let (mut state, own) = settled();
        for i in 2..=100 {
            node(&mut state, &format!("h{i}"));
        }
        let soon = due(&state, &own, 0, false, Some(REMEMBER_NODE * 99));
        assert_eq!(soon, Due { known: None, later: true });
        let later = due(&state, &own, 0, false, Some(REMEMBER_NODE * 100));
        assert_eq!(later.known.map(|known| known.nodes.len()), Some(100));
    }

    #[test]
    fn values_that_the_store_lost_stay_remembered() {
        let (mut state, own) = settled();
        node(&mut state, "h2");
        put(&mut state, "refused/203.0.113.0-24", r#"{"v":1,"since":1}"#);
        state.known = due(&state, &own, 0, true, None).known.map(Arc::new);
        state.trust = Trust::Lossy(Loss::Emptied);
        state.snapshot.nodes.remove("h2");
        state.snapshot.denied = Default::default();
        let known = due(&state, &own, 0, true, None).known.expect("it must");
        assert_eq!((known.nodes.len(), known.denied.len()), (2, 1));
        state.trust = Trust::Whole;
        let known = due(&state, &own, 0, true, None).known.expect("it must");
        assert_eq!((known.nodes.len(), known.denied.len()), (1, 0), "a whole store is believed");
    }
}
