//! Debian's kernels in QEMU: suites and benches on another kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::run;

/// Modules that the programs inside need and that these kernels do not have built in.
const MODULES: [&str; 13] = [
    "vmxnet3",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "bridge",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_fib_inet",
    "nft_compat",
    "nft_reject_inet",
    "8021q",
];

/// Programs of Debian's that they run; all others are busybox's, which has its own
/// idea of some: so none of those is run by busybox, who would prefer itself.
const TOOLS: [&str; 18] = [
    "bash",
    "chrt",
    "etcd",
    "etcdctl",
    "ethtool",
    "ip",
    "ip6tables",
    "iperf3",
    "iptables",
    "nft",
    "nginx",
    "nsenter",
    "ping",
    "sh",
    "ss",
    "taskset",
    "tcpdump",
    "timeout",
];

/// The same for Docker Engines.
const ENGINE_MODULES: [&str; 7] =
    ["br_netfilter", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_MASQUERADE", "xt_nat", "xt_tcpudp"];
const ENGINE_TOOLS: [&str; 8] = [
    "containerd",
    "containerd-shim-runc-v2",
    "docker",
    "docker-init",
    "docker-proxy",
    "dockerd",
    "runc",
    "unshare",
];

/// What the machine does when it has booted: the last line tells. Its root is moved
/// first, since containers cannot move theirs from the one that a kernel boots with.
const INIT: &str = "#!/bin/busybox sh
if ! [ -e /moved ]; then
    cd /
    /bin/busybox mkdir /root.new
    /bin/busybox mount -t tmpfs -o size=90% root /root.new
    for entry in *; do [ $entry = root.new ] || /bin/busybox cp -a $entry root.new/; done
    /bin/busybox touch /root.new/moved
    exec /bin/busybox switch_root /root.new /init
fi
/bin/busybox --install -s /bin
export PATH=/tools:/bin
export MARGAY_TEST_CARD=eth0
mkdir -p /proc /sys /dev /tmp /run/netns /var/log/nginx /var/lib/nginx /usr
ln -s /run /var/run
ln -s /tools /usr/bin
ln -s /tools /usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
uname -r
for module in $(cat /modules); do insmod $module; done
ip link set lo up
COMMAND && echo MACHINE PASSED
poweroff -f
";

/// A machine that runs longer is ended.
const PATIENCE_MINUTES: u32 = 25;

/// What runs in a machine.
pub struct Inside {
    /// Programs, each becomes one of the root folder under its name here.
    pub programs: Vec<(PathBuf, &'static str)>,
    /// The shell's command.
    pub command: String,
    /// Whether they run Docker Engines.
    pub engine: bool,
    /// Whether the machine has one processor whose every instruction takes 4 ns:
    /// times are counts of instructions then, the same in every run.
    pub counted: bool,
}

/// Boots the newest packaged kernel of a version, and runs something inside; what
/// the console said.
pub fn run(version: &str, inside: &Inside) -> Result<String> {
    let package = package(version)?;
    println!("vm: {package}");
    let files = unpack(&run::cache().join("kernels"), &package)?;
    let dir = run::target().join("vm").join(version);
    fs::create_dir_all(&dir)?;
    let kernel = find(&files.join("boot"), "vmlinuz-")?;
    let image = initramfs(&dir, &files, inside)?;
    println!("vm: booting {}", kernel.file_name().unwrap_or_default().to_string_lossy());
    boot(&kernel, &image, inside.counted)
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
    let _alone = run::alone_in(dir)?;
    if files.join("boot").exists() {
        return Ok(files);
    }
    run::output(Command::new("apt-get").args(["download", "-q", package]).current_dir(dir))?;
    let archive = find(dir, package)?;
    let half = dir.join(format!("{package}.unpacking"));
    drop(fs::remove_dir_all(&half));
    run::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&half))?;
    fs::remove_file(archive)?;
    fs::rename(half, &files)?;
    Ok(files)
}

fn initramfs(dir: &Path, files: &Path, inside: &Inside) -> Result<PathBuf> {
    let root = dir.join("root");
    drop(fs::remove_dir_all(&root));
    let tools = root.join("tools");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(&tools)?;
    fs::write(root.join("init"), INIT.replace("COMMAND", &inside.command))?;
    run::output(Command::new("chmod").arg("755").arg(root.join("init")))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static")?;
    let engine = if inside.engine { &ENGINE_TOOLS[..] } else { &[] };
    for tool in TOOLS.iter().chain(engine) {
        // Debian's own, where there is another of that name.
        let mut which = Command::new("which");
        let path = run::output(which.arg(tool).env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin"));
        let path = PathBuf::from(path.with_context(|| (*tool).to_owned())?.trim());
        fs::copy(&path, tools.join(tool))?;
        copy_libraries(&root, &path)?;
    }
    if inside.engine {
        // What iptables loads for the matches and targets of Docker's rules.
        let copy = "cp --parents -r /usr/lib/*/xtables \"$0\"";
        run::check(Command::new("sh").args(["-c", copy]).arg(&root))?;
    }
    for (program, name) in &inside.programs {
        // Without what debuggers read, which is most of it and lies in the machine's memory.
        run::output(Command::new("strip").arg("-o").arg(root.join(name)).arg(program))?;
        copy_libraries(&root, program)?;
    }
    fs::create_dir_all(root.join("etc"))?;
    for names in ["passwd", "group"] {
        fs::copy(Path::new("/etc").join(names), root.join("etc").join(names))?;
    }
    copy_modules(&root, files, if inside.engine { &ENGINE_MODULES } else { &[] })?;
    let image = dir.join("initramfs");
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    run::check(Command::new("sh").args(["-c", pack]).arg(&image).current_dir(&root))?;
    Ok(image)
}

/// The shared libraries of a program, where it looks for them.
fn copy_libraries(root: &Path, program: &Path) -> Result<()> {
    // One that is linked statically is no failure.
    let listed = run::output(Command::new("sh").args(["-c", "ldd \"$0\" || true"]).arg(program))?;
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(path, to).with_context(|| path.to_owned())?;
    }
    Ok(())
}

/// The modules and what they need, and their names in the order of loading.
fn copy_modules(root: &Path, files: &Path, more: &[&str]) -> Result<()> {
    let modules = find(&files.join("lib/modules"), "")?;
    let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run::output(Command::new("depmod").arg("-b").arg(files).arg(&version))?;
    let mut order = Vec::new();
    for module in MODULES.iter().chain(more) {
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

fn boot(kernel: &Path, image: &Path, counted: bool) -> Result<String> {
    outlive(counted, || {
        let output = qemu(kernel, image, counted).output().context("qemu")?;
        let console = [output.stdout, output.stderr].concat();
        Ok((String::from_utf8_lossy(&console).into_owned(), output.status.code()))
    })
}

/// What a machine's console said when it passed; one of two processors that the emulator
/// ended is booted once more.
fn outlive(counted: bool, mut boot: impl FnMut() -> Result<(String, Option<i32>)>) -> Result<String> {
    let (mut console, mut code) = boot()?;
    if let Some(place) = emulators_fault(&console)
        && !counted
    {
        tell(&console);
        println!("vm: the kernel died of a breakpoint at {place} that it had removed; once more");
        (console, code) = boot()?;
    }
    if console.contains("MACHINE PASSED") {
        return Ok(console);
    }
    tell(&console);
    // As timeout(1) tells it.
    if code == Some(124) {
        bail!("it did not end within {PATIENCE_MINUTES} minutes; --filter runs less");
    }
    bail!("it failed on this kernel")
}

/// Prints what a machine said that failed or hung, which tells where.
fn tell(console: &str) {
    console.lines().for_each(|line| println!("    {}", line.trim_end()));
}

/// Where a kernel died of QEMU before 8.1 (Debian 12 has 7.2), if it did: of two emulated
/// processors one ran the breakpoint that the other had just taken out of the kernel's own
/// code. Breakpoints elsewhere are no such fault, since freed programs of BPF are filled
/// with them, and what leads to them is patched; nor is one after a test that failed.
fn emulators_fault(console: &str) -> Option<&str> {
    let (before, oops) = console.split_once("int3: 0000 [#1]")?;
    let place = oops.lines().find_map(|line| Some(line.split_once("RIP: 0010:")?.1.trim()))?;
    let of_kernel = place.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let elsewhere = place.starts_with("bpf_") || place.contains('[');
    (of_kernel && !elsewhere && !before.contains("FAILED")).then_some(place)
}

fn qemu(kernel: &Path, image: &Path, counted: bool) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.args([
        &format!("{PATIENCE_MINUTES}m"),
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "4096",
    ])
    .args(if counted { ["-icount", "shift=2,sleep=off"] } else { ["-smp", "2"] })
    .args(["-nographic", "-no-reboot", "-append", "console=ttyS0 panic=-1 quiet loglevel=3"])
    // A card of a driver that gives something up for XDP, for the test of that.
    .args(["-netdev", "user,id=card,restrict=on", "-device", "vmxnet3,netdev=card,romfile="])
    .arg("-kernel")
    .arg(kernel)
    .arg("-initrd")
    .arg(image)
    .stdin(Stdio::null());
    qemu
}

fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && (prefix.is_empty() || !path.is_dir())
    });
    found.next().ok_or_else(|| anyhow!("nothing in {} begins with {prefix:?}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the machine ends with, and how often it was booted.
    fn booted(consoles: [&str; 2]) -> (bool, usize) {
        let mut times = 0;
        let said = outlive(false, || {
            times += 1;
            Ok((consoles[times - 1].to_owned(), Some(0)))
        });
        (said.is_ok(), times)
    }

    #[test]
    fn machine_killed_by_an_emulator_fault_is_booted_once_more() {
        let (died, passed) = (died("", "kmem_cache_free+0x105/0x450"), "MACHINE PASSED");
        let died = died.as_str();
        assert_eq!(booted([died, passed]), (true, 2));
        assert_eq!(booted([died, died]), (false, 2), "twice is no accident");
        assert_eq!(booted([passed, died]), (true, 1));
        assert_eq!(booted(["test a ... FAILED", passed]), (false, 1), "a failure is one");
        assert_eq!(booted(["[ 3.1] Oops: general protection fault: 0000 [#1]", passed]), (false, 1));
    }

    #[test]
    fn crash_outside_kernel_code_is_no_emulator_fault() {
        for place in [
            "bpf_prog_0ad648801171d53e_from_network+0x1b/0x4a",
            "bpf_trampoline_6442536467+0x5/0x1000",
            "veth_poll+0x1/0x2 [veth]",
            "0xffffffffc0025bdb",
        ] {
            assert_eq!(emulators_fault(&died("", place)), None, "{place}");
        }
        assert_eq!(emulators_fault(&died("test a ... FAILED\n", "kmem_cache_free+0x105/0x450")), None);
    }

    /// What the console of a kernel says that died of a breakpoint.
    fn died(before: &str, place: &str) -> String {
        format!(
            "{before}[  349.2] Oops: int3: 0000 [#1] PREEMPT SMP\n[  349.3] RIP: 0010:{place}\n[  349.4] Code: cc"
        )
    }
}
