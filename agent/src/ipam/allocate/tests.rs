use std::collections::BTreeSet;

use super::*;
use crate::{model::network::NetworkRequest, store::memory::Memory};

async fn cluster(cidr: &str) -> (Arc<Memory>, Network) {
    let request = NetworkRequest {
        name: "blue".into(),
        subnets: vec![cidr.parse().expect("a literal")],
        ..NetworkRequest::default()
    };
    let network = request.into_network(1).expect("valid");
    let store = Arc::new(Memory::default());
    let ops = vec![Op::Put(Key::Network(1), model::encode(&network))];
    store.commit(Txn { conditions: vec![], ops }).await.expect("memory");
    (store, network)
}

fn node(store: &Arc<Memory>, name: &str) -> Ipam {
    Ipam::new(Arc::clone(store) as Arc<dyn Store>, name.into())
}

fn request(endpoint: &str, wanted: &[&str]) -> Request {
    Request {
        holder: Holder { endpoint: endpoint.into(), name: None },
        wanted: wanted.iter().map(|addr| addr.parse().expect("a literal")).collect(),
    }
}

#[tokio::test]
async fn two_nodes_never_share_a_block_or_an_address() {
    let (store, network) = cluster("10.0.0.0/26").await;
    let nodes = [node(&store, "h1"), node(&store, "h2")];
    let mut given = BTreeSet::new();
    let mut blocks: BTreeMap<IpNet, usize> = BTreeMap::new();
    for round in 0..60 {
        let which = round % 2;
        let Ok(addresses) = nodes[which].allocate(&network, &request(&round.to_string(), &[])).await else {
            break;
        };
        assert!(given.insert(addresses[0]), "{} twice", addresses[0]);
        let block = network.subnets[0].block_of(addresses[0]);
        assert_eq!(*blocks.entry(block).or_insert(which), which, "{block}");
    }
    // All but the network's own address, its last and the gateway.
    assert!(given.len() > 40, "{}", given.len());
}

#[tokio::test]
async fn a_full_subnet_says_so() {
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
    let given = h1.allocate(&network, &request("a", &["10.0.0.77"])).await.expect("free");
    assert_eq!(given, ["10.0.0.77".parse::<IpAddr>().expect("a literal")]);
    for (node, addr, reason) in [
        (&h1, "10.0.0.77", "taken by endpoint a on node h1"),
        (&h2, "10.0.0.78", "node h1 owns"),
        (&h1, "10.0.0.1", "gateway of network blue"),
        (&h1, "10.0.0.255", "first or last"),
        (&h1, "10.9.0.1", "no subnet of network blue"),
    ] {
        let refusal = node.allocate(&network, &request("b", &[addr])).await.expect_err(addr);
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
}

#[tokio::test]
async fn a_removed_network_gives_nothing() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let ipam = node(&store, "h1");
    ipam.allocate(&network, &request("a", &[])).await.expect("room");
    store.commit(Txn { conditions: vec![], ops: vec![Op::Delete(Key::Network(1))] }).await.expect("memory");
    let refusal = ipam.allocate(&network, &request("b", &[])).await.expect_err("gone");
    assert!(matches!(refusal, Refusal::NetworkGone(_)), "{refusal}");
}

#[tokio::test]
async fn a_sweep_takes_back_what_no_endpoint_holds() {
    let (store, network) = cluster("10.0.0.0/24").await;
    let ipam = node(&store, "h1");
    for id in ["a", "b"] {
        ipam.allocate(&network, &request(id, &[])).await.expect("room");
    }
    // A restarted agent has no view yet.
    node(&store, "h1").sweep(1, |id| id == "b").await.expect("memory");
    node(&store, "h2").sweep(1, |_| false).await.expect("memory");
    let listing = store.list(&[ipam_of(1)]).await.expect("memory");
    let Event::Put { value, .. } = &listing.entries[0] else { panic!("a put") };
    let allocations: Allocations = model::decode(value).expect("parses");
    let holders: Vec<_> = allocations.addresses.values().map(|h| h.endpoint.as_str()).collect();
    assert_eq!(holders, ["b"]);
}
