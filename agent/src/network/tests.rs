use super::*;
use crate::{model::block::Holder, store::embedded::Embedded};

fn networks() -> (Arc<Embedded>, Networks) {
    let store = Embedded::in_memory();
    (Arc::clone(&store), Networks::new(store, &[]))
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

/// A request of a runtime that has not told the name.
fn unnamed(id: &str, cidr: &str) -> NetworkRequest {
    NetworkRequest { unnamed: true, ..request(&format!("docker-{id}"), cidr) }
}

async fn with_pool() -> Networks {
    let (_, networks) = networks();
    networks.add_pool("10.8.0.0/18".parse().expect("a literal"), Some(20)).await.expect("new");
    networks
}

#[tokio::test]
async fn reserved_subnet_is_given_to_no_other() {
    let networks = with_pool().await;
    let (a, b) = (networks.reserve("h1", true, None, 10).await, networks.reserve("h2", true, None, 20).await);
    let (a, b) = (a.expect("room"), b.expect("room"));
    assert_ne!(a, b);
    let refused = networks.create(request("blue", "10.8.0.0/24")).await.expect_err("kept").to_string();
    assert!(refused.contains("where node h1 is creating a network"), "{refused}");
    let (free, _) =
        networks.create(NetworkRequest { name: "c".into(), ..Default::default() }).await.expect("room");
    assert!(![a, b].contains(&free.subnets[0].cidr));
    // Given up by age and by place, and by whose it is.
    networks.unreserve("h1", None, 5).await.expect("memory");
    assert_ne!(networks.reserve("h1", true, None, 30).await.expect("room"), a, "too young to be given up");
    networks.unreserve("h1", Some(a), u64::MAX).await.expect("memory");
    assert_eq!(networks.reserve("h3", true, None, 40).await.expect("room"), a);
    assert!(
        networks.reserve("h3", false, None, 40).await.expect_err("no IPv6").to_string().contains("IPv6 pool")
    );
}

#[tokio::test]
async fn runtimes_that_name_one_network_share_it() {
    let networks = with_pool().await;
    let first = networks.reserve("h1", true, Some("blue"), 1).await.expect("room");
    assert_eq!(networks.reserve("h2", true, Some("blue"), 1).await.expect("the same"), first);
    let (network, _) = networks.establish("h1", &unnamed("a", &first.to_string()), None).await.expect("new");
    assert_eq!((&*network.name, network.unnamed, network.pooled), ("blue", false, true));
    let (again, _) =
        networks.establish("h1", &unnamed("b", &first.to_string()), None).await.expect("the same");
    assert_eq!(again, network);
    assert_eq!(networks.reserve("h3", true, Some("blue"), 1).await.expect("its own"), first);
}

#[tokio::test]
async fn name_of_two_networks_goes_to_the_first() {
    let networks = with_pool().await;
    let mut made = Vec::new();
    for node in ["h1", "h2"] {
        let cidr = networks.reserve(node, true, None, 1).await.expect("room");
        made.push(networks.establish(node, &unnamed(node, &cidr.to_string()), None).await.expect("new").0);
    }
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    assert!(matches!(networks.name(made[0].id, "red", &labels).await.expect("free"), Naming::Done(_)));
    let Naming::Taken(red) = networks.name(made[1].id, "red", &labels).await.expect("asked") else {
        panic!("one name, two networks")
    };
    assert_eq!((red.id, &red.runtime.labels), (made[0].id, &labels));
    assert!(networks.gives_way_to(&made[1], &red), "nobody chose its subnet");
    let chosen = networks.establish("h1", &unnamed("c", "10.9.0.0/24"), None).await.expect("new").0;
    assert!(!networks.gives_way_to(&chosen, &red), "somebody chose its subnet");
    assert_eq!(networks.name(red.id, "pink", &labels).await.expect("asked"), Naming::Named("red".into()));
    assert!(networks.name(chosen.id, "a b", &labels).await.is_err());
    networks.remove_id(chosen.id).await.expect("unused");
    assert_eq!(networks.name(chosen.id, "blue", &labels).await.expect("asked"), Naming::Gone);
}

#[tokio::test]
async fn request_for_a_subnet_in_use_gets_its_network_or_a_refusal() {
    let networks = with_pool().await;
    networks.create(request("blue", "10.1.0.0/16")).await.expect("new");
    let (same, _) = networks.establish("h1", &unnamed("a", "10.1.0.0/16"), None).await.expect("the same");
    assert_eq!(same.name, "blue");
    let other = NetworkRequest { name: "red".into(), unnamed: false, ..unnamed("a", "10.1.0.0/16") };
    let refused = networks.establish("h1", &other, None).await.expect_err("another name").to_string();
    assert!(refused.contains("is network blue's"), "{refused}");
    let internal = NetworkRequest { internal: true, ..unnamed("a", "10.1.0.0/16") };
    let refused = networks.establish("h1", &internal, None).await.expect_err("other options").to_string();
    assert!(refused.contains("exists with other options"), "{refused}");
    // A name with a subnet of the user's choice does not give way, one of the pool does.
    let named = |cidr: &str| NetworkRequest { unnamed: false, ..request("blue", cidr) };
    assert!(networks.establish("h1", &named("10.2.0.0/16"), None).await.is_err());
    let cidr = networks.reserve("h1", true, None, 1).await.expect("room");
    let (made, _) = networks.establish("h1", &named(&cidr.to_string()), None).await.expect("for a while");
    assert!(made.unnamed && made.name.starts_with("blue-"), "{}", made.name);
}
