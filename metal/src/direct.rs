//! Real memory, mapped one to one.

use core::sync::atomic::AtomicU64;
use paging::frames::{NoFrame, NodePolicy, Watermark};
use paging::{Descriptor, ENTRIES, Hfn, HostPhys, NodeId, Slot, SparseFrames, TableFrames, TableMemory};

/// Table bits in identity-mapped memory, with descriptors beside it.
#[derive(Debug, Default)]
pub struct DirectMap {
    descriptors: SparseFrames<Descriptor>,
}

impl TableMemory for DirectMap {
    type Space = HostPhys;

    fn cell(&self, slot: Slot<HostPhys>) -> Option<&AtomicU64> {
        // SAFETY: frames of tables come from `Bump`, in identity-mapped memory
        // that nothing else uses, and entries are aligned.
        Some(unsafe { &*(slot.addr().raw() as *const AtomicU64) })
    }
    fn cells(&self, frame: Hfn) -> Option<&[AtomicU64; ENTRIES]> {
        // SAFETY: as for `cell`; a frame holds as many entries and is aligned to them.
        Some(unsafe { &*(frame.base().raw() as *const [AtomicU64; ENTRIES]) })
    }
    fn create(&mut self, frame: Hfn) {
        // SAFETY: the frame was just taken from `Bump`.
        unsafe { (frame.base().raw() as *mut u8).write_bytes(0, 4096) };
        *self.descriptors.get_or_default(frame.number()) = Descriptor::default();
    }
    fn discard(&mut self, _frame: Hfn) {}
    fn descriptor(&self, frame: Hfn) -> Option<&Descriptor> {
        self.descriptors.get(frame.number())
    }
    fn descriptor_mut(&mut self, frame: Hfn) -> Option<&mut Descriptor> {
        self.descriptors.get_mut(frame.number())
    }
}

/// The first word of a frame.
pub fn read_word(frame: Hfn) -> u64 {
    // SAFETY: all memory that frames are taken from is identity-mapped.
    unsafe { (frame.base().raw() as *const u64).read_volatile() }
}

/// Sets the first word of a frame.
pub fn write_word(frame: Hfn, word: u64) {
    // SAFETY: all memory that frames are taken from is identity-mapped.
    unsafe { (frame.base().raw() as *mut u64).write_volatile(word) };
}

/// Frames from a range, in order, never taken back.
#[derive(Debug)]
pub struct Bump {
    next: u64,
    end: u64,
}

impl Bump {
    /// Frames in the addresses `start..end`.
    pub fn new(start: u64, end: u64) -> Bump {
        Bump { next: start >> 12, end: end >> 12 }
    }
    /// The next frame.
    pub fn take(&mut self) -> Option<Hfn> {
        (self.next < self.end).then(|| {
            self.next += 1;
            Hfn::new(self.next - 1)
        })
    }
}

impl TableFrames<HostPhys> for Bump {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Hfn, NoFrame> {
        self.take().ok_or(NoFrame {
            frames: 1,
            node: node.0,
            policy: NodePolicy::Prefer,
            watermark: Watermark::Emergency,
            free_on_node: 0,
            free: 0,
            blocks_on_node: 0,
        })
    }
    fn free_table(&mut self, _frame: Hfn) {}
    fn node_of(&self, _frame: Hfn) -> NodeId {
        NodeId(0)
    }
}
