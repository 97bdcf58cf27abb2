//! Keys alone: the tags of data caches.

use super::lanes::{Four, LANES, MAX_VECTORS};
use super::packed::{self, Row};
use super::vectors::{Plain, Vectors};
use super::{Assoc, Geometry, Replacement};

/// Sets of tags of 32 bits.
#[derive(Clone, Debug)]
pub struct Tags {
    ways: usize,
    /// The ways, as bits.
    among: u32,
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    /// LRU, in the order of use, of sets of 5 to 8 ways, which most first and second levels have.
    Pairs(Box<[Pair]>),
    /// The same, where it makes a set one line of the host.
    Packed(Box<[Row]>),
    /// Apart, so that the compiler makes comparisons of the choice between the three, and no jump through a table.
    Other(Other),
}

#[derive(Clone, Debug)]
enum Other {
    /// LRU, in the order of use.
    Ordered(Ordered),
    /// Any other policy, or more ways than are worth shifting.
    InPlace(Box<Assoc<u32, ()>>),
}

impl Other {
    #[inline(never)]
    fn prefetch(&self, set: usize) {
        match self {
            Other::Ordered(ordered) => ordered.prefetch(set),
            Other::InPlace(assoc) => assoc.prefetch(set),
        }
    }
}

#[derive(Clone, Debug)]
struct Ordered {
    /// Set after set, `vectors` each.
    lanes: Box<[Four]>,
    /// The first set begins here, on a line of the host: 16 tags are one line.
    start: usize,
    vectors: usize,
}

/// Two vectors, within one line of the host.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Pair([Four; 2]);

/// Vectors of a line of the host.
const LINE: usize = 64 / size_of::<Four>();

impl Ordered {
    fn new(sets: usize, vectors: usize) -> Ordered {
        let lanes = vec![Four::default(); sets * vectors + LINE].into_boxed_slice();
        let start = lanes.as_ptr().align_offset(LINE * size_of::<Four>()).min(LINE);
        Ordered { lanes, start, vectors }
    }

    #[inline(always)]
    fn row<const VECTORS: usize>(&mut self, set: usize) -> &mut [Four; VECTORS] {
        let first = self.start + set * VECTORS;
        self.lanes[first..first + VECTORS].as_mut_array().expect("as many as were asked for")
    }

    #[inline(always)]
    fn touch(&mut self, vectors: impl Vectors, set: usize, among: u32, tag: u32) -> bool {
        match self.vectors {
            1 => vectors.touch(self.row::<1>(set), among, tag),
            3 => vectors.touch(self.row::<3>(set), among, tag),
            4 => vectors.touch(self.row::<4>(set), among, tag),
            5 => vectors.touch(self.row::<5>(set), among, tag),
            6 => vectors.touch(self.row::<6>(set), among, tag),
            7 => vectors.touch(self.row::<7>(set), among, tag),
            _ => vectors.touch(self.row::<MAX_VECTORS>(set), among, tag),
        }
    }

    fn set(&self, set: usize) -> &[Four] {
        &self.lanes[self.start + set * self.vectors..][..self.vectors]
    }

    fn set_mut(&mut self, set: usize) -> &mut [Four] {
        &mut self.lanes[self.start + set * self.vectors..][..self.vectors]
    }

    #[inline(always)]
    fn prefetch(&self, set: usize) {
        let first = self.start + set * self.vectors;
        paging::prefetch::prefetch(&self.lanes[first]);
        if !LINE.is_multiple_of(self.vectors) {
            paging::prefetch::prefetch(&self.lanes[first + self.vectors - 1]);
        }
    }
}

fn contains_in(row: &[Four], ways: usize, tag: u32) -> bool {
    row.iter().flat_map(|four| four.0).take(ways).any(|held| held == tag)
}

fn remove_in(row: &mut [Four], ways: usize, tag: u32) -> bool {
    let mut tags = row.iter_mut().flat_map(|four| &mut four.0).take(ways).skip_while(|held| **held != tag);
    let Some(mut place) = tags.next() else { return false };
    for next in tags {
        *place = *next;
        place = next;
    }
    *place = 0;
    true
}

impl Tags {
    /// Empty sets, for tags up to `largest`.
    ///
    /// # Panics
    /// As [`Assoc::new`].
    pub fn new(geometry: Geometry, replacement: Replacement, largest: u32) -> Tags {
        let Geometry { sets, ways } = geometry;
        assert!(sets > 0 && ways > 0, "a structure of {sets} sets of {ways} ways");
        let vectors = ways.div_ceil(LANES);
        let two_lines = vectors > LINE && ways <= packed::WAYS;
        let layout = if replacement == Replacement::Lru && two_lines && largest < packed::TAGS {
            Layout::Packed(vec![Row::default(); sets].into())
        } else if replacement == Replacement::Lru && vectors == 2 {
            Layout::Pairs(vec![Pair::default(); sets].into())
        } else if replacement == Replacement::Lru && vectors <= MAX_VECTORS {
            Layout::Other(Other::Ordered(Ordered::new(sets, vectors)))
        } else {
            Layout::Other(Other::InPlace(Box::new(Assoc::new(geometry, replacement))))
        };
        // Only the layouts in the order of use, which have no more than 32, look at the bits.
        let among = u32::MAX >> (u32::BITS as usize - ways.min(32));
        Tags { ways, among, layout }
    }

    /// Whether `tag` is there; in either case it now is, and is the most recently used.
    #[inline(always)]
    pub fn touch(&mut self, set: usize, tag: u32) -> bool {
        self.touch_with(Plain, set, tag)
    }

    /// The same with these vectors.
    #[inline(always)]
    pub fn touch_with(&mut self, vectors: impl Vectors, set: usize, tag: u32) -> bool {
        debug_assert!(tag != 0, "tag 0 is the empty way");
        match &mut self.layout {
            Layout::Pairs(pairs) => vectors.touch(&mut pairs[set].0, self.among, tag),
            Layout::Other(Other::Ordered(ordered)) => ordered.touch(vectors, set, self.among, tag),
            Layout::Packed(rows) => vectors.touch_packed(&mut rows[set], self.among, tag),
            Layout::Other(Other::InPlace(assoc)) => touch_in_place(assoc, set, tag),
        }
    }

    /// Whether `tag` is there; nothing changes.
    pub fn contains(&self, set: usize, tag: u32) -> bool {
        match &self.layout {
            Layout::Pairs(pairs) => tag != 0 && contains_in(&pairs[set].0, self.ways, tag),
            Layout::Other(Other::Ordered(ordered)) => {
                tag != 0 && contains_in(ordered.set(set), self.ways, tag)
            }
            Layout::Packed(rows) => tag != 0 && (0..self.ways).any(|way| rows[set].get(way) == tag),
            Layout::Other(Other::InPlace(assoc)) => assoc.contains(set, tag),
        }
    }

    /// Removes `tag`; whether it was there.
    pub fn remove(&mut self, set: usize, tag: u32) -> bool {
        match &mut self.layout {
            Layout::Pairs(pairs) => remove_in(&mut pairs[set].0, self.ways, tag),
            Layout::Other(Other::Ordered(ordered)) => remove_in(ordered.set_mut(set), self.ways, tag),
            Layout::Packed(rows) => remove_packed(&mut rows[set], self.ways, tag),
            Layout::Other(Other::InPlace(assoc)) => assoc.remove(set, tag, |()| true) > 0,
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        match &mut self.layout {
            Layout::Pairs(pairs) => pairs.fill(Pair::default()),
            Layout::Other(Other::Ordered(ordered)) => ordered.lanes.fill(Four::default()),
            Layout::Packed(rows) => rows.fill(Row::default()),
            Layout::Other(Other::InPlace(assoc)) => assoc.clear(),
        }
    }

    /// Asks the host for the tags of `set`, which a lookup will soon compare.
    #[inline(always)]
    pub fn prefetch(&self, set: usize) {
        match &self.layout {
            Layout::Pairs(pairs) => pairs.get(set).into_iter().for_each(paging::prefetch::prefetch),
            Layout::Packed(rows) => rows.get(set).into_iter().for_each(paging::prefetch::prefetch),
            Layout::Other(other) => other.prefetch(set),
        }
    }
}

fn remove_packed(row: &mut Row, ways: usize, tag: u32) -> bool {
    let Some(at) = (0..ways).find(|way| row.get(*way) == tag) else { return false };
    (at + 1..ways).for_each(|way| row.set(way - 1, row.get(way)));
    row.set(ways - 1, 0);
    true
}

#[inline(never)]
fn touch_in_place(assoc: &mut Assoc<u32, ()>, set: usize, tag: u32) -> bool {
    let hit = assoc.get(set, tag, |()| true).is_some();
    if !hit {
        assoc.insert(set, tag, ());
    }
    hit
}
