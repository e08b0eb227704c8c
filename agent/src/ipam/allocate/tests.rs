use std::collections::BTreeSet;

use super::*;
use crate::{
    ipam::Held,
    model::{
        self, Unknown,
        block::Allocations,
        key::{Key, ipam_of, routes_of},
        network::NetworkRequest,
        snapshot::Event,
    },
    store::{Listing, Op, Txn, embedded::Embedded},
};

async fn cluster(cidr: &str) -> (Arc<Embedded>, Network) {
    let request = NetworkRequest {
        name: "blue".into(),
        subnets: vec![cidr.parse().expect("a literal")],
        ..NetworkRequest::default()
    };
    let network = request.into_network(1).expect("valid");
    let store = Embedded::in_memory();
    let ops = vec![Op::Put(Key::Network(1), model::encode(&network))];
    store.commit(Txn { conditions: vec![], ops }).await.expect("memory");
    (store, network)
}

fn node(store: &Arc<Embedded>, name: &str) -> Ipam {
    Ipam::new(Arc::clone(store) as Arc<dyn Store>, name.into(), 30, &BTreeMap::new(), BTreeMap::new())
}

fn holder(endpoint: &str) -> Holder {
    Holder { endpoint: endpoint.into(), name: None, node: None, unknown: Unknown::new() }
}

fn held(endpoint: &str, addresses: Vec<IpAddr>) -> Held {
    Held { holder: holder(endpoint), addresses, lost: false }
}

fn request(endpoint: &str, wanted: &[&str]) -> Request {
    Request {
        holder: holder(endpoint),
        wanted: wanted.iter().map(|addr| addr.parse().expect("a literal")).collect(),
    }
}

#[tokio::test]
async fn two_nodes_never_share_an_address() {
    let (store, network) = cluster("10.0.0.0/26").await;
    let nodes = [node(&store, "h1"), node(&store, "h2")];
    let mut given = BTreeSet::new();
    for round in 0..80 {
        let Ok(addresses) = nodes[round % 2].allocate(&network, &request(&round.to_string(), &[])).await
        else {
            continue;
        };
        assert!(given.insert(addresses[0]), "{} twice", addresses[0]);
    }
    assert_eq!(given.len(), 61, "all but the network's own address, its last and the gateway");
}

#[tokio::test]
async fn a_24_serves_a_hundred_nodes() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let mut given = BTreeSet::new();
    let nodes: Vec<Ipam> = (0..100).map(|i| node(&store, &format!("h{i}"))).collect();
    for (i, node) in nodes.iter().enumerate() {
        let addresses = node.allocate(&network, &request(&i.to_string(), &[])).await.expect("room");
        assert!(given.insert(addresses[0]), "{} twice", addresses[0]);
    }
    let singles = |listing: Listing| {
        let keys = listing.entries.into_iter().filter_map(|entry| Key::parse(entry.key()));
        keys.filter(|key| matches!(key, Key::Route(_, cidr) if cidr.prefix_len() == 32)).count()
    };
    let routes = || async { singles(store.list(&[routes_of(1)]).await.expect("memory")) };
    assert_eq!(routes().await, 36, "64 nodes have a block, the others borrow");
    for (i, node) in nodes.iter().enumerate() {
        node.release(1, &i.to_string()).await.expect("memory");
    }
    assert_eq!(routes().await, 0, "a borrowed address goes back with its route");
}

#[tokio::test]
async fn request_to_a_full_subnet_is_refused_as_exhausted() {
    let (store, network) = cluster("10.0.0.0/29").await;
    let ipam = node(&store, "h1");
    for i in 0..5 {
        ipam.allocate(&network, &request(&i.to_string(), &[])).await.expect("room");
    }
    let refusal = ipam.allocate(&network, &request("x", &[])).await.expect_err("full");
    assert!(refusal.to_string().contains("10.0.0.0/29 is exhausted"), "{refusal}");
    ipam.release(1, "3").await.expect("memory");
    ipam.allocate(&network, &request("x", &[])).await.expect("room again");
}

#[tokio::test]
async fn a_wanted_address_is_given_or_refused_with_the_reason() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let (h1, h2) = (node(&store, "h1"), node(&store, "h2"));
    let addr = |text: &str| text.parse::<IpAddr>().expect("a literal");
    let given = h1.allocate(&network, &request("a", &["10.0.0.77"])).await.expect("free");
    assert_eq!(given, [addr("10.0.0.77")]);
    let borrowed = h2.allocate(&network, &request("c", &["10.0.0.78"])).await.expect("free in h1's block");
    assert_eq!(borrowed, [addr("10.0.0.78")]);
    for (node, addr, reason) in [
        (&h1, "10.0.0.77", "taken by endpoint a on node h1"),
        (&h2, "10.0.0.79", "in the stash of node h1"),
        (&h1, "10.0.0.78", "taken by endpoint c on node h2"),
        (&h1, "10.0.0.1", "gateway of network blue"),
        (&h1, "10.0.0.255", "first or last"),
        (&h1, "10.9.0.1", "no subnet of network blue"),
    ] {
        let refusal = node.allocate(&network, &request("b", &[addr])).await.expect_err(addr);
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
}

#[tokio::test]
async fn request_to_a_removed_network_is_refused() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let ipam = node(&store, "h1");
    ipam.allocate(&network, &request("a", &[])).await.expect("room");
    store.commit(Txn { conditions: vec![], ops: vec![Op::Delete(Key::Network(1))] }).await.expect("memory");
    let refusal = ipam.allocate(&network, &request("b", &[])).await.expect_err("gone");
    assert!(matches!(refusal, Refusal::NetworkGone(_)), "{refusal}");
}

async fn holders(store: &Arc<Embedded>) -> Vec<String> {
    let listing = store.list(&[ipam_of(1)]).await.expect("memory");
    let mut holders = Vec::new();
    for entry in &listing.entries {
        let Event::Put { key, value, .. } = entry else { panic!("a put") };
        let key = Key::parse(key).expect("ours");
        let allocations: Allocations = model::decode(&key, value).expect("parses");
        holders.extend(allocations.addresses.into_values().map(|holder| holder.endpoint));
    }
    holders
}

fn endpoint(id: &str, addr: IpAddr) -> Endpoint {
    Endpoint {
        id: id.into(),
        name: None,
        network: 1,
        network_name: "blue".into(),
        addresses: vec![addr],
        mac: Default::default(),
        netns: "/run/netns/c".into(),
        sandbox: 7,
        ifname: "eth0".into(),
        host_interface: "mgy000000000001".into(),
        device: crate::model::endpoint::Device::Veth,
        mtu: 1500,
        stage: crate::model::endpoint::Stage::Joined,
        owner: crate::model::endpoint::Owner::Command,
        lost: None,
    }
}

#[tokio::test]
async fn sweep_frees_addresses_that_no_endpoint_holds() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let ipam = node(&store, "h1");
    let mut last = None;
    for id in ["a", "b"] {
        last = Some(ipam.allocate(&network, &request(id, &[])).await.expect("room")[0]);
    }
    // A restarted agent knows its endpoints from the journal.
    let journal = [("b".to_owned(), endpoint("b", last.expect("given")))].into();
    let restarted =
        Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "h1".into(), 30, &journal, BTreeMap::new());
    restarted.sweep(1).await.expect("memory");
    node(&store, "h2").sweep(1).await.expect("memory");
    assert_eq!(holders(&store).await, ["b"]);
}

#[tokio::test]
async fn the_stash_serves_while_the_store_is_away() {
    let (store, network) = cluster("10.0.0.0/16").await;
    let ipam = node(&store, "h1");
    let refusal = ipam.allocate_from_stash(&network, &request("a", &[]), "away").await.expect_err("no block");
    assert!(refusal.to_string().contains("no address of network blue left: away"));
    ipam.allocate(&network, &request("a", &[])).await.expect("room");
    assert_eq!(ipam.stash(1).await.len(), 16, "a quarter of the block");
    let mut stashed = Vec::new();
    while let Ok(addresses) =
        ipam.allocate_from_stash(&network, &request(&format!("s{}", stashed.len()), &[]), "away").await
    {
        stashed.push(held(&format!("s{}", stashed.len()), addresses));
    }
    assert_eq!(stashed.len(), 16);
    assert_eq!(holders(&store).await, ["a"], "nothing is written yet");
    // What the store does not know yet is not given again.
    let later = ipam.allocate(&network, &request("b", &[])).await.expect("room")[0];
    assert!(!stashed.iter().any(|held| held.addresses.contains(&later)));
    assert!(ipam.restore(&network, &stashed).await.expect("memory").is_empty());
    assert_eq!(holders(&store).await.len(), 18);
    assert_eq!(ipam.stash(1).await.len(), 16, "in the stash again");
}

#[tokio::test]
async fn addresses_that_the_store_lost_are_restored_and_conflicts_are_reported() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let (h1, h2) = (node(&store, "h1"), node(&store, "h2"));
    let mut mine = Vec::new();
    for id in ["a", "b"] {
        mine.push(held(id, h1.allocate(&network, &request(id, &[])).await.expect("room")));
    }
    let wipe = vec![Op::DeletePrefix(routes_of(1)), Op::DeletePrefix(ipam_of(1))];
    store.commit(Txn { conditions: vec![], ops: wipe }).await.expect("memory");
    // Meanwhile another node got the first of them.
    let taken = mine[0].addresses[0].to_string();
    h2.allocate(&network, &request("x", &[&taken])).await.expect("free");
    let lost = h1.restore(&network, &mine).await.expect("memory");
    assert_eq!(lost.keys().collect::<Vec<_>>(), ["a"]);
    assert!(lost["a"].contains("endpoint x of node h2"), "{lost:?}");
    assert_eq!(holders(&store).await, ["x", "b"], "the other is borrowed from what is now h2's block");
    mine[0].lost = true;
    assert!(h1.restore(&network, &mine).await.expect("memory").contains_key("a"), "and it stays so");
    h2.release(1, "x").await.expect("memory");
    assert!(h1.restore(&network, &mine).await.expect("memory").is_empty(), "until it is free again");
    // One that is being detached is not put back.
    h1.release(1, "b").await.expect("memory");
    h1.restore(&network, &mine).await.expect("memory");
    assert_eq!(holders(&store).await, ["a"]);
}

#[tokio::test]
async fn empty_blocks_go_back_and_used_ones_stay() {
    let (store, network) = cluster("10.0.0.0/16").await;
    let ipam = node(&store, "h1");
    ipam.allocate(&network, &request("a", &["10.0.1.5"])).await.expect("free");
    ipam.allocate(&network, &request("b", &["10.0.2.5"])).await.expect("free");
    ipam.release(1, "a").await.expect("memory");
    assert!(!ipam.give_back(1, 3600).await.expect("memory"), "not yet");
    // Freed in this second, so idle for less than none.
    let mut state = ipam.state.lock().await;
    let view = state.views.get_mut(&1).expect("seen");
    view.blocks.values_mut().for_each(|(block, _)| block.freed.values_mut().for_each(|at| *at = 1));
    drop(state);
    assert!(ipam.give_back(1, 3600).await.expect("memory"));
    let keys: Vec<String> = store
        .list(&[routes_of(1)])
        .await
        .expect("memory")
        .entries
        .iter()
        .map(|e| e.key().to_owned())
        .collect();
    assert_eq!(keys, ["/margay/v1/routes/1/10.0.2.0-26"]);
    assert_eq!(ipam.stash(1).await.len(), 16, "of the block that stays");
}

/// The network with a range that nobody has to ask for, and an address that is
/// somebody else's.
fn narrowed(network: &Network, range: &str, aux: &str) -> Network {
    let mut network = network.clone();
    network.subnets[0].range = Some(range.parse().expect("a literal"));
    network.subnets[0].aux.insert("nas".into(), aux.parse().expect("a literal"));
    network
}

#[tokio::test]
async fn automatic_address_comes_from_the_range() {
    for (cidr, range, aux) in [
        // Smaller than a block, larger than one, and far into IPv6.
        ("10.0.0.0/16", "10.0.5.16/29", "10.0.5.17"),
        ("10.0.0.0/16", "10.0.5.0/25", "10.0.5.1"),
        ("fd00::/64", "fd00::8000:0:0/126", "fd00::8000:0:1"),
    ] {
        let (store, network) = cluster(cidr).await;
        let network = narrowed(&network, range, aux);
        let range: IpNet = range.parse().expect("a literal");
        let nodes = [node(&store, "h1"), node(&store, "h2")];
        let mut given = BTreeSet::new();
        for round in 0..140 {
            let asked = nodes[round % 2].allocate(&network, &request(&round.to_string(), &[])).await;
            match asked {
                Ok(addresses) => assert!(range.contains(&addresses[0]) && given.insert(addresses[0])),
                Err(refusal) => assert!(refusal.to_string().contains(&range.to_string()), "{refusal}"),
            }
        }
        assert!(!given.contains(&aux.parse().expect("a literal")), "{aux} is somebody else's");
        let all = 1usize << (if range.addr().is_ipv4() { 32 } else { 128 } - range.prefix_len());
        assert!(given.len() >= all - 2 - all / 4, "{} of {all} in {range}", given.len());
        // What is asked for may lie anywhere.
        let first = network.subnets[0].cidr.network();
        let elsewhere = crate::model::network::offset(first, 0x300).to_string();
        assert!(nodes[0].allocate(&network, &request("x", &[&elsewhere])).await.is_ok());
        let refused = nodes[0].allocate(&network, &request("y", &[aux])).await.expect_err("somebody else's");
        assert!(refused.to_string().contains("reserved for nas"), "{refused}");
    }
}

#[tokio::test]
async fn addresses_are_handed_over_and_given_back_one_by_one() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let h1 = node(&store, "h1");
    let a = h1.allocate(&network, &request("a", &[])).await.expect("room")[0];
    let b = h1.allocate(&network, &request("b", &[])).await.expect("room")[0];
    let to = Holder { name: Some("web".into()), ..holder("a") };
    h1.hand_over(1, &["a".into(), "b".into()], &to).await.expect("memory");
    h1.sweep(1).await.expect("memory");
    let holders = |store: Arc<Embedded>| async move {
        let listing = store.list(&[ipam_of(1)]).await.expect("memory");
        let mut found = BTreeMap::new();
        for entry in listing.entries {
            let Event::Put { key, value, .. } = entry else { continue };
            let key = Key::parse(&key).expect("ours");
            let allocations: Allocations = model::decode(&key, &value).expect("ours");
            found.extend(allocations.addresses.into_iter().map(|(addr, h)| (addr, (h.endpoint, h.name))));
        }
        found
    };
    let web = || ("a".to_owned(), Some("web".to_owned()));
    assert_eq!(holders(Arc::clone(&store)).await, BTreeMap::from([(a, web()), (b, web())]));
    h1.release_one(1, "a", a).await.expect("memory");
    assert_eq!(holders(Arc::clone(&store)).await, BTreeMap::from([(b, web())]));
    h1.release_one(1, "z", b).await.expect("memory");
    assert_eq!(holders(Arc::clone(&store)).await.len(), 1, "another's is not given back");
    // Handed over while the store was away: what nobody of us has is ours.
    let c = h1.allocate(&network, &request("c", &[])).await.expect("room")[0];
    let h1 = node(&store, "h1");
    let lost = h1.restore(&network, &[Held { lost: true, ..held("d", vec![c]) }]).await.expect("memory");
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(holders(store).await[&c].0, "d");
}
