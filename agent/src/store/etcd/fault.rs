//! What went wrong with etcd, in words, and what that says of the request.

use std::{
    error::Error as StdError,
    io::{self, ErrorKind},
};

use rustls::{CertificateError, Error as Tls};

use crate::store::{Away, Kind};

/// What is known of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It changed nothing, and another member may carry it out.
    Untouched,
    /// Whether it was carried out is not known.
    Unknown,
    /// etcd has decided: another member would say the same.
    Decided,
}

/// A request that failed at one member.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub fate: Fate,
    pub away: Away,
}

const REACH: &str =
    "check that etcd runs there and that this host reaches it; correct --store if it is elsewhere";
const QUORUM: &str =
    "check that more than half of etcd's members run and reach each other: etcdctl endpoint status --cluster";
const SPACE: &str = "compact and defragment etcd (etcdctl compact, etcdctl defrag --cluster), raise its \
                     --quota-backend-bytes if need be, then: etcdctl alarm disarm";
const CORRUPT: &str = "find the member whose data differs and replace it, then: etcdctl alarm disarm";
const USER: &str = "name a user of etcd with --etcd-user and --etcd-password-file";
const NO_USERS: &str = "omit --etcd-user, or: etcdctl auth enable";
const LARGE: &str = "raise etcd's --max-request-bytes";
const MANY: &str = "raise etcd's --max-txn-ops";
const LEARNER: &str = "etcdctl member promote, or name other members with --store";
const PERMISSION: &str =
    "etcdctl role grant-permission ROLE --prefix=true readwrite /margay/, for a role of the user";
const CA: &str = "name the CA that signed etcd's certificates with --etcd-ca";
const CLIENT: &str = "name a certificate that etcd accepts with --etcd-cert and --etcd-key";
const NAME: &str =
    "use a name or address of etcd's certificate in --store, or give etcd a certificate with this one";
const CLOCK: &str = "renew the certificate, and check the clocks of both hosts";
const PLAIN: &str = "omit --etcd-ca, or have etcd listen with TLS";
const AGAIN: &str = "wait, the agent tries again";
/// What became of a connection where nothing says more.
const BROKEN: &str = "closed the connection before it answered";
const SECURE: &str = "check that etcd runs there; it may want TLS (--etcd-ca), or a certificate of this node (--etcd-cert \
                      and --etcd-key)";

/// What etcd says (a part of it), and what that means: it stands behind "etcd at HOST".
const SAID: [(&str, Fate, Kind, &str, &str); 21] = [
    (
        "database space exceeded",
        Fate::Decided,
        Kind::ReadOnly,
        "has no space left: its quota is reached",
        SPACE,
    ),
    ("too many requests", Fate::Untouched, Kind::Away, "is overloaded with requests", AGAIN),
    ("larger than max", Fate::Decided, Kind::Refuses, "refuses a message as large as this", LARGE),
    ("request is too large", Fate::Decided, Kind::Refuses, "refuses a request as large as this", LARGE),
    ("too many operations", Fate::Decided, Kind::Refuses, "refuses as many operations at once", MANY),
    (
        "authentication failed",
        Fate::Decided,
        Kind::Away,
        "knows no such user with this password (authentication failed)",
        USER,
    ),
    ("user name is empty", Fate::Decided, Kind::Away, "wants a user", USER),
    ("authentication is not enabled", Fate::Decided, Kind::Away, "knows no users", NO_USERS),
    ("invalid auth token", Fate::Untouched, Kind::Away, "no longer accepts this node's login", AGAIN),
    (
        "permission denied",
        Fate::Decided,
        Kind::ReadOnly,
        "denies this node's user keys below /margay/",
        PERMISSION,
    ),
    ("corrupt", Fate::Decided, Kind::Away, "says that its data is corrupt", CORRUPT),
    (
        "has been compacted",
        Fate::Decided,
        Kind::Away,
        "has compacted the revision that this node reads",
        AGAIN,
    ),
    ("lease not found", Fate::Decided, Kind::Away, "has let this node's lease run out", AGAIN),
    ("no leader", Fate::Untouched, Kind::Away, "has no leader", QUORUM),
    ("timed out", Fate::Unknown, Kind::Away, "got no agreement of its members in time", QUORUM),
    ("leader changed", Fate::Unknown, Kind::Away, "changed its leader meanwhile", AGAIN),
    ("server stopped", Fate::Unknown, Kind::Away, "is stopping", AGAIN),
    ("not capable", Fate::Untouched, Kind::Away, "is too old, or just starting", "use etcd 3.4 or later"),
    ("unhealthy cluster", Fate::Untouched, Kind::Away, "says that its cluster is not healthy", QUORUM),
    (
        "rpc not supported for learner",
        Fate::Untouched,
        Kind::Away,
        "is a learner, which answers nothing yet",
        LEARNER,
    ),
    ("unknown service", Fate::Untouched, Kind::Away, "is something else that speaks gRPC", REACH),
];

impl Fault {
    fn new(fate: Fate, kind: Kind, at: &str, what: &str, mend: &str) -> Self {
        Self { fate, away: Away { kind, problem: format!("etcd at {at} {what}"), mend: mend.into() } }
    }

    /// That a member says that etcd's quota is reached.
    pub fn full(at: &str) -> Self {
        Self::said("database space exceeded", at)
    }

    /// That some members of etcd said nothing for so many seconds.
    pub fn silence(at: &str, secs: u64) -> Self {
        Self::ended(at, &format!("does not answer within {secs} s"))
    }

    /// That a member broke something off, or did what nobody expects.
    pub fn ended(at: &str, what: &str) -> Self {
        Self::new(Fate::Unknown, Kind::Away, at, what, REACH)
    }

    /// What an error of the member at an address (`host:port`) means.
    pub fn of(error: &etcd_client::Error, at: &str) -> Self {
        let connection = |error: &(dyn StdError + 'static)| {
            of_connection(error, at)
                .unwrap_or_else(|| Self::new(Fate::Unknown, Kind::Away, at, BROKEN, SECURE))
        };
        match error {
            // What the member says comes without a source; with one, the connection failed.
            etcd_client::Error::GRpcStatus(status) => match status.source() {
                Some(source) => connection(source),
                None => Self::said(status.message(), at),
            },
            etcd_client::Error::TransportError(error) => connection(error),
            error => Self::said(&error.to_string(), at),
        }
    }

    /// What a message of the member at an address means.
    pub fn said(message: &str, at: &str) -> Self {
        match SAID.iter().find(|(part, ..)| message.contains(part)) {
            Some((_, fate, kind, what, mend)) => Self::new(*fate, *kind, at, what, mend),
            None => Self::ended(at, &format!("says: {message}")),
        }
    }
}

/// What a failure of the connection means, if it is one that is known.
fn of_connection(error: &(dyn StdError + 'static), at: &str) -> Option<Fault> {
    let mut link = Some(error);
    let mut texts = Vec::new();
    let untouched = |what: &str, mend| Some(Fault::new(Fate::Untouched, Kind::Away, at, what, mend));
    while let Some(error) = link {
        // The errors of TLS come inside of those of input and output.
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let inner = inner.map(|inner| inner as &(dyn StdError + 'static));
        if let Some(tls) = [Some(error), inner].into_iter().flatten().find_map(|e| e.downcast_ref::<Tls>()) {
            let (what, mend) = of_tls(tls);
            return untouched(what, mend);
        }
        if let Some(found) = error.downcast_ref::<io::Error>().and_then(|error| of_io(error, at)) {
            return Some(found);
        }
        texts.push(error.to_string());
        link = error.source();
    }
    let has = |part: &str| texts.iter().any(|text| text.contains(part));
    // HTTP/2 keeps of such an error its text alone.
    if has("fatal alert") {
        return untouched("does not accept the certificate of this node, or wants one", CLIENT);
    }
    if has("dns error") {
        return untouched("has a name that does not resolve", "correct the name in --store");
    }
    if has("tcp connect error") || has("deadline has elapsed") || has("timed out") {
        return untouched("does not accept a connection in time", REACH);
    }
    if has("frame with invalid size") || has("invalid HTTP") || has("preface") {
        return untouched("does not speak etcd's protocol", SECURE);
    }
    None
}

fn of_io(error: &io::Error, at: &str) -> Option<Fault> {
    let (fate, what, mend) = match error.kind() {
        ErrorKind::ConnectionRefused => (Fate::Untouched, "refused the connection", REACH),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            (Fate::Untouched, "cannot be reached: this host has no route to its address", REACH)
        }
        ErrorKind::AddrNotAvailable | ErrorKind::NetworkDown => {
            (Fate::Untouched, "cannot be reached: this host has no address to send from", REACH)
        }
        ErrorKind::TimedOut => (Fate::Unknown, "does not answer", REACH),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => (Fate::Unknown, "closed the connection", SECURE),
        ErrorKind::PermissionDenied => {
            (Fate::Untouched, "cannot be reached: this host's firewall forbids it", REACH)
        }
        _ => return None,
    };
    Some(Fault::new(fate, Kind::Away, at, what, mend))
}

fn of_tls(error: &Tls) -> (&'static str, &'static str) {
    match error {
        Tls::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ("has a certificate of another CA than the one that --etcd-ca names", CA)
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ("has a certificate for other names and addresses", NAME)
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ("has a certificate that has expired", CLOCK)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("has a certificate that is not valid yet", CLOCK)
            }
            CertificateError::Revoked => ("has a certificate that was revoked", CA),
            _ => ("has a certificate that cannot be accepted", CA),
        },
        Tls::AlertReceived(_) | Tls::NoCertificatesPresented => {
            ("does not accept the certificate of this node, or wants one", CLIENT)
        }
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => ("does not speak TLS", PLAIN),
        _ => ("does not agree on TLS with this node", CA),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::store::{
        Store,
        etcd::{Etcd, Options},
    };

    /// Words that no user should have to read.
    fn has_jargon(text: &str) -> bool {
        ["grpc", "rpc", "tonic", "transport", "Error", "os error", "etcdserver", "code:", "Kind"]
            .iter()
            .any(|word| text.contains(word))
    }

    #[test]
    fn errors_of_etcd_are_reported_in_plain_words() {
        for (said, words, fate) in [
            ("etcdserver: no leader", "has no leader", Fate::Untouched),
            ("etcdserver: request timed out", "no agreement", Fate::Unknown),
            (
                "etcdserver: request timed out, possibly due to previous leader failure",
                "no agreement",
                Fate::Unknown,
            ),
            ("etcdserver: leader changed", "changed its leader", Fate::Unknown),
            ("etcdserver: too many requests", "overloaded", Fate::Untouched),
            ("etcdserver: mvcc: database space exceeded", "no space left", Fate::Decided),
            ("etcdserver: mvcc: required revision has been compacted", "compacted", Fate::Decided),
            ("etcdserver: request is too large", "as large as this", Fate::Decided),
            ("etcdserver: too many operations in txn request", "as many operations", Fate::Decided),
            (
                "etcdserver: authentication failed, invalid user ID or password",
                "authentication failed",
                Fate::Decided,
            ),
            ("etcdserver: authentication is not enabled", "knows no users", Fate::Decided),
            ("etcdserver: user name is empty", "wants a user", Fate::Decided),
            ("etcdserver: invalid auth token", "login", Fate::Untouched),
            ("etcdserver: permission denied", "denies", Fate::Decided),
            ("etcdserver: corrupt cluster", "corrupt", Fate::Decided),
            ("etcdserver: requested lease not found", "lease run out", Fate::Decided),
            ("etcdserver: server stopped", "stopping", Fate::Unknown),
            ("etcdserver: rpc not supported for learner", "learner", Fate::Untouched),
        ] {
            let fault = Fault::said(said, "192.0.2.9:2379");
            let text = fault.away.to_string();
            assert!(text.contains("etcd at 192.0.2.9:2379") && text.contains(words), "{said}: {text}");
            assert!(!has_jargon(&text) && !fault.away.mend.is_empty(), "{said}: {text}");
            assert_eq!(fault.fate, fate, "{said}");
        }
    }

    /// What a reading says of an etcd at an address.
    async fn away(at: SocketAddr, ca: Option<std::path::PathBuf>) -> String {
        let options = Options { endpoints: vec![at.to_string()], ca, ..Options::default() };
        let etcd = Etcd::new(&options).expect("options");
        let away = etcd.list(&["x".into()]).await.expect_err("no etcd is there");
        assert!(away.problem.contains(&at.to_string()), "{away}");
        assert!(!has_jargon(&away.to_string()), "{away}");
        away.problem
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = listener.local_addr().expect("an address");
        (listener, at)
    }

    #[tokio::test]
    async fn failed_connections_to_etcd_are_reported_in_plain_words() {
        let (gone, refusing) = listener().await;
        drop(gone);
        let (_silent, silent) = listener().await;
        let (closing, closed) = listener().await;
        tokio::spawn(async move { while closing.accept().await.is_ok() {} });
        let (other, strange) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = other.accept().await {
                // A server of another protocol speaks first.
                drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2 and more than a frame of HTTP/2 has\r\n").await);
            }
        });
        let asked = (away(refusing, None), away(silent, None), away(closed, None), away(strange, None));
        let (refused, silent, closed, strange) = futures::join!(asked.0, asked.1, asked.2, asked.3);
        assert!(refused.ends_with("refused the connection"), "{refused}");
        assert!(silent.contains("does not answer within 4 s"), "{silent}");
        for broken in [closed, strange] {
            let told = ["closed the connection", "does not speak"];
            assert!(told.iter().any(|told| broken.contains(told)), "{broken}");
        }
    }
}
