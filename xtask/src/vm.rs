//! Debian's kernels in QEMU: the datapath suite on another verifier.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::run::{self, cargo};

/// Modules that the suite needs and that these kernels do not have built in.
const MODULES: [&str; 3] = ["veth", "sch_ingress", "cls_bpf"];

/// What the machine does when it has booted: the last line tells.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox uname -r
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod $module; done
/suite --test-threads=1 --show-output && echo MACHINE PASSED
/bin/busybox poweroff -f
";

/// Boots the newest packaged kernel of a version and runs the suite inside.
pub fn run(version: &str) -> Result<()> {
    let dir = run::target().join("vm").join(version);
    let package = package(version)?;
    println!("vm: {package}");
    let files = unpack(&dir, &package)?;
    let kernel = find(&files.join("boot"), "vmlinuz-")?;
    let suite = suite()?;
    let image = initramfs(&dir, &files, &suite)?;
    println!("vm: booting {}", kernel.file_name().unwrap_or_default().to_string_lossy());
    boot(&kernel, &image)
}

/// Debian's newest cloud kernel of that version.
fn package(version: &str) -> Result<String> {
    let wanted = format!("^linux-image-{}[.][0-9].*cloud-amd64$", version.replace('.', "\\."));
    let found = run::output(Command::new("apt-cache").args(["search", "--names-only", &wanted]))?;
    let mut names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u64>().ok());
        numbers.collect::<Vec<_>>()
    });
    let name = names.last().ok_or_else(|| anyhow!("Debian's packages have no cloud kernel {version}"))?;
    Ok((*name).to_owned())
}

fn unpack(dir: &Path, package: &str) -> Result<PathBuf> {
    let files = dir.join(package);
    if files.join("boot").exists() {
        return Ok(files);
    }
    fs::create_dir_all(dir)?;
    run::output(Command::new("apt-get").args(["download", "-q", package]).current_dir(dir))?;
    let archive = find(dir, package)?;
    run::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&files))?;
    fs::remove_file(archive)?;
    Ok(files)
}

/// The suite's executable, built like the others.
fn suite() -> Result<PathBuf> {
    let args = [
        "test",
        "--no-run",
        "--quiet",
        "--package",
        "margay-tests",
        "--test",
        "datapath",
        "--message-format=json",
    ];
    let messages = run::output(&mut cargo(&args))?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "datapath")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().ok_or_else(|| anyhow!("cargo does not say where the datapath suite is"))
}

fn initramfs(dir: &Path, files: &Path, suite: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    drop(fs::remove_dir_all(&root));
    fs::create_dir_all(root.join("bin"))?;
    fs::write(root.join("init"), INIT)?;
    run::output(Command::new("chmod").arg("755").arg(root.join("init")))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static")?;
    fs::copy(suite, root.join("suite"))?;
    copy_libraries(&root, suite)?;
    copy_modules(&root, files)?;
    let image = dir.join("initramfs");
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    run::check(Command::new("sh").args(["-c", pack]).arg(&image).current_dir(&root))?;
    Ok(image)
}

/// The shared libraries of a program, where it looks for them.
fn copy_libraries(root: &Path, program: &Path) -> Result<()> {
    let listed = run::output(Command::new("ldd").arg(program))?;
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(path, to).with_context(|| path.to_owned())?;
    }
    Ok(())
}

/// The modules and what they need, and their names in the order of loading.
fn copy_modules(root: &Path, files: &Path) -> Result<()> {
    let modules = find(&files.join("lib/modules"), "")?;
    let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run::output(Command::new("depmod").arg("-b").arg(files).arg(&version))?;
    let mut order = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(files).args(["-S", &version, "--show-depends", module]);
        for line in run::output(&mut modprobe)?.lines() {
            let Some(path) = line.strip_prefix("insmod ") else { continue };
            let path = Path::new(path.trim());
            let name = path.file_name().context("a module has a name")?;
            let to = root.join(name);
            if !to.exists() {
                copy_plain(path, &to)?;
                order.push(format!("/{}", name.to_string_lossy().trim_end_matches(".xz")));
            }
        }
    }
    Ok(fs::write(root.join("modules"), order.join("\n"))?)
}

/// Copies a module, decompressed.
fn copy_plain(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_some_and(|extension| extension == "xz") {
        let plain = fs::File::create(to.with_extension(""))?;
        return run::check(Command::new("xz").arg("-dc").arg(from).stdout(plain));
    }
    fs::copy(from, to)?;
    Ok(())
}

fn boot(kernel: &Path, image: &Path) -> Result<()> {
    let mut qemu = Command::new("timeout");
    qemu.args(["900", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1536"])
        .args(["-nographic", "-no-reboot", "-append", "console=ttyS0 panic=-1 quiet loglevel=3"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null());
    let console = run::output(&mut qemu)?;
    // With everything that the tests of a passing run print, only this counts.
    let wanted =
        |line: &&str| line.contains(" verified") || line.starts_with("test ") || line.contains("panicked");
    let passed = console.contains("MACHINE PASSED");
    for line in console.lines().filter(|line| !passed || wanted(line)) {
        println!("    {}", line.trim_end());
    }
    if !passed {
        bail!("the datapath suite failed on this kernel");
    }
    Ok(())
}

fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && (prefix.is_empty() || !path.is_dir())
    });
    found.next().ok_or_else(|| anyhow!("nothing in {} begins with {prefix:?}", dir.display()))
}
