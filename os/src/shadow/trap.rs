//! How the hypervisor sees a guest's stores to its page tables: those pages are
//! write-protected, so that each store is a VM exit.
//!
//! A guest kernel runs its page tables on [`TrappedTables`], which write down
//! every store to a protected page; the host reads them before anything that
//! depends on the tables. The two sides share a [`TrapLog`]: a bit for each guest
//! frame and a ring of stores, atomics both, one writer (the guest) and one reader.

use crate::space::{SpaceInfo, Tables};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::frames::NodeSet;
use paging::{
    Content, Entry, Flags, Flush, Frame, Gfn, GuestPhys, NewTable, NoFrame, Reach, Slot, Space, TableAt,
    TableEnv, TableMemory, TableOps, Virt, Visibility,
};
use spin::Mutex;

/// Stores that the ring holds; more than a leaf table's twice over.
const RING: usize = 4096;
/// Marks a table page that was freed, in the place of an index.
const FREED: u64 = 512;

/// What the host learns from its protection of guest frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trap {
    /// A store to entry `.1` of the table page in `.0`.
    Store(Gfn, usize),
    /// The page is no table any more.
    Freed(Gfn),
    /// More happened than the ring holds: nothing derived from the tables is good.
    Lost,
}

/// Which stores to a guest's tables exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trapping {
    /// Each store to a table that is shadowed.
    Each,
    /// The first store to a leaf table after the guest's last flush; the table is then
    /// "out of sync" and compared at the next one, as KVM does it. Each store to other tables.
    #[default]
    Unsync,
    /// Each store, until a table that is stored to again and again is no longer shadowed (agile paging).
    Agile,
}

/// A bit for each guest frame.
#[derive(Debug)]
struct FrameBits(Box<[AtomicU64]>);

impl FrameBits {
    fn new(frames: u64) -> Self {
        FrameBits((0..frames.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }
    fn get(&self, frame: Gfn) -> bool {
        let word = self.0.get((frame.number() >> 6) as usize);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (frame.number() & 63) & 1 == 1)
    }
    /// Sets or clears it; what it was.
    fn set(&self, frame: Gfn, on: bool) -> bool {
        let Some(word) = self.0.get((frame.number() >> 6) as usize) else { return false };
        let bit = 1 << (frame.number() & 63);
        let old = match on {
            true => word.fetch_or(bit, Ordering::AcqRel),
            false => word.fetch_and(!bit, Ordering::AcqRel),
        };
        old & bit != 0
    }
}

/// Entries of an out-of-sync table that were stored to, as bits.
type Dirty = [u64; 8];

/// Leaf tables that are out of sync.
#[derive(Debug, Default)]
struct Unsync {
    tables: BTreeMap<Gfn, Dirty>,
    /// Those of them that were stored to since the host last looked: it looks at each fault, and thousands may be
    /// out of sync until the guest flushes.
    stored: BTreeSet<Gfn>,
}

/// Protected guest frames, and the stores to them that the host has not seen.
#[derive(Debug)]
pub struct TrapLog {
    trapping: Trapping,
    protected: FrameBits,
    /// Leaf tables and nothing else: they may go out of sync.
    leaves: FrameBits,
    /// Tables that were shadowed and are not, and which of them were stored to.
    watched: FrameBits,
    touched: FrameBits,
    unsync: Mutex<Unsync>,
    ring: Box<[AtomicU64]>,
    written: AtomicU64,
    read: AtomicU64,
}

impl TrapLog {
    /// For a guest of `frames` frames (the highest frame number, plus one).
    pub fn new(frames: u64, trapping: Trapping) -> Arc<TrapLog> {
        let zeroes = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into_boxed_slice();
        let bits = || FrameBits::new(frames);
        Arc::new(TrapLog {
            trapping,
            protected: bits(),
            leaves: bits(),
            watched: bits(),
            touched: bits(),
            unsync: Mutex::default(),
            ring: zeroes(RING),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
        })
    }
    /// Which stores exit.
    pub fn trapping(&self) -> Trapping {
        self.trapping
    }
    /// Whether stores to `frame` trap.
    pub fn is_protected(&self, frame: Gfn) -> bool {
        self.protected.get(frame)
    }
    pub(crate) fn protect(&self, frame: Gfn, on: bool) {
        if self.protected.set(frame, on) && !on {
            self.unsync.lock().tables.remove(&frame);
        }
    }
    /// Whether a protected table is a leaf table in all its uses.
    pub(crate) fn set_leaf(&self, frame: Gfn, leaf: bool) {
        self.leaves.set(frame, leaf);
    }
    /// Stores to `frame` do not trap, but whether there were some is asked for later.
    pub(crate) fn watch(&self, frame: Gfn, on: bool) {
        self.watched.set(frame, on);
        self.touched.set(frame, false);
    }
    /// Whether a watched frame was stored to since the last time.
    pub(crate) fn take_touched(&self, frame: Gfn) -> bool {
        self.touched.set(frame, false)
    }
    fn note(&self, frame: Gfn, index: u64) {
        if self.watched.get(frame) {
            self.touched.set(frame, true);
            if index != FREED {
                return;
            }
        } else if !self.is_protected(frame) {
            return;
        }
        if self.trapping == Trapping::Unsync && index != FREED && self.leaves.get(frame) {
            let Unsync { tables, stored } = &mut *self.unsync.lock();
            if let Some(dirty) = tables.get_mut(&frame) {
                dirty[index as usize / 64] |= 1 << (index % 64);
                stored.insert(frame);
                return;
            }
            tables.insert(frame, Dirty::default());
        }
        let at = self.written.load(Ordering::Relaxed);
        self.ring[at as usize % RING].store(frame.number() << 10 | index, Ordering::Relaxed);
        self.written.store(at + 1, Ordering::Release);
    }
    /// The guest flushed: all tables are in sync again. Returns how many were not.
    pub(crate) fn in_sync(&self) -> u64 {
        let unsync = core::mem::take(&mut *self.unsync.lock());
        debug_assert!(unsync.tables.values().all(|dirty| *dirty == Dirty::default()), "synced before");
        unsync.tables.len() as u64
    }
    /// Whether there is nothing that the host has not seen.
    pub(crate) fn is_quiet(&self) -> bool {
        self.read.load(Ordering::Relaxed) == self.written.load(Ordering::Acquire)
            && self.unsync.lock().tables.is_empty()
    }
    /// A store to entry `index` of the table page in `frame` trapped: for a hypervisor whose guest is
    /// not ours, or runs on a real machine, where a page fault says so.
    pub fn stored(&self, frame: Gfn, index: usize) {
        self.note(frame, index as u64 & (FREED - 1));
    }
    /// The page in `frame` is taken for no table any more (nobody tells, but such pages are stored to
    /// in a way that tables are not). If it is one, it is protected anew when it is walked again.
    pub fn freed(&self, frame: Gfn) {
        self.note(frame, FREED);
    }
    /// Stores that trapped so far.
    pub fn stores(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
    /// What was stored to since the last call, and how often that was an exit.
    pub(crate) fn drain(&self, visit: &mut dyn FnMut(Trap)) -> u64 {
        let (from, to) = (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Acquire));
        self.read.store(to, Ordering::Relaxed);
        if to - from > RING as u64 {
            visit(Trap::Lost);
        }
        // Also what is left of those that were lost: freed pages are among it.
        for at in from.max(to.saturating_sub(RING as u64))..to {
            let raw = self.ring[at as usize % RING].load(Ordering::Relaxed);
            let (frame, index) = (Gfn::new(raw >> 10), raw & 1023);
            visit(if index == FREED { Trap::Freed(frame) } else { Trap::Store(frame, index as usize) });
        }
        let Unsync { tables, stored } = &mut *self.unsync.lock();
        for frame in core::mem::take(stored) {
            // One that is protected no more is of no interest.
            let Some(dirty) = tables.get_mut(&frame) else { continue };
            for (word, bits) in dirty.iter_mut().enumerate() {
                let mut set = core::mem::take(bits);
                while set != 0 {
                    visit(Trap::Store(frame, word * 64 + set.trailing_zeros() as usize));
                    set &= set - 1;
                }
            }
        }
        to - from
    }
}

/// The page tables of a guest whose stores to them trap.
#[derive(Debug)]
pub struct TrappedTables<T> {
    inner: T,
    log: Arc<TrapLog>,
}

impl<T> TrappedTables<T> {
    /// As `inner` makes them, with stores to protected pages in `log`.
    pub fn new(inner: T, log: Arc<TrapLog>) -> Self {
        TrappedTables { inner, log }
    }
}

impl<M, T> Tables<M> for TrappedTables<T>
where
    M: TableMemory<Space = GuestPhys>,
    T: Tables<M>,
{
    fn process(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<Virt, M>> {
        Box::new(Trapped { inner: self.inner.process(info), log: Arc::clone(&self.log) })
    }
    fn vm(&mut self, info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, M>> {
        Box::new(Trapped { inner: self.inner.vm(info), log: Arc::clone(&self.log) })
    }
}

/// Writes down what it passes on.
struct Trapped<I: Space, M: TableMemory> {
    inner: Box<dyn TableOps<I, M>>,
    log: Arc<TrapLog>,
}

impl<I: Space, M: TableMemory> fmt::Debug for Trapped<I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trapped").field(&self.inner).finish()
    }
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> Trapped<I, M> {
    /// A store to an entry, in every copy of the table.
    fn note(&self, mem: &M, table: Gfn, index: usize) {
        self.inner.copies(mem, table, &mut |copy| self.log.note(copy, index as u64));
    }
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> TableOps<I, M> for Trapped<I, M> {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: paging::NodeId,
    ) -> Result<Gfn, NoFrame> {
        self.inner.create_root(env, level, node)
    }
    fn hardware_root(&self, master: Gfn, node: paging::NodeId) -> Gfn {
        self.inner.hardware_root(master, node)
    }
    fn software_root(&self, master: Gfn, node: paging::NodeId) -> Gfn {
        self.inner.software_root(master, node)
    }
    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: paging::NodeId,
        visibility: Visibility,
    ) -> Result<NewTable<GuestPhys>, NoFrame> {
        self.inner.alloc(env, at, node, visibility)
    }
    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Gfn, at: TableAt<I>) {
        self.inner.copies(env.mem, table, &mut |copy| self.log.note(copy, FREED));
        self.inner.free(env, table, at);
    }
    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8) -> Entry {
        self.inner.read(env, slot, level)
    }
    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8, entry: Entry) {
        self.note(env.mem, slot.table, slot.index);
        self.inner.write(env, slot, level, entry);
    }
    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8) -> Entry {
        self.note(env.mem, slot.table, slot.index);
        self.inner.take(env, slot, level)
    }
    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<GuestPhys>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        self.note(env.mem, slot.table, slot.index);
        self.inner.modify(env, slot, level, set, clear)
    }
    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<GuestPhys>,
        level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        let mut changed = Vec::new();
        self.inner.update(env, table, level, range, f, &mut |index, old, new| {
            changed.push(index);
            done(index, old, new);
        });
        changed.into_iter().for_each(|index| self.note(env.mem, table, index));
    }
    fn area(
        &mut self,
        env: &mut TableEnv<'_, M>,
        range: Range<u64>,
        content: Option<Content>,
    ) -> Result<(), NoFrame> {
        self.inner.area(env, range, content)
    }
    fn own(
        &mut self,
        env: &mut TableEnv<'_, M>,
        parent: Slot<GuestPhys>,
        child: Gfn,
        at: TableAt<I>,
        range: Range<u64>,
        gone: bool,
    ) -> Result<Gfn, NoFrame> {
        let own = self.inner.own(env, parent, child, at, range, gone)?;
        if own != child {
            self.note(env.mem, parent.table, parent.index);
        }
        Ok(own)
    }
    fn others_use(&self, at: TableAt<I>, range: Range<u64>) -> bool {
        self.inner.others_use(at, range)
    }
    fn unlink(&mut self, env: &mut TableEnv<'_, M>, parent: Slot<GuestPhys>, at: TableAt<I>) -> Entry {
        self.note(env.mem, parent.table, parent.index);
        self.inner.unlink(env, parent, at)
    }
    fn adopt(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<GuestPhys>,
        table: Gfn,
        at: TableAt<I>,
    ) -> Option<NewTable<GuestPhys>> {
        self.inner.adopt(env, slot, table, at)
    }
    fn reach(&self, at: TableAt<I>) -> Reach {
        self.inner.reach(at)
    }

    fn is_parted(&self) -> bool {
        self.inner.is_parted()
    }
    fn owed(&mut self, flush: &mut Flush<I, GuestPhys>) {
        self.inner.owed(flush);
    }
    fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: Gfn,
        addr: paging::Addr<I>,
        node: paging::NodeId,
    ) -> Result<bool, NoFrame> {
        self.inner.fault_in(env, master, addr, node)
    }
    fn settle(&mut self, env: &mut TableEnv<'_, M>, master: Gfn, touch: &mut dyn FnMut(Gfn)) {
        self.inner.settle(env, master, touch);
    }
    fn rebalance(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Gfn,
        flush: &mut Flush<I, GuestPhys>,
    ) -> u64 {
        self.inner.rebalance(env, master, flush)
    }
    fn replicate(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: &mut Gfn,
        nodes: NodeSet,
        flush: &mut Flush<I, GuestPhys>,
    ) -> Result<NodeSet, NoFrame> {
        self.inner.replicate(env, master, nodes, flush)
    }
    fn walked_by(&mut self, nodes: NodeSet) {
        self.inner.walked_by(nodes);
    }
    fn sharers(&self, mem: &M, table: Gfn) -> NodeSet {
        self.inner.sharers(mem, table)
    }
    fn copies(&self, mem: &M, table: Gfn, visit: &mut dyn FnMut(Gfn)) {
        self.inner.copies(mem, table, visit);
    }
}
