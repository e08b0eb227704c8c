//! etcd v3.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse,
};
use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;
use tokio::{
    sync::{OnceCell, mpsc},
    time::timeout,
};
use tracing::{debug, warn};

use super::{Announcement, Away, Commit, Condition, Feed, Listing, Op, Store, Txn, watch};
use crate::model::{key::Key, snapshot::Event};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a node's lease outlives its agent.
const LEASE: Duration = Duration::from_secs(15);
/// Keys in one answer to a listing.
const PAGE: i64 = 5_000;
/// The largest answer taken: a listing of a million routes is some 150 MB.
pub(super) const ANSWER_MAX: usize = 1 << 30;

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
    endpoints: Vec<String>,
    connect: ConnectOptions,
    client: Arc<OnceCell<Client>>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("etcd")
    }
}

impl Etcd {
    /// Prepares the connection, which comes about with the first request: an
    /// etcd that is away is no error yet.
    pub fn new(options: &Options) -> Result<Self> {
        let tls = tls(options)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints: Vec<String> =
            options.endpoints.iter().map(|host| format!("{scheme}://{host}")).collect();
        let mut connect = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(5), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            .with_tcp_keepalive(Duration::from_secs(10))
            .with_connect_timeout(Duration::from_secs(3))
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
        Ok(Self { endpoints, connect, client: Arc::default() })
    }

    /// The client. With a user, making it means logging in, so it is made when
    /// it is first needed and etcd answers.
    pub(super) async fn client(&self) -> Result<&Client, Away> {
        let make = || Client::connect(&self.endpoints, Some(self.connect.clone()));
        self.client.get_or_try_init(|| within(make())).await
    }

    async fn list_now(client: &Client, prefixes: &[String]) -> Result<Listing, etcd_client::Error> {
        let options = || GetOptions::new().with_limit(PAGE);
        let get = |prefix: &String| TxnOp::get(prefix.clone(), Some(options().with_prefix()));
        let txn = EtcdTxn::new().and_then(prefixes.iter().map(get).collect::<Vec<_>>());
        let mut kv = client.kv_client().max_decoding_message_size(ANSWER_MAX);
        let answer = kv.txn(txn).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let mut entries = Vec::new();
        for (response, prefix) in answer.op_responses().into_iter().zip(prefixes) {
            let TxnOpResponse::Get(mut found) = response else { continue };
            let mut more = found.more();
            entries.extend(found.take_kvs().iter().map(put_event));
            // The rest in pages, all as of the revision of the first.
            while let (true, Some(last)) = (more, entries.last()) {
                let next = format!("{}\0", Event::key(last));
                let options = options().with_range(end_of(prefix)).with_revision(revision);
                let mut found = kv.get(next, Some(options)).await?;
                more = found.more();
                entries.extend(found.take_kvs().iter().map(put_event));
            }
        }
        Ok(Listing { revision, entries })
    }

    async fn commit_now(client: &Client, txn: Txn) -> Result<Commit, etcd_client::Error> {
        let conditions: Vec<Compare> = txn.conditions.iter().map(compare).collect();
        let ops: Vec<TxnOp> = txn.ops.into_iter().map(operation).collect();
        let txn = EtcdTxn::new().when(conditions).and_then(ops);
        let answer = client.kv_client().txn(txn).await?;
        if !answer.succeeded() {
            return Ok(Commit::Conflict);
        }
        Ok(Commit::Done(answer.header().map_or(0, |header| header.revision())))
    }

    /// Grants a lease, binds the key to it, and keeps it until that fails.
    async fn hold(client: &Client, key: &Key, value: &[u8]) -> Result<(), etcd_client::Error> {
        let mut leases = client.lease_client();
        let id = leases.grant(LEASE.as_secs() as i64, None).await?.id();
        let options = PutOptions::new().with_lease(id);
        client.kv_client().put(key.to_string(), value, Some(options)).await?;
        let (mut keeper, mut answers) = leases.keep_alive(id).await?;
        loop {
            tokio::time::sleep(LEASE / 3).await;
            keeper.keep_alive().await?;
            match timeout(LEASE / 3, answers.message()).await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
                Ok(Err(error)) => return Err(error),
                _ => return Ok(()),
            }
        }
    }
}

impl Store for Etcd {
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>> {
        async { within(Self::list_now(self.client().await?, prefixes)).await }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>> {
        async { within(Self::commit_now(self.client().await?, txn)).await }.boxed()
    }

    fn addresses(&self) -> BoxFuture<'_, Vec<IpAddr>> {
        let host = |endpoint: &String| endpoint.split_once("://").map(|(_, host)| host.to_owned());
        let hosts: Vec<String> = self.endpoints.iter().filter_map(host).collect();
        Box::pin(async {
            let lookups = hosts.into_iter().map(|host| timeout(REQUEST, tokio::net::lookup_host(host)));
            // A name that means nothing now is reached at no address.
            let found = futures::future::join_all(lookups).await.into_iter().flatten().flatten();
            found.flatten().map(|addr| addr.ip()).collect()
        })
    }

    fn watch(&self) -> mpsc::Receiver<Feed> {
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(watch::run(self.clone(), send));
        receive
    }

    fn announce(&self, key: Key, value: Vec<u8>) -> Announcement {
        let etcd = self.clone();
        let task = tokio::spawn(async move {
            let mut waits = super::waits();
            loop {
                match etcd.client().await {
                    Ok(client) => match Self::hold(client, &key, &value).await {
                        // The lease ran out; the next one may do better.
                        Ok(()) => warn!("the lease of {key} ran out"),
                        Err(error) => debug!("the lease of {key}: {error}"),
                    },
                    Err(away) => debug!("the lease of {key}: {away}"),
                }
                tokio::time::sleep(waits.next().unwrap_or(LEASE)).await;
            }
        });
        Announcement(task.abort_handle())
    }
}

async fn within<T>(request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Away> {
    match timeout(REQUEST, request).await {
        Ok(result) => result.map_err(|error| Away(error.to_string())),
        Err(_) => Err(Away(format!("no answer within {} s", REQUEST.as_secs()))),
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
pub(super) fn put_event(kv: &KeyValue) -> Event {
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
