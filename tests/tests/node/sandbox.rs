//! Docker's part of an endpoint without Docker: the driver's calls, and what libnetwork
//! does with the interface between them. So it runs on kernels that have no Docker.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
    plugin::ok,
};
use serde_json::{Value, json};

const POOLS: [&str; 2] = ["10.65.0.0/16", "fd00:65::/64"];

/// An address of a pool, with its length.
fn address(host: &Host, pool: &str) -> String {
    let request = json!({"PoolID": pool, "Address": "", "Options": null});
    let given = ok(host, "/IpamDriver.RequestAddress", &request);
    given["Address"].as_str().expect("an address").into()
}

/// Moves the interface into the sandbox and sets it up there, in libnetwork's order:
/// down, moved, renamed, MAC, addresses, up, routes, gateways.
fn plug(host: &Host, sandbox: &Namespace, joined: &Value, mac: &Value, addresses: &[String]) {
    let link = joined["InterfaceName"]["SrcName"].as_str().expect("a name");
    host.namespace.sh(&format!("ip link set {link} down"));
    host.namespace.sh(&format!("ip link set {link} netns {}", sandbox.name()));
    let mac = mac["Interface"]["MacAddress"].as_str().expect("a MAC");
    let name = if sandbox.sh("ip -o link").contains("eth0") { "eth1" } else { "eth0" };
    sandbox.sh(&format!("ip link set {link} name {name}"));
    sandbox.sh(&format!("ip link set {name} address {mac}"));
    for addr in addresses {
        let nodad = if addr.contains(':') { "nodad" } else { "" };
        sandbox.sh(&format!("ip addr add {addr} dev {name} {nodad}"));
    }
    sandbox.sh(&format!("ip link set {name} up"));
    for route in joined["StaticRoutes"].as_array().expect("a list") {
        let word = |name: &str| route[name].as_str().unwrap_or_default().to_owned();
        let way = if word("NextHop").is_empty() { String::new() } else { format!("via {}", word("NextHop")) };
        sandbox.sh(&format!("ip route add {} {way} dev {name}", word("Destination")));
    }
    for gateway in ["Gateway", "GatewayIPv6"] {
        let gateway = joined[gateway].as_str().expect("an address");
        // The first network's leads to the world.
        if name == "eth0" {
            sandbox.sh(&format!("ip route add default via {gateway} dev eth0"));
        }
    }
}

/// Makes an endpoint and plugs it into a sandbox, as `eth0` or what comes next; its
/// addresses, without their length.
fn run(host: &Host, sandbox: &Namespace, id: &str, pools: [&str; 2]) -> (Value, Vec<IpAddr>) {
    let addresses = pools.map(|pool| address(host, pool));
    let endpoint =
        json!({"NetworkID": "n".repeat(64), "EndpointID": id.repeat(64), "SandboxKey": sandbox.path()});
    let mut create = endpoint.clone();
    create["Interface"] = json!({"Address": addresses[0], "AddressIPv6": addresses[1], "MacAddress": ""});
    let mac = ok(host, "/NetworkDriver.CreateEndpoint", &create);
    let joined = ok(host, "/NetworkDriver.Join", &endpoint);
    plug(host, sandbox, &joined, &mac, &addresses);
    let plain = addresses.iter().filter_map(|addr| addr.split('/').next()?.parse().ok());
    (endpoint, plain.collect())
}

#[test]
fn interface_that_docker_moves_into_a_sandbox_and_back_is_served() {
    let lab = Lab::from(Plan { v6: true, ..Plan::for_test(2) });
    let (h1, sandbox) = (lab.h(1), lab.container());
    h1.ok(&["network", "create", "blue", "--subnet", POOLS[0], "--subnet", POOLS[1]]);
    let (_near, addr_near) = lab.attached(1, "blue");
    let (far, addr_far) = lab.attached(2, "blue");
    let (endpoint, addresses) = run(h1, &sandbox, "e", POOLS);
    let node = lab.h(2).addresses.clone();
    for addr in addr_near.iter().chain(&addr_far).chain(&node) {
        assert!(sandbox.pings(*addr, 3), "{addr}");
    }
    for addr in &addresses {
        assert!(far.pings(*addr, 3), "from h2 to {addr}");
    }
    ok(h1, "/NetworkDriver.Leave", &endpoint);
    sandbox.sh("ip link set eth0 down");
    sandbox.sh("ip link set eth0 name mgpback");
    sandbox.sh(&format!("ip link set mgpback netns {}", h1.namespace.name()));
    ok(h1, "/NetworkDriver.DeleteEndpoint", &endpoint);
    eventually("the interface is gone", || {
        let links = h1.namespace.sh("ip -o link");
        if links.contains("mgpback") { Err(links) } else { Ok(()) }
    });
    assert!(!sandbox.sh("ip -o link").contains("eth0"));
    let left = h1.json(&["endpoint", "ls"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1), "near's alone: {left}");
}

#[test]
fn docker_container_sends_only_from_its_own_addresses_on_all_its_networks() {
    const RED: [&str; 2] = ["10.66.0.0/16", "fd00:66::/64"];
    let lab = Lab::from(Plan { v6: true, ..Plan::for_test(1) });
    let (h1, both, other) = (lab.h(1), lab.container(), lab.container());
    for (name, pools) in [("blue", POOLS), ("red", RED)] {
        h1.ok(&["network", "create", name, "--subnet", pools[0], "--subnet", pools[1]]);
    }
    let (_, in_blue) = run(h1, &both, "b", POOLS);
    let (_, in_red) = run(h1, &both, "r", RED);
    run(h1, &other, "o", RED);
    let (_peer, addr_peer) = lab.attached(1, "red");
    for family in 0..2 {
        let addr = addr_peer[family];
        assert!(both.pings(addr, 1) && other.pings(addr, 1));
        // Through its blue interface with its red address: it is its own.
        let (red, gateway) = (in_red[family], ["10.65.0.1", "fd00:65::1"][family]);
        both.sh(&format!("ip route replace {addr} via {gateway} dev eth0 src {red}"));
        assert!(both.pings_with(&format!("-I {red}"), addr, 3), "{red} to {addr}");
        // With the address of another container, on a network that it has not joined.
        let nodad = if family == 0 { "" } else { "nodad" };
        other.sh(&format!("ip addr add {} dev eth0 {nodad}", in_blue[family]));
        let before = h1.count("from_workload", "spoofed_source");
        assert!(!other.run(&format!("ping -n -q -c 2 -i 0.05 -W 1 -I {} {addr}", in_blue[family])).ok());
        assert!(h1.count("from_workload", "spoofed_source") >= before + 2);
    }
}
