//! Installs what is missing, and says each step before it takes it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf::{self, LINKER_VERSION, LLVM, Missing},
    run::{self, has, is_root},
};

/// What somebody is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Build the agent.
    Build,
    /// Also run demo, tests and bench.
    Everything,
    /// Also boot other kernels.
    Machines,
    /// Also run other Docker Engines.
    Engines,
    /// All of that.
    Commit,
}

/// A program that has to be there, and Debian's package of it.
const BUILD: [(&str, &str); 2] = [("cc", "build-essential"), ("protoc", "protobuf-compiler")];
const TESTS: [(&str, &str); 19] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("strace", "strace"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("iperf3", "iperf3"),
    ("openssl", "openssl"),
    ("ping", "iputils-ping"),
    ("traceroute", "traceroute"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("unshare", "util-linux"),
    ("dockerd", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("busybox", "busybox-static"),
    ("wrk", "wrk"),
    ("nginx", "nginx-light"),
    ("tincd", "tinc"),
];
const MACHINES: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
];

/// For roots of other engines.
const ENGINES: [(&str, &str); 1] = [("debootstrap", "debootstrap")];

/// Installs what is missing for a need.
pub fn run(need: Need) -> Result<()> {
    let mut packages = missing(&BUILD);
    // The compiler of etcd's protocol needs the well-known types.
    if !Path::new("/usr/include/google/protobuf/descriptor.proto").exists() {
        packages.push("libprotobuf-dev");
    }
    if need != Need::Build {
        packages.extend(missing(&TESTS));
    }
    if matches!(need, Need::Machines | Need::Commit) {
        packages.extend(missing(&MACHINES));
    }
    if matches!(need, Need::Engines | Need::Commit) {
        packages.extend(missing(&ENGINES));
    }
    let prebuilt = std::env::var_os("MARGAY_EBPF_OBJECT").is_some();
    if packages.is_empty() && (prebuilt || ebpf::find().is_ok()) {
        println!("setup: everything is there");
        return Ok(());
    }
    install(&packages)?;
    if !prebuilt {
        toolchain()?;
    }
    println!("setup: done");
    Ok(())
}

fn missing(wanted: &[(&str, &'static str)]) -> Vec<&'static str> {
    wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect()
}

/// Installs Debian's packages, without starting what they bring.
fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !has("apt-get") {
        bail!("this is not Debian or Ubuntu: install by its own means what these packages hold: {list}");
    }
    if !is_root() {
        bail!("not root: sudo apt-get install {list}");
    }
    update()?;
    println!("setup: apt-get install {list}");
    let policy = NoServices::begin()?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    let result = run::check(apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()));
    drop(policy);
    result
}

fn update() -> Result<()> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        println!("setup: apt-get update");
        result = run::check(Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()));
    });
    result
}

/// Keeps packages from starting services while it lives: the system's own etcd must not run
/// because of the set-up.
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        let made = !Path::new(POLICY).exists();
        if made {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        }
        Ok(Self { made })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            drop(fs::remove_file(POLICY));
        }
    }
}

/// The compiler with the source of `core`, and the linker.
fn toolchain() -> Result<()> {
    if ebpf::find().err() == Some(Missing::CoreSource) {
        core_source()?;
    }
    if ebpf::find().err() == Some(Missing::Linker) {
        linker()?;
    }
    match ebpf::find() {
        Ok(_) => Ok(()),
        Err(missing) => bail!("{missing}"),
    }
}

fn core_source() -> Result<()> {
    if has("rustup") {
        println!("setup: rustup component add rust-src");
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src"]).current_dir(run::root());
        if run::output(&mut rustup).is_ok() && ebpf::find().err() != Some(Missing::CoreSource) {
            return Ok(());
        }
        println!("setup: rustup cannot fetch it here; Debian's packages can");
    }
    install(&["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"])
}

fn linker() -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    if !Path::new(&prefix).join("lib/libLLVM.so").exists() {
        let package = format!("llvm-{LLVM}-dev");
        install(&[&package]).with_context(|| {
            format!("LLVM {LLVM} is needed for bpf-linker; where {package} is not packaged, set MARGAY_EBPF_OBJECT to a prebuilt object")
        })?;
    }
    println!("setup: cargo install bpf-linker {LINKER_VERSION} (about a minute)");
    let features = format!("llvm-{LLVM}");
    let mut cargo =
        run::cargo(&["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"]);
    cargo.args(["--no-default-features", "--features", &features]).env("LLVM_PREFIX", prefix);
    run::check(&mut cargo)
}
