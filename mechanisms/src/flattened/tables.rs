//! Software's side: an ordinary tree, whose lower tables lie where a merged table has them, and the copies of
//! the upper tables that the walker reads.

use super::{MERGED, ORDER};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::NodeSet;
use paging::ops::update_copy;
use paging::{
    Addr, Entry, Flags, Flush, Frame, NewTable, NoFrame, NodeId, PhysSpace, Slot, Space, TableAt, TableEnv,
    TableMemory, TableOps, Visibility,
};

/// Pages of a merged table.
const PAGES: usize = 1 << ORDER;
/// What software's copy of an entry must be told that the walker set in its own.
const USED: [Flags; 2] = [Flags::ACCESSED, Flags::DIRTY];

/// Which pages of a merged table are level-1 tables of software's tree.
type InUse = [u64; PAGES / 64];

/// A table above level 2 and what the walker reads in its place.
#[derive(Clone, Copy, Debug)]
struct Upper<S: Space> {
    /// The first address that it translates.
    base: u64,
    level: u8,
    /// The table as software knows it.
    name: Frame<S>,
    /// What the walker reads.
    walked: Frame<S>,
    /// That is a table of this level and the next, 512 pages.
    merged: bool,
    /// That is a page of the merged table above, freed with it.
    inside: bool,
}

/// How the levels below a level-2 table are.
#[derive(Clone, Copy, Debug)]
enum State<S: Space> {
    /// Nothing is below it yet.
    New,
    /// Merged with it, from this frame on.
    Merged(Frame<S>, InUse),
    /// Tables of their own.
    Apart,
}

/// A level-2 table: a GiB.
#[derive(Clone, Copy, Debug)]
struct Gib<S: Space> {
    base: u64,
    state: State<S>,
}

/// Flattened tables of one address space. See the module.
#[derive(Debug)]
pub struct Flat<S: PhysSpace> {
    fixed: Option<NodeId>,
    /// Few: one for 512 GiB and the roots.
    uppers: Vec<Upper<S>>,
    /// Level-2 tables by frame number.
    gibs: BTreeMap<u64, Gib<S>>,
    /// The one that is linked for a GiB, by its first address. One that was unlinked before is
    /// in `gibs` until its flush is paid.
    linked: BTreeMap<u64, u64>,
    /// Level-2 tables whose levels are merged, by frame number / 512 of the merged table.
    blocks: BTreeMap<u64, u64>,
    /// Merged tables that no longer are, with the pages to free and the first address: for the next flush.
    owed: Vec<(Frame<S>, InUse, u64)>,
}

const GIB: u64 = 1 << 30;

fn bit(page: usize) -> (usize, u64) {
    (page / 64, 1 << (page % 64))
}

/// The pages that are not in use.
fn unused(used: &InUse) -> impl Iterator<Item = usize> + '_ {
    (0..PAGES).filter(|page| {
        let (word, bit) = bit(*page);
        used[word] & bit == 0
    })
}

impl<S: PhysSpace> Flat<S> {
    /// Tables near who wants them, or with `fixed` all on one node.
    pub fn new(fixed: Option<NodeId>) -> Self {
        Flat {
            fixed,
            uppers: Vec::new(),
            gibs: BTreeMap::new(),
            linked: BTreeMap::new(),
            blocks: BTreeMap::new(),
            owed: Vec::new(),
        }
    }

    fn place(&self, wanted: NodeId) -> NodeId {
        self.fixed.unwrap_or(wanted)
    }

    fn upper(&self, name: Frame<S>) -> Option<&Upper<S>> {
        self.uppers.iter().find(|upper| upper.name == name)
    }

    /// The table of `level` that is linked for `addr`.
    fn upper_for(&self, level: u8, addr: u64) -> Option<&Upper<S>> {
        let base = addr >> (12 + 9 * u32::from(level)) << (12 + 9 * u32::from(level));
        self.uppers.iter().rev().find(|upper| upper.level == level && upper.base == base)
    }

    /// Where the walker finds what software has in `slot` of a table above level 2; nowhere, if the entry's
    /// level is merged with the next.
    fn walked_slot(&self, slot: Slot<S>, level: u8) -> Option<Slot<S>> {
        if level < 3 {
            return None;
        }
        let upper = self.upper(slot.table).filter(|upper| !upper.merged)?;
        Some(Slot::new(upper.walked, slot.index))
    }

    /// What the walker finds in the place of software's `entry`.
    fn walked_entry(&self, entry: Entry, level: u8) -> Entry {
        if !entry.is_table(level) {
            return entry;
        }
        let child: Frame<S> = entry.frame();
        let (frame, merged) = match level {
            3 => match self.gibs.get(&child.number()) {
                Some(Gib { state: State::Merged(first, _), .. }) => (*first, true),
                _ => return entry,
            },
            _ => match self.upper(child) {
                Some(upper) => (upper.walked, upper.merged),
                None => return entry,
            },
        };
        let entry = entry.with_frame(frame);
        if merged { entry.with(MERGED) } else { entry }
    }

    /// Adds the table `name` for `at`, above level 2, with what the walker reads in its place.
    fn add_upper<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        name: Frame<S>,
        (base, level): (u64, u8),
        node: NodeId,
    ) -> Result<(), NoFrame> {
        let above = (level == 3).then(|| self.upper_for(4, base)).flatten().filter(|above| above.merged);
        let (walked, merged, inside) = match above {
            Some(above) => {
                let page = above.walked.offset(Addr::<S>::new(base).index(4) as u64);
                // Empty, whatever was linked here before.
                env.mem.create(page);
                (page, false, true)
            }
            None => match (level == 4).then(|| env.new_tables(node, ORDER)) {
                Some(Ok(first)) => (first, true, false),
                _ => (env.new_table(node, false)?, false, false),
            },
        };
        self.uppers.push(Upper { base, level, name, walked, merged, inside });
        Ok(())
    }

    /// A table page for software, and for the walker if it is above level 2.
    fn new_table<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: (u64, u8),
        node: NodeId,
    ) -> Result<Frame<S>, NoFrame> {
        let name = env.new_table(node, false)?;
        if at.1 >= 3
            && let Err(none) = self.add_upper(env, name, at, node)
        {
            env.free_table(name);
            return Err(none);
        }
        Ok(name)
    }

    /// The level-1 table for `addr` inside a merged table, if its GiB is merged or can be.
    fn inside<M: TableMemory<Space = S>>(
        &mut self,
        env: &mut TableEnv<'_, M>,
        addr: u64,
        node: NodeId,
    ) -> Option<Frame<S>> {
        let name = *self.linked.get(&(addr / GIB))?;
        let gib = self.gibs.get_mut(&name)?;
        if let State::New = gib.state {
            gib.state = match env.new_tables(node, ORDER) {
                Ok(first) => State::Merged(first, InUse::default()),
                Err(_) => State::Apart,
            };
            if let State::Merged(first, _) = gib.state {
                self.blocks.insert(first.number() >> ORDER, name);
                self.relink(env, name, addr);
            }
        }
        let page = Addr::<S>::new(addr).index(2);
        let (word, bit) = bit(page);
        match &mut self.gibs.get_mut(&name)?.state {
            State::Merged(first, used) if used[word] & bit == 0 => {
                used[word] |= bit;
                return Some(first.offset(page as u64));
            }
            State::Merged(..) => {}
            State::New | State::Apart => return None,
        }
        // What was there is unlinked, and the flush that frees it not yet paid.
        self.set_apart(env, name);
        None
    }

    /// Lets the walker's level-3 entry lead where the GiB of level-2 table `name` is now.
    fn relink<M: TableMemory<Space = S>>(&self, env: &mut TableEnv<'_, M>, name: u64, addr: u64) {
        let Some(upper) = self.upper_for(3, addr) else { return };
        let index = Addr::<S>::new(addr).index(3);
        let entry = env.load(Slot::new(upper.name, index));
        if entry.is_table(3) && entry.frame::<S>().number() == name {
            env.store(Slot::new(upper.walked, index), self.walked_entry(entry, 3));
        }
    }

    /// The level-2 table `name` has, or gets, entries that a merged table has not: the levels of its GiB are
    /// separate from now on.
    fn set_apart<M: TableMemory<Space = S>>(&mut self, env: &mut TableEnv<'_, M>, name: u64) {
        let Some(gib) = self.gibs.get_mut(&name) else { return };
        let (base, state) = (gib.base, core::mem::replace(&mut gib.state, State::Apart));
        if let State::Merged(first, used) = state {
            self.blocks.remove(&(first.number() >> ORDER));
            self.owed.push((first, used, base));
            self.relink(env, name, base);
        }
    }
}

impl<I: Space, M: TableMemory> TableOps<I, M> for Flat<M::Space> {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame> {
        self.new_table(env, (0, level), self.place(node))
    }

    fn hardware_root(&self, master: Frame<M::Space>, _node: NodeId) -> Frame<M::Space> {
        self.upper(master).map_or(master, |root| root.walked)
    }

    fn root_link(&self, master: Frame<M::Space>, _node: NodeId) -> Flags {
        match self.upper(master) {
            Some(root) if root.merged => MERGED,
            _ => Flags::NONE,
        }
    }

    fn ordinary_root(&self, master: Frame<M::Space>, _node: NodeId) -> Frame<M::Space> {
        master
    }

    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: NodeId,
        _visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let (node, base) = (self.place(node), at.base.raw());
        if at.level == 1
            && let Some(frame) = self.inside(env, base, node)
        {
            return Ok(NewTable { frame, fresh: true, link: Flags::NONE });
        }
        let frame = self.new_table(env, (base, at.level), node)?;
        if at.level == 2 {
            self.gibs.insert(frame.number(), Gib { base, state: State::New });
            self.linked.insert(base / GIB, frame.number());
        }
        Ok(NewTable { frame, fresh: true, link: Flags::NONE })
    }

    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, at: TableAt<I>) {
        let number = table.number();
        match at.level {
            1 => {
                let gib = self.blocks.get(&(number >> ORDER)).and_then(|name| self.gibs.get_mut(name));
                if let Some(Gib { state: State::Merged(_, used), .. }) = gib {
                    let (word, bit) = bit(number as usize % PAGES);
                    used[word] &= !bit;
                    // It stays a page of the merged table, and empty.
                    env.mem.create(table);
                    return;
                }
            }
            2 => {
                if let Some(Gib { base, state }) = self.gibs.remove(&number) {
                    if self.linked.get(&(base / GIB)) == Some(&number) {
                        self.linked.remove(&(base / GIB));
                    }
                    if let State::Merged(first, used) = state {
                        self.blocks.remove(&(first.number() >> ORDER));
                        // Those in use are freed as the tables that they are.
                        unused(&used).for_each(|page| env.free_table(first.offset(page as u64)));
                    }
                }
            }
            _ => {
                if let Some(at) = self.uppers.iter().position(|upper| upper.name == table) {
                    let upper = self.uppers.remove(at);
                    let pages = if upper.merged { PAGES as u64 } else { u64::from(!upper.inside) };
                    (0..pages).for_each(|page| env.free_table(upper.walked.offset(page)));
                }
            }
        }
        env.free_table(table);
    }

    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry {
        let entry = env.load(slot);
        match self.walked_slot(slot, level) {
            Some(walked) if entry.is_present() => and_used(entry, env.load(walked)),
            _ => entry,
        }
    }

    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8, entry: Entry) {
        env.store(slot, entry);
        if let Some(walked) = self.walked_slot(slot, level) {
            env.store(walked, self.walked_entry(entry, level));
        } else if level == 2 && !entry.is_empty() && !entry.is_table(2) {
            self.set_apart(env, slot.table.number());
        }
    }

    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry {
        let entry = env.swap(slot, Entry::EMPTY);
        match self.walked_slot(slot, level) {
            Some(walked) => and_used(entry, env.swap(walked, Entry::EMPTY)),
            None => entry,
        }
    }

    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        let entry = env.modify(slot, set, clear);
        match self.walked_slot(slot, level) {
            Some(walked) => and_used(entry, env.modify(walked, set, clear)),
            None => entry,
        }
    }

    fn update(
        &mut self,
        env: &mut TableEnv<'_, M>,
        table: Frame<M::Space>,
        level: u8,
        range: Range<usize>,
        f: &mut dyn FnMut(usize, Entry) -> Entry,
        done: &mut dyn FnMut(usize, Entry, Entry),
    ) {
        if level < 3 {
            let mut huge = false;
            update_copy(env, table, range, f, &mut |index, old, new| {
                huge |= level == 2 && !new.is_empty() && !new.is_table(2);
                done(index, old, new);
            });
            if huge {
                self.set_apart(env, table.number());
            }
            return;
        }
        for index in range {
            let slot = Slot::new(table, index);
            let ops = &mut *self as &mut dyn TableOps<I, M>;
            let seen = ops.read(env, slot, level);
            let new = f(index, seen);
            if new != seen {
                let old = ops.take(env, slot, level);
                // What the walker set at the last moment belongs to a page that stays.
                let new = if paging::ops::same_page(old, new) { late(seen, old, new) } else { new };
                ops.write(env, slot, level, new);
                done(index, old, new);
            }
        }
    }

    fn owed(&mut self, flush: &mut Flush<I, M::Space>) {
        for (first, used, base) in self.owed.drain(..) {
            flush.add_on(NodeSet::ALL, Addr::new(base), GIB);
            for page in unused(&used) {
                let at = TableAt { base: Addr::new(base), level: 2 }.child(page);
                flush.table_gone(NodeSet::ALL, first.offset(page as u64), at);
            }
        }
    }

    fn copies(&self, _mem: &M, table: Frame<M::Space>, visit: &mut dyn FnMut(Frame<M::Space>)) {
        visit(table);
        if let Some(upper) = self.upper(table).filter(|upper| !upper.merged) {
            visit(upper.walked);
        }
    }
}

/// `entry` with what the walker set in its copy.
fn and_used(entry: Entry, walked: Entry) -> Entry {
    USED.into_iter().filter(|bit| walked.has(*bit)).fold(entry, Entry::with)
}

/// `new` with what is set in `old` and was not in `seen`.
fn late(seen: Entry, old: Entry, new: Entry) -> Entry {
    USED.into_iter().filter(|bit| old.has(*bit) && !seen.has(*bit)).fold(new, Entry::with)
}
