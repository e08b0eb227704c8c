use super::{subnet::SPECIAL, *};
use crate::model::key::Key;

fn request(subnets: &[&str]) -> NetworkRequest {
    NetworkRequest {
        name: "blue".into(),
        subnets: subnets.iter().map(|s| s.parse().expect("a literal")).collect(),
        ..NetworkRequest::default()
    }
}

fn error(request: NetworkRequest) -> NetworkError {
    request.into_network(1).expect_err("should be refused")
}

#[test]
fn omitted_fields_of_a_network_get_defaults() {
    let network = request(&["10.1.0.0/16", "fd00:1::/64"]).into_network(7).expect("valid");
    assert_eq!(network.id, 7);
    assert_eq!(network.subnets[0].gateway.to_string(), "10.1.0.1");
    assert_eq!(network.subnets[0].block_len, 26);
    assert_eq!(network.subnets[1].gateway.to_string(), "fd00:1::1");
    assert_eq!(network.subnets[1].block_len, 122);
}

#[test]
fn small_subnets_have_small_blocks() {
    for (cidr, len) in [("10.0.0.0/20", 26), ("10.0.0.0/22", 28), ("10.0.0.0/24", 30), ("10.0.0.0/29", 30)] {
        let network = request(&[cidr]).into_network(1).expect("valid");
        assert_eq!(network.subnets[0].block_len, len, "{cidr}");
    }
}

#[test]
fn blocks_are_asked_for_by_prefix_or_by_size() {
    let lens = |prefixes: &[u8], size: Option<u32>| {
        let mut wanted = request(&["10.1.0.0/16", "fd00:1::/64"]);
        (wanted.block_prefixes, wanted.block_size) = (prefixes.to_vec(), size);
        let network = wanted.into_network(1).expect("valid");
        // What a network has is what it leaves open.
        let mut same = request(&["10.1.0.0/16", "fd00:1::/64"]);
        same.like(&network);
        assert!(network.same_options(&same.into_network(1).expect("valid"), &[]), "{prefixes:?} {size:?}");
        [network.subnets[0].block_len, network.subnets[1].block_len]
    };
    assert_eq!(lens(&[], Some(16)), [28, 124]);
    assert_eq!(lens(&[28, 120], None), [28, 120]);
    assert_eq!(lens(&[120, 28], None), [28, 120]);
    // The other family has as many addresses in a block.
    assert_eq!(lens(&[28], None), [28, 124]);
    assert_eq!(lens(&[124], None), [28, 124]);
}

#[test]
fn blocks_cover_the_subnet() {
    let network = request(&["10.0.0.0/24"]).into_network(1).expect("valid");
    let blocks: Vec<_> = (0..network.subnets[0].block_count()).map(|i| network.subnets[0].block(i)).collect();
    assert_eq!(blocks.len(), 64);
    assert_eq!(blocks[63].to_string(), "10.0.0.252/30");
    let addr = "10.0.0.77".parse().expect("a literal");
    assert_eq!(network.subnets[0].block_of(addr).to_string(), "10.0.0.76/30");
}

#[test]
fn edge_and_gateway_addresses_are_not_assignable() {
    let network = request(&["10.0.0.0/24"]).into_network(1).expect("valid");
    let assignable = |addr: &str| network.subnets[0].is_assignable(addr.parse().expect("a literal"));
    assert!(assignable("10.0.0.2") && assignable("10.0.0.254"));
    for no in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.2"] {
        assert!(!assignable(no), "{no}");
    }
}

#[test]
fn bad_requests_are_refused_with_the_reason() {
    let with = |f: fn(&mut NetworkRequest)| {
        let mut r = request(&["10.0.0.0/24"]);
        f(&mut r);
        error(r).to_string()
    };
    assert!(error(request(&[])).to_string().contains("needs a subnet"));
    assert!(error(request(&["10.0.0.1/24"])).to_string().contains("did you mean 10.0.0.0/24"));
    assert!(error(request(&["10.0.0.0/24", "10.1.0.0/24"])).to_string().contains("one subnet of each"));
    assert!(error(request(&["10.0.0.0/30"])).to_string().contains("too small"));
    for cidr in
        ["224.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "fe80::/64", "0.0.0.0/0", "ff00::/16", "240.0.0.0/8"]
    {
        assert!(matches!(error(request(&[cidr])), NetworkError::NotUnicast(..)), "{cidr}");
    }
    for (range, what) in SPECIAL {
        let cidr = range.parse().expect("a prefix");
        let named =
            matches!(check_cidr(cidr), Err(NetworkError::NotUnicast(_, r, w)) if (r, w) == (range, what));
        assert!(named, "{range}");
    }
    // Also where only a part of it is special.
    for cidr in ["96.0.0.0/3", "168.0.0.0/5", "192.0.0.0/2", "::1:0:0/96", "fc00::/6"] {
        assert!(matches!(error(request(&[cidr])), NetworkError::NotUnicast(..)), "{cidr}");
    }
    assert!(with(|r| r.gateways = vec!["10.9.0.1".parse().expect("literal")]).contains("10.9.0.1"));
    assert!(with(|r| r.gateways = vec!["10.0.0.255".parse().expect("literal")]).contains("first or last"));
    assert!(with(|r| r.block_size = Some(3)).contains("power of two from 4 to 128"));
    assert!(with(|r| r.block_size = Some(256)).contains("does not fit"));
    assert!(
        with(|r| r.block_prefixes = vec![24])
            .contains("/24 does not fit subnet 10.0.0.0/24: use a prefix length from 25 to 30")
    );
    assert!(with(|r| r.block_prefixes = vec![31]).contains("/31 does not fit"));
    assert!(with(|r| r.block_prefixes = vec![122]).contains("no subnet of that family"));
    assert!(with(|r| r.block_prefixes = vec![26, 27]).contains("/26 and /27 are of one family"));
    assert!(with(|r| r.block_prefixes = vec![26, 122, 200]).contains("/122 and /200 are of one family"));
    assert!(with(|r| (r.block_prefixes, r.block_size) = (vec![26], Some(64))).contains("use one of them"));
    assert!(with(|r| r.mtu = Some(100)).contains("576"));
    assert!(with(|r| r.name = "a/b".into()).contains("a/b"));
    assert!(with(|r| (r.internal, r.routable) = (true, true)).contains("not both"));
}

#[test]
fn networks_that_differ_in_a_compared_runtime_option_are_not_the_same() {
    let with = |options: &[(&str, &str)]| {
        let mut network = request(&["10.1.0.0/16"]).into_network(1).expect("valid");
        network.pooled = true;
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        network.runtime.options = options.collect();
        network
    };
    let (one, other) = (with(&[("a", "1"), ("b", "1")]), with(&[("a", "2"), ("b", "1")]));
    let same = |compared: &[&str]| (one.same_options(&other, compared), one.gives_way_to(&other, compared));
    assert_eq!((same(&[]), same(&["b"]), same(&["b", "a"])), ((true, true), (true, true), (false, false)));
    assert!(!one.same_options(&with(&[("b", "1")]), &["a"]), "an option that one lacks");
}

#[test]
fn fields_of_a_newer_agent_survive() {
    let json = br#"{"v":1,"id":1,"name":"blue","mode":"overlay",
        "subnets":[{"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26}]}"#;
    let network: Network = crate::model::decode(&Key::Network(1), json).expect("parses");
    assert_eq!(network.unknown["mode"], "overlay");
    let again = String::from_utf8(crate::model::encode(&network)).expect("utf-8");
    assert!(again.contains(r#""mode":"overlay""#), "{again}");
    assert!(crate::model::decode::<Network>(&Key::Network(1), br#"{"v":9,"id":1}"#).is_err());
}
