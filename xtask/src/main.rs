//! The repository's commands.
mod ebpf;
fn main() { let _ = ebpf::find(); }
