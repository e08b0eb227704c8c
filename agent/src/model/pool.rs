//! Pools: where networks without a subnet take theirs.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Unknown,
    network::{check_cidr, max_len, net, nth},
};

/// Length of the subnets that a pool gives, unless said otherwise: 4,094
/// addresses of IPv4, a link's worth of IPv6.
const NETWORK_LEN: [u8; 2] = [20, 64];

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The pool's CIDR.
    pub cidr: IpNet,
    /// Length of the prefix of each subnet that is taken from it.
    pub network_len: u8,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is wrong with a pool.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum PoolError {
    #[error(transparent)]
    Cidr(#[from] super::network::NetworkError),
    #[error("network prefix /{len} does not fit pool {cidr}: use a prefix length from {min} to {max}")]
    Size { len: u8, cidr: IpNet, min: u8, max: u8 },
}

impl Pool {
    /// The pool that a new cluster has.
    pub fn default_one() -> Self {
        let cidr = net([10, 192, 0, 0].into(), 10);
        Self { cidr, network_len: NETWORK_LEN[0], unknown: Unknown::new() }
    }

    /// Checks what a user asks for.
    pub fn new(cidr: IpNet, network_len: Option<u8>) -> Result<Self, PoolError> {
        check_cidr(cidr)?;
        let usual = NETWORK_LEN[usize::from(cidr.addr().is_ipv6())].max(cidr.prefix_len());
        let (min, max) = (cidr.prefix_len(), max_len(cidr.addr()) - 3);
        let len = network_len.unwrap_or(usual);
        if !(min..=max).contains(&len) {
            return Err(PoolError::Size { len, cidr, min, max });
        }
        Ok(Self { cidr, network_len: len, unknown: Unknown::new() })
    }

    /// The first subnet that overlaps nothing in use. Whatever is in the way is
    /// stepped over whole, so a crowded pool costs no more than its crowd.
    pub fn free(&self, in_use: &[IpNet]) -> Option<IpNet> {
        let last = self.cidr.broadcast();
        let mut candidate = net(self.cidr.network(), self.network_len);
        loop {
            let blocking = in_use.iter().find(|used| used.contains(&candidate) || candidate.contains(*used));
            let Some(blocking) = blocking else { return Some(candidate) };
            let end = blocking.broadcast().max(candidate.broadcast());
            if end >= last {
                return None;
            }
            candidate = net(nth(net(end, max_len(end)), 1), self.network_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNet {
        text.parse().expect("a literal")
    }

    #[test]
    fn the_first_free_subnet_is_taken() {
        let pool = Pool::new(cidr("10.0.0.0/16"), Some(18)).expect("fits");
        let mut used = vec![cidr("192.0.2.0/24")];
        for expected in ["10.0.0.0/18", "10.0.64.0/18", "10.0.128.0/18", "10.0.192.0/18"] {
            let free = pool.free(&used).expect("room");
            assert_eq!(free, cidr(expected));
            used.push(free);
        }
        assert_eq!(pool.free(&used), None);
        let small = [cidr("10.0.0.7/32"), cidr("10.0.64.0/30"), cidr("10.0.200.0/24")];
        assert_eq!(pool.free(&small), Some(cidr("10.0.128.0/18")));
        assert_eq!(pool.free(&[cidr("10.0.0.0/8")]), None);
        let edge = Pool::new(cidr("fd00::/16"), None).expect("fits");
        assert_eq!(edge.free(&[cidr("fd00::/64")]), Some(cidr("fd00:0:0:1::/64")));
    }

    #[test]
    fn network_prefix_that_does_not_fit_the_pool_is_refused() {
        for (pool, len) in [("10.0.0.0/16", 15), ("10.0.0.0/16", 30), ("fd00::/64", 126)] {
            let error = Pool::new(cidr(pool), Some(len)).expect_err(pool).to_string();
            assert!(error.contains("network prefix") && error.contains(pool), "{error}");
        }
        assert_eq!(Pool::new(cidr("10.0.0.0/24"), None).expect("fits").network_len, 24);
        assert!(Pool::new(cidr("10.0.0.1/24"), None).is_err());
    }
}
