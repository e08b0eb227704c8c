//! The deny list: prefixes whose packets enter no node.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use ipnet::IpNet;

use super::{Networks, overlap};
use crate::{
    model::{
        self, Unknown,
        denied::{Denied, LINK_LOCAL, holds_mapped, is_link_local},
        key::Key,
        snapshot::Snapshot,
    },
    problem::Rejection,
    store::Op,
    words,
};

/// Prefixes that one transaction takes; etcd's own limit is 128 operations.
const AT_ONCE: usize = 100;
/// The longest comment, characters.
const COMMENT_MAX: usize = 256;

impl Networks {
    /// Denies a prefix since `now`, seconds since 1970; the same again is fine.
    /// Gives the revision of it.
    pub async fn deny(&self, cidr: IpNet, comment: Option<String>, now: u64) -> Result<i64> {
        if let Some(comment) = &comment {
            words::check("comment", comment, COMMENT_MAX)?;
        }
        let store = self.store.addresses().await;
        self.amend(|snapshot| {
            if snapshot.denied.get(&cidr).is_some_and(|found| found.comment == comment) {
                return Ok(Vec::new());
            }
            check(cidr, snapshot, &store)?;
            let denied = Denied { comment: comment.clone(), since: now, unknown: Unknown::new() };
            Ok(vec![Op::Put(Key::Denied(cidr), model::encode(&denied))])
        })
        .await
    }

    /// Removes a prefix from the deny list.
    pub async fn allow(&self, cidr: IpNet) -> Result<i64> {
        self.lessen(|snapshot| {
            if !snapshot.denied.contains_key(&cidr) {
                let what = format!("{cidr} is not on the deny list");
                return Err(Rejection::missing(what, "margay guard ls lists it").into());
            }
            Ok(vec![Op::Delete(Key::Denied(cidr))])
        })
        .await
    }

    /// Denies again the prefixes that a store lost, except those that now overlap the cluster.
    pub async fn restore_denied(&self, known: &BTreeMap<IpNet, Denied>) -> Result<()> {
        if known.is_empty() {
            return Ok(());
        }
        let store = self.store.addresses().await;
        let put_back = |snapshot: &Snapshot| {
            let lost = known.iter().filter(|(cidr, _)| !snapshot.denied.contains_key(*cidr));
            let lost = lost.filter(|(cidr, _)| check(**cidr, snapshot, &store).is_ok()).take(AT_ONCE);
            Ok(lost.map(|(cidr, denied)| Op::Put(Key::Denied(*cidr), model::encode(denied))).collect())
        };
        while self.amend(put_back).await? != 0 {}
        Ok(())
    }
}

/// Refuses prefixes that overlap the cluster itself: denying them would cut the nodes off from
/// the command that undoes it.
fn check(cidr: IpNet, snapshot: &Snapshot, store: &[IpAddr]) -> Result<(), Rejection> {
    const SMALLER: &str = "deny a smaller prefix";
    if cidr.trunc() != cidr {
        let mend = format!("use {} or {}/{}", cidr.trunc(), cidr.addr(), cidr.max_prefix_len());
        return Err(Rejection::invalid(format!("{cidr} has bits behind its prefix"), mend));
    }
    if cidr.prefix_len() == 0 {
        return Err(Rejection::invalid(format!("{cidr} is every address"), SMALLER));
    }
    if holds_mapped(cidr) {
        let what = format!("{cidr} overlaps ::ffff:0:0/96, the IPv4-mapped addresses");
        return Err(Rejection::invalid(what, "write IPv4 prefixes as IPv4"));
    }
    if is_link_local(cidr) {
        let what = format!("{cidr} overlaps {LINK_LOCAL}, by which the nodes find each other");
        return Err(Rejection::invalid(what, SMALLER));
    }
    for node in snapshot.nodes.values() {
        if let Some(addr) = node.addresses.iter().find(|addr| cidr.contains(*addr)) {
            return Err(Rejection::conflict(format!("{cidr} holds {addr} of node {}", node.name), SMALLER));
        }
    }
    if let Some(addr) = store.iter().find(|addr| cidr.contains(*addr)) {
        return Err(Rejection::conflict(format!("{cidr} holds {addr} of the store"), SMALLER));
    }
    for node in snapshot.nodes.values() {
        if let Some(addr) = node.depends_on.iter().find(|addr| cidr.contains(*addr)) {
            let what =
                format!("{cidr} holds {addr}, by which node {} reaches the store or the world", node.name);
            return Err(Rejection::conflict(what, SMALLER));
        }
    }
    for network in snapshot.networks.values() {
        if let Some(subnet) = network.subnets.iter().find(|subnet| overlap(subnet.cidr, cidr)) {
            let what = format!("{cidr} overlaps {} of network {}", subnet.cidr, network.name);
            return Err(Rejection::conflict(what, "deny another prefix"));
        }
    }
    Ok(())
}
