use super::*;
use crate::{model::block::Holder, store::memory::Memory};

fn networks() -> (Arc<Memory>, Networks) {
    let store = Arc::new(Memory::default());
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
    let holder = Holder { endpoint: "0123".into(), name: Some("web".into()) };
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
