//! Swap slots. A slot counts the entries that name it (after a `fork` there
//! are several), and remembers the frame that still holds, or holds again, its
//! content, as Linux's swap cache does.

use crate::error::{MmError, Stop};
use crate::fault::{FaultOutcome, leaf_flags};
use crate::kernel::{Core, Cx};
use crate::space::AddressSpace;
use crate::stats::FaultKind;
use crate::vma::Vma;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use paging::frames::FrameState;
use paging::{Addr, Entry, Flags, Frame, Intent, PageSize, PhysSpace, Space, TableMemory, Visibility};

#[derive(Debug)]
pub(crate) struct Swap<S: PhysSpace> {
    capacity: u64,
    refs: Vec<u32>,
    free: Vec<u64>,
    used: u64,
    frame_of: BTreeMap<u64, Frame<S>>,
    slot_of: BTreeMap<Frame<S>, u64>,
}

impl<S: PhysSpace> Swap<S> {
    pub(crate) fn new(capacity: u64) -> Self {
        Swap {
            capacity,
            refs: Vec::new(),
            free: Vec::new(),
            used: 0,
            frame_of: BTreeMap::new(),
            slot_of: BTreeMap::new(),
        }
    }
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
    pub(crate) fn is_full(&self) -> bool {
        self.used >= self.capacity
    }
    /// A slot with one reference.
    pub(crate) fn take(&mut self) -> Result<u64, MmError> {
        if self.is_full() {
            return Err(MmError::SwapFull(self.capacity));
        }
        self.used += 1;
        Ok(match self.free.pop() {
            Some(slot) => {
                self.refs[slot as usize] = 1;
                slot
            }
            None => {
                self.refs.push(1);
                self.refs.len() as u64 - 1
            }
        })
    }
    pub(crate) fn get(&mut self, slot: u64) {
        self.refs[slot as usize] += 1;
    }
    pub(crate) fn put(&mut self, slot: u64) {
        let refs = &mut self.refs[slot as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(slot);
            self.used -= 1;
            if let Some(frame) = self.frame_of.remove(&slot) {
                self.slot_of.remove(&frame);
            }
        }
    }
    pub(crate) fn refs(&self, slot: u64) -> u32 {
        self.refs[slot as usize]
    }
    /// The frame with the slot's content.
    pub(crate) fn frame(&self, slot: u64) -> Option<Frame<S>> {
        self.frame_of.get(&slot).copied()
    }
    /// The slot with the frame's content.
    pub(crate) fn slot(&self, frame: Frame<S>) -> Option<u64> {
        self.slot_of.get(&frame).copied()
    }
    pub(crate) fn remember(&mut self, slot: u64, frame: Frame<S>) {
        self.frame_of.insert(slot, frame);
        self.slot_of.insert(frame, slot);
    }
    /// The frames of a unit of 2^`order` are free.
    pub(crate) fn forget_unit(&mut self, head: Frame<S>, order: u8) {
        while let Some((&frame, _)) = self.slot_of.range(head..head.offset(1 << order)).next() {
            self.forget_frame(frame);
        }
    }
    /// The frame's content will change.
    pub(crate) fn forget_frame(&mut self, frame: Frame<S>) {
        if !self.slot_of.is_empty()
            && let Some(slot) = self.slot_of.remove(&frame)
        {
            self.frame_of.remove(&slot);
        }
    }
}

impl<M: TableMemory> Core<M> {
    /// A fault on a swapped page.
    pub(crate) fn swap_in<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        intent: Intent,
        slot: u64,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let size = PageSize::Size4K;
        let at = self.ensure(space, cx, addr, 1, Visibility::Private)?;
        if self.mem.load(at).swap_slot() != Some(slot) {
            return Ok(None);
        }
        let cached = self.swap.frame(slot);
        let frame = match cached {
            Some(frame) => {
                self.pool.get(frame);
                frame
            }
            None => {
                let frame = self.data_frame(space, cx, vma, addr, size, FrameState::Anon)?;
                cx.hw.swap_in(cx.cpu, slot, frame);
                space.stats.swap_ins += 1;
                if self.swap.refs(slot) > 1 {
                    self.swap.remember(slot, frame);
                }
                frame
            }
        };
        // Others may name the slot, or map the frame: theirs until a store copies it.
        let shared = cached.is_some() || self.swap.refs(slot) > 1;
        let entry = if shared {
            Entry::leaf(frame, size, leaf_flags(vma.prot) | Flags::COW)
        } else {
            // No slot has its content any more, so it counts as stored to.
            let flags = space.page_flags(vma, addr.raw(), size, intent.write) | Flags::DIRTY;
            Entry::leaf(frame, size, flags)
        };
        self.env(cx.cpu, |env| space.table.ops().write(env, at, 1, entry));
        self.swap.put(slot);
        self.notify_mapped(space, cx, addr, entry, size);
        let kind = if cached.is_some() { FaultKind::SwapCached } else { FaultKind::SwapIn };
        Ok(Some(FaultOutcome::small(kind)))
    }
}
