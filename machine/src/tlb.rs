//! TLBs: any number of arrays, each for some page sizes.
//!
//! An Intel core has one array per page size in its first level and two in
//! its second (4 KiB with 2 MiB, and 1 GiB); an AMD Zen core one fully
//! associative array for all. A lookup asks for each page size that any entry
//! has, and for no other: most systems use one or two.
//!
//! The set is chosen by the page number alone, so that all tags of one page
//! meet in one set; the address space is part of the key that is compared.

use crate::recent;
use crate::set::{Assoc, Geometry, Replacement, SetIndex};
use paging::{Intent, Leaf, PageSize, Rights, TlbTag, Va, tlb_key};

/// One array of a TLB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlbArray {
    /// The page sizes that it caches.
    pub sizes: Vec<PageSize>,
    /// Sets and ways.
    pub geometry: Geometry,
    /// Which way a new entry takes.
    pub replacement: Replacement,
}

/// A cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Host frame of the first 4 KiB of the page, counted in the page's own
    /// size: a frame number has 30 bits ([`paging::frames::MAX_FRAMES`]).
    first: u32,
    /// The page's size.
    pub size: PageSize,
    /// What the tables allow.
    pub rights: Rights,
    /// D is set in the tables: a store needs no walk for it.
    pub dirty: bool,
}

impl Default for Hit {
    fn default() -> Self {
        Hit { first: 0, size: PageSize::Size4K, rights: Rights::ALL, dirty: false }
    }
}

impl Hit {
    /// What a walk for `va` that ended in `leaf` found, cached as a page of `size`.
    #[inline(always)]
    pub fn new(va: Va, leaf: &Leaf, size: PageSize) -> Hit {
        // What is 0 for most is not calculated.
        let within = if size == PageSize::Size4K { 0 } else { va.page() & (size.frames() - 1) };
        let first = leaf.frame.number().wrapping_sub(within) as u32;
        Hit { first, size, rights: leaf.rights, dirty: leaf.dirty }
    }
    /// Host-physical address of the 4 KiB that hold `va`.
    #[inline(always)]
    pub fn page_base(&self, va: Va) -> u64 {
        let small = self.size == PageSize::Size4K;
        let within = if small { 0 } else { va.page() as u32 & (self.size.frames() as u32 - 1) };
        u64::from(self.first.wrapping_add(within)) << 12
    }
    /// Whether an access with `intent` needs no walk.
    #[inline(always)]
    pub fn allows(&self, intent: Intent) -> bool {
        self.rights.allow(intent) && (!intent.write || self.dirty)
    }
    /// Whether stores need no walk.
    #[inline(always)]
    pub fn may_store(&self) -> bool {
        self.allows(Intent::WRITE)
    }
}

/// What a way holds.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Entry<T> {
    hit: Hit,
    tag: T,
}

#[derive(Clone, Debug)]
struct Array<T> {
    index: SetIndex,
    ways: Assoc<u64, Entry<T>>,
}

impl<T: TlbTag> Array<T> {
    fn new(geometry: Geometry, replacement: Replacement) -> Self {
        Array { index: SetIndex::new(geometry.sets), ways: Assoc::new(geometry, replacement) }
    }

    /// The set and the key of `va` as part of a page of `size`.
    #[inline(always)]
    fn place(&self, va: Va, size: PageSize, space: u16) -> (usize, u64) {
        let key = tlb_key(va, size, space);
        (self.index.set(key >> 18), key)
    }
}

/// No array caches this size.
const NONE: u8 = u8::MAX;

/// One level of TLBs: all its arrays.
#[derive(Clone, Debug)]
pub struct Tlb<T: TlbTag> {
    /// No more than there are page sizes; the one that takes 4 KiB pages is the first.
    arrays: [Array<T>; 3],
    /// The array of each page size, by [`PageSize`] − 1.
    array_of: [u8; 3],
    /// The size that a leaf of each size is cached as: its own, or the largest
    /// below it where no array takes it and pages are broken up.
    cached_as: [Option<PageSize>; 3],
    /// Page sizes that an entry may have, as bits.
    in_use: u8,
    /// See [`Tlb::sets_of_small`].
    sets_of_small: u64,
}

#[inline(always)]
const fn bit(size: PageSize) -> u8 {
    1 << (size as u8 - 1)
}

impl<T: TlbTag> Tlb<T> {
    /// A level of empty arrays. If `fracture`, a page of a size that no array
    /// takes is cached in pieces of a smaller one, as AMD does with 1 GiB pages
    /// in the second level; otherwise this level does not cache it.
    pub fn new(arrays: &[TlbArray], fracture: bool) -> Self {
        let mut array_of = [NONE; 3];
        let mut taken = Vec::new();
        for size in PageSize::ALL {
            let Some(given) = arrays.iter().rposition(|array| array.sizes.contains(&size)) else { continue };
            let number = taken.iter().position(|other| *other == given).unwrap_or(taken.len());
            taken.resize(taken.len().max(number + 1), given);
            array_of[size as usize - 1] = number as u8;
        }
        let has = |size: &PageSize| array_of[*size as usize - 1] != NONE;
        let cached_as = PageSize::ALL.map(|size| {
            let mut smaller = PageSize::ALL.into_iter().rev().filter(|s| *s <= size);
            if fracture { smaller.find(has) } else { smaller.next().filter(has) }
        });
        let none = Geometry { sets: 1, ways: 1 };
        let arrays = std::array::from_fn(|number| match taken.get(number) {
            Some(given) => Array::new(arrays[*given].geometry, arrays[*given].replacement),
            None => Array::new(none, Replacement::Lru),
        });
        let mut tlb = Tlb { arrays, array_of, cached_as, in_use: 0, sets_of_small: 0 };
        tlb.now_in_use(0);
        tlb
    }

    /// Entries may have the page sizes in `in_use` from now on.
    fn now_in_use(&mut self, in_use: u8) {
        let small = bit(PageSize::Size4K);
        let simple = in_use & !small == 0 && self.array_of[PageSize::Size4K as usize - 1] != NONE;
        self.in_use = in_use;
        self.sets_of_small = if simple { recent::mask(self.arrays[0].index.sets()) } else { 0 };
    }

    /// The number of the array of a size that an array takes.
    #[inline(always)]
    fn number(&self, size: PageSize) -> usize {
        if size == PageSize::Size4K { 0 } else { usize::from(self.array_of[size as usize - 1]) }
    }

    /// The entry that may serve an access to `va` in `context`.
    #[inline(always)]
    pub fn lookup(&mut self, va: Va, context: &T::Context) -> Option<Hit> {
        self.lookup_tagged(va, context).map(|(hit, _)| hit)
    }

    /// The same, with the entry's tag.
    #[inline(always)]
    pub fn lookup_tagged(&mut self, va: Va, context: &T::Context) -> Option<(Hit, T)> {
        let space = T::key(context);
        if self.in_use & bit(PageSize::Size4K) != 0
            && let Some(found) = self.probe(va, PageSize::Size4K, space, context)
        {
            return Some(found);
        }
        if self.in_use & bit(PageSize::Size2M) != 0
            && let Some(found) = self.probe(va, PageSize::Size2M, space, context)
        {
            return Some(found);
        }
        if self.in_use & bit(PageSize::Size1G) != 0 {
            return self.probe(va, PageSize::Size1G, space, context);
        }
        None
    }

    #[inline(always)]
    fn probe(&mut self, va: Va, size: PageSize, space: u16, context: &T::Context) -> Option<(Hit, T)> {
        let array = &mut self.arrays[self.number(size)];
        let (set, key) = array.place(va, size, space);
        let entry = array.ways.get(set, key, |entry| !T::CONDITIONAL || entry.tag.admits(context))?;
        Some((entry.hit, entry.tag))
    }

    /// Caches the end of a walk for `va`, in place of the entry that would have
    /// served it if there is one; `missed`: a lookup has just said that there is
    /// none. Returns what a lookup would now find, whether or not this level
    /// takes pages of that size.
    #[inline(always)]
    pub fn fill(&mut self, va: Va, context: &T::Context, leaf: &Leaf, tag: T, missed: bool) -> Hit {
        // With a size that is known here, all that depends on it is.
        if leaf.size == PageSize::Size4K && self.cached_as[PageSize::Size4K as usize - 1].is_some() {
            let hit = Hit::new(va, leaf, PageSize::Size4K);
            self.put(va, context, PageSize::Size4K, Entry { hit, tag }, missed);
            return hit;
        }
        self.fill_large(va, context, leaf, tag, missed)
    }

    #[inline(never)]
    fn fill_large(&mut self, va: Va, context: &T::Context, leaf: &Leaf, tag: T, missed: bool) -> Hit {
        match self.cached_as[leaf.size as usize - 1] {
            Some(size) => {
                let hit = Hit::new(va, leaf, size);
                self.put(va, context, size, Entry { hit, tag }, missed);
                hit
            }
            None => Hit::new(va, leaf, leaf.size),
        }
    }

    /// Caches an entry of the next level, for `va`, which this level has just missed.
    #[inline(always)]
    pub fn fill_hit(&mut self, va: Va, context: &T::Context, hit: Hit, tag: T) {
        match self.cached_as[hit.size as usize - 1] {
            Some(size) if size == hit.size => self.put(va, context, size, Entry { hit, tag }, true),
            Some(size) => {
                let first = (hit.page_base(va) >> 12).wrapping_sub(va.page() & (size.frames() - 1));
                let hit = Hit { first: first as u32, size, ..hit };
                self.put(va, context, size, Entry { hit, tag }, true);
            }
            None => {}
        }
    }

    #[inline(always)]
    fn put(&mut self, va: Va, context: &T::Context, size: PageSize, entry: Entry<T>, missed: bool) {
        let array = &mut self.arrays[self.number(size)];
        let (set, key) = array.place(va, size, T::key(context));
        let same = |old: &Entry<T>| !T::CONDITIONAL || old.tag.admits(context);
        if missed {
            debug_assert!(!array.ways.holds(set, key, same), "a second entry for {va:?}");
            array.ways.insert(set, key, entry);
        } else {
            array.ways.put(set, key, entry, same);
        }
        if self.in_use & bit(size) == 0 {
            self.now_in_use(self.in_use | bit(size));
        }
    }

    /// From the number of a 4 KiB page to its set, as a mask, while there are no other pages and few sets; else 0.
    #[inline(always)]
    pub fn sets_of_small(&self) -> u64 {
        self.sets_of_small
    }

    /// Asks the host for the sets that a lookup of `va` will compare.
    #[inline(always)]
    pub fn prefetch(&self, va: Va) {
        for size in PageSize::ALL {
            if self.in_use & bit(size) != 0 {
                let array = &self.arrays[self.number(size)];
                array.ways.prefetch(array.index.set(tlb_key(va, size, 0) >> 18));
            }
        }
    }

    /// Removes the entries of key `space` ([`TlbTag::key`]) that map any byte
    /// of `bytes` from `start`, if `which` says yes to their tag; how many.
    pub fn invalidate(&mut self, space: u16, start: Va, bytes: u64, which: impl Fn(&T) -> bool) -> usize {
        if bytes == 0 {
            return 0;
        }
        // Keys have 57 bits of address: stay within the half that `start` is in.
        let half = start.raw() | ((1 << 57) - 1);
        let end = Va::new(start.raw().saturating_add(bytes - 1).min(half));
        let mut removed = 0;
        for size in PageSize::ALL {
            if self.in_use & bit(size) == 0 {
                continue;
            }
            let array = &mut self.arrays[self.number(size)];
            let (first, last) = (tlb_key(start, size, space), tlb_key(end, size, space));
            let pages = (last >> 18) - (first >> 18) + 1;
            // Probing one page after the other is cheaper than a scan of all
            // ways only for as many pages as there are sets.
            if pages <= array.index.sets() as u64 {
                for page in first >> 18..=last >> 18 {
                    let key = page << 18 | first & 0x3_ffff;
                    removed += array.ways.remove(array.index.set(page), key, |entry| which(&entry.tag));
                }
            } else {
                removed += array.ways.retain(|key, entry| {
                    let hit = (first..=last).contains(&key) && key & 0x3_ffff == first & 0x3_ffff;
                    !(hit && which(&entry.tag))
                });
            }
        }
        removed
    }

    /// Removes all entries of key `space`; how many.
    pub fn flush_space(&mut self, space: u16) -> usize {
        self.flush_where(|key, _| key == space)
    }

    /// Removes all entries for whose space key and tag `which` says yes; how many.
    pub fn flush_where(&mut self, which: impl Fn(u16, &T) -> bool) -> usize {
        self.arrays
            .iter_mut()
            .map(|array| array.ways.retain(|key, entry| !which((key >> 2) as u16, &entry.tag)))
            .sum()
    }

    /// Removes everything.
    pub fn flush_all(&mut self) {
        self.arrays.iter_mut().for_each(|array| array.ways.clear());
        self.now_in_use(0);
    }

    /// How many entries are in use.
    pub fn len(&self) -> usize {
        self.arrays.iter().map(|array| array.ways.iter().count()).sum()
    }

    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
