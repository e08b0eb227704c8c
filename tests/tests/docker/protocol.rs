//! The plugin protocol's corners, by direct calls.

use std::{io::Write, os::unix::net::UnixStream};

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
    plugin::{call, ok},
};
use serde_json::{Value, json};

/// What dockerd 20.10 and a plugin said to each other, each kind of exchange
/// once: call, headers, request, answer.
const EXCHANGES: &str = include_str!("exchanges.json");

/// A call that has to be refused: its reason, in both fields.
#[track_caller]
fn refused(host: &Host, path: &str, body: &str) -> String {
    let (status, answer) = call(host, path, body);
    assert!(status >= 400, "{path} {body}: {status} {answer}");
    assert_eq!(answer["Err"], answer["Error"], "the two drivers read different fields");
    answer["Err"].as_str().expect("a reason").into()
}

/// A host without Docker: what calls is this test.
fn alone() -> Lab {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).up();
    lab
}

#[test]
fn recorded_dockerd_requests_get_answers_with_the_expected_fields() {
    let lab = alone();
    let exchanges: Vec<Value> = serde_json::from_str(EXCHANGES).expect("JSON");
    let mut seen = std::collections::BTreeSet::new();
    for exchange in &exchanges {
        let path = exchange["path"].as_str().expect("a path");
        let request = match &exchange["request"] {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        // The recorded plugin had other names for its address space and pools.
        let request = request.replace("XLocal", "margay").replace("pool-", "");
        let (status, answer) = call(lab.h(1), path, &request);
        seen.insert((path.to_owned(), status));
        if request.is_empty() && path.contains("CreateEndpoint") {
            assert_eq!(status, 400, "a repetition after a broken connection");
            continue;
        }
        let ports = path.contains("ProgramExternal") && request.contains("HostPort");
        // The endpoint's creation is not among the exchanges.
        let strange = answer["Err"].as_str().is_some_and(|told| told.contains("create it first"));
        // The recorded plugin used one subnet for all networks, and gave out auxiliary addresses.
        let foreign = request.contains("10.65.0.11/32") || request.contains("10.65.0.9/32\",\"AddressIPv6");
        assert_eq!(status != 200, ports || foreign || strange, "{path} {request}: {answer}");
        if status == 200 {
            let keys = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>());
            for key in keys(&exchange["answer"]).unwrap_or_default() {
                assert!(!answer[&key].is_null(), "{path}: {key} in {answer}");
            }
        }
    }
    let answered = seen.iter().filter(|(_, status)| *status == 200).count();
    assert!(answered >= 17, "{seen:?}");
}

#[test]
fn malformed_plugin_requests_are_refused_and_change_nothing() {
    let lab = alone();
    let h1 = lab.h(1);
    h1.ok(&["network", "create", "blue", "--subnet", "10.65.0.0/16"]);
    let before = h1.json(&["network", "ls"]);
    for (path, body, reason) in [
        ("/NetworkDriver.CreateNetwork", "", "the request is empty"),
        ("/NetworkDriver.CreateNetwork", "{", "does not parse"),
        ("/NetworkDriver.CreateNetwork", "[]", "does not parse"),
        ("/NetworkDriver.CreateNetwork", "{}", "is not a network id"),
        ("/NetworkDriver.CreateNetwork", r#"{"NetworkID":7}"#, "does not parse"),
        (
            "/NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"0123456789abcdef","IPv4Data":null}"#,
            "a network needs a subnet",
        ),
        (
            "/NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"0123456789abcdef","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"10.66.0.0/16"}]}"#,
            "--ipam-driver margay",
        ),
        (
            "/NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"0123456789abcdef","IPv4Data":[{"AddressSpace":"margay","Pool":"10.66/16"}]}"#,
            "is no subnet like",
        ),
        ("/NetworkDriver.CreateEndpoint", r#"{"EndpointID":"e1"}"#, "needs an address"),
        (
            "/NetworkDriver.CreateEndpoint",
            r#"{"EndpointID":"","Interface":{"Address":"10.65.0.5/32"}}"#,
            "needs an id",
        ),
        (
            "/NetworkDriver.CreateEndpoint",
            r#"{"EndpointID":"e1","Interface":{"Address":"10.99.0.5/32"}}"#,
            "no network has",
        ),
        (
            "/NetworkDriver.CreateEndpoint",
            r#"{"EndpointID":"e1","Interface":{"Address":"10.65.0.5/32","MacAddress":"01:00:00:00:00:01"}}"#,
            "unicast",
        ),
        ("/NetworkDriver.Join", r#"{"EndpointID":"nobody"}"#, "create it first"),
        ("/IpamDriver.RequestAddress", r#"{"PoolID":"10.99.0.0/16","Address":""}"#, "no network with subnet"),
        ("/IpamDriver.RequestAddress", r#"{"PoolID":"blue","Address":""}"#, "is no subnet like"),
        (
            "/IpamDriver.RequestAddress",
            r#"{"PoolID":"10.65.0.0/16","Address":"10.66.0.1"}"#,
            "is outside subnet",
        ),
        ("/IpamDriver.RequestAddress", r#"{"PoolID":"10.65.0.0/16","Address":"x"}"#, "is no address"),
        ("/IpamDriver.RequestPool", r#"{"Pool":"","SubPool":"10.1.0.0/24"}"#, "needs --subnet"),
        ("/IpamDriver.RequestPool", r#"{"Pool":"10.1.0.0/16","SubPool":"10.2.0.0/24"}"#, "is not within"),
        ("/NetworkDriver.Fly", "{}", "there is no call"),
    ] {
        let told = refused(h1, path, body);
        assert!(told.contains(reason), "{path} {body}: {told}");
    }
    assert_eq!(h1.json(&["network", "ls"]), before);
    assert_eq!(h1.json(&["endpoint", "ls"]), json!([]));
    // A truncated request changes nothing, and Docker repeats it without a body.
    let mut stream = UnixStream::connect(h1.plugin()).expect("the plugin listens");
    write!(
        stream,
        "POST /NetworkDriver.CreateNetwork HTTP/1.1\r\nHost: \r\nContent-Length: 500\r\n\r\n{{\"Netw"
    )
    .expect("a socket");
    drop(stream);
    assert!(refused(h1, "/NetworkDriver.CreateNetwork", "").contains("try again"));
    assert_eq!(call(h1, "/NetworkDriver.Fly", "{}").0, 404, "which Docker takes for not implemented");
}

#[test]
fn repeated_and_reordered_plugin_calls_are_accepted() {
    let lab = alone();
    let h1 = lab.h(1);
    let net = "a".repeat(64);
    let pool = json!({"AddressSpace": "margay", "Pool": "10.65.0.0/16", "SubPool": null, "Options": null, "V6": false, "New": 1});
    let id = ok(h1, "/IpamDriver.RequestPool", &pool)["PoolID"].clone();
    assert_eq!(ok(h1, "/IpamDriver.RequestPool", &pool)["PoolID"], id, "the same again");
    let gateway =
        json!({"PoolID": id, "Address": "", "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    for _ in 0..3 {
        assert_eq!(ok(h1, "/IpamDriver.RequestAddress", &gateway)["Address"], "10.65.0.1/32");
    }
    let create = json!({
        "NetworkID": net, "Options": {"com.docker.network.generic": null, "new": [1]},
        "IPv4Data": [{"AddressSpace": "margay", "Pool": "10.65.0.0/16", "Gateway": "10.65.0.1/32"}], "IPv6Data": null,
    });
    ok(h1, "/NetworkDriver.CreateNetwork", &create);
    ok(h1, "/NetworkDriver.CreateNetwork", &create);
    assert_eq!(h1.json(&["network", "ls"]).as_array().map(Vec::len), Some(1));
    // Releasing the gateway changes nothing, since other hosts have it, too.
    ok(h1, "/IpamDriver.ReleaseAddress", &json!({"PoolID": id, "Address": "10.65.0.1"}));
    let address = json!({"PoolID": id, "Address": "", "Options": null});
    let given = ok(h1, "/IpamDriver.RequestAddress", &address)["Address"].clone();
    let endpoint = json!({"NetworkID": net, "EndpointID": "e1"});
    // Leave without Join, Revoke without Program, DeleteEndpoint without an endpoint.
    for path in
        ["Leave", "RevokeExternalConnectivity", "DeleteEndpoint", "DeleteEndpoint", "EndpointOperInfo"]
    {
        ok(h1, &format!("/NetworkDriver.{path}"), &endpoint);
    }
    let made = json!({"NetworkID": net, "EndpointID": "e1", "Interface": {"Address": given, "AddressIPv6": null, "MacAddress": ""}});
    let mac = ok(h1, "/NetworkDriver.CreateEndpoint", &made)["Interface"]["MacAddress"].clone();
    assert_eq!(ok(h1, "/NetworkDriver.CreateEndpoint", &made)["Interface"]["MacAddress"], mac);
    let other = json!({"NetworkID": net, "EndpointID": "e1", "Interface": {"Address": "10.65.0.77/32"}});
    assert!(refused(h1, "/NetworkDriver.CreateEndpoint", &other.to_string()).contains("exists already"));
    let join = json!({"NetworkID": net, "EndpointID": "e1", "SandboxKey": "/nowhere", "Options": null});
    let first = ok(h1, "/NetworkDriver.Join", &join);
    assert_eq!(ok(h1, "/NetworkDriver.Join", &join), first);
    let link = first["InterfaceName"]["SrcName"].as_str().expect("a name").to_owned();
    assert!(h1.namespace.run(&format!("ip link show {link}")).ok(), "it waits to be moved");
    assert_eq!(
        first["StaticRoutes"][0],
        json!({"Destination": "10.65.0.1/32", "RouteType": 1, "NextHop": ""})
    );
    // Released while an endpoint still has it: the endpoint is removed, too.
    let plain = given.as_str().and_then(|text| text.split('/').next()).expect("an address");
    ok(h1, "/IpamDriver.ReleaseAddress", &json!({"PoolID": id, "Address": plain}));
    eventually("the interface is gone", || {
        let said = h1.namespace.run(&format!("ip link show {link}"));
        if said.ok() { Err(said) } else { Ok(()) }
    });
    assert_eq!(h1.json(&["endpoint", "ls"]), json!([]));
    for path in ["Leave", "DeleteEndpoint", "DeleteEndpoint"] {
        ok(h1, &format!("/NetworkDriver.{path}"), &endpoint);
    }
    ok(h1, "/IpamDriver.ReleaseAddress", &json!({"PoolID": id, "Address": plain}));
    // Docker releases before it deletes, and deletes unknown networks.
    ok(h1, "/IpamDriver.ReleasePool", &json!({"PoolID": id}));
    ok(h1, "/NetworkDriver.DeleteNetwork", &json!({"NetworkID": net}));
    ok(h1, "/NetworkDriver.DeleteNetwork", &json!({"NetworkID": net}));
}

/// Docker retries while the plugin does not answer. Meanwhile the agent may have freed the
/// address and given it to another container.
#[test]
fn late_release_of_an_address_does_not_free_it_for_its_new_owner() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = vec!["--docker-patience".into(), "1".into()];
    lab.host(1).up();
    let h1 = lab.h(1);
    h1.ok(&["network", "create", "blue", "--subnet", "10.65.0.0/16"]);
    let net = "a".repeat(64);
    let asked = json!({"PoolID": "10.65.0.0/16", "Address": "10.65.0.9"});
    let endpoint =
        |id: &str| json!({"NetworkID": net, "EndpointID": id, "Interface": {"Address": "10.65.0.9/32"}});
    ok(h1, "/IpamDriver.RequestAddress", &asked);
    ok(h1, "/NetworkDriver.CreateEndpoint", &endpoint("e1"));
    ok(h1, "/NetworkDriver.DeleteEndpoint", &endpoint("e1"));
    eventually("the address is taken back", || {
        let log = h1.log();
        if log.contains("took address 10.65.0.9 back") { Ok(()) } else { Err(log) }
    });
    ok(h1, "/IpamDriver.RequestAddress", &asked);
    ok(h1, "/NetworkDriver.CreateEndpoint", &endpoint("e2"));
    ok(h1, "/IpamDriver.ReleaseAddress", &asked);
    let left = h1.json(&["endpoint", "ls"]);
    assert_eq!(left[0]["addresses"][0], "10.65.0.9", "{left}");
    // Its own end is one.
    ok(h1, "/NetworkDriver.DeleteEndpoint", &endpoint("e2"));
    ok(h1, "/IpamDriver.ReleaseAddress", &asked);
    assert_eq!(h1.json(&["endpoint", "ls"]), json!([]));
    ok(h1, "/IpamDriver.RequestAddress", &asked);
    ok(h1, "/NetworkDriver.CreateEndpoint", &endpoint("e3"));
    ok(h1, "/IpamDriver.ReleaseAddress", &asked);
    assert_eq!(h1.json(&["endpoint", "ls"]), json!([]), "given up by who has it");
}

#[test]
fn each_request_for_any_subnet_gets_a_different_one() {
    let lab = alone();
    let h1 = lab.h(1);
    let any = json!({"AddressSpace": "margay", "Pool": "", "V6": false});
    let pools: Vec<Value> =
        (0..3).map(|_| ok(h1, "/IpamDriver.RequestPool", &any)["PoolID"].clone()).collect();
    assert!(pools[0] != pools[1] && pools[1] != pools[2], "{pools:?}");
    for pool in &pools {
        ok(h1, "/IpamDriver.ReleasePool", &json!({"PoolID": pool}));
    }
    assert!(!h1.ok(&["store", "export"]).contains("reservations/"));
    // A caller that retries for ever gets the reason.
    let mut told = String::new();
    for _ in 0..100 {
        let (status, answer) = call(h1, "/IpamDriver.RequestPool", &any.to_string());
        if status != 200 {
            told = answer["Error"].as_str().unwrap_or_default().into();
            break;
        }
    }
    assert!(told.contains("64 subnets of the pools were refused"), "{told}");
}

#[test]
fn several_requests_for_one_networks_subnet_share_it() {
    let lab = alone();
    let h1 = lab.h(1);
    h1.ok(&["network", "create", "there", "--subnet", "10.66.0.0/16"]);
    let ask = |pool: &str| {
        let request = json!({"AddressSpace": "margay", "Pool": pool, "Options": {"margay.network": "there"}});
        call(h1, "/IpamDriver.RequestPool", &request.to_string())
    };
    // The callers are the agent for this host's Docker, and users who name the network.
    for pool in ["10.66.0.0/16", "", "", "10.66.0.0/16", ""] {
        let (status, answer) = ask(pool);
        assert_eq!((status, &answer["Pool"]), (200, &json!("10.66.0.0/16")), "{answer}");
    }
    // A caller that takes the subnet asks for the gateway next, and no longer counts as refusing.
    let gateway =
        json!({"PoolID": "10.66.0.0/16", "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    for _ in 0..20 {
        assert_eq!(ask("").0, 200);
        ok(h1, "/IpamDriver.RequestAddress", &gateway);
    }
    // A caller that only repeats its request gets the reason why it cannot succeed.
    let answers: Vec<(u16, Value)> = (0..9).map(|_| ask("")).collect();
    assert!(answers[..8].iter().all(|(status, _)| *status == 200), "{answers:?}");
    let told = answers[8].1["Error"].as_str().unwrap_or_default();
    assert!(told.contains("refuses 10.66.0.0/16"), "{answers:?}");
}

#[test]
fn reserved_subnet_is_free_once_every_holder_released_it() {
    let lab = alone();
    let h1 = lab.h(1);
    let ask = json!({"AddressSpace": "margay", "Pool": "", "Options": {"margay.network": "soon"}});
    let pool = ok(h1, "/IpamDriver.RequestPool", &ask)["PoolID"].clone();
    for _ in 1..8 {
        assert_eq!(ok(h1, "/IpamDriver.RequestPool", &ask)["PoolID"], pool, "kept for its name");
    }
    assert!(refused(h1, "/IpamDriver.RequestPool", &ask.to_string()).contains("refuses"));
    let kept = || h1.ok(&["store", "export"]).contains("reservations/");
    for _ in 0..8 {
        assert!(kept(), "somebody still holds it");
        ok(h1, "/IpamDriver.ReleasePool", &json!({"PoolID": pool}));
    }
    assert!(!kept());
}

#[test]
fn plugin_handshake_works_without_the_store() {
    let mut lab = alone();
    lab.host(1).stop();
    lab.kill_etcd();
    lab.host(1).start();
    for path in [
        "/Plugin.Activate",
        "/NetworkDriver.GetCapabilities",
        "/IpamDriver.GetCapabilities",
        "/IpamDriver.GetDefaultAddressSpaces",
    ] {
        let (status, answer) = call(lab.h(1), path, "");
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let told = refused(lab.h(1), "/IpamDriver.RequestPool", r#"{"AddressSpace":"margay","Pool":""}"#);
    assert!(told.contains("the store is away"), "{told}");
}
