//! What can be wrong with a network.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_common::route::NETWORK_MAX;
use thiserror::Error;

use super::{
    MAX_MTU,
    subnet::{AUX_MAX, MIN_BLOCK},
};
use crate::words::Unseemly;

/// What is wrong with a request, in the words of the user.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum NetworkError {
    #[error("network name {0:?}: use 1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit")]
    Name(String),
    #[error("network name {0:?} is reserved by the container runtime; choose another")]
    Predefined(String),
    #[error("a network needs a subnet")]
    NoSubnet,
    #[error("subnets {0} and {1} are of one family; use at most one subnet of each family")]
    SameFamily(IpNet, IpNet),
    #[error("subnet {0} has bits set behind its prefix; did you mean {1}?")]
    HostBits(IpNet, IpNet),
    #[error(
        "subnet {0} is too small for a gateway and a block of {MIN_BLOCK} addresses; use a shorter prefix"
    )]
    TooSmall(IpNet),
    #[error("subnet {0} cannot be used for containers: it overlaps {1}, which is {2}")]
    NotUnicast(IpNet, &'static str, &'static str),
    #[error("gateway {0} is outside the network's subnets; use an address of a subnet")]
    GatewayOutside(IpAddr),
    #[error("gateway {0} is the subnet's first or last address; use another")]
    GatewayReserved(IpAddr),
    #[error("gateways {0} and {1} are in one subnet; use one gateway for each subnet")]
    TwoGateways(IpAddr, IpAddr),
    #[error("range {0} is outside the network's subnets; use a part of a subnet")]
    RangeOutside(IpNet),
    #[error("ranges {0} and {1} are in one subnet; use one range for each subnet")]
    TwoRanges(IpNet, IpNet),
    #[error("auxiliary address {0} is outside the network's subnets; use an address of a subnet")]
    AuxOutside(IpAddr),
    #[error("auxiliary address {0} is the gateway; use another")]
    AuxGateway(IpAddr),
    #[error("block size {size} does not fit subnet {subnet}: use a power of two from {MIN_BLOCK} to {max}")]
    BlockSize { size: u32, subnet: IpNet, max: u32 },
    #[error("block prefix /{len} does not fit subnet {subnet}: use a prefix length from {min} to {max}")]
    BlockPrefix { len: u8, subnet: IpNet, min: u8, max: u8 },
    #[error("block prefix /{0}: the network has no subnet of that family")]
    BlockPrefixOutside(u8),
    #[error("block prefixes /{0} and /{1} are of one family; use one for each")]
    TwoBlockPrefixes(u8, u8),
    #[error("a block prefix and a block size are two ways to say one thing; use one of them")]
    BlockTwice,
    #[error("MTU {0}: use {1} to {MAX_MTU}")]
    Mtu(u32, u32),
    #[error(transparent)]
    Text(#[from] Unseemly),
    #[error("a network is internal or routable; use one of the two, not both")]
    InternalRoutable,
    #[error("network id {0}: ids go from 1 to {NETWORK_MAX}")]
    Id(u32),
    #[error("blocks of /{block_len} do not fit subnet {subnet}")]
    BlockLength { subnet: IpNet, block_len: u8 },
    #[error("range {0} has bits set behind its prefix")]
    RangeBits(IpNet),
    #[error("subnet {0} has {1} auxiliary addresses; use at most {AUX_MAX}")]
    TooManyAux(IpNet, usize),
    #[error("the network {0}")]
    Dressing(String),
}
