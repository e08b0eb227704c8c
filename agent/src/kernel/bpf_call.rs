//! The kernel's own calls, `bpf(2)`, where aya has none: links as it does not make or
//! end them, and maps of whatever layout as a whole.

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

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type};

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

/// The keys that a hash or trie had.
pub struct Keys<'a> {
    map: BorrowedFd<'a>,
    /// The length of one, in bytes.
    size: usize,
    bytes: Vec<u8>,
}

impl<'a> Keys<'a> {
    /// Reads them.
    pub fn of(map: BorrowedFd<'a>) -> io::Result<Self> {
        let size = map_info(map)?.key_size as usize;
        let (mut bytes, mut next) = (Vec::new(), vec![0; size]);
        let mut attr = empty();
        attr.__bindgen_anon_2.map_fd = raw(map);
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        while call_unless(libc::ENOENT, bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr)? {
            // What comes after it is asked for next.
            attr.__bindgen_anon_2.key = next.as_ptr() as u64;
            bytes.extend_from_slice(&next);
        }
        Ok(Self { map, size, bytes })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Removes the entry of one of them from the map, if it is still there.
    pub fn remove(&self, at: usize) -> io::Result<()> {
        let key = self.bytes.chunks_exact(self.size).nth(at).ok_or(io::ErrorKind::InvalidInput)?;
        let mut attr = empty();
        attr.__bindgen_anon_2.map_fd = raw(self.map);
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        call_unless(libc::ENOENT, bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
    }
}

/// All values of an array, one after the other as the kernel has them. Linux 5.6.
/// Refuses other maps: one for each CPU has more to a value than its size says.
pub fn values(map: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let info = map_info(map)?;
    if info.type_ != bpf_map_type::BPF_MAP_TYPE_ARRAY as u32 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let entries = info.max_entries as usize;
    let (mut keys, mut last) = (vec![0_u32; entries], 0_u32);
    let mut values = vec![0; entries * info.value_size as usize];
    let mut attr = empty();
    attr.batch.map_fd = raw(map);
    attr.batch.out_batch = ptr::from_mut(&mut last) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = info.max_entries;
    // Where nothing follows the last, the call says that there is no entry.
    call_unless(libc::ENOENT, bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr)?;
    // SAFETY: of whatever the kernel has written, this reads a number.
    let read = unsafe { attr.batch.count };
    if read == info.max_entries { Ok(values) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Entries of a hash that are read in one call at first.
const BATCH: usize = 4096;

/// All keys and all values of a hash, one after the other as the kernel has them, in calls
/// that give many at once. Linux 5.6. What comes or goes meanwhile may be among them or not.
/// Refuses other maps.
pub fn entries(map: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let info = map_info(map)?;
    let hashes = [bpf_map_type::BPF_MAP_TYPE_HASH, bpf_map_type::BPF_MAP_TYPE_LRU_HASH];
    if !hashes.iter().any(|hash| info.type_ == *hash as u32) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
    let (mut all_keys, mut all_values) = (Vec::new(), Vec::new());
    let (mut room, mut from, mut behind) = (BATCH, None::<u32>, 0_u32);
    loop {
        let (mut keys, mut values) = (vec![0; room * key_size], vec![0; room * value_size]);
        let mut attr = empty();
        attr.batch.map_fd = raw(map);
        attr.batch.in_batch = from.as_ref().map_or(0, |from| ptr::from_ref(from) as u64);
        attr.batch.out_batch = ptr::from_mut(&mut behind) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = room as u32;
        // Where nothing follows the last, the call says that there is no entry.
        let goes_on = match call_unless(libc::ENOENT, bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            // More have one hash than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            done => done?,
        };
        // SAFETY: of whatever the kernel has written, this reads a number.
        let read = (unsafe { attr.batch.count } as usize).min(room);
        all_keys.extend_from_slice(&keys[..read * key_size]);
        all_values.extend_from_slice(&values[..read * value_size]);
        if !goes_on {
            return Ok((all_keys, all_values));
        }
        from = Some(behind);
    }
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: numbers alone, for which all zero is a value.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    let mut attr = empty();
    attr.info.bpf_fd = raw(map);
    attr.info.info_len = size_of::<bpf_map_info>() as u32;
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

/// A call that may end in one error, which is `false`.
fn call_unless(fine: i32, command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<bool> {
    match call(command, attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(fine) => Ok(false),
        Err(error) => Err(error),
    }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is as long as is said, and whatever the callers above have it
    // point to lives until this returns and is as long as the command wants it.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}
