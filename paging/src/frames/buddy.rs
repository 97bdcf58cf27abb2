//! One zone: its free lists by order and mobility, and the buddy algorithm.
//!
//! After Linux's `mm/page_alloc.c`, whose names are given where one function
//! follows another: lists are last-in first-out, splitting keeps the lower
//! half, freeing merges with the buddy, and a request whose own
//! mobility has nothing left takes from the other so that mixing stays rare.

use super::descriptors::{Descriptors, Word};
use super::fresh::{Fresh, Kind, aligned_blocks};
use super::pcp::PerCpu;
use super::watermark::ZoneMarks;
use super::{FrameState, MAX_ORDER, Mobility, NodeId, ORDERS, PAGEBLOCK, PAGEBLOCK_ORDER, ZoneKind};
use alloc::vec::Vec;

/// Free blocks of one order and mobility: a ring through the heads' words.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FreeList {
    /// The block that was freed last, if `len` is not 0.
    pub head: u64,
    pub len: u64,
}

/// A zone of a node.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub node: NodeId,
    pub kind: ZoneKind,
    /// Its memory, ascending.
    pub ranges: Vec<Fresh>,
    /// Free blocks by mobility and order.
    pub lists: [[FreeList; ORDERS]; 2],
    /// Orders whose list is not empty, by mobility.
    pub nonempty: [u16; 2],
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
}

impl Zone {
    pub fn new(node: NodeId, kind: ZoneKind) -> Self {
        Zone {
            node,
            kind,
            ranges: Vec::new(),
            lists: Default::default(),
            nonempty: [0; 2],
            free: 0,
            frames: 0,
            marks: ZoneMarks::default(),
            reserve: [0; 3],
            pcp: PerCpu::default(),
            scanners: None,
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

    // The lists.

    /// Puts a free block on its list (`__add_to_free_list`), at the end if `last`.
    fn push(&mut self, d: &mut Descriptors, frame: u64, order: u8, last: bool) {
        let mobility = d.mobility(frame) as usize;
        let list = &mut self.lists[mobility][order as usize];
        if list.len == 0 {
            d.set_head(frame, order, Word::free(order, frame, frame));
            list.head = frame;
            self.nonempty[mobility] |= 1 << order;
        } else {
            let first = list.head;
            let word = d.head(first, order);
            let end = word.prev();
            d.set_head(first, order, word.with_prev(frame));
            // One block's two links are both changed: read it again.
            let word = d.head(end, order);
            d.set_head(end, order, word.with_next(frame));
            d.set_head(frame, order, Word::free(order, first, end));
            if !last {
                list.head = frame;
            }
        }
        list.len += 1;
    }

    /// Takes a free block off its list (`__del_page_from_free_list`). Its words stay as they are.
    fn unlink(&mut self, d: &mut Descriptors, frame: u64, order: u8) {
        let mobility = d.mobility(frame) as usize;
        let list = &mut self.lists[mobility][order as usize];
        list.len -= 1;
        if list.len == 0 {
            self.nonempty[mobility] &= !(1 << order);
            return;
        }
        let word = d.head(frame, order);
        let (next, prev) = (word.next(), word.prev());
        let word = d.head(next, order);
        d.set_head(next, order, word.with_prev(prev));
        let word = d.head(prev, order);
        d.set_head(prev, order, word.with_next(next));
        if list.head == frame {
            list.head = next;
        }
    }

    /// Keeps the lower 2^`order` frames of an unlinked block and frees the rest
    /// (`expand`). The kept block's pageblock is split if it is smaller than one.
    fn expand(&mut self, d: &mut Descriptors, frame: u64, from: u8, order: u8) {
        for half in (order..from).rev() {
            if half == PAGEBLOCK_ORDER - 1 {
                d.split_block(frame >> PAGEBLOCK_ORDER, Word::INNER);
            }
            self.push(d, frame + (1 << half), half, false);
        }
    }

    // Taking.

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
        let orders = self.nonempty[mobility as usize] >> order;
        if orders == 0 {
            return None;
        }
        let found = order + orders.trailing_zeros() as u8;
        let frame = self.lists[mobility as usize][found as usize].head;
        self.unlink(d, frame, found);
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
            self.push(d, start, order, false);
            return;
        }
        d.split_block(block, Word::INNER);
        let mut from = start;
        let fillers = self.ranges[at].fillers(block).map(|offset| start + offset);
        for filler in fillers.chain([start + PAGEBLOCK]) {
            for (frame, order) in aligned_blocks(from..filler, PAGEBLOCK_ORDER - 1) {
                self.push(d, frame, order, false);
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
        let orders = self.nonempty[other as usize] >> order << order;
        if orders == 0 {
            return None;
        }
        let largest = orders.ilog2() as u8;
        if largest < PAGEBLOCK_ORDER / 2 && mobility == Mobility::Movable {
            return self.take_listed(d, order, other);
        }
        let frame = self.lists[other as usize][largest as usize].head;
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
            self.push(d, frame, order, false);
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
                d.split_block(head >> PAGEBLOCK_ORDER, Word::INNER);
            }
            let upper = head + (1 << order);
            if frame >= upper {
                self.push(d, head, order, false);
                head = upper;
            } else {
                self.push(d, upper, order, false);
            }
        }
        self.free -= 1 << order;
        order
    }

    // Giving back.

    /// Frees a block of at most `MAX_ORDER` and merges it with its free buddies (`__free_one_page`).
    pub fn give(&mut self, d: &mut Descriptors, mut frame: u64, mut order: u8) {
        self.free += 1 << order;
        if order < PAGEBLOCK_ORDER {
            d.ensure_split(frame >> PAGEBLOCK_ORDER);
        }
        d.fill(frame, order, Word::INNER);
        while order < MAX_ORDER {
            let buddy = frame ^ 1 << order;
            if d.is_free_head(buddy, order) {
                self.unlink(d, buddy, order);
                d.set_head(buddy, order, Word::INNER);
            } else if !(order == PAGEBLOCK_ORDER && self.absorb(d, buddy >> PAGEBLOCK_ORDER)) {
                break;
            }
            if order >= PAGEBLOCK_ORDER {
                // Two pageblocks become one block: of the mobility that was freed.
                let mobility = d.mobility(frame);
                d.set_mobility(buddy, PAGEBLOCK_ORDER, mobility);
            }
            frame &= !(1 << order);
            order += 1;
            if order == PAGEBLOCK_ORDER {
                d.set_block(frame >> PAGEBLOCK_ORDER, Word::INNER);
            }
        }
        let last = self.merges_soon(d, frame, order);
        self.push(d, frame, order, last);
    }

    /// Takes a fresh clean pageblock to merge with its buddy.
    fn absorb(&mut self, d: &mut Descriptors, block: u64) -> bool {
        let Some(at) = self.range_of(block).filter(|&at| self.ranges[at].is_clean(block, d)) else {
            return false;
        };
        self.ranges[at].taken(Kind::Clean);
        d.set_whole(block, Word::INNER);
        true
    }

    /// Whether the buddy of the next order is free, so that this block, once its own buddy is,
    /// merges twice: it is then used last (`buddy_merge_likely`).
    fn merges_soon(&self, d: &Descriptors, frame: u64, order: u8) -> bool {
        order < MAX_ORDER - 1 && d.is_free_head((frame & !(1 << order)) ^ 2 << order, order + 1)
    }
}
