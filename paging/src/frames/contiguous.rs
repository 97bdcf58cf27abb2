//! Contiguous memory, and particular frames.

use super::fresh::{aligned_blocks, fitting_order};
use super::pool::{Depth, allows, has_depth};
use super::{
    AllocRequest, BadFrame, FramePool, FrameState, MAX_ORDER, NoFrame, PAGEBLOCK, PAGEBLOCK_ORDER, Unit,
    Watermark,
};
use crate::{Frame, PhysSpace};

impl<S: PhysSpace> FramePool<S> {
    /// `frames` contiguous frames aligned to `align`, for
    /// 1 GiB pages, segments and hot-plug: never-used memory if there is
    /// some, else the lowest free range of a zone. `request.order` is not looked at. A
    /// `Compound` unit is a power of two of frames, aligned to itself; otherwise each frame is owned by itself.
    ///
    /// # Errors
    /// If no such range is free where it may come from.
    ///
    /// # Panics
    /// If `frames` is 0 or `align` no power of two, or not a unit's.
    pub fn alloc_contiguous(
        &mut self,
        frames: u64,
        align: u64,
        request: AllocRequest,
    ) -> Result<Frame<S>, NoFrame> {
        assert!(frames > 0 && align.is_power_of_two(), "{frames} frames aligned to {align}");
        let is_unit = frames.is_power_of_two() && align >= frames;
        assert!(request.unit == Unit::Singles || is_unit, "{frames} frames aligned to {align} are no unit");
        let Some(start) = self.find_block(frames, align, &request).or_else(|| {
            let start = self.find_range(frames, align, &request)?;
            self.take_range(start, frames, request.state);
            Some(start)
        }) else {
            return Err(self.refuse(&request, frames));
        };
        if request.unit == Unit::Compound {
            self.d.own(start, frames.ilog2() as u8, request.state, Unit::Compound, 1);
        }
        self.stats.contiguous += 1;
        Ok(Frame::new(start))
    }

    /// The first frames of a block of the buddy allocator, if that is large enough.
    fn find_block(&mut self, frames: u64, align: u64, request: &AllocRequest) -> Option<u64> {
        if frames.max(align) > 1 << MAX_ORDER {
            return None;
        }
        let order = frames.max(align).next_power_of_two().ilog2() as u8;
        let start = self.alloc_block(&request.order(order).unit(Unit::Singles))?;
        for (rest, order) in aligned_blocks(start + frames..start + (1 << order), MAX_ORDER) {
            self.give(rest, order);
        }
        Some(start)
    }

    /// Where a free range of whole pageblocks is, in the nearest zone that has one.
    fn find_range(&mut self, frames: u64, align: u64, request: &AllocRequest) -> Option<u64> {
        let depth = match request.watermark {
            Watermark::Opportunistic => Depth::Low,
            Watermark::Normal => Depth::Min,
            Watermark::Emergency => Depth::Bottom,
        };
        let blocks = frames.div_ceil(PAGEBLOCK);
        let align = align.div_ceil(PAGEBLOCK);
        let list = self.zonelists.get(request.node.index())?[request.zone as usize].clone();
        for at in list.into_iter().map(usize::from) {
            if !allows(request, self.zones[at].node) {
                continue;
            }
            for fresh in [true, false] {
                if !fresh && request.watermark != Watermark::Opportunistic && self.zones[at].pcp.frames > 0 {
                    self.drain(None);
                }
                let zone = &self.zones[at];
                if !has_depth(zone, request, depth, frames) {
                    continue;
                }
                let mut found = None;
                zone.free_runs(&self.d, fresh, |run| {
                    let start = run.start.next_multiple_of(align);
                    if start + blocks <= run.end {
                        found = Some(start * PAGEBLOCK);
                    }
                    found.is_some()
                });
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// Takes these free frames, and no others, out of the allocator (also from
    /// never-used memory and the per-CPU lists).
    ///
    /// # Errors
    /// If one of them is not free, or they cannot be a unit; nothing is changed then.
    pub fn alloc_at(
        &mut self,
        start: Frame<S>,
        frames: u64,
        state: FrameState,
        unit: Unit,
    ) -> Result<(), BadFrame<S>> {
        let first = start.number();
        if unit == Unit::Compound && !(frames.is_power_of_two() && first & (frames - 1) == 0) {
            return Err(BadFrame::Misaligned { frame: start, frames: frames.next_power_of_two() });
        }
        self.check_free(first, frames)?;
        self.take_range(first, frames, state);
        if unit == Unit::Compound {
            self.d.own(first, frames.ilog2() as u8, state, unit, 1);
        }
        Ok(())
    }

    /// Takes one free frame out of the allocator: a faulty one, a balloon's, the
    /// target of a compaction.
    ///
    /// # Errors
    /// If it is not free.
    pub fn isolate(&mut self, frame: Frame<S>, state: FrameState) -> Result<(), BadFrame<S>> {
        self.alloc_at(frame, 1, state, Unit::Singles)
    }

    /// Whether all these frames are free; drains the per-CPU lists if one is there.
    pub(super) fn check_free(&mut self, start: u64, frames: u64) -> Result<(), BadFrame<S>> {
        if self.find_listed(start, frames)? {
            self.drain(None);
        }
        Ok(())
    }

    /// Whether a frame of the range is on a CPU's list, if all are free.
    fn find_listed(&self, start: u64, frames: u64) -> Result<bool, BadFrame<S>> {
        let end = start + frames;
        let (mut at, mut listed) = (start, false);
        while at < end {
            let block = at >> PAGEBLOCK_ORDER;
            let piece = at..end.min((block + 1) << PAGEBLOCK_ORDER);
            at = piece.end;
            let whole = self.d.whole(block);
            if whole.is_free() || whole.is_blank() && self.is_clean(block) {
                continue;
            }
            for frame in piece {
                match self.state(Frame::new(frame)) {
                    FrameState::Free => {}
                    FrameState::PerCpuFree => listed = true,
                    FrameState::Absent => return Err(BadFrame::Absent(Frame::new(frame))),
                    state => return Err(BadFrame::InUse(Frame::new(frame), state)),
                }
            }
        }
        Ok(listed)
    }

    /// Whether the whole pageblock around `frame` is free.
    pub fn is_free_block(&self, frame: Frame<S>) -> bool {
        let block = frame.number() >> PAGEBLOCK_ORDER;
        let whole = self.d.whole(block);
        whole.is_free() || whole.is_blank() && self.is_clean(block)
    }

    /// Whether the whole pageblock was never used and has no filler.
    fn is_clean(&self, block: u64) -> bool {
        self.zones.iter().flat_map(|zone| &zone.ranges).any(|range| range.is_clean(block, &self.d))
    }

    /// Takes frames that are all free and makes them singles in `state`.
    pub(super) fn take_range(&mut self, start: u64, frames: u64, state: FrameState) {
        let (mut at, end) = (start, start + frames);
        while at < end {
            let zone = self.zone_at(at);
            let limit = fitting_order(at, end - at, MAX_ORDER);
            let order = self.zones[zone].extract(&mut self.d, at, limit);
            self.d.own(at, order, state, Unit::Singles, 1);
            at += 1 << order;
        }
    }
}
