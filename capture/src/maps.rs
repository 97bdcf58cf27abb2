//! The guest program's mappings among all of QEMU's.
//!
//! In user mode guest memory is host memory, at a constant distance. QEMU's own
//! mappings are told apart by when and where they came: those that were there before
//! the program was loaded are QEMU's, and so is everything near them, at the top of the address space.

use std::io::Write;
use std::sync::OnceLock;

/// Start addresses of QEMU's own mappings, before the program is loaded.
static OWN: OnceLock<Vec<u64>> = OnceLock::new();

/// x86-64 Linux puts position-independent executables and `mmap` above this, so QEMU's code, heap and buffers; it
/// gives the guest addresses below (its `TASK_UNMAPPED_BASE` is 0x4000000000).
const HOST: u64 = 0x5000_0000_0000;

fn start(line: &str) -> Option<(u64, u64, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?, rest))
}

/// Remembers what is QEMU's.
pub fn remember_own() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let _ = OWN.set(maps.lines().filter_map(start).map(|(start, ..)| start).collect());
}

/// The guest's lines of `/proc/self/maps`, at guest addresses.
pub fn guest(base: u64) -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = OWN.get().map_or(&[][..], |own| own);
    let mut out = Vec::new();
    for (start, end, rest) in maps.lines().filter_map(start) {
        if start >= base && start - base < HOST && !own.contains(&start) {
            let _ = writeln!(out, "{:x}-{:x} {rest}", start - base, end - base);
        }
    }
    out
}
