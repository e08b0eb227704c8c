//! The programs and maps: loaded once for each object, pinned, and found again
//! by a restarted agent, which then loads nothing.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use margay_common::{
    maps::{self, Map, Writer},
    verdict::Program,
};
use tracing::warn;

use super::{
    attach, clear,
    maps::Maps,
    pins::{self, Pins},
};

/// The object that the binary carries.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/margay.bpf.o"));

/// What the programs do besides.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Extras {
    /// Count their look-ups in `LOOKUPS` and tell in `SENT` where a packet went, for tests and
    /// the bench.
    pub tally: bool,
    /// Have XDP remember flows for another while, nanoseconds, or with 0 not at all; for
    /// tests and the bench.
    pub hold: Option<u64>,
}

/// The programs and maps of this agent's object.
pub struct Datapath {
    /// The programs of tc, ready to be attached.
    pub programs: BTreeMap<Program, SchedClassifier>,
    /// That of XDP, unless this kernel refuses it.
    pub xdp: Option<Xdp>,
    /// The maps.
    pub maps: Maps,
}

impl Datapath {
    /// Finds what is pinned, or loads and pins it.
    pub fn load(pins: &Pins, extras: Extras) -> Result<Self> {
        let dir = pins.programs().join(object_name(extras));
        if !is_complete(&dir) {
            load_and_pin(pins, &dir, extras)?;
        }
        let maps = Maps::open(pins)?;
        let programs = of_tc().map(|program| Ok((program, open(&dir, program)?)));
        let xdp = dir.join(Program::Xdp.label());
        let xdp = xdp.exists().then(|| Xdp::from_pin(&xdp, XdpAttachType::Interface)).transpose()?;
        Ok(Self { programs: programs.collect::<Result<_>>()?, xdp, maps })
    }

    /// Removes the programs of other objects, the maps of other layouts and the folders
    /// that are empty then.
    /// Whatever is attached keeps its program until it is replaced.
    pub fn forget_others(pins: &Pins, extras: Extras) -> Result<()> {
        for name in pins::names(&pins.programs())? {
            if name != object_name(extras) {
                remove_programs(&pins.programs().join(name))?;
            }
        }
        for pin in pins.other_maps()? {
            clear::map(&pin);
            pins::unlink(&pin)?;
        }
        pins.layouts()?.iter().for_each(|dir| drop(fs::remove_dir(dir)));
        Ok(())
    }

    /// The kernel's id of a program.
    pub fn program_id(&self, program: Program) -> Result<u32> {
        let loaded = self.programs.get(&program).context("every program is loaded")?;
        Ok(loaded.info()?.id())
    }
}

fn load_and_pin(pins: &Pins, dir: &Path, extras: Extras) -> Result<()> {
    let tally = u8::from(extras.tally);
    let hold = extras.hold.unwrap_or(maps::FLOW_HOLD);
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(maps::TALLY, &tally, true)
        .override_global(maps::HOLD, &hold, true);
    // What programs note for themselves is each object's own.
    let is_pinned = |map: &&Map| map.layout.is_some() && (extras.tally || map.writer != Writer::tallying);
    for map in maps::ALL.iter().filter(is_pinned) {
        loader.map_pin_path(map.name, pins.map(map));
    }
    let mut object = loader.load(OBJECT).context("cannot load the eBPF object")?;
    fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    // The others can do without it.
    if let Err(error) = load_xdp(&mut object, dir) {
        warn!("this kernel refuses the XDP program: {error:#}");
    }
    for program in of_tc() {
        let found = object.program_mut(program.label());
        let found = found.ok_or_else(|| anyhow!("the eBPF object lacks {}", program.label()))?;
        let loaded: &mut SchedClassifier = found.try_into()?;
        loaded.load().map_err(|error| refused(program, error))?;
        let path = dir.join(program.label());
        pins::unlink(&path)?;
        loaded.pin(&path).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

/// The programs that tc runs.
fn of_tc() -> impl Iterator<Item = Program> {
    Program::ALL.iter().copied().filter(|program| attach::hook(*program).is_some())
}

fn load_xdp(object: &mut Ebpf, dir: &Path) -> Result<()> {
    let program = object.program_mut(Program::Xdp.label()).context("the eBPF object lacks it")?;
    let loaded: &mut Xdp = program.try_into()?;
    loaded.load().map_err(|error| refused(Program::Xdp, error))?;
    let path = dir.join(Program::Xdp.label());
    pins::unlink(&path)?;
    loaded.pin(&path).with_context(|| format!("{}", path.display()))
}

/// The verifier's last words are the ones that count.
fn refused(program: Program, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = &error else {
        return anyhow::Error::from(error).context(format!("program {}", program.label()));
    };
    let log = verifier_log.to_string();
    let from = log.lines().count().saturating_sub(30);
    let tail: Vec<&str> = log.lines().skip(from).collect();
    if let Some(helper) = missing_helper(&log) {
        return anyhow!("this kernel lacks {helper}, which Linux has since 5.10: Margay needs a newer one");
    }
    anyhow!("the kernel refuses program {}: {io_error}\n{}", program.label(), tail.join("\n"))
}

/// The helper that a verifier says it does not know: "unknown func
/// bpf_redirect_peer#155", or "invalid func" before 5.18.
fn missing_helper(log: &str) -> Option<&str> {
    let rest = ["unknown func ", "invalid func "].iter().find_map(|words| log.split(words).nth(1))?;
    rest.split_whitespace().next()
}

fn open(dir: &Path, program: Program) -> Result<SchedClassifier> {
    let path = dir.join(program.label());
    SchedClassifier::from_pin(&path).with_context(|| format!("program {}", path.display()))
}

fn is_complete(dir: &Path) -> bool {
    of_tc().all(|program| dir.join(program.label()).exists())
}

/// Removes the pins of the programs of one object.
pub fn remove_programs(dir: &Path) -> Result<()> {
    for name in pins::names(dir)? {
        pins::unlink(&dir.join(name))?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Names the object, the maps that it works with and the way that it is loaded.
fn object_name(extras: Extras) -> String {
    let mut hasher = DefaultHasher::new();
    (OBJECT, maps::ALL, extras).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Where the programs of this agent's object are pinned.
pub fn programs_dir(pins: &Pins, extras: Extras) -> PathBuf {
    pins.programs().join(object_name(extras))
}

#[cfg(test)]
mod tests {
    use super::missing_helper;

    #[test]
    fn a_missing_helper_is_named() {
        let log = "0: (85) call bpf_redirect_peer#155\nunknown func bpf_redirect_peer#155\nprocessed 1 insns";
        assert_eq!(missing_helper(log), Some("bpf_redirect_peer#155"));
        assert_eq!(missing_helper("invalid func unknown#155\n"), Some("unknown#155"));
        assert_eq!(missing_helper("R1 invalid mem access"), None);
    }
}
