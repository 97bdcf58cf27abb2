//! What is free, and how usable it is.

use super::buddy::Zone;
use super::descriptors::Descriptors;
use super::fresh::{Kind, aligned_blocks};
use super::{
    FramePool, MAX_ORDER, Mobility, NodeId, ORDERS, PAGEBLOCK, PAGEBLOCK_ORDER, ZoneKind, ZoneMarks,
};
use crate::PhysSpace;
use core::mem::size_of;
use core::ops::Range;

impl Zone {
    /// Free blocks by order, those that fresh memory will be carved into included.
    fn free_blocks(&self, d: &Descriptors) -> [u64; ORDERS] {
        let mut counts = [0; ORDERS];
        for (order, count) in (0..).zip(&mut counts) {
            *count = Mobility::ALL.map(|mobility| self.lists.of(mobility, order).len).iter().sum();
        }
        for range in &self.ranges {
            let mut kinds = range.kinds(d).peekable();
            while let Some((block, kind)) = kinds.next() {
                match kind {
                    Some(Kind::Pinned) => {
                        let mut from = 0;
                        for filler in range.fillers(block).chain([PAGEBLOCK]) {
                            for (_, order) in aligned_blocks(from..filler, MAX_ORDER) {
                                counts[order as usize] += 1;
                            }
                            from = filler + 1;
                        }
                    }
                    Some(_) if block & 1 == 0 && matches!(kinds.peek(), Some((_, Some(Kind::Clean)))) => {
                        counts[MAX_ORDER as usize] += 1;
                        kinds.next();
                    }
                    Some(_) => counts[PAGEBLOCK_ORDER as usize] += 1,
                    None => {}
                }
            }
        }
        counts
    }

    /// Calls `visit` with each run of pageblocks that are wholly free (or, with `fresh`, never
    /// used), ascending, until it returns true.
    pub fn free_runs(&self, d: &Descriptors, fresh: bool, mut visit: impl FnMut(Range<u64>) -> bool) {
        let mut run = 0..0;
        for range in &self.ranges {
            for (block, kind) in range.kinds(d) {
                let free = kind == Some(Kind::Clean) || !fresh && d.whole(block).is_free();
                if !free {
                    continue;
                }
                if run.end == block {
                    run.end += 1;
                } else {
                    if !run.is_empty() && visit(run) {
                        return;
                    }
                    run = block..block + 1;
                }
            }
        }
        if !run.is_empty() {
            visit(run);
        }
    }
}

impl<S: PhysSpace> FramePool<S> {
    /// Frames of `node`.
    pub fn frames(&self, node: NodeId) -> u64 {
        self.zones_of(node).iter().map(|zone| zone.frames).sum()
    }

    /// Free frames of `node`, without those on per-CPU lists.
    pub fn free_frames(&self, node: NodeId) -> u64 {
        self.zones_of(node).iter().map(|zone| zone.free).sum()
    }

    /// Frames of `node` on per-CPU lists.
    pub fn pcp_frames(&self, node: NodeId) -> u64 {
        self.zones_of(node).iter().map(|zone| zone.pcp.frames).sum()
    }

    /// Free blocks of `order` on `node`, as in `/proc/buddyinfo`. Takes a look at every pageblock.
    pub fn free_blocks(&self, node: NodeId, order: u8) -> u64 {
        self.blocks_by_order(node).get(order as usize).copied().unwrap_or(0)
    }

    fn blocks_by_order(&self, node: NodeId) -> [u64; ORDERS] {
        let mut sum = [0; ORDERS];
        for zone in self.zones_of(node) {
            for (sum, count) in sum.iter_mut().zip(zone.free_blocks(&self.d)) {
                *sum += count;
            }
        }
        sum
    }

    /// Free blocks that hold `frames` frames; whole free pageblocks if that is more than the
    /// largest block.
    pub(super) fn free_blocks_for(&self, node: NodeId, frames: u64) -> u64 {
        let order = frames.next_power_of_two().ilog2() as u8;
        let counts = self.blocks_by_order(node);
        if order > MAX_ORDER {
            counts[PAGEBLOCK_ORDER as usize] + 2 * counts[MAX_ORDER as usize]
        } else {
            counts[order as usize..].iter().sum()
        }
    }

    /// The share of `node`'s free frames that no allocation of `order` can
    /// use: 0 (all) … 1 (none). 0 if none is free. Takes a look at every pageblock.
    pub fn unusable_index(&self, node: NodeId, order: u8) -> f64 {
        let free = self.free_frames(node);
        if free == 0 {
            return 0.0;
        }
        let counts = self.blocks_by_order(node);
        let usable: u64 =
            (0..).zip(counts).skip(order.into()).map(|(order, count): (u32, u64)| count << order).sum();
        (free - usable) as f64 / free as f64
    }

    /// The longest run of free pageblocks of `node` within a zone, in frames.
    pub fn contiguous_free_max(&self, node: NodeId) -> u64 {
        let mut max = 0;
        for zone in self.zones_of(node) {
            zone.free_runs(&self.d, false, |run| {
                max = max.max(run.end - run.start);
                false
            });
        }
        max * PAGEBLOCK
    }

    /// The watermarks of a zone; zero if it has no memory.
    pub fn marks(&self, node: NodeId, zone: ZoneKind) -> ZoneMarks {
        self.zones_of(node).get(zone as usize).map_or(ZoneMarks::default(), |zone| zone.marks)
    }

    /// Whether every zone of `node` is below its low watermark: reclaim in the background
    /// should start (when Linux wakes `kswapd`).
    pub fn below_low(&self, node: NodeId) -> bool {
        let zones = self.zones_of(node).iter().filter(|zone| zone.frames > 0);
        zones.clone().count() > 0
            && zones.clone().all(|zone| !zone.can_spare(0, zone.marks.low, ZoneKind::Normal))
    }

    /// Whether some zone of `node` is above its high watermark: reclaim may stop
    /// (`pgdat_balanced`).
    pub fn above_high(&self, node: NodeId) -> bool {
        let mut zones = self.zones_of(node).iter().filter(|zone| zone.frames > 0);
        zones.any(|zone| zone.can_spare(0, zone.marks.high, ZoneKind::Normal))
    }

    /// The memory that the pool itself holds, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.d.bytes()
            + self.sections.len()
            + self.zones.iter().map(|zone| size_of::<Zone>() + zone.pcp.bytes()).sum::<usize>()
    }
}
