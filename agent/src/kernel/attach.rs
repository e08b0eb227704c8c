//! Programs at their hooks: tcx links where the kernel has them (6.6), clsact
//! filters elsewhere, and links of their own kind at netkits.
//!
//! A link is known by its pin, a filter by its priority and handle, which
//! are always the same. What another program does at the same hook is its own
//! affair: ours says "not mine" to whatever is not, in both ways.

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{FdLink, LinkOrder, PinnedLink},
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
};
use futures::TryStreamExt;
use margay_common::verdict::Program;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};

use super::{
    facts, link, netkit,
    pins::{self, Pins},
};

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    /// Links of tcx, from Linux 6.6 on: replaced in place, owned by their pin.
    Tcx,
    /// Filters of a `clsact` qdisc, on every kernel.
    Clsact,
}

impl TcMode {
    /// The kernel's own answer: it knows the query for tcx programs or not.
    pub fn probe() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }
}

/// Priority of our filters.
const PRIORITY: u16 = 0x4d47;
/// Their handle.
const HANDLE: u16 = 1;

/// The hook of a program, if it is one of tc's.
pub fn hook(program: Program) -> Option<TcAttachType> {
    match program {
        Program::FromWorkload | Program::FromNetwork => Some(TcAttachType::Ingress),
        Program::FromHost => Some(TcAttachType::Egress),
        Program::Xdp => None,
    }
}

/// Which program is at a hook of an interface of ours.
pub fn program_at(hook: TcAttachType, interface: &str, uplink: &str) -> Program {
    match hook {
        TcAttachType::Egress => Program::FromHost,
        _ if interface == uplink => Program::FromNetwork,
        _ => Program::FromWorkload,
    }
}

/// The kernel's ids of the programs that ours attached to an interface, and at
/// which hook.
pub async fn attached(
    mode: TcMode,
    pins: &Pins,
    netlink: &Handle,
    interface: &str,
) -> Result<Option<(TcAttachType, u32)>> {
    match (mode, netkit::attached(&pins.link(interface))?) {
        // What a container sends is "ingress", wherever it is seen.
        (_, Some(id)) => Ok(Some((TcAttachType::Ingress, id))),
        (TcMode::Tcx, None) => attached_tcx(pins, interface),
        (TcMode::Clsact, None) => attached_clsact(netlink, interface).await,
    }
}

/// Attaches a program, or puts it in the place of an earlier one without a
/// moment between.
pub async fn attach(
    mode: TcMode,
    pins: &Pins,
    netlink: &Handle,
    interface: &str,
    kind: TcAttachType,
    program: &mut SchedClassifier,
) -> Result<()> {
    if facts::is_own(interface)
        && let Some(link) = link::find(netlink, interface).await?
        && link.kind.as_deref() == Some("netkit")
    {
        return netkit::attach(&pins.link(interface), link.index, program);
    }
    let there = attached(mode, pins, netlink, interface).await?;
    match (mode, there) {
        (TcMode::Tcx, Some(_)) => replace_tcx(pins, interface, program)?,
        (TcMode::Tcx, None) => attach_tcx(pins, interface, kind, program)?,
        (TcMode::Clsact, there) => {
            attach_clsact(netlink, interface, kind, program, there.is_some()).await?;
        }
    }
    // What the other way left behind, now that this one works.
    match mode {
        TcMode::Tcx => detach_clsact(netlink, interface).await,
        TcMode::Clsact => pins::unlink(&pins.link(interface)),
    }
}

/// Detaches what is ours, attached in either way; whether there was anything.
pub async fn detach(pins: &Pins, netlink: &Handle, interface: &str) -> Result<bool> {
    let link = pins.link(interface);
    let linked = link.exists();
    pins::unlink(&link)?;
    let filtered = attached_clsact(netlink, interface).await?.is_some();
    detach_clsact(netlink, interface).await?;
    Ok(linked || filtered)
}

/// Unpins a link that is at no interface any more.
pub fn discard_husk(pins: &Pins, interface: &str) -> Result<()> {
    let link = pins.link(interface);
    if link.exists() && netkit::attached(&link)?.is_none() && attached_tcx(pins, interface)?.is_none() {
        pins::unlink(&link)?;
    }
    Ok(())
}

fn attached_tcx(pins: &Pins, interface: &str) -> Result<Option<(TcAttachType, u32)>> {
    let path = pins.link(interface);
    if !path.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(&path).with_context(|| format!("{}", path.display()))?;
    let id = FdLink::from(link).info()?.program_id();
    // A link whose interface went away is still pinned, but at no hook.
    for kind in [TcAttachType::Ingress, TcAttachType::Egress] {
        let Ok((_, programs)) = SchedClassifier::query_tcx(interface, kind) else { continue };
        if programs.iter().any(|program| program.id() == id) {
            return Ok(Some((kind, id)));
        }
    }
    Ok(None)
}

fn attach_tcx(pins: &Pins, interface: &str, kind: TcAttachType, program: &mut SchedClassifier) -> Result<()> {
    pins::unlink(&pins.link(interface))?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, kind, options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pins.link(interface))?;
    Ok(())
}

fn replace_tcx(pins: &Pins, interface: &str, program: &mut SchedClassifier) -> Result<()> {
    let link = FdLink::from(PinnedLink::from_pin(pins.link(interface))?);
    let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    // The link stays by its pin; this only closes our descriptor.
    drop(program.take_link(id)?);
    Ok(())
}

async fn attach_clsact(
    netlink: &Handle,
    interface: &str,
    kind: TcAttachType,
    program: &mut SchedClassifier,
    replace: bool,
) -> Result<()> {
    ensure_clsact(netlink, interface).await?;
    let handle = TcHandle::new(0, HANDLE);
    let id = if replace {
        let old = SchedClassifierLink::attached(interface, kind, PRIORITY, handle, None)?;
        program.attach_to_link(old)?
    } else {
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        program.attach_with_options(interface, kind, TcAttachOptions::Netlink(options))?
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Adds the qdisc that filters need, unless it is there.
async fn ensure_clsact(netlink: &Handle, interface: &str) -> Result<()> {
    let index = link::index(netlink, interface).await?.ok_or_else(|| gone(interface))?;
    let mut qdiscs = netlink.qdisc().get().index(index as i32).execute();
    while let Some(qdisc) = qdiscs.try_next().await? {
        let ours = qdisc.header.index == index as i32;
        let kind = qdisc.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        });
        match kind {
            Some("clsact") if ours => return Ok(()),
            Some("ingress") if ours => bail!(
                "{interface} has an `ingress` qdisc in the place of clsact, so no program can be attached; \
                 tc qdisc del dev {interface} ingress"
            ),
            _ => {}
        }
    }
    qdisc_add_clsact(interface).with_context(|| format!("clsact on {interface}"))
}

async fn attached_clsact(netlink: &Handle, interface: &str) -> Result<Option<(TcAttachType, u32)>> {
    let Some(index) = link::index(netlink, interface).await? else { return Ok(None) };
    for kind in [TcAttachType::Ingress, TcAttachType::Egress] {
        if let Some(id) = filter_at(netlink, index, kind).await? {
            return Ok(Some((kind, id)));
        }
    }
    Ok(None)
}

/// The program of our filter at a hook.
async fn filter_at(netlink: &Handle, index: u32, kind: TcAttachType) -> Result<Option<u32>> {
    let mut filters = netlink.traffic_filter(index as i32);
    let request = match kind {
        TcAttachType::Egress => filters.get().egress(),
        TcAttachType::Ingress | TcAttachType::Custom(_) => filters.get().ingress(),
    };
    let mut found = request.execute();
    // Without a clsact qdisc the kernel answers with an error.
    while let Ok(Some(filter)) = found.try_next().await {
        let handle = filter.header.handle;
        if filter.header.info >> 16 != u32::from(PRIORITY) || handle.major != 0 || handle.minor != HANDLE {
            continue;
        }
        for attribute in &filter.attributes {
            let TcAttribute::Options(options) = attribute else { continue };
            let id = options.iter().find_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                _ => None,
            });
            if id.is_some() {
                return Ok(id);
            }
        }
    }
    Ok(None)
}

async fn detach_clsact(netlink: &Handle, interface: &str) -> Result<()> {
    let Some((kind, _)) = attached_clsact(netlink, interface).await? else { return Ok(()) };
    let handle = TcHandle::new(0, HANDLE);
    let filter = SchedClassifierLink::attached(interface, kind, PRIORITY, handle, None)?;
    drop(filter);
    Ok(())
}

fn gone(interface: &str) -> anyhow::Error {
    anyhow!("interface {interface} does not exist")
}
