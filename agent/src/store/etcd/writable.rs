//! Whether etcd takes writes. Out of space it answers all readings and prolongs all
//! leases, and a node that has nothing to write would not notice.

use etcd_client::{Compare, CompareOp, Error, StatusResponse, Txn, TxnOp};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use super::{Etcd, ask, fault::Fault, members::Times};
use crate::{
    model::key::Key,
    store::{Feed, Kind, note, tell_writable},
};

/// Tells of it for as long as somebody listens.
pub(super) async fn run(store: Etcd, send: mpsc::Sender<Feed>) {
    let look = || async {
        let unwritable = store.unwritable.borrow().is_some();
        if unwritable { store.try_to_write().await } else { store.look_for_alarms().await }
    };
    tell_writable(&store.unwritable, look, send).await;
}

impl Etcd {
    /// Looks whether etcd has raised an alarm. Every member says it of itself, without
    /// asking the others.
    async fn look_for_alarms(&self) {
        let status = |client: etcd_client::Client| -> BoxFuture<'static, Result<StatusResponse, Error>> {
            async move { client.maintenance_client().status().await }.boxed()
        };
        // Some versions tell it to administrators only: then the first write finds out.
        let Ok(answer) = self.members.ask(Times::Any, status).await else { return };
        let full = answer.value.errors().iter().any(|error| error.contains("alarm:NOSPACE"));
        if full {
            note(&self.unwritable, Some(&Fault::full(answer.at).away));
        }
    }

    /// Tries whether something could be written: a transaction that would write and
    /// never does, since no key was made before revision 0. etcd judges space and
    /// permission by what a transaction could do.
    async fn try_to_write(&self) {
        let key = Key::Cluster.to_string();
        let never = Compare::create_revision(key.clone(), CompareOp::Less, 0);
        let txn = Txn::new().when([never]).and_then([TxnOp::put(key, "", None)]);
        match self.members.ask(Times::Any, |client| ask(client, txn.clone())).await {
            Ok(_) => note(&self.unwritable, None),
            Err(away) if away.kind == Kind::ReadOnly => note(&self.unwritable, Some(&away)),
            // It is told that it is away; whether it can be written is not known then.
            Err(_) => {}
        }
    }
}
