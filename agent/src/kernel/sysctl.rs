//! The kernel's switches. The path leads into the network namespace of the
//! thread that opens it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::files;

/// Sets a switch of an interface of ours. A family that the kernel lacks has
/// no switches and needs none.
pub fn set(family: &str, interface: &str, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{name}");
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => Ok(()),
        result => result.with_context(|| format!("{path} = {value}")),
    }
}

/// A switch below /proc/sys; `None` where there is none.
pub fn get(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok().map(|text| text.trim().to_owned())
}

/// Switches of the host that we have set, with what they were before: a file,
/// so that whoever cleans up knows.
#[derive(Clone, Debug)]
pub struct Originals {
    file: PathBuf,
}

impl Originals {
    /// Those in a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { file: state_dir.join("host.json") }
    }

    /// What the switches were, by path.
    pub fn read(&self) -> Result<BTreeMap<String, String>> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| self.file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error).with_context(|| self.file.display().to_string()),
        }
    }

    /// Sets a switch, once it is written down what it was.
    pub fn set(&self, path: &str, value: &str) -> Result<()> {
        let mut all = self.read()?;
        let before = get(path).with_context(|| format!("the kernel has no switch {path}"))?;
        if !all.contains_key(path) {
            all.insert(path.to_owned(), before);
            self.write(&all)?;
        }
        fs::write(Path::new("/proc/sys").join(path), value).with_context(|| format!("{path} = {value}"))
    }

    /// Sets a switch back to what it was. One that is gone, with its
    /// interface, is fine.
    pub fn restore(&self, path: &str) -> Result<()> {
        let mut all = self.read()?;
        let Some(before) = all.remove(path) else { return Ok(()) };
        match fs::write(Path::new("/proc/sys").join(path), &before) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{path} = {before}"));
            }
            _ => {}
        }
        self.write(&all)
    }

    fn write(&self, all: &BTreeMap<String, String>) -> Result<()> {
        if all.is_empty() {
            return super::pins::unlink(&self.file);
        }
        files::replace(&self.file, &serde_json::to_vec(all)?)
    }
}
