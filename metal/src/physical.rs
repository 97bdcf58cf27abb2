//! Physical memory as the kernel sees it: all of it, at [`DIRECT`].

use core::sync::atomic::{AtomicU64, Ordering};
use paging::{Descriptor, ENTRIES, Entry, Flags, Hfn, HostPhys, Slot, SparseFrames, TableMemory};

/// Where physical address 0 is mapped: the last entry of every top-level table.
pub const DIRECT: u64 = 0xffff_ff80_0000_0000;
/// Where the kernel's image is linked.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// The entry of a top-level table that maps the kernel.
pub const KERNEL_ENTRY: usize = 511;
/// Physical memory that the kernel maps.
const MAPPED: u64 = 510 << 30;

/// Marks what the kernel linked into a process's top-level table for itself (a bit
/// that hardware ignores): not the process's, so [`TableMemory::load`] does not show it.
const OURS: Flags = Flags(1 << 58);

/// The address at which the kernel reads and writes physical address `at`.
pub fn at<T>(address: u64) -> *mut T {
    assert!(
        address < MAPPED,
        "physical address {address:#x} is not mapped: the kernel maps {MAPPED:#x} bytes"
    );
    (DIRECT + address) as *mut T
}

/// Table bits in physical memory, with descriptors beside it.
#[derive(Debug, Default)]
pub struct DirectMap {
    descriptors: SparseFrames<Descriptor>,
    /// The first frame above all memory.
    end: u64,
}

impl DirectMap {
    /// For memory below frame `end`.
    pub fn new(end: u64) -> DirectMap {
        DirectMap { descriptors: SparseFrames::default(), end }
    }
    /// The first frame above all memory.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Links the kernel's half, whose table is at `kernel`, into a top-level table, so that a CPU can run on it.
pub fn link_kernel(root: Hfn, kernel: u64) {
    write_word(root, KERNEL_ENTRY as u64, kernel | Flags::PRESENT.0 | Flags::WRITABLE.0 | OURS.0);
}

impl TableMemory for DirectMap {
    type Space = HostPhys;

    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        if slot.table.number() >= self.end {
            return None;
        }
        // SAFETY: the address is within mapped memory and aligned; table pages
        // are only ever reached as atomics.
        Some(unsafe { &*at::<AtomicU64>(slot.addr().raw()) })
    }
    fn cells(&self, frame: Hfn) -> Option<&[AtomicU64; ENTRIES]> {
        if frame.number() >= self.end {
            return None;
        }
        // SAFETY: as for `cell`; a frame holds as many entries and is aligned to them.
        Some(unsafe { &*at::<[AtomicU64; ENTRIES]>(frame.base().raw()) })
    }
    fn create(&mut self, frame: Hfn) {
        zero(frame, 1);
        *self.descriptors.get_or_default(frame.number()) = Descriptor::default();
    }
    fn discard(&mut self, frame: Hfn) {
        // So that a walker that is still there, which would be a bug, finds nothing.
        zero(frame, 1);
    }
    fn descriptor(&self, frame: Hfn) -> Option<&Descriptor> {
        self.descriptors.get(frame.number())
    }
    fn descriptor_mut(&mut self, frame: Hfn) -> Option<&mut Descriptor> {
        self.descriptors.get_mut(frame.number())
    }
    fn load(&self, slot: Slot<HostPhys>) -> Entry {
        let entry = self.cell(slot).map_or(Entry::EMPTY, |cell| Entry(cell.load(Ordering::Relaxed)));
        if entry.has(OURS) { Entry::EMPTY } else { entry }
    }
}

/// Zeroes frames.
pub fn zero(first: Hfn, frames: u64) {
    // SAFETY: frames are only handed here by who owns them, and all memory is mapped.
    unsafe { at::<u8>(first.base().raw()).write_bytes(0, frames as usize * 4096) };
}

/// Copies frames.
pub fn copy(from: Hfn, to: Hfn, frames: u64) {
    let bytes = frames as usize * 4096;
    // SAFETY: as for `zero`; a copy has a destination of its own.
    unsafe { at::<u8>(from.base().raw()).copy_to_nonoverlapping(at::<u8>(to.base().raw()), bytes) };
}

/// A word of a frame.
pub fn read_word(frame: Hfn, index: u64) -> u64 {
    // SAFETY: all memory is mapped; processes may write it meanwhile, hence volatile.
    unsafe { at::<u64>(frame.base().raw() + index % 512 * 8).read_volatile() }
}

/// Sets a word of a frame.
pub fn write_word(frame: Hfn, index: u64, value: u64) {
    // SAFETY: as for `read_word`; the frame is the caller's.
    unsafe { at::<u64>(frame.base().raw() + index % 512 * 8).write_volatile(value) };
}
