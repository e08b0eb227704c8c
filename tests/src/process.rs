//! Processes of the lab. Each ends with its owner, by its pid.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::eventually::eventually;

/// A running process, killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in a log file. With `bound` it ends
    /// when the calling thread does.
    pub fn start(mut command: Command, log: &Path, bound: bool) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log opens");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a descriptor")).stderr(file);
        if bound {
            // SAFETY: between fork and exec only this system call is made,
            // which is safe there and allocates nothing.
            unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has become a program: nsenter and setpriv first enter or change
    /// something, and then execute it.
    #[track_caller]
    pub fn becomes(&self, program: &str) {
        let comm = format!("/proc/{}/comm", self.id());
        eventually(program, || match std::fs::read_to_string(&comm) {
            Ok(name) if name.trim() == program => Ok(()),
            other => Err(other),
        });
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // One that has ended needs no signal any more.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("it is our own child")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it is our own child")
    }

    /// Kills it and waits.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Lets it live on.
    pub fn release(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit status; -1 for a signal.
    pub status: i32,
}

impl Said {
    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.status == 0
    }
}

/// Runs a command to its end.
pub fn say(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code().unwrap_or(-1),
    }
}

/// Runs a command of words that has to succeed, and gives what it printed.
#[track_caller]
pub fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let said = say(Command::new(program).args(words));
    assert!(said.ok(), "{line}: {said:?}");
    said.out
}
