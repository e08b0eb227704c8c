//! The guard: prefixes whose packets enter no node.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::{Networks, overlap};
use crate::{
    model::{
        self, Unknown,
        blocked::{Blocked, LINK_LOCAL, holds_mapped, is_link_local},
        key::Key,
        snapshot::Snapshot,
    },
    store::Op,
    words,
};

/// Prefixes that one transaction takes; etcd's own limit is 128 operations.
const AT_ONCE: usize = 100;
/// The longest comment, characters.
const COMMENT_MAX: usize = 256;

impl Networks {
    /// Blocks a prefix since `now`, seconds since 1970; the same again is fine.
    /// Gives the revision of it.
    pub async fn block(&self, cidr: IpNet, comment: Option<String>, now: u64) -> Result<i64> {
        if let Some(comment) = &comment {
            words::check("comment", comment, COMMENT_MAX)?;
        }
        let store = self.store.addresses().await;
        self.amend(|snapshot| {
            if snapshot.blocked.get(&cidr).is_some_and(|found| found.comment == comment) {
                return Ok(Vec::new());
            }
            check(cidr, snapshot, &store)?;
            let blocked = Blocked { comment: comment.clone(), since: now, unknown: Unknown::new() };
            Ok(vec![Op::Put(Key::Blocked(cidr), model::encode(&blocked))])
        })
        .await
    }

    /// Blocks a prefix no longer.
    pub async fn unblock(&self, cidr: IpNet) -> Result<i64> {
        self.lessen(|snapshot| {
            if !snapshot.blocked.contains_key(&cidr) {
                bail!("the guard does not block {cidr}; margay guard ls lists what it blocks");
            }
            Ok(vec![Op::Delete(Key::Blocked(cidr))])
        })
        .await
    }

    /// Blocks again what a store lost, unless it became a part of the cluster.
    pub async fn block_again(&self, known: &BTreeMap<IpNet, Blocked>) -> Result<()> {
        if known.is_empty() {
            return Ok(());
        }
        let store = self.store.addresses().await;
        let put_back = |snapshot: &Snapshot| {
            let lost = known.iter().filter(|(cidr, _)| !snapshot.blocked.contains_key(*cidr));
            let lost = lost.filter(|(cidr, _)| check(**cidr, snapshot, &store).is_ok()).take(AT_ONCE);
            Ok(lost.map(|(cidr, blocked)| Op::Put(Key::Blocked(*cidr), model::encode(blocked))).collect())
        };
        while self.amend(put_back).await? != 0 {}
        Ok(())
    }
}

/// Nobody blocks a part of the cluster itself, and with it the way to mend that.
fn check(cidr: IpNet, snapshot: &Snapshot, store: &[IpAddr]) -> Result<()> {
    if cidr.trunc() != cidr {
        bail!(
            "{cidr} has bits behind its prefix: {} or {}/{}",
            cidr.trunc(),
            cidr.addr(),
            cidr.max_prefix_len()
        );
    }
    if cidr.prefix_len() == 0 {
        bail!("{cidr} is everything: block a smaller prefix");
    }
    if holds_mapped(cidr) {
        bail!("{cidr} holds IPv4 in IPv6's clothes, ::ffff:0:0/96: name what is IPv4 as IPv4");
    }
    if is_link_local(cidr) {
        bail!("{cidr} overlaps {LINK_LOCAL}, by which the nodes find each other: block a smaller prefix");
    }
    for node in snapshot.nodes.values() {
        if let Some(addr) = node.addresses.iter().find(|addr| cidr.contains(*addr)) {
            bail!("{cidr} holds {addr} of node {}: block a smaller prefix", node.name);
        }
    }
    if let Some(addr) = store.iter().find(|addr| cidr.contains(*addr)) {
        bail!("{cidr} holds {addr} of the store: block a smaller prefix");
    }
    for node in snapshot.nodes.values() {
        if let Some(addr) = node.depends_on.iter().find(|addr| cidr.contains(*addr)) {
            bail!(
                "{cidr} holds {addr}, by which node {} reaches the store or the world: block a smaller prefix",
                node.name
            );
        }
    }
    for network in snapshot.networks.values() {
        if let Some(subnet) = network.subnets.iter().find(|subnet| overlap(subnet.cidr, cidr)) {
            bail!("{cidr} overlaps {} of network {}: block another prefix", subnet.cidr, network.name);
        }
    }
    Ok(())
}
