//! Pools, subnets and names that are used again.

use margay_tests::lab::Lab;

#[test]
fn networks_take_their_subnets_from_pools() {
    let lab = Lab::new(1);
    let h = lab.h(1);
    let pools = h.json(&["pool", "ls"]);
    assert_eq!((&pools[0]["cidr"], &pools[0]["network_prefix"]), (&"10.192.0.0/10".into(), &20.into()));
    assert_eq!(pools[0]["network_size"], 20, "the earlier name");
    h.ok(&["network", "create", "first"]);
    h.ok(&["pool", "rm", "10.192.0.0/10"]);
    let none = h.refused(&["network", "create", "second"]);
    assert!(none.contains("margay pool add"), "{none}");
    // The first half of this pool is the host's own wire.
    h.ok(&["pool", "add", "192.0.2.0/23", "--network-prefix", "24"]);
    h.ok(&["network", "create", "second"]);
    let second = h.json(&["network", "ls"])[1]["subnets"][0]["cidr"].clone();
    assert_eq!(second, "192.0.3.0/24", "what a host has on its links is not taken");
    let full = h.refused(&["network", "create", "third"]);
    assert!(full.contains("no IPv4 pool has a free subnet left (192.0.2.0/23 in /24)"), "{full}");
    let pools = h.json(&["pool", "ls"]);
    assert_eq!(pools[0]["networks"], serde_json::json!(["second"]));
    for (args, reason) in [
        (&["pool", "add", "192.0.2.0/25"][..], "overlaps pool 192.0.2.0/23"),
        (&["pool", "add", "10.0.0.1/16"], "did you mean 10.0.0.0/16"),
        (&["pool", "add", "10.0.0.0/16", "--network-size", "8"], "network prefix /8 does not fit"),
        (&["pool", "rm", "10.0.0.0/16"], "there is no pool"),
    ] {
        let refusal = h.refused(args);
        assert!(refusal.contains(reason), "{args:?}: {refusal}");
    }
    let (a, _) = lab.attached(1, "second");
    let (_b, addr) = lab.attached(1, "second");
    assert!(a.pings(addr[0], 1));
}

#[test]
fn prefix_length_options_and_the_older_size_options_work() {
    let lab = Lab::new(1);
    let h = lab.h(1);
    let blocks = |name: &str, more: &[&str]| {
        let create = ["network", "create", name, "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"];
        h.ok(&[&create[..], more].concat());
        let made: serde_json::Value =
            serde_json::from_str(&h.ok(&["network", "inspect", name])).expect("JSON");
        h.ok(&["network", "rm", name]);
        let of =
            |i: usize| (made["subnets"][i]["block_prefix"].clone(), made["subnets"][i]["block_size"].clone());
        [of(0), of(1)]
    };
    let is = |v4: (u8, u32), v6: (u8, u32)| [v4, v6].map(|(len, size)| (len.into(), size.into()));
    assert_eq!(blocks("usual", &[]), is((26, 64), (122, 64)));
    assert_eq!(blocks("one", &["--block-prefix", "28"]), is((28, 16), (124, 16)));
    assert_eq!(blocks("each", &["--block-prefix", "28", "--block-prefix", "120"]), is((28, 16), (120, 256)));
    assert_eq!(blocks("earlier", &["--block-size", "16"]), is((28, 16), (124, 16)));
    h.ok(&["pool", "add", "10.64.0.0/16", "--network-size", "24"]);
    h.ok(&["pool", "add", "10.64.0.0/16", "--network-prefix", "24"]);
    for twice in [
        &["pool", "add", "10.65.0.0/16", "--network-size", "24", "--network-prefix", "24"][..],
        &["network", "create", "red", "--block-size", "16", "--block-prefix", "28"],
    ] {
        let said = h.margay(twice);
        assert!(said.status == 2 && said.err.contains("cannot be used"), "{said:?}");
    }
}

#[test]
fn the_subnets_of_a_removed_network_are_free_at_once() {
    let lab = Lab::new(1);
    let subnets = ["--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"];
    for round in 0..3 {
        let name = format!("round{round}");
        lab.h(1).ok(&[&["network", "create", &name][..], &subnets].concat());
        let (a, _) = lab.attached(1, &name);
        let (b, addr) = lab.attached(1, &name);
        assert!(a.pings(addr[0], 1) && b.pings(addr[1], 1));
        for container in [&a, &b] {
            lab.h(1).detach(container);
        }
        lab.h(1).ok(&["network", "rm", &name]);
    }
}

#[test]
fn recreated_container_is_attached_again_under_its_name() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let mut before = None;
    for _ in 0..3 {
        let container = lab.container();
        let addr = lab.h(1).attach(&container, "blue", &["--name", "web"]);
        assert!(container.pings("10.1.0.1".parse().expect("an address"), 1));
        assert_ne!(before.replace(addr.clone()), Some(addr), "a freed address rests");
        // The namespace is removed, and the agent has not noticed yet when the next one comes.
        drop(container);
    }
}
