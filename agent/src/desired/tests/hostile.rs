//! Values of the right shape that no agent wrote: nothing hangs, nothing panics, and what
//! the kernel holds for everybody else stays what it was.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = Value> {
    proptest::sample::select(texts).prop_map(Value::from)
}

fn cidrs() -> impl Strategy<Value = Value> {
    one_of(&[
        "10.77.0.0/16",
        "10.77.0.0/29",
        "10.77.0.1/16",
        "10.1.0.0/16",
        "10.1.64.0/18",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "192.0.2.0/24",
        "224.0.0.0/4",
        "fd00:77::/64",
        "fd00:77::/120",
        "fd00:1::/64",
        "::/0",
        "::ffff:10.1.0.0/112",
        "fe80::/64",
        "10.77.0.0/32",
        "fd00:77::/128",
        "nonsense",
        "",
    ])
}

fn addresses() -> impl Strategy<Value = Value> {
    one_of(&[
        "10.77.0.1",
        "10.77.0.0",
        "10.77.255.255",
        "10.1.0.2",
        "192.0.2.1",
        "192.0.2.9",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "fd00:77::1",
        "fd00:1::2",
        "::",
        "::1",
        "::ffff:192.0.2.9",
        "fe80::1",
        "ff02::1",
        "x",
    ])
}

fn names() -> impl Strategy<Value = Value> {
    prop_oneof![
        one_of(&["evil", "blue", "h1", "h2", "h9", "", "\u{1b}[2J", "a/b"]),
        ".{0,80}".prop_map(Value::from)
    ]
}

fn numbers() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..300_u64).prop_map(Value::from),
        proptest::sample::select(vec![0, 1, 77, 65_535, u64::from(u32::MAX), u64::MAX]).prop_map(Value::from),
    ]
}

/// Subnets that could be; some are others', or hold what this node needs.
const PLAIN: &[(&str, &str, u8)] = &[
    ("10.77.0.0/16", "10.77.0.1", 26),
    ("10.1.0.0/16", "10.1.0.1", 26),
    ("10.1.64.0/18", "10.1.64.1", 26),
    ("10.0.0.0/8", "10.0.0.1", 24),
    ("192.0.2.0/24", "192.0.2.254", 28),
    ("fd00:77::/64", "fd00:77::1", 122),
    ("fd00:1::/64", "fd00:1::1", 122),
];

fn network() -> impl Strategy<Value = Value> {
    let aux = proptest::collection::btree_map(".{0,8}", addresses(), 0..3);
    let subnet = (cidrs(), addresses(), numbers(), proptest::option::of(cidrs()), aux);
    let strange = subnet.prop_map(|(cidr, gateway, block_len, range, aux)| {
        json!({"cidr": cidr, "gateway": gateway, "block_len": block_len, "range": range, "aux": aux})
    });
    let plain = proptest::sample::select(PLAIN)
        .prop_map(|(cidr, gateway, len)| json!({"cidr": cidr, "gateway": gateway, "block_len": len}));
    let subnets = proptest::collection::vec(prop_oneof![strange, plain], 0..3);
    let name = prop_oneof![3 => Just(json!("evil")), 1 => names()];
    let mtu = proptest::option::weighted(0.2, numbers());
    (numbers(), name, subnets, mtu, any::<(bool, bool, bool)>()).prop_map(
        |(id, name, subnets, mtu, (internal, routable, usual))| {
            // Most are to be read further than their id.
            let id = if usual { json!(77) } else { id };
            json!({"v": 1, "id": id, "name": name, "subnets": subnets, "mtu": mtu,
                   "internal": internal, "routable": routable})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let addresses = || proptest::collection::vec(addresses(), 0..4);
    let lists = (addresses(), addresses(), proptest::collection::vec(cidrs(), 0..4));
    (names(), lists, numbers(), any::<bool>()).prop_map(
        |(name, (addresses, depends_on, occupied), since, usual)| {
            let name = if usual { json!("h9") } else { name };
            json!({"v": 1, "name": name, "addresses": addresses, "depends_on": depends_on,
               "occupied": occupied, "since": since, "super_packets": since})
        },
    )
}

/// A key that nobody has yet, and a value for it.
fn strange() -> impl Strategy<Value = (String, Value)> {
    let claim = || names().prop_map(|node| json!({"v": 1, "node": node}));
    let at = |key: &'static str| move |value: Value| (key.to_owned(), value);
    let pool = (cidrs(), numbers()).prop_map(|(cidr, len)| json!({"v": 1, "cidr": cidr, "network_len": len}));
    let of_time =
        || (numbers(), names()).prop_map(|(since, id)| json!({"v": 1, "since": since, "instance": id}));
    prop_oneof![
        4 => network().prop_map(at("networks/77")),
        3 => node().prop_map(at("nodes/h9")),
        1 => claim().prop_map(at("routes/77/10.77.0.64-26")),
        1 => claim().prop_map(at("routes/77/10.77.0.9-32")),
        1 => claim().prop_map(at("routes/77/fd00:77::40-122")),
        1 => claim().prop_map(at("routes/2/10.2.0.0-28")),
        1 => claim().prop_map(at("routes/2/10.2.0.0-16")),
        1 => pool.prop_map(at("pools/10.77.0.0-16")),
        1 => of_time().prop_map(at("alive/h9")),
        1 => of_time().prop_map(at("removed/h9")),
        1 => of_time().prop_map(at("refused/192.0.2.0-24")),
        1 => of_time().prop_map(at("refused/0.0.0.0-0")),
        1 => of_time().prop_map(at("refused/fe80::-10")),
        1 => (numbers(), names()).prop_map(|(n, id)| ("cluster".to_owned(), json!({"v": 1, "id": id, "epoch": n}))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn no_value_changes_what_the_kernel_holds_for_others(
        strange in proptest::collection::vec(strange(), 1..6),
        restarted in any::<bool>(),
    ) {
        let facts = facts();
        let mut snapshot = snapshot();
        snapshot.settle(&facts.vital(), &BTreeMap::new());
        let before = desired(&snapshot, &facts);
        let followed = snapshot.followed();
        let put = |(key, value): &(String, Value)| Event::Put {
            key: format!("/margay/v1/{key}"),
            value: value.to_string().into_bytes(),
            revision: 2,
        };
        if restarted {
            let all: Vec<Event> = events().into_iter().chain(strange.iter().map(put)).collect();
            snapshot = Snapshot::of(&all, &snapshot);
        } else {
            strange.iter().for_each(|value| snapshot.apply(&put(value)));
        }
        snapshot.settle(&facts.vital(), &followed);
        let after = desired(&snapshot, &facts);
        for entry in before.entries() {
            let kept = after.entries().any(|found| found == entry);
            prop_assert!(kept, "{entry:?} is lost by {strange:?}");
        }
        let denied = after.denied.keys().filter(|key| key.addr == Addr::from(ip("fe80::")));
        prop_assert_eq!(denied.count(), 0, "neighbours are denied");
        // Whatever was taken is usable, and told of in finite time.
        for network in snapshot.networks.values() {
            prop_assert!(network.check().is_ok());
            for subnet in &network.subnets {
                prop_assert!(subnet.block_count() >= 2 && subnet.offered_blocks().1 >= 1);
            }
        }
        drop(snapshot.last_good());
    }
}
