//! The memory of a guest's tables, for a guest kernel that runs beside its host: guest frames,
//! wherever the VM's table has them.

use super::view::GuestView;
use crate::physical;
use core::sync::atomic::AtomicU64;
use paging::{Descriptor, ENTRIES, Gfn, GuestPhys, Hfn, Slot, SparseFrames, TableMemory};

/// Table bits in guest frames, with descriptors beside them.
#[derive(Debug)]
pub struct GuestMemory {
    view: GuestView,
    descriptors: SparseFrames<Descriptor>,
}

impl GuestMemory {
    /// Through the VM's table at `root`; the host has memory below frame `end`.
    pub fn new(root: Hfn, levels: u8, end: u64) -> GuestMemory {
        GuestMemory { view: GuestView::new(root, levels, end), descriptors: SparseFrames::default() }
    }

    fn clear(&self, frame: Gfn) {
        let host = self.view.host_frame(frame);
        physical::zero(host.expect("the host has backed all of the guest's memory"), 1);
    }
}

impl TableMemory for GuestMemory {
    type Space = GuestPhys;

    fn cell(&self, slot: Slot<GuestPhys>) -> Option<&AtomicU64> {
        self.view.cell(slot)
    }
    fn cells(&self, frame: Gfn) -> Option<&[AtomicU64; ENTRIES]> {
        self.view.cells(frame)
    }
    fn create(&mut self, frame: Gfn) {
        self.clear(frame);
        *self.descriptors.get_or_default(frame.number()) = Descriptor::default();
    }
    fn discard(&mut self, frame: Gfn) {
        self.clear(frame);
    }
    fn descriptor(&self, frame: Gfn) -> Option<&Descriptor> {
        self.descriptors.get(frame.number())
    }
    fn descriptor_mut(&mut self, frame: Gfn) -> Option<&mut Descriptor> {
        self.descriptors.get_mut(frame.number())
    }
}
