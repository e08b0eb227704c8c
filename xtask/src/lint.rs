//! `cargo xtask lint`.

use anyhow::{Result, bail};

use crate::{
    ebpf, plot,
    run::{self, cargo, has},
    setup::{self, Need},
    tidy,
};

type Check = fn() -> Result<()>;

/// Runs every check and tells of all that fail.
pub fn run() -> Result<()> {
    setup::run(Need::Build)?;
    let checks: [(&str, Check); 6] = [
        ("rustfmt", format),
        ("clippy on the host", clippy_host),
        ("clippy on the BPF target", clippy_bpf),
        ("edges, sizes and words", tidy::run),
        ("the plot of docs/performance.md", plot::check),
        ("licences", licences),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("lint: {name}");
        if let Err(error) = check() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join(", "));
    }
    println!("lint: clean");
    Ok(())
}

fn format() -> Result<()> {
    run::check(&mut cargo(&["fmt", "--all", "--check"]))
}

fn clippy_host() -> Result<()> {
    run::check(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

fn clippy_bpf() -> Result<()> {
    let tools = ebpf::find().map_err(|missing| anyhow::anyhow!("{missing}"))?;
    if !tools.has_clippy() {
        println!("lint: the eBPF compiler has no clippy here (Debian: rust-web-clippy); left out");
        return Ok(());
    }
    let target = run::target().join("lint-bpf");
    let mut clippy = ebpf::command(&tools, "clippy", &run::root(), &target);
    run::check(clippy.args(["--quiet", "--", "--deny", "warnings"]))
}

fn licences() -> Result<()> {
    if !has("cargo-deny") {
        println!("lint: cargo-deny is not installed (cargo install cargo-deny); licences are left out");
        return Ok(());
    }
    run::check(&mut cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]))
}
