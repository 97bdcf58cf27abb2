//! Memory that was never used, and how it is carved into blocks.
//!
//! A kernel that boots puts all memory on its free lists. Here a range stays
//! one object until the lists run dry: the words of its pageblocks are blank.
//! Which block is carved for a request is the one that the full lists would
//! have given: pageblocks with fillers first for what fits into them, whole ones
//! otherwise.

use super::descriptors::Descriptors;
use super::fragment::Pins;
use super::{PAGEBLOCK, PAGEBLOCK_ORDER};
use core::ops::Range;

/// A range of memory.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// All its frames.
    pub frames: Range<u64>,
    /// Its whole pageblocks; only these can be fresh.
    pub blocks: Range<u64>,
    /// Its fillers.
    pins: Option<Pins>,
    /// Fresh pageblocks without fillers, and with.
    clean: u64,
    pinned: u64,
    /// For each [`Kind`]: none below.
    next: [u64; 3],
}

/// What is looked for in fresh memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A pageblock without fillers.
    Clean = 0,
    /// A pageblock with fillers.
    Pinned = 1,
    /// Two pageblocks without fillers that are buddies.
    Pair = 2,
}

impl Fresh {
    /// A range, all fresh.
    pub fn new(frames: Range<u64>, pins: Option<Pins>) -> Self {
        let blocks = whole_blocks(&frames);
        let mut fresh = Fresh { next: [blocks.start; 3], clean: 0, pinned: 0, frames, blocks, pins };
        let blocks = fresh.blocks.end - fresh.blocks.start;
        fresh.pinned = match fresh.pins {
            // Without a look at each group, of which a large machine has thousands.
            Some(pins) => pins.chosen(),
            None => 0,
        };
        fresh.clean = blocks - fresh.pinned;
        fresh
    }

    /// The part of the range that is left within `frames`, as it is now.
    pub fn part(&self, frames: Range<u64>, d: &Descriptors) -> Self {
        let blocks = whole_blocks(&frames);
        let mut part =
            Fresh { next: [blocks.start; 3], clean: 0, pinned: 0, frames, blocks, pins: self.pins };
        (part.clean, part.pinned) = part.count(d);
        part
    }

    /// Appends a range without fillers that begins where this one, without fillers too, ends.
    /// Returns whether that is so.
    pub fn join(&mut self, other: &Fresh) -> bool {
        let joins = self.frames.end == other.frames.start
            && self.blocks.end * PAGEBLOCK == self.frames.end
            && self.pins.is_none()
            && other.pins.is_none();
        if joins {
            // The last pageblock may have got its buddy.
            let pair = &mut self.next[Kind::Pair as usize];
            *pair = (*pair).min(self.blocks.end.saturating_sub(1)).max(self.blocks.start);
            self.frames.end = other.frames.end;
            self.blocks.end = other.blocks.end;
            self.clean += other.clean;
        }
        joins
    }

    /// Every whole pageblock, with its kind if it is fresh.
    pub fn kinds(&self, d: &Descriptors) -> impl Iterator<Item = (u64, Option<Kind>)> {
        let (mut first, mut end, mut chosen) = (0, 0, 0);
        self.blocks.clone().map(move |block| {
            if block >= end {
                (first, chosen) = self.pins.map_or((block, 0), |pins| pins.group(block));
                end = first + 64;
            }
            let kind = if chosen >> (block - first) & 1 == 1 { Kind::Pinned } else { Kind::Clean };
            (block, d.whole(block).is_blank().then_some(kind))
        })
    }

    /// Fresh pageblocks: clean and pinned, counted one by one.
    fn count(&self, d: &Descriptors) -> (u64, u64) {
        self.kinds(d).fold((0, 0), |(clean, pinned), (_, kind)| match kind {
            Some(Kind::Pinned) => (clean, pinned + 1),
            Some(_) => (clean + 1, pinned),
            None => (clean, pinned),
        })
    }

    /// Whether the counts agree with the words.
    pub fn is_consistent(&self, d: &Descriptors) -> bool {
        self.count(d) == (self.clean, self.pinned)
    }

    /// Fillers in each fresh pageblock that has some.
    pub fn held(&self) -> u64 {
        self.pins.map_or(0, |pins| u64::from(pins.each))
    }

    /// Free frames in fresh pageblocks.
    pub fn free(&self) -> u64 {
        self.clean * PAGEBLOCK + self.pinned * (PAGEBLOCK - self.held())
    }

    /// Whether the fresh pageblock `block` has fillers (`Pinned`) or not (`Clean`); `None` if
    /// it is not fresh, or not of this range.
    pub fn kind(&self, block: u64, d: &Descriptors) -> Option<Kind> {
        if !self.blocks.contains(&block) || !d.whole(block).is_blank() {
            return None;
        }
        Some(if self.pins.is_some_and(|pins| pins.is_chosen(block)) { Kind::Pinned } else { Kind::Clean })
    }

    /// Offsets of the fillers in the fresh pageblock `block` of kind `Pinned`.
    pub fn fillers(&self, block: u64) -> impl Iterator<Item = u64> + use<> {
        self.pins.map(|pins| pins.offsets(block)).into_iter().flatten()
    }

    /// `block` is fresh no longer; its word says what it is now.
    pub fn taken(&mut self, kind: Kind) {
        match kind {
            Kind::Pinned => self.pinned -= 1,
            _ => self.clean -= 1,
        }
    }

    /// The lowest fresh pageblock of a kind (of a pair: the first).
    pub fn find(&mut self, kind: Kind, d: &Descriptors) -> Option<u64> {
        let left = if kind == Kind::Pinned { self.pinned } else { self.clean };
        if left == 0 {
            return None;
        }
        let mut at = self.next[kind as usize];
        let mut found = None;
        while at < self.blocks.end && found.is_none() {
            let (first, chosen) = match &self.pins {
                Some(pins) => pins.group(at),
                None => (at & !63, 0),
            };
            let end = self.blocks.end.min(first + 64);
            let fits = |block: u64| {
                let pinned = chosen >> (block - first) & 1 == 1;
                d.whole(block).is_blank() && pinned == (kind == Kind::Pinned)
            };
            found = (at..end).find(|&block| match kind {
                Kind::Pair => block & 1 == 0 && fits(block) && self.is_clean(block + 1, d),
                _ => fits(block),
            });
            at = found.unwrap_or(end);
        }
        self.next[kind as usize] = at;
        found
    }

    /// Whether pageblock `block` is fresh and has no filler.
    pub fn is_clean(&self, block: u64, d: &Descriptors) -> bool {
        self.kind(block, d) == Some(Kind::Clean)
    }
}

/// The pageblocks that lie wholly within `frames`.
pub(super) fn whole_blocks(frames: &Range<u64>) -> Range<u64> {
    let start = frames.start.div_ceil(PAGEBLOCK);
    start..(frames.end >> PAGEBLOCK_ORDER).max(start)
}

/// `range` cut into aligned blocks of at most `max_order`: start and order, ascending.
pub(super) fn aligned_blocks(range: Range<u64>, max_order: u8) -> impl Iterator<Item = (u64, u8)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let order = fitting_order(at, range.end - at, max_order);
        let start = at;
        at += 1 << order;
        Some((start, order))
    })
}

/// The largest order of at most `max_order` to which `start` is aligned and that `frames` frames hold.
pub(super) fn fitting_order(start: u64, frames: u64, max_order: u8) -> u8 {
    (start.trailing_zeros().min(frames.ilog2()) as u8).min(max_order)
}
