//! The lease by which others know that this node lives.

use std::{sync::Arc, time::Duration};

use etcd_client::{Error, LeaseGrantResponse, PutOptions, PutResponse};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::{
    fault::Fault,
    members::{InUse, Members, OPEN, Times},
};
use crate::{
    model::key::Key,
    store::{Away, again},
};

/// How long the lease outlives its agent.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is prolonged.
const PROLONG: Duration = Duration::from_secs(3);

// A member that is silent, and the next one, too, cost no lease.
const _: () = assert!(PROLONG.as_secs() + 4 * OPEN.as_secs() < LEASE.as_secs());

/// Keeps a key there for as long as this is polled, and for the time of a lease
/// after that.
pub(super) async fn keep(members: Arc<Members>, key: Key, value: Vec<u8>) {
    let mut again = again();
    loop {
        let failure = match begin(&members, &key, &value).await {
            Ok(lease) => {
                again.succeeded();
                prolong(&members, lease).await;
                "others may have taken this node for dead: its lease was not prolonged in time, so it gets a new one"
                    .to_owned()
            }
            Err(away) => format!("cannot renew this node's lease, so others report it as unhealthy: {away}"),
        };
        sleep(again.failed(&failure)).await;
    }
}

/// Grants a lease and binds the key to it.
async fn begin(members: &Members, key: &Key, value: &[u8]) -> Result<i64, Away> {
    let grant = |client: etcd_client::Client| -> BoxFuture<'static, Result<LeaseGrantResponse, Error>> {
        async move { client.lease_client().grant(LEASE.as_secs() as i64, None).await }.boxed()
    };
    let lease = members.ask(Times::Any, grant).await?.value.id();
    let put = |client: etcd_client::Client| -> BoxFuture<'static, Result<PutResponse, Error>> {
        let (key, value) = (key.to_string(), value.to_vec());
        let options = PutOptions::new().with_lease(lease);
        async move { client.kv_client().put(key, value, Some(options)).await }.boxed()
    };
    members.ask(Times::Any, put).await?;
    Ok(lease)
}

/// Prolongs a lease until it has run out, at one member after the other.
async fn prolong(members: &Members, lease: i64) {
    let mut prolonged = Instant::now();
    let mut again = again();
    while prolonged.elapsed() < LEASE {
        let fault = match members.best().await {
            Ok(member) => match at(&member, lease, &mut prolonged).await {
                Some(fault) => fault,
                None => return,
            },
            Err(fault) => fault,
        };
        debug!("the lease: {}", fault.away);
        sleep(again.wait().min(PROLONG)).await;
    }
}

/// Prolongs a lease at one member until that fails; no fault if the lease has run out.
async fn at(member: &InUse<'_>, lease: i64, prolonged: &mut Instant) -> Option<Fault> {
    let mut leases = member.client.lease_client();
    let (mut keeper, mut answers) = match timeout(OPEN, leases.keep_alive(lease)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(Error::LeaseKeepAliveError(_))) => return None,
        Ok(Err(error)) => return Some(member.fault(&error)),
        Err(_) => return Some(member.ended("does not answer")),
    };
    loop {
        *prolonged = Instant::now();
        member.answers();
        sleep(PROLONG).await;
        if let Err(error) = keeper.keep_alive().await {
            return Some(member.fault(&error));
        }
        match timeout(OPEN, answers.message()).await {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
            Ok(Ok(Some(_))) => return None,
            Ok(Ok(None)) => return Some(member.ended("ended the stream of the lease")),
            Ok(Err(error)) => return Some(member.fault(&error)),
            Err(_) => return Some(member.ended("does not answer")),
        }
    }
}
