//! Programs at the inner end of a netkit (Linux 6.7), which run as the container
//! sends, before anything is queued.

use std::{os::fd::AsFd, path::Path};

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya_obj::generated::{bpf_attach_type::BPF_NETKIT_PEER, bpf_link_type::BPF_LINK_TYPE_NETKIT};

use super::{
    bpf_call::{create, info, open, replace, save},
    pins,
};

/// Attaches a program to the inner end of the netkit whose host side has that
/// index, and pins the link; one that is pinned gets the program in the place of
/// its own, without a moment between.
pub fn attach(pin: &Path, index: u32, program: &SchedClassifier) -> Result<()> {
    let program = program.fd()?.as_fd();
    if attached(pin)?.is_some() {
        return replace(&open(pin)?, program).context("BPF_LINK_UPDATE of a netkit's link");
    }
    pins::unlink(pin)?;
    let link = create(index, BPF_NETKIT_PEER as u32, program).context("BPF_LINK_CREATE at a netkit")?;
    save(pin, &link).with_context(|| pin.display().to_string())
}

/// The program of the pinned link, if that is one of a netkit that is there.
pub fn attached(pin: &Path) -> Result<Option<u32>> {
    if !pin.exists() {
        return Ok(None);
    }
    let info = open(pin).and_then(|link| info(&link)).with_context(|| pin.display().to_string())?;
    if info.type_ != BPF_LINK_TYPE_NETKIT as u32 {
        return Ok(None);
    }
    // SAFETY: the kernel has said that it filled in this part, plain numbers all.
    let index = unsafe { info.__bindgen_anon_1.netkit.ifindex };
    // A link whose interface went away is still pinned, but at no hook.
    Ok((index != 0).then_some(info.prog_id))
}
