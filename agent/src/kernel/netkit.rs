//! Programs at the inner end of a netkit (Linux 6.7), which run as the container
//! sends, before anything is queued. aya attaches to tcx alone, so these are the
//! kernel's own calls, `bpf(2)`.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya_obj::generated::{
    bpf_attach_type::BPF_NETKIT_PEER, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type::BPF_LINK_TYPE_NETKIT,
};

use super::pins;

/// Attaches a program to the inner end of the netkit whose host side has that
/// index, and pins the link; one that is pinned gets the program in the place of
/// its own, without a moment between.
pub fn attach(pin: &Path, index: u32, program: &SchedClassifier) -> Result<()> {
    let program = program.fd()?.as_fd();
    if attached(pin)?.is_some() {
        return replace(&open(pin)?, program).context("BPF_LINK_UPDATE of a netkit's link");
    }
    pins::unlink(pin)?;
    let link = create(index, program).context("BPF_LINK_CREATE at a netkit")?;
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

fn create(index: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = index;
    attr.link_create.attach_type = BPF_NETKIT_PEER as u32;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

fn replace(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = raw(link.as_fd());
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    descriptor(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

fn save(pin: &Path, link: &OwnedFd) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(link.as_fd());
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

fn info(link: &OwnedFd) -> io::Result<bpf_link_info> {
    // SAFETY: numbers alone, for which all zero is a value.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = empty();
    attr.info.bpf_fd = raw(link.as_fd());
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = ptr::from_mut(&mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

fn empty() -> bpf_attr {
    // SAFETY: numbers alone, for which all zero is a value.
    unsafe { mem::zeroed() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // One that is open is not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// A call that answers with a new descriptor.
fn descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is as long as is said, and whatever the callers above have it
    // point to lives until this returns and is as long as the command wants it.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}
