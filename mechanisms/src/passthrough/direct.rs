//! The variant without twins: the whole guest is enlightened, and its only tables name host frames.
//!
//! What Xen's paravirtual guests do. A guest's software still thinks in guest frames, so every entry is
//! translated on its way: written, by the [`HostArray`]; read back, by the table of
//! tags, which says of each host frame which guest frame it is (Xen's machine-to-physical table). That saves the
//! twins' memory and the second write, and costs a load for each entry that is read.
//!
//! An entry whose frame the host has not backed cannot name one: it waits, not present, with the
//! guest frame in it. An entry whose frame the host took back names nothing any more: the host keeps what it was,
//! by frame and colour, until the VM ends ([`HostArray::keep_stale`]).
//!
//! Small pages only: without a twin there is nowhere to put the smaller entries of a huge page
//! that the host does not back with one.

use super::array::{HostArray, TARGET, colour_of};
use super::tags::{FrameTags, Owner};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use paging::frames::NodeSet;
use paging::sync::{AtomicU64, Ordering};
use paging::{
    Addr, Descriptor, ENTRIES, Entry, Flags, Flush, Frame, Gfn, GuestPhys, NewTable, NoFrame, NodeId, Slot,
    Space, TableAt, TableEnv, TableMemory, TableOps, Visibility,
};

/// Marks an entry that waits for its frame to be backed: bit 62, in an entry that is not present.
const WAITING: u64 = 1 << 62;

/// Where an enlightened guest's entries are translated.
#[derive(Clone, Debug)]
pub struct Enlightenment {
    /// gPA to hPA.
    pub array: Arc<HostArray>,
    /// hPA to gPA.
    pub tags: Arc<FrameTags>,
    /// Who the guest is to the tags.
    pub owner: Owner,
}

impl Enlightenment {
    /// The bits of an entry of the guest's.
    fn lower(&self, entry: Entry) -> Entry {
        if !entry.is_present() {
            return entry;
        }
        match self.array.get(entry.frame()) {
            Some(given) => given.entry(entry),
            None => Entry(entry.0 & !1 | WAITING),
        }
    }

    /// The guest's entry of some bits.
    fn raise(&self, raw: Entry) -> Entry {
        if !raw.is_present() {
            return if raw.0 & WAITING != 0 { Entry(raw.0 & !WAITING | 1) } else { raw };
        }
        let (frame, colour) = (raw.frame(), colour_of(raw));
        let tag = self.tags.get(frame);
        let now = (tag.owner == Some(self.owner) && tag.colour == colour).then_some(tag.gfn);
        match now.or_else(|| self.array.stale(frame, colour)) {
            Some(gfn) => Entry(raw.0 & !TARGET).with_frame(gfn),
            // Not what this guest ever wrote through here.
            None => Entry::EMPTY,
        }
    }
}

/// The memory of a guest's tables: as they are, or translated on the way to software if the guest is enlightened
/// as a whole. Walkers read [`GuestTables::inner`].
pub struct GuestTables<M> {
    inner: M,
    enlightened: Option<Enlightenment>,
}

impl<M: fmt::Debug> fmt::Debug for GuestTables<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestTables")
            .field("inner", &self.inner)
            .field("enlightened", &self.enlightened.is_some())
            .finish()
    }
}

impl<M> GuestTables<M> {
    /// Over `inner`.
    pub fn new(inner: M, enlightened: Option<Enlightenment>) -> Self {
        GuestTables { inner, enlightened }
    }
    /// The bits as hardware finds them.
    #[inline(always)]
    pub fn inner(&self) -> &M {
        &self.inner
    }
}

impl<M: TableMemory<Space = GuestPhys>> TableMemory for GuestTables<M> {
    type Space = GuestPhys;

    #[inline(always)]
    fn cell(&self, slot: Slot<GuestPhys>) -> Option<&AtomicU64> {
        self.inner.cell(slot)
    }
    #[inline(always)]
    fn cells(&self, frame: Gfn) -> Option<&[AtomicU64; ENTRIES]> {
        self.inner.cells(frame)
    }
    fn create(&mut self, frame: Gfn) {
        self.inner.create(frame);
    }
    fn discard(&mut self, frame: Gfn) {
        self.inner.discard(frame);
    }
    fn descriptor(&self, frame: Gfn) -> Option<&Descriptor> {
        self.inner.descriptor(frame)
    }
    fn descriptor_mut(&mut self, frame: Gfn) -> Option<&mut Descriptor> {
        self.inner.descriptor_mut(frame)
    }
    #[inline(always)]
    fn load(&self, slot: Slot<GuestPhys>) -> Entry {
        let raw = self.inner.load(slot);
        match &self.enlightened {
            None => raw,
            Some(way) => way.raise(raw),
        }
    }
    #[inline(always)]
    fn store(&self, slot: Slot<GuestPhys>, entry: Entry) {
        let raw = self.enlightened.as_ref().map_or(entry, |way| way.lower(entry));
        self.inner.store(slot, raw);
    }
    #[inline(always)]
    fn swap(&self, slot: Slot<GuestPhys>, entry: Entry) -> Entry {
        match &self.enlightened {
            None => self.inner.swap(slot, entry),
            Some(way) => way.raise(self.inner.swap(slot, way.lower(entry))),
        }
    }
    #[inline(always)]
    fn modify(&self, slot: Slot<GuestPhys>, set: Flags, clear: Flags) -> Entry {
        let Some(way) = &self.enlightened else { return self.inner.modify(slot, set, clear) };
        let Some(cell) = self.inner.cell(slot) else { return Entry::EMPTY };
        let mut raw = cell.load(Ordering::Relaxed);
        loop {
            let old = way.raise(Entry(raw));
            let new = way.lower(old.without(clear).with(set));
            match cell.compare_exchange_weak(raw, new.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return old,
                Err(now) => raw = now,
            }
        }
    }
}

/// Page tables without twins, kept as another mechanism keeps them: in one copy, or in one on every node
/// (Mitosis). It is the memory under both that translates, so that each copy names host frames.
///
/// Tables that groups of processes share are not for this: nothing of sharing is passed on.
pub struct Direct<I: Space, M: TableMemory<Space = GuestPhys>> {
    array: Arc<HostArray>,
    inner: Box<dyn TableOps<I, M>>,
    levels: u8,
    /// The [`HostArray::epoch`] at which all entries were looked at last.
    epoch: u64,
    /// Guest frames to be backed, and the entries that wait for them.
    wanting: Vec<(Slot<GuestPhys>, Gfn)>,
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> fmt::Debug for Direct<I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("inner", &self.inner)
            .field("wanting", &self.wanting.len())
            .finish_non_exhaustive()
    }
}

/// Looks at all entries of a table and of those below: each names its frame as the array does now.
fn sweep<M: TableMemory<Space = GuestPhys>>(env: &mut TableEnv<'_, M>, table: Gfn, level: u8) {
    env.passed(table, &(0..ENTRIES), ENTRIES);
    for index in 0..ENTRIES {
        let entry = env.mem.modify(Slot::new(table, index), Flags::NONE, Flags::NONE);
        if entry.is_table(level) {
            sweep(env, entry.frame(), level - 1);
        }
    }
}

/// The translation of an entry that software reads or writes: a load of the array, or of a tag.
fn translated<M: TableMemory>(env: &mut TableEnv<'_, M>) {
    env.work.table_reads[env.node.index()] += 1;
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> Direct<I, M> {
    /// For a process of the guest that `array` is for, its tables kept by `inner`.
    pub fn new(array: Arc<HostArray>, inner: Box<dyn TableOps<I, M>>) -> Self {
        let epoch = array.epoch();
        Direct { array, inner, levels: 0, epoch, wanting: Vec::new() }
    }
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> TableOps<I, M> for Direct<I, M> {
    fn create_root(&mut self, env: &mut TableEnv<'_, M>, level: u8, node: NodeId) -> Result<Gfn, NoFrame> {
        self.levels = level;
        self.inner.create_root(env, level, node)
    }
    fn hardware_root(&self, master: Gfn, node: NodeId) -> Gfn {
        self.inner.hardware_root(master, node)
    }
    fn software_root(&self, master: Gfn, node: NodeId) -> Gfn {
        self.inner.software_root(master, node)
    }
    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<NewTable<GuestPhys>, NoFrame> {
        self.inner.alloc(env, at, node, visibility)
    }
    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<GuestPhys>, at: TableAt<I>) {
        let Direct { inner, wanting, .. } = self;
        if !wanting.is_empty() {
            inner.copies(env.mem, table, &mut |copy| wanting.retain(|(slot, _)| slot.table != copy));
        }
        inner.free(env, table, at);
    }
    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8) -> Entry {
        translated(env);
        self.inner.read(env, slot, level)
    }
    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8, entry: Entry) {
        translated(env);
        self.inner.write(env, slot, level, entry);
        if !entry.is_present() {
            return;
        }
        let Direct { inner, wanting, array, .. } = self;
        let mem = &*env.mem;
        inner.copies(mem, slot.table, &mut |copy| {
            // An inner entry of a copy points to a copy.
            let slot = Slot::new(copy, slot.index);
            let frame = mem.load(slot).frame();
            if array.get(frame).is_none() {
                wanting.push((slot, frame));
            }
        });
    }
    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8) -> Entry {
        translated(env);
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
        translated(env);
        self.inner.modify(env, slot, level, set, clear)
    }
    fn owed(&mut self, flush: &mut Flush<I, GuestPhys>) {
        self.inner.owed(flush);
    }
    fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: Gfn,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<bool, NoFrame> {
        let mut repaired = self.inner.fault_in(env, master, addr, node)?;
        let (mut table, mut level) = (self.inner.hardware_root(master, node), self.levels);
        loop {
            let slot = Slot::new(table, addr.index(level));
            translated(env);
            let entry = env.load(slot);
            if !entry.is_present() {
                return Ok(repaired);
            }
            let raw =
                |env: &TableEnv<'_, M>| env.mem.cell(slot).map_or(0, |cell| cell.load(Ordering::Relaxed));
            let before = raw(env);
            // No bit is set or cleared, but the frame is what the array says now.
            env.modify(slot, Flags::NONE, Flags::NONE);
            repaired |= raw(env) != before;
            if self.array.get(entry.frame()).is_none() {
                self.wanting.push((slot, entry.frame()));
                repaired = true;
            }
            if !entry.is_table(level) {
                return Ok(repaired);
            }
            (table, level) = (entry.frame(), level - 1);
        }
    }
    fn settle(&mut self, env: &mut TableEnv<'_, M>, master: Gfn, touch: &mut dyn FnMut(Gfn)) {
        if self.array.epoch() != self.epoch {
            self.epoch = self.array.epoch();
            let mut roots = Vec::new();
            self.inner.copies(env.mem, master, &mut |root| roots.push(root));
            for root in roots {
                sweep(env, root, self.levels);
            }
        }
        for (slot, frame) in core::mem::take(&mut self.wanting) {
            if self.array.get(frame).is_none() {
                touch(frame);
            }
            env.modify(slot, Flags::NONE, Flags::NONE);
        }
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
