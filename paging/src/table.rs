//! A page table: the radix tree that an address space's CPUs load, changed
//! only through its [`TableOps`].

use crate::addr::{Addr, Frame, PageSize, PhysSpace, Space};
use crate::entry::{Entry, Flags};
use crate::flush::{Flush, Reach, Released};
use crate::frames::{MAX_NODES, NoFrame, NodeId, NodeSet};
use crate::memory::{ENTRIES, Slot, TableMemory};
use crate::ops::{Content, TableAt, TableEnv, TableOps, Visibility};
use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;

/// Why something could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// There is a leaf (or a swapped or hinting one) already.
    Occupied(Entry),
    /// A table is where the huge leaf should go; its pages must be collapsed.
    TableInTheWay,
    /// A huge leaf of this size covers the address; it must be split first.
    HugeInTheWay(PageSize),
    /// The address or the frame is not a multiple of the page size.
    Misaligned,
    /// No frame for a table page.
    NoFrame(NoFrame),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Occupied(e) => write!(f, "already mapped: {e:?}"),
            MapError::TableInTheWay => f.write_str("a table is where the huge page should go"),
            MapError::HugeInTheWay(size) => write!(f, "a {size} page covers the address"),
            MapError::Misaligned => f.write_str("address or frame is not a multiple of the page size"),
            MapError::NoFrame(e) => write!(f, "no table page: {e}"),
        }
    }
}
impl core::error::Error for MapError {}

impl From<NoFrame> for MapError {
    fn from(e: NoFrame) -> Self {
        MapError::NoFrame(e)
    }
}

/// What a lookup found.
pub struct Found<S> {
    /// The place of the last entry looked at.
    pub slot: Slot<S>,
    /// Its level.
    pub level: u8,
    /// It: a leaf, empty, swapped, or hinting. Accessed and dirty as all nodes' walkers set them.
    pub entry: Entry,
}

impl<S: PhysSpace> Found<S> {
    /// The size of the page mapped or to be mapped by the entry.
    pub fn size(&self) -> Option<PageSize> {
        PageSize::from_level(self.level)
    }
    /// The first frame of the leaf, if it is one (hinting leaves included).
    pub fn frame(&self) -> Option<Frame<S>> {
        let size = self.size()?;
        (self.entry.is_leaf(self.level) || self.entry.is_prot_none()).then(|| self.entry.leaf_frame(size))
    }
}
impl<S: PhysSpace> fmt::Debug for Found<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {} {:?}: {:?}", self.level, self.slot, self.entry)
    }
}

/// A leaf that a scan passes.
#[derive(Debug)]
pub struct LeafAt<I: Space> {
    /// The input address that it maps.
    pub addr: Addr<I>,
    /// Its size.
    pub size: PageSize,
    /// It; may be swapped or hinting, never empty.
    pub entry: Entry,
    /// In [`PageTable::fork_range`]: the child links the parent's table and so
    /// has this leaf, which keeps its one reference; what `fork` gives the child is not asked.
    pub linked: bool,
}

/// What `fork` does with a leaf of the parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forked {
    /// The parent's leaf from now on.
    pub parent: Entry,
    /// The child's leaf; empty for none.
    pub child: Entry,
}

/// A page table from `I` to `M::Space`.
pub struct PageTable<I: Space, M: TableMemory> {
    ops: Box<dyn TableOps<I, M>>,
    root: Frame<M::Space>,
    /// Where software of each node begins, as the seam said when it last
    /// could have changed: asked on every look-up, it costs as much as the rest.
    software_roots: [Frame<M::Space>; MAX_NODES],
    levels: u8,
    tables: [u64; 6],
}

impl<I: Space, M: TableMemory> fmt::Debug for PageTable<I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable")
            .field("root", &self.root)
            .field("levels", &self.levels)
            .field("tables", &&self.tables[1..])
            .field("ops", &self.ops)
            .finish()
    }
}

/// Bytes covered by an entry of a `level` table.
const fn span(level: u8) -> u64 {
    1 << (12 + 9 * (level as u32 - 1))
}

impl<I: Space, M: TableMemory> PageTable<I, M> {
    /// An empty table of `levels` (4 or 5) levels, its root on `node`.
    ///
    /// # Errors
    /// If there is no frame for the root.
    pub fn new(
        mut ops: Box<dyn TableOps<I, M>>,
        env: &mut TableEnv<'_, M>,
        levels: u8,
        node: NodeId,
    ) -> Result<Self, NoFrame> {
        let root = ops.create_root(env, levels, node)?;
        let mut tables = [0; 6];
        tables[levels as usize] = 1;
        let software_roots = software_roots(&*ops, root);
        Ok(PageTable { ops, root, software_roots, levels, tables })
    }

    /// The root as software knows it.
    pub fn root(&self) -> Frame<M::Space> {
        self.root
    }
    /// The root that a CPU of `node` loads.
    pub fn hardware_root(&self, node: NodeId) -> Frame<M::Space> {
        self.ops.hardware_root(self.root, node)
    }
    /// The software bits beside it in the register.
    pub fn root_link(&self, node: NodeId) -> Flags {
        self.ops.root_link(self.root, node)
    }
    /// The root of ordinary tables that end in the leaf tables a CPU of `node` walks.
    pub fn ordinary_root(&self, node: NodeId) -> Frame<M::Space> {
        self.ops.ordinary_root(self.root, node)
    }
    /// The root from which software on `node` goes down.
    fn software_root(&self, node: NodeId) -> Frame<M::Space> {
        self.software_roots[node.index()]
    }
    /// Gives the CPUs of `nodes` tables of their own, or with no node all CPUs
    /// the same one; see [`TableOps::replicate`]. Returns the nodes that have
    /// them. Every CPU must load its [root](PageTable::hardware_root) anew
    /// before `flush` is discharged.
    ///
    /// # Errors
    /// If no frame is left; everything is then as it was, but for flushes owed.
    pub fn replicate(
        &mut self,
        env: &mut TableEnv<'_, M>,
        nodes: NodeSet,
        flush: &mut Flush<I, M::Space>,
    ) -> Result<NodeSet, NoFrame> {
        let done = self.ops.replicate(env, &mut self.root, nodes, flush);
        self.software_roots = software_roots(&*self.ops, self.root);
        done
    }
    /// Lets table pages follow the data; see [`TableOps::rebalance`]. Returns
    /// how many moved. If any did, every CPU must load its root anew before
    /// `flush` is discharged.
    pub fn rebalance(&mut self, env: &mut TableEnv<'_, M>, flush: &mut Flush<I, M::Space>) -> u64 {
        let moved = self.ops.rebalance(env, &mut self.root, flush);
        self.software_roots = software_roots(&*self.ops, self.root);
        moved
    }
    /// Says on which nodes CPUs may walk this table; see [`TableOps::walked_by`].
    pub fn walked_by(&mut self, nodes: NodeSet) {
        self.ops.walked_by(nodes);
    }
    /// Lets a lazy replica of `node` fill itself for `addr`; whether that
    /// repaired the access. See [`TableOps::fault_in`].
    ///
    /// # Errors
    /// If no frame is left.
    pub fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<bool, NoFrame> {
        self.ops.fault_in(env, self.root, addr, node)
    }
    /// Completes entries that a host has to do something for; see [`TableOps::settle`].
    pub fn settle(&mut self, env: &mut TableEnv<'_, M>, touch: &mut dyn FnMut(Frame<M::Space>)) {
        self.ops.settle(env, self.root, touch);
    }
    /// 4 or 5.
    pub fn levels(&self) -> u8 {
        self.levels
    }
    /// Table pages linked into this table, by level (index 1-5), each counted
    /// once however many copies stand behind it.
    pub fn table_pages(&self) -> &[u64; 6] {
        &self.tables
    }
    /// The seam's implementation.
    pub fn ops(&mut self) -> &mut dyn TableOps<I, M> {
        &mut *self.ops
    }
    /// The seam's implementation, to look at.
    pub fn ops_ref(&self) -> &dyn TableOps<I, M> {
        &*self.ops
    }
    /// The first address beyond those the table can translate.
    pub fn end(&self) -> u64 {
        1 << (12 + 9 * self.levels as u32)
    }

    /// The entry that decides about `addr`: a leaf of any size, or the first
    /// entry on the way that is not present.
    pub fn lookup(&self, env: &mut TableEnv<'_, M>, addr: Addr<I>) -> Found<M::Space> {
        let (mut table, mut level) = (self.software_root(env.node), self.levels);
        loop {
            let slot = Slot::new(table, addr.index(level));
            let entry = env.load(slot);
            if !entry.is_table(level) {
                let entry = if entry.is_empty() { entry } else { self.ops.read(env, slot, level) };
                return Found { slot, level, entry };
            }
            table = entry.frame();
            level -= 1;
        }
    }

    /// The leaf table entry for `addr` at `level`, its tables made where they
    /// are missing and made this space's own where `visibility` is private.
    ///
    /// # Errors
    /// [`MapError::HugeInTheWay`], [`MapError::NoFrame`].
    pub fn ensure(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        level: u8,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<Slot<M::Space>, MapError> {
        let (mut table, mut at) = (self.software_root(env.node), self.levels);
        while at > level {
            let slot = Slot::new(table, addr.index(at));
            let entry = env.load(slot);
            let child = TableAt::covering(addr, at - 1);
            // What a table for tables would share is not known to be the same.
            let visibility = if child.level == level { visibility } else { Visibility::Private };
            table = if entry.is_table(at) {
                match visibility {
                    Visibility::Private => {
                        let page = addr.raw() & !4095;
                        self.ops.own(env, slot, entry.frame(), child, page..page + 4096, false)?
                    }
                    Visibility::Shared => entry.frame(),
                }
            } else if entry.is_empty() {
                let new = self.ops.alloc(env, child, node, visibility)?;
                let link = Entry::table(new.frame).with(new.link);
                self.ops.write(env, slot, at, link);
                self.tables[child.level as usize] += 1;
                new.frame
            } else {
                return match PageSize::from_level(at) {
                    Some(size) => Err(MapError::HugeInTheWay(size)),
                    None => Err(MapError::Occupied(entry)),
                };
            };
            at -= 1;
        }
        Ok(Slot::new(table, addr.index(level)))
    }

    /// Says what `range` holds from now on; see [`TableOps::area`].
    ///
    /// # Errors
    /// [`MapError::NoFrame`] if a shared table could not be made this space's own.
    pub fn area(
        &mut self,
        env: &mut TableEnv<'_, M>,
        range: Range<u64>,
        content: Option<Content>,
    ) -> Result<Flush<I, M::Space>, MapError> {
        self.ops.area(env, range, content)?;
        Ok(self.owed())
    }

    /// What [`PageTable::ensure`], [`PageTable::map`] and [`PageTable::set_flags`] owe because a table became
    /// this space's own. Whatever returns a [`Flush`] has it in that.
    pub fn owed(&mut self) -> Flush<I, M::Space> {
        let mut flush = Flush::none();
        self.ops.owed(&mut flush);
        flush
    }

    /// Maps the page of `size` at `addr` to `frame` with `flags`, tables on `node`.
    ///
    /// # Errors
    /// [`MapError`]; then nothing but perhaps empty tables was added.
    #[expect(clippy::too_many_arguments, reason = "each is a different decision of the caller's")]
    pub fn map(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        frame: Frame<M::Space>,
        size: PageSize,
        flags: Flags,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<(), MapError> {
        if !addr.is_aligned(size) || !frame.is_aligned(size) {
            return Err(MapError::Misaligned);
        }
        let level = size.level();
        let slot = self.ensure(env, addr, level, node, visibility)?;
        let old = self.ops.read(env, slot, level);
        if old.is_table(level) {
            return Err(MapError::TableInTheWay);
        }
        if !old.is_empty() {
            return Err(MapError::Occupied(old));
        }
        self.ops.write(env, slot, level, Entry::leaf(frame, size, flags));
        Ok(())
    }

    /// Replaces the leaf (or swapped, hinting or empty entry) of `size` at
    /// `addr`; what was there is in the returned obligation.
    ///
    /// # Errors
    /// [`MapError::HugeInTheWay`], [`MapError::TableInTheWay`], [`MapError::NoFrame`].
    pub fn replace(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        size: PageSize,
        entry: Entry,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<Flush<I, M::Space>, MapError> {
        let level = size.level();
        let slot = self.ensure(env, addr, level, node, visibility)?;
        let mut flush = Flush::none();
        if env.mem.load(slot).is_table(level) {
            return Err(MapError::TableInTheWay);
        }
        let old = self.ops.take(env, slot, level);
        self.ops.write(env, slot, level, entry);
        if !old.is_empty() {
            let reach = self.ops.reach(TableAt::covering(addr, level));
            let nodes = self.ops.sharers(env.mem, slot.table);
            flush.leaf_gone(nodes, reach, addr.align_down(size), size, old);
        }
        self.ops.owed(&mut flush);
        Ok(flush)
    }

    /// Sets and clears flags of the leaf at `addr`; the old leaf, `None` if
    /// there is none. The caller decides whether that needs a flush (less
    /// allowed, or A or D cleared: yes), and how far it reaches ([`TableOps::reach`]).
    ///
    /// # Errors
    /// [`MapError::NoFrame`] if a shared table could not be made this space's own.
    pub fn set_flags(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        set: Flags,
        clear: Flags,
        visibility: Visibility,
    ) -> Result<Option<Entry>, MapError> {
        let found = self.lookup(env, addr);
        if !found.entry.is_leaf(found.level) {
            return Ok(None);
        }
        let slot = self.ensure(env, addr, found.level, env.node, visibility)?;
        Ok(Some(self.ops.modify(env, slot, found.level, set, clear)))
    }

    /// Passes every non-empty leaf entry that overlaps `range`, in order.
    pub fn scan(&self, env: &mut TableEnv<'_, M>, range: Range<u64>, visit: &mut dyn FnMut(LeafAt<I>)) {
        self.scan_table(env, self.software_root(env.node), self.levels, 0, &range, visit);
    }

    fn scan_table(
        &self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        base: u64,
        range: &Range<u64>,
        visit: &mut dyn FnMut(LeafAt<I>),
    ) {
        for index in indices(level, base, range) {
            let slot = Slot::new(table, index);
            let raw = env.load(slot);
            if raw.is_empty() {
                continue;
            }
            let start = base + index as u64 * span(level);
            if raw.is_table(level) {
                self.scan_table(env, raw.frame(), level - 1, start, range, visit);
            } else if let Some(size) = PageSize::from_level(level) {
                let entry = self.ops.read(env, slot, level);
                visit(LeafAt { addr: Addr::new(start), size, entry, linked: false });
            }
        }
    }

    /// Rewrites every non-empty leaf entry that lies wholly in `range` (huge
    /// leaves that stick out must have been split). `f` returns the new entry;
    /// an empty one unmaps.
    ///
    /// # Errors
    /// [`MapError::NoFrame`] if a shared table could not be made this space's
    /// own; what was done before stays done and is in the obligation `flush`.
    pub fn update_range(
        &mut self,
        env: &mut TableEnv<'_, M>,
        range: Range<u64>,
        visibility: Visibility,
        flush: &mut Flush<I, M::Space>,
        f: &mut dyn FnMut(LeafAt<I>) -> Entry,
    ) -> Result<(), MapError> {
        let root = self.software_root(env.node);
        let mut pass = Update { ops: &mut *self.ops, visibility, flush, f };
        let done = pass.table(env, root, self.levels, 0, &range);
        self.ops.owed(flush);
        done
    }

    /// Unmaps everything in `range` and unlinks the tables that are empty then.
    ///
    /// # Errors
    /// As [`PageTable::update_range`].
    pub fn unmap_range(
        &mut self,
        env: &mut TableEnv<'_, M>,
        range: Range<u64>,
        flush: &mut Flush<I, M::Space>,
    ) -> Result<(), MapError> {
        let (root, levels) = (self.software_root(env.node), self.levels);
        let done = self.unmap_table(env, root, levels, 0, &range, flush).map(|_| ());
        self.ops.owed(flush);
        done
    }

    /// Returns whether the table is empty now.
    fn unmap_table(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        base: u64,
        range: &Range<u64>,
        flush: &mut Flush<I, M::Space>,
    ) -> Result<bool, MapError> {
        let touched = indices(level, base, range);
        let nodes = self.ops.sharers(env.mem, table);
        let reach = self.ops.reach(TableAt { base: Addr::new(base), level });
        if level == 1 {
            let all = touched == (0..ENTRIES);
            self.ops.update(env, table, level, touched, &mut |_, _| Entry::EMPTY, &mut |index, old, _| {
                let addr = Addr::new(base + index as u64 * span(level));
                flush.leaf_gone(nodes, reach, addr, PageSize::Size4K, old);
            });
            return Ok(all || is_empty(env.mem, table));
        }
        for index in touched {
            let slot = Slot::new(table, index);
            let raw = env.load(slot);
            if raw.is_empty() {
                continue;
            }
            let start = base + index as u64 * span(level);
            if raw.is_table(level) {
                let at = TableAt { base: Addr::new(start), level: level - 1 };
                let within = range.start.max(start)..range.end.min(start + span(level));
                let child = raw.frame();
                if self.ops.others_use(at, within.clone()) {
                    // The others keep the table and what it maps.
                    flush.add_on(self.ops.sharers(env.mem, child), at.base, span(level));
                    flush.path_gone(nodes, Reach::Space, at);
                    self.ops.unlink(env, slot, at);
                    self.tables[at.level as usize] -= 1;
                    continue;
                }
                let child = self.ops.own(env, slot, child, at, within, true)?;
                if self.unmap_table(env, child, level - 1, start, range, flush)? {
                    self.ops.unlink(env, slot, at);
                    flush.table_gone(nodes, child, at);
                    self.tables[at.level as usize] -= 1;
                }
            } else if let Some(size) = PageSize::from_level(level) {
                let old = self.ops.take(env, slot, level);
                flush.leaf_gone(nodes, reach, Addr::new(start), size, old);
            }
        }
        Ok(is_empty(env.mem, table))
    }

    /// Frees table pages that a discharged flush released.
    pub fn free_tables(&mut self, env: &mut TableEnv<'_, M>, released: &Released<I, M::Space>) {
        for &(table, at) in &released.tables {
            self.ops.free(env, table, at);
        }
    }

    /// Splits the huge leaf that covers `addr` into 512 of the next size, with
    /// the same flags; `Ok(None)` if none does.
    ///
    /// # Errors
    /// [`MapError::NoFrame`].
    pub fn split(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<Option<Flush<I, M::Space>>, MapError> {
        let found = self.lookup(env, addr);
        let huge = found.entry.is_leaf(found.level) || found.entry.is_prot_none();
        let (true, Some(size)) = (huge && found.level > 1, found.size()) else { return Ok(None) };
        let slot = self.ensure(env, addr, found.level, node, Visibility::Private)?;
        let lower = found.level - 1;
        let at = TableAt::covering(addr, lower);
        let new = self.ops.alloc(env, at, node, Visibility::Private)?;
        let old = self.ops.take(env, slot, found.level);
        let pages = span(lower) >> 12;
        let keep_ps = if lower == 1 { Flags::NONE } else { Flags::PAGE_SIZE };
        let first: Frame<M::Space> = old.leaf_frame(size);
        let flags = old.without(Flags::PAGE_SIZE).without(Flags::PAT_HUGE).with(keep_ps);
        let mut flush = Flush::none();
        let nodes = self.ops.sharers(env.mem, slot.table);
        let reach = self.ops.reach(TableAt::covering(addr, found.level));
        let below = self.ops.reach(at);
        let leaf = PageSize::from_level(lower).unwrap_or_default();
        self.ops.update(
            env,
            new.frame,
            lower,
            0..ENTRIES,
            &mut |index, _| flags.with_frame(first.offset(index as u64 * pages)),
            // A table that was not fresh holds what others map there.
            &mut |index, old, _| {
                if !old.is_empty() {
                    flush.leaf_gone(nodes, below, at.base.offset(index as u64 * leaf.bytes()), leaf, old);
                }
            },
        );
        self.ops.write(env, slot, found.level, Entry::table(new.frame).with(new.link));
        self.tables[lower as usize] += 1;
        flush.add_reaching(nodes, reach, addr.align_down(size), size.bytes());
        self.ops.owed(&mut flush);
        Ok(Some(flush))
    }

    /// Replaces the table of 512 entries under the `size` (2 MiB or 1 GiB)
    /// block at `addr` by one huge leaf; the old leaves and the table are in
    /// the obligation. `Ok(None)` if no table is there.
    ///
    /// # Errors
    /// [`MapError::Misaligned`], [`MapError::NoFrame`].
    pub fn collapse(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: Addr<I>,
        frame: Frame<M::Space>,
        size: PageSize,
        flags: Flags,
    ) -> Result<Option<Flush<I, M::Space>>, MapError> {
        if !addr.is_aligned(size) || !frame.is_aligned(size) || size == PageSize::Size4K {
            return Err(MapError::Misaligned);
        }
        let level = size.level();
        let slot = match self.ensure(env, addr, level, env.node, Visibility::Private) {
            Err(MapError::HugeInTheWay(_)) => return Ok(None),
            other => other?,
        };
        let entry = env.load(slot);
        if !entry.is_table(level) {
            return Ok(None);
        }
        let at = TableAt { base: addr, level: level - 1 };
        let child = self.ops.own(env, slot, entry.frame(), at, at.range(), false)?;
        let mut flush = Flush::none();
        // Every page of the block may be cached, and so may the path to it.
        let nodes = self.ops.sharers(env.mem, slot.table);
        flush.add_on(nodes, addr, size.bytes());
        self.unmap_table(
            env,
            child,
            level - 1,
            addr.raw(),
            &(addr.raw()..addr.raw() + size.bytes()),
            &mut flush,
        )?;
        self.ops.unlink(env, slot, at);
        flush.table_gone(nodes, child, at);
        self.tables[at.level as usize] -= 1;
        self.ops.write(env, slot, level, Entry::leaf(frame, size, flags));
        self.ops.owed(&mut flush);
        Ok(Some(flush))
    }

    /// Copies the leaves of `range` into `child` as `fork` does: `f` says what
    /// parent and child get. Tables that the child can link instead of a copy
    /// (see [`TableOps::adopt`]) are linked. What the parent lost is in `flush`.
    ///
    /// # Errors
    /// [`MapError::NoFrame`]; the child is then incomplete and must be torn down.
    pub fn fork_range(
        &mut self,
        env: &mut TableEnv<'_, M>,
        child: &mut PageTable<I, M>,
        range: Range<u64>,
        visibility: Visibility,
        flush: &mut Flush<I, M::Space>,
        f: &mut dyn FnMut(LeafAt<I>) -> Forked,
    ) -> Result<(), MapError> {
        let (root, levels) = (self.software_root(env.node), self.levels);
        let done = self.fork_table(env, child, root, levels, 0, &range, visibility, flush, f);
        self.ops.owed(flush);
        child.ops.owed(flush);
        done
    }

    #[expect(clippy::too_many_arguments, reason = "recursion carries the caller's arguments and its place")]
    fn fork_table(
        &mut self,
        env: &mut TableEnv<'_, M>,
        child: &mut PageTable<I, M>,
        table: Frame<M::Space>,
        level: u8,
        base: u64,
        range: &Range<u64>,
        visibility: Visibility,
        flush: &mut Flush<I, M::Space>,
        f: &mut dyn FnMut(LeafAt<I>) -> Forked,
    ) -> Result<(), MapError> {
        for index in indices(level, base, range) {
            let slot = Slot::new(table, index);
            let raw = env.load(slot);
            if raw.is_empty() {
                continue;
            }
            let start = base + index as u64 * span(level);
            if raw.is_table(level) {
                let at = TableAt { base: Addr::new(start), level: level - 1 };
                if child.adopt(env, slot, raw.frame(), at)? {
                    self.fork_linked(env, raw.frame(), at, range, flush, f);
                    continue;
                }
                self.fork_table(env, child, raw.frame(), level - 1, start, range, visibility, flush, f)?;
            } else if let Some(size) = PageSize::from_level(level) {
                let addr = Addr::new(start);
                let leaf = LeafAt { addr, size, entry: Entry::EMPTY, linked: false };
                let forked = self.fork_leaf(env, slot, level, leaf, flush, f);
                if !forked.child.is_empty() {
                    let slot = child.ensure(env, addr, level, env.node, visibility)?;
                    if child.ops.read(env, slot, level).is_empty() {
                        child.ops.write(env, slot, level, forked.child);
                    }
                }
            }
        }
        Ok(())
    }

    /// What `fork` does to the parent's leaves of a table that the child links.
    fn fork_linked(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        at: TableAt<I>,
        range: &Range<u64>,
        flush: &mut Flush<I, M::Space>,
        f: &mut dyn FnMut(LeafAt<I>) -> Forked,
    ) {
        let Some(size) = PageSize::from_level(at.level) else { return };
        for index in indices(at.level, at.base.raw(), range) {
            let slot = Slot::new(table, index);
            if !env.load(slot).is_empty() {
                let addr = at.base.offset(index as u64 * span(at.level));
                let leaf = LeafAt { addr, size, entry: Entry::EMPTY, linked: true };
                self.fork_leaf(env, slot, at.level, leaf, flush, f);
            }
        }
    }

    /// Changes one leaf of the parent as `f` says; `leaf`'s entry is filled in.
    fn fork_leaf(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        level: u8,
        leaf: LeafAt<I>,
        flush: &mut Flush<I, M::Space>,
        f: &mut dyn FnMut(LeafAt<I>) -> Forked,
    ) -> Forked {
        let (addr, size) = (leaf.addr, leaf.size);
        let old = self.ops.read(env, slot, level);
        let forked = f(LeafAt { entry: old, ..leaf });
        if forked.parent != old {
            let clear = Flags(old.0 & !forked.parent.0);
            let set = Flags(forked.parent.0 & !old.0);
            self.ops.modify(env, slot, level, set, clear);
            if old.is_present() && clear != Flags::NONE {
                let reach = self.ops.reach(TableAt::covering(addr, level));
                flush.add_reaching(self.ops.sharers(env.mem, slot.table), reach, addr, size.bytes());
            }
        }
        forked
    }

    /// Links the table to which a parent's entry `slot` points as this child's; whether it could.
    fn adopt(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        table: Frame<M::Space>,
        at: TableAt<I>,
    ) -> Result<bool, MapError> {
        let Some(new) = self.ops.adopt(env, slot, table, at) else { return Ok(false) };
        let slot = self.ensure(env, at.base, at.level + 1, env.node, Visibility::Private)?;
        if env.load(slot).is_table(at.level + 1) {
            // Linked when another area of the same table was copied.
            return Ok(true);
        }
        self.ops.write(env, slot, at.level + 1, Entry::table(new.frame).with(new.link));
        self.tables[at.level as usize] += 1;
        Ok(true)
    }

    /// Unmaps everything and frees all tables but those that others use.
    /// `shootdown` is made once before anything is freed; `gone` gets every leaf.
    ///
    /// # Errors
    /// As [`PageTable::update_range`].
    pub fn destroy(
        mut self,
        env: &mut TableEnv<'_, M>,
        shootdown: impl FnOnce(),
        gone: &mut dyn FnMut(crate::flush::Gone<I, M::Space>),
    ) -> Result<(), MapError> {
        let mut flush = Flush::none();
        let all = 0..self.end();
        self.unmap_range(env, all, &mut flush)?;
        let released = flush.discharge(|_, _| shootdown());
        self.free_tables(env, &released);
        released.gone.into_iter().for_each(gone);
        let root = TableAt { base: Addr::new(0), level: self.levels };
        self.ops.free(env, self.root, root);
        Ok(())
    }
}

fn software_roots<I: Space, M: TableMemory>(
    ops: &dyn TableOps<I, M>,
    root: Frame<M::Space>,
) -> [Frame<M::Space>; MAX_NODES] {
    core::array::from_fn(|node| ops.software_root(root, NodeId(node as u8)))
}

/// Whether no entry of `table` is used.
fn is_empty<M: TableMemory>(mem: &M, table: Frame<M::Space>) -> bool {
    (0..ENTRIES).all(|i| mem.load(Slot::new(table, i)).is_empty())
}

/// The indices of a table of `level` that begins at `base` which `range` touches.
fn indices(level: u8, base: u64, range: &Range<u64>) -> Range<usize> {
    let (span, last) = (span(level), base + span(level) * (ENTRIES as u64 - 1));
    if range.start >= range.end || range.end <= base || range.start > last + (span - 1) {
        return 0..0;
    }
    let first = range.start.saturating_sub(base) / span;
    let end = (range.end - base).div_ceil(span);
    first as usize..(end as usize).min(ENTRIES)
}

/// One pass of [`PageTable::update_range`].
struct Update<'a, I: Space, M: TableMemory> {
    ops: &'a mut dyn TableOps<I, M>,
    visibility: Visibility,
    flush: &'a mut Flush<I, M::Space>,
    f: &'a mut dyn FnMut(LeafAt<I>) -> Entry,
}

impl<I: Space, M: TableMemory> Update<'_, I, M> {
    fn table(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        base: u64,
        range: &Range<u64>,
    ) -> Result<(), MapError> {
        let touched = indices(level, base, range);
        if level == 1 {
            self.leaves(env, table, level, base, touched);
            return Ok(());
        }
        for index in touched {
            let slot = Slot::new(table, index);
            let raw = env.load(slot);
            let start = base + index as u64 * span(level);
            if raw.is_table(level) {
                let at = TableAt { base: Addr::new(start), level: level - 1 };
                let child = match self.visibility {
                    Visibility::Private => {
                        let within = range.start.max(start)..range.end.min(start + span(level));
                        self.ops.own(env, slot, raw.frame(), at, within, false)?
                    }
                    Visibility::Shared => raw.frame(),
                };
                self.table(env, child, level - 1, start, range)?;
            } else if !raw.is_empty() && start >= range.start && start + span(level) <= range.end {
                self.leaves(env, table, level, base, index..index + 1);
            }
        }
        Ok(())
    }

    fn leaves(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        base: u64,
        touched: Range<usize>,
    ) {
        let Some(size) = PageSize::from_level(level) else { return };
        let (flush, f) = (&mut *self.flush, &mut *self.f);
        let nodes = self.ops.sharers(env.mem, table);
        let reach = self.ops.reach(TableAt { base: Addr::new(base), level });
        let addr = |index: usize| Addr::new(base + index as u64 * span(level));
        self.ops.update(
            env,
            table,
            level,
            touched,
            &mut |index, old| {
                if old.is_empty() {
                    old
                } else {
                    f(LeafAt { addr: addr(index), size, entry: old, linked: false })
                }
            },
            &mut |index, old, new| {
                if new.is_empty() {
                    flush.leaf_gone(nodes, reach, addr(index), size, old);
                } else if old.is_present() && needs_flush(old, new) {
                    flush.add_reaching(nodes, reach, addr(index), size.bytes());
                }
            },
        );
    }
}

/// Whether a TLB that holds `old` could allow or skip what `new` must not.
fn needs_flush(old: Entry, new: Entry) -> bool {
    const MEANING: u64 = 0x000f_ffff_ffff_f000 | 1 << 1 | 1 << 2 | 1;
    let lost = old.0 & !new.0;
    lost & (MEANING | Flags::ACCESSED.0 | Flags::DIRTY.0) != 0
        || (new.0 & !old.0) & (Flags::NO_EXECUTE.0 | 0x000f_ffff_ffff_f000) != 0
}
