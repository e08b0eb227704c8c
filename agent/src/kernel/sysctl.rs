//! The kernel's switches of single interfaces. The path leads into the network
//! namespace of the thread that opens it.

use std::{fs, io};

use anyhow::{Context, Result};

/// Sets a switch of an interface of ours. A family that the kernel lacks has
/// no switches and needs none.
pub fn set(family: &str, interface: &str, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{name}");
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => Ok(()),
        result => result.with_context(|| format!("{path} = {value}")),
    }
}
