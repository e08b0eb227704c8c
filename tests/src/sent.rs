//! Where the programs sent a packet: recorded and expected.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use aya::maps::{Array, Map, MapData};
use margay::tables::HOST_INTERFACE;
use margay_common::sent::{INTO, NEXT_HOP, NOWHERE, OUT, PEER, ROUTED, Sent};

use zerocopy::FromBytes;

use crate::bpf::{ENDPOINTS, UPLINK, both, interface};

/// The map in which the programs record it.
pub struct Telling(Array<MapData, [u8; size_of::<Sent>()]>);

impl Telling {
    /// Opens the map that is pinned there; `None` if these programs do not record.
    pub fn of(pin: &Path) -> Option<Self> {
        let map = MapData::from_pin(pin).ok()?;
        let map = Map::from_map_data(map).expect("a map");
        let mut told = Array::try_from(map).expect("an array");
        told.set(0, [0; size_of::<Sent>()], 0).expect("the map takes it");
        Some(Self(told))
    }

    /// What they have recorded since, in words.
    pub fn told(&self, ifindexes: &BTreeMap<String, u32>) -> String {
        let sent = self.0.get(&0, 0).expect("the map");
        let sent = Sent::read_from_bytes(&sent).expect("its size");
        let name = ifindexes.iter().find(|(_, ifindex)| **ifindex == sent.ifindex);
        let name = name.map_or_else(|| sent.ifindex.to_string(), |(name, _)| name.clone());
        match sent.way {
            OUT => format!("out of {name}"),
            INTO => format!("into {name}"),
            PEER => format!("behind {name}"),
            NEXT_HOP => format!("out of {name} to {}", IpAddr::from(sent.next_hop)),
            ROUTED => format!("out of {name} as routed"),
            NOWHERE => String::new(),
            way => panic!("way {way}"),
        }
    }
}

/// Where a program has to send a packet with this verdict, by its destination and ingress
/// interface. The node's containers, its uplink and the node h2 are those of [`crate::bpf`].
pub fn expected(program: &str, verdict: &str, from: &str, dst: IpAddr) -> String {
    match verdict {
        "local" => {
            let peer = program != "from_host";
            let (name, ..) = ENDPOINTS
                .iter()
                .find(|(_, network, host, _)| both(*network as u8, *host).contains(&dst))
                .expect("an endpoint's address");
            format!("{} {}", if peer { "behind" } else { "out of" }, interface(name))
        }
        "remote" => {
            let next_hop: IpAddr = match dst {
                IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 2).into(),
                IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
            };
            format!("out of {UPLINK} to {next_hop}")
        }
        "host" => format!("into {HOST_INTERFACE}"),
        "world" => format!("out of {UPLINK} as routed"),
        "answered" => back(from),
        other => panic!("nothing is sent on that is counted as {other}"),
    }
}

/// Where the answer to a packet from an interface goes.
pub fn back(from: &str) -> String {
    let way = if from == HOST_INTERFACE { "into" } else { "out of" };
    format!("{way} {from}")
}

/// The destination of a frame, if it has one.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [8, 0] => Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?).into()),
        [0x86, 0xdd] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(38..54)?).ok()?).into()),
        _ => None,
    }
}
