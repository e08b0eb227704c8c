//! What a program decided about a packet, and why: one list that serves the
//! programs, the counters, the metrics and the command line.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares an enum whose variants have a fixed code, a label and a sentence.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $code:literal, $label:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $text] $variant = $code,)*
        }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name in metrics, JSON and the command line.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// One sentence for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// How a packet went on.
    Verdict {
        Passed = 0, "passed", "Not ours: left to the rest of the system, untouched.";
        Local = 1, "local", "Delivered to an endpoint on this node.";
        Remote = 2, "remote", "Sent to the node that has the endpoint, or to another node itself.";
        Host = 3, "host", "Handed to the host's stack.";
        World = 4, "world", "Sent from a routable network to the world by the uplink.";
        Answered = 5, "answered", "Answered by the program: ARP, neighbour discovery, echo for the gateway.";
    }
}

codes! {
    /// Why a packet was dropped.
    DropReason {
        UnknownInterface = 16, "unknown_interface", "The interface belongs to no endpoint.";
        Unconfigured = 17, "unconfigured", "The node's own entry is missing, or lacks what this way needs: the uplink, or margay0.";
        Vlan = 18, "vlan", "A container sent a VLAN tag, or a frame had more than four priority tags.";
        EtherType = 19, "ether_type", "Neither IPv4, IPv6 nor ARP.";
        Malformed = 20, "malformed", "Truncated, or the headers contradict each other.";
        SpoofedMac = 21, "spoofed_mac", "The source MAC is not the endpoint's.";
        SpoofedSource = 22, "spoofed_source", "The source address is not the endpoint's, nor its sandbox's.";
        OtherHost = 23, "other_host", "Addressed to a MAC that is not the gateway's.";
        Broadcast = 24, "broadcast", "Sent to a broadcast address.";
        Multicast = 25, "multicast", "Sent to a multicast address.";
        BadDestination = 26, "bad_destination", "Unspecified, loopback or reserved destination, or an IPv6 link-local one.";
        SourceRoute = 27, "source_route", "IPv4 source routing or IPv6 routing header 0.";
        Neighbour = 28, "neighbour", "ARP or neighbour discovery about something other than the gateway.";
        TtlExceeded = 29, "ttl_exceeded", "TTL or hop limit ran out.";
        TooBig = 30, "too_big", "Larger than the route to the destination can carry.";
        NoEndpoint = 31, "no_endpoint", "The subnet is ours, but nobody has the address.";
        NodeUnreachable = 32, "node_unreachable", "The node that has the address is not on-link.";
        Isolated = 33, "isolated", "The destination is on another network.";
        Internal = 34, "internal", "The network is internal and the packet would leave it.";
        Outside = 35, "outside", "From outside the cluster to a network that is not routable.";
        GatewayPort = 36, "gateway_port", "To the gateway's own address, which answers echo only.";
        Guarded = 37, "guarded", "From a prefix on the deny list.";
    }
}

codes! {
    /// What a program did besides its verdict.
    Note {
        IcmpSent = 48, "icmp_sent", "An ICMP error was sent about a dropped packet.";
        IcmpLimited = 49, "icmp_limited", "An ICMP error was withheld: its sender has caused too many in this second.";
        LogLimited = 50, "log_limited", "A drop was left out of the log: its sender has caused too many in this second.";
    }
}

codes! {
    /// The programs, named for where a packet comes from.
    Program {
        FromWorkload = 0, "from_workload", "What a container sends: ingress of its veth's host side, or its netkit's inner end.";
        FromNetwork = 1, "from_network", "Ingress of the uplink.";
        FromHost = 2, "from_host", "Egress of margay0.";
        Xdp = 3, "xdp_uplink", "XDP of the uplink, before from_network; what it passes counts there, too.";
    }
}

impl Program {
    /// The program of tc that has this number; any other number is that of the last.
    #[inline(always)]
    pub const fn of_tc(number: u32) -> Self {
        match number {
            0 => Self::FromWorkload,
            1 => Self::FromNetwork,
            _ => Self::FromHost,
        }
    }
}

/// Codes that one program may use.
pub const CODES: u32 = 64;
/// Entries of the table of counters.
pub const COUNTERS: u32 = CODES * Program::ALL.len() as u32;

/// The index of a counter.
#[inline(always)]
pub const fn counter(program: Program, code: u8) -> u32 {
    program as u32 * CODES + code as u32
}

/// One counter, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Count {
    /// Packets; a super-packet is one.
    pub packets: u64,
    /// Bytes, with the link header.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_labels_are_unique() {
        let codes = Verdict::ALL.iter().map(|v| (*v as u8, v.label()));
        let codes = codes.chain(DropReason::ALL.iter().map(|r| (*r as u8, r.label())));
        let codes = codes.chain(Note::ALL.iter().map(|n| (*n as u8, n.label())));
        let all: std::vec::Vec<_> = codes.collect();
        let distinct: BTreeSet<u8> = all.iter().map(|(code, _)| *code).collect();
        let labels: BTreeSet<&str> = all.iter().map(|(_, label)| *label).collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(labels.len(), all.len());
        assert!(distinct.iter().all(|code| u32::from(*code) < CODES));
    }
}
