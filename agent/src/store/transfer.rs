//! Taking everything out of a store, and putting it into an empty one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Commit, Condition, Op, Store, Txn};
use crate::model::{
    self,
    key::{Key, ROOT},
    node::Cluster,
    snapshot::Event,
};

/// The format of a dump.
const FORMAT: u32 = 1;
/// Keys written in one transaction.
const AT_ONCE: usize = 100;

/// Everything that a store holds of a cluster, but for who is alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// The format of this.
    pub margay_export: u32,
    /// The store's revision.
    pub revision: i64,
    /// Values by key; JSON, or a string where a value is none.
    pub entries: BTreeMap<String, serde_json::Value>,
}

/// Reads everything at one revision.
pub async fn export(store: &dyn Store) -> Result<Dump> {
    let listing = store.list(&[ROOT.to_owned()]).await?;
    let mut entries = BTreeMap::new();
    for entry in listing.entries {
        let Event::Put { key, value, .. } = entry else { continue };
        if matches!(Key::parse(&key), Some(Key::Alive(_))) {
            continue;
        }
        let text = String::from_utf8(value).with_context(|| format!("{key} is not text"))?;
        let value = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
        entries.insert(key, value);
    }
    Ok(Dump { margay_export: FORMAT, revision: listing.revision, entries })
}

/// Writes everything into a store that holds no cluster, and gives how many
/// keys that were. The cluster's key comes last and with its epoch raised, by
/// which every agent knows that this was meant; begun and broken off, it can be
/// done again.
pub async fn import(store: &dyn Store, dump: &Dump) -> Result<usize> {
    if dump.margay_export != FORMAT {
        bail!(
            "the export has format {}, and this margay reads format {FORMAT}; use the margay that wrote it",
            dump.margay_export
        );
    }
    let cluster_key = Key::Cluster.to_string();
    let cluster =
        dump.entries.get(&cluster_key).context("the export contains no cluster; is it complete?")?;
    let mut cluster: Cluster =
        model::decode(&Key::Cluster, cluster.to_string().as_bytes()).context("the export's cluster")?;
    cluster.epoch += 1;
    let mut puts = Vec::new();
    for (key, value) in dump.entries.iter().filter(|(key, _)| **key != cluster_key) {
        let Some(key) = Key::parse(key) else {
            bail!("this margay does not know the export's key {key}; use a newer one");
        };
        let bytes = match value {
            serde_json::Value::String(text) => text.clone().into_bytes(),
            json => json.to_string().into_bytes(),
        };
        puts.push(Op::Put(key, bytes));
    }
    puts.push(Op::Put(Key::Cluster, model::encode(&cluster)));
    let count = puts.len();
    while !puts.is_empty() {
        let ops = puts.drain(..puts.len().min(AT_ONCE)).collect();
        let txn = Txn { conditions: vec![Condition::Absent(Key::Cluster)], ops };
        if store.commit(txn).await? == Commit::Conflict {
            bail!("the store holds a cluster already; import into an empty store");
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn cluster() -> Vec<u8> {
        br#"{"v":1,"id":"c1","epoch":3,"later":"kept"}"#.to_vec()
    }

    #[tokio::test]
    async fn export_imports_once_into_an_empty_store() {
        let (from, to) = (Embedded::in_memory(), Embedded::in_memory());
        let mut ops = vec![
            Op::Put(Key::Cluster, cluster()),
            Op::Put(Key::Alive("h1".into()), b"{}".to_vec()),
            Op::Put(Key::Node("h1".into()), b"{broken".to_vec()),
        ];
        ops.extend((1..250).map(|i| Op::Put(Key::Network(i), format!(r#"{{"v":1,"id":{i}}}"#).into_bytes())));
        from.commit(Txn { conditions: vec![], ops }).await.expect("memory");
        let dump = export(&*from).await.expect("text");
        assert_eq!(import(&*to, &dump).await.expect("empty"), 251);
        let again = export(&*to).await.expect("text");
        let mut expected = dump.entries.clone();
        let raised = serde_json::json!({"v": 1, "id": "c1", "epoch": 4, "later": "kept"});
        expected.insert(Key::Cluster.to_string(), raised);
        assert_eq!(again.entries, expected, "all but who is alive, the epoch raised");
        let refusal = import(&*to, &dump).await.expect_err("full").to_string();
        assert!(refusal.contains("holds a cluster already"), "{refusal}");
    }

    #[tokio::test]
    async fn import_of_a_file_that_is_no_export_is_refused() {
        let to = Embedded::in_memory();
        let dump = |format| Dump { margay_export: format, revision: 1, entries: BTreeMap::new() };
        for (dump, reason) in [(dump(9), "format 9"), (dump(FORMAT), "no cluster")] {
            let refusal = import(&*to, &dump).await.expect_err(reason).to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
