//! The agent's plugin, called as dockerd calls it.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::host::Host;

/// Calls the plugin as dockerd does: no content type, an empty Host. The status of
/// HTTP, and the answer.
pub fn call(host: &Host, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(host.plugin()).expect("the plugin listens");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {length}\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("a socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
}

/// A call that has to succeed.
#[track_caller]
pub fn ok(host: &Host, path: &str, body: &Value) -> Value {
    let (status, answer) = call(host, path, &body.to_string());
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}
