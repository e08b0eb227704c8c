//! Where everything of ours is pinned below the folder in bpffs that the agent
//! was given:
//!
//! ```text
//! v<layout>/<MAP>            maps, each in the folder of its own layout
//! programs/<object>/<name>   programs, by the object that they come from
//! links/<interface>          links of tcx and netkits
//! xdp/<interface>            XDP links
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use margay_common::maps::{self, Map};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// The folder of XDP links.
const XDP: &str = "xdp";

/// The folders of the pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the folders, or says what is in the way.
    pub fn create(root: &Path) -> Result<Self> {
        let pins = Self { root: root.to_owned() };
        let parent = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = statfs(parent).with_context(|| format!("{}", parent.display()))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            bail!(
                "{} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf), or name a folder on one with --bpffs",
                root.display()
            );
        }
        let layouts = maps::ALL.iter().filter_map(|map| map.layout).map(|layout| pins.layout(layout));
        for dir in layouts.chain([pins.programs(), pins.links(), pins.root.join(XDP)]) {
            fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        }
        Ok(pins)
    }

    /// The folders where they are, existing or not.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn layout(&self, layout: u32) -> PathBuf {
        self.root.join(format!("v{layout}"))
    }

    /// A map. One that is not pinned is nowhere.
    pub fn map(&self, map: &Map) -> PathBuf {
        self.layout(map.layout.unwrap_or_default()).join(map.name)
    }

    /// The maps that are there, of all layouts, also those that this agent does not know.
    pub fn all_maps(&self) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for dir in self.layouts()? {
            all.extend(names(&dir)?.into_iter().map(|name| dir.join(name)));
        }
        Ok(all)
    }

    /// The folders of maps.
    pub fn layouts(&self) -> Result<Vec<PathBuf>> {
        let dirs = names(&self.root)?.into_iter().filter(|name| name.starts_with('v'));
        Ok(dirs.map(|name| self.root.join(name)).collect())
    }

    /// The maps that are there and that no program of ours uses: those of other layouts.
    pub fn other_maps(&self) -> Result<Vec<PathBuf>> {
        let own: Vec<PathBuf> = maps::ALL.iter().map(|map| self.map(map)).collect();
        Ok(self.all_maps()?.into_iter().filter(|pin| !own.contains(pin)).collect())
    }

    /// The programs of all objects.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The links of tcx and netkits.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The link of an interface. bpffs takes no dots, interfaces no colons.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', ":"))
    }

    /// The XDP link of an interface.
    pub fn xdp(&self, interface: &str) -> PathBuf {
        self.root.join(XDP).join(interface.replace('.', ":"))
    }

    /// The interfaces that have an XDP link.
    pub fn xdp_interfaces(&self) -> Result<Vec<String>> {
        let names = names(&self.root.join(XDP))?;
        Ok(names.into_iter().map(|name| name.replace(':', ".")).collect())
    }

    /// The interfaces that have a link.
    pub fn linked_interfaces(&self) -> Result<Vec<String>> {
        let names = names(&self.links())?;
        Ok(names.into_iter().map(|name| name.replace(':', ".")).collect())
    }
}

/// The names in a folder, none where there is no folder.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a file; a missing one is fine.
pub fn unlink(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}", path.display()))
        }
        _ => Ok(()),
    }
}
