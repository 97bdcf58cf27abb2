//! Finding contiguous memory for a segment, or making it.

use super::begin::{Contiguity, NoSegment};
use crate::error::MmError;
use crate::hardware::Hardware;
use crate::kernel::Kernel;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::{AllocRequest, CpuId, FrameState, NodeId, PAGEBLOCK, Unit};
use paging::{Frame, PageSize, PhysSpace, TableMemory};

/// A 1 GiB page in pageblocks.
const GIB_BLOCKS: u64 = PageSize::Size1G.frames() / PAGEBLOCK;

/// Memory that was reserved: all frames from the first on but the bad ones, each owned by itself.
#[derive(Debug)]
pub(crate) struct Reservation<S: PhysSpace> {
    pub first: Frame<S>,
    pub pages: u64,
    /// Faulty frames in it, as distances from the first.
    pub bad: Vec<u64>,
    /// Frames of others that had to move.
    pub moved: u64,
}

/// What it takes to have a pageblock.
#[derive(Clone, Copy, Default)]
struct Block {
    moves: u32,
    bad: u32,
    /// It cannot be had.
    pinned: u32,
}

impl Block {
    fn add(&mut self, other: Block) {
        (self.moves, self.bad, self.pinned) =
            (self.moves + other.moves, self.bad + other.bad, self.pinned + other.pinned);
    }
    fn sub(&mut self, other: Block) {
        (self.moves, self.bad, self.pinned) =
            (self.moves - other.moves, self.bad - other.bad, self.pinned - other.pinned);
    }
}

impl<M: TableMemory> Kernel<M> {
    /// Contiguous frames for `pages` pages whose first has number `page`: aligned as that
    /// page is, so that huge pages are huge on both sides. Free memory if there is such a range; else others'
    /// pages are moved out of the range where that are the fewest (compaction), around up to
    /// `max_bad` faulty frames.
    pub(crate) fn reserve_contiguous(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        page: u64,
        pages: u64,
        max_bad: u64,
        from: Contiguity,
    ) -> Result<Reservation<M::Space>, MmError> {
        self.cx(&mut *hw, cpu)?;
        let node = self.core.node(cpu);
        let request = AllocRequest::new(node, FrameState::Reserved);
        let phase = page % PAGEBLOCK;
        let huge = pages >= PageSize::Size1G.frames() && page.is_multiple_of(PageSize::Size1G.frames());
        let aligns = [Some(GIB_BLOCKS).filter(|_| huge), Some(1)];
        for align in aligns.into_iter().flatten() {
            if let Ok(start) =
                self.core.pool.alloc_contiguous(pages + phase, align * PAGEBLOCK, request.strict())
            {
                for at in 0..phase {
                    self.core.pool.free(start.offset(at), 0, None);
                }
                return Ok(Reservation { first: start.offset(phase), pages, bad: Vec::new(), moved: 0 });
            }
        }
        if from == Contiguity::Free {
            let best = self.core.pool.contiguous_free_max(node);
            return Err(MmError::NoSegment(NoSegment::NoContiguity { pages, best }));
        }
        self.core.pool.drain(None);
        let blocks = (pages + phase).div_ceil(PAGEBLOCK);
        let refused = |best| NoSegment::NoContiguity { pages, best };
        let mut longest = 0;
        for align in aligns.into_iter().flatten() {
            let (found, best) = self.best_window(node, blocks, align, max_bad);
            longest = longest.max(best * PAGEBLOCK);
            let Some(start) = found else { continue };
            let first = Frame::new(start * PAGEBLOCK + phase);
            if let Some(taken) = self.take_window(hw, cpu, first, pages)? {
                return Ok(taken);
            }
        }
        Err(MmError::NoSegment(refused(longest)))
    }

    /// The window of `blocks` pageblocks that costs least, preferably on `node`; and how long the
    /// longest run without a pinned frame is.
    fn best_window(&self, node: NodeId, blocks: u64, align: u64, max_bad: u64) -> (Option<u64>, u64) {
        let pool = &self.core.pool;
        let mut ranges: Vec<Range<u64>> = pool
            .nodes()
            .iter()
            .flat_map(|node| pool.ranges(node))
            .map(|range| {
                range.start.number().next_multiple_of(PAGEBLOCK)..range.end.number() & !(PAGEBLOCK - 1)
            })
            .filter(|range| !range.is_empty())
            .map(|range| range.start / PAGEBLOCK..range.end / PAGEBLOCK)
            .collect();
        ranges.sort_by_key(|range| range.start);
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match runs.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => runs.push(range),
            }
        }
        let (mut best, mut longest): (Option<(bool, u64, u64)>, u64) = (None, 0);
        for run in runs {
            let costs: Vec<Block> = run.clone().map(|block| self.block_cost(block)).collect();
            let mut usable = 0;
            for cost in &costs {
                usable = if cost.pinned == 0 { usable + 1 } else { 0 };
                longest = longest.max(usable);
            }
            let mut sum = Block::default();
            for (at, cost) in costs.iter().enumerate() {
                sum.add(*cost);
                let Some(first) = (at as u64 + 1).checked_sub(blocks) else { continue };
                if first > 0 {
                    sum.sub(costs[first as usize - 1]);
                }
                let start = run.start + first;
                if sum.pinned > 0 || u64::from(sum.bad) > max_bad || !start.is_multiple_of(align) {
                    continue;
                }
                let far = pool.node_of(Frame::new(start * PAGEBLOCK)) != node;
                let cost = u64::from(sum.moves) + u64::from(sum.bad) * PAGEBLOCK;
                if best.is_none_or(|found| (far, cost, start) < found) {
                    best = Some((far, cost, start));
                }
            }
        }
        (best.map(|(.., start)| start), longest)
    }

    fn block_cost(&self, block: u64) -> Block {
        let mut cost = Block::default();
        if self.core.pool.is_free_block(Frame::new(block * PAGEBLOCK)) {
            return cost;
        }
        for frame in (block * PAGEBLOCK..(block + 1) * PAGEBLOCK).map(Frame::new) {
            match self.core.pool.state(frame) {
                FrameState::Free | FrameState::PerCpuFree => {}
                FrameState::Anon | FrameState::File | FrameState::Filler => cost.moves += 1,
                FrameState::Faulty => cost.bad += 1,
                _ => {
                    cost.pinned = 1;
                    return cost;
                }
            }
        }
        cost
    }

    /// Empties the pageblocks of a window and takes `pages` frames from `first` on; `None`
    /// if something could not be moved after all: then all is given back.
    fn take_window(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        first: Frame<M::Space>,
        pages: u64,
    ) -> Result<Option<Reservation<M::Space>>, MmError> {
        let range = first.number()..first.number() + pages;
        let mut taken: Vec<Range<u64>> = Vec::new();
        let mut bad = Vec::new();
        let mut crowded = Vec::new();
        // What is free first, so that nothing moves into it.
        for block in range.start / PAGEBLOCK..range.end.div_ceil(PAGEBLOCK) {
            let part = range.start.max(block * PAGEBLOCK)..range.end.min((block + 1) * PAGEBLOCK);
            let free = self.core.pool.alloc_at(
                Frame::new(part.start),
                part.end - part.start,
                FrameState::Reserved,
                Unit::Singles,
            );
            if free.is_ok() { taken.push(part) } else { crowded.push(part) }
        }
        let mut moved = 0;
        for part in crowded {
            // Around faulty frames.
            let faulty: Vec<u64> = part
                .clone()
                .filter(|&frame| self.core.pool.state(Frame::new(frame)) == FrameState::Faulty)
                .collect();
            let mut start = part.start;
            for stop in faulty.iter().copied().chain([part.end]) {
                let piece = start..stop;
                start = stop + 1;
                if piece.is_empty() {
                    continue;
                }
                let (at, count) = (Frame::new(piece.start), piece.end - piece.start);
                moved += self.evacuate(&mut *hw, cpu, at, count)?.moved;
                if self.core.pool.alloc_at(at, count, FrameState::Reserved, Unit::Singles).is_err() {
                    for frame in taken.into_iter().flatten() {
                        self.core.pool.free(Frame::new(frame), 0, None);
                    }
                    return Ok(None);
                }
                taken.push(piece);
            }
            bad.extend(faulty.into_iter().map(|frame| frame - range.start));
        }
        Ok(Some(Reservation { first, pages, bad, moved }))
    }
}
