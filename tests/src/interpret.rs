//! Counts the instructions that a program executes for one packet, by interpreting the
//! compiled object (RFC 9669). The count is exact: it depends on the object alone and on no
//! machine. Helpers do what the fast path needs of them, and maps are the kernel's own. A run
//! also returns action and frame, so that a test can compare them with the kernel's.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::MapData;
use aya_obj::{Object, generated::bpf_insn, maps::Map};
use margay::kernel::{datapath::OBJECT, pins::Pins};
use margay_common::{maps, verdict::Program};
use nix::errno::Errno;

use crate::bpf::Context;

/// `BPF_MAP_TYPE_PERCPU_ARRAY`: the interpreter has values of its own.
const PERCPU_ARRAY: u32 = 6;
/// More instructions than any packet takes.
const LIMIT: u64 = 100_000;
/// The address of the context. No memory is there: each field is answered separately.
const CONTEXT: u64 = 1 << 48;
/// The stack of all calls together; each has 512 bytes.
const STACK: usize = 8 * 512;
/// Descriptors that stand for memory of the interpreter instead of a kernel map.
const NOT_PINNED: i32 = 1 << 20;

/// The object, its programs linked and its maps found.
pub struct Interpreter {
    object: Object,
    maps: BTreeMap<i32, Known>,
    /// Memory that programs may read and write: sections, and values by map and key.
    memory: BTreeMap<usize, Box<[u8]>>,
    values: BTreeMap<(i32, Vec<u8>), usize>,
    /// Nanoseconds of the monotonic clock, which stands still.
    now: u64,
}

struct Known {
    kind: u32,
    key: usize,
    value: usize,
    pin: Option<MapData>,
    /// Where the section's data lies, for `.rodata` and its like.
    data: Option<usize>,
}

/// What a program did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Executed {
    /// Instructions that it executed.
    pub instructions: u64,
    /// What it returned.
    pub action: i32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// One run.
struct Run<'a> {
    of: &'a mut Interpreter,
    registers: [u64; 11],
    executed: u64,
    fields: BTreeMap<u64, u64>,
}

impl Interpreter {
    /// Reads the agent's own object; its maps are those that are pinned.
    pub fn new(pins: &Pins) -> Self {
        let mut object = Object::parse(OBJECT).expect("the object");
        let (mut known, mut memory) = (BTreeMap::new(), BTreeMap::new());
        let mut found: Vec<(String, i32, Map)> = Vec::new();
        for (n, (name, map)) in object.maps.iter().enumerate() {
            let declared = maps::ALL.iter().find(|map| map.name == name);
            let pin = declared.and_then(|map| MapData::from_pin(pins.map(map)).ok());
            let fd = pin.as_ref().map_or(NOT_PINNED + n as i32, |pin| pin.fd().as_fd().as_raw_fd());
            let data = (!map.data().is_empty()).then(|| {
                memory.insert(n, map.data().into());
                n
            });
            let (kind, key, value) = (map.map_type(), map.key_size() as usize, map.value_size() as usize);
            known.insert(fd, Known { kind, key, value, pin, data });
            found.push((name.clone(), fd, map.clone()));
        }
        #[expect(clippy::disallowed_types, reason = "aya_obj takes no other set")]
        let text: std::collections::HashSet<usize> =
            object.functions.keys().map(|(section, _)| *section).collect();
        let found = found.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
        object.relocate_maps(found, &text).expect("the object's maps");
        object.relocate_calls(&text).expect("the object's functions");
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
        let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        Self { object, maps: known, memory, values: BTreeMap::new(), now }
    }

    /// Executes a program for a frame.
    pub fn run(&mut self, program: Program, frame: &[u8], context: Context) -> Executed {
        let found = &self.object.programs[program.label()];
        let code = self.object.functions[&found.function_key()].instructions.clone();
        let data = self.hold(frame.into());
        let stack = self.hold(vec![0; STACK].into());
        let fields = fields(program, frame, context, self.address(data));
        let mut registers = [0; 11];
        registers[1] = CONTEXT;
        registers[10] = self.address(stack) + STACK as u64;
        let mut run = Run { of: self, registers, executed: 0, fields };
        run.function(&code, 0);
        let (instructions, action) = (run.executed, run.registers[0] as i32);
        let frame = self.memory[&data].to_vec();
        // Per-CPU values stay for the next run.
        self.values.retain(|(map, _), _| self.maps[map].kind == PERCPU_ARRAY);
        let kept: BTreeSet<usize> = self.values.values().copied().collect();
        let sections = self.object.maps.len();
        self.memory.retain(|place, _| *place < sections || kept.contains(place));
        Executed { instructions, action, frame }
    }

    /// Keeps memory at an address that does not change. Gives its place.
    fn hold(&mut self, bytes: Box<[u8]>) -> usize {
        let place = self.memory.last_key_value().map_or(0, |(last, _)| *last) + 1;
        let place = place.max(self.object.maps.len());
        self.memory.insert(place, bytes);
        place
    }

    fn address(&self, place: usize) -> u64 {
        self.memory[&place].as_ptr() as u64
    }
}

/// What the context holds, by offset: `struct __sk_buff`, or `struct xdp_md`.
fn fields(program: Program, frame: &[u8], context: Context, data: u64) -> BTreeMap<u64, u64> {
    let end = data + frame.len() as u64;
    if program == Program::Xdp {
        return [(0, data), (4, end), (12, context.ifindex.into())].into();
    }
    let protocol = u64::from(u16::from_ne_bytes([frame[12], frame[13]]));
    let socket = u64::from(program == Program::FromHost);
    [
        (0, frame.len() as u64),
        (4, 0),
        (8, context.mark.into()),
        (16, protocol),
        (20, 0),
        (36, context.ingress_ifindex.into()),
        (40, context.ifindex.into()),
        (76, data),
        (80, end),
        (168, socket),
        (176, context.gso_size.into()),
    ]
    .into()
}

impl Run<'_> {
    /// Runs a function to its end. Each call has its own part of the stack.
    fn function(&mut self, code: &[bpf_insn], mut at: usize) {
        loop {
            let instruction = code[at];
            self.executed += 1;
            assert!(self.executed < LIMIT, "a program ends");
            at += 1;
            match instruction.code {
                0x18 => {
                    self.registers[usize::from(instruction.dst_reg())] = self.wide(instruction, code[at]);
                    at += 1;
                }
                0x95 => return,
                0x85 if instruction.src_reg() == 1 => {
                    let saved = self.registers;
                    self.registers[10] -= 512;
                    self.function(code, at.wrapping_add_signed(instruction.imm as isize));
                    let result = self.registers[0];
                    self.registers = saved;
                    self.registers[0] = result;
                }
                0x85 => self.registers[0] = self.helper(instruction.imm),
                code if matches!(code & 7, 5 | 6) => {
                    if self.jumps(instruction) {
                        at = at.wrapping_add_signed(instruction.off as isize);
                    }
                }
                code if matches!(code & 7, 4 | 7) => self.compute(instruction),
                _ => self.access(instruction),
            }
        }
    }

    /// A constant of 64 bits: a number, a map, or the address of a section's data.
    fn wide(&self, low: bpf_insn, high: bpf_insn) -> u64 {
        match low.src_reg() {
            2 => {
                let section = self.of.maps[&low.imm].data.expect("a section");
                self.of.address(section) + u64::from(high.imm as u32)
            }
            _ => u64::from(low.imm as u32) | u64::from(high.imm as u32) << 32,
        }
    }

    fn operand(&self, instruction: bpf_insn) -> u64 {
        match instruction.code & 8 {
            0 => instruction.imm as i64 as u64,
            _ => self.registers[usize::from(instruction.src_reg())],
        }
    }

    fn jumps(&self, instruction: bpf_insn) -> bool {
        let (mut a, mut b) = (self.registers[usize::from(instruction.dst_reg())], self.operand(instruction));
        let narrow = instruction.code & 7 == 6;
        if narrow {
            (a, b) = (u64::from(a as u32), u64::from(b as u32));
        }
        let signed = |value: u64| if narrow { i64::from(value as i32) } else { value as i64 };
        match instruction.code >> 4 {
            // With 32 bits it would be a jump with a long offset, which no compiler has written here.
            0x0 if !narrow => true,
            0x1 => a == b,
            0x2 => a > b,
            0x3 => a >= b,
            0x4 => a & b != 0,
            0x5 => a != b,
            0x6 => signed(a) > signed(b),
            0x7 => signed(a) >= signed(b),
            0xa => a < b,
            0xb => a <= b,
            0xc => signed(a) < signed(b),
            0xd => signed(a) <= signed(b),
            other => panic!("jump {other:#x}"),
        }
    }

    fn compute(&mut self, instruction: bpf_insn) {
        // An offset would ask for signed division, or for a move that extends a sign.
        assert_eq!(instruction.off, 0, "operation {:#x}", instruction.code);
        let dst = usize::from(instruction.dst_reg());
        let (a, b) = (self.registers[dst], self.operand(instruction));
        let wide = instruction.code & 7 == 7;
        let shift = b as u32 & if wide { 63 } else { 31 };
        let (a, b) = if wide { (a, b) } else { (u64::from(a as u32), u64::from(b as u32)) };
        let result = match instruction.code >> 4 {
            0x0 => a.wrapping_add(b),
            0x1 => a.wrapping_sub(b),
            0x2 => a.wrapping_mul(b),
            0x3 => a.checked_div(b).unwrap_or(0),
            0x4 => a | b,
            0x5 => a & b,
            0x6 => a << shift,
            0x7 => a >> shift,
            0x8 => a.wrapping_neg(),
            0x9 => a.checked_rem(b).unwrap_or(a),
            0xa => a ^ b,
            0xb => b,
            0xc if wide => (a as i64 >> shift) as u64,
            0xc => (a as i32 >> shift) as u64,
            0xd => return self.registers[dst] = swapped(self.registers[dst], instruction),
            other => panic!("operation {other:#x}"),
        };
        self.registers[dst] = if wide { result } else { u64::from(result as u32) };
    }

    /// Loads and stores.
    fn access(&mut self, instruction: bpf_insn) {
        let size = [4, 2, 1, 8][usize::from(instruction.code >> 3 & 3)];
        let (dst, src) = (usize::from(instruction.dst_reg()), usize::from(instruction.src_reg()));
        let offset = instruction.off as i64;
        match instruction.code & 0xe7 {
            0x61 => {
                let addr = self.registers[src].wrapping_add_signed(offset);
                self.registers[dst] = match addr.checked_sub(CONTEXT) {
                    Some(field) if field < 192 => {
                        *self.fields.get(&field).unwrap_or_else(|| panic!("the context has no field {field}"))
                    }
                    _ => {
                        let mut bytes = [0; 8];
                        bytes[..size].copy_from_slice(self.bytes(addr, size));
                        u64::from_ne_bytes(bytes)
                    }
                };
            }
            kind @ (0x62 | 0x63) => {
                let value = if kind == 0x62 { instruction.imm as i64 as u64 } else { self.registers[src] };
                let addr = self.registers[dst].wrapping_add_signed(offset);
                if (CONTEXT..CONTEXT + 192).contains(&addr) {
                    self.fields.insert(addr - CONTEXT, value);
                } else {
                    self.bytes(addr, size).copy_from_slice(&value.to_ne_bytes()[..size]);
                }
            }
            other => panic!("access {other:#x}"),
        }
    }

    /// Memory that the program may use.
    fn bytes(&mut self, addr: u64, len: usize) -> &mut [u8] {
        for part in self.of.memory.values_mut() {
            if let Some(at) = addr.checked_sub(part.as_ptr() as u64)
                && at as usize + len <= part.len()
            {
                return &mut part[at as usize..at as usize + len];
            }
        }
        panic!("{len} bytes at {addr:#x} are nobody's");
    }

    fn helper(&mut self, helper: i32) -> u64 {
        match helper {
            // bpf_map_lookup_elem
            1 => self.look_up(),
            // bpf_ktime_get_ns, bpf_ktime_get_coarse_ns
            5 | 160 => self.of.now,
            // bpf_skb_load_bytes
            26 => self.load_bytes(),
            // bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer
            23 | 152 | 155 => 7,
            other => panic!("the fast path calls helper {other}"),
        }
    }

    /// Copies bytes out of the frame. Past its end the kernel writes zeros and says so.
    fn load_bytes(&mut self) -> u64 {
        let offset = u64::from(self.registers[2] as u32);
        let (to, len) = (self.registers[3], u64::from(self.registers[4] as u32));
        let (data, end) = (self.fields[&76], self.fields[&80]);
        if offset + len > end - data {
            self.bytes(to, len as usize).fill(0);
            return -i64::from(libc::EFAULT) as u64;
        }
        let from = self.bytes(data + offset, len as usize).to_vec();
        self.bytes(to, len as usize).copy_from_slice(&from);
        0
    }

    fn look_up(&mut self) -> u64 {
        let fd = self.registers[1] as i32;
        let map = &self.of.maps[&fd];
        let (kind, size) = (map.kind, map.value);
        let key = self.bytes(self.registers[2], self.of.maps[&fd].key).to_vec();
        let place = self.of.values.get(&(fd, key.clone())).copied();
        let place = place.or_else(|| {
            let mut value = vec![0; size];
            let pin = self.of.maps[&fd].pin.as_ref();
            if kind != PERCPU_ARRAY {
                let pin = pin.expect("it is pinned");
                if !look_up(pin, &key, &mut value) {
                    return None;
                }
            }
            let place = self.of.hold(value.into());
            self.of.values.insert((fd, key), place);
            Some(place)
        });
        place.map_or(0, |place| self.of.address(place))
    }
}

/// Copies the value of a key out of a map of the kernel's, if it is there.
fn look_up(map: &MapData, key: &[u8], value: &mut [u8]) -> bool {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    /// `union bpf_attr` as far as BPF_MAP_LOOKUP_ELEM reads it.
    #[repr(C)]
    struct Lookup {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let lookup = Lookup {
        map: map.fd().as_fd().as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value live until the call returns, and have the sizes that the object
    // made the map with.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &raw const lookup, size_of::<Lookup>()) };
    assert!(done == 0 || Errno::last() == Errno::ENOENT, "look-up: {}", Errno::last());
    done == 0
}

/// Byte order: to little or big endian from the machine's own, or reversed.
fn swapped(value: u64, instruction: bpf_insn) -> u64 {
    let reverse = instruction.code & 7 == 7 || instruction.code & 8 != 0;
    match (instruction.imm, reverse) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (64, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        _ => value,
    }
}
