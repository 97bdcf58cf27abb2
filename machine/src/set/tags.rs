//! Keys alone: the tags of data caches.

use super::lanes::{self, LANES, MAX_VECTORS};
use super::{Assoc, Geometry, Replacement};

/// Sets of tags of 32 bits.
#[derive(Clone, Debug)]
pub struct Tags {
    ways: usize,
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    /// LRU, in the order of use.
    Ordered(Ordered),
    /// Any other policy, or more ways than are worth shifting.
    InPlace(Box<Assoc<u32, ()>>),
}

#[derive(Clone, Debug)]
struct Ordered {
    /// Set after set, `vectors` of [`LANES`] each.
    lanes: Box<[u32]>,
    /// The first set begins here, on a line of the host: 16 tags are one line.
    start: usize,
    vectors: usize,
}

/// Bytes of a line of the host.
const LINE: usize = 64;

impl Ordered {
    #[inline(always)]
    fn row<const VECTORS: usize>(&mut self, set: usize) -> &mut [[u32; LANES]; VECTORS] {
        let set = &mut self.lanes[self.start + set * VECTORS * LANES..];
        set.as_chunks_mut().0.first_chunk_mut().expect("a whole set")
    }

    #[inline(always)]
    fn touch(&mut self, set: usize, ways: usize, tag: u32) -> bool {
        match self.vectors {
            1 => lanes::touch(self.row::<1>(set), ways, tag),
            2 => lanes::touch(self.row::<2>(set), ways, tag),
            3 => lanes::touch(self.row::<3>(set), ways, tag),
            _ => lanes::touch(self.row::<MAX_VECTORS>(set), ways, tag),
        }
    }

    fn tags(&self, set: usize) -> &[u32] {
        &self.lanes[self.start + set * self.vectors * LANES..][..self.vectors * LANES]
    }
}

impl Tags {
    /// Empty sets.
    ///
    /// # Panics
    /// As [`Assoc::new`].
    pub fn new(geometry: Geometry, replacement: Replacement) -> Tags {
        let Geometry { sets, ways } = geometry;
        assert!(sets > 0 && ways > 0, "a structure of {sets} sets of {ways} ways");
        let vectors = ways.div_ceil(LANES);
        let layout = if replacement == Replacement::Lru && vectors <= MAX_VECTORS {
            let spare = LINE / size_of::<u32>();
            let lanes = vec![0; sets * vectors * LANES + spare].into_boxed_slice();
            let start = lanes.as_ptr().align_offset(LINE).min(spare);
            Layout::Ordered(Ordered { lanes, start, vectors })
        } else {
            Layout::InPlace(Box::new(Assoc::new(geometry, replacement)))
        };
        Tags { ways, layout }
    }

    /// Whether `tag` is there; in either case it now is, and is the most recently used.
    #[inline(always)]
    pub fn touch(&mut self, set: usize, tag: u32) -> bool {
        debug_assert!(tag != 0, "tag 0 is the empty way");
        match &mut self.layout {
            Layout::Ordered(ordered) => ordered.touch(set, self.ways, tag),
            Layout::InPlace(assoc) => touch_in_place(assoc, set, tag),
        }
    }

    /// Whether `tag` is there; nothing changes.
    pub fn contains(&self, set: usize, tag: u32) -> bool {
        match &self.layout {
            Layout::Ordered(ordered) => tag != 0 && ordered.tags(set)[..self.ways].contains(&tag),
            Layout::InPlace(assoc) => assoc.contains(set, tag),
        }
    }

    /// Removes `tag`; whether it was there.
    pub fn remove(&mut self, set: usize, tag: u32) -> bool {
        match &mut self.layout {
            Layout::Ordered(ordered) => {
                let first = ordered.start + set * ordered.vectors * LANES;
                let tags = &mut ordered.lanes[first..][..self.ways];
                let Some(way) = tags.iter().position(|held| *held == tag) else { return false };
                tags.copy_within(way + 1.., way);
                tags[self.ways - 1] = 0;
                true
            }
            Layout::InPlace(assoc) => assoc.remove(set, tag, |()| true) > 0,
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        match &mut self.layout {
            Layout::Ordered(ordered) => ordered.lanes.fill(0),
            Layout::InPlace(assoc) => assoc.clear(),
        }
    }

    /// Asks the host for the tags of `set`, which a lookup will soon compare.
    #[inline(always)]
    pub fn prefetch(&self, set: usize) {
        match &self.layout {
            Layout::Ordered(ordered) => {
                let first = ordered.start + set * ordered.vectors * LANES;
                paging::prefetch::prefetch(&ordered.lanes[first]);
                if ordered.vectors * size_of::<[u32; LANES]>() > LINE {
                    paging::prefetch::prefetch(&ordered.lanes[first + ordered.vectors * LANES - 1]);
                }
            }
            Layout::InPlace(assoc) => assoc.prefetch(set),
        }
    }
}

#[inline(never)]
fn touch_in_place(assoc: &mut Assoc<u32, ()>, set: usize, tag: u32) -> bool {
    let hit = assoc.get(set, tag, |()| true).is_some();
    if !hit {
        assoc.insert(set, tag, ());
    }
    hit
}
