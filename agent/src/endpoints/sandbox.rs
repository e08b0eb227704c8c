//! Numbers of containers whose network namespace its runtime names before it makes it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::model::endpoint::Endpoint;

/// Inode numbers of namespaces begin here: `PROC_DYNAMIC_FIRST` of the kernel. What is
/// given here stays below, so no two containers have one number.
const INODES: u32 = 0xf000_0000;

/// The next number.
pub(super) struct Sandboxes(AtomicU32);

impl Sandboxes {
    /// Goes on behind those that are in use.
    pub fn after(endpoints: &BTreeMap<String, Endpoint>) -> Self {
        let given = endpoints.values().map(|endpoint| endpoint.sandbox).filter(|number| *number < INODES);
        Self(AtomicU32::new(given.max().unwrap_or_default() + 1))
    }

    /// The number of the container that a runtime calls `key`: that of its other
    /// endpoints, or a new one. Zero, which nobody shares, without a name.
    ///
    /// Two endpoints of a new container that come at once get two numbers, so that
    /// neither may send from the other's address; a runtime's come one by one.
    pub fn number(&self, key: &Path, endpoints: &BTreeMap<String, Endpoint>) -> u32 {
        if key.as_os_str().is_empty() {
            return 0;
        }
        let same = |e: &&Endpoint| e.handle().is_some() && e.sandbox != 0 && e.netns == key;
        if let Some(found) = endpoints.values().find(same) {
            return found.sandbox;
        }
        let next = |number: u32| (number < INODES).then(|| number + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, netns: &str, sandbox: u32, of_runtime: bool) -> (String, Endpoint) {
        let handle = serde_json::json!({"runtime": {"runtime": "r", "id": id, "network": "n", "since": 1}});
        let owner = if of_runtime { handle } else { "command".into() };
        let endpoint = serde_json::json!({
            "id": id, "network": 1, "network_name": "blue", "addresses": ["10.1.0.2"],
            "mac": "02:00:00:00:00:01", "netns": netns, "sandbox": sandbox, "ifname": "", "host_interface": id,
            "mtu": 1500, "owner": owner,
        });
        (id.into(), serde_json::from_value(endpoint).expect("an endpoint"))
    }

    #[test]
    fn a_container_has_one_number_and_no_other_has_it() {
        let inode = INODES + 7;
        let mut endpoints: BTreeMap<_, _> =
            [endpoint("a", "/a", 3, true), endpoint("cni", "/b", inode, false), endpoint("new", "", 0, true)]
                .into();
        let sandboxes = Sandboxes::after(&endpoints);
        assert_eq!(sandboxes.number(Path::new("/a"), &endpoints), 3);
        let other = sandboxes.number(Path::new("/b"), &endpoints);
        assert_eq!(other, 4, "an inode number is another container's, whatever its path");
        endpoints.extend([endpoint("b", "/b", other, true)]);
        assert_eq!(sandboxes.number(Path::new("/b"), &endpoints), other);
        assert_eq!(sandboxes.number(Path::new("/c"), &endpoints), 5);
        assert_eq!(sandboxes.number(Path::new(""), &endpoints), 0, "nobody's");
    }

    #[test]
    fn sandbox_numbers_stay_below_inode_numbers_of_the_kernel() {
        let endpoints = [endpoint("a", "/a", INODES - 1, true)].into();
        let sandboxes = Sandboxes::after(&endpoints);
        assert_eq!(sandboxes.number(Path::new("/b"), &endpoints), 0);
    }
}
