//! The XDP program at the uplink: a link that its pin holds.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};

use super::{
    link::{self, Link},
    pins::{self, Pins},
};
use crate::tables::XdpAttachment;

/// Whether and how the uplink gets an XDP program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// In the driver, where that gives up nothing.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver, which any has: for trying, not for speed.
    Generic,
    /// Not at all.
    Off,
}

/// Drivers whose native XDP takes something away: merging of segments
/// (virtio_net, hv_netvsc), half of the queues (ena).
const COSTLY: [&str; 3] = ["virtio_net", "hv_netvsc", "ena"];

/// How the program is attached to an uplink, or why it is not.
pub fn choose(wanted: Wanted, uplink: &Link) -> Result<bool, String> {
    match wanted {
        Wanted::Native => Ok(true),
        Wanted::Generic => Ok(false),
        Wanted::Off => Err("off".into()),
        Wanted::Auto => {
            if let Some(kind) = &uplink.kind {
                return Err(format!("off: a {kind} would lose its offloads"));
            }
            match driver(&uplink.name) {
                Some(driver) if COSTLY.contains(&driver.as_str()) => {
                    Err(format!("off: {driver} would lose offloads or queues"))
                }
                Some(_) => Ok(true),
                None => Err("off: the uplink has no driver".into()),
            }
        }
    }
}

fn driver(interface: &str) -> Option<String> {
    let link = Path::new("/sys/class/net").join(interface).join("device/driver");
    Some(std::fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
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
/// moment between. A foreign program stays, and is named.
pub async fn attach(
    pins: &Pins,
    netlink: &Handle,
    interface: &str,
    native: bool,
    program: &mut Xdp,
) -> Result<()> {
    let path = pins.xdp(interface);
    match attached(pins, netlink, interface, None).await? {
        Some(there) if there.native == native => {
            let link = FdLink::from(PinnedLink::from_pin(&path)?);
            let id = program.attach_to_link(XdpLink::try_from(link)?)?;
            // The link stays by its pin; this only closes our descriptor.
            drop(program.take_link(id)?);
            return Ok(());
        }
        Some(_) => drop(detach(pins, interface)?),
        None => {}
    }
    if let Some(found) = link::find(netlink, interface).await?.and_then(|link| link.xdp) {
        bail!(
            "{interface} has another XDP program, {}: ip link set {interface} xdp off, or --xdp off",
            found.program
        );
    }
    let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
    let id = program.attach(interface, mode).with_context(|| {
        let what =
            if native { "its driver takes no XDP program; --xdp off or generic" } else { "generic XDP" };
        format!("{interface}: {what}")
    })?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(&path)?;
    Ok(())
}

/// Detaches what is ours; whether there was anything.
pub fn detach(pins: &Pins, interface: &str) -> Result<bool> {
    let path = pins.xdp(interface);
    if !path.exists() {
        return Ok(false);
    }
    // The last descriptor's close detaches at once, the last pin's removal some
    // time later.
    let link = PinnedLink::from_pin(&path).with_context(|| format!("{}", path.display()))?;
    drop(link.unpin()?);
    Ok(true)
}
