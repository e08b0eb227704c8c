//! The XDP program at the uplink: a link that its pin holds.

use std::{io, path::Path};

use anyhow::{Context, Result, bail};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{
    bpf_call,
    link::{self, Link},
    offloads::{self, driver},
    pins::{self, Pins},
};
use crate::{desired as chosen, tables::XdpAttachment};

/// Whether and how the uplink gets an XDP program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// In the driver, if the driver keeps all its features.
    #[default]
    Auto,
    /// In the driver, even if it loses features.
    Native,
    /// After the driver, on any interface: for tests, not for speed.
    Generic,
    /// No XDP program.
    Off,
}

/// Drivers that give up nothing for a program in them at an MTU of 1500, as far as the setting
/// up of XDP was read in their sources (igb of 6.12, ice, ixgbe and mlx5_core of about 7.0,
/// igc and sfc of a version that is not known); none was tried on a card. They make queues of
/// their own for XDP, share those that they have, or refuse. Others stop merging segments (virtio_net, vmxnet3, bnxt_en, qede), splitting
/// headers (stmmac) or using some of their queues (ixgbevf, mlx4_core), and do not always
/// say so; i40e can lose its device where it has functions for guests.
const LOSE_NOTHING: [&str; 6] = ["ice", "igb", "igc", "ixgbe", "mlx5_core", "sfc"];

/// Why a card has no XDP program, unless somebody insists.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// How the program is attached to an uplink, or why it is not. With VLANs on the
/// uplink it is not: the card takes tags off before XDP sees a frame, which would
/// then pass for one of the uplink's own link.
pub fn choose(wanted: Wanted, uplink: &Link, all: &[Link]) -> chosen::Xdp {
    if wanted == Wanted::Off {
        return chosen::Xdp::default();
    }
    let vlan = |link: &&Link| link.kind.as_deref() == Some("vlan") && link.parent == Some(uplink.index);
    if let Some(vlan) = all.iter().find(vlan) {
        return chosen::Xdp::Off(format!("off: {} is a VLAN on {}", vlan.name, uplink.name));
    }
    match choose_mode(wanted, uplink, driver(uplink)) {
        Ok(mode) => mode,
        Err(why) => chosen::Xdp::Off(why),
    }
}

fn choose_mode(wanted: Wanted, uplink: &Link, driver: Option<String>) -> Result<chosen::Xdp, String> {
    match wanted {
        Wanted::Native => Ok(chosen::Xdp::Native),
        Wanted::Generic => Ok(chosen::Xdp::Generic),
        Wanted::Off => Err("off".into()),
        Wanted::Auto => {
            if let Some(kind) = &uplink.kind {
                return Err(format!("off: a {kind} would lose its offloads"));
            }
            let driver = driver.ok_or("off: the uplink has no driver")?;
            known(&driver).map(|()| chosen::Xdp::Auto)
        }
    }
}

/// Whether a driver is known to lose nothing; if not, why there is no XDP.
fn known(driver: &str) -> Result<(), String> {
    match LOSE_NOTHING.contains(&driver) {
        true => Ok(()),
        false => Err(format!("off: {driver} may lose offloads or queues by it (--xdp native insists)")),
    }
}

/// The program that is ours at an interface.
pub async fn attached(
    pins: &Pins,
    netlink: &Handle,
    interface: &str,
    current: Option<u32>,
) -> Result<Option<XdpAttachment>> {
    let path = pins.xdp(interface);
    if !path.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(&path).with_context(|| format!("{}", path.display()))?;
    let id = FdLink::from(link).info()?.program_id();
    // A link whose interface went away is still pinned, but at no hook.
    let found = link::find(netlink, interface).await?.and_then(|link| link.xdp);
    match found {
        Some(found) if found.program == id => {
            Ok(Some(XdpAttachment { native: found.native, current: current == Some(id) }))
        }
        _ => {
            pins::unlink(&path)?;
            Ok(None)
        }
    }
}

/// Attaches the program, or puts it in the place of an earlier one without a
/// moment between. A foreign program stays, and is named. An interface that refuses
/// another mode gets back the one that it had.
pub async fn attach(
    pins: &Pins,
    netlink: &Handle,
    interface: &str,
    native: bool,
    program: &mut Xdp,
) -> Result<()> {
    let there = attached(pins, netlink, interface, None).await?;
    if there.is_some_and(|there| there.native == native) {
        return replace(&pins.xdp(interface), program);
    }
    if there.is_none()
        && let Some(found) = link::find(netlink, interface).await?.and_then(|link| link.xdp)
    {
        bail!(Refused(format!(
            "{interface} has another XDP program, {}: ip link set {interface} xdp off, or --xdp off",
            found.program
        )));
    }
    detach(pins, interface)?;
    let attached = attach_anew(pins, interface, native, program);
    if attached.is_err()
        && there.is_some()
        && let Err(error) = attach_anew(pins, interface, !native, program)
    {
        warn!("cannot restore the XDP program that the uplink had: {error:#}");
    }
    attached
}

/// Puts the program in the place of the one at a pinned link.
fn replace(path: &Path, program: &mut Xdp) -> Result<()> {
    let link = FdLink::from(PinnedLink::from_pin(path)?);
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    // The link stays by its pin; this only closes our descriptor.
    drop(program.take_link(id)?);
    Ok(())
}

/// Attaches the program where there is none, and pins its link.
fn attach_anew(pins: &Pins, interface: &str, native: bool, program: &mut Xdp) -> Result<()> {
    let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
    let id = program.attach(interface, mode).map_err(|error| refusal(interface, native, error.into()))?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pins.xdp(interface))?;
    Ok(())
}

/// What an attach that failed says: a driver's refusal, unless it only has no room
/// now or is just going away.
fn refusal(interface: &str, native: bool, error: anyhow::Error) -> anyhow::Error {
    let code = |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<io::Error>()?.raw_os_error();
    let passes = |code| [libc::ENODEV, libc::ENOMEM, libc::EAGAIN, libc::EINTR].contains(&code);
    if error.chain().filter_map(code).any(passes) {
        return error.context(interface.to_owned());
    }
    let what =
        if native { "its driver takes no XDP program; use --xdp off or generic" } else { "generic XDP" };
    Refused(format!("{interface}: {what}: {error:#}")).into()
}

/// Detaches what is ours; whether there was anything.
pub fn detach(pins: &Pins, interface: &str) -> Result<bool> {
    let path = pins.xdp(interface);
    if !path.exists() {
        return Ok(false);
    }
    let link = bpf_call::open(&path).with_context(|| format!("{}", path.display()))?;
    bpf_call::detach(&link).with_context(|| format!("BPF_LINK_DETACH from {interface}"))?;
    pins::unlink(&path)?;
    // An interface that is gone needs nothing.
    if let Err(error) = offloads::take_up_again(interface) {
        debug!("{error:#}");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, parent: Option<u32>) -> Link {
        Link { index, name: name.into(), kind: kind.map(str::to_owned), parent, ..Link::default() }
    }

    #[test]
    fn xdp_auto_is_off_on_a_veth_and_without_a_driver() {
        let off = |uplink: &Link, all: &[Link]| match choose(Wanted::Auto, uplink, all) {
            chosen::Xdp::Off(why) => why,
            other => panic!("{other:?}"),
        };
        let veth = link(2, "up0", Some("veth"), None);
        assert!(off(&veth, &[]).contains("veth"));
        assert!(off(&link(2, "no-such-interface", None, None), &[]).contains("no driver"));
        assert_eq!(choose(Wanted::Off, &veth, &[]), chosen::Xdp::default());
        assert_eq!(choose(Wanted::Native, &veth, &[]), chosen::Xdp::Native, "who insists has it");
    }

    #[test]
    fn xdp_auto_is_on_only_for_drivers_that_are_known_to_lose_nothing() {
        let chosen =
            |driver: &str| choose_mode(Wanted::Auto, &link(2, "up0", None, None), Some(driver.into()));
        assert_eq!(chosen("ice"), Ok(chosen::Xdp::Auto));
        for driver in ["virtio_net", "vmxnet3", "a_new_one"] {
            let why = chosen(driver).expect_err("nobody has looked");
            assert!(why.starts_with("off: ") && why.contains(driver) && why.contains("native"), "{why}");
        }
    }

    #[test]
    fn transient_error_is_no_refusal_of_xdp() {
        let failed = |code| {
            let error = aya::sys::SyscallError {
                call: "bpf_link_create",
                io_error: io::Error::from_raw_os_error(code),
            };
            refusal("up0", true, aya::programs::ProgramError::from(error).into())
        };
        for code in [libc::EOPNOTSUPP, libc::EINVAL, libc::EBUSY] {
            let error = failed(code);
            assert!(error.is::<Refused>() && error.to_string().contains("takes no XDP"), "{error:#}");
        }
        for code in [libc::ENODEV, libc::ENOMEM] {
            assert!(!failed(code).is::<Refused>(), "{code}");
        }
    }

    #[test]
    fn an_uplink_with_vlans_has_no_xdp() {
        let uplink = link(2, "up0", None, None);
        let all = [link(3, "up0.7", Some("vlan"), Some(2)), link(4, "other.7", Some("vlan"), Some(9))];
        for wanted in [Wanted::Auto, Wanted::Native, Wanted::Generic] {
            let chosen::Xdp::Off(why) = choose(wanted, &uplink, &all) else { panic!("{wanted:?}") };
            assert!(why.contains("up0.7"), "{why}");
        }
        assert_eq!(choose(Wanted::Generic, &uplink, &all[1..]), chosen::Xdp::Generic);
    }
}
