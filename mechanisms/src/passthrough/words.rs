//! A large array of 64-bit words that one side writes and another reads at the
//! same time: memory is taken where something was written.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// Words that are taken at once.
const BLOCK: u64 = 512;

type Block = Box<[AtomicU64; BLOCK as usize]>;

/// Words, all zero at first. A store is seen by loads that come after it
/// (release and acquire), so that what a word stands for is there before the word.
pub(super) struct Words {
    blocks: Box<[Once<Block>]>,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.blocks.iter().filter(|block| block.is_completed()).count();
        write!(f, "Words({taken} of {} blocks)", self.blocks.len())
    }
}

impl Words {
    /// Room for `words` words.
    pub(super) fn new(words: u64) -> Self {
        Words { blocks: (0..words.div_ceil(BLOCK)).map(|_| Once::new()).collect() }
    }

    /// A word; zero beyond the end.
    #[inline(always)]
    pub(super) fn load(&self, at: u64) -> u64 {
        match self.blocks.get((at / BLOCK) as usize).and_then(Once::get) {
            Some(block) => block[(at % BLOCK) as usize].load(Ordering::Acquire),
            None => 0,
        }
    }

    /// Replaces a word and returns the old one. Nothing is kept beyond the end.
    pub(super) fn swap(&self, at: u64, word: u64) -> u64 {
        let Some(block) = self.blocks.get((at / BLOCK) as usize) else { return 0 };
        if word == 0 && !block.is_completed() {
            return 0;
        }
        let block = block.call_once(|| Box::new(core::array::from_fn(|_| AtomicU64::new(0))));
        block[(at % BLOCK) as usize].swap(word, Ordering::AcqRel)
    }

    /// The words of `range` that are not zero, with their numbers, ascending.
    pub(super) fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = (range.start / BLOCK).min(self.blocks.len() as u64);
        let last = range.end.div_ceil(BLOCK).clamp(first, self.blocks.len() as u64);
        (first..last).zip(&self.blocks[first as usize..last as usize]).flat_map(move |(number, block)| {
            // Of a block only what is asked for: most ask for one word.
            let start = number * BLOCK;
            let from = range.start.saturating_sub(start);
            let to = (range.end - start).min(BLOCK).max(from);
            let words = block.get().map_or(&[][..], |words| &words[from as usize..to as usize]);
            (start + from..).zip(words).filter_map(|(at, word)| match word.load(Ordering::Acquire) {
                0 => None,
                word => Some((at, word)),
            })
        })
    }
}
