//! Parsing of headers.

use margay_common::{net::Family, verdict::DropReason};
use proptest::prelude::*;

use super::{
    frames::{Built, broken, built},
    run,
};
use crate::{Frame, Headers, addresses, echo, source};

/// The ports that a packet was built with.
fn ports(built: &Built) -> Option<[u16; 2]> {
    let known = built.known.as_ref().ok()?;
    let carried = &built.bytes[known.l4..][..known.carries];
    let word = |at: usize| Some(u16::from_be_bytes([*carried.get(at)?, *carried.get(at + 1)?]));
    match (known.proto, built.icmp_type()) {
        _ if known.later => None,
        (6 | 17, _) => Some([word(0)?, word(2)?]),
        (_, Some(kind)) => {
            let echo = if built.family == Family::V4 { [8, 0] } else { [128, 129] };
            if echo.contains(&kind) { word(4).map(|id| [id; 2]) } else { None }
        }
        _ => None,
    }
}

const WANTED: &[&str] = &[
    "IPv4",
    "IPv6",
    "options",
    "extensions",
    "later fragment",
    "first fragment",
    "ports of IPv4",
    "ports of IPv6",
    "identifier of IPv4",
    "identifier of IPv6",
    "echo request",
    "source route of IPv4",
    "source route of IPv6",
    "malformed IPv4",
    "malformed IPv6",
];

#[test]
fn headers_are_parsed_as_they_were_built_or_refused() {
    run(built(), WANTED, |built, hits| {
        let packet = built.packet();
        let mut headers = Headers::NONE;
        let parsed = headers.parse(&packet, built.family);
        let v4 = built.family == Family::V4;
        prop_assert_eq!(parsed, built.known.as_ref().map(|_| ()).map_err(|reason| *reason));
        let known = match &built.known {
            Ok(known) => known,
            Err(reason) => {
                hits.count(match (reason, v4) {
                    (DropReason::SourceRoute, true) => "source route of IPv4",
                    (DropReason::SourceRoute, false) => "source route of IPv6",
                    (_, true) => "malformed IPv4",
                    (_, false) => "malformed IPv6",
                });
                return Ok(());
            }
        };
        prop_assert_eq!((headers.family, headers.src, headers.dst), (built.family, known.src, known.dst));
        prop_assert_eq!((headers.ttl, headers.proto, headers.l4), (known.ttl, known.proto, known.l4));
        prop_assert_eq!((headers.is_fragment(), headers.is_later_fragment()), (known.fragment, known.later));
        prop_assert_eq!(headers.icmp_type(&packet), built.icmp_type());
        prop_assert_eq!(headers.ports(&packet), ports(&built));
        let request = if v4 { 8 } else { 128 };
        let asks = built.icmp_type() == Some(request) && known.plain && !known.fragment;
        prop_assert_eq!(echo::is_request(&packet, &headers), asks);
        let mut seen = std::vec![if v4 { "IPv4" } else { "IPv6" }];
        seen.extend((!known.plain).then_some(if v4 { "options" } else { "extensions" }));
        let first = known.fragment.then_some("first fragment");
        seen.extend(if known.later { Some("later fragment") } else { first });
        seen.extend(asks.then_some("echo request"));
        seen.extend(ports(&built).map(|_| match (known.proto, v4) {
            (6 | 17, true) => "ports of IPv4",
            (6 | 17, false) => "ports of IPv6",
            (_, true) => "identifier of IPv4",
            (_, false) => "identifier of IPv6",
        }));
        seen.into_iter().for_each(|what| hits.count(what));
        Ok(())
    });
}

#[test]
fn plain_parser_agrees_with_the_full_parser() {
    run(built(), &["plain", "a closer look", "refused", "not there"], |built, hits| {
        let packet = built.packet();
        let plain = Headers::parse_plain(&packet, built.family);
        let header = if built.family == Family::V4 { 34 } else { 54 };
        if built.linear.min(built.bytes.len()) < header {
            hits.count("not there");
            prop_assert_eq!(plain, Ok(None));
            return Ok(());
        }
        let mut headers = Headers::NONE;
        let parsed = headers.parse(&packet, built.family);
        match plain {
            Ok(Some(plain)) => {
                hits.count("plain");
                prop_assert_eq!(parsed, Ok(()));
                prop_assert_eq!(plain, headers);
                prop_assert!(built.known.is_ok_and(|known| known.plain));
            }
            Ok(None) => {
                hits.count("a closer look");
                let says_nothing = built.family == Family::V4 && built.bytes[16..18] == [0, 0];
                prop_assert!(says_nothing || built.known.is_ok_and(|known| !known.plain) || parsed.is_err());
            }
            Err(reason) => {
                hits.count("refused");
                prop_assert_eq!(parsed, Err(reason));
            }
        }
        Ok(())
    });
}

#[test]
fn addresses_are_read_if_the_ip_header_is_complete() {
    run(built(), &["there", "cut"], |built, hits| {
        let header = if built.family == Family::V4 { 34 } else { 54 };
        let both = addresses(&built.packet(), built.family);
        prop_assert_eq!(source(&built.packet(), built.family), both.map(|[src, _]| src));
        prop_assert_eq!(both.is_some(), built.bytes.len() >= header);
        hits.count(if both.is_some() { "there" } else { "cut" });
        if let Ok(known) = built.known {
            prop_assert_eq!(both, Some([known.src, known.dst]));
        }
        Ok(())
    });
}

#[test]
fn corrupted_packet_is_parsed_or_refused_and_unchanged() {
    run(broken(), &["parsed", "refused"], |built, hits| {
        let packet = built.packet();
        let (mut first, mut second) = (Headers::NONE, Headers::NONE);
        let parsed = first.parse(&packet, built.family);
        prop_assert_eq!(parsed, second.parse(&packet, built.family));
        prop_assert_eq!(first, second, "and is the same again");
        let ports = first.ports(&packet);
        prop_assert_eq!(packet.bytes(), &built.bytes[..], "parsing changes nothing");
        hits.count(if parsed.is_ok() { "parsed" } else { "refused" });
        if parsed.is_ok() {
            prop_assert!(first.l4 >= 34);
            prop_assert!(ports.is_none() || packet.len() as usize >= first.l4 + 4);
        }
        Ok(())
    });
}
