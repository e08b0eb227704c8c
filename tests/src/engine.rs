//! A host's own Docker Engine: a real dockerd in the host's namespace, with
//! its own folders, and an image made here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    container::Namespace,
    eventually::eventually,
    process::{Process, Said, say},
};

/// The image that containers are made of: busybox and nothing else.
pub const IMAGE: &str = "box";
/// Names the root of another Debian's engine; `cargo xtask test docker --engine` makes it.
const ROOT: &str = "MARGAY_TEST_ENGINE_ROOT";
/// How long a dockerd may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(60);

/// A Docker Engine.
pub struct Engine {
    namespace: PathBuf,
    dir: PathBuf,
    /// Folder of its control groups.
    cgroup: String,
    /// Flags besides its own.
    flags: Vec<String>,
    process: Option<Process>,
    /// Holds the mounts, which outlive every dockerd.
    mounts: Process,
    bound: bool,
}

impl Engine {
    /// Starts an engine that finds the plugin at `socket`, or at Docker's default path, and loads
    /// the image into it.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        plugin: Option<&Path>,
        flags: &[&str],
        bound: bool,
    ) -> Self {
        fs::create_dir_all(dir).expect("a folder");
        if let Some(plugin) = plugin {
            fs::write(dir.join("margay.spec"), format!("unix://{}\n", plugin.display())).expect("a disk");
        }
        let mounts = mounts(dir, plugin.is_some(), bound);
        let mut engine = Self {
            mounts,
            namespace: namespace.path(),
            dir: dir.into(),
            cgroup: format!("/margay-{}", namespace.name()),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            process: None,
            bound,
        };
        engine.run();
        engine.import();
        engine
    }

    /// Starts dockerd, on the data that it has.
    pub fn run(&mut self) {
        let dir = self.dir.display().to_string();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.display()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.mounts.id()))
            .args(["dockerd", "--storage-driver", "vfs", "--cgroup-parent", &self.cgroup])
            .args(["--data-root", &format!("{dir}/data"), "--exec-root", &format!("{dir}/exec")])
            .args(["-p", &format!("{dir}/pid"), "-H", &format!("unix://{dir}/docker.sock")])
            .args(&self.flags);
        drop(fs::remove_file(self.dir.join("pid")));
        self.process = Some(Process::start(command, &self.dir.join("dockerd.log"), self.bound));
        eventually("dockerd answers", || {
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "dockerd ended: {}", self.log());
            let said = self.docker(&["version"]);
            if said.ok() { Ok(()) } else { Err(said) }
        });
    }

    /// Its API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// Runs a docker command to its end.
    pub fn docker(&self, args: &[&str]) -> Said {
        say(self.command().args(args))
    }

    /// A docker command.
    pub fn command(&self) -> Command {
        // The client has the daemon's version, if there are several.
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.mounts.id()));
        let debians = Path::new("/usr/bin/docker");
        let here = debians.exists() || env::var_os(ROOT).is_some();
        command.arg(if here { debians } else { Path::new("docker") });
        command.arg("-H").arg(format!("unix://{}", self.socket().display()));
        // The caller's own Docker settings do not apply.
        command.env("DOCKER_CONFIG", &self.dir).env_remove("DOCKER_HOST");
        command
    }

    /// Runs docker-compose, of the daemon's own Debian, on a file; the project is named
    /// `shop`.
    pub fn compose(&self, file: &Path, args: &[&str]) -> Said {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.mounts.id()));
        command.args(["docker-compose", "-p", "shop", "-f"]).arg(file).args(args);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", &self.dir).env("COMPOSE_HTTP_TIMEOUT", "600");
        say(&mut command)
    }

    /// The ids of its processes, its containers' apart.
    pub fn processes(&self) -> Vec<u32> {
        let containerd = fs::read_to_string(self.dir.join("exec/containerd/containerd.pid")).ok();
        let containerd = containerd.and_then(|pid| pid.trim().parse().ok());
        let own = [Some(self.mounts.id()), self.process.as_ref().map(Process::id), containerd];
        own.into_iter().flatten().collect()
    }

    /// Kills dockerd, as a crash would: its containers live on.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        // The next dockerd starts its own containerd.
        self.end_containerd();
    }

    /// Ends dockerd as an operator would.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(Signal::SIGTERM);
        let begun = Instant::now();
        while process.ended().is_none() && begun.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(20));
        }
        process.kill();
        self.end_containerd();
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default()
    }

    /// Ends the containerd that dockerd started and left behind, and removes the files by which
    /// the next dockerd would believe it alive.
    fn end_containerd(&self) {
        let folder = self.dir.join("exec/containerd");
        let pid = fs::read_to_string(folder.join("containerd.pid")).ok();
        if let Some(pid) = pid.and_then(|text| text.trim().parse::<u32>().ok()) {
            // The pid may belong to another process by now.
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains(&*self.dir.to_string_lossy()) {
                drop(say(Command::new("kill").args(["-9", &pid.to_string()])));
                // Also on the way out of a failed test, so nothing here panics.
                let begun = Instant::now();
                let ended =
                    || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty();
                while !ended() && begun.elapsed() < GRACE {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "sock" || extension == "pid") {
                drop(fs::remove_file(path));
            }
        }
    }

    /// Builds the image without any registry.
    fn import(&self) {
        let root = self.dir.join("image");
        let bin = root.join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for folder in ["etc", "proc", "sys", "tmp", "dev"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        fs::copy("/usr/bin/busybox", bin.join("busybox"))
            .or_else(|_| fs::copy("/bin/busybox", bin.join("busybox")))
            .expect("busybox-static is installed");
        let applets = say(Command::new(bin.join("busybox")).arg("--list")).out;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            drop(std::os::unix::fs::symlink("busybox", bin.join(applet)));
        }
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().expect("tar runs");
        let mut import = self.command();
        import.args(["import", "-", IMAGE]).stdin(tar.stdout.take().expect("a pipe"));
        let imported = import.output().expect("docker runs");
        assert!(tar.wait().expect("our own child").success() && imported.status.success(), "{imported:?}");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- dockerd ----\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        if self.process.is_none() {
            // Only it can end its containers.
            if !std::thread::panicking() {
                self.run();
            }
        }
        let ids = self.docker(&["ps", "-aq"]).out;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "-f", "-v"], &ids[..]].concat());
        }
        self.stop();
        for tree in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let folder = tree.path().join(self.cgroup.trim_start_matches('/'));
            drop(fs::remove_dir(folder));
        }
    }
}

/// A mount namespace per engine: Docker's plugin path is fixed, and each engine has other
/// plugins. Another Debian's engine also has its own root.
fn mounts(dir: &Path, own: bool, bound: bool) -> Process {
    let ready = dir.join("mounted");
    let root = env::var(ROOT).map(|root| enter(dir, &root)).unwrap_or_default();
    let script = format!(
        "{root}mkdir -p /run/docker /etc/docker && ({own} && mount -t tmpfs none /run/docker || true) && \
         mount -t tmpfs none /etc/docker && mkdir /etc/docker/plugins && \
         (cp {0}/*.spec /etc/docker/plugins/ 2>/dev/null || true) && touch {1} && exec sleep infinity",
        dir.display(),
        ready.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let process = Process::start(command, &dir.join("mounts.log"), bound);
    eventually("the mounts are there", || if ready.exists() { Ok(()) } else { Err(process.log()) });
    process
}

/// The shell commands that enter another root, with the mounts that all roots of this machine
/// share. The root itself is read-only; writes go to an overlay above it.
fn enter(dir: &Path, root: &str) -> String {
    // Containers mount the examples by their path on this machine.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder is in it");
    format!(
        "cd {dir} && mkdir root above work && \
         mount -t overlay -o lowerdir={root},upperdir=above,workdir=work overlay root && \
         for shared in /run /dev /proc /sys {repository}; do \
         mkdir -p root$shared && mount --rbind $shared root$shared || exit 1; done && \
         cd root && mkdir -p old && pivot_root . old && umount -l /old && cd / && ",
        dir = dir.display(),
        repository = repository.display()
    )
}

/// The part of `docker inspect` that is about networks.
#[track_caller]
pub fn networks(inspected: &str) -> Value {
    let value: Value = serde_json::from_str(inspected).expect("JSON");
    value[0]["NetworkSettings"]["Networks"].clone()
}
