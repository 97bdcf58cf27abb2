//! Data caches: physical lines of 64 bytes, found by tag.
//!
//! A line is allocated where it was missed; no level includes another, and what
//! one evicts stays in the others. Writes are not written back in the model:
//! a dirty line costs no more than a clean one.

use crate::set::{Geometry, Plain, Replacement, SetIndex, Tags, Vectors};
use paging::frames::MAX_FRAMES;

/// log2 of the bytes of a line.
pub const LINE_SHIFT: u32 = 6;

/// One cache.
#[derive(Clone, Debug)]
pub struct Cache {
    geometry: Geometry,
    index: SetIndex,
    tags: Tags,
}

impl Cache {
    /// Sets at least: then the tag of a line of the largest physical memory
    /// (4 TiB, [`paging::frames::MAX_FRAMES`]) fits 32 bits.
    pub const MIN_SETS: usize = 32;

    /// An empty cache.
    ///
    /// # Panics
    /// With fewer than [`Cache::MIN_SETS`] sets. [`crate::profile`] refuses it
    /// with a reason.
    pub fn new(geometry: Geometry, replacement: Replacement) -> Cache {
        assert!(geometry.sets >= Self::MIN_SETS, "a cache of {} sets", geometry.sets);
        let lines = MAX_FRAMES << (12 - LINE_SHIFT);
        let largest = (lines - 1) / geometry.sets as u64 + 1;
        let tags = Tags::new(geometry, replacement, largest as u32);
        let index = SetIndex::new(geometry.sets);
        Cache { geometry, index, tags }
    }

    #[inline(always)]
    fn place(&self, line: u64) -> (usize, u32) {
        let (set, rest) = self.index.split(line);
        // Tag 0 is an empty way.
        (set, rest as u32 + 1)
    }

    /// Whether physical line `line` is there; in either case it now is, and is
    /// the most recently used.
    #[inline(always)]
    pub fn access(&mut self, line: u64) -> bool {
        self.access_with(Plain, line)
    }

    /// The same, looked up with these vectors.
    #[inline(always)]
    pub fn access_with(&mut self, vectors: impl Vectors, line: u64) -> bool {
        let (set, tag) = self.place(line);
        self.tags.touch_with(vectors, set, tag)
    }

    /// Whether `line` is there; nothing changes.
    pub fn contains(&self, line: u64) -> bool {
        let (set, tag) = self.place(line);
        self.tags.contains(set, tag)
    }

    /// Asks the host for the tags that `line` will be compared with.
    #[inline(always)]
    pub fn prefetch_set(&self, line: u64) {
        self.tags.prefetch(self.index.set(line));
    }

    /// Removes `line`, as a flush instruction or another device's write does;
    /// whether it was there.
    pub fn invalidate(&mut self, line: u64) -> bool {
        let (set, tag) = self.place(line);
        self.tags.remove(set, tag)
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.tags.clear();
    }

    /// Sets and ways.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}
