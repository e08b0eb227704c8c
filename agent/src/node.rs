//! Removing nodes: freeing what a host that is gone for good held.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::{
    control::now,
    model::{
        self, Unknown,
        block::{Allocations, Claim},
        key::{Key, ROOT},
        node::Removed,
        snapshot::{Snapshot, single},
    },
    problem::Rejection,
    store::{Commit, Condition, Listing, Op, Store, Txn},
};

/// Attempts before a race is given up as lost.
const ATTEMPTS: usize = 16;
/// Blocks freed in one transaction.
const AT_ONCE: usize = 40;

/// Removes a node: nobody has its addresses any longer, and it finds that out
/// should it return. One that looks alive is removed only with `yes`. Gives how
/// many blocks and borrowed addresses became free.
pub async fn remove(store: &Arc<dyn Store>, name: &str, yes: bool) -> Result<usize> {
    bury(store, name, yes).await?;
    let mut freed = 0;
    for _ in 0..ATTEMPTS {
        let listing = store.list(&[format!("{ROOT}routes/")]).await?;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        let blocks = snapshot.claims.iter().map(|((id, cidr), claim)| (*id, *cidr, claim));
        let singles = snapshot.borrowed.iter().map(|((id, addr), claim)| (*id, IpNet::from(*addr), claim));
        let own = blocks.chain(singles).filter(|(_, _, claim)| claim.node == name);
        let own: Vec<(u32, IpNet)> = own.map(|(id, cidr, _)| (id, cidr)).collect();
        if own.is_empty() {
            return Ok(freed);
        }
        for part in own.chunks(AT_ONCE) {
            if free(store, name, part, &listing).await? {
                freed += part.len();
            }
        }
    }
    bail!(Rejection::contended(format!("others change what node {name} held at every attempt")))
}

/// Takes the node's own keys away and leaves word of it.
async fn bury(store: &Arc<dyn Store>, name: &str, yes: bool) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (node, alive) = (Key::Node(name.into()), Key::Alive(name.into()));
        let removed = Key::Removed(name.into());
        let listing = store.list(&[node.to_string(), alive.to_string(), removed.to_string()]).await?;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        let Some(found) = snapshot.nodes.get(name) else {
            // Begun and broken off before, or never there.
            if snapshot.removed.contains_key(name) {
                return Ok(());
            }
            let what = format!("there is no node {name}");
            bail!(Rejection::missing(what, "margay node ls lists them"));
        };
        if snapshot.alive.contains_key(name) && !yes {
            let what = format!("node {name} looks alive: its containers would lose their addresses");
            bail!(Rejection::conflict(what, "stop its agent first, or say --yes"));
        }
        let word = Removed { instance: found.instance.clone(), since: now() };
        let mut ops =
            vec![Op::Delete(node.clone()), Op::Delete(alive), Op::Put(removed, model::encode(&word))];
        ops.extend(found.addresses.iter().map(|addr| Op::Delete(Key::Address(*addr))));
        let txn = Txn { conditions: vec![listing.unchanged(&node)], ops };
        if let Commit::Done(_) = store.commit(txn).await? {
            return Ok(());
        }
    }
    bail!(Rejection::contended(format!("others change node {name} at every attempt")))
}

/// Frees some blocks and borrowed addresses, if nobody changed them meanwhile.
async fn free(store: &Arc<dyn Store>, name: &str, part: &[(u32, IpNet)], routes: &Listing) -> Result<bool> {
    let block_of = |(id, cidr): &(u32, IpNet)| match single(*cidr) {
        None => Some((*id, *cidr)),
        Some(addr) => routes.entries.iter().find_map(|entry| match Key::parse(entry.key()) {
            Some(Key::Route(found, block))
                if found == *id && single(block).is_none() && block.contains(&addr) =>
            {
                Some((found, block))
            }
            _ => None,
        }),
    };
    let blocks: std::collections::BTreeSet<(u32, IpNet)> = part.iter().filter_map(block_of).collect();
    let keys: Vec<String> = blocks.iter().map(|(id, block)| Key::Ipam(*id, *block).to_string()).collect();
    let listing = store.list(&keys).await?;
    let mut txn = Txn::default();
    let mut heirs = BTreeMap::new();
    for (id, block) in blocks {
        let key = Key::Ipam(id, block);
        txn.conditions.push(listing.unchanged(&key));
        let Some(value) = listing.value_of(&key) else { continue };
        let mut rest: Allocations = model::decode(&key, value).with_context(|| key.to_string())?;
        let owner = rest.node.clone();
        rest.addresses.retain(|_, holder| *holder.node.as_ref().unwrap_or(&owner) != name);
        if owner == name {
            rest.reserved.clear();
            // A node that borrows from the block owns it from now on.
            match rest.addresses.values().find_map(|holder| holder.node.clone()) {
                Some(heir) => {
                    rest.node.clone_from(&heir);
                    heirs.insert((id, block), heir);
                }
                None => {
                    txn.ops.push(Op::Delete(key));
                    continue;
                }
            }
        }
        txn.ops.push(Op::Put(key, model::encode(&rest)));
    }
    for (id, cidr) in part {
        let key = Key::Route(*id, *cidr);
        let Some(revision) = routes.revision_of(&key) else { continue };
        txn.conditions.push(Condition::Revision(key.clone(), revision));
        txn.ops.push(match heirs.get(&(*id, *cidr)) {
            Some(heir) => Op::Put(key, model::encode(&Claim { node: heir.clone(), unknown: Unknown::new() })),
            None => Op::Delete(key),
        });
    }
    Ok(matches!(store.commit(txn).await?, Commit::Done(_)))
}
