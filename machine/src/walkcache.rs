//! What lets a walk start deep: page-walk caches and the nested TLB.
//!
//! A page-walk cache of level `l` holds entries of level-`l` tables, each of
//! which points to a table of level `l − 1`: the PDE cache (level 2) knows
//! level-1 tables. A walk asks for the deepest table first. The two dimensions
//! of a nested walk have caches of their own, as the paging-structure
//! caches of Intel are tagged by what they map from (SDM 3A §4.10.3, §29.4.1);
//! the tables of the guest that they point to are already resolved to host
//! frames ("combined mappings"), so they go when the VM's table changes.
//! The nested TLB holds gPA→hPA.

use crate::set::{Assoc, Geometry, Replacement, SetIndex};
use paging::{CachedTable, Dim, Gpa, Hfn, HostLeaf, PageSize, Rights, Va};

/// One page-walk cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalkCacheArray {
    /// The levels of the tables whose entries it holds: 2 for PDEs … 5. More
    /// than one where levels share an array.
    pub levels: Vec<u8>,
    /// Sets and ways.
    pub geometry: Geometry,
    /// Which way a new entry takes.
    pub replacement: Replacement,
}

/// The nested TLB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NestedTlbArray {
    /// Sets and ways, of all page sizes.
    pub geometry: Geometry,
    /// Which way a new entry takes.
    pub replacement: Replacement,
}

/// A table as a way holds it, in two words that stay in registers: built byte by byte in memory, it was waited for
/// when it was copied into its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Table {
    /// Its frame and its host frame, 32 bits each: frame numbers have 30 ([`paging::frames::MAX_FRAMES`]).
    frames: u64,
    /// Level, rights, link, a byte each, and the VM under which a guest's table was resolved.
    about: u64,
}

impl Table {
    /// None for a frame that no memory has: a guest may write what it likes into
    /// its tables.
    #[inline(always)]
    fn new(table: &CachedTable, vm: u16) -> Option<Table> {
        let frame = u32::try_from(table.frame).ok()?;
        let host = u32::try_from(table.host.number()).ok()?;
        let about = u64::from(table.level)
            | u64::from(table.rights.bits()) << 8
            | u64::from(table.link) << 16
            | u64::from(vm) << 24;
        Some(Table { frames: u64::from(frame) | u64::from(host) << 32, about })
    }

    fn vm(&self) -> u16 {
        (self.about >> 24) as u16
    }

    #[inline(always)]
    fn cached(&self) -> CachedTable {
        CachedTable {
            level: self.about as u8,
            frame: u64::from(self.frames as u32),
            host: Hfn::new(self.frames >> 32),
            rights: Rights::from_bits((self.about >> 8) as u8),
            link: (self.about >> 16) as u8,
        }
    }
}

#[derive(Clone, Debug)]
struct Array {
    index: SetIndex,
    ways: Assoc<u64, Table>,
}

impl Array {
    fn new(geometry: Geometry, replacement: Replacement) -> Array {
        Array { index: SetIndex::new(geometry.sets), ways: Assoc::new(geometry, replacement) }
    }
}

/// No array holds entries of this level.
const NONE: u8 = u8::MAX;

/// The page-walk caches of one dimension.
#[derive(Clone, Debug)]
struct Dimension {
    /// No more than there are levels.
    arrays: [Array; 4],
    /// The array that knows tables of level 1, 2, 3, 4.
    array_of: [u8; 4],
    /// Levels of tables that an entry may point to, as bits.
    in_use: u8,
}

/// The part of `addr` that selects a table of `level`: what a level's entries cover.
#[inline(always)]
fn prefix(addr: u64, level: u8) -> u64 {
    (addr << 7 >> 7) >> (12 + 9 * u32::from(level))
}

#[inline(always)]
fn table_key(prefix: u64, tag: u16, level: u8) -> u64 {
    prefix << 19 | u64::from(tag) << 3 | u64::from(level)
}

impl Dimension {
    fn new(arrays: &[WalkCacheArray]) -> Self {
        let mut array_of = [NONE; 4];
        let mut taken = Vec::new();
        for level in 2..=5 {
            let Some(given) = arrays.iter().rposition(|array| array.levels.contains(&level)) else {
                continue;
            };
            let number = taken.iter().position(|other| *other == given).unwrap_or(taken.len());
            taken.resize(taken.len().max(number + 1), given);
            array_of[level as usize - 2] = number as u8;
        }
        let none = Geometry { sets: 1, ways: 1 };
        let arrays = std::array::from_fn(|number| match taken.get(number) {
            Some(given) => Array::new(arrays[*given].geometry, arrays[*given].replacement),
            None => Array::new(none, Replacement::Lru),
        });
        Dimension { arrays, array_of, in_use: 0 }
    }

    /// The array that knows tables of `level`, if there is one.
    #[inline(always)]
    fn array(&mut self, level: u8) -> &mut Array {
        &mut self.arrays[usize::from(self.array_of[usize::from(level - 1) % 4]) % 4]
    }

    #[inline(always)]
    fn get(&mut self, addr: u64, levels: u8, tag: u16) -> Option<CachedTable> {
        // The root is in a register, so the caches know levels below it.
        let mut left = self.in_use & ((1 << levels) - 1);
        while left != 0 {
            let level = left.trailing_zeros() as u8;
            left &= left - 1;
            let array = self.array(level);
            let prefix = prefix(addr, level);
            let key = table_key(prefix, tag, level);
            if let Some(found) = array.ways.get(array.index.set(prefix), key, |_| true) {
                return Some(found.cached());
            }
        }
        None
    }

    #[inline(always)]
    fn put(&mut self, addr: u64, table: CachedTable, tag: u16, vm: u16) {
        let Some(&number) = self.array_of.get(table.level as usize - 1) else { return };
        if number == NONE {
            return;
        }
        let array = self.array(table.level);
        let prefix = prefix(addr, table.level);
        let key = table_key(prefix, tag, table.level);
        let set = array.index.set(prefix);
        debug_assert!(!array.ways.contains(set, key), "a table that `get` would have found");
        let Some(entry) = Table::new(&table, vm) else { return };
        array.ways.insert(set, key, entry);
        self.in_use |= 1 << table.level;
    }

    fn retain(&mut self, keep: impl Fn(u64, &Table) -> bool) -> usize {
        self.arrays.iter_mut().map(|array| array.ways.retain(&keep)).sum()
    }
}

#[inline(always)]
fn tag_of(key: u64) -> u16 {
    (key >> 3) as u16
}

/// What the nested TLB knows of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct HostPage {
    /// The host frame of the page's first 4 KiB: a frame number has 30 bits.
    first: u32,
    rights: Rights,
    dirty: bool,
}

impl Default for HostPage {
    fn default() -> Self {
        HostPage { first: 0, rights: Rights::ALL, dirty: false }
    }
}

/// No page has this number.
const NO_PAGE: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct NestedTlb {
    index: SetIndex,
    ways: Assoc<u64, HostPage>,
    /// Page sizes that an entry may have, as bits.
    in_use: u8,
    /// The page that the last look-up did not find, or [`NO_PAGE`]: it can be inserted without a search.
    missed: u64,
}

impl NestedTlb {
    #[inline(always)]
    fn probe(&mut self, gpa: Gpa, size: PageSize, vm: u16) -> Option<HostLeaf> {
        if self.in_use >> size as u8 & 1 == 0 {
            return None;
        }
        let key = host_key(gpa, size, vm);
        let page = self.ways.get(self.index.set(key >> 18), key, |_| true)?;
        let within = gpa.page() & (size.frames() - 1);
        let frame = Hfn::new(u64::from(page.first.wrapping_add(within as u32)));
        Some(HostLeaf { frame, size, rights: page.rights, dirty: page.dirty })
    }

    #[inline(never)]
    fn probe_large(&mut self, gpa: Gpa, vm: u16) -> Option<HostLeaf> {
        self.probe(gpa, PageSize::Size2M, vm).or_else(|| self.probe(gpa, PageSize::Size1G, vm))
    }

    #[inline(always)]
    fn insert(&mut self, gpa: Gpa, size: PageSize, leaf: HostLeaf, vm: u16) {
        let first = leaf.frame.number().wrapping_sub(gpa.page() & (size.frames() - 1));
        let key = host_key(gpa, size, vm);
        let page = HostPage { first: first as u32, rights: leaf.rights, dirty: leaf.dirty };
        let set = self.index.set(key >> 18);
        if std::mem::replace(&mut self.missed, NO_PAGE) == gpa.page() {
            self.ways.insert(set, key, page);
        } else {
            self.ways.put(set, key, page, |_| true);
        }
        self.in_use |= 1 << size as u8;
    }

    #[inline(never)]
    fn insert_large(&mut self, gpa: Gpa, size: PageSize, leaf: HostLeaf, vm: u16) {
        self.insert(gpa, size, leaf, vm);
    }
}

#[inline(always)]
fn host_key(gpa: Gpa, size: PageSize, vm: u16) -> u64 {
    (gpa.raw() >> size.shift()) << 18 | u64::from(vm) << 2 | size as u64
}

/// All walk caches of a core.
#[derive(Clone, Debug)]
pub struct WalkCaches {
    guest: Dimension,
    host: Dimension,
    nested: Option<NestedTlb>,
    space: u16,
    vm: u16,
}

impl WalkCaches {
    /// Empty caches of the guest's (or native) and the host's dimension.
    pub fn new(guest: &[WalkCacheArray], host: &[WalkCacheArray], nested: Option<&NestedTlbArray>) -> Self {
        let nested = nested.map(|array| NestedTlb {
            index: SetIndex::new(array.geometry.sets),
            ways: Assoc::new(array.geometry, array.replacement),
            in_use: 0,
            missed: NO_PAGE,
        });
        WalkCaches { guest: Dimension::new(guest), host: Dimension::new(host), nested, space: 0, vm: 0 }
    }

    /// The address space whose tables are walked from now on.
    #[inline(always)]
    pub fn set_space(&mut self, space: u16) {
        self.space = space;
    }

    /// The VM that runs from now on; 0 natively.
    #[inline(always)]
    pub fn set_vm(&mut self, vm: u16) {
        self.vm = vm;
        if let Some(nested) = &mut self.nested {
            nested.missed = NO_PAGE;
        }
    }

    /// The deepest table known on the way to `addr`.
    #[inline(always)]
    pub fn table(&mut self, dim: Dim, addr: u64, levels: u8) -> Option<CachedTable> {
        match dim {
            Dim::Guest => self.guest.get(addr, levels, self.space),
            Dim::Host => self.host.get(addr, levels, self.vm),
        }
    }

    /// Remembers a table on the way to `addr`, if a cache is there for its level:
    /// one below what [`WalkCaches::table`] has just found there.
    #[inline(always)]
    pub fn insert_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        match dim {
            Dim::Guest => self.guest.put(addr, table, self.space, self.vm),
            Dim::Host => self.host.put(addr, table, self.vm, self.vm),
        }
    }

    /// Where `gpa` is.
    #[inline(always)]
    pub fn host(&mut self, gpa: Gpa) -> Option<HostLeaf> {
        let nested = self.nested.as_mut()?;
        nested.missed = NO_PAGE;
        let found = nested.probe(gpa, PageSize::Size4K, self.vm);
        if found.is_some() {
            return found;
        }
        if nested.in_use & !(1 << PageSize::Size4K as u8) != 0 {
            let found = nested.probe_large(gpa, self.vm);
            if found.is_some() {
                return found;
            }
        }
        nested.missed = gpa.page();
        None
    }

    /// Remembers where `gpa` is.
    #[inline(always)]
    pub fn insert_host(&mut self, gpa: Gpa, leaf: HostLeaf) {
        let Some(nested) = self.nested.as_mut() else { return };
        // With a size that is known here, all that depends on it is.
        match leaf.size {
            PageSize::Size4K => nested.insert(gpa, PageSize::Size4K, leaf, self.vm),
            large => nested.insert_large(gpa, large, leaf, self.vm),
        }
    }

    /// Forgets all tables of `space`, as any invalidation of a single page
    /// does, whatever its address (SDM 3A §4.10.4.1 on INVLPG); how many.
    pub fn flush_space(&mut self, space: u16) -> usize {
        self.guest.retain(|key, _| tag_of(key) != space)
    }

    /// Forgets the tables of `space` on the way to any byte of `bytes` from
    /// `start`, for hardware that is told that tables elsewhere stay; how many.
    pub fn invalidate(&mut self, space: u16, start: Va, bytes: u64) -> usize {
        self.guest.retain(|key, _| tag_of(key) != space || !covers(key, start.raw(), bytes))
    }

    /// Forgets all that was derived from the table of `vm`: its own tables, the
    /// nested TLB's pages, and its guests' tables; how many.
    pub fn flush_vm(&mut self, vm: u16) -> usize {
        let nested = self.nested.as_mut();
        let pages = nested.map_or(0, |n| n.ways.retain(|key, _| (key >> 2) as u16 != vm));
        pages + self.guest.retain(|_, table| table.vm() != vm) + self.host.retain(|key, _| tag_of(key) != vm)
    }

    /// Forgets what was derived from the entries of `vm`'s table for `bytes`
    /// from `start`; all its guests' tables among it, whose place is not known
    /// by gPA; how many.
    pub fn invalidate_host(&mut self, vm: u16, start: Gpa, bytes: u64) -> usize {
        let pages = self.nested.as_mut().map_or(0, |nested| {
            nested.ways.retain(|key, _| {
                let size = PageSize::from_level(key as u8 & 3).unwrap_or_default();
                let first = (key >> 18) << size.shift();
                let overlaps =
                    first < start.raw().saturating_add(bytes) && start.raw() < first + size.bytes();
                (key >> 2) as u16 != vm || !overlaps
            })
        });
        let tables = self.host.retain(|key, _| tag_of(key) != vm || !covers(key, start.raw(), bytes));
        pages + tables + self.guest.retain(|_, table| table.vm() != vm)
    }

    /// Forgets everything.
    pub fn flush_all(&mut self) {
        for dimension in [&mut self.guest, &mut self.host] {
            dimension.arrays.iter_mut().for_each(|array| array.ways.clear());
            dimension.in_use = 0;
        }
        if let Some(nested) = &mut self.nested {
            nested.ways.clear();
            nested.in_use = 0;
        }
    }
}

/// Whether the table behind `key` maps any of `bytes` from `start`.
fn covers(key: u64, start: u64, bytes: u64) -> bool {
    let level = key as u8 & 7;
    let prefix_of = |addr| prefix(addr, level);
    let half = start | ((1 << 57) - 1);
    bytes > 0
        && (prefix_of(start)..=prefix_of(start.saturating_add(bytes - 1).min(half))).contains(&(key >> 19))
}
