//! etcd v3.

mod fault;
mod lease;
mod members;
mod watch;
mod writable;

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, GetResponse,
    Identity, KeyValue, TlsOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::{FutureExt, future::BoxFuture};
use members::{Members, OPEN, Times};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Announcement, Away, Commit, Condition, Feed, Kind, Listing, OPERATION, Op, Store, Txn, Unwritable, note,
};
use crate::model::{
    key::{Key, Prefix},
    snapshot::Event,
};

/// Keys in one answer to a listing.
const PAGE: i64 = 5_000;
/// The largest answer taken: a page of values that are as large as etcd takes them.
const ANSWER_MAX: usize = 1 << 30;
/// How often HTTP/2 asks a member for a sign of life, and how long it waits for it.
/// More often than every five seconds etcd takes for abuse.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How to reach etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `host:port` of the members.
    pub endpoints: Vec<String>,
    /// The CA that signed the members' certificates; with it TLS is used.
    pub ca: Option<PathBuf>,
    /// This client's certificate, with `key`.
    pub cert: Option<PathBuf>,
    /// The key of this client's certificate.
    pub key: Option<PathBuf>,
    /// User, with `password_file`.
    pub user: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
}

/// etcd.
#[derive(Clone)]
pub struct Etcd {
    members: Arc<Members>,
    unwritable: Arc<Unwritable>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("etcd")
    }
}

impl Etcd {
    /// Prepares the connections, which come about with the first request: an
    /// etcd that is away is no error yet.
    pub fn new(options: &Options) -> Result<Self> {
        let tls = tls(options)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut connect = ConnectOptions::new()
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(true)
            .with_tcp_keepalive(Duration::from_secs(10))
            .with_connect_timeout(OPEN)
            .with_require_leader(true);
        if let Some(tls) = tls {
            connect = connect.with_tls(tls);
        }
        if let Some(user) = &options.user {
            let Some(path) = &options.password_file else {
                bail!("--etcd-user needs --etcd-password-file");
            };
            let password = read(path)?;
            let password = String::from_utf8_lossy(&password).trim_end().to_owned();
            connect = connect.with_user(user.clone(), password).with_auto_token_refresh(true);
        }
        // Many agents are to begin with different members.
        let any = RandomState::new().build_hasher().finish() as usize;
        let members = Arc::new(Members::new(scheme, &options.endpoints, connect, any));
        Ok(Self { members, unwritable: Arc::default() })
    }

    /// Reads some prefixes, a page of each at once, and the rest in pages as of the
    /// revision of the first: each is a request with a deadline of its own.
    async fn list_now(&self, prefixes: &[String]) -> Result<Listing, Away> {
        let options = || GetOptions::new().with_limit(PAGE);
        let get = |prefix: &String| TxnOp::get(prefix.clone(), Some(options().with_prefix()));
        let txn = EtcdTxn::new().and_then(prefixes.iter().map(get).collect::<Vec<_>>());
        let answer = self.members.ask(Times::Any, |client| ask(client, txn.clone())).await?.value;
        let revision = answer.header().map_or(0, |header| header.revision());
        let mut entries = Vec::new();
        for (response, prefix) in answer.op_responses().into_iter().zip(prefixes) {
            let TxnOpResponse::Get(mut found) = response else { continue };
            let mut more = found.more();
            entries.extend(found.take_kvs().iter().map(put_event));
            while let (true, Some(last)) = (more, entries.last()) {
                let next = format!("{}\0", Event::key(last));
                let options = options().with_range(end_of(prefix)).with_revision(revision);
                let page = |client| page(client, next.clone(), options.clone());
                let mut found = self.members.ask(Times::Any, page).await?.value;
                more = found.more();
                entries.extend(found.take_kvs().iter().map(put_event));
            }
        }
        Ok(Listing { revision, entries })
    }

    /// Carries a transaction out. One that comes to nothing reads what it would have
    /// written: after a member that did not come to say what became of it, that tells
    /// whether it was carried out then.
    async fn commit_now(&self, txn: Txn) -> Result<Commit, Away> {
        let times = if txn.excludes_itself() { Times::Any } else { Times::Once };
        let written: Vec<(String, Option<Vec<u8>>)> = txn.ops.iter().filter_map(written).collect();
        let reading = written.iter().map(|(key, _)| TxnOp::get(key.clone(), None));
        let request = EtcdTxn::new()
            .when(txn.conditions.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.ops.into_iter().map(operation).collect::<Vec<_>>())
            .or_else(reading.collect::<Vec<_>>());
        let answer = self.members.ask(times, |client| ask(client, request.clone())).await?;
        if answer.value.succeeded() {
            return Ok(Commit::Done(answer.value.header().map_or(0, |header| header.revision())));
        }
        if answer.repeated
            && let Some(revision) = self.done_before(&answer.value, &written).await?
        {
            return Ok(Commit::Done(revision));
        }
        Ok(Commit::Conflict)
    }

    /// The revision at which exactly this was written, if it was.
    async fn done_before(
        &self,
        answer: &TxnResponse,
        written: &[(String, Option<Vec<u8>>)],
    ) -> Result<Option<i64>, Away> {
        let found: Vec<Option<(i64, Vec<u8>)>> = answer.op_responses().into_iter().map(value).collect();
        let wanted = || written.iter().map(|(_, value)| value);
        let same = found.iter().zip(wanted()).filter_map(|(found, wanted)| match (found, wanted) {
            (Some((revision, value)), Some(wanted)) if value == wanted => Some(*revision),
            _ => None,
        });
        let Some(revision) = same.max() else {
            // A transaction that only removes is done when no key is left, no matter who removed
            // them.
            let gone = written.iter().all(|(_, value)| value.is_none()) && found.iter().all(Option::is_none);
            let now = answer.header().map_or(0, |header| header.revision());
            return Ok((gone && !written.is_empty()).then_some(now));
        };
        // Others may have changed parts of it since.
        let options = || GetOptions::new().with_revision(revision);
        let get = |(key, _): &(String, _)| TxnOp::get(key.clone(), Some(options()));
        let then = EtcdTxn::new().and_then(written.iter().map(get).collect::<Vec<_>>());
        let then = self.members.ask(Times::Any, |client| ask(client, then.clone())).await?.value;
        let then = then.op_responses().into_iter().map(value);
        let ours = then.zip(wanted()).all(|(found, wanted)| match (found, wanted) {
            (Some((at, found)), Some(wanted)) => at == revision && found == *wanted,
            (found, wanted) => found.is_none() && wanted.is_none(),
        });
        Ok(ours.then_some(revision))
    }
}

fn ask(client: Client, txn: EtcdTxn) -> BoxFuture<'static, Result<TxnResponse, Error>> {
    async move { client.kv_client().max_decoding_message_size(ANSWER_MAX).txn(txn).await }.boxed()
}

fn page(client: Client, from: String, options: GetOptions) -> BoxFuture<'static, Result<GetResponse, Error>> {
    async move { client.kv_client().max_decoding_message_size(ANSWER_MAX).get(from, Some(options)).await }
        .boxed()
}

/// A key that an operation writes, and its value; none if it is removed.
fn written(op: &Op) -> Option<(String, Option<Vec<u8>>)> {
    match op {
        Op::Put(key, value) => Some((key.to_string(), Some(value.clone()))),
        Op::Delete(key) => Some((key.to_string(), None)),
        Op::DeletePrefix(_) => None,
    }
}

/// What a transaction read of a key: the revision of its last change, and its value.
fn value(response: TxnOpResponse) -> Option<(i64, Vec<u8>)> {
    let TxnOpResponse::Get(mut found) = response else { return None };
    found.take_kvs().into_iter().next().map(|kv| (kv.mod_revision(), kv.value().to_vec()))
}

impl Store for Etcd {
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>> {
        // What cannot be read is away, whatever can be said of writing.
        let away = |away| Away { kind: Kind::Away, ..away };
        async move { self.list_now(prefixes).await.map_err(away) }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>> {
        async move {
            let committed = self.commit_now(txn).await;
            match &committed {
                Ok(Commit::Done(_)) => note(&self.unwritable, None),
                Err(away) if away.kind == Kind::ReadOnly => note(&self.unwritable, Some(away)),
                Ok(Commit::Conflict) | Err(_) => {}
            }
            committed
        }
        .boxed()
    }

    fn addresses(&self) -> BoxFuture<'_, Vec<IpAddr>> {
        Box::pin(async {
            let look_up = |host: &String| timeout(OPERATION, tokio::net::lookup_host(host.clone()));
            // A name that means nothing now is reached at no address.
            let found = futures::future::join_all(self.members.addresses().map(look_up)).await;
            found.into_iter().flatten().flatten().flatten().map(|addr| addr.ip()).collect()
        })
    }

    fn watch(&self, prefixes: &[Prefix]) -> mpsc::Receiver<Feed> {
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(watch::run(self.clone(), prefixes.to_vec(), send.clone()));
        tokio::spawn(writable::run(self.clone(), send));
        receive
    }

    fn announce(&self, key: Key, value: Vec<u8>) -> Announcement {
        let task = tokio::spawn(lease::keep(Arc::clone(&self.members), key, value));
        Announcement(task.abort_handle())
    }
}

/// The first key behind all that begin with a prefix, which is plain text.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A key and its value as a change.
fn put_event(kv: &KeyValue) -> Event {
    Event::Put {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        revision: kv.mod_revision(),
    }
}

fn compare(condition: &Condition) -> Compare {
    match condition {
        Condition::Absent(key) => Compare::create_revision(key.to_string(), CompareOp::Equal, 0),
        Condition::Revision(key, revision) => {
            Compare::mod_revision(key.to_string(), CompareOp::Equal, *revision)
        }
        Condition::UnchangedSince(prefix, revision) => {
            Compare::mod_revision(prefix.clone(), CompareOp::Less, revision + 1).with_prefix()
        }
    }
}

fn operation(op: Op) -> TxnOp {
    match op {
        Op::Put(key, value) => TxnOp::put(key.to_string(), value, None),
        Op::Delete(key) => TxnOp::delete(key.to_string(), None),
        Op::DeletePrefix(prefix) => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

fn tls(options: &Options) -> Result<Option<TlsOptions>> {
    let Some(ca) = &options.ca else {
        if options.cert.is_some() || options.key.is_some() {
            bail!("--etcd-cert and --etcd-key need --etcd-ca, the CA of etcd's own certificates");
        }
        return Ok(None);
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        (None, None) => {}
        _ => bail!("--etcd-cert and --etcd-key go together"),
    }
    Ok(Some(tls))
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}", path.display()))
}
