//! Pools: adding and removing them, and taking subnets from them.

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::{Networks, Reading, overlap};
use crate::{
    model::{self, key::Key, pool::Pool, snapshot::Snapshot},
    problem::Rejection,
    store::Op,
};

/// A pool, and how many networks have a subnet of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The pool.
    pub pool: Pool,
    /// Names of networks with a subnet in it.
    pub networks: Vec<String>,
}

impl Networks {
    /// Adds a pool; the same again is fine. Gives the revision of it.
    pub async fn add_pool(&self, cidr: IpNet, network_len: Option<u8>) -> Result<i64> {
        let pool = Pool::new(cidr, network_len)?;
        self.amend(|snapshot| {
            if let Some(found) = snapshot.pools.get(&pool.cidr) {
                if found.network_len == pool.network_len {
                    return Ok(Vec::new());
                }
                let (is, wanted) = (found.network_len, pool.network_len);
                let what = format!("pool {cidr} exists with networks of /{is}, not /{wanted}");
                bail!(Rejection::conflict(what, format!("remove it first: margay pool rm {cidr}")));
            }
            if let Some(other) = snapshot.pools.keys().find(|other| overlap(**other, cidr)) {
                let what = format!("pool {cidr} overlaps pool {other}");
                bail!(Rejection::conflict(what, "choose another CIDR"));
            }
            Ok(vec![Op::Put(Key::Pool(pool.cidr), model::encode(&pool))])
        })
        .await
    }

    /// Removes a pool. Networks keep the subnets that they have.
    pub async fn remove_pool(&self, cidr: IpNet) -> Result<i64> {
        self.lessen(|snapshot| {
            if !snapshot.pools.contains_key(&cidr) {
                let what = format!("there is no pool {cidr}");
                bail!(Rejection::missing(what, "margay pool ls lists them"));
            }
            Ok(vec![Op::Delete(Key::Pool(cidr))])
        })
        .await
    }
}

/// The pools, each with the networks in it.
pub fn usage(snapshot: &Snapshot) -> Vec<Usage> {
    let networks = |pool: &Pool| {
        let within = snapshot.networks.values();
        let within = within.filter(|n| n.subnets.iter().any(|subnet| pool.cidr.contains(&subnet.cidr)));
        within.map(|network| network.name.clone()).collect()
    };
    snapshot.pools.values().map(|pool| Usage { pool: pool.clone(), networks: networks(pool) }).collect()
}

/// The subnets of a network that names none: one of IPv4, or of IPv6 where
/// there is no IPv4 pool, or with `ipv6` one of each. Free of every other
/// network and of everything that a node's host has.
pub(super) fn take(reading: &Reading, ipv6: bool) -> Result<Vec<IpNet>> {
    let v4 = reading.snapshot.pools.values().any(|pool| pool.cidr.addr().is_ipv4());
    let families: &[bool] = match (v4, ipv6) {
        (true, true) => &[true, false],
        (true, false) => &[true],
        (false, _) => &[false],
    };
    families.iter().map(|v4| take_one(reading, *v4)).collect()
}

/// A free subnet of one family: free of the networks, and of all that the nodes' hosts have
/// addresses in or routes to.
pub(super) fn take_one(reading: &Reading, v4: bool) -> Result<IpNet> {
    let snapshot = &reading.snapshot;
    let mut in_use: Vec<IpNet> = reading.reserved.keys().copied().collect();
    in_use.extend(snapshot.networks.values().flat_map(|n| n.subnets.iter().map(|subnet| subnet.cidr)));
    for node in snapshot.nodes.values() {
        in_use.extend(node.addresses.iter().map(|addr| IpNet::from(*addr)));
        in_use.extend(node.depends_on.iter().map(|addr| IpNet::from(*addr)));
        in_use.extend(node.occupied.iter().chain(&node.routed));
    }
    let of_family = || snapshot.pools.values().filter(|pool| pool.cidr.addr().is_ipv4() == v4);
    if let Some(found) = of_family().find_map(|pool| pool.free(&in_use)) {
        return Ok(found);
    }
    let family = if v4 { "IPv4" } else { "IPv6" };
    let pools: Vec<String> =
        of_family().map(|pool| format!("{} in /{}", pool.cidr, pool.network_len)).collect();
    let what = match pools.is_empty() {
        true => format!("there is no {family} pool to take a subnet from"),
        false => {
            let routed = widest(reading, v4);
            format!("no {family} pool has a free subnet left ({}{routed})", pools.join(", "))
        }
    };
    bail!(Rejection::conflict(what, "add a pool (margay pool add CIDR), or name a subnet with --subnet"));
}

/// The widest route of a host that overlaps a pool: it explains why the pool is full.
fn widest(reading: &Reading, v4: bool) -> String {
    let snapshot = &reading.snapshot;
    let pools = || snapshot.pools.keys().filter(|pool| pool.addr().is_ipv4() == v4);
    let routed = snapshot.nodes.values().flat_map(|node| node.routed.iter().map(move |cidr| (cidr, node)));
    let within = routed.filter(|(cidr, _)| pools().any(|pool| overlap(*pool, **cidr)));
    match within.min_by_key(|(cidr, _)| cidr.prefix_len()) {
        Some((cidr, node)) => format!("; node {} has a route to {cidr}", node.name),
        None => String::new(),
    }
}
