//! Builds the eBPF object that the binary embeds, or takes a prebuilt one from
//! `MARGAY_EBPF_OBJECT`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=MARGAY_EBPF_OBJECT");
    for path in ["../datapath-ebpf", "../packet", "../common", "../Cargo.lock", "../xtask/src/ebpf.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rustc-env=MARGAY_COMMIT={}", commit());
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            println!(
                "cargo::error=Margay's eBPF object could not be built; the reason stands above or below"
            );
            ExitCode::FAILURE
        }
    }
}

/// The commit that is built, `-dirty` with changes on top. Packagers, who have no
/// repository, say it in MARGAY_COMMIT.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=MARGAY_COMMIT");
    // Written by every commit and checkout.
    println!("cargo::rerun-if-changed=../.git/logs/HEAD");
    if let Ok(commit) = env::var("MARGAY_COMMIT") {
        return commit;
    }
    let git =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--match="]).output();
    let said = git.ok().filter(|output| output.status.success());
    said.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let object = match env::var_os("MARGAY_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => build(&out)?,
    };
    fs::copy(&object, out.join("margay.bpf.o"))
        .map(drop)
        .map_err(|e| format!("eBPF object {}: {e}", object.display()))
}

fn build(out: &Path) -> Result<PathBuf, String> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?);
    let workspace = manifest.parent().ok_or("the agent has no workspace above it")?;
    let tools = ebpf::find().map_err(|missing| {
        format!("{missing}\n`cargo xtask setup` installs it; or set MARGAY_EBPF_OBJECT to a prebuilt object")
    })?;
    let target = out.join("ebpf");
    let mut build = ebpf::command(&tools, "build", workspace, &target);
    if env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some() {
        build.args(["--features", "other-layout"]);
    }
    let output = build.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(target.join(ebpf::TARGET).join("release").join(ebpf::PACKAGE))
}
