//! Names of pools. They say what they are, so that nothing has to be
//! remembered between two calls of Docker.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Context, Error, Result, bail};
use ipnet::IpNet;

/// A subnet and the part of it that addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId {
    /// The subnet.
    pub cidr: IpNet,
    /// The part of it, if it is not all.
    pub range: Option<IpNet>,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        match self.range {
            Some(range) => write!(f, " from {range}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PoolId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (cidr, range) = match text.split_once(" from ") {
            Some((cidr, range)) => (cidr, Some(range)),
            None => (text, None),
        };
        Ok(Self { cidr: self::cidr(cidr)?, range: range.map(self::cidr).transpose()? })
    }
}

/// A prefix.
pub fn cidr(text: &str) -> Result<IpNet> {
    text.parse().with_context(|| format!("{text:?} is no subnet like 10.1.0.0/16"))
}

/// An address, with or without a prefix length; `None` where nothing stands.
pub fn address(text: &str) -> Result<Option<IpAddr>> {
    let plain = text.split_once('/').map_or(text, |(addr, _)| addr);
    if plain.is_empty() {
        return Ok(None);
    }
    match plain.parse() {
        Ok(addr) => Ok(Some(addr)),
        Err(_) => bail!("{text:?} is no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pools_parse_to_what_was_printed() {
        for text in ["10.1.0.0/16", "10.1.0.0/16 from 10.1.5.0/24", "fd00:1::/64"] {
            let pool: PoolId = text.parse().expect("a pool");
            assert_eq!(pool.to_string(), text);
        }
        assert!("10.1.0.0".parse::<PoolId>().is_err() && "".parse::<PoolId>().is_err());
    }

    #[test]
    fn addresses_come_with_and_without_a_length() {
        let addr: IpAddr = [10, 1, 0, 2].into();
        assert_eq!(address("10.1.0.2/32").expect("one"), Some(addr));
        assert_eq!(address("10.1.0.2").expect("one"), Some(addr));
        assert_eq!(address("").expect("none"), None);
        assert!(address("web").is_err());
    }
}
