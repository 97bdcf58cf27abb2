//! One zone: its free lists by order and mobility, and the buddy algorithm.
//!
//! After Linux's `mm/page_alloc.c`, whose names are given where one function
//! follows another: lists are last-in first-out, splitting keeps the lower
//! half, freeing merges with the buddy, and a request whose own
//! mobility has nothing left takes from the other so that mixing stays rare.

use super::compact::Deferral;
use super::descriptors::{Descriptors, Word};
use super::fresh::{Fresh, Kind, aligned_blocks};
use super::lists::{End, FreeLists};
use super::pcp::PerCpu;
use super::watermark::ZoneMarks;
use super::{FrameState, MAX_ORDER, Mobility, NodeId, PAGEBLOCK, PAGEBLOCK_ORDER, ZoneKind};
use alloc::vec::Vec;

/// A zone of a node.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub node: NodeId,
    pub kind: ZoneKind,
    /// Its memory, ascending.
    pub ranges: Vec<Fresh>,
    pub lists: FreeLists,
    /// Free frames: on the lists, and never used.
    pub free: u64,
    /// All frames.
    pub frames: u64,
    pub marks: ZoneMarks,
    /// Frames kept from requests that could use a higher zone, by the highest zone that
    /// they could use (`lowmem_reserve`).
    pub reserve: [u64; 3],
    pub pcp: PerCpu,
    /// Where compaction goes on: source and target pageblock.
    pub scanners: Option<(u64, u64)>,
    pub deferral: Deferral,
}

impl Zone {
    pub fn new(node: NodeId, kind: ZoneKind) -> Self {
        Zone {
            node,
            kind,
            ranges: Vec::new(),
            lists: FreeLists::default(),
            free: 0,
            frames: 0,
            marks: ZoneMarks::default(),
            reserve: [0; 3],
            pcp: PerCpu::default(),
            scanners: None,
            deferral: Deferral::default(),
        }
    }

    /// Adds a range: whole pageblocks stay fresh, ragged edges go to the lists.
    pub fn add(&mut self, range: Fresh, d: &mut Descriptors) {
        self.frames += range.frames.end - range.frames.start;
        self.free += range.free();
        let (frames, blocks) = (range.frames.clone(), range.blocks.clone());
        let at = self.ranges.partition_point(|other| other.frames.start < frames.start);
        if at == 0 || !self.ranges[at - 1].join(&range) {
            self.ranges.insert(at, range);
        }
        let edges = if blocks.is_empty() {
            [frames, 0..0]
        } else {
            [frames.start..blocks.start * PAGEBLOCK, blocks.end * PAGEBLOCK..frames.end]
        };
        for (start, order) in edges.into_iter().flat_map(|edge| aligned_blocks(edge, PAGEBLOCK_ORDER - 1)) {
            if d.whole(start >> PAGEBLOCK_ORDER).is_blank() {
                d.split_block(start >> PAGEBLOCK_ORDER, Word::BLANK);
            }
            self.give(d, start, order);
        }
        if !blocks.is_empty() {
            self.merge_with_buddy(d, blocks.start);
            self.merge_with_buddy(d, blocks.end - 1);
        }
    }

    /// Merges a pageblock of a range that was just added with a buddy that was there before.
    fn merge_with_buddy(&mut self, d: &mut Descriptors, block: u64) {
        let buddy = block ^ 1;
        if self.range_of(buddy) != self.range_of(block)
            && self.ranges.iter().any(|range| range.is_clean(buddy, d))
        {
            self.materialise(d, buddy);
        }
        let frame = buddy << PAGEBLOCK_ORDER;
        if d.is_free_head(frame, PAGEBLOCK_ORDER) {
            self.unlink(d, frame, PAGEBLOCK_ORDER);
            self.free -= PAGEBLOCK;
            self.give(d, frame, PAGEBLOCK_ORDER);
        }
    }

    /// The fresh range that pageblock `block` is in.
    pub fn range_of(&self, block: u64) -> Option<usize> {
        self.ranges.iter().position(|range| range.blocks.contains(&block))
    }

    // Taking.

    fn push(&mut self, d: &mut Descriptors, frame: u64, order: u8) {
        self.lists.push(d, frame, order, d.mobility(frame), End::Hot);
    }

    fn unlink(&mut self, d: &mut Descriptors, frame: u64, order: u8) {
        self.lists.unlink(d, frame, order, d.mobility(frame));
    }

    /// Keeps the lower 2^`order` frames of an unlinked block and frees the rest
    /// (`expand`). The kept block's pageblock is split if it is smaller than one.
    fn expand(&mut self, d: &mut Descriptors, frame: u64, from: u8, order: u8) {
        let mobility = d.mobility(frame);
        for half in (order..from).rev() {
            if half == PAGEBLOCK_ORDER - 1 {
                d.split_free_block(frame >> PAGEBLOCK_ORDER);
            }
            self.lists.push(d, frame + (1 << half), half, mobility, End::Hot);
        }
    }

    /// Takes a block of `order`. Its words are stale: the caller says what it is now.
    /// `stolen` counts blocks of the other mobility.
    pub fn take(
        &mut self,
        d: &mut Descriptors,
        order: u8,
        mobility: Mobility,
        stolen: &mut u64,
    ) -> Option<u64> {
        let frame = loop {
            if let Some(frame) = self.take_listed(d, order, mobility) {
                break frame;
            }
            if !self.carve(d, order, mobility) {
                let frame = self.steal(d, order, mobility)?;
                *stolen += 1;
                break frame;
            }
        };
        self.free -= 1 << order;
        Some(frame)
    }

    /// The block of the smallest order that will do (`__rmqueue_smallest`).
    #[inline]
    fn take_listed(&mut self, d: &mut Descriptors, order: u8, mobility: Mobility) -> Option<u64> {
        let orders = self.lists.orders(mobility, order);
        if orders == 0 {
            return None;
        }
        let found = orders.trailing_zeros() as u8;
        let frame = self.lists.of(mobility, found).head;
        self.lists.unlink(d, frame, found, mobility);
        self.expand(d, frame, found, order);
        Some(frame)
    }

    /// Moves fresh memory to the lists, as `mobility`, where a block of `order` may come of it.
    fn carve(&mut self, d: &mut Descriptors, order: u8, mobility: Mobility) -> bool {
        use Kind::{Clean, Pair, Pinned};
        let kinds: &[Kind] = match order {
            MAX_ORDER => &[Pair],
            PAGEBLOCK_ORDER => &[Clean],
            // Small blocks are used up before large ones are broken, but unmovable
            // requests take from the largest, to keep to themselves (`steal`).
            _ if mobility == Mobility::Movable && self.fits_beside_fillers(order) => &[Pinned, Clean],
            _ => &[Clean, Pinned],
        };
        for &kind in kinds {
            for at in 0..self.ranges.len() {
                if let Some(block) = self.ranges[at].find(kind, d) {
                    let range = &self.ranges[at];
                    let pair =
                        kind == Pair || kind == Clean && block & 1 == 0 && range.is_clean(block + 1, d);
                    self.carve_blocks(d, at, block, if pair { 2 } else { 1 }, mobility);
                    return true;
                }
            }
        }
        false
    }

    /// Whether every pageblock with fillers has a free block of `order`: it has more places
    /// than fillers.
    pub fn fits_beside_fillers(&self, order: u8) -> bool {
        self.ranges.iter().all(|range| range.held() < PAGEBLOCK >> order)
    }

    /// Moves one fresh pageblock (or two that are buddies and clean) to the lists.
    fn carve_blocks(&mut self, d: &mut Descriptors, at: usize, block: u64, count: u64, mobility: Mobility) {
        let Some(kind) = self.ranges[at].kind(block, d) else { return };
        let start = block * PAGEBLOCK;
        let order = PAGEBLOCK_ORDER + (count - 1) as u8;
        d.set_mobility(start, order, mobility);
        for _ in 0..count {
            self.ranges[at].taken(kind);
        }
        if kind == Kind::Clean {
            d.fill(start, order, Word::INNER);
            self.push(d, start, order);
            return;
        }
        d.split_free_block(block);
        let mut from = start;
        let fillers = self.ranges[at].fillers(block).map(|offset| start + offset);
        for filler in fillers.chain([start + PAGEBLOCK]) {
            for (frame, order) in aligned_blocks(from..filler, PAGEBLOCK_ORDER - 1) {
                self.push(d, frame, order);
            }
            if filler < start + PAGEBLOCK {
                d.set_head(filler, 0, Word::owned(FrameState::Filler, 0, 1));
            }
            from = filler + 1;
        }
    }

    /// Makes the fresh pageblock `block` (if it is one) known to the lists.
    pub fn materialise(&mut self, d: &mut Descriptors, block: u64) {
        if let Some(at) = self.range_of(block) {
            self.carve_blocks(d, at, block, 1, Mobility::Movable);
        }
    }

    /// Takes a block from the other mobility's lists (`__rmqueue_fallback`).
    ///
    /// Unmovable requests, and movable ones for large blocks, break the largest block
    /// and, if enough of its pageblock is like them, claim all of it. Small movable
    /// ones take the smallest, for movable pages among unmovable ones do no lasting harm.
    fn steal(&mut self, d: &mut Descriptors, order: u8, mobility: Mobility) -> Option<u64> {
        let other = mobility.other();
        let orders = self.lists.orders(other, order);
        if orders == 0 {
            return None;
        }
        let largest = orders.ilog2() as u8;
        if largest < PAGEBLOCK_ORDER / 2 && mobility == Mobility::Movable {
            return self.take_listed(d, order, other);
        }
        let frame = self.lists.of(other, largest).head;
        if largest >= PAGEBLOCK_ORDER {
            self.unlink(d, frame, largest);
            d.set_mobility(frame, largest, mobility);
        } else {
            if self.is_worth_claiming(d, frame, mobility) {
                self.claim(d, frame >> PAGEBLOCK_ORDER, mobility);
            }
            self.unlink(d, frame, largest);
        }
        self.expand(d, frame, largest, order);
        Some(frame)
    }

    /// Whether at least half of a split pageblock is free or already of the kind that wants it
    /// (`try_to_claim_block`).
    fn is_worth_claiming(&self, d: &Descriptors, frame: u64, mobility: Mobility) -> bool {
        let alike = |word: &Word| {
            word.is_free() || word.is_owned() && word.unit_order() == 0 && word.state().mobility() == mobility
        };
        let words = d.split(frame >> PAGEBLOCK_ORDER);
        words.iter().filter(|word| alike(word)).count() >= PAGEBLOCK as usize / 2
    }

    /// Makes a split pageblock `mobility`'s, its free blocks included.
    fn claim(&mut self, d: &mut Descriptors, block: u64, mobility: Mobility) {
        let heads: Vec<(u64, u8)> = (block * PAGEBLOCK..)
            .zip(d.split(block))
            .filter_map(|(frame, word)| Some((frame, word.free_order()?)))
            .collect();
        for &(frame, order) in &heads {
            self.unlink(d, frame, order);
        }
        d.set_mobility(block * PAGEBLOCK, PAGEBLOCK_ORDER, mobility);
        for (frame, order) in heads {
            self.push(d, frame, order);
        }
    }

    /// Takes the block that begins at the free frame `frame`, of order `limit` (to which it is aligned)
    /// or the order of the free block that it is in, whichever is smaller. Returns the order.
    pub fn extract(&mut self, d: &mut Descriptors, frame: u64, limit: u8) -> u8 {
        let block = frame >> PAGEBLOCK_ORDER;
        if d.whole(block).is_blank()
            && let Some(at) = self.range_of(block)
        {
            if limit >= PAGEBLOCK_ORDER && self.ranges[at].is_clean(block, d) {
                self.ranges[at].taken(Kind::Clean);
                self.free -= PAGEBLOCK;
                return PAGEBLOCK_ORDER;
            }
            self.materialise(d, block);
        }
        let (mut head, mut order) = d.free_block_of(frame).expect("the caller saw that the frame is free");
        self.unlink(d, head, order);
        while order > limit || head != frame {
            order -= 1;
            if order == PAGEBLOCK_ORDER - 1 {
                d.split_free_block(head >> PAGEBLOCK_ORDER);
            }
            let upper = head + (1 << order);
            if frame >= upper {
                self.push(d, head, order);
                head = upper;
            } else {
                self.push(d, upper, order);
            }
        }
        self.free -= 1 << order;
        order
    }

    // Giving back.

    /// Frees a block of at most `MAX_ORDER` and merges it with its free buddies (`__free_one_page`).
    pub fn give(&mut self, d: &mut Descriptors, mut frame: u64, mut order: u8) {
        self.free += 1 << order;
        let mobility = d.mobility(frame);
        if order < PAGEBLOCK_ORDER {
            let block = frame >> PAGEBLOCK_ORDER;
            d.ensure_split(block);
            d.fill(frame, order, Word::INNER);
            while order < PAGEBLOCK_ORDER {
                let buddy = frame ^ 1 << order;
                if !d.split(block)[(buddy & (PAGEBLOCK - 1)) as usize].is_free_head(order) {
                    let end = self.end_for(d, frame, order);
                    return self.lists.push(d, frame, order, mobility, end);
                }
                self.lists.unlink(d, buddy, order, mobility);
                d.set_head(buddy, order, Word::INNER);
                frame &= !(1 << order);
                order += 1;
            }
            d.merge_block(block);
        } else {
            d.fill(frame, order, Word::INNER);
        }
        if order == PAGEBLOCK_ORDER {
            let buddy = frame ^ PAGEBLOCK;
            let merges = d.is_free_head(buddy, PAGEBLOCK_ORDER);
            if merges {
                self.unlink(d, buddy, PAGEBLOCK_ORDER);
            }
            if merges || self.absorb(d, buddy >> PAGEBLOCK_ORDER) {
                // Two pageblocks become one block: of the mobility that was freed.
                d.set_whole(buddy >> PAGEBLOCK_ORDER, Word::INNER);
                d.set_mobility(buddy, PAGEBLOCK_ORDER, mobility);
                frame &= !PAGEBLOCK;
                order = MAX_ORDER;
            }
        }
        self.lists.push(d, frame, order, mobility, End::Hot);
    }

    /// Takes a fresh clean pageblock to merge with its buddy.
    fn absorb(&mut self, d: &mut Descriptors, block: u64) -> bool {
        let Some(at) = self.range_of(block).filter(|&at| self.ranges[at].is_clean(block, d)) else {
            return false;
        };
        self.ranges[at].taken(Kind::Clean);
        true
    }

    /// Where a small block goes. If the buddy of the next order is free, this block merges twice once its own
    /// buddy is: it is then used last (`buddy_merge_likely`).
    fn end_for(&self, d: &Descriptors, frame: u64, order: u8) -> End {
        if d.is_free_head((frame & !(1 << order)) ^ 2 << order, order + 1) { End::Cold } else { End::Hot }
    }

    /// Takes up to `count` single frames, with the result of as many calls of [`take`](Self::take)
    /// but a whole block at a time. Their words are [`Word::PER_CPU`] then.
    pub fn take_batch(
        &mut self,
        d: &mut Descriptors,
        count: usize,
        mobility: Mobility,
        stolen: &mut u64,
        mut to: impl FnMut(u64),
    ) {
        let mut left = count as u64;
        while left > 0 {
            let orders = self.lists.orders(mobility, 0);
            if orders.trailing_zeros() >= PAGEBLOCK_ORDER.into() {
                // Nothing small: splitting, carving and stealing are for one frame at a time.
                let Some(frame) = self.take(d, 0, mobility, stolen) else { return };
                d.set_head(frame, 0, Word::PER_CPU);
                to(frame);
                left -= 1;
                continue;
            }
            let order = orders.trailing_zeros() as u8;
            let start = self.lists.of(mobility, order).head;
            self.lists.unlink(d, start, order, mobility);
            let end = start + left.min(1 << order);
            // All smaller lists are empty: frames come in ascending order, and at most one block
            // of each order is left.
            for (rest, order) in aligned_blocks(end..start + (1 << order), order) {
                self.lists.push(d, rest, order, mobility, End::Hot);
            }
            d.fill_frames(start..end, Word::PER_CPU);
            (start..end).for_each(&mut to);
            self.free -= end - start;
            left -= end - start;
        }
    }
}
