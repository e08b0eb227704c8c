//! Links of programs as aya does not make or end them: the kernel's own calls,
//! `bpf(2)`.

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

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info};

/// Makes a link of a program to an interface.
pub fn create(index: u32, kind: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = index;
    attr.link_create.attach_type = kind;
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts a program in the place of a link's own, without a moment between.
pub fn replace(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = raw(link.as_fd());
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Opens a pinned link.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    descriptor(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pins a link.
pub fn save(pin: &Path, link: &OwnedFd) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(link.as_fd());
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Detaches a link at once. Without this the kernel detaches it some time after the
/// last descriptor and the last pin are gone.
pub fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = raw(link.as_fd());
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What the kernel says of a link.
pub fn info(link: &OwnedFd) -> io::Result<bpf_link_info> {
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
