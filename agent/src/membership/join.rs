//! Writing this node into the store, unless somebody else is it already.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};

use super::{Look, Membership, Trouble};
use crate::{
    endpoints::new_id,
    model::{
        self,
        key::{Key, ROOT},
        node::{AddressHolder, Cluster, Node},
        pool::Pool,
        snapshot::Snapshot,
    },
    problem::Problem,
    store::{Away, Commit, Condition, Listing, Op, Txn},
};

/// Attempts before a race is given up as lost.
const ATTEMPTS: usize = 16;

impl Membership {
    /// Writes the node's own keys, unless another node that lives has its name or one of
    /// its addresses. Gives the node as it is written.
    pub(super) async fn register(&self, look: &Look) -> Result<Node, Trouble> {
        let own = &look.own;
        let addresses: Vec<Key> = own.addresses.iter().map(|addr| Key::Address(*addr)).collect();
        let singles = [
            Key::Sequence,
            Key::Cluster,
            Key::Node(own.name.clone()),
            Key::Alive(own.name.clone()),
            Key::Removed(own.name.clone()),
        ];
        let mut prefixes: Vec<String> = addresses.iter().chain(&singles).map(Key::to_string).collect();
        prefixes.extend(["networks/", "pools/", "refused/"].map(|prefix| format!("{ROOT}{prefix}")));
        for _ in 0..ATTEMPTS {
            let mut listing = self.store.list(&prefixes).await?;
            // Not all nodes: of many that join at once each would read all.
            let holders = holders(&listing, &addresses, &own.name);
            if !holders.is_empty() {
                listing.entries.extend(self.store.list(&holders).await?.entries);
            }
            let (txn, node) = self.registration(look, &listing, &addresses)?;
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                // Until the loop has seen it, the store would seem to have lost it.
                let seen = self.control.revision(revision).await;
                seen.map_err(|error| Away::new(format!("{error:#}"), "wait, the agent tries again"))?;
                return Ok(node);
            }
        }
        Err(anyhow!("other nodes changed the cluster at every attempt").into())
    }

    fn registration(&self, look: &Look, listing: &Listing, addresses: &[Key]) -> anyhow::Result<(Txn, Node)> {
        let own = &look.own;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        let mut txn = Txn::default();
        first_node(listing, &mut txn)?;
        check_subnets(own, &snapshot)?;
        check_denied(own, &snapshot)?;
        txn.conditions.push(listing.unchanged(&Key::Sequence));
        let key = Key::Node(own.name.clone());
        let written = snapshot.nodes.get(&own.name);
        if let Some(reason) = snapshot.unreadable.get(&key.to_string()) {
            bail!("{key} {reason}");
        }
        check_name(own, written, &snapshot)?;
        let written = written.cloned();
        let written = written.as_ref();
        txn.conditions.push(listing.unchanged(&key));
        for address in addresses {
            if let Some(holder) = holder_of(own, address, listing, &snapshot)? {
                take_over(address, holder, listing, &mut snapshot, &mut txn);
            }
            txn.conditions.push(listing.unchanged(address));
            txn.ops.push(Op::Put(address.clone(), model::encode(&AddressHolder { node: own.name.clone() })));
        }
        let node = successor(look, written);
        let old = written.into_iter().flat_map(|node| &node.addresses);
        let dropped = old.filter(|addr| !own.addresses.contains(addr));
        txn.ops.extend(dropped.map(|addr| Op::Delete(Key::Address(*addr))));
        txn.ops.push(Op::Put(key, model::encode(&node)));
        if look.removed || snapshot.removed.contains_key(&own.name) {
            txn.ops.push(Op::Delete(Key::Removed(own.name.clone())));
        }
        Ok((txn, node))
    }

    /// Tells everybody that the store lost something: all nodes that were known
    /// put back what is theirs before it counts as whole.
    pub(super) async fn mark_lossy(&self, look: &Look) -> Result<(), Trouble> {
        let Some(known) = &look.known else { return Ok(()) };
        // Another may have marked it first, who knew others.
        loop {
            let listing = self.store.list(&[Key::Cluster.to_string(), format!("{ROOT}pools/")]).await?;
            let mut cluster = match listing.value_of(&Key::Cluster) {
                Some(value) => model::decode::<Cluster>(&Key::Cluster, value).context("the cluster's key")?,
                None => new_cluster(known.cluster.clone(), known.epoch),
            };
            cluster.awaiting.extend(known.nodes.iter().cloned());
            cluster.awaiting.insert(look.own.name.clone());
            let mut ops = vec![Op::Put(Key::Cluster, model::encode(&cluster))];
            if listing.value_of(&Key::Cluster).is_none() && listing.entries.is_empty() {
                ops.push(default_pool());
            }
            let txn = Txn { conditions: vec![listing.unchanged(&Key::Cluster)], ops };
            if let Commit::Done(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
    }

    /// Tells everybody that this node has put back what is its own.
    pub(super) async fn arrive(&self, name: &str) -> Result<(), Trouble> {
        loop {
            let listing = self.store.list(&[Key::Cluster.to_string()]).await?;
            let Some(value) = listing.value_of(&Key::Cluster) else { return Ok(()) };
            let mut cluster: Cluster = model::decode(&Key::Cluster, value).context("the cluster's key")?;
            if !cluster.awaiting.remove(name) {
                return Ok(());
            }
            let ops = vec![Op::Put(Key::Cluster, model::encode(&cluster))];
            let txn = Txn { conditions: vec![listing.unchanged(&Key::Cluster)], ops };
            if let Commit::Done(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
    }

    /// Declares the store, as it is, to be the cluster's: nobody is awaited any
    /// longer, and every agent follows.
    pub async fn adopt(&self) -> anyhow::Result<()> {
        let known = self.control.look(|state| state.known.clone()).await?;
        loop {
            let listing = self.store.list(&[Key::Cluster.to_string(), format!("{ROOT}pools/")]).await?;
            let (mut cluster, there) = match listing.value_of(&Key::Cluster) {
                Some(value) => {
                    (model::decode::<Cluster>(&Key::Cluster, value).context("the cluster's key")?, true)
                }
                None => {
                    let known = known.as_ref().context("neither this node nor the store knows a cluster")?;
                    (new_cluster(known.cluster.clone(), known.epoch), false)
                }
            };
            if let Some(known) = &known {
                if cluster.id != known.cluster {
                    cluster.formerly.insert(known.cluster.clone());
                }
                cluster.epoch = cluster.epoch.max(known.epoch);
            }
            cluster.epoch += 1;
            cluster.awaiting.clear();
            let mut ops = vec![Op::Put(Key::Cluster, model::encode(&cluster))];
            if !there && listing.entries.is_empty() {
                ops.push(default_pool());
            }
            let txn = Txn { conditions: vec![listing.unchanged(&Key::Cluster)], ops };
            if let Commit::Done(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
    }
}

fn new_cluster(id: String, epoch: u64) -> Cluster {
    Cluster {
        id,
        epoch,
        awaiting: Default::default(),
        formerly: Default::default(),
        unknown: Default::default(),
    }
}

fn default_pool() -> Op {
    let pool = Pool::default_one();
    Op::Put(Key::Pool(pool.cidr), model::encode(&pool))
}

/// The first node of a cluster gives it its id and its first pool.
fn first_node(listing: &Listing, txn: &mut Txn) -> anyhow::Result<()> {
    if listing.revision_of(&Key::Cluster).is_none() {
        txn.conditions.push(Condition::Absent(Key::Cluster));
        txn.ops.push(Op::Put(Key::Cluster, model::encode(&new_cluster(new_id()?, 0))));
        let pools = format!("{ROOT}pools/");
        if !listing.entries.iter().any(|entry| entry.key().starts_with(&pools)) {
            txn.ops.push(default_pool());
        }
    }
    Ok(())
}

/// A node whose address lies in a network's subnet would be unreachable from
/// that network. Creating a network rests on no node having come meanwhile, so
/// none comes between.
fn check_subnets(own: &Node, snapshot: &Snapshot) -> anyhow::Result<()> {
    for network in snapshot.networks.values() {
        if let Some((addr, subnet)) = own.addresses.iter().find_map(|a| Some((a, network.subnet_of(*a)?))) {
            let what = format!("its address {addr} is in subnet {} of network {}", subnet.cidr, network.name);
            let mend = format!("give this host another address, or: margay network rm {}", network.name);
            bail!(Problem::new(what, mend));
        }
    }
    Ok(())
}

/// Nobody would hear a node that every other one blocks. Blocking rests on no node
/// having come meanwhile, so none comes between.
fn check_denied(own: &Node, snapshot: &Snapshot) -> anyhow::Result<()> {
    for denied in snapshot.denied.keys() {
        if let Some(addr) = own.addresses.iter().find(|addr| denied.contains(*addr)) {
            let what = format!("its address {addr} is in {denied}, which is on the deny list");
            bail!(Problem::new(what, format!("on another node: margay guard rm {denied}")));
        }
    }
    Ok(())
}

/// Another agent has the name as long as its lease lives.
fn check_name(own: &Node, written: Option<&Node>, snapshot: &Snapshot) -> anyhow::Result<()> {
    let Some(holder) = written else { return Ok(()) };
    if let Some(alive) = snapshot.alive.get(&own.name)
        && holder.instance != own.instance
    {
        let (at, since) = (list(&holder.addresses), time(alive.since));
        bail!(Problem::new(
            format!("node name {} is held by another agent, at {at}, since {since}", own.name),
            "choose another name with --node, or stop that agent"
        ));
    }
    Ok(())
}

/// The keys of the other nodes that some addresses are written to, and of their lives.
fn holders(listing: &Listing, addresses: &[Key], own: &str) -> Vec<String> {
    let values = addresses.iter().filter_map(|address| Some((address, listing.value_of(address)?)));
    let nodes = values
        .filter_map(|(address, value)| model::decode::<AddressHolder>(address, value).ok())
        .map(|holder| holder.node);
    let keys = |node: String| [Key::Node(node.clone()).to_string(), Key::Alive(node).to_string()];
    nodes.filter(|node| node != own).flat_map(keys).collect()
}

/// The other node that has an address, if it lives no longer. An address belongs to the host that
/// has it now: a host that came back with another address, or one that was removed, does not keep
/// it.
///
/// # Errors
///
/// The other node lives and says that the address is its own.
fn holder_of(
    own: &Node,
    address: &Key,
    listing: &Listing,
    snapshot: &Snapshot,
) -> anyhow::Result<Option<String>> {
    let Some(value) = listing.value_of(address) else { return Ok(None) };
    // A value that cannot be read names no holder, and is overwritten.
    let Ok(holder) = model::decode::<AddressHolder>(address, value) else { return Ok(None) };
    let Some(node) = snapshot.nodes.get(&holder.node) else { return Ok(None) };
    let Key::Address(addr) = address else { return Ok(None) };
    if holder.node == own.name || !node.addresses.contains(addr) {
        return Ok(None);
    }
    if snapshot.alive.contains_key(&holder.node) {
        let AddressHolder { node: name } = holder;
        bail!(Problem::new(
            format!(
                "address {addr} belongs to node {name} since {}, and the agent of that node is running",
                time(node.since)
            ),
            format!("give this host an address of its own, or remove that node: margay node rm {name} --yes")
        ));
    }
    Ok(Some(holder.node))
}

/// Takes an address from a node that lives no longer. It finds that out when it comes back,
/// and says then which addresses it has.
fn take_over(address: &Key, holder: String, listing: &Listing, snapshot: &mut Snapshot, txn: &mut Txn) {
    let Some(node) = snapshot.nodes.get_mut(&holder) else { return };
    node.addresses.retain(|addr| *address != Key::Address(*addr));
    let (key, alive) = (Key::Node(holder.clone()), Key::Alive(holder));
    for key in [&key, &alive] {
        let unchanged = listing.unchanged(key);
        if !txn.conditions.contains(&unchanged) {
            txn.conditions.push(unchanged);
        }
    }
    txn.ops.retain(|op| !matches!(op, Op::Put(other, _) if *other == key));
    txn.ops.push(Op::Put(key, model::encode(node)));
}

/// This node as it is written next: what a newer agent added to it stays.
fn successor(look: &Look, written: Option<&Node>) -> Node {
    let known = look.known.as_ref().map_or(0, |known| known.node.generation);
    let same = written.filter(|node| node.instance == look.own.instance);
    Node {
        generation: known.max(written.map_or(0, |node| node.generation)) + 1,
        since: same.map_or(look.own.since, |node| node.since),
        unknown: written.map(|node| node.unknown.clone()).unwrap_or_default(),
        ..look.own.clone()
    }
}

fn list(addresses: &[std::net::IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Seconds since 1970 as a date.
fn time(since: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string()
}
