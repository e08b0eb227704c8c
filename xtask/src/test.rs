//! `cargo xtask test`.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    engine, machine, run,
    runner::{self, Chosen, executable},
    setup::{self, Need},
    stages::{Stages, Tally},
    vm,
};

/// What to run.
#[derive(Args, Default)]
pub struct Options {
    /// The suites; all of them unless named
    suites: Vec<Suite>,
    /// Boot these kernels of Debian's in QEMU and run suites inside: datapath,
    /// unless others are named
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    vm: Vec<String>,
    /// Only the tests whose name contains this, or one of these
    #[arg(long, value_name = "TEXT", value_parser = part_of_a_name)]
    filter: Vec<String>,
    /// What containers get in these machines, where a test does not say (netkit)
    #[arg(long, value_name = "KIND", requires = "vm", value_parser = ["veth", "netkit"])]
    container_device: Option<String>,
    /// Run the Docker suite on the Docker Engine of another suite of Debian's
    #[arg(long, value_name = "DEBIAN", conflicts_with = "vm")]
    engine: Option<engine::Debian>,
}

/// One suite.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Pure logic, on the host
    Unit,
    /// One packet at a time through the programs
    Datapath,
    /// One agent, real interfaces
    Node,
    /// Several agents, real etcd
    Cluster,
    /// Several hosts, each with its own Docker Engine
    Docker,
    /// The bench itself, which nothing else builds: only by its name
    Bench,
}

impl Suite {
    const ALL: [Self; 5] = [Self::Unit, Self::Datapath, Self::Node, Self::Cluster, Self::Docker];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Datapath => "datapath",
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::Docker => "docker",
            Self::Bench => "bench",
        }
    }
}

/// Runs the tests, and tells how long everything took.
pub fn run(options: &Options) -> Result<()> {
    options.check()?;
    let mut stages = Stages::begin();
    let need = match (options.vm.is_empty(), options.engine) {
        (false, _) => Need::Machines,
        (true, Some(_)) => Need::Engines,
        (true, None) => Need::Everything,
    };
    let ready = stages.stage("set-up", |_| setup::run(need));
    let mut built = BTreeMap::new();
    let upgrades = options.vm.is_empty() && options.chosen().contains(&Suite::Node);
    let build_all = if upgrades { build_for_upgrades } else { build };
    if ready && stages.stage("build", |_| build_all(&mut built)) {
        options.stages(&built, &mut stages);
    }
    stages.end()
}

/// Builds everything that tests run, and an agent whose maps have another layout.
pub fn build_for_upgrades(built: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    // First: tests look for the agent where the last build puts it.
    runner::build_other_layout()?;
    build(built)
}

/// Builds everything that tests run.
pub fn build(built: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    println!("test: building (some minutes the first time)");
    *built = runner::build()?;
    Ok(())
}

impl Options {
    /// Parts of suites in a machine.
    pub fn in_machine(version: &str, suites: &[Suite], filter: &[&str]) -> Self {
        let filter = filter.iter().map(|text| (*text).to_owned()).collect();
        Self { suites: suites.to_vec(), vm: vec![version.into()], filter, ..Self::default() }
    }

    /// One suite on this kernel.
    pub fn of(suite: Suite) -> Self {
        Self { suites: vec![suite], ..Self::default() }
    }

    /// The same behind another kind of device.
    pub fn behind(self, device: &str) -> Self {
        Self { container_device: Some(device.into()), ..self }
    }

    /// The Docker suite, or parts of it, on another engine.
    pub fn on_engine(debian: engine::Debian, filter: &[&str]) -> Self {
        let filter = filter.iter().map(|text| (*text).to_owned()).collect();
        Self { suites: vec![Suite::Docker], engine: Some(debian), filter, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        if self.engine.is_some() && self.suites.iter().any(|suite| *suite != Suite::Docker) {
            bail!("--engine is for the docker suite: cargo xtask test docker --engine ...");
        }
        if self.suites.contains(&Suite::Bench) && self.suites.len() > 1 {
            bail!("bench is a package of its own: cargo xtask test bench");
        }
        Ok(())
    }

    /// Runs them, a stage for each kernel or engine.
    pub fn stages(&self, built: &BTreeMap<String, PathBuf>, stages: &mut Stages) {
        for version in &self.vm {
            let device = self.container_device.as_ref().map(|device| format!(", {device}"));
            let name = format!("{} on Linux {version}{}", self.named(), device.unwrap_or_default());
            stages.stage(&name, |tally| self.in_vm(version, built, tally));
        }
        if let Some(debian) = self.engine {
            let name = format!("{} on the engine of Debian {debian}", self.named());
            stages.stage(&name, |tally| self.here(Some(debian), built, tally));
        } else if self.vm.is_empty() {
            stages.stage(&self.named(), |tally| self.here(None, built, tally));
        }
    }

    /// What runs, in words.
    fn named(&self) -> String {
        let suites = self.chosen().iter().map(|suite| suite.name()).collect::<Vec<_>>().join(" ");
        if self.filter.is_empty() { suites } else { format!("parts of {suites}") }
    }

    /// The suites that are meant.
    fn chosen(&self) -> &[Suite] {
        match (self.suites.as_slice(), self.vm.is_empty(), self.engine) {
            ([], _, Some(_)) => &[Suite::Docker],
            ([], false, None) => &[Suite::Datapath],
            ([], true, None) => &Suite::ALL,
            (named, ..) => named,
        }
    }

    /// Runs suites on this kernel.
    fn here(
        &self,
        engine: Option<engine::Debian>,
        built: &BTreeMap<String, PathBuf>,
        tally: &mut Tally,
    ) -> Result<()> {
        let suites: Vec<&str> = self.chosen().iter().map(|suite| suite.name()).collect();
        let chosen = Chosen { suites: &suites, filter: &self.filter };
        let root = engine.map(engine::root).transpose()?;
        runner::run(&chosen, built, tally, |tests| {
            if suites == ["unit"] {
                return run::check(tests);
            }
            if let Some(root) = &root {
                tests.env(engine::ROOT, root);
            }
            machine::run_private(tests)
        })
    }

    /// Runs suites on another kernel.
    fn in_vm(&self, version: &str, built: &BTreeMap<String, PathBuf>, tally: &mut Tally) -> Result<()> {
        let mut inside =
            vm::Inside { programs: Vec::new(), command: "true".into(), engine: false, counted: false };
        if let Some(device) = &self.container_device {
            inside.command += &format!(" && export MARGAY_TEST_CONTAINER_DEVICE={device}");
        }
        for suite in self.chosen() {
            if !matches!(suite, Suite::Datapath | Suite::Node | Suite::Docker) {
                bail!("--vm runs the suites datapath, node and docker: the others are for this kernel");
            }
            inside.engine |= *suite == Suite::Docker;
            inside.programs.push((executable(built, suite.name())?.to_owned(), suite.name()));
            let filter = self.filter.join(" ");
            inside.command += &format!(" && /{} --test-threads=1 --show-output {filter}", suite.name());
        }
        inside.programs.push((executable(built, "margay")?.to_owned(), "margay"));
        let console = vm::run(version, &inside);
        let console = match &console {
            Ok(console) => console,
            Err(_) => return console.map(drop),
        };
        self.tell(console)?;
        tally.add(runner::of_console(console));
        Ok(())
    }

    /// Tells what a machine's console said that counts, of all that the tests of a passing
    /// run print.
    fn tell(&self, console: &str) -> Result<()> {
        let passed = |text: &str| {
            let mut lines = console.lines().map(str::trim_end);
            lines.any(|line| line.starts_with("test ") && line.contains(text) && line.ends_with("... ok"))
        };
        if let Some(filter) = self.filter.iter().find(|filter| !passed(filter)) {
            bail!("no test of a suite has {filter:?} in its name");
        }
        let told = runner::of_console(console);
        if told.passed == 0 {
            bail!("every test was skipped: {}", told.skipped.join("; "));
        }
        let wanted = |line: &&str| line.contains(" verified") || line.starts_with("test ");
        console.lines().filter(wanted).for_each(|line| println!("    {}", line.trim_end()));
        Ok(())
    }
}

/// A filter: what may be in a name, so nothing that a shell or a runner understands.
fn part_of_a_name(text: &str) -> Result<String> {
    if text.is_empty() || text.chars().any(|c| !c.is_ascii_alphanumeric() && !"_:".contains(c)) {
        bail!("it takes a part of a test's name: letters, digits, _ and :");
    }
    Ok(text.to_owned())
}
