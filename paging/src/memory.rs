//! Where table bits live.
//!
//! The hardware walker and software see the same 64-bit cells, at the same
//! time on a real machine: hardware sets accessed and dirty bits while software
//! reads or replaces entries. So a cell is an atomic, and there is no other way
//! to reach it.

use crate::addr::{Frame, PhysSpace};
use crate::entry::{Entry, Flags};
use crate::frames::MAX_NODES;
use crate::sync::{AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;
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
#[repr(C, align(4096))]
pub struct Table(pub [AtomicU64; ENTRIES]);

impl Table {
    fn clear(&self) {
        self.0.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.iter().filter(|e| e.load(Ordering::Relaxed) != 0).count();
        write!(f, "Table({used} of {ENTRIES} entries used)")
    }
}

/// Frames of a block of the arena: a pageblock's, 2 MiB.
const BLOCK: usize = 512;

/// Room for the tables of one 2 MiB block, and which of its frames hold one.
struct Block {
    tables: Box<[Table; BLOCK]>,
    descriptors: Box<[Descriptor; BLOCK]>,
    live: [u64; BLOCK / 64],
}

impl Block {
    fn new() -> Block {
        let descriptors = Box::new([Descriptor::default(); BLOCK]);
        Block { tables: zeroed::tables(), descriptors, live: [0; BLOCK / 64] }
    }
    fn holds(&self, at: usize) -> bool {
        self.live[at / 64] >> (at % 64) & 1 == 1
    }
}

/// Table pages of a modelled physical space.
///
/// Kernels cluster table pages in blocks of their own, so the arena keeps room
/// for whole 2 MiB blocks where a table is, zeroed lazily by the system
/// underneath, and finds an entry with two loads: the walker's inner loop.
/// Memory that was never a table's costs eight bytes a block.
pub struct Arena<S> {
    blocks: Vec<Option<Block>>,
    live: u64,
    space: PhantomData<S>,
}

impl<S: PhysSpace> fmt::Debug for Arena<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} tables in {} blocks)", self.live, self.blocks.iter().flatten().count())
    }
}

/// A frame's block and its place there.
#[inline(always)]
const fn place(frame: u64) -> (usize, usize) {
    ((frame / BLOCK as u64) as usize, frame as usize % BLOCK)
}

impl<S: PhysSpace> Arena<S> {
    /// An arena for physical memory of `frames` frames; it grows if there are more.
    pub fn new(frames: u64) -> Self {
        let mut blocks = Vec::new();
        blocks.resize_with(frames.div_ceil(BLOCK as u64) as usize, || None);
        Arena { blocks, live: 0, space: PhantomData }
    }
    /// Table pages alive.
    pub fn tables(&self) -> u64 {
        self.live
    }
    /// Whether `frame` holds a table.
    pub fn holds(&self, frame: Frame<S>) -> bool {
        self.block(frame).is_some()
    }
    /// The block of `frame`, if it holds a table, and the place there.
    fn block(&self, frame: Frame<S>) -> Option<(&Block, usize)> {
        let (block, at) = place(frame.number());
        self.blocks.get(block)?.as_ref().filter(|b| b.holds(at)).map(|b| (b, at))
    }
    /// The table in `frame`.
    pub fn table(&self, frame: Frame<S>) -> Option<&Table> {
        self.block(frame).map(|(block, at)| &block.tables[at])
    }
    /// Moves a table's bits to another frame: what copying the page does when
    /// data, which a guest's tables are to its host, is migrated.
    pub fn relocate(&mut self, from: Frame<S>, to: Frame<S>) {
        if !self.holds(from) {
            return;
        }
        self.create(to);
        for index in 0..ENTRIES {
            let entry = self.load(Slot::new(from, index));
            self.store(Slot::new(to, index), entry);
        }
        let descriptor = self.descriptor(from).copied().unwrap_or_default();
        if let Some(to) = self.descriptor_mut(to) {
            *to = descriptor;
        }
        self.discard(from);
    }
}

impl<S: PhysSpace> TableMemory for Arena<S> {
    type Space = S;

    /// A frame without a table reads as a table of empty entries where its
    /// block has room for it.
    #[inline(always)]
    fn cell(&self, slot: Slot<S>) -> Option<&AtomicU64> {
        let (block, at) = place(slot.table.number());
        match self.blocks.get(block) {
            Some(Some(block)) => Some(&block.tables[at].0[slot.index & (ENTRIES - 1)]),
            _ => None,
        }
    }
    #[inline(always)]
    fn cells(&self, frame: Frame<S>) -> Option<&[AtomicU64; ENTRIES]> {
        self.table(frame).map(|table| &table.0)
    }
    fn descriptor(&self, frame: Frame<S>) -> Option<&Descriptor> {
        self.block(frame).map(|(block, at)| &block.descriptors[at])
    }
    fn descriptor_mut(&mut self, frame: Frame<S>) -> Option<&mut Descriptor> {
        let (block, at) = place(frame.number());
        self.blocks.get_mut(block)?.as_mut().filter(|b| b.holds(at)).map(|b| &mut b.descriptors[at])
    }
    fn create(&mut self, frame: Frame<S>) {
        let (block, at) = place(frame.number());
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        let block = self.blocks[block].get_or_insert_with(Block::new);
        block.descriptors[at] = Descriptor::default();
        let bit = 1 << (at % 64);
        if block.live[at / 64] & bit == 0 {
            block.live[at / 64] |= bit;
            self.live += 1;
        } else {
            block.tables[at].clear();
        }
    }
    fn discard(&mut self, frame: Frame<S>) {
        let (block, at) = place(frame.number());
        let Some(Some(block)) = self.blocks.get_mut(block) else { return };
        let bit = 1 << (at % 64);
        if block.live[at / 64] & bit != 0 {
            block.live[at / 64] &= !bit;
            // So that the frame reads as empty from now on, whoever walks there.
            block.tables[at].clear();
            self.live -= 1;
        }
    }
}

/// Zeroed tables without writing them: the system's own zero pages.
mod zeroed {
    use super::{BLOCK, Table};
    use alloc::boxed::Box;

    #[cfg(not(loom))]
    pub fn tables() -> Box<[Table; BLOCK]> {
        use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
        let layout = Layout::new::<[Table; BLOCK]>();
        // SAFETY: the layout is that of the boxed type and not empty; zero bytes
        // are a valid atomic; the pointer comes from the global allocator.
        unsafe {
            let tables = alloc_zeroed(layout).cast::<[Table; BLOCK]>();
            if tables.is_null() {
                handle_alloc_error(layout);
            }
            Box::from_raw(tables)
        }
    }

    #[cfg(loom)]
    pub fn tables() -> Box<[Table; BLOCK]> {
        use crate::sync::AtomicU64;
        let table = || Table(core::array::from_fn(|_| AtomicU64::new(0)));
        let tables: alloc::vec::Vec<Table> = (0..BLOCK).map(|_| table()).collect();
        match tables.into_boxed_slice().try_into() {
            Ok(tables) => tables,
            Err(_) => unreachable!("a block has BLOCK tables"),
        }
    }
}
