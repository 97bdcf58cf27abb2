//! Compaction: making large free blocks by moving what can be moved.
//!
//! As Linux's `mm/compaction.c`: one scanner goes up through a zone and empties
//! blocks, another comes down from the top and finds free frames in pageblocks
//! that are in use anyway; when they meet, the zone is done. Both remember where they were.

use super::descriptors::Word;
use super::fresh::{Kind, aligned_blocks};
use super::{
    AllocRequest, FramePool, FrameState, MAX_ORDER, Mobility, NodeId, PAGEBLOCK, PAGEBLOCK_ORDER, Unit,
};
use crate::{Frame, PhysSpace};
use alloc::vec::Vec;
use core::ops::Range;

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompactReport {
    /// Whether what was wanted is free now.
    pub success: bool,
    /// Frames moved.
    pub moved: u64,
    /// Moves that the owner refused.
    pub refused: u64,
    /// Blocks looked at.
    pub scanned: u64,
}

/// Asks the owner to move a unit: `move_frame(from, to, order)`. If it returns true, `to` has
/// taken over the state and count of `from`, and `from` is free when the compaction returns.
pub type MoveFrame<'a, S> = dyn FnMut(Frame<S>, Frame<S>, u8) -> bool + 'a;

/// When a zone is not worth another try (Linux `compaction_deferred`): after each failure twice as many
/// requests go by, up to 64.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deferral {
    /// Requests since the last try.
    passed: u32,
    /// log2 of the requests to let pass.
    shift: u32,
}

impl Deferral {
    const MAX_SHIFT: u32 = 6;

    /// Whether to let this request pass.
    fn defers(&mut self) -> bool {
        self.passed += 1;
        self.passed < 1 << self.shift
    }

    fn tried(&mut self, success: bool) {
        let shift = if success { 0 } else { Self::MAX_SHIFT.min(self.shift + 1) };
        *self = Deferral { passed: 0, shift };
    }
}

/// Where a unit goes.
enum Target {
    /// To a free frame that the descending scanner of zone `.0` finds in the frames `.1`.
    Scanner(usize, Range<u64>),
    /// Wherever the allocator says, near the node.
    Anywhere(NodeId),
}

impl<S: PhysSpace> FramePool<S> {
    /// Moves movable units (anonymous and file pages, and fillers if they are movable) until
    /// `node` has a free block of `order`.
    pub fn compact(&mut self, node: NodeId, order: u8, move_frame: &mut MoveFrame<'_, S>) -> CompactReport {
        self.compact_zones(node, order, move_frame, |_| true)
    }

    /// As [`compact`](Self::compact), for a fault that could use a huge page: zones in which it failed lately
    /// are left alone for up to 64 calls, for a failure costs a look at all memory in use.
    pub fn try_compact(
        &mut self,
        node: NodeId,
        order: u8,
        move_frame: &mut MoveFrame<'_, S>,
    ) -> CompactReport {
        self.compact_zones(node, order, move_frame, |deferral| !deferral.defers())
    }

    fn compact_zones(
        &mut self,
        node: NodeId,
        order: u8,
        move_frame: &mut MoveFrame<'_, S>,
        mut admit: impl FnMut(&mut Deferral) -> bool,
    ) -> CompactReport {
        let mut report = CompactReport::default();
        if order > MAX_ORDER {
            return report;
        }
        let first = node.index() * 3;
        for zone in (first..self.zones.len().min(first + 3)).rev() {
            if self.zones[zone].frames == 0 || !admit(&mut self.zones[zone].deferral) {
                continue;
            }
            self.drain(None);
            self.compact_zone(zone, order, move_frame, &mut report);
            self.zones[zone].deferral.tried(report.success);
            if report.success {
                break;
            }
        }
        report
    }

    fn compact_zone(
        &mut self,
        at: usize,
        order: u8,
        move_frame: &mut MoveFrame<'_, S>,
        report: &mut CompactReport,
    ) {
        let ranges = &self.zones[at].ranges;
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
        let size = 1 << order;
        let (bottom, top) = (first.frames.start.next_multiple_of(size), last.frames.end & !(size - 1));
        loop {
            report.success = self.zones[at].has_block(&self.d, order);
            if report.success {
                return;
            }
            // From where the last call stopped; once more from the ends if that was not them.
            let (mut from, mut to) = self.zones[at].scanners.take().unwrap_or((bottom, top));
            let complete = (from, to) == (bottom, top);
            while from + size <= to {
                report.scanned += 1;
                let block = from..from + size;
                from += size;
                // Huge pages are what this is for: they stay.
                if self.movable_in(block.clone(), PAGEBLOCK_ORDER - 1).is_none_or(|frames| frames == 0) {
                    continue;
                }
                let mut target = Target::Scanner(at, from..to);
                self.empty(block, &mut target, move_frame, report);
                if let Target::Scanner(_, left) = target {
                    to = left.end;
                }
                if self.zones[at].has_block(&self.d, order) {
                    report.success = true;
                    self.zones[at].scanners = Some((from, to));
                    return;
                }
            }
            if complete {
                return;
            }
        }
    }

    /// Moves movable units out of these frames until all are
    /// free, for [`alloc_at`](Self::alloc_at) and [`remove_range`](Self::remove_range). They go
    /// where an ordinary allocation near their node would. Nothing is moved if one frame
    /// cannot be.
    pub fn evacuate(
        &mut self,
        start: Frame<S>,
        frames: u64,
        move_frame: &mut MoveFrame<'_, S>,
    ) -> CompactReport {
        let range = start.number()..start.number() + frames;
        let mut report = CompactReport { scanned: 1, ..CompactReport::default() };
        self.drain(None);
        if self.movable_in(range.clone(), u8::MAX).is_some() {
            let mut target = Target::Anywhere(self.node_of(start));
            report.success = self.empty(range, &mut target, move_frame, &mut report);
        }
        report
    }

    /// How many frames of `range` have to be moved to make all of it free; `None` if that cannot be,
    /// or takes a unit larger than `max_order`.
    fn movable_in(&self, range: Range<u64>, max_order: u8) -> Option<u64> {
        let (mut at, mut movable) = (range.start, 0);
        while at < range.end {
            if let Some((head, word)) = self.d.unit_of(at) {
                let (order, end) = (word.unit_order(), head + (1 << word.unit_order()));
                if head < range.start || end > range.end || order > max_order || !self.is_movable(word) {
                    return None;
                }
                movable += end - at;
                at = end;
                continue;
            }
            match self.state(Frame::new(at)) {
                FrameState::Free => {}
                FrameState::Filler if self.fillers_move => movable += 1,
                _ => return None,
            }
            at += 1;
        }
        Some(movable)
    }

    fn is_movable(&self, word: Word) -> bool {
        match word.state() {
            FrameState::Anon | FrameState::File => true,
            FrameState::Filler => self.fillers_move,
            _ => false,
        }
    }

    /// Moves all units out of `range`, which [`movable_in`](Self::movable_in) allowed. Returns whether that
    /// worked.
    fn empty(
        &mut self,
        range: Range<u64>,
        target: &mut Target,
        move_frame: &mut MoveFrame<'_, S>,
        report: &mut CompactReport,
    ) -> bool {
        // Free frames of the range are held, so that no unit moves to them.
        let mut held = Vec::new();
        let mut units = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let block = at >> PAGEBLOCK_ORDER;
            if self.d.whole(block).is_blank() {
                let zone = self.zone_at(at);
                self.zones[zone].materialise(&mut self.d, block);
            }
            if let Some((_, word)) = self.d.unit_of(at) {
                units.push((at, word));
                at += 1 << word.unit_order();
                continue;
            }
            let (head, order) = self.d.free_block_of(at).expect("what cannot be moved is free");
            let end = range.end.min(head + (1 << order));
            self.take_range(at, end - at, FrameState::Reserved);
            held.extend(aligned_blocks(at..end, MAX_ORDER));
            at = end;
        }
        let mut emptied = true;
        for (from, word) in units {
            let order = word.unit_order();
            let Some(to) = self.target(target, word) else {
                emptied = false;
                break;
            };
            let unit = if order == 0 { Unit::Singles } else { Unit::Compound };
            self.d.own(to, order, word.state(), unit, word.refs());
            let filler = word.state() == FrameState::Filler;
            if filler || move_frame(Frame::new(from), Frame::new(to), order) {
                self.d.set_unit(from, word.with_state(FrameState::Reserved));
                held.push((from, order));
                report.moved += 1 << order;
            } else {
                report.refused += 1;
                self.give(to, order);
                emptied = false;
                break;
            }
        }
        for (frame, order) in held {
            self.give(frame, order);
        }
        emptied
    }

    /// A free block for a unit; its words are stale.
    fn target(&mut self, target: &mut Target, word: Word) -> Option<u64> {
        let order = word.unit_order();
        match target {
            Target::Anywhere(node) => {
                let unit = if order == 0 { Unit::Singles } else { Unit::Compound };
                let request = AllocRequest::new(*node, word.state()).order(order).unit(unit);
                self.alloc(request.mobility(Mobility::Movable)).ok().map(Frame::number)
            }
            Target::Scanner(zone, range) => loop {
                let last = range.end.checked_sub(1).filter(|&last| last >= range.start)?;
                let block = last >> PAGEBLOCK_ORDER;
                let start = range.start.max(block << PAGEBLOCK_ORDER);
                if self.zones[*zone].is_target(&mut self.d, block) {
                    let words = self.d.split(block);
                    let fits = |frame: &u64| {
                        let word = words[(*frame & (PAGEBLOCK - 1)) as usize];
                        if order == 0 { word.is_free() } else { word.free_order() >= Some(order) }
                    };
                    if let Some(found) = (start..=last).rev().find(fits) {
                        // Single frames above it are all taken; a unit may have left some.
                        if order == 0 {
                            range.end = found;
                        }
                        self.zones[*zone].extract(&mut self.d, found, order);
                        return Some(found);
                    }
                }
                range.end = start;
            },
        }
    }
}

impl super::buddy::Zone {
    /// Whether a block of `order` is free.
    fn has_block(&mut self, d: &super::descriptors::Descriptors, order: u8) -> bool {
        if Mobility::ALL.iter().any(|&mobility| self.lists.orders(mobility, order) > 0) {
            return true;
        }
        let kinds: &[Kind] = match order {
            MAX_ORDER => &[Kind::Pair],
            PAGEBLOCK_ORDER => &[Kind::Clean],
            _ if self.fits_beside_fillers(order) => &[Kind::Clean, Kind::Pinned],
            _ => &[Kind::Clean],
        };
        self.ranges.iter_mut().any(|range| kinds.iter().any(|&kind| range.find(kind, d).is_some()))
    }

    /// Whether free frames of the pageblock may be filled (`suitable_migration_target`): not if it is
    /// all free, nor if unmovable frames are grouped there.
    fn is_target(&mut self, d: &mut super::descriptors::Descriptors, block: u64) -> bool {
        if self.range_of(block).is_some_and(|at| self.ranges[at].kind(block, d) == Some(Kind::Pinned)) {
            self.materialise(d, block);
        }
        d.whole(block).is_split() && d.mobility(block << PAGEBLOCK_ORDER) == Mobility::Movable
    }
}
