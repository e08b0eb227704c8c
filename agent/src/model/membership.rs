//! What a node remembers of its cluster, and how far it trusts the store by
//! that.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    denied::Denied,
    node::{Cluster, Node},
    snapshot::Snapshot,
};

/// What a node remembers of its cluster; a file in its state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The cluster's id.
    pub cluster: String,
    /// Its epoch.
    pub epoch: u64,
    /// The highest revision of the store seen.
    pub revision: i64,
    /// This node as it wrote itself.
    pub node: Node,
    /// All nodes.
    pub nodes: BTreeSet<String>,
    /// The deny list. Before it had another name.
    #[serde(default, alias = "blocked", skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<IpNet, Denied>,
}

/// How far the store is to be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nothing complete has been seen of it since the agent started.
    #[default]
    Unseen,
    /// It is the one that we knew, or the first.
    Whole,
    /// It lost something: nothing is removed on its word.
    Lossy(Loss),
    /// It is another cluster's: nothing of it is believed, nothing is written.
    Other {
        /// The id that the store has.
        found: String,
        /// The id of the cluster that this node is of.
        expected: String,
    },
}

/// What a store lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The cluster's own key.
    Emptied,
    /// Revisions that had been seen.
    Older {
        /// The revision that it has.
        found: i64,
        /// The one that had been seen.
        seen: i64,
    },
    /// This node's own key, or its newest value.
    Forgotten,
    /// Some of it; these nodes have yet to put back what is theirs.
    Awaiting(BTreeSet<String>),
}

/// Judges a store by a complete reading of it, at `revision`. `seen` is the
/// highest revision since the agent started, which may be above the remembered.
pub fn judge(known: Option<&Known>, seen: i64, snapshot: &Snapshot, revision: i64) -> Trust {
    let cluster = snapshot.cluster.as_ref();
    let Some(known) = known else {
        return cluster.map_or(Trust::Whole, awaited);
    };
    let Some(cluster) = cluster else { return Trust::Lossy(Loss::Emptied) };
    let moved = cluster.formerly.contains(&known.cluster);
    if cluster.id != known.cluster && !moved {
        return Trust::Other { found: cluster.id.clone(), expected: known.cluster.clone() };
    }
    // An operator's word ends every doubt, and a node that was removed knows why
    // its key is gone.
    if cluster.epoch > known.epoch {
        return awaited(cluster);
    }
    let seen = known.revision.max(seen);
    if revision < seen {
        return Trust::Lossy(Loss::Older { found: revision, seen });
    }
    let name = &known.node.name;
    let written = snapshot.nodes.get(name);
    let stale = |node: &Node| node.instance == known.node.instance && node.generation < known.node.generation;
    if written.map_or(!snapshot.removed.contains_key(name), stale) {
        return Trust::Lossy(Loss::Forgotten);
    }
    awaited(cluster)
}

fn awaited(cluster: &Cluster) -> Trust {
    if cluster.awaiting.is_empty() {
        return Trust::Whole;
    }
    Trust::Lossy(Loss::Awaiting(cluster.awaiting.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Unknown, node::Removed};

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            addresses: Vec::new(),
            link_local: None,
            super_packets: None,
            instance: "i1".into(),
            generation: 3,
            since: 1,
            occupied: Vec::new(),
            routed: Vec::new(),
            depends_on: BTreeSet::new(),
            unknown: Unknown::new(),
        }
    }

    fn known() -> Known {
        let nodes = ["h1", "h2"].map(str::to_owned).into();
        Known {
            cluster: "c1".into(),
            epoch: 1,
            revision: 100,
            node: node("h1"),
            nodes,
            denied: BTreeMap::new(),
        }
    }

    fn store(id: &str, epoch: u64) -> Snapshot {
        let cluster = Cluster {
            id: id.into(),
            epoch,
            awaiting: BTreeSet::new(),
            formerly: BTreeSet::new(),
            unknown: Unknown::new(),
        };
        let nodes = [("h1".to_owned(), node("h1"))].into();
        let mut snapshot = Snapshot::default();
        (snapshot.cluster, snapshot.nodes) = (Some(cluster), nodes);
        snapshot
    }

    #[test]
    fn known_store_is_whole() {
        assert_eq!(judge(Some(&known()), 0, &store("c1", 1), 100), Trust::Whole);
        assert_eq!(judge(None, 0, &Snapshot::default(), 1), Trust::Whole);
    }

    #[test]
    fn store_that_lost_data_is_lossy() {
        let empty = judge(Some(&known()), 0, &Snapshot::default(), 500);
        assert_eq!(empty, Trust::Lossy(Loss::Emptied));
        let older = judge(Some(&known()), 0, &store("c1", 1), 99);
        assert_eq!(older, Trust::Lossy(Loss::Older { found: 99, seen: 100 }));
        let since = judge(Some(&known()), 120, &store("c1", 1), 119);
        assert_eq!(since, Trust::Lossy(Loss::Older { found: 119, seen: 120 }));
        let mut forgot = store("c1", 1);
        forgot.nodes = Default::default();
        assert_eq!(judge(Some(&known()), 0, &forgot, 100), Trust::Lossy(Loss::Forgotten));
        let mut stale = store("c1", 1);
        stale.nodes.insert("h1".into(), Node { generation: 2, ..node("h1") });
        assert_eq!(judge(Some(&known()), 0, &stale, 100), Trust::Lossy(Loss::Forgotten));
        let mut marked = store("c1", 1);
        let awaiting: BTreeSet<String> = ["h2".to_owned()].into();
        marked.cluster.as_mut().expect("there").awaiting.clone_from(&awaiting);
        assert_eq!(judge(None, 0, &marked, 1), Trust::Lossy(Loss::Awaiting(awaiting)));
    }

    #[test]
    fn store_of_another_cluster_is_other() {
        assert!(matches!(judge(Some(&known()), 0, &store("c2", 9), 500), Trust::Other { .. }));
    }

    #[test]
    fn operator_decision_makes_a_store_whole() {
        assert_eq!(judge(Some(&known()), 0, &store("c1", 2), 1), Trust::Whole);
        let mut moved = store("c2", 2);
        moved.cluster.as_mut().expect("there").formerly.insert("c1".into());
        assert_eq!(judge(Some(&known()), 0, &moved, 1), Trust::Whole);
    }

    #[test]
    fn store_without_the_key_of_a_removed_or_replaced_node_is_whole() {
        let mut removed = store("c1", 1);
        removed.nodes = Default::default();
        removed.removed.insert("h1".into(), Removed { instance: "i1".into(), since: 5 });
        assert_eq!(judge(Some(&known()), 0, &removed, 100), Trust::Whole);
        let mut replaced = store("c1", 1);
        replaced.nodes.insert("h1".into(), Node { instance: "i2".into(), ..node("h1") });
        assert_eq!(judge(Some(&known()), 0, &replaced, 100), Trust::Whole);
    }
}
