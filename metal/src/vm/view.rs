//! A guest's memory, seen from its host: where each guest frame is now.

use crate::physical::{self, DirectMap};
use core::sync::atomic::AtomicU64;
use paging::{Descriptor, ENTRIES, Frame, Gfn, GuestPhys, Hfn, Slot, TableMemory, Translation, Va};

/// The guest's frames through the VM's own table.
#[derive(Debug)]
pub struct GuestView {
    mem: DirectMap,
    root: Hfn,
    levels: u8,
}

impl GuestView {
    /// Through the table at `root`; the host has memory below frame `end`.
    pub fn new(root: Hfn, levels: u8, end: u64) -> GuestView {
        GuestView { mem: DirectMap::new(end), root, levels }
    }

    /// The host frame of a guest frame, if it has one.
    pub fn host_frame(&self, gfn: Gfn) -> Option<Hfn> {
        let walk = paging::Native { mem: &self.mem, root: self.root, levels: self.levels, frames: u64::MAX };
        walk.peek(Va::new(gfn.base().raw())).map(|at| at.frame())
    }

    /// The guest frame that a guest's address leads to on its own table, and whether ring 3 may go there.
    pub fn walk(&self, root: Gfn, va: u64) -> Option<(u64, bool)> {
        let (mut table, mut level, mut user) = (root, 4, true);
        loop {
            let entry = self.raw(table, (va >> (3 + 9 * u32::from(level))) as usize % ENTRIES)?;
            user &= entry.has(paging::Flags::USER);
            if entry.is_leaf(level) {
                let mask = (1u64 << (3 + 9 * u32::from(level))) - 1;
                let first: Gfn = entry.frame();
                return Some((first.base().raw() & !mask | va & mask, user));
            }
            if !entry.is_table(level) {
                return None;
            }
            table = entry.frame();
            level -= 1;
        }
    }

    /// An entry with what the guest's kernel linked for itself.
    fn raw(&self, table: Gfn, index: usize) -> Option<paging::Entry> {
        let cell = self.cell(Slot::new(table, index))?;
        Some(paging::Entry(cell.load(core::sync::atomic::Ordering::Acquire)))
    }

    /// The bytes at a guest's address, as far as they are on one page.
    pub fn bytes<const N: usize>(&self, root: Gfn, va: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip(va..) {
            let (gpa, _) = self.walk(root, at)?;
            let frame = self.host_frame(Gfn::new(gpa >> 12))?;
            let word = physical::read_word(frame, (gpa & 4095) / 8);
            *byte = word.to_le_bytes()[gpa as usize % 8];
        }
        Some(bytes)
    }
}

impl TableMemory for GuestView {
    type Space = GuestPhys;

    fn cell(&self, slot: Slot<GuestPhys>) -> Option<&AtomicU64> {
        let host = self.host_frame(slot.table)?;
        // SAFETY: the frame is mapped; a guest's table entries are only reached as atomics by its
        // hypervisor, and aligned.
        Some(unsafe { &*physical::at::<AtomicU64>(host.base().raw() + slot.index as u64 * 8) })
    }
    fn cells(&self, frame: Gfn) -> Option<&[AtomicU64; ENTRIES]> {
        let host = self.host_frame(frame)?;
        // SAFETY: as for `cell`, for all entries of the page.
        Some(unsafe { &*physical::at::<[AtomicU64; ENTRIES]>(host.base().raw()) })
    }
    fn create(&mut self, frame: Gfn) {
        unreachable!("{frame:?}: a hypervisor makes no tables in a guest's memory")
    }
    fn discard(&mut self, frame: Gfn) {
        unreachable!("{frame:?}: a hypervisor frees no tables in a guest's memory")
    }
    fn descriptor(&self, _frame: Frame<GuestPhys>) -> Option<&Descriptor> {
        None
    }
    fn descriptor_mut(&mut self, _frame: Frame<GuestPhys>) -> Option<&mut Descriptor> {
        None
    }
}
