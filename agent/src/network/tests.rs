use super::*;
use crate::{model::block::Holder, store::embedded::Embedded};

fn networks() -> (Arc<Embedded>, Networks) {
    let store = Embedded::in_memory();
    (Arc::clone(&store), Networks::new(store))
}

fn request(name: &str, cidr: &str) -> NetworkRequest {
    let subnets = vec![cidr.parse().expect("a literal")];
    NetworkRequest { name: name.into(), subnets, ..NetworkRequest::default() }
}

#[tokio::test]
async fn the_same_create_twice_is_one_network() {
    let (_, networks) = networks();
    let (first, _) = networks.create(request("blue", "10.0.0.0/24")).await.expect("new");
    let (again, _) = networks.create(request("blue", "10.0.0.0/24")).await.expect("the same");
    assert_eq!(first, again);
    let other = networks.create(request("blue", "10.1.0.0/24")).await.expect_err("another");
    assert!(other.to_string().contains("exists with other options: it has 10.0.0.0/24"), "{other}");
}

#[tokio::test]
async fn overlaps_and_node_addresses_are_refused() {
    let (store, networks) = networks();
    let node = r#"{"v":1,"name":"h1","addresses":["192.0.2.1"]}"#;
    let ops = vec![Op::Put(Key::Node("h1".into()), node.into())];
    store.commit(Txn { conditions: vec![], ops }).await.expect("memory");
    networks.create(request("blue", "10.0.0.0/16")).await.expect("new");
    for (cidr, reason) in [
        ("10.0.3.0/24", "overlaps 10.0.0.0/16 of network blue"),
        ("10.0.0.0/8", "overlaps 10.0.0.0/16 of network blue"),
        ("192.0.2.0/24", "contains 192.0.2.1, the address of node h1"),
    ] {
        let refusal = networks.create(request("red", cidr)).await.expect_err(cidr);
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
}

#[tokio::test]
async fn removal_waits_for_the_last_endpoint_and_ids_never_return() {
    let (store, networks) = networks();
    let (blue, _) = networks.create(request("blue", "10.0.0.0/24")).await.expect("new");
    let block = "10.0.0.0/30".parse().expect("a literal");
    let mut allocations = Allocations { node: "h2".into(), ..Allocations::default() };
    let holder =
        Holder { endpoint: "0123".into(), name: Some("web".into()), node: None, unknown: Unknown::new() };
    allocations.addresses.insert("10.0.0.2".parse().expect("a literal"), holder);
    let put = |value: &Allocations| Txn {
        conditions: vec![],
        ops: vec![Op::Put(Key::Ipam(blue.id, block), model::encode(value))],
    };
    store.commit(put(&allocations)).await.expect("memory");
    let refusal = networks.remove("blue").await.expect_err("in use");
    assert!(refusal.to_string().contains("1 on node h2 (web)"), "{refusal}");
    allocations.addresses.clear();
    store.commit(put(&allocations)).await.expect("memory");
    networks.remove("blue").await.expect("empty");
    assert!(store.list(&[ipam_of(blue.id)]).await.expect("memory").entries.is_empty());
    assert!(networks.remove("blue").await.expect_err("gone").to_string().contains("no network blue"));
    let (again, _) = networks.create(request("blue", "10.0.0.0/24")).await.expect("new");
    assert!(again.id > blue.id);
}

#[tokio::test]
async fn a_network_without_a_subnet_takes_one_that_nobody_uses() {
    let (store, networks) = networks();
    let node = r#"{"v":1,"name":"h1","addresses":["10.8.0.9"],"occupied":["10.8.16.0/24"]}"#;
    let ops = vec![Op::Put(Key::Node("h1".into()), node.into())];
    store.commit(Txn { conditions: vec![], ops }).await.expect("memory");
    let bare = |name: &str| NetworkRequest { name: name.into(), ..NetworkRequest::default() };
    let none = networks.create(bare("a")).await.expect_err("no pool").to_string();
    assert!(none.contains("margay pool add"), "{none}");
    networks.add_pool("10.8.0.0/18".parse().expect("a literal"), Some(20)).await.expect("new");
    networks.add_pool("10.8.0.0/18".parse().expect("a literal"), Some(20)).await.expect("the same again");
    let overlap = networks.add_pool("10.8.0.0/16".parse().expect("a literal"), None).await;
    assert!(overlap.expect_err("overlaps").to_string().contains("overlaps pool 10.8.0.0/18"));
    let mut taken = Vec::new();
    for name in ["a", "b"] {
        let (network, _) = networks.create(bare(name)).await.expect("room");
        assert_eq!(networks.create(bare(name)).await.expect("the same again").0, network);
        taken.push(network.subnets[0].cidr.to_string());
    }
    assert_eq!(taken, ["10.8.32.0/20", "10.8.48.0/20"], "neither the node's address nor its other prefix");
    let full = networks.create(bare("c")).await.expect_err("full").to_string();
    assert!(full.contains("no IPv4 pool has a free subnet left (10.8.0.0/18 in /20)"), "{full}");
    networks.add_pool("fd00::/48".parse().expect("a literal"), None).await.expect("new");
    networks.remove("a").await.expect("unused");
    let dual = NetworkRequest { ipv6: true, ..bare("c") };
    let (network, _) = networks.create(dual).await.expect("room again");
    let subnets: Vec<String> = network.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
    assert_eq!(subnets, ["10.8.32.0/20", "fd00::/64"]);
    networks.remove_pool("10.8.0.0/18".parse().expect("a literal")).await.expect("there");
    let unknown = networks.remove_pool("10.8.0.0/18".parse().expect("a literal")).await;
    assert!(unknown.expect_err("gone").to_string().contains("margay pool ls"));
}
