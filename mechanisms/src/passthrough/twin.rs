//! The guest's side: every table page of an enlightened process has a twin,
//! which the walker uses in pass-through mode.
//!
//! Software knows the tables by the guest's own pages, whose entries hold guest
//! frames (the walker uses those in nested mode). The twin of an entry has the
//! same flags, and in the place of the guest frame what the [`HostArray`] says;
//! an inner entry points to the host frame of the child's twin.
//!
//! Twins follow by hints, not by promises: an entry that a twin does not have
//! yet, or whose host frame was taken back since, is a fault, and
//! [`TableOps::fault_in`] mends the path. Only flags must never lag: what the
//! guest's own entry no longer allows, no twin allows.
//!
//! Lock protocol: that of [`TableOps`]; hardware sets accessed and dirty bits in
//! twins (and, in nested mode, in the guest's own entries) at any time. Bits are
//! the OR of both, and none is lost when one of the two is replaced.

use super::array::{HostArray, TARGET};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::ops::same_page;
use paging::{
    Addr, ENTRIES, Entry, Flags, Flush, Frame, Gfn, GuestPhys, NewTable, NoFrame, NodeId, PageSize, Slot,
    Space, TableAt, TableEnv, TableMemory, TableOps, Visibility,
};

/// What a table page is for, in its descriptor.
const ROLE_OWN: u8 = 0x70;
const ROLE_TWIN: u8 = 0x71;
const ROLE_SPLINTER: u8 = 0x72;

/// Bits that hardware sets.
const HARDWARE: Flags = Flags::ACCESSED.with(Flags::DIRTY);
/// Flags that a twin takes over from a change: all but the frame and the bits of the colour.
const SHARED: u64 = !TARGET;

/// Completions remembered until [`TableOps::settle`]; what is beyond takes a fault.
const MOST_WANTING: usize = 16;

/// How many pages twins take, for all processes of a guest together.
#[derive(Debug, Default)]
pub struct TwinPages {
    twins: AtomicU64,
    splinters: AtomicU64,
    repairs: AtomicU64,
}

impl TwinPages {
    /// Twin pages.
    pub fn twins(&self) -> u64 {
        self.twins.load(Ordering::Relaxed)
    }
    /// Further pages that map by small pages what is huge for the guest and not for the host.
    pub fn splinters(&self) -> u64 {
        self.splinters.load(Ordering::Relaxed)
    }
    /// Paths that were mended at a fault.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }
}

/// The twin of a table page; none if it has none.
pub fn twin_of<M: TableMemory<Space = GuestPhys>>(mem: &M, table: Gfn) -> Option<Gfn> {
    mem.descriptor(table).filter(|d| d.role == ROLE_OWN).map(|d| Gfn::new(d.next))
}

/// What a twin's entry should be.
enum Want {
    Entry(Entry),
    /// A huge page of the guest that the host does not back with one: a page of smaller entries.
    Splinter,
    /// The host has not backed this frame.
    Missing(Gfn),
}

/// An entry of a twin that waits for the host to back a frame.
#[derive(Debug)]
struct Wanting {
    own: Slot<GuestPhys>,
    seen: Entry,
    at: Slot<GuestPhys>,
    level: u8,
    part: Entry,
    frame: Gfn,
}

/// Page tables with twins.
pub struct Twin {
    array: Arc<HostArray>,
    pages: Arc<TwinPages>,
    fixed: Option<NodeId>,
    levels: u8,
    /// The [`HostArray::epoch`] at which all entries were looked at last.
    epoch: u64,
    wanting: Vec<Wanting>,
    /// Pages of smaller entries, by the entry of a twin (or of such a page) that leads to them.
    splinters: BTreeMap<(Gfn, usize), Gfn>,
    /// Those that nothing leads to any more.
    dropped: Vec<Gfn>,
}

impl fmt::Debug for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twin")
            .field("wanting", &self.wanting.len())
            .field("splinters", &self.splinters.len())
            .finish_non_exhaustive()
    }
}

impl Twin {
    /// For a process of the guest that `array` is for. Pages are counted in `pages`.
    pub fn new(array: Arc<HostArray>, pages: Arc<TwinPages>) -> Self {
        let epoch = array.epoch();
        Twin {
            array,
            pages,
            fixed: None,
            levels: 0,
            epoch,
            wanting: Vec::new(),
            splinters: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    /// All table pages on this node.
    #[must_use]
    pub fn fixed(mut self, node: Option<NodeId>) -> Self {
        self.fixed = node;
        self
    }

    fn pair<M: TableMemory<Space = GuestPhys>>(
        &self,
        env: &mut TableEnv<'_, M>,
        node: NodeId,
    ) -> Result<Gfn, NoFrame> {
        let node = self.fixed.unwrap_or(node);
        let own = env.new_table(node, false)?;
        let twin = match env.new_table(node, false) {
            Ok(twin) => twin,
            Err(e) => {
                env.free_table(own);
                return Err(e);
            }
        };
        for (page, other, role) in [(own, twin, ROLE_OWN), (twin, own, ROLE_TWIN)] {
            if let Some(d) = env.mem.descriptor_mut(page) {
                (d.next, d.role) = (other.number(), role);
            }
        }
        self.pages.twins.fetch_add(1, Ordering::Relaxed);
        Ok(own)
    }

    /// What the twin of `entry` should be.
    fn derive<M: TableMemory<Space = GuestPhys>>(&self, mem: &M, entry: Entry, level: u8) -> Want {
        if !entry.is_present() {
            return Want::Entry(Entry::EMPTY);
        }
        if entry.is_table(level) {
            // Without a twin the child cannot be walked: a fault each time, but never a wrong path.
            let Some(child) = twin_of(mem, entry.frame()) else { return Want::Entry(Entry::EMPTY) };
            return match self.array.get(child) {
                Some(given) => Want::Entry(given.entry(entry.without(HARDWARE))),
                None => Want::Missing(child),
            };
        }
        let size = PageSize::from_level(level).unwrap_or_default();
        let first: Gfn = entry.leaf_frame(size);
        match self.array.get(first) {
            None => Want::Missing(first),
            // Smaller pages of the host may lie anywhere.
            Some(given) if given.size() < size => Want::Splinter,
            // Bits below a huge leaf's frame (PAT) stay as they are.
            Some(given) => Want::Entry(given.entry(entry.with_frame(first)).without(HARDWARE)),
        }
    }

    /// Entry `index` of the page of smaller entries for the huge leaf `entry` of `level`.
    fn part(entry: Entry, level: u8, index: usize) -> Entry {
        let size = PageSize::from_level(level).unwrap_or_default();
        let pages = size.frames() / ENTRIES as u64;
        let first: Gfn = entry.leaf_frame(size);
        let flags = entry.without(Flags::PAT_HUGE).without(HARDWARE);
        let flags = if level == 2 { flags.without(Flags::PAGE_SIZE) } else { flags };
        flags.with_frame(first.offset(index as u64 * pages))
    }

    /// What hardware set in the twin entry at `at` and in what it leads to.
    fn bits<M: TableMemory<Space = GuestPhys>>(
        &self,
        env: &mut TableEnv<'_, M>,
        at: Slot<GuestPhys>,
    ) -> Flags {
        let entry = env.mem.load(at);
        let Some(&page) = self.splinters.get(&(at.table, at.index)) else {
            return if entry.is_present() { Flags(entry.0 & HARDWARE.0) } else { Flags::NONE };
        };
        // The pointer's own A says that a walker came by, perhaps to find nothing below.
        env.passed(page, &(0..ENTRIES), 0);
        (0..ENTRIES).fold(Flags::NONE, |bits, index| bits | self.bits(env, Slot::new(page, index)))
    }

    /// Empties the twin entry at `at` and returns what hardware had set.
    fn clear<M: TableMemory<Space = GuestPhys>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: Slot<GuestPhys>,
    ) -> Flags {
        let entry = env.mem.swap(at, Entry::EMPTY);
        let mut bits = if entry.is_present() { Flags(entry.0 & HARDWARE.0) } else { Flags::NONE };
        if let Some(page) = self.splinters.remove(&(at.table, at.index)) {
            env.passed(page, &(0..ENTRIES), ENTRIES);
            bits = Flags::NONE;
            for index in 0..ENTRIES {
                bits = bits | self.clear(env, Slot::new(page, index));
            }
            self.dropped.push(page);
        }
        bits
    }

    /// Makes the twin entry at `at` what it should be for `entry`, a guest's entry or
    /// a part of one; `own` is where the guest's is. With `all`, also all parts that
    /// a page of smaller entries has. Whether anything changed.
    fn mirror<M: TableMemory<Space = GuestPhys>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        own: Slot<GuestPhys>,
        at: Slot<GuestPhys>,
        level: u8,
        entry: Entry,
    ) -> bool {
        let told = env.mem.load(at);
        let split = self.splinters.contains_key(&(at.table, at.index));
        if entry.is_present() {
            // The array's slot.
            env.work.table_reads[env.node.index()] += 1;
        }
        match self.derive(env.mem, entry, level) {
            Want::Entry(want) => {
                if !split && (told.0 ^ want.0) & !HARDWARE.0 == 0 {
                    return false;
                }
                let bits = self.clear(env, at);
                self.keep(env, own, bits);
                env.store(at, want);
                true
            }
            Want::Missing(frame) => {
                let bits = self.clear(env, at);
                self.keep(env, own, bits);
                if self.wanting.len() < MOST_WANTING {
                    let seen = env.mem.load(own).without(HARDWARE);
                    self.wanting.push(Wanting { own, seen, at, level, part: entry, frame });
                }
                true
            }
            Want::Splinter => {
                let page = match self.splinters.get(&(at.table, at.index)) {
                    Some(&page) => page,
                    None => {
                        let bits = self.clear(env, at);
                        self.keep(env, own, bits);
                        let node = env.frames.node_of(at.table);
                        // Without a page for it the entry stays empty: a fault asks again.
                        let Ok(page) = env.new_table(node, false) else { return true };
                        if let Some(d) = env.mem.descriptor_mut(page) {
                            d.role = ROLE_SPLINTER;
                        }
                        self.pages.splinters.fetch_add(1, Ordering::Relaxed);
                        self.splinters.insert((at.table, at.index), page);
                        page
                    }
                };
                env.passed(page, &(0..ENTRIES), ENTRIES);
                for index in 0..ENTRIES {
                    let part = Self::part(entry, level, index);
                    let want = match self.derive(env.mem, part, level - 1) {
                        Want::Entry(want) => want,
                        // Filled when it is used.
                        Want::Missing(_) | Want::Splinter => Entry::EMPTY,
                    };
                    let slot = Slot::new(page, index);
                    let old = env.mem.load(slot);
                    if (old.0 ^ want.0) & !HARDWARE.0 != 0 && !self.splinters.contains_key(&(page, index)) {
                        let bits = self.clear(env, slot);
                        self.keep(env, own, bits);
                        env.mem.store(slot, want);
                    }
                }
                self.link(env, own, at, level, entry, page)
            }
        }
    }

    /// Points the twin entry at `at` to a page of smaller entries.
    fn link<M: TableMemory<Space = GuestPhys>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        own: Slot<GuestPhys>,
        at: Slot<GuestPhys>,
        level: u8,
        entry: Entry,
        page: Gfn,
    ) -> bool {
        let Some(given) = self.array.get(page) else {
            if self.wanting.len() < MOST_WANTING {
                let seen = env.mem.load(own).without(HARDWARE);
                self.wanting.push(Wanting { own, seen, at, level, part: entry, frame: page });
            }
            return true;
        };
        let want = given.entry(Entry::table(page));
        if (env.mem.load(at).0 ^ want.0) & !HARDWARE.0 != 0 {
            env.store(at, want);
        }
        true
    }

    /// What hardware had set in a twin's entry that goes is kept in the guest's own.
    fn keep<M: TableMemory<Space = GuestPhys>>(
        &self,
        env: &mut TableEnv<'_, M>,
        own: Slot<GuestPhys>,
        bits: Flags,
    ) {
        if bits != Flags::NONE {
            env.mem.modify(own, bits, Flags::NONE);
        }
    }

    /// Sets and clears flags in the twin entry at `at` and in all that it leads to as parts.
    fn change<M: TableMemory<Space = GuestPhys>>(
        &self,
        env: &mut TableEnv<'_, M>,
        at: Slot<GuestPhys>,
        set: Flags,
        clear: Flags,
    ) -> Flags {
        let mut bits = Flags::NONE;
        if let Some(&page) = self.splinters.get(&(at.table, at.index)) {
            env.passed(page, &(0..ENTRIES), ENTRIES);
            for index in 0..ENTRIES {
                bits = bits | self.change(env, Slot::new(page, index), set, clear);
            }
            return bits;
        }
        if env.mem.load(at).is_present() {
            // A page of smaller entries keeps no PS of level 1.
            let old = env.mem.modify(at, set, clear);
            bits = Flags(old.0 & HARDWARE.0);
        }
        bits
    }

    /// Mends the twin of one entry for an access to `addr`.
    fn mend<I: Space, M: TableMemory<Space = GuestPhys>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        own: Slot<GuestPhys>,
        at: Slot<GuestPhys>,
        level: u8,
        entry: Entry,
        addr: Addr<I>,
    ) -> bool {
        let page = self.splinters.get(&(at.table, at.index)).copied();
        let (Some(page), Want::Splinter) = (page, self.derive(env.mem, entry, level)) else {
            let changed = self.mirror(env, own, at, level, entry);
            let Some(&page) = self.splinters.get(&(at.table, at.index)) else { return changed };
            self.mend_part(env, own, page, level, entry, addr);
            return true;
        };
        let linked = self
            .array
            .get(page)
            .is_some_and(|given| (env.mem.load(at).0 ^ given.entry(Entry::table(page)).0) & !HARDWARE.0 == 0);
        let changed = !linked && self.link(env, own, at, level, entry, page);
        self.mend_part(env, own, page, level, entry, addr) | changed
    }

    fn mend_part<I: Space, M: TableMemory<Space = GuestPhys>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        own: Slot<GuestPhys>,
        page: Gfn,
        level: u8,
        entry: Entry,
        addr: Addr<I>,
    ) -> bool {
        let index = addr.index(level - 1);
        let part = Self::part(entry, level, index);
        self.mend(env, own, Slot::new(page, index), level - 1, part, addr)
    }

    /// Looks at all entries of a table and of those below.
    fn sweep<M: TableMemory<Space = GuestPhys>>(&mut self, env: &mut TableEnv<'_, M>, table: Gfn, level: u8) {
        let Some(twin) = twin_of(env.mem, table) else { return };
        env.passed(table, &(0..ENTRIES), 0);
        env.passed(twin, &(0..ENTRIES), 0);
        for index in 0..ENTRIES {
            let (own, at) = (Slot::new(table, index), Slot::new(twin, index));
            let entry = env.mem.load(own);
            self.mirror(env, own, at, level, entry);
            // Not every hole is filled: only what is used.
            self.wanting.clear();
            if entry.is_table(level) {
                self.sweep(env, entry.frame(), level - 1);
            }
        }
    }

    fn free_splinters<M: TableMemory<Space = GuestPhys>>(&mut self, env: &mut TableEnv<'_, M>, table: Gfn) {
        let range = (table, 0)..(table, ENTRIES);
        let under: Vec<_> = self.splinters.range(range).map(|(&key, &page)| (key, page)).collect();
        for (key, page) in under {
            self.splinters.remove(&key);
            self.free_splinters(env, page);
            self.free_page(env, page);
        }
    }

    fn free_page<M: TableMemory<Space = GuestPhys>>(&mut self, env: &mut TableEnv<'_, M>, page: Gfn) {
        self.pages.splinters.fetch_sub(1, Ordering::Relaxed);
        env.free_table(page);
    }
}

impl<I: Space, M: TableMemory<Space = GuestPhys>> TableOps<I, M> for Twin {
    fn create_root(&mut self, env: &mut TableEnv<'_, M>, level: u8, node: NodeId) -> Result<Gfn, NoFrame> {
        self.levels = level;
        self.pair(env, node)
    }

    /// The guest's own root: for nested mode, in which the guest's kernel runs.
    /// In pass-through mode the host loads the root's [twin](twin_of).
    fn hardware_root(&self, master: Gfn, _node: NodeId) -> Gfn {
        master
    }

    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        _at: TableAt<I>,
        node: NodeId,
        _visibility: Visibility,
    ) -> Result<NewTable<GuestPhys>, NoFrame> {
        Ok(NewTable { frame: self.pair(env, node)?, fresh: true, link: Flags::NONE })
    }

    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Gfn, _at: TableAt<I>) {
        if let Some(twin) = twin_of(env.mem, table) {
            self.free_splinters(env, twin);
            self.wanting.retain(|wanting| wanting.own.table != table);
            self.pages.twins.fetch_sub(1, Ordering::Relaxed);
            env.free_table(twin);
            env.free_table(table);
        } else {
            self.free_page(env, table);
        }
    }

    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, _level: u8) -> Entry {
        let own = env.load(slot);
        match twin_of(env.mem, slot.table) {
            Some(twin) if own.is_present() => {
                let at = Slot::new(twin, slot.index);
                env.load(at);
                own.with(self.bits(env, at))
            }
            _ => own,
        }
    }

    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, level: u8, entry: Entry) {
        env.store(slot, entry);
        if let Some(twin) = twin_of(env.mem, slot.table) {
            let at = Slot::new(twin, slot.index);
            // What was there before is nobody's: bits of it are not the new entry's.
            if env.mem.load(at) != Entry::EMPTY {
                self.clear(env, at);
            }
            self.mirror(env, slot, at, level, entry);
        }
    }

    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<GuestPhys>, _level: u8) -> Entry {
        let own = env.swap(slot, Entry::EMPTY);
        let Some(twin) = twin_of(env.mem, slot.table) else { return own };
        env.work.table_writes[env.frames.node_of(twin).index()] += 1;
        let bits = self.clear(env, Slot::new(twin, slot.index));
        if own.is_present() { own.with(bits) } else { own }
    }

    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<GuestPhys>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        let old = env.modify(slot, set, clear);
        let Some(twin) = twin_of(env.mem, slot.table) else { return old };
        let at = Slot::new(twin, slot.index);
        env.work.table_writes[env.frames.node_of(twin).index()] += 1;
        let new = old.without(clear).with(set);
        let bits = match (old.is_present(), new.is_present()) {
            (true, true) => {
                // The hardware's bits of the twin's are cleared, or set, as the guest's own are.
                self.change(env, at, Flags(set.0 & SHARED), Flags(clear.0 & SHARED))
            }
            (true, false) => self.clear(env, at),
            (false, true) => {
                self.mirror(env, slot, at, level, new);
                Flags::NONE
            }
            (false, false) => Flags::NONE,
        };
        if old.is_present() { old.with(bits) } else { old }
    }

    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Gfn,
        level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        // Two passes over lines, one of the table and one of its twin, not one over the pages per entry.
        let (before, mut writes) = (*env.work, 0);
        for index in range.clone() {
            let slot = Slot::new(table, index);
            let seen = TableOps::<I, M>::read(self, env, slot, level);
            let new = f(index, seen);
            if new == seen {
                continue;
            }
            let old = if same_page(seen, new) {
                let (set, clear) = (Flags(new.0 & !seen.0), Flags(seen.0 & !new.0));
                TableOps::<I, M>::modify(self, env, slot, level, set, clear)
            } else {
                let old = TableOps::<I, M>::take(self, env, slot, level);
                TableOps::<I, M>::write(self, env, slot, level, new);
                old
            };
            writes += 1;
            done(index, old, new);
        }
        (env.work.table_reads, env.work.table_writes) = (before.table_reads, before.table_writes);
        env.passed(table, &range, writes);
        if let Some(twin) = twin_of(env.mem, table) {
            env.passed(twin, &range, writes);
        }
    }

    fn owed(&mut self, flush: &mut Flush<I, GuestPhys>) {
        for page in self.dropped.drain(..) {
            // Where it was is not known here; it happens when a huge page goes that the host
            // backed with small ones.
            flush.add_all();
            flush.table_gone(paging::frames::NodeSet::ALL, page, TableAt { base: Addr::new(0), level: 1 });
        }
    }

    fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: Gfn,
        addr: Addr<I>,
        _node: NodeId,
    ) -> Result<bool, NoFrame> {
        let (mut table, mut level, mut repaired) = (master, self.levels, false);
        while let Some(twin) = twin_of(env.mem, table) {
            let own = Slot::new(table, addr.index(level));
            let at = Slot::new(twin, own.index);
            let entry = env.load(own);
            env.load(at);
            repaired |= self.mend(env, own, at, level, entry, addr);
            if !entry.is_table(level) {
                break;
            }
            (table, level) = (entry.frame(), level - 1);
        }
        self.pages.repairs.fetch_add(u64::from(repaired), Ordering::Relaxed);
        Ok(repaired)
    }

    fn settle(&mut self, env: &mut TableEnv<'_, M>, master: Gfn, touch: &mut dyn FnMut(Gfn)) {
        let epoch = self.array.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.sweep(env, master, self.levels);
        }
        // A page of smaller entries, once its first frame is there, may need its own backed.
        for _ in 0..4 {
            for wanting in core::mem::take(&mut self.wanting) {
                if self.array.get(wanting.frame).is_none() {
                    touch(wanting.frame);
                }
                if env.mem.load(wanting.own).without(HARDWARE) == wanting.seen {
                    self.mirror(env, wanting.own, wanting.at, wanting.level, wanting.part);
                }
            }
            if self.wanting.is_empty() {
                return;
            }
        }
        // The host has no memory: the access itself will say so.
        self.wanting.clear();
    }

    fn copies(&self, mem: &M, table: Gfn, visit: &mut dyn FnMut(Frame<GuestPhys>)) {
        visit(table);
        if let Some(twin) = twin_of(mem, table) {
            visit(twin);
        }
    }
}
