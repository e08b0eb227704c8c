//! Answers of the socket to requests that fail: the HTTP status, the problem, and the advice.

use margay_tests::{eventually::eventually, lab::Lab};
use serde_json::{Value, json};

use crate::{
    attach::one_host,
    junk::{request, say, status},
};

/// An answer of the socket.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn ask(lab: &Lab, method: &str, path: &str, body: &Value) -> Answer {
    let answer = say(lab.h(1), &request(method, path, &body.to_string()));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    Answer { status: status(&answer).expect("a status"), head: head.to_lowercase(), body }
}

/// A request and what its refusal says: method, path, body, problem, what to do.
type Case = (&'static str, &'static str, Value, &'static str, &'static str);

const NETWORKS: &str = "/v1/networks";
const ENDPOINTS: &str = "/v1/endpoints";

#[track_caller]
fn refused(lab: &Lab, wanted: u16, cases: impl IntoIterator<Item = Case>) {
    for (method, path, body, problem, mend) in cases {
        let answer = ask(lab, method, path, &body);
        assert_eq!(answer.status, wanted, "{method} {path} {body}: {answer:?}");
        for (field, text) in [("problem", problem), ("mend", mend), ("error", problem)] {
            let told = answer.body[field].as_str().unwrap_or_default();
            assert!(told.contains(text) && !told.is_empty(), "{method} {path} {body}: {field}: {answer:?}");
        }
        let again = answer.head.contains("\r\nretry-after: ");
        assert_eq!(again, wanted == 503, "{method} {path} {body}: {answer:?}");
    }
}

fn network(name: &str, subnet: &str) -> Value {
    json!({"name": name, "subnets": [subnet]})
}

fn endpoint(network: &str, netns: &str, more: &Value) -> Value {
    let mut body = json!({"network": network, "netns": netns, "ifname": "eth0"});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// Requests that make no sense.
fn senseless(free: &str) -> [Case; 7] {
    let attach = |netns: &str, more: Value| endpoint("blue", netns, &more);
    let (mac, addresses) = (json!({"mac": "elephant"}), json!({"addresses": ["10.9.0.1"]}));
    let pool = json!({"cidr": "10.0.0.0/16", "network_prefix": 8});
    [
        ("POST", NETWORKS, network("red", "10.9.0.1/24"), "did you mean 10.9.0.0/24", "correct the request"),
        ("POST", NETWORKS, json!({"subnets": 7}), "does not parse", "as JSON"),
        ("POST", ENDPOINTS, attach(free, mac), "elephant", "02:00:00"),
        ("POST", ENDPOINTS, attach(free, addresses), "in no subnet", "correct"),
        ("POST", ENDPOINTS, attach("/etc/hostname", json!({})), "no network namespace", "/proc/PID/ns/net"),
        ("POST", "/v1/pools", pool, "prefix /8", "correct"),
        ("POST", "/v1/guard", json!({"cidr": "0.0.0.0/0"}), "every address", "smaller prefix"),
    ]
}

/// Requests that name what does not exist.
fn missing(free: &str) -> [Case; 8] {
    let attach = |network: &str, netns: &str| endpoint(network, netns, &json!({}));
    let (node, way) = (json!({"name": "h7", "yes": false}), json!({"to": "10.1.0.1", "from": "x"}));
    let cidr = json!({"cidr": "10.0.0.0/16"});
    [
        ("DELETE", "/v1/networks/green", json!({}), "no network green", "network ls"),
        ("DELETE", "/v1/nodes", node, "no node h7", "node ls"),
        ("DELETE", "/v1/pools", cidr.clone(), "no pool 10.0.0.0/16", "pool ls"),
        ("DELETE", "/v1/guard", cidr, "not on the deny list", "margay guard ls"),
        ("POST", ENDPOINTS, attach("green", free), "no network green", "network create"),
        ("POST", ENDPOINTS, attach("blue", "/run/netns/x"), "/run/netns/x", "container still exists"),
        ("POST", "/v1/routes", way, "no endpoint x", "endpoint ls"),
        ("GET", "/v1/nothing", json!({}), "no GET /v1/nothing", "version"),
    ]
}

/// Requests that conflict with something that exists.
fn in_the_way(netns: &str, free: &str) -> [Case; 9] {
    let attach = |netns: &str, more: Value| endpoint("blue", netns, &more);
    let (web, db) = (json!({"name": "web"}), json!({"name": "db"}));
    let taken = json!({"addresses": ["10.1.0.9"]});
    [
        ("POST", NETWORKS, network("red", "10.1.4.0/24"), "overlaps 10.1.0.0/16", "another subnet"),
        ("POST", NETWORKS, network("blue", "10.9.0.0/24"), "exists with other options", "another name"),
        ("DELETE", "/v1/networks/blue", json!({}), "blue has endpoints", "detach"),
        ("DELETE", "/v1/nodes", json!({"name": "h1", "yes": false}), "is this node", "cleanup"),
        ("POST", ENDPOINTS, attach(free, web), "named web", "another name"),
        ("POST", ENDPOINTS, attach(free, taken), "is taken", "status"),
        ("POST", ENDPOINTS, attach(netns, db), "other options", "detach"),
        ("POST", "/v1/pools", json!({"cidr": "10.192.0.0/16"}), "overlaps pool", "another CIDR"),
        ("POST", "/v1/guard", json!({"cidr": "10.1.0.0/24"}), "of network blue", "another prefix"),
    ]
}

/// Requests that need the store; the last one wants an address that is not in the stash.
fn for_the_store(free: &str) -> [Case; 4] {
    const AWAY: &str = "the store is away";
    let elsewhere = endpoint("blue", free, &json!({"addresses": ["10.1.77.7"]}));
    [
        ("POST", NETWORKS, network("red", "10.9.0.0/24"), AWAY, "etcd"),
        ("DELETE", "/v1/networks/blue", json!({}), AWAY, "etcd"),
        ("POST", "/v1/pools", json!({"cidr": "10.0.0.0/16"}), AWAY, "etcd"),
        ("POST", ENDPOINTS, elsewhere, AWAY, "status"),
    ]
}

/// Whether a listing is marked stale.
fn dated(lab: &Lab, path: &str) -> bool {
    let answer = ask(lab, "GET", path, &json!({}));
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.head.contains("\r\nmargay-as-of: ")
}

#[test]
fn each_api_error_has_its_http_status_problem_and_advice() {
    let mut lab = one_host();
    let (c, other) = (lab.container(), lab.container());
    lab.h(1).attach(&c, "blue", &["--name", "web", "--ip", "10.1.0.9"]);
    let (netns, free) = (c.path().display().to_string(), other.path().display().to_string());
    refused(&lab, 400, senseless(&free));
    refused(&lab, 404, missing(&free));
    refused(&lab, 409, in_the_way(&netns, &free));
    let listings = [NETWORKS, ENDPOINTS, "/v1/nodes", "/v1/pools", "/v1/guard"];
    assert!(!listings.iter().any(|path| dated(&lab, path)), "what the agent knows is current");
    lab.kill_etcd();
    eventually("the store's end is noticed", || {
        let status = lab.h(1).json(&["status"]);
        if status["store"]["away"].is_string() { Ok(()) } else { Err(status) }
    });
    refused(&lab, 503, for_the_store(&free));
    // The agent answers from memory, and says since when the answer may be stale.
    for path in listings {
        assert!(dated(&lab, path), "{path}");
    }
}
