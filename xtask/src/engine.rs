//! Docker Engines of other Debian suites: each in a root of its own, made once from
//! Debian's packages and kept for later runs.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use crate::run;

/// Tells the tests where the engine's root is.
pub const ROOT: &str = "MARGAY_TEST_ENGINE_ROOT";

/// What an engine needs; all else of the root is what Debian cannot do without.
const PACKAGES: [&str; 4] = ["docker.io", "docker-cli", "iptables", "docker-compose"];

/// A suite of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Debian {
    /// Debian 13, with Docker 26.1
    Trixie,
    /// What is to come, with Docker 28.5
    Sid,
}

impl fmt::Display for Debian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        })
    }
}

/// The root of an engine, which is made where there is none.
pub fn root(debian: Debian) -> Result<PathBuf> {
    if !run::is_root() {
        bail!("--engine needs root: sudo -E cargo xtask ...");
    }
    let dir = run::cache().join("engines");
    let root = dir.join(debian.to_string());
    let _alone = run::alone_in(&dir)?;
    if !root.exists() {
        make(debian, &dir, &root)?;
    }
    complete(&root)?;
    let version = run::output(Command::new("chroot").arg(&root).args(["dockerd", "--version"]))
        .with_context(|| format!("remove {} to have it created again", root.display()))?;
    println!("engine: {} ({})", version.trim(), root.display());
    Ok(root)
}

/// Installs what a root lacks that was made for an older list of packages.
fn complete(root: &Path) -> Result<()> {
    let there = |package: &&str| root.join(format!("var/lib/dpkg/info/{package}.list")).exists();
    if PACKAGES.iter().all(there) {
        return Ok(());
    }
    println!("engine: apt-get install in {}", root.display());
    let script =
        format!("apt-get update -q && apt-get install -y -q --no-install-recommends {}", PACKAGES.join(" "));
    // A root without services: nothing is to be started in it.
    let mut command = Command::new("chroot");
    command.arg(root).args(["sh", "-c", &script]);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdout(Stdio::null());
    run::check(&mut command).with_context(|| root.display().to_string())
}

/// Makes a root beside its place and moves it there when it is whole.
fn make(debian: Debian, dir: &Path, root: &Path) -> Result<()> {
    let half = dir.join(format!("{debian}.making"));
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| half.display().to_string())?;
    }
    fs::create_dir_all(&half)?;
    println!("engine: debootstrap {debian} (about a minute, kept in {})", root.display());
    // With mounts of its own: what it mounts goes with it, also if it is killed.
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "debootstrap",
        "--variant=minbase",
        &format!("--include={}", PACKAGES.join(",")),
    ]);
    command.arg(debian.to_string()).arg(&half).arg(mirror()?).stdout(Stdio::null());
    run::check(&mut command).with_context(|| format!("{}/debootstrap/debootstrap.log", half.display()))?;
    fs::rename(&half, root).with_context(|| root.display().to_string())
}

/// Where this machine has Debian's packages from.
fn mirror() -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)"]);
    of_targets(&run::output(apt.arg("Created-By: Packages"))?)
}

/// The first repository of Debian's own that is neither of security nor of updates alone.
fn of_targets(listed: &str) -> Result<String> {
    let repository = |line: &str| {
        let mut words = line.split_whitespace();
        let (origin, component, codename) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && component == "main" && !codename.contains('-'))
            .then(|| words.next().map(str::to_owned))?
    };
    listed.lines().find_map(repository).ok_or_else(|| {
        anyhow!(
            "apt knows no repository of Debian's own, which engines and kernels of other releases come \
             from: run this on Debian, after apt-get update"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::of_targets;

    #[test]
    fn mirror_of_this_machine_is_found_in_apts_targets() {
        let listed = "Debian main bookworm-security http://a.example/debian-security/\n\
            Other main bookworm http://b.example/other/\n\
            Debian contrib bookworm http://c.example/debian/\n\
            Debian main bookworm http://d.example/debian/\n";
        assert_eq!(of_targets(listed).expect("one is Debian's"), "http://d.example/debian/");
        let none = of_targets("Ubuntu main noble http://e.example/ubuntu/\n").expect_err("none is");
        assert!(none.to_string().contains("on Debian"), "{none}");
    }
}
