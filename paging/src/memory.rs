//! Where table bits live.
//!
//! The hardware walker and software see the same 64-bit cells, at the same
//! time on a real machine: hardware sets accessed and dirty bits while software
//! reads or replaces entries. So a cell is an atomic, and there is no other way
//! to reach it.

use crate::addr::{Frame, PhysSpace};
use crate::entry::{Entry, Flags};
use crate::frames::MAX_NODES;
use crate::sparse::SparseFrames;
use crate::sync::{AtomicU64, Ordering};
use alloc::boxed::Box;
use core::fmt;
use core::marker::PhantomData;

/// Entries in a table page.
pub const ENTRIES: usize = 512;

/// One entry's place: a table page and an index.
pub struct Slot<S> {
    /// The frame of the table page.
    pub table: Frame<S>,
    /// 0-511.
    pub index: usize,
}

impl<S: PhysSpace> Slot<S> {
    /// Entry `index` of `table`.
    #[inline(always)]
    pub const fn new(table: Frame<S>, index: usize) -> Self {
        Slot { table, index: index & (ENTRIES - 1) }
    }
    /// The physical address of the entry.
    #[inline(always)]
    pub const fn addr(self) -> crate::Addr<S> {
        self.table.base().offset(self.index as u64 * 8)
    }
}
impl<S> Clone for Slot<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Slot<S> {}
impl<S> PartialEq for Slot<S> {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.index == other.index
    }
}
impl<S> Eq for Slot<S> {}
impl<S: PhysSpace> fmt::Debug for Slot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}]", self.table, self.index)
    }
}

/// What software keeps beside each table page and no walker sees (Linux:
/// `struct ptdesc`), for the [`crate::TableOps`] that keep more than bits.
/// It belongs to the page, not to an address space: whoever is led to the page
/// by an entry finds it without hashing, also when the page is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// The frame number of the next copy of the same table, in a ring; 0 while there is one copy.
    pub next: u64,
    /// Address spaces besides the first that link the table; 0 for a private one.
    pub users: u32,
    /// What this copy is for, in the code of the [`crate::TableOps`] that made it.
    pub role: u8,
    /// How many of the entries point to each node.
    pub points_to: [u16; MAX_NODES],
}

/// The seam for the memory that table pages are in.
///
/// Implementations: [`Arena`] (sparse, for a modelled machine) and a direct map
/// of real memory on a bare machine.
pub trait TableMemory: 'static {
    /// The physical space whose frames hold the tables.
    type Space: PhysSpace;

    /// The cell of an entry; `None` if the frame holds no table that this
    /// memory knows (a walker that is sent there by hostile bits reads zero).
    fn cell(&self, slot: Slot<Self::Space>) -> Option<&AtomicU64>;

    /// The cells of the table page in `frame`, for a pass over them; `None` as
    /// for [`TableMemory::cell`].
    fn cells(&self, frame: Frame<Self::Space>) -> Option<&[AtomicU64; ENTRIES]>;

    /// Makes `frame` a table page with 512 empty entries.
    fn create(&mut self, frame: Frame<Self::Space>);

    /// The table in `frame` is gone; its bits need not be kept.
    fn discard(&mut self, frame: Frame<Self::Space>);

    /// What is kept beside the table page in `frame`: the default until it was
    /// changed, and again after `create`; `None` if no table is there.
    fn descriptor(&self, frame: Frame<Self::Space>) -> Option<&Descriptor>;

    /// The same, for change.
    fn descriptor_mut(&mut self, frame: Frame<Self::Space>) -> Option<&mut Descriptor>;

    /// Reads an entry; empty where no table is.
    #[inline(always)]
    fn load(&self, slot: Slot<Self::Space>) -> Entry {
        match self.cell(slot) {
            Some(cell) => Entry(cell.load(Ordering::Relaxed)),
            None => Entry::EMPTY,
        }
    }
    /// Replaces an entry. Release: what the entry points to is written before it.
    #[inline(always)]
    fn store(&self, slot: Slot<Self::Space>, entry: Entry) {
        match self.cell(slot) {
            Some(cell) => cell.store(entry.0, Ordering::Release),
            None => debug_assert!(false, "store to {slot:?}, which holds no table"),
        }
    }
    /// Replaces an entry and returns the old one, hardware's last bits included.
    #[inline(always)]
    fn swap(&self, slot: Slot<Self::Space>, entry: Entry) -> Entry {
        match self.cell(slot) {
            Some(cell) => Entry(cell.swap(entry.0, Ordering::AcqRel)),
            None => Entry::EMPTY,
        }
    }
    /// Sets `set` and clears `clear` in one atomic step; returns the old entry.
    #[inline(always)]
    fn modify(&self, slot: Slot<Self::Space>, set: Flags, clear: Flags) -> Entry {
        let Some(cell) = self.cell(slot) else { return Entry::EMPTY };
        modify(cell, set, clear)
    }
    /// What the walker does to an entry it used: sets `bits` if they are not yet
    /// set. Free of stores when they are.
    #[inline(always)]
    fn mark(&self, slot: Slot<Self::Space>, seen: Entry, bits: Flags) {
        if !seen.has(bits)
            && let Some(cell) = self.cell(slot)
        {
            // Only while the entry is the one that was walked: an entry that
            // software replaced meanwhile must not get bits (SDM 3A §4.8).
            let _ = cell.compare_exchange(seen.0, seen.0 | bits.0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Sets `set` and clears `clear` in a cell in one atomic step; returns the old entry.
#[inline(always)]
pub fn modify(cell: &AtomicU64, set: Flags, clear: Flags) -> Entry {
    let mut old = cell.load(Ordering::Relaxed);
    loop {
        let new = old & !clear.0 | set.0;
        match cell.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Entry(old),
            Err(now) => old = now,
        }
    }
}

/// One table page's bits.
#[repr(C, align(64))]
pub struct Table(pub [AtomicU64; ENTRIES]);

impl Table {
    #[cfg(not(loom))]
    fn zeroed() -> Table {
        Table([const { AtomicU64::new(0) }; ENTRIES])
    }
    #[cfg(loom)]
    fn zeroed() -> Table {
        Table(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// A table page of an [`Arena`]: aligned to a cache line, as the model needs no
/// more and the descriptor then costs no second page.
#[derive(Debug)]
struct Page {
    table: Table,
    descriptor: Descriptor,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.iter().filter(|e| e.load(Ordering::Relaxed) != 0).count();
        write!(f, "Table({used} of {ENTRIES} entries used)")
    }
}

/// Table pages of a modelled physical space, kept only where tables are:
/// a directory by 2 MiB block, then a pointer per frame. Kernels cluster table
/// pages in blocks, so the upper part stays in the host's caches.
#[derive(Debug)]
pub struct Arena<S> {
    tables: SparseFrames<Option<Box<Page>>>,
    live: u64,
    space: PhantomData<S>,
}

impl<S: PhysSpace> Arena<S> {
    /// An arena for physical memory of `frames` frames.
    pub fn new(frames: u64) -> Self {
        Arena { tables: SparseFrames::new(frames), live: 0, space: PhantomData }
    }
    /// Table pages alive.
    pub fn tables(&self) -> u64 {
        self.live
    }
    /// Whether `frame` holds a table.
    pub fn holds(&self, frame: Frame<S>) -> bool {
        self.table(frame).is_some()
    }
    /// The table in `frame`.
    #[inline(always)]
    pub fn table(&self, frame: Frame<S>) -> Option<&Table> {
        Some(&self.tables.get(frame.number())?.as_deref()?.table)
    }
    /// Moves a table's bits to another frame: what copying the page does when
    /// data, which a guest's tables are to its host, is migrated.
    pub fn relocate(&mut self, from: Frame<S>, to: Frame<S>) {
        if let Some(table) = self.tables.get_mut(from.number()).and_then(Option::take) {
            *self.tables.get_or_default(to.number()) = Some(table);
        }
    }
}

impl<S: PhysSpace> TableMemory for Arena<S> {
    type Space = S;

    #[inline(always)]
    fn cell(&self, slot: Slot<S>) -> Option<&AtomicU64> {
        match self.tables.get(slot.table.number()) {
            Some(Some(page)) => Some(&page.table.0[slot.index & (ENTRIES - 1)]),
            _ => None,
        }
    }
    #[inline(always)]
    fn cells(&self, frame: Frame<S>) -> Option<&[AtomicU64; ENTRIES]> {
        Some(&self.table(frame)?.0)
    }
    fn create(&mut self, frame: Frame<S>) {
        let place = self.tables.get_or_default(frame.number());
        if place.is_none() {
            self.live += 1;
        }
        *place = Some(Box::new(Page { table: Table::zeroed(), descriptor: Descriptor::default() }));
    }
    fn discard(&mut self, frame: Frame<S>) {
        if self.tables.get_mut(frame.number()).is_some_and(|p| p.take().is_some()) {
            self.live -= 1;
        }
    }
    #[inline(always)]
    fn descriptor(&self, frame: Frame<S>) -> Option<&Descriptor> {
        Some(&self.tables.get(frame.number())?.as_deref()?.descriptor)
    }
    #[inline(always)]
    fn descriptor_mut(&mut self, frame: Frame<S>) -> Option<&mut Descriptor> {
        Some(&mut self.tables.get_mut(frame.number())?.as_deref_mut()?.descriptor)
    }
}
