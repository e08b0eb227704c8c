//! Requests that a member of the socket's group may send and the command never sends.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use margay_tests::{host::Host, lab::Lab};
use serde_json::{Value, json};

use crate::attach::one_host;

/// Sends bytes to the agent's socket, and returns the answer up to its end.
pub fn say(host: &Host, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(host.socket()).expect("the agent listens");
    // The agent may answer and close before it has read everything.
    drop(stream.write_all(bytes));
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

/// A request with a body of JSON.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let head = "Host: margay\r\nConnection: close\r\nContent-Type: application/json";
    format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The status of an answer, if it is one.
pub fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[track_caller]
fn refused(lab: &Lab, bytes: &[u8]) -> String {
    let answer = say(lab.h(1), bytes);
    let status = status(&answer);
    assert!(status.is_some_and(|status| (400..500).contains(&status)), "{answer}");
    answer
}

/// All objects that an agent has created.
fn made(lab: &Lab) -> (Value, Value, Value, String) {
    let h1 = lab.h(1);
    let lists = [["network", "ls"], ["endpoint", "ls"], ["pool", "ls"]].map(|list| h1.json(&list));
    let [networks, endpoints, pools] = lists;
    (networks, endpoints, pools, h1.namespace.sh("ip -o link"))
}

#[test]
fn junk_on_the_socket_is_refused_and_the_agent_goes_on() {
    let lab = one_host();
    let before = made(&lab);
    for junk in [&b"\0\xff\xfe\x16\x03\x01"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        refused(&lab, junk);
    }
    refused(&lab, &[b"GET / HTTP/1.1\r\nx: ", &vec![b'a'; 1 << 20][..], b"\r\n\r\n"].concat());
    refused(&lab, &request("GET", "/v1/../../etc/passwd", ""));
    refused(&lab, &request("DELETE", "/v1/status", ""));
    let attach = |body: &str| request("POST", "/v1/endpoints", body);
    for body in ["", "{", "[]", "null", r#"{"network":7}"#, r#"{"network":"blue"}"#] {
        refused(&lab, &attach(body));
    }
    refused(&lab, &attach(&"[".repeat(100_000)));
    refused(&lab, &attach(&format!(r#"{{"network":"{}"}}"#, "a".repeat(4 << 20))));
    // A body that is shorter than it is said to be.
    let mut short = attach("{}");
    short.truncate(short.len() - 1);
    let mut stream = UnixStream::connect(lab.h(1).socket()).expect("the agent listens");
    stream.write_all(&short).expect("a socket");
    drop(stream);
    assert_eq!(made(&lab), before, "without a trace");
    lab.h(1).well();
}

#[test]
fn half_open_requests_do_not_delay_others() {
    let lab = one_host();
    let hanging = |_| {
        let mut stream = UnixStream::connect(lab.h(1).socket()).expect("the agent listens");
        stream.write_all(b"POST /v1/endpoints HTTP/1.1\r\nContent-Length: 99\r\n\r\n{").expect("a socket");
        stream
    };
    let _hanging: Vec<UnixStream> = (0..200).map(hanging).collect();
    let (c, addresses) = lab.attached(1, "blue");
    assert!(lab.h(1).namespace.pings(addresses[0], 1) && c.pings(addresses[1], 1));
}

#[test]
fn odd_paths_and_names_are_refused_and_change_nothing() {
    let lab = one_host();
    let c = lab.container();
    let before = made(&lab);
    let file = lab.h(1).dir().join("file");
    std::fs::write(&file, "no namespace").expect("a file");
    let outside = c.path().display().to_string();
    let attach = |network: &str, netns: &str, ifname: &str| {
        let body = json!({"network": network, "netns": netns, "ifname": ifname});
        refused(&lab, &request("POST", "/v1/endpoints", &body.to_string()))
    };
    for netns in ["", ".", "/", "/dev/null", "/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/1/mem"] {
        attach("blue", netns, "eth0");
    }
    attach("blue", &file.display().to_string(), "eth0");
    attach("blue", "/run/netns/a\0b", "eth0");
    for ifname in ["", ".", "..", "a/b", "../eth0", "eth%d", "a b", "sixteen-letters-", "\u{7f}", "é"] {
        attach("blue", &outside, ifname);
    }
    for network in ["", "../blue", "blue/", "BLUE ", "*"] {
        attach(network, &outside, "eth0");
    }
    assert_eq!(made(&lab), before, "without a trace");
}

#[test]
fn odd_subnets_and_sizes_are_refused_and_change_nothing() {
    let lab = one_host();
    let before = made(&lab);
    let create = |more: Value| {
        let mut body = json!({"name": "red", "subnets": ["10.9.0.0/24"], "gateways": [], "ranges": []});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        refused(&lab, &request("POST", "/v1/networks", &body.to_string()))
    };
    for subnet in
        ["0.0.0.0/0", "::/0", "10.9.0.0/33", "10.9.0.0/31", "::ffff:10.9.0.0/112", "fe80::/64", "10.9"]
    {
        create(json!({"subnets": [subnet]}));
    }
    for size in [json!(0), json!(-1), json!(1), json!(3), json!("64"), json!(1e30), json!(u64::MAX)] {
        create(json!({"block_size": size}));
    }
    for mtu in [json!(0), json!(575), json!(-1), json!(1_u64 << 40), json!("1500")] {
        create(json!({"mtu": mtu}));
    }
    assert_eq!(made(&lab), before, "without a trace");
}
