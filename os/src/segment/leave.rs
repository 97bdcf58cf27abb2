//! Pages leave a segment: to the filter, or because it becomes shorter, or ends.

use super::{How, Reason, SpaceSegment};
use crate::error::{MmError, Stop};
use crate::fault::FaultOutcome;
use crate::hardware::{Cost, Hardware, Invalidate, PageRange};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use crate::stats::FaultKind;
use crate::vma::Vma;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::{CpuId, FrameState, NodeSet};
use paging::{Addr, Entry, PageSize, PhysSpace, Reach, Space, TableMemory, Visibility};

/// What becomes of the content of pages that leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Entries map it from now on.
    Kept,
    /// It is not needed: the frames are free.
    Dropped,
}

/// The cheapest way for pages to leave.
struct Plan {
    how: How,
    /// The pages that must leave.
    leaving: Range<u64>,
    /// How many of them are in place.
    count: u64,
    /// The bounds afterwards.
    bounds: Range<u64>,
}

impl<I: Space, S: PhysSpace> SpaceSegment<I, S> {
    /// How the pages of `range` leave; `None` if none is in place.
    ///
    /// The cost of a way is how many pages paging translates afterwards that the
    /// segment did before: with the filter those that leave and the false positives
    /// among the others, with a shorter segment all that are cut off.
    fn plan(&self, range: &Range<u64>) -> Option<Plan> {
        let count = self.in_place(range.clone()).map(|run| run.end - run.start).sum();
        if count == 0 {
            return None;
        }
        let bounds = self.bounds();
        let leaving = range.start.max(bounds.start)..range.end.min(bounds.end);
        if count == self.pages() {
            return Some(Plan { how: How::End, bounds: leaving.start..leaving.start, leaving, count });
        }
        let (below, above) = (leaving.start - bounds.start, bounds.end - leaving.end);
        let (kept, cut) = if below >= above {
            (bounds.start..leaving.start, above + count)
        } else {
            (leaving.end..bounds.end, below + count)
        };
        if count <= u64::from(self.registers.filter().geometry().bits()) {
            let mut filter = self.registers.filter().clone();
            let before = filter.false_positives();
            self.in_place(leaving.clone()).flatten().for_each(|page| filter.insert(page));
            let others = (below + above) as f64 * (filter.false_positives() - before);
            if count as f64 + others < cut as f64 {
                return Some(Plan { how: How::Filter, leaving, count, bounds });
            }
        }
        let how = if kept.is_empty() { How::End } else { How::Trim };
        Some(Plan { how, leaving, count, bounds: kept })
    }
}

impl<M: TableMemory> Core<M> {
    /// The pages of `range` (bytes) that are in place leave the segment.
    pub(crate) fn leave<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
        content: Content,
        reason: Reason,
    ) -> Result<(), Stop> {
        let pages = range.start >> 12..range.end.div_ceil(4096);
        let Some(plan) = space.segment.as_deref().and_then(|segment| segment.plan(&pages)) else {
            return Ok(());
        };
        let Some(segment) = space.segment.as_deref() else { return Ok(()) };
        let old = segment.bounds();
        let runs = |range: Range<u64>| segment.in_place(range).collect::<Vec<_>>();
        let leaving = runs(plan.leaving.clone());
        let mut kept = Vec::new();
        if plan.how != How::Filter {
            kept.extend(runs(old.start..plan.leaving.start.min(plan.bounds.start)));
            kept.extend(runs(plan.leaving.end.max(plan.bounds.end)..old.end));
        }
        let others = kept.iter().map(|run| run.end - run.start).sum();
        let dropped = match content {
            Content::Kept => {
                kept.extend(leaving.iter().cloned());
                Vec::new()
            }
            Content::Dropped => leaving.clone(),
        };
        // All entries first: if one cannot be made, nothing has changed but that
        // pages in place have entries.
        for run in &kept {
            self.map_in_place(space, cx, run)?;
        }
        let frames = |runs: &[Range<u64>]| -> Vec<_> {
            let pages = runs.iter().cloned().flatten();
            pages.filter_map(|page| space.in_place(Addr::new(page << 12))).collect()
        };
        let (kept, freed) = (frames(&kept), frames(&dropped));
        if let Some(mut segment) = space.segment.take()
            && plan.how != How::End
        {
            let bounds = Addr::new(plan.bounds.start << 12)..Addr::new(plan.bounds.end << 12);
            if plan.how == How::Trim {
                segment.registers.set_bounds(bounds);
                segment.escaped = segment.escaped.split_off(&plan.bounds.start);
                segment.escaped.split_off(&plan.bounds.end);
                segment.registers.filter_mut().rebuild(segment.escaped.keys().copied());
            } else {
                for page in leaving.iter().cloned().flatten() {
                    segment.escaped.insert(page, reason);
                    segment.registers.filter_mut().insert(page);
                }
            }
            space.segment = Some(segment);
        }
        self.reload_segment(space, cx);
        space.departures.count(reason, plan.how, plan.count, others);
        for frame in kept {
            // The entry's reference stays.
            self.pool.set_state(frame, FrameState::Anon);
            self.pool.put(frame, Some(cx.cpu));
        }
        if !dropped.is_empty() {
            let ranges: Vec<PageRange> = dropped
                .iter()
                .map(|run| PageRange { start: run.start << 12, len: (run.end - run.start) << 12 })
                .collect();
            self.invalidate(space, cx, Invalidate::Ranges(&ranges), false, NodeSet::ALL, Reach::Space);
            for frame in freed {
                self.pool.set_state(frame, FrameState::Anon);
                self.put(space.group, frame, cx.cpu);
            }
        }
        Ok(())
    }

    /// The last pages of the segment, `want` and at least a leaf table's, become ordinary ones. Whether
    /// they did: it takes frames for tables.
    pub(crate) fn shorten_segment<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        want: u64,
    ) -> bool {
        let Some(bounds) = space.segment.as_deref().map(SpaceSegment::bounds) else { return false };
        let first = bounds.end.saturating_sub(want.max(PageSize::Size2M.frames())).max(bounds.start);
        self.leave(space, cx, first << 12..bounds.end << 12, Content::Kept, Reason::Swapped).is_ok()
    }

    /// Has entries map pages that are in place.
    fn map_in_place<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        run: &Range<u64>,
    ) -> Result<(), Stop> {
        let mut page = run.start;
        while page < run.end {
            let Some(area) = space.vmas.find(page << 12) else { break };
            for page in page..run.end.min(area.end >> 12) {
                let addr = Addr::<I>::new(page << 12);
                if self.lookup(space, cx.cpu, addr).entry.is_empty() {
                    self.map_in_place_page(space, cx, &area, addr, true)?;
                }
            }
            page = area.end >> 12;
        }
        Ok(())
    }

    fn map_in_place_page<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        area: &Vma,
        addr: Addr<I>,
        dirty: bool,
    ) -> Result<(), Stop> {
        let Some(frame) = space.in_place(addr) else { return Ok(()) };
        let size = PageSize::Size4K;
        let entry = Entry::leaf(frame, size, space.page_flags(area, addr.raw(), size, dirty));
        if self.install(space, cx, addr, size, entry, Visibility::Private)? {
            self.pool.get(frame);
        }
        Ok(())
    }

    /// A walk for a page in place found no entry: hardware's filter takes it for an escaped
    /// one, or fetches from it. The entry maps where it is.
    pub(crate) fn false_positive<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        area: &Vma,
        addr: Addr<I>,
        write: bool,
    ) -> Result<FaultOutcome, Stop> {
        self.map_in_place_page(space, cx, area, addr.align_down(PageSize::Size4K), write)?;
        Ok(FaultOutcome::small(FaultKind::Segment))
    }

    /// The content of `range` is not needed: what is in place is zeroed where it is, which
    /// keeps the segment whole. The rest is for the caller to unmap.
    pub(crate) fn discard_in_place<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: &Range<u64>,
    ) {
        let Some(segment) = space.segment.as_deref() else { return };
        let runs: Vec<_> = segment.in_place(range.start >> 12..range.end >> 12).collect();
        for run in runs {
            self.zero_run(cx, segment.frame(run.start), run.end - run.start);
        }
    }
}

impl<M: TableMemory> Kernel<M> {
    /// Ends the segment of a process: entries map its pages from now on.
    ///
    /// # Errors
    /// [`MmError::NoProcess`]; memory errors, for tables.
    pub fn end_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<(), MmError> {
        self.leave_segment(hw, cpu, pid, 0..u64::MAX, Reason::Asked)
    }

    /// Ends the segment of a VM: its table maps its pages from now on.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors, for tables.
    pub fn end_vm_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
    ) -> Result<(), MmError> {
        self.leave_vm_segment(hw, cpu, vm, 0..u64::MAX, Reason::Asked)
    }

    /// Pages of a process become ordinary ones, that can be swapped, shared, moved.
    ///
    /// # Errors
    /// [`MmError::NoProcess`]; memory errors, for tables.
    pub fn leave_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        range: Range<u64>,
        reason: Reason,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_process(&mut cx, pid, |core, process, cx| {
            core.leave(&mut process.space, cx, range.clone(), Content::Kept, reason)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// The same for a VM's memory.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors, for tables.
    pub fn leave_vm_segment(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        range: Range<u64>,
        reason: Reason,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, vm, |core, vm, cx| {
            core.leave(&mut vm.space, cx, range.clone(), Content::Kept, reason)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }
}
