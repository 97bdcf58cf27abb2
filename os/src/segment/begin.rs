//! A segment begins: its range's pages move into contiguous memory.

use super::reserve::Reservation;
use super::{Reason, SpaceSegment};
use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use mechanisms::segments::{EscapeFilter, Registers};
use paging::frames::{CpuId, FrameState};
use paging::{Addr, Flush, Frame, PageSize, Space, TableMemory};

/// Where contiguous memory may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contiguity {
    /// Only what is free.
    Free,
    /// Others' pages may be moved out of the way.
    Compacted,
}

/// What it took to begin a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Begun {
    /// Pages in place.
    pub pages: u64,
    /// Of them, pages whose content was copied: they were in use.
    pub copied: u64,
    /// Of them, pages that were zeroed.
    pub zeroed: u64,
    /// Pages that escaped from the beginning: faulty frames, swapped and shared pages.
    pub escaped: u64,
    /// Frames of others that compaction moved away.
    pub compacted: u64,
}

/// Why there is no segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSegment {
    /// There is one already.
    #[error("the address space has a segment already: end it first")]
    Taken,
    /// A part of the range is not private anonymous memory for loads and stores, made of 4 KiB pages.
    #[error("{0:#x} is not private anonymous memory for loads and stores: the range cannot be a segment")]
    NotPrimary(u64),
    /// There is no contiguous memory, and none may or can be made.
    #[error(
        "no {pages} contiguous frames: {best} is the longest run that there is or that can be made; free memory, or balloon"
    )]
    NoContiguity {
        /// Frames wanted.
        pages: u64,
        /// Frames of the longest run: of free ones, or where compaction may help, of such that nothing pins.
        best: u64,
    },
    /// More pages would have to escape than a filter is good for.
    #[error("{pages} pages would have to escape ({}): more than the filter is good for", reason.name())]
    TooManyEscapes {
        /// How many.
        pages: u64,
        /// Why the first one would.
        reason: Reason,
    },
    /// Something derives translations from the tables (shadow paging, a dirty log).
    #[error("the address space is shadowed, or its stores are logged: both need its table")]
    Watched,
}

/// Bytes whose pages are moved at once.
const WINDOW: u64 = PageSize::Size1G.bytes();

impl<M: TableMemory> Kernel<M> {
    /// Makes `range` of a process (whole pages) its primary region: contiguous memory behind a segment.
    ///
    /// # Errors
    /// [`MmError::NoSegment`] with the reason; [`MmError::NoProcess`].
    pub fn begin_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        range: Range<u64>,
        from: Contiguity,
    ) -> Result<Begun, MmError> {
        self.core.can_begin(&self.process(pid)?.space, &range)?;
        let reserved = self.reserve_for(&mut *hw, cpu, &range, from)?;
        let mut cx = self.cx(hw, cpu)?;
        let begun = self.on_process(&mut cx, pid, |core, process, cx| {
            core.begin_segment(&mut process.space, cx, &range, &reserved)
        });
        self.finish_begin(&mut cx, begun, reserved)
    }

    /// Makes `range` of a VM's guest-physical memory (whole pages) contiguous in host memory, behind
    /// the VMM's segment.
    ///
    /// # Errors
    /// [`MmError::NoSegment`] with the reason; [`MmError::NoVm`].
    pub fn begin_vm_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        range: Range<u64>,
        from: Contiguity,
    ) -> Result<Begun, MmError> {
        self.core.can_begin(&self.vm(vm)?.space, &range)?;
        let reserved = self.reserve_for(&mut *hw, cpu, &range, from)?;
        let mut cx = self.cx(hw, cpu)?;
        let begun =
            self.on_vm(&mut cx, vm, |core, vm, cx| core.begin_segment(&mut vm.space, cx, &range, &reserved));
        self.finish_begin(&mut cx, begun, reserved)
    }

    fn reserve_for(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        range: &Range<u64>,
        from: Contiguity,
    ) -> Result<Reservation<M::Space>, MmError> {
        let (page, pages) = (range.start >> 12, (range.end - range.start) >> 12);
        let max_bad = max_escapes(self.core.config.filter.bits());
        self.reserve_contiguous(hw, cpu, page, pages, max_bad, from)
    }

    fn finish_begin(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        begun: Result<Begun, MmError>,
        reserved: Reservation<M::Space>,
    ) -> Result<Begun, MmError> {
        match begun {
            Ok(begun) => {
                self.core.charge(cx, Cost::Migrate { pages: begun.copied });
                Ok(Begun { compacted: reserved.moved, ..begun })
            }
            Err(e) => {
                let good = (0..reserved.pages).filter(|at| reserved.bad.binary_search(at).is_err());
                good.for_each(|at| self.core.pool.free(reserved.first.offset(at), 0, None));
                Err(e)
            }
        }
    }
}

/// Pages that a filter of so many bits is good for: beyond an eighth of them
/// more than 2 % of all other pages escape too.
fn max_escapes(bits: u32) -> u64 {
    u64::from(bits / 8)
}

impl<M: TableMemory> Core<M> {
    fn can_begin<I: Space>(&self, space: &AddressSpace<I, M>, range: &Range<u64>) -> Result<(), MmError> {
        if space.segment.is_some() {
            return Err(MmError::NoSegment(NoSegment::Taken));
        }
        if space.notifier.is_some() || space.log.is_some() {
            return Err(MmError::NoSegment(NoSegment::Watched));
        }
        if (range.start | range.end) & 4095 != 0 || range.is_empty() {
            let why = "a segment is whole pages";
            return Err(crate::calls::bad_range(range.start, range.end.wrapping_sub(range.start), why));
        }
        let mut next = range.start;
        for area in space.vmas.within(range.clone()) {
            let fits = area.is_anonymous() && !area.shared && area.page == PageSize::Size4K;
            if area.start != next || !fits || !area.prot.read || !area.prot.write {
                break;
            }
            next = area.end;
        }
        if next < range.end {
            return Err(MmError::NoSegment(NoSegment::NotPrimary(next)));
        }
        Ok(())
    }

    /// Moves the pages of `range` to the reserved frames and switches the segment on.
    /// Nothing has changed if it fails.
    fn begin_segment<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: &Range<u64>,
        reserved: &Reservation<M::Space>,
    ) -> Result<Begun, Stop> {
        self.can_begin(space, range)?;
        self.split_at(space, cx, range.start)?;
        self.split_at(space, cx, range.end)?;
        let pages = range.start >> 12..range.end >> 12;
        let escaped = self.must_escape(space, cx, range, reserved);
        let most = max_escapes(self.config.filter.bits());
        if let (count, Some((_, &reason))) = (escaped.len() as u64, escaped.first_key_value())
            // Not even half of it would be in place: that is no segment.
            && (count > most || 2 * count > pages.end - pages.start)
        {
            return Err(MmError::NoSegment(NoSegment::TooManyEscapes { pages: count, reason }).into());
        }
        let mut begun = Begun { escaped: escaped.len() as u64, ..Begun::default() };
        let mut filter = EscapeFilter::new(self.config.filter, self.config.filter_pages);
        escaped.keys().for_each(|&page| filter.insert(page));
        let bounds = Addr::new(range.start)..Addr::new(range.end);
        let registers = Registers::new(bounds, reserved.first, filter);
        let segment = SpaceSegment { registers, escaped };
        for run in segment.in_place(pages.clone()) {
            let mut start = run.start << 12;
            while start < run.end << 12 {
                let end = (run.end << 12).min((start / WINDOW + 1) * WINDOW);
                self.move_in(space, cx, &segment, start..end, &mut begun)?;
                start = end;
            }
        }
        for &page in segment.escaped.keys() {
            if reserved.bad.binary_search(&(page - pages.start)).is_err() {
                self.pool.free(segment.frame(page), 0, None);
            }
        }
        begun.pages = segment.pages();
        self.groups.entry(space.group).or_default().charged += begun.pages;
        space.segment = Some(Box::new(segment));
        self.reload_segment(space, cx);
        Ok(begun)
    }

    /// Pages of `range` that cannot be in place, and why.
    fn must_escape<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &Cx<'_, M::Space>,
        range: &Range<u64>,
        reserved: &Reservation<M::Space>,
    ) -> BTreeMap<u64, Reason> {
        let mut escaped: BTreeMap<u64, Reason> =
            reserved.bad.iter().map(|at| ((range.start >> 12) + at, Reason::Faulty)).collect();
        let mut start = range.start;
        while start < range.end {
            let window = start..range.end.min((start / WINDOW + 1) * WINDOW);
            start = window.end;
            let mut leaves = Vec::new();
            self.env(cx.cpu, |env| space.table.scan(env, window, &mut |leaf| leaves.push(leaf)));
            for leaf in leaves {
                let frame: Frame<M::Space> = leaf.entry.leaf_frame(leaf.size);
                let reason = if leaf.entry.swap_slot().is_some() {
                    Reason::Swapped
                } else if frame == self.zero || self.is_exclusive(frame) {
                    continue;
                } else {
                    Reason::CopyOnWrite
                };
                let page = leaf.addr.page();
                escaped.extend((page..page + leaf.size.frames()).map(|page| (page, reason)));
            }
        }
        escaped
    }

    /// Moves what `range` maps into the segment, and zeroes the rest of its frames.
    fn move_in<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        segment: &SpaceSegment<I, M::Space>,
        range: Range<u64>,
        begun: &mut Begun,
    ) -> Result<(), Stop> {
        // A huge page around an escaped one is not taken whole.
        self.split_at(space, cx, range.start)?;
        self.split_at(space, cx, range.end)?;
        let mut flush = Flush::none();
        let unmapped = self.env(cx.cpu, |env| space.table.unmap_range(env, range.clone(), &mut flush));
        // No store reaches the old frames after this.
        let released = self.shoot(space, cx, flush);
        let mut next = range.start >> 12;
        for gone in &released.gone {
            let Some(from) = gone.frame().filter(|&frame| frame != self.zero) else { continue };
            let page = gone.addr.page();
            self.zero_run(cx, segment.frame(next), page - next);
            begun.zeroed += page - next;
            self.swap.forget_unit(from, gone.size.order());
            self.copy(cx, from, segment.frame(page), gone.size);
            begun.copied += gone.size.frames();
            next = page + gone.size.frames();
        }
        let end = range.end >> 12;
        self.zero_run(cx, segment.frame(next), end - next);
        begun.zeroed += end - next;
        self.release(space, cx.cpu, &released);
        debug_assert_eq!(self.pool.state(segment.frame(next.min(end - 1))), FrameState::Reserved);
        Ok(unmapped?)
    }
}
