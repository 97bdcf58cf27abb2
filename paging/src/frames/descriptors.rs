//! What is known about each frame: one 8-byte word.
//!
//! A pageblock that is free, or owned as a whole (a huge page, or 512 single
//! frames in the same state), has one word for all its frames; any other
//! pageblock is *split* and has one word for each. So the words follow what is used,
//! and a 2 MiB page costs as much as a 4 KiB page of a split pageblock.
//!
//! | tag | meaning | other bits |
//! |---|---|---|
//! | 0 | blank: not memory, or never used | |
//! | 1-11 | head of a free block of order tag-1 | 4-33 next, 34-63 previous block in its list |
//! | 12 | inside a free block | |
//! | 13 | a frame on a CPU's list; for a pageblock: split | |
//! | 14 | owned, or the head of a compound unit | 4-7 state, 8-12 order, 32-63 references |
//! | 15 | inside a compound unit | 4-33 its head |

use super::{FrameState, Mobility, PAGEBLOCK, PAGEBLOCK_ORDER, Unit};
use crate::sparse::{BLOCK, SparseFrames};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::size_of;
use core::ops::Range;

const LINK: u64 = (1 << 30) - 1;
const INNER: u64 = 12;
const LISTED: u64 = 13;
const OWNED: u64 = 14;
const PART: u64 = 15;

/// The word of a frame, or of a pageblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

impl Word {
    pub const BLANK: Word = Word(0);
    /// Inside a free block.
    pub const INNER: Word = Word(INNER);
    /// On a CPU's list.
    pub const PER_CPU: Word = Word(LISTED);
    /// A pageblock whose frames have words of their own.
    pub const SPLIT: Word = Word(LISTED);

    #[inline(always)]
    pub const fn free(order: u8, next: u64, prev: u64) -> Word {
        Word((order as u64 + 1) | (next << 4) | (prev << 34))
    }
    /// A single frame (order 0) or the head of a unit.
    #[inline(always)]
    pub const fn owned(state: FrameState, order: u8, refs: u32) -> Word {
        Word(OWNED | (state as u64) << 4 | (order as u64) << 8 | (refs as u64) << 32)
    }
    #[inline(always)]
    pub const fn part(head: u64) -> Word {
        Word(PART | head << 4)
    }

    #[inline(always)]
    pub const fn is_blank(self) -> bool {
        self.0 == 0
    }
    #[inline(always)]
    pub const fn is_split(self) -> bool {
        self.0 == LISTED
    }
    #[inline(always)]
    pub const fn is_per_cpu(self) -> bool {
        self.0 == LISTED
    }
    #[inline(always)]
    pub const fn is_inner(self) -> bool {
        self.0 == INNER
    }
    #[inline(always)]
    pub const fn is_free_head(self, order: u8) -> bool {
        self.0 & 15 == order as u64 + 1
    }
    /// The order of the free block whose head this is.
    #[inline(always)]
    pub const fn free_order(self) -> Option<u8> {
        match self.0 & 15 {
            tag @ 1..=11 => Some(tag as u8 - 1),
            _ => None,
        }
    }
    /// Whether the frame is in the buddy allocator.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        matches!(self.0 & 15, 1..=INNER)
    }
    #[inline(always)]
    pub const fn is_owned(self) -> bool {
        self.0 & 15 == OWNED
    }
    /// Whether it is an owned single frame with one reference, in a state that returns to the
    /// lists.
    #[inline(always)]
    pub const fn is_plain_single(self) -> bool {
        const FIXED: u64 = 15 | 31 << 8 | (u32::MAX as u64) << 32;
        self.0 & FIXED == OWNED | 1 << 32 && self.state_bits() != FrameState::Faulty as u64
    }
    /// The head that a part belongs to.
    #[inline(always)]
    pub const fn part_of(self) -> Option<u64> {
        if self.0 & 15 == PART { Some(self.0 >> 4 & LINK) } else { None }
    }
    #[inline(always)]
    pub const fn next(self) -> u64 {
        self.0 >> 4 & LINK
    }
    #[inline(always)]
    pub const fn prev(self) -> u64 {
        self.0 >> 34
    }
    #[inline(always)]
    pub const fn with_next(self, next: u64) -> Word {
        Word(self.0 & !(LINK << 4) | next << 4)
    }
    #[inline(always)]
    pub const fn with_prev(self, prev: u64) -> Word {
        Word(self.0 & !(LINK << 34) | prev << 34)
    }
    const fn state_bits(self) -> u64 {
        self.0 >> 4 & 15
    }
    /// The state of an owned frame.
    #[inline(always)]
    pub const fn state(self) -> FrameState {
        FrameState::ALL[self.state_bits() as usize]
    }
    #[inline(always)]
    pub const fn with_state(self, state: FrameState) -> Word {
        Word(self.0 & !(15 << 4) | (state as u64) << 4)
    }
    /// The order of a compound unit; 0 for a single frame.
    #[inline(always)]
    pub const fn unit_order(self) -> u8 {
        (self.0 >> 8 & 31) as u8
    }
    #[inline(always)]
    pub const fn refs(self) -> u32 {
        (self.0 >> 32) as u32
    }
    #[inline(always)]
    pub const fn with_refs(self, refs: u32) -> Word {
        Word(self.0 & u32::MAX as u64 | (refs as u64) << 32)
    }
}

/// The words of all frames, and the mobility of all pageblocks.
#[derive(Clone)]
pub(super) struct Descriptors {
    /// A word for each pageblock. Raw, because the standard library knows how to get zeroed
    /// integers without touching them.
    whole: Vec<u64>,
    /// The words of split pageblocks, and of no others.
    frames: SparseFrames<Word>,
    /// A bit for each pageblock: grouped as unmovable.
    unmovable: Vec<u64>,
    /// Words of pageblocks that became one free block, all [`Word::INNER`]: they split the next one.
    spare: Vec<Box<[Word; BLOCK]>>,
}

/// Spare words at most: half a megabyte.
const SPARE: usize = 128;

impl Descriptors {
    /// Blank words for frames below `frames`.
    pub fn new(frames: u64) -> Self {
        // An order-10 block is two pageblocks: its buddy must have a word.
        let blocks = frames.div_ceil(2 * PAGEBLOCK) as usize * 2;
        Descriptors {
            whole: vec![0; blocks],
            frames: SparseFrames::new(frames),
            unmovable: vec![0; blocks.div_ceil(64)],
            spare: Vec::new(),
        }
    }

    /// Makes room for frames below `frames`.
    pub fn grow(&mut self, frames: u64) {
        let blocks = frames.div_ceil(2 * PAGEBLOCK) as usize * 2;
        if blocks > self.whole.len() {
            self.whole.resize(blocks, 0);
            self.unmovable.resize(blocks.div_ceil(64), 0);
        }
    }

    /// Pageblocks that are not blank.
    pub fn used_blocks(&self) -> usize {
        self.whole.iter().filter(|&&word| word != 0).count()
    }

    pub fn bytes(&self) -> usize {
        (self.whole.len() + self.unmovable.len() + self.spare.len() * BLOCK) * size_of::<u64>()
            + self.frames.bytes()
    }

    /// The word of pageblock `block`; blank beyond the end.
    #[inline(always)]
    pub fn whole(&self, block: u64) -> Word {
        self.whole.get(block as usize).map_or(Word::BLANK, |&word| Word(word))
    }
    #[inline(always)]
    pub fn set_whole(&mut self, block: u64, word: Word) {
        self.whole[block as usize] = word.0;
    }

    /// The words of the frames of a split pageblock.
    #[inline(always)]
    pub fn split(&self, block: u64) -> &[Word; BLOCK] {
        self.frames.block(block).expect("a split pageblock has words")
    }
    #[inline(always)]
    pub fn split_mut(&mut self, block: u64) -> &mut [Word; BLOCK] {
        self.frames.block_mut(block).expect("a split pageblock has words")
    }

    /// The word that describes `frame`: its own, or its pageblock's.
    #[inline(always)]
    pub fn of(&self, frame: u64) -> Word {
        match self.frames.get(frame) {
            Some(&word) => word,
            None => self.whole(frame >> PAGEBLOCK_ORDER),
        }
    }

    /// The word of a frame of a split pageblock.
    #[inline(always)]
    pub fn split_word(&mut self, frame: u64) -> Option<&mut Word> {
        self.frames.get_mut(frame)
    }

    /// Whether an aligned block, smaller than a pageblock, of a split pageblock is all plain singles.
    #[inline]
    pub fn are_plain_singles(&self, frame: u64, order: u8) -> bool {
        let at = (frame & (PAGEBLOCK - 1)) as usize;
        at & ((1 << order) - 1) == 0
            && self
                .frames
                .block(frame >> PAGEBLOCK_ORDER)
                .is_some_and(|words| words[at..at + (1 << order)].iter().all(|word| word.is_plain_single()))
    }

    /// The word at the head of a block or unit of `order`.
    #[inline(always)]
    pub fn head(&self, frame: u64, order: u8) -> Word {
        if order >= PAGEBLOCK_ORDER {
            self.whole(frame >> PAGEBLOCK_ORDER)
        } else {
            self.split(frame >> PAGEBLOCK_ORDER)[(frame & 511) as usize]
        }
    }
    #[inline(always)]
    pub fn set_head(&mut self, frame: u64, order: u8, word: Word) {
        if order >= PAGEBLOCK_ORDER {
            self.set_whole(frame >> PAGEBLOCK_ORDER, word);
        } else {
            self.split_mut(frame >> PAGEBLOCK_ORDER)[(frame & 511) as usize] = word;
        }
    }

    /// Whether a free block of `order` begins at `frame`.
    #[inline(always)]
    pub fn is_free_head(&self, frame: u64, order: u8) -> bool {
        let whole = self.whole(frame >> PAGEBLOCK_ORDER);
        if order >= PAGEBLOCK_ORDER {
            whole.is_free_head(order)
        } else {
            whole.is_split() && self.head(frame, order).is_free_head(order)
        }
    }

    /// The free block that holds `frame`: head and order.
    pub fn free_block_of(&self, frame: u64) -> Option<(u64, u8)> {
        let block = frame >> PAGEBLOCK_ORDER;
        let whole = self.whole(block);
        if whole.is_inner() {
            return Some(((block - 1) << PAGEBLOCK_ORDER, PAGEBLOCK_ORDER + 1));
        }
        if let Some(order) = whole.free_order() {
            return Some((block << PAGEBLOCK_ORDER, order));
        }
        if !whole.is_split() {
            return None;
        }
        let words = self.split(block);
        if !words[(frame & 511) as usize].is_free() {
            return None;
        }
        (0..PAGEBLOCK_ORDER).find_map(|order| {
            let head = frame >> order << order;
            let found = words[(head & 511) as usize].free_order()?;
            (found >= order).then_some((head, found))
        })
    }

    /// The owned single or unit that holds `frame`: its head and the head's word.
    #[inline]
    pub fn unit_of(&self, frame: u64) -> Option<(u64, Word)> {
        let word = self.of(frame);
        if word.is_owned() {
            let inside_head = word.unit_order() >= PAGEBLOCK_ORDER;
            return Some((if inside_head { frame & !511 } else { frame }, word));
        }
        let head = word.part_of()?;
        Some((head, self.of(head)))
    }

    /// Gives each frame of a pageblock a word of its own, all `word`.
    pub fn split_block(&mut self, block: u64, word: Word) {
        self.set_whole(block, Word::SPLIT);
        let words: Box<[Word; BLOCK]> = match vec![word; BLOCK].into_boxed_slice().try_into() {
            Ok(words) => words,
            Err(_) => unreachable!("{BLOCK} words were made"),
        };
        self.frames.set_block(block, words);
    }

    /// Splits a free pageblock: every word is [`Word::INNER`] until the caller says where blocks begin.
    pub fn split_free_block(&mut self, block: u64) {
        match self.spare.pop() {
            Some(words) => {
                self.set_whole(block, Word::SPLIT);
                self.frames.set_block(block, words);
            }
            None => self.split_block(block, Word::INNER),
        }
    }

    /// Makes a split pageblock, whose words are all [`Word::INNER`], (a part of) one free block.
    pub fn merge_block(&mut self, block: u64) {
        self.set_whole(block, Word::INNER);
        if let Some(words) = self.frames.clear_block(block)
            && self.spare.len() < SPARE
        {
            debug_assert!(words.iter().all(|word| word.is_inner()), "a pageblock merged with frames in use");
            self.spare.push(words);
        }
    }

    /// Gives each frame of a pageblock that has one word a word of its own.
    #[inline]
    pub fn ensure_split(&mut self, block: u64) {
        let whole = self.whole(block);
        if !whole.is_split() {
            self.split_block(block, whole);
        }
    }

    /// Gives a pageblock one word for all its frames.
    pub fn set_block(&mut self, block: u64, word: Word) {
        if self.whole(block).is_split() {
            self.frames.clear_block(block);
        }
        self.set_whole(block, word);
    }

    /// Forgets these pageblocks.
    pub fn blank(&mut self, blocks: Range<u64>) {
        for block in blocks {
            self.set_block(block, Word::BLANK);
            self.set_mobility(block << PAGEBLOCK_ORDER, PAGEBLOCK_ORDER, Mobility::Movable);
        }
    }

    /// Gives every frame of a block the word `word`. Below a pageblock, the pageblock is split.
    #[inline]
    pub fn fill(&mut self, frame: u64, order: u8, word: Word) {
        let block = frame >> PAGEBLOCK_ORDER;
        if order >= PAGEBLOCK_ORDER {
            for block in block..block + (1 << (order - PAGEBLOCK_ORDER)) {
                self.set_block(block, word);
            }
        } else {
            let at = (frame & 511) as usize;
            self.split_mut(block)[at..at + (1 << order)].fill(word);
        }
    }

    /// Gives frames of one split pageblock the word `word`.
    pub fn fill_frames(&mut self, frames: Range<u64>, word: Word) {
        let at = (frames.start & (PAGEBLOCK - 1)) as usize;
        let len = (frames.end - frames.start) as usize;
        self.split_mut(frames.start >> PAGEBLOCK_ORDER)[at..at + len].fill(word);
    }

    /// Gives a block that was just taken from the lists an owner.
    #[inline]
    pub fn own(&mut self, frame: u64, order: u8, state: FrameState, unit: Unit, refs: u32) {
        if unit == Unit::Singles || order == 0 {
            self.fill(frame, order, Word::owned(state, 0, refs));
        } else {
            self.fill(frame, order, Word::part(frame));
            self.set_head(frame, order, Word::owned(state, order, refs));
        }
    }

    /// Changes the word of an owned single frame, or of the head of the unit that holds it.
    ///
    /// A single in a pageblock of like singles gets a word of its own for it.
    #[inline]
    pub fn set_unit(&mut self, head: u64, word: Word) {
        if word.unit_order() < PAGEBLOCK_ORDER {
            self.ensure_split(head >> PAGEBLOCK_ORDER);
        }
        self.set_head(head, word.unit_order(), word);
    }

    #[inline(always)]
    pub fn mobility(&self, frame: u64) -> Mobility {
        let block = frame >> PAGEBLOCK_ORDER;
        match self.unmovable.get((block / 64) as usize) {
            Some(bits) if bits >> (block % 64) & 1 == 1 => Mobility::Unmovable,
            _ => Mobility::Movable,
        }
    }

    /// Sets the mobility of the pageblocks of a block of `order` (at least a pageblock's).
    pub fn set_mobility(&mut self, frame: u64, order: u8, mobility: Mobility) {
        let block = frame >> PAGEBLOCK_ORDER;
        for block in block..block + (1 << order.saturating_sub(PAGEBLOCK_ORDER)) {
            let (bits, bit) = (&mut self.unmovable[(block / 64) as usize], 1 << (block % 64));
            match mobility {
                Mobility::Movable => *bits &= !bit,
                Mobility::Unmovable => *bits |= bit,
            }
        }
    }
}
