//! Where the eBPF toolchain is and how it builds the object. Shared by
//! `cargo xtask setup`, which installs what is missing, and by the agent's
//! build script, which only says so.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of bpf-linker that the object is linked with, and the LLVM
/// that it has to be built for: at least the one inside rustc.
pub const LINKER_VERSION: &str = "0.13.0";
/// The major version of that LLVM.
pub const LLVM: u32 = 22;

/// The BPF target, little-endian as every machine that Margay runs on.
#[allow(dead_code, reason = "the commands only need to know that it is there")]
pub const TARGET: &str = "bpfel-unknown-none";
/// The package of the programs.
pub const PACKAGE: &str = "margay-datapath";

/// A compiler that comes with the source of `core`, which no toolchain has
/// ready-made for BPF.
#[derive(Debug)]
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker_dir: PathBuf,
}

impl Toolchain {
    /// Whether clippy comes with the compiler.
    #[allow(dead_code, reason = "the agent's build script has no use for it")]
    pub fn has_clippy(&self) -> bool {
        self.cargo.with_file_name("cargo-clippy").exists()
    }
}

/// What stands between a machine and the eBPF object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No compiler has the source of `core`.
    CoreSource,
    /// No bpf-linker.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CoreSource => f.write_str(
                "no Rust compiler here has the source of `core` (rustup component add rust-src, \
                 or on Debian: apt-get install rustc-web cargo-web rust-web-src)",
            ),
            Self::Linker => write!(
                f,
                "bpf-linker is not installed (LLVM_PREFIX=/usr/lib/llvm-{LLVM} cargo install bpf-linker \
                 --version {LINKER_VERSION} --no-default-features --features llvm-{LLVM} --locked)"
            ),
        }
    }
}

/// Finds the toolchain: the one in use if it has the source, else Debian's.
pub fn find() -> Result<Toolchain, Missing> {
    let (cargo, rustc) = sysroots()
        .into_iter()
        .find(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
        .map(|root| (root.join("bin/cargo"), root.join("bin/rustc")))
        .ok_or(Missing::CoreSource)?;
    let linker_dir =
        linker_dirs().into_iter().find(|dir| dir.join("bpf-linker").is_file()).ok_or(Missing::Linker)?;
    Ok(Toolchain { cargo, rustc, linker_dir })
}

/// The command that builds or checks the programs for BPF.
pub fn command(tools: &Toolchain, verb: &str, workspace: &Path, target_dir: &Path) -> Command {
    // Full debug information has to reach `core` as well, or the verifier counts fewer functions
    // than the object declares. The order of expanded copies does not matter here, and LLVM 22
    // crashes on keeping it. Every machine that Margay runs on takes loads at any address, and so
    // does its verifier, but for the stack.
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-expand-memcpy-in-order",
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    ];
    let path = env::var_os("PATH").unwrap_or_default();
    // The compiler's own folder first: `cargo clippy` looks for its driver there.
    let own = tools.cargo.parent().map(Path::to_path_buf);
    let dirs = own.into_iter().chain([tools.linker_dir.clone()]).chain(env::split_paths(&path));
    let mut command = Command::new(&tools.cargo);
    command
        .args([verb, "--release", "--package", PACKAGE, "--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(workspace)
        .env("RUSTC", &tools.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", env::join_paths(dirs).unwrap_or(path))
        // The agent's profile strips, and the programs need their BTF.
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for inherited in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(inherited);
    }
    command
}

fn sysroots() -> Vec<PathBuf> {
    let active = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
    let active = active.and_then(|output| String::from_utf8(output.stdout).ok());
    let active = active.map(|path| PathBuf::from(path.trim()));
    active.into_iter().chain([PathBuf::from("/usr")]).collect()
}

fn linker_dirs() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(home.map(|home| home.join("bin"))).collect()
}
