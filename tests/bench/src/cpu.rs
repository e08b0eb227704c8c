//! What the processors did, and what may have disturbed them.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// Steps of the fixed computation, which take some ten milliseconds, and a factor in it.
const STEPS: u64 = 4_000_000;
const PRIME: u64 = 0x100_0000_01b3;
/// How often it is done before each round.
const COMPUTATIONS: usize = 20;

/// Processor time of the whole machine since it started, seconds.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// In user space, the kernel, interrupts and softirqs.
    pub busy: f64,
    /// Taken away by the machine below this one.
    pub stolen: f64,
}

impl Cpu {
    /// Up to now.
    pub fn now() -> Self {
        let stat = read("/proc/stat");
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        // user nice system idle iowait irq softirq steal guest
        let sum =
            |fields: &[usize]| fields.iter().filter_map(|field| ticks.get(*field)).sum::<f64>() / per_second;
        Self { busy: sum(&[0, 1, 2, 5, 6]), stolen: sum(&[7]) }
    }

    /// From then to now.
    pub fn since(then: Self) -> Self {
        let now = Self::now();
        Self { busy: now.busy - then.busy, stolen: now.stolen - then.stolen }
    }
}

/// What this run ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Processors.
    pub cpus: usize,
    /// Memory, MiB.
    pub memory: u64,
    /// Processors busy while nothing is measured: in a second before the run and one
    /// before each round, when all candidates stand idle.
    pub busy_idle: Vec<f64>,
    /// Load average of the minute before the run.
    pub load_before: f64,
    /// Clock of the processors in the same seconds and at the end, MHz.
    pub mhz: Vec<f64>,
    /// How long a fixed computation took on one processor, again and again, after the
    /// same seconds, us. It takes longer while another virtual machine uses the same core, which
    /// the clock does not show.
    pub computed: Vec<f64>,
    /// What puts idle processors to sleep.
    pub idle: String,
    /// For how long at most idle processors of a virtual machine look for work before
    /// they halt, ns; nothing where another driver does that.
    pub halt_poll: Option<u64>,
    /// Congestion control of the candidates' TCP.
    pub congestion: String,
    /// Processor time taken away during the run, seconds.
    pub stolen: f64,
}

impl Machine {
    /// Looks for a second.
    pub fn look() -> Self {
        let mut machine = Self::still();
        machine.listen();
        machine
    }

    /// What does not change.
    fn still() -> Self {
        let info = read("/proc/cpuinfo");
        let processor = field(&info, "model name").next().unwrap_or_default();
        let memory = read("/proc/meminfo");
        let memory = field(&memory, "MemTotal").next().unwrap_or_default();
        let load = read("/proc/loadavg");
        let idle = read("/sys/devices/system/cpu/cpuidle/current_driver").trim().to_owned();
        let poll = read("/sys/module/haltpoll/parameters/guest_halt_poll_ns");
        Self {
            kernel: margay_tests::process::sh("uname -r").trim().into(),
            processor,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0) / 1024,
            busy_idle: Vec::new(),
            load_before: load.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            mhz: Vec::new(),
            computed: Vec::new(),
            halt_poll: poll.trim().parse().ok().filter(|_| idle == "haltpoll"),
            idle,
            congestion: String::new(),
            stolen: 0.0,
        }
    }

    /// Looks for a second at what goes on while nothing is measured, and then for a
    /// part of one at how fast a processor is.
    pub fn listen(&mut self) {
        let before = Cpu::now();
        std::thread::sleep(Duration::from_secs(1));
        self.busy_idle.push(Cpu::since(before).busy);
        self.mhz.extend(mhz());
        self.computed.extend((0..COMPUTATIONS).map(|_| compute()));
    }

    /// Looks again at the end of the run.
    pub fn finish(&mut self, begun: Cpu) {
        self.mhz.extend(mhz());
        self.stolen = Cpu::since(begun).stolen;
    }
}

/// Computes something that needs nothing but the processor, and says how long it took, us.
fn compute() -> f64 {
    let begun = Instant::now();
    // Several at a time, so that the units are busy and not waited for.
    let mut sums = [1_u64; 8];
    for step in 0..STEPS {
        for sum in &mut sums {
            *sum = (*sum ^ std::hint::black_box(step)).wrapping_mul(PRIME);
        }
    }
    std::hint::black_box(sums);
    begun.elapsed().as_secs_f64() * 1e6
}

/// A file of the kernel's; nothing where there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn mhz() -> Vec<f64> {
    let info = read("/proc/cpuinfo");
    field(&info, "cpu MHz").filter_map(|mhz| mhz.parse().ok()).collect()
}

/// The values of the lines `name : value`.
fn field(text: &str, name: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(move |line| line.starts_with(name));
    lines.filter_map(|line| Some(line.split_once(':')?.1.trim().to_owned()))
}
