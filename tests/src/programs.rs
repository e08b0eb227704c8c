//! Programs of a few instructions: for the far end of a cable, and as the minimum of work at a
//! hook.

use std::path::Path;

/// r0 = XDP_PASS; exit
pub const PASS: &[u64] = &[0x0000_0002_0000_00b7, EXIT];
/// r0 = XDP_DROP; exit
pub const DROP: &[u64] = &[0x0000_0001_0000_00b7, EXIT];

const EXIT: u64 = 0x95;
/// `struct bpf_insn`: opcode, registers, offset, immediate.
const fn instruction(opcode: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> u64 {
    let registers = (dst | src << 4) as u64;
    opcode as u64 | registers << 8 | (offset as u16 as u64) << 16 | (immediate as u64) << 32
}

/// Writes the first bytes of an IPv4 frame, a multiple of four, and sends it out of an
/// interface. The bits of `drawn` (host byte order) in the source's last two bytes are random.
/// In the given frame of 30 bytes or more these bits and the identification are zero. The
/// program sets the identification to their complement, so the checksum stays right.
pub fn sender(header: &[u8], ifindex: u32, drawn: u16) -> Vec<u64> {
    let len = header.len() as u32;
    let words = header.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let draw = [
        // r6 = data; r0 = bpf_get_prandom_u32() & drawn
        instruction(0xbf, 6, 2, 0, 0),
        instruction(0x85, 0, 0, 0, 7),
        instruction(0x57, 0, 0, 0, drawn.into()),
        // the source's end = r0; the identification = !r0
        instruction(0x6b, 6, 0, 28, 0),
        instruction(0xa7, 0, 0, 0, 0xffff),
        instruction(0x6b, 6, 0, 18, 0),
    ];
    let draw = if drawn == 0 { &[][..] } else { &draw };
    let mut code = vec![
        // r2 = data; r3 = data_end; r4 = r2 + len; if r4 > r3 goto the end
        instruction(0x61, 2, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, len),
        instruction(0x2d, 4, 3, (len / 4) as i16 + draw.len() as i16 + 4, 0),
    ];
    code.extend(words.enumerate().map(|(i, word)| instruction(0x62, 2, 0, 4 * i as i16, word)));
    code.extend(draw);
    code.extend([
        // return bpf_redirect(ifindex, 0)
        instruction(0xb7, 1, 0, 0, ifindex),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 23),
        EXIT,
    ]);
    code.extend(PASS);
    code
}

/// Reads the destination of an IPv4 packet, writes the last bytes of its source MAC, and sends
/// it back: the minimum of work to forward.
pub fn transmitter() -> Vec<u64> {
    let mut code = vec![
        // r2 = data; r3 = data_end; r4 = r2 + 34; if r4 > r3 goto the end
        instruction(0x61, 2, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, 34),
        instruction(0x2d, 4, 3, 5, 0),
        // r5 = the destination; if r5 == 0 goto the end; the MAC = r5
        instruction(0x61, 5, 2, 30, 0),
        instruction(0x15, 5, 0, 3, 0),
        instruction(0x63, 2, 5, 8, 0),
        // return XDP_TX
        instruction(0xb7, 0, 0, 0, 3),
        EXIT,
    ];
    code.extend(PASS);
    code
}

/// Redirects every packet out of an interface, or straight into the namespace behind it: the
/// minimum of work for a tc program that carries packets.
pub fn redirector(ifindex: u32, peer: bool) -> Vec<u64> {
    // bpf_redirect_peer or bpf_redirect
    let helper = if peer { 155 } else { 23 };
    vec![
        instruction(0xb7, 1, 0, 0, ifindex),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, helper),
        EXIT,
    ]
}

/// Looks the first `len` bytes of a frame up in a map, or does all but that
/// without one.
pub fn lookup(len: u32, map: Option<u32>) -> Vec<u64> {
    // r1 = the map; call bpf_map_lookup_elem(r1, r2)
    let call = map.map(|map| [instruction(0x18, 1, 1, 0, map), 0, instruction(0x85, 0, 0, 0, 1)]);
    let call: Vec<u64> = call.into_iter().flatten().collect();
    let mut code = vec![
        // r2 = data; r3 = data_end; r4 = r2 + len; if r4 > r3 goto the end
        instruction(0x61, 2, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, len),
        instruction(0x2d, 4, 3, call.len() as i16, 0),
    ];
    code.extend(call);
    code.extend(PASS);
    code
}

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;

/// Makes a map without preallocated entries and pins it. Kinds are those of
/// `enum bpf_map_type`.
pub fn pin_map(path: &Path, kind: u32, key: u32, value: u32, entries: u32) {
    /// `union bpf_attr` as far as BPF_MAP_CREATE reads it here.
    #[repr(C)]
    struct Create {
        kind: u32,
        key: u32,
        value: u32,
        entries: u32,
        flags: u32,
    }
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_F_NO_PREALLOC: u32 = 1;
    let create = Create { kind, key, value, entries, flags: BPF_F_NO_PREALLOC };
    // SAFETY: the attributes live until the call returns, and have the layout and
    // size that it is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const create, size_of::<Create>()) };
    assert!(fd >= 0, "create: {}", std::io::Error::last_os_error());
    pin_object(path, fd as libc::c_int);
}

/// Which hook a program is for, as `enum bpf_prog_type` counts them.
#[derive(Clone, Copy)]
pub enum Hook {
    /// tc.
    Classifier = 3,
    /// XDP.
    Xdp = 6,
}

/// Loads a program and pins it.
pub fn pin(path: &Path, hook: Hook, code: &[u64]) {
    /// `union bpf_attr` as far as BPF_PROG_LOAD reads it here.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        rest: [u64; 14],
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    let license = c"GPL";
    let load = Load {
        kind: hook as u32,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 14],
    };
    // SAFETY: the attributes and what they point to live until the call
    // returns, and have the layout and size that it is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    assert!(fd >= 0, "load: {}", std::io::Error::last_os_error());
    pin_object(path, fd as libc::c_int);
}

/// Pins what a descriptor holds, and closes it.
fn pin_object(path: &Path, fd: libc::c_int) {
    /// `union bpf_attr` as far as BPF_OBJ_PIN reads it.
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    const BPF_OBJ_PIN: libc::c_int = 6;
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let pin = Pin { path: path.as_ptr() as u64, fd: fd as u32, flags: 0 };
    // SAFETY: the attributes and the path live until the call returns, and have the
    // layout and size that it is told.
    let pinned = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const pin, size_of::<Pin>()) };
    assert_eq!(pinned, 0, "pin: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is ours and used by nobody else; the pin keeps what it
    // holds.
    unsafe { libc::close(fd) };
}
