//! The MaskPage: which members of a group have private copies, for the leaf
//! tables of one set.
//!
//! A set is all leaf tables under one table of the next level: for 4 KiB pages
//! the 512 tables of 1 GiB. Its MaskPage is one frame of physical memory: 512
//! masks of 32 bits (2 KiB), one for each entry that points to a leaf table, and
//! then the `pid_list`: the process of each of the 32 bits.
//!
//! The paper puts the page next to the set's PMD table, where the walker finds
//! it. But each member has a PMD table of its own, and the set one MaskPage; so
//! here the walker has [`Masks`], the group's list of MaskPages by address, as a
//! register beside the CCID would give it. The cost is the paper's: one
//! reference, to the mask.
//!
//! Bit *i* belongs to the same process in all masks of a group, because the
//! core has one register for it. (The paper's list is a set's own, which that
//! register contradicts once a process writes in two sets.) So a group, not a
//! set, has room for 32 writers at a time.

use alloc::vec::Vec;
use core::ops::Range;
use paging::{Addr, Entry, Frame, PhysSpace, Slot, Space, TableAt, TableEnv, TableMemory};

/// Bits of a mask, and entries of a `pid_list`.
pub const WRITERS: usize = 32;
/// The cell of a MaskPage where the `pid_list` begins.
const PID_LIST: usize = 256;

/// A leaf table's place: its level, and the first address that it covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block {
    pub(super) level: u8,
    pub(super) base: u64,
}

impl Block {
    /// The block of a table that can hold leaves; none for one above.
    pub fn of<I: Space>(at: TableAt<I>) -> Option<Block> {
        (1..=3).contains(&at.level).then(|| Block { level: at.level, base: at.base.raw() })
    }
    /// The blocks of `level` that `range` touches: first and after the last.
    pub(super) fn touched(level: u8, range: &Range<u64>) -> Range<Block> {
        let span = 1u64 << (12 + 9 * level as u32);
        let base = |addr: u64| Block { level, base: addr & !(span - 1) };
        base(range.start)..Block { level, base: base(range.end.saturating_sub(1)).base + span }
    }
    pub(super) fn at<I: Space>(self) -> TableAt<I> {
        TableAt { base: Addr::new(self.base), level: self.level }
    }
    /// The addresses that it covers.
    pub fn range(self) -> Range<u64> {
        self.base..self.base + self.bytes()
    }
    /// What of `range` lies in it.
    pub(super) fn cut(self, range: &Range<u64>) -> Range<u64> {
        range.start.max(self.base)..range.end.min(self.range().end)
    }
    pub(super) const fn bytes(self) -> u64 {
        1 << (12 + 9 * self.level as u32)
    }
    /// Bytes of the page that an entry maps.
    pub(super) const fn page(self) -> u64 {
        1 << (3 + 9 * self.level as u32)
    }
    /// The set: all blocks of the level under one table of the next.
    pub fn set(self) -> Set {
        Set { level: self.level, base: self.base & !((self.bytes() << 9) - 1) }
    }
    /// Its mask's index in the set's MaskPage.
    pub const fn index(self) -> usize {
        (self.base >> (12 + 9 * self.level as u32)) as usize & 511
    }
}

/// A set of blocks with one MaskPage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Set {
    pub(super) level: u8,
    pub(super) base: u64,
}

/// The physical address of the cell that holds mask `index`.
pub(super) fn mask_slot<S: PhysSpace>(page: Frame<S>, index: usize) -> Slot<S> {
    Slot::new(page, index / 2)
}

/// Mask `index` out of the cell that holds it.
pub(super) fn mask_in(cell: Entry, index: usize) -> u32 {
    (cell.bits() >> (32 * (index & 1))) as u32
}

/// Writes mask `index`. Under the group's lock; a walker reads it at any time.
pub(super) fn store_mask<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    page: Frame<M::Space>,
    index: usize,
    mask: u32,
) {
    let slot = mask_slot(page, index);
    let shift = 32 * (index & 1);
    let other = env.load(slot).bits() & !(0xffff_ffff << shift);
    env.store(slot, Entry(other | u64::from(mask) << shift));
}

/// Writes who has bit `index`.
pub(super) fn store_pid<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    page: Frame<M::Space>,
    index: u8,
    pid: u32,
) {
    let index = usize::from(index);
    let slot = Slot::new(page, PID_LIST + index / 2);
    let shift = 32 * (index & 1);
    let other = env.load(slot).bits() & !(0xffff_ffff << shift);
    env.store(slot, Entry(other | u64::from(pid) << shift));
}

/// The MaskPages of a group, for its walkers.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// Ordered by set; frame numbers in the space that the tables are in.
    pages: Vec<(Set, u64)>,
}

impl Masks {
    /// The MaskPage of `set`.
    pub fn page<S: PhysSpace>(&self, set: Set) -> Option<Frame<S>> {
        let at = self.pages.binary_search_by_key(&set, |(s, _)| *s).ok()?;
        Some(Frame::new(self.pages[at].1))
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
    pub(super) fn insert<S: PhysSpace>(&mut self, set: Set, page: Frame<S>) {
        match self.pages.binary_search_by_key(&set, |(s, _)| *s) {
            Ok(at) => self.pages[at].1 = page.number(),
            Err(at) => self.pages.insert(at, (set, page.number())),
        }
    }
    pub(super) fn remove<S: PhysSpace>(&mut self, set: Set) -> Option<Frame<S>> {
        let at = self.pages.binary_search_by_key(&set, |(s, _)| *s).ok()?;
        Some(Frame::new(self.pages.remove(at).1))
    }
}
