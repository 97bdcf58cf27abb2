//! The seam for page-table pages: how they are allocated, freed, written and
//! read back, and which root a node loads.
//!
//! Linux has the same seam in its paravirtual operations (PV-Ops), and the
//! published Mitosis and pass-through kernels sit exactly there. All software
//! writes of entries go through [`TableOps`]; only the walker, which knows no
//! software, reads the bits themselves.
//!
//! Lock protocol: one [`TableOps`] belongs to one address space and is called
//! with that space's table lock held (`&mut self`); hardware may set accessed
//! and dirty bits at the same time, so reads that must not lose them use
//! [`TableOps::take`] and [`TableOps::modify`].

use crate::addr::{Addr, Frame, PhysSpace, Space};
use crate::entry::{Entry, Flags};
use crate::flush::{Flush, Reach};
use crate::frames::{MAX_NODES, NoFrame, NodeId, NodeSet, Watermark};
use crate::memory::{ENTRIES, Slot, TableMemory, modify};
use crate::sync::{AtomicU64, Ordering};
use core::fmt;
use core::ops::Range;

/// What software did, for whoever charges time for it: memory references by
/// the node they went to, and pages copied or zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Work {
    /// Page-table entries read, by node of the table page.
    pub table_reads: [u32; MAX_NODES],
    /// Page-table entries written, by node of the table page.
    pub table_writes: [u32; MAX_NODES],
    /// Cache lines (8 entries) of tables that a pass over a range of entries
    /// read, and perhaps rewrote, in order: not in `table_reads`.
    pub pass_lines: [u32; MAX_NODES],
    /// Entries rewritten by such passes: not in `table_writes`.
    pub pass_writes: [u32; MAX_NODES],
    /// 4 KiB frames zeroed, by node.
    pub zeroed: [u32; MAX_NODES],
    /// 4 KiB frames copied, by the destination's node.
    pub copied: [u32; MAX_NODES],
    /// Table pages allocated.
    pub tables_allocated: u32,
    /// Table pages that had to come from another node than asked for.
    pub tables_misplaced: u32,
    /// Calls of the buddy allocator.
    pub allocator_calls: u32,
}

impl Work {
    /// Adds another piece of work.
    pub fn add(&mut self, other: &Work) {
        for n in 0..MAX_NODES {
            self.table_reads[n] += other.table_reads[n];
            self.table_writes[n] += other.table_writes[n];
            self.pass_lines[n] += other.pass_lines[n];
            self.pass_writes[n] += other.pass_writes[n];
            self.zeroed[n] += other.zeroed[n];
            self.copied[n] += other.copied[n];
        }
        self.tables_allocated += other.tables_allocated;
        self.tables_misplaced += other.tables_misplaced;
        self.allocator_calls += other.allocator_calls;
    }
}

/// Where table pages' frames come from: the kernel's frame pool, or a
/// page-table page cache in front of it.
pub trait TableFrames<S: PhysSpace> {
    /// A frame for a table page, on `node` if it has one left. With `strict`,
    /// from no other node.
    ///
    /// # Errors
    /// If no frame is left (on the node, when strict).
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Frame<S>, NoFrame>;
    /// 2^`order` frames for table pages, one behind the other, the first aligned to that many; all on `node`.
    /// Each is given back by itself.
    ///
    /// # Errors
    /// If the node has no such block to spare, or this source never has one: a mechanism that asks can
    /// do without.
    fn alloc_tables(&mut self, node: NodeId, order: u8) -> Result<Frame<S>, NoFrame> {
        Err(NoFrame {
            frames: 1 << order,
            watermark: Watermark::Opportunistic,
            ..NoFrame::for_table(node, true)
        })
    }
    /// Gives the frame of a table page back.
    fn free_table(&mut self, frame: Frame<S>);
    /// The node that a frame belongs to.
    fn node_of(&self, frame: Frame<S>) -> NodeId;
    /// A second table maps what the leaf `entry` maps from now on: a mechanism
    /// that copies a table page others still use calls this for each leaf it
    /// copies (swapped and hinting ones too), so that the copy holds its own reference.
    fn leaf_copied(&mut self, _entry: Entry) {}
}

/// What [`TableOps`] work with: the bits, the frames, and an account of the work.
pub struct TableEnv<'a, M: TableMemory> {
    /// Where the bits live.
    pub mem: &'a mut M,
    /// Where frames for table pages come from.
    pub frames: &'a mut dyn TableFrames<M::Space>,
    /// The node of the CPU that runs this code.
    pub node: NodeId,
    /// What was done.
    pub work: &'a mut Work,
}

impl<M: TableMemory> fmt::Debug for TableEnv<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableEnv").field("node", &self.node).field("work", &self.work).finish_non_exhaustive()
    }
}

impl<M: TableMemory> TableEnv<'_, M> {
    /// The same environment for a callee.
    pub fn reborrow(&mut self) -> TableEnv<'_, M> {
        TableEnv { mem: self.mem, frames: self.frames, node: self.node, work: self.work }
    }
    /// Allocates a frame near `node` and makes it an empty table page.
    ///
    /// # Errors
    /// If no frame is left (on the node, when strict).
    pub fn new_table(&mut self, node: NodeId, strict: bool) -> Result<Frame<M::Space>, NoFrame> {
        let frame = self.frames.alloc_table(node, strict)?;
        self.mem.create(frame);
        self.work.tables_allocated += 1;
        let got = self.frames.node_of(frame);
        self.work.zeroed[got.index()] += 1;
        if got != node {
            self.work.tables_misplaced += 1;
        }
        Ok(frame)
    }
    /// 2^`order` empty table pages in a row on `node`; each is freed by itself.
    ///
    /// # Errors
    /// If the node has no such block.
    pub fn new_tables(&mut self, node: NodeId, order: u8) -> Result<Frame<M::Space>, NoFrame> {
        let first = self.frames.alloc_tables(node, order)?;
        for page in 0..1 << order {
            self.mem.create(first.offset(page));
        }
        self.work.tables_allocated += 1;
        self.work.zeroed[self.frames.node_of(first).index()] += 1 << order;
        Ok(first)
    }
    /// Frees a table page made by [`TableEnv::new_table`] or [`TableEnv::new_tables`].
    pub fn free_table(&mut self, frame: Frame<M::Space>) {
        self.mem.discard(frame);
        self.frames.free_table(frame);
    }
    /// Reads an entry, on the account.
    #[inline]
    pub fn load(&mut self, slot: Slot<M::Space>) -> Entry {
        self.work.table_reads[self.frames.node_of(slot.table).index()] += 1;
        self.mem.load(slot)
    }
    /// Writes an entry, on the account.
    #[inline]
    pub fn store(&mut self, slot: Slot<M::Space>, entry: Entry) {
        self.work.table_writes[self.frames.node_of(slot.table).index()] += 1;
        self.mem.store(slot, entry);
    }
    /// Swaps an entry, on the account.
    #[inline]
    pub fn swap(&mut self, slot: Slot<M::Space>, entry: Entry) -> Entry {
        self.work.table_writes[self.frames.node_of(slot.table).index()] += 1;
        self.mem.swap(slot, entry)
    }
    /// Puts a pass over the entries `range` of `table` on the account, which rewrote `writes` of them.
    pub fn passed(&mut self, table: Frame<M::Space>, range: &Range<usize>, writes: usize) {
        if range.is_empty() {
            return;
        }
        let node = self.frames.node_of(table).index();
        self.work.pass_lines[node] +=
            ((range.end - 1) / LINE_ENTRIES - range.start / LINE_ENTRIES + 1) as u32;
        self.work.pass_writes[node] += writes as u32;
    }
    /// Sets and clears bits, on the account.
    #[inline]
    pub fn modify(&mut self, slot: Slot<M::Space>, set: Flags, clear: Flags) -> Entry {
        self.work.table_writes[self.frames.node_of(slot.table).index()] += 1;
        self.mem.modify(slot, set, clear)
    }
}

/// Entries in a cache line.
const LINE_ENTRIES: usize = 8;

/// Which table: the first address it translates, and its level.
pub struct TableAt<I> {
    /// The first input address that the table covers.
    pub base: Addr<I>,
    /// 1 = leaf table … 5.
    pub level: u8,
}

impl<I: Space> TableAt<I> {
    /// The table of `level` that covers `addr`.
    pub fn covering(addr: Addr<I>, level: u8) -> Self {
        let shift = 12 + 9 * level as u32;
        TableAt { base: Addr::new(addr.raw() >> shift << shift), level }
    }
    /// The table that entry `index` of this one points to.
    #[must_use]
    pub fn child(self, index: usize) -> Self {
        let base = self.base.offset((index as u64) << (12 + 9 * (self.level as u32 - 1)));
        TableAt { base, level: self.level - 1 }
    }
    /// Bytes that it covers.
    pub const fn bytes(self) -> u64 {
        1 << (12 + 9 * self.level as u32)
    }
    /// The addresses that it covers.
    pub fn range(self) -> Range<u64> {
        self.base.raw()..self.base.raw() + self.bytes()
    }
}
impl<I> Clone for TableAt<I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for TableAt<I> {}
impl<I: Space> fmt::Debug for TableAt<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level-{} table at {:?}", self.level, self.base)
    }
}

/// A table page that [`TableOps::alloc`] provides.
pub struct NewTable<S> {
    /// The frame that software knows the table by.
    pub frame: Frame<S>,
    /// Whether it was allocated now and is empty. A table shared with others
    /// already holds what they mapped.
    pub fresh: bool,
    /// Software bits for the entry that will point to it.
    pub link: Flags,
}

impl<S: PhysSpace> fmt::Debug for NewTable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewTable({:?}, fresh: {}, link: {:?})", self.frame, self.fresh, self.link)
    }
}

/// Who may see what a leaf maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Visibility {
    /// Only this address space: private memory, or its own copy of a page.
    #[default]
    Private,
    /// Every address space that maps the same object at the same place with
    /// the same permissions would map the same frame.
    Shared,
}

/// What an area of an address space maps: for a mechanism that must tell whether
/// two spaces would map the same at the same place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// What is mapped, by a number that means the same in every space (a file);
    /// none for anonymous memory.
    pub object: Option<u64>,
    /// The object's page at the area's first address.
    pub page: u64,
    /// What the area allows: W, and NX where nothing may be fetched.
    pub rights: Flags,
    /// Stores are seen by all who map the object; otherwise a page is copied first.
    pub shared: bool,
}

/// The seam. `I` is what the tables translate from, `M::Space` what they
/// translate to and live in.
///
/// A table page has a *name*, the frame that [`TableOps::alloc`] returned or
/// that an entry of another table points to; an implementation may keep more
/// copies behind it, and must then know the table by the frame of any of them.
pub trait TableOps<I: Space, M: TableMemory>: fmt::Debug + Send {
    /// Makes the (empty) root.
    ///
    /// # Errors
    /// If no frame is left.
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame>;

    /// The root that a CPU of `node` loads.
    fn hardware_root(&self, master: Frame<M::Space>, node: NodeId) -> Frame<M::Space>;

    /// Software bits that the register holds beside that root, as an entry that points to a
    /// table does ([`NewTable::link`]).
    fn root_link(&self, _master: Frame<M::Space>, _node: NodeId) -> Flags {
        Flags::NONE
    }

    /// The root of a tree of ordinary tables, a page a level, that ends in the leaf tables which a CPU of
    /// `node` walks: for who counts what walkers find.
    fn ordinary_root(&self, master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.hardware_root(master, node)
    }

    /// The root from which software on a CPU of `node` goes down; its entries
    /// lead to every table.
    fn software_root(&self, master: Frame<M::Space>, _node: NodeId) -> Frame<M::Space> {
        master
    }

    /// A table page for `at`, wanted on `node`. `visibility` is that of the leaf
    /// it will hold; a table that will point to tables is always private.
    ///
    /// # Errors
    /// If no frame is left.
    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame>;

    /// This address space lets go of the table; no entry of its points to it
    /// any more and every TLB that could have cached one was flushed. Also
    /// called for single copies that [`TableOps::replicate`] and
    /// [`TableOps::rebalance`] put into a flush.
    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, at: TableAt<I>);

    /// Reads an entry with accessed and dirty bits as the walkers of all nodes set them.
    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry;

    /// Writes an entry, wherever copies of it are.
    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8, entry: Entry);

    /// Empties an entry and returns what it was, no bit that hardware set lost.
    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry;

    /// Sets and clears flag bits, and returns the entry as it was, no bit that
    /// hardware set lost.
    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry;

    /// Rewrites the entries `range` of one table, none of which points to a
    /// table before or after: `f` is given each index and entry, empty ones
    /// too, and returns the new one. For range operations (`mprotect`), where
    /// one pass over each copy is cheaper than one pass over the copies per
    /// entry. For each entry that changed, `done` is given the index, the entry
    /// as it was in the end, and the new one.
    ///
    /// No bit that hardware set is lost: what it set between `f` and the change
    /// stays set where the [page stays](same_page) (unless `f` clears it), and is
    /// in `done`'s old entry in any case.
    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        for index in range {
            let slot = Slot::new(table, index);
            let seen = self.read(env, slot, level);
            let new = f(index, seen);
            if new == seen {
                continue;
            }
            let old = if same_page(seen, new) {
                self.modify(env, slot, level, Flags(new.0 & !seen.0), Flags(seen.0 & !new.0))
            } else {
                let old = self.take(env, slot, level);
                self.write(env, slot, level, new);
                old
            };
            done(index, old, new);
        }
    }

    /// `range` holds `content` from now on, or nothing. Told before a page of a
    /// new area can be touched, and after the pages of an old one were unmapped or
    /// changed. But a space that ends has no areas: that is told before its pages are
    /// unmapped, so that it lets go of shared tables instead of copying them. A child of
    /// `fork` has its parent's areas. What is owed is in [`TableOps::owed`].
    ///
    /// # Errors
    /// If no frame is left to stop sharing what is no longer the same.
    fn area(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _range: Range<u64>,
        _content: Option<Content>,
    ) -> Result<(), NoFrame> {
        Ok(())
    }

    /// Before this address space alone changes entries for addresses of `range`
    /// in `child`, to which the entry `parent` points (or, with `gone`, unmaps
    /// them): makes the table its own if it is shared, and returns the table to
    /// change (`child` itself if it already was its own). What it owes is in
    /// [`TableOps::owed`].
    ///
    /// # Errors
    /// If no frame is left for the copy.
    fn own(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _parent: Slot<M::Space>,
        child: Frame<M::Space>,
        _at: TableAt<I>,
        _range: Range<u64>,
        _gone: bool,
    ) -> Result<Frame<M::Space>, NoFrame> {
        Ok(child)
    }

    /// Whether other address spaces still use the table for `at` that this one
    /// links, and this one has nothing in it but in `range`: to unmap that, it
    /// lets go of the table.
    fn others_use(&self, _at: TableAt<I>, _range: Range<u64>) -> bool {
        false
    }

    /// Empties the entry `parent` of level `at.level` + 1, which points to the
    /// table for `at`; returns what it was.
    fn unlink(&mut self, env: &mut TableEnv<'_, M>, parent: Slot<M::Space>, at: TableAt<I>) -> Entry {
        self.take(env, parent, at.level + 1)
    }

    /// When this address space, a child, is made by `fork`: a table page that it
    /// can link instead of a copy of the parent's `table`, to which the parent's
    /// entry `slot` points; `None` to copy. The parent's leaves in it are then
    /// changed as `fork` says, and nothing is copied.
    fn adopt(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _slot: Slot<M::Space>,
        _table: Frame<M::Space>,
        _at: TableAt<I>,
    ) -> Option<NewTable<M::Space>> {
        None
    }

    /// Whose cached translations may hold what a leaf of the table for `at` says.
    fn reach(&self, _at: TableAt<I>) -> Reach {
        Reach::Space
    }

    /// Whether entries that the space's group shares may be cached somewhere which must not serve this space
    /// ([`Reach::Shared`] was owed for them). A CPU that runs it for the first time forgets the group's entries before.
    fn is_parted(&self) -> bool {
        false
    }

    /// Moves what [`TableOps::alloc`], `own`, `area` and `adopt` owe to `flush`. Until it is
    /// discharged the space's table lock is not let go.
    fn owed(&mut self, _flush: &mut Flush<I, M::Space>) {}

    /// The leaf entry for `at` is about to be answered by a fault of a CPU on
    /// `node`; a lazy replica fills itself here. Returns whether that repaired
    /// the access, so that no further fault handling is needed.
    ///
    /// # Errors
    /// If no frame is left.
    fn fault_in(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _master: Frame<M::Space>,
        _addr: Addr<I>,
        _node: NodeId,
    ) -> Result<bool, NoFrame> {
        Ok(false)
    }

    /// Before CPUs walk what was written: completes entries that a host has to do
    /// something for first (pass-through: a frame that it has not backed yet).
    /// `touch` makes the host back a frame. Said after faults, and for a child of `fork`.
    fn settle(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _master: Frame<M::Space>,
        _touch: &mut dyn FnMut(Frame<M::Space>),
    ) {
    }

    /// Data behind the entries of this space moved between nodes: tables may
    /// follow. Returns how many table pages moved; the pages they left are in
    /// `flush`. The root may be among them: CPUs load it anew.
    fn rebalance(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _master: &mut Frame<M::Space>,
        _flush: &mut Flush<I, M::Space>,
    ) -> u64 {
        0
    }

    /// From now on the CPUs of `nodes` shall walk tables of their own; with no
    /// node, all walk the same one. Returns the nodes that do (none, for an
    /// implementation that keeps one copy). Copies that are no longer wanted
    /// are in `flush`; every CPU loads its root anew, the master's frame may change.
    ///
    /// # Errors
    /// If no frame is left; everything is then as it was, but for flushes owed.
    fn replicate(
        &mut self,
        _env: &mut TableEnv<'_, M>,
        _master: &mut Frame<M::Space>,
        _nodes: NodeSet,
        _flush: &mut Flush<I, M::Space>,
    ) -> Result<NodeSet, NoFrame> {
        Ok(NodeSet::default())
    }

    /// CPUs of `nodes`, and of no other, may walk any of these tables from now
    /// on, in whatever address space. Said with the table lock held, before a
    /// CPU of a further node loads its root; until it is said, CPUs of all nodes
    /// may. A copy that no CPU walks can be changed without atomic steps.
    fn walked_by(&mut self, _nodes: NodeSet) {}

    /// Nodes whose CPUs could have cached something of the table named `table`.
    fn sharers(&self, _mem: &M, _table: Frame<M::Space>) -> NodeSet {
        NodeSet::ALL
    }

    /// Frames that hold copies of the table named `table`, the name included.
    fn copies(&self, _mem: &M, table: Frame<M::Space>, visit: &mut dyn FnMut(Frame<M::Space>)) {
        visit(table);
    }
}

/// The baseline: one copy of every table page, on the node asked for if possible.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneCopy {
    /// All table pages on this node, wherever they are wanted: builds the bad
    /// placements of the papers ("page table fixed on node 0").
    pub fixed: Option<NodeId>,
}

impl OneCopy {
    fn place(&self, wanted: NodeId) -> NodeId {
        self.fixed.unwrap_or(wanted)
    }
}

impl<I: Space, M: TableMemory> TableOps<I, M> for OneCopy {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        _level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame> {
        env.new_table(self.place(node), false)
    }
    fn hardware_root(&self, master: Frame<M::Space>, _node: NodeId) -> Frame<M::Space> {
        master
    }
    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        _at: TableAt<I>,
        node: NodeId,
        _visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let frame = env.new_table(self.place(node), false)?;
        Ok(NewTable { frame, fresh: true, link: Flags::NONE })
    }
    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, _at: TableAt<I>) {
        env.free_table(table);
    }
    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        env.load(slot)
    }
    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8, entry: Entry) {
        env.store(slot, entry);
    }
    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, _level: u8) -> Entry {
        env.swap(slot, Entry::EMPTY)
    }
    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        _level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        env.modify(slot, set, clear)
    }
    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        _level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        update_copy(env, table, range, f, done);
    }
}

/// Whether `new` maps what `old` maps, with other flags: a bit that hardware
/// sets in `old` at the last moment then belongs to `new` too.
#[inline(always)]
pub const fn same_page(old: Entry, new: Entry) -> bool {
    const FLAGS: u64 = !0x000f_ffff_ffff_f000;
    let live = (old.is_present() || old.is_prot_none()) && (new.is_present() || new.is_prot_none());
    live && (old.0 ^ new.0) & !FLAGS == 0
}

/// [`TableOps::update`] of a table that has one copy.
pub fn update_copy<M: TableMemory>(
    env: &mut TableEnv<'_, M>,
    table: Frame<M::Space>,
    range: Range<usize>,
    f: &mut dyn FnMut(usize, Entry) -> Entry,
    done: &mut dyn FnMut(usize, Entry, Entry),
) {
    let Some(cells) = env.mem.cells(table) else { return };
    let mut writes = 0;
    for index in range.clone() {
        let seen = Entry(cells[index].load(Ordering::Relaxed));
        let new = f(index, seen);
        if new == seen {
            continue;
        }
        let old = exchange(&cells[index], seen, new);
        writes += 1;
        done(index, old, new);
    }
    env.passed(table, &range, writes);
}

/// Makes `seen`, which one copy of an entry held, `new`: hardware's bits of the
/// last moment are in the returned entry, and in the new one if the page stays.
#[inline(always)]
pub fn exchange(cell: &AtomicU64, seen: Entry, new: Entry) -> Entry {
    if same_page(seen, new) {
        modify(cell, Flags(new.0 & !seen.0), Flags(seen.0 & !new.0))
    } else {
        Entry(cell.swap(new.0, Ordering::AcqRel))
    }
}

/// All entries of a table as `(index, entry)`, present or not empty.
pub fn entries<M: TableMemory>(mem: &M, table: Frame<M::Space>) -> impl Iterator<Item = (usize, Entry)> + '_ {
    (0..ENTRIES).map(move |i| (i, mem.load(Slot::new(table, i)))).filter(|(_, e)| !e.is_empty())
}
