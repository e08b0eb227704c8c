//! What is known of one network's blocks, and transactions that rest on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    model::{
        self, Unknown,
        block::{Allocations, Claim},
        key::{Key, ipam_of, routes_of},
        network::Network,
        snapshot::{Event, single},
    },
    store::{Away, Condition, Op, Store, Txn},
};

/// Keys in one reading, and operations in one transaction; etcd takes 128.
pub(super) const OPS_MAX: usize = 100;

/// How much of a network is read besides its claims.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope<'a> {
    /// The allocations in the node's own blocks and those that it borrows from.
    Own,
    /// These as well.
    With(&'a [IpNet]),
    /// All allocations.
    Whole,
}

/// What was last seen of one network's blocks. Transactions rest on it, so a
/// stale view costs an attempt and nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The revision of the network's key; 0 where there is none.
    pub network_revision: i64,
    /// Who has which block or borrowed address.
    pub owners: BTreeMap<IpNet, String>,
    /// The allocations of this node's blocks, of those that it borrows from,
    /// and, with `whole`, of all.
    pub blocks: BTreeMap<IpNet, (Allocations, i64)>,
    /// Whether all blocks were read.
    pub whole: bool,
    /// The network, where it is there and can be read.
    network: Option<Network>,
}

impl View {
    /// Reads a network as a node sees it.
    pub async fn read(store: &dyn Store, network: u32, node: &str, scope: Scope<'_>) -> Result<Self, Away> {
        let whole = matches!(scope, Scope::Whole);
        let mut prefixes = vec![Key::Network(network).to_string(), routes_of(network)];
        if whole {
            prefixes.push(ipam_of(network));
        }
        let mut view = Self { whole, ..Self::default() };
        view.take(network, store.list(&prefixes).await?.entries);
        if !whole {
            let more = if let Scope::With(blocks) = scope { blocks } else { &[] };
            let blocks: BTreeSet<IpNet> = view.concerns(node).chain(more.iter().copied()).collect();
            let keys: Vec<String> =
                blocks.iter().map(|block| Key::Ipam(network, *block).to_string()).collect();
            for keys in keys.chunks(OPS_MAX) {
                view.take(network, store.list(keys).await?.entries);
            }
        }
        Ok(view)
    }

    fn take(&mut self, network: u32, entries: Vec<Event>) {
        for entry in entries {
            let Event::Put { key: text, value, revision } = entry else { continue };
            let Some(key) = Key::parse(&text) else { continue };
            match key {
                Key::Network(id) if id == network => {
                    self.network_revision = revision;
                    self.network = model::decode(&key, &value).ok();
                }
                Key::Route(_, block) => {
                    // A claim that cannot be read still is one.
                    let owner = model::decode::<Claim>(&key, &value).map(|claim| claim.node);
                    self.owners.insert(block, owner.unwrap_or_default());
                }
                Key::Ipam(_, block) => match model::decode(&key, &value) {
                    Ok(allocations) => drop(self.blocks.insert(block, (allocations, revision))),
                    // Nobody knows who has what in it: it is nobody's to use.
                    Err(_) => drop(self.owners.insert(block, String::new())),
                },
                // Not asked for.
                Key::Cluster | Key::Sequence | Key::Pool(_) | Key::Reservation(_) | Key::Denied(_) => {}
                Key::Network(_) | Key::Node(_) | Key::Removed(_) | Key::Address(_) | Key::Alive(_) => {}
            }
        }
        // One address is in one block: what is no block of the network counts for nothing.
        if let Some(network) = &self.network {
            self.owners.retain(|cidr, _| network.has_block(*cidr));
            self.blocks.retain(|cidr, _| network.has_block(*cidr));
        }
    }

    /// A node's own blocks, and those that it borrows from.
    fn concerns(&self, node: &str) -> impl Iterator<Item = IpNet> {
        let blocks: Vec<IpNet> =
            self.owners.keys().filter(|cidr| single(**cidr).is_none()).copied().collect();
        let own = self.owners.iter().filter(move |(_, owner)| **owner == node).map(|(cidr, _)| *cidr);
        let block = move |cidr: IpNet| match single(cidr) {
            Some(addr) => blocks.iter().find(|block| block.contains(&addr)).copied(),
            None => Some(cidr),
        };
        own.filter_map(block)
    }

    /// The blocks of a node.
    pub fn blocks_of(&self, node: &str) -> impl Iterator<Item = IpNet> {
        let own = self.owners.iter().filter(move |(_, owner)| **owner == node);
        own.map(|(cidr, _)| *cidr).filter(|cidr| single(*cidr).is_none())
    }

    /// The allocations in a block; none where nothing is written.
    pub fn allocations(&self, block: IpNet) -> Allocations {
        self.blocks.get(&block).map(|(allocations, _)| allocations.clone()).unwrap_or_default()
    }
}

/// Changes of a view that are to become one transaction.
pub(super) struct Draft<'a> {
    network: u32,
    view: &'a View,
    /// Blocks with their new allocations; without any they are given back.
    blocks: BTreeMap<IpNet, Option<Allocations>>,
    /// Claims made for a node, or given up.
    claims: BTreeMap<IpNet, Option<String>>,
}

/// What a draft makes of a view once it is carried out.
pub(super) struct Outcome {
    blocks: BTreeMap<IpNet, Option<Allocations>>,
    claims: BTreeMap<IpNet, Option<String>>,
}

impl<'a> Draft<'a> {
    pub fn new(network: u32, view: &'a View) -> Self {
        Self { network, view, blocks: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// How many operations it makes.
    pub fn len(&self) -> usize {
        self.blocks.len() + self.claims.len()
    }

    /// The node that has a block.
    pub fn owner(&self, block: &IpNet) -> Option<&str> {
        match self.claims.get(block) {
            Some(claim) => claim.as_deref(),
            None => self.view.owners.get(block).map(String::as_str),
        }
    }

    /// The blocks that a node has by now.
    pub fn blocks_of(&self, node: &str) -> BTreeSet<IpNet> {
        let claimed = self.claims.iter().filter(|(_, claim)| claim.as_deref() == Some(node));
        let claimed = claimed.map(|(cidr, _)| *cidr).filter(|cidr| single(*cidr).is_none());
        claimed.chain(self.view.blocks_of(node)).collect()
    }

    /// The allocations of a block as they are by now.
    pub fn allocations(&self, block: IpNet) -> Allocations {
        match self.blocks.get(&block) {
            Some(changed) => changed.clone().unwrap_or_default(),
            None => self.view.allocations(block),
        }
    }

    /// Replaces the allocations of a block.
    pub fn put(&mut self, block: IpNet, allocations: Allocations) {
        self.blocks.insert(block, Some(allocations));
    }

    /// Claims a block or an address for a node.
    pub fn claim(&mut self, cidr: IpNet, node: &str) {
        self.claims.insert(cidr, Some(node.into()));
    }

    /// Gives up a borrowed address.
    pub fn unclaim(&mut self, addr: IpAddr) {
        self.claims.insert(IpNet::from(addr), None);
    }

    /// Gives a block back.
    pub fn give_back(&mut self, block: IpNet) {
        self.blocks.insert(block, None);
        self.claims.insert(block, None);
    }

    /// The transaction, and what it makes of the view.
    pub fn finish(self) -> (Txn, Outcome) {
        let mut txn = Txn::default();
        let revision = self.view.network_revision;
        let network = Key::Network(self.network);
        // Only what adds rests on the network: what was of a network that is
        // gone can still be taken back.
        if self.claims.values().any(Option::is_some) || self.adds() {
            txn.conditions.push(Condition::Revision(network, revision));
        }
        for (cidr, claim) in &self.claims {
            let key = Key::Route(self.network, *cidr);
            match claim {
                Some(node) => {
                    let there = self.view.owners.get(cidr).is_some_and(|owner| owner == node);
                    if !there {
                        txn.conditions.push(Condition::Absent(key.clone()));
                    }
                    let claim = Claim { node: node.clone(), unknown: Unknown::new() };
                    txn.ops.push(Op::Put(key, model::encode(&claim)));
                }
                None => txn.ops.push(Op::Delete(key)),
            }
        }
        for (block, allocations) in &self.blocks {
            let key = Key::Ipam(self.network, *block);
            txn.conditions.push(match self.view.blocks.get(block) {
                Some((_, revision)) => Condition::Revision(key.clone(), *revision),
                None => Condition::Absent(key.clone()),
            });
            txn.ops.push(match allocations {
                Some(allocations) => Op::Put(key, model::encode(allocations)),
                None => Op::Delete(key),
            });
        }
        (txn, Outcome { blocks: self.blocks, claims: self.claims })
    }

    fn adds(&self) -> bool {
        self.blocks.iter().any(|(block, changed)| {
            let before = self.view.blocks.get(block).map(|(allocations, _)| &allocations.addresses);
            let mut after = changed.iter().flat_map(|allocations| allocations.addresses.keys());
            after.any(|addr| before.is_none_or(|before| !before.contains_key(addr)))
        })
    }
}

impl Outcome {
    /// Takes it over, as of a revision.
    pub fn apply(self, view: &mut View, revision: i64) {
        for (block, allocations) in self.blocks {
            match allocations {
                Some(allocations) => drop(view.blocks.insert(block, (allocations, revision))),
                None => drop(view.blocks.remove(&block)),
            }
        }
        for (cidr, claim) in self.claims {
            match claim {
                Some(node) => drop(view.owners.insert(cidr, node)),
                None => drop(view.owners.remove(&cidr)),
            }
        }
    }
}
