//! The set-associative engine of all structures: TLBs, page-walk caches,
//! nested TLB, data caches.
//!
//! Key 0 is an empty way. There are two layouts:
//!
//! * [`Assoc`], keys with values: entries stay in their way, and what the
//!   policy knows of a set is beside it; under LRU, the order of use of all ways
//!   in one machine word, or a linked list for sets with more ways than such a
//!   word has fields. A set is searched by 16-bit prints of its keys, eight to
//!   a vector: fast up to about 100 ways; with thousands, a hash index was
//!   measured to be faster, but no machine has such a set.
//! * [`Tags`], keys alone, for data caches, whose arrays are larger than the
//!   host's own caches: under LRU the ways are kept in the order of their last
//!   use, so that no other memory is touched, and a hit and a miss
//!   are the same shift of the tags in front. Tags of 24 bits are kept so that
//!   20 of them are one line of the host.

mod assoc;
mod index;
mod lanes;
mod packed;
mod policy;
mod tags;
mod vectors;

pub use assoc::Assoc;
pub use index::SetIndex;
pub use tags::Tags;
pub use vectors::{Avx2, Plain, Vectors};

/// What a structure compares. 0 is an empty way.
pub trait Key: Copy + Eq + Default + std::fmt::Debug + Send + 'static {
    /// 16 bits that differ for most keys that differ, and are not 0.
    fn print(self) -> u16;
}
impl Key for u32 {
    #[inline(always)]
    fn print(self) -> u16 {
        u64::from(self).print()
    }
}
impl Key for u64 {
    #[inline(always)]
    fn print(self) -> u16 {
        // Fibonacci hashing; the low bit is free to keep 0 for empty ways.
        (self.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16 | 1
    }
}

/// How many sets of how many ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// Sets, at least 1; any number.
    pub sets: usize,
    /// Ways of each, at least 1; any number.
    pub ways: usize,
}

impl Geometry {
    /// `entries` in sets of `ways`; `None` if the ways do not divide them.
    pub fn of(entries: usize, ways: usize) -> Option<Geometry> {
        (ways > 0 && entries > 0 && entries.is_multiple_of(ways))
            .then(|| Geometry { sets: entries / ways, ways })
    }
    /// Entries in all.
    pub fn entries(self) -> usize {
        self.sets * self.ways
    }
}

/// Which way a new entry takes when its set is full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Replacement {
    /// The least recently used.
    #[default]
    Lru,
    /// Tree pseudo-LRU: one bit a node of a binary tree over the ways, each
    /// pointing away from the last use below it. Ways must be a power of two, at
    /// most 64.
    TreePlru,
    /// Any, by a xorshift generator with this seed.
    Random {
        /// The seed; 0 is taken as another constant.
        seed: u64,
    },
}
