//! What endpoints are called, and their MACs.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result};
use margay_common::net::Mac;

/// A MAC made of the endpoint's first address, so that it is the same again
/// for the same address. Locally administered, unicast.
pub(super) fn mac_for(addresses: &[IpAddr]) -> Mac {
    match addresses.first() {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            Mac([0x02, 0x4d, a, b, c, d])
        }
        Some(IpAddr::V6(v6)) => {
            let bits = v6.to_bits();
            let [a, b, c, d] = ((bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32).to_be_bytes();
            Mac([0x06, 0x4d, a, b, c, d])
        }
        None => Mac([0x02, 0x4d, 0, 0, 0, 0]),
    }
}

/// Addresses in a line of the log.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Sixteen hexadecimal digits nobody has had.
pub fn new_id() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let path = Path::new("/dev/urandom");
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).context("/dev/urandom")?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_unicast_and_follow_the_address() {
        let addr = |text: &str| text.parse::<IpAddr>().expect("a literal");
        let (v4, v6) = (mac_for(&[addr("10.1.0.2")]), mac_for(&[addr("fd00::2")]));
        assert_eq!(v4, mac_for(&[addr("10.1.0.2"), addr("fd00::2")]));
        assert_ne!(v4, mac_for(&[addr("10.1.0.3")]));
        assert!(v4.0[0] & 3 == 2 && v6.0[0] & 3 == 2);
    }

    #[test]
    fn ids_are_long_and_new() {
        let (a, b) = (new_id().expect("random"), new_id().expect("random"));
        assert!(a.len() == 16 && a != b);
    }
}
