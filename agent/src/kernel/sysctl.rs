//! The kernel's switches. The path leads into the network namespace of the
//! thread that opens it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{files, problem::Problem};

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

/// Switches of the host that we have set, with what they were before: a file, so that `margay
/// cleanup` can restore them.
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
            Ok(bytes) => {
                let named = || self.file.display().to_string();
                let all: BTreeMap<String, String> = serde_json::from_slice(&bytes).with_context(named)?;
                // Whatever it names is written to.
                match all.keys().find(|path| !is_switch(path)) {
                    Some(path) => bail!(Problem::new(
                        format!("{} names {path}, which is not a network setting", named()),
                        "remove the file, and set the host's switches as they should be",
                    )),
                    None => Ok(all),
                }
            }
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

/// Whether a path leads to a switch of the network and nowhere else.
fn is_switch(path: &str) -> bool {
    path.strip_prefix("net/").is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_originals_that_names_no_kernel_switch_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let originals = Originals::of(dir.path());
        let target = dir.path().join("target");
        for path in
            [target.to_str().expect("text"), "../../etc/x", "net/../../../etc/x", "kernel/core_pattern"]
        {
            let text = serde_json::json!({ path: "1" }).to_string();
            fs::write(dir.path().join("host.json"), text).expect("a disk");
            let told = originals.restore(path).expect_err(path).to_string();
            assert!(told.contains("host.json") && told.contains("remove the file"), "{told}");
        }
        assert!(!target.exists(), "nothing is written");
        fs::write(dir.path().join("host.json"), r#"{"net/ipv4/ip_forward":"0"}"#).expect("a disk");
        assert_eq!(originals.read().expect("a switch").len(), 1);
    }
}
