//! The tables of a group's member: [`TableOps`] over any other.

use super::areas::{Areas, Piece};
use super::group::{Membership, Origin, Process, Sharer};
use super::mask::Block;
use super::share::{Act, MASK_PAGE, OWNED};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use paging::flush::Reach;
use paging::frames::{NoFrame, NodeId, NodeSet};
use paging::{
    Addr, Content, Entry, Flags, Flush, Frame, NewTable, Slot, Space, TableAt, TableEnv, TableMemory,
    TableOps, Visibility,
};

/// Sharers of a table at most: its counter has 16 bits.
pub const MAX_SHARERS: usize = u16::MAX as usize;

/// Tables whose leaf tables the members of a group share, made by `T`.
///
/// All members' inner implementations must be the same (with Mitosis: replicated
/// on the same nodes from the start). Shared tables do not move and are not
/// replicated later: `rebalance` and `replicate` do nothing.
///
/// A shared table holds one reference to each frame that it maps, however many
/// link it. It is let go of by who unmaps as the last sharer, in whose [`Flush`] the
/// leaves are; a copy of it takes references of its own
/// ([`paging::TableFrames::leaf_copied`]).
pub struct SharedTables<T, I: Space, M: TableMemory> {
    inner: T,
    member: Membership<M::Space>,
    /// The table that the next entry written will point to, for a new sharer.
    linking: Option<(Block, Frame<M::Space>)>,
    /// The block of the parent's table that `fork` copies now, where TLB entries
    /// are shared and tables are not: the copy is one more sharer's.
    copying: Option<Block>,
    owed: Flush<I, M::Space>,
}

impl<T: fmt::Debug, I: Space, M: TableMemory> fmt::Debug for SharedTables<T, I, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTables")
            .field("inner", &self.inner)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl<T: TableOps<I, M>, I: Space, M: TableMemory> SharedTables<T, I, M> {
    /// The tables of `member`, made by `inner`.
    pub fn new(inner: T, member: Membership<M::Space>) -> Self {
        SharedTables { inner, member, linking: None, copying: None, owed: Flush::none() }
    }

    /// Whose they are.
    pub fn process(&self) -> &Process<M::Space> {
        self.member.process()
    }

    fn act(&mut self) -> Act<'_, T, I, M> {
        let process = self.member.process();
        Act { group: process.group().lock(), me: process.id(), inner: &mut self.inner, owed: &mut self.owed }
    }

    /// The block's table as one more sharer, made if there is none.
    fn share(
        &mut self,
        env: &mut TableEnv<'_, M>,
        block: Block,
        node: NodeId,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let mut act = self.act();
        let known = act.group.blocks.get(&block).map(|shared| shared.table);
        let (frame, fresh) = match known {
            Some(Some(table)) => {
                act.enter(env, block);
                let found = paging::ops::entries(env.mem, table).count() as u64;
                act.group.stats.tables_linked += 1;
                act.group.stats.leaves_given += found;
                (table, false)
            }
            _ => {
                let table = act.inner.alloc(env, block.at(), node, Visibility::Private)?.frame;
                let me = act.me;
                if known.is_none() {
                    act.begin(env, block, table, [Sharer { member: me, slot: None }].into(), false);
                } else {
                    act.enter(env, block);
                }
                (table, true)
            }
        };
        let link = act.link(block);
        drop(act);
        self.linking = Some((block, frame));
        Ok(NewTable { frame, fresh, link })
    }

    /// A table for `me` alone.
    fn private(
        &mut self,
        env: &mut TableEnv<'_, M>,
        block: Block,
        node: NodeId,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let mut act = self.act();
        let frame = act.inner.alloc(env, block.at(), node, Visibility::Private)?.frame;
        let me = act.me;
        let known = act.group.members.get(&me).is_some_and(|m| m.own.contains_key(&block));
        let apart = act.group.is_apart(block, me);
        act.keep(block, Origin::Fresh);
        let mut fresh = true;
        if !known && !apart && act.group.must_part(block, me) {
            let shared = act.group.blocks.get(&block);
            let same = shared.and_then(|s| s.table).filter(|_| {
                let (Some(s), Some(m)) = (shared, act.group.members.get(&me)) else { return false };
                m.areas.touches(block.range()) && !m.areas.conflicts(&s.layout, block.range(), s.inherited)
            });
            let parted = act.part(env, block, me);
            if let Some(table) = same {
                // As if it had linked the table and then changed something: what may
                // be cached of it is in the copy, and is flushed when it is changed.
                act.copy(env, block, table, frame);
                act.keep(block, Origin::Copy);
                fresh = false;
            } else if parted {
                act.owe_block(block, Reach::Shared);
            }
        }
        Ok(NewTable { frame, fresh, link: OWNED })
    }

    /// Whether a shared leaf may go into a shared table.
    fn may_share(&mut self, block: Block) -> bool {
        let act = self.act();
        let Some(member) = act.group.members.get(&act.me) else { return false };
        let sharing = act.sharing();
        let (range, me) = (block.range(), act.me);
        if !member.areas.has_object(range.clone()) || member.own.contains_key(&block) {
            return false;
        }
        match act.group.blocks.get(&block) {
            None => sharing.tables || sharing.tlb,
            Some(shared) => {
                (sharing.tables || (sharing.tlb && !shared.unshared))
                    && !act.group.is_apart(block, me)
                    && !member.areas.conflicts(&shared.layout, range, shared.inherited)
                    && shared.sharers.len() < MAX_SHARERS
            }
        }
    }
}

/// Whether all that `table` holds are leaves, and it holds one.
fn holds_leaves<M: TableMemory>(mem: &M, table: Frame<M::Space>, level: u8) -> bool {
    let mut entries = paging::ops::entries(mem, table).peekable();
    entries.peek().is_some() && entries.all(|(_, entry)| !entry.is_table(level))
}

impl<T: TableOps<I, M>, I: Space, M: TableMemory> TableOps<I, M> for SharedTables<T, I, M> {
    fn create_root(
        &mut self,
        env: &mut TableEnv<'_, M>,
        level: u8,
        node: NodeId,
    ) -> Result<Frame<M::Space>, NoFrame> {
        let root = self.inner.create_root(env, level, node)?;
        let mut act = self.act();
        let me = act.me;
        if let Some(parent) = act.group.members.get(&me).and_then(|m| m.parent) {
            // What the parent changed the child has too, not what the group has.
            let blocks: Vec<Block> = act.group.blocks.keys().copied().collect();
            for block in blocks {
                if act.group.is_apart(block, parent) && act.part(env, block, me) {
                    act.owe_block(block, Reach::Shared);
                }
            }
        }
        Ok(root)
    }

    fn hardware_root(&self, master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.inner.hardware_root(master, node)
    }

    fn software_root(&self, master: Frame<M::Space>, node: NodeId) -> Frame<M::Space> {
        self.inner.software_root(master, node)
    }

    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, M>,
        at: TableAt<I>,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<NewTable<M::Space>, NoFrame> {
        let Some(block) = Block::of(at) else {
            let new = self.inner.alloc(env, at, node, visibility)?;
            return Ok(NewTable { link: new.link | OWNED, ..new });
        };
        let copied = self.copying.take_if(|copied| *copied == block).is_some();
        let shared = visibility == Visibility::Shared && self.may_share(block);
        if shared || copied { self.share(env, block, node) } else { self.private(env, block, node) }
    }

    fn free(&mut self, env: &mut TableEnv<'_, M>, table: Frame<M::Space>, at: TableAt<I>) {
        if at.level == MASK_PAGE {
            env.free_table(table);
        } else {
            self.inner.free(env, table, at);
        }
    }

    fn read(&self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry {
        self.inner.read(env, slot, level)
    }

    fn write(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8, entry: Entry) {
        if entry.is_table(level) {
            if let Some((block, frame)) = self.linking
                && block.level + 1 == level
                && frame == entry.frame()
            {
                self.linking = None;
                let mut act = self.act();
                if let Some(at) = act.group.sharer(block, act.me)
                    && let Some(shared) = act.group.blocks.get_mut(&block)
                {
                    shared.sharers[at].slot = Some(slot);
                }
            }
        } else if entry.is_leaf(level) {
            let users = env.mem.descriptor(slot.table).map_or(0, |d| d.users);
            if users > 0 {
                self.act().group.stats.leaves_given += u64::from(users);
            }
        }
        self.inner.write(env, slot, level, entry);
    }

    fn take(&mut self, env: &mut TableEnv<'_, M>, slot: Slot<M::Space>, level: u8) -> Entry {
        self.inner.take(env, slot, level)
    }

    fn modify(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        self.inner.modify(env, slot, level, set, clear)
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
        self.inner.update(env, table, level, range, f, done);
    }

    fn area(
        &mut self,
        env: &mut TableEnv<'_, M>,
        range: Range<u64>,
        content: Option<Content>,
    ) -> Result<(), NoFrame> {
        let mut act = self.act();
        let me = act.me;
        let Some(content) = content else {
            if let Some(member) = act.group.members.get_mut(&me) {
                member.areas.set(range, None);
            }
            return Ok(());
        };
        let piece = Some(Piece::new(range.start, content));
        let mut new = Areas::default();
        new.set(range.clone(), piece);
        let mut blocks: Vec<Block> = Vec::new();
        for level in 1..=3 {
            blocks.extend(act.group.blocks.range(Block::touched(level, &range)).map(|(block, _)| *block));
        }
        for &block in &blocks {
            let Some(at) = act.group.sharer(block, me) else { continue };
            let shared = &act.group.blocks[&block];
            if let Some(slot) = shared.sharers[at].slot
                && new.conflicts(&shared.layout, block.range(), shared.inherited)
            {
                let child = env.mem.load(slot).frame();
                act.own(env, slot, child, block, block.cut(&range), false)?;
            }
        }
        if let Some(member) = act.group.members.get_mut(&me) {
            member.areas.set(range.clone(), piece);
        }
        for block in blocks {
            if act.group.sharer(block, me).is_some() {
                if let Some(shared) = act.group.blocks.get_mut(&block) {
                    shared.layout.set(block.cut(&range), piece);
                }
                if act.divide(env, block) {
                    act.owe_block(block, Reach::Group);
                }
            } else if act.group.must_part(block, me) && act.part(env, block, me) {
                act.owe_block(block, Reach::Shared);
            } else if act.group.is_apart(block, me)
                && new.meets(&act.group.blocks[&block].layout, block.range(), true)
            {
                // Entries from before it was parted, for pages where it had nothing.
                let part = block.cut(&range);
                let len = part.end - part.start;
                act.owed.add_reaching(NodeSet::ALL, Reach::Shared, Addr::new(part.start), len);
            }
        }
        Ok(())
    }

    fn own(
        &mut self,
        env: &mut TableEnv<'_, M>,
        parent: Slot<M::Space>,
        child: Frame<M::Space>,
        at: TableAt<I>,
        range: Range<u64>,
        gone: bool,
    ) -> Result<Frame<M::Space>, NoFrame> {
        let Some(block) = Block::of(at) else { return Ok(child) };
        let mut act = self.act();
        match act.group.sharer(block, act.me) {
            Some(_) => act.own(env, parent, child, block, range, gone),
            None => Ok(child),
        }
    }

    fn others_use(&self, at: TableAt<I>, range: Range<u64>) -> bool {
        let Some(block) = Block::of(at) else { return false };
        let process = self.member.process();
        let group = process.group().lock();
        group.sharing.tables
            && group.sharer(block, process.id()).is_some()
            && group.blocks.get(&block).is_some_and(|shared| shared.sharers.len() > 1)
            && group.members.get(&process.id()).is_some_and(|m| m.areas.only_in(block.range(), &range))
    }

    fn unlink(&mut self, env: &mut TableEnv<'_, M>, parent: Slot<M::Space>, at: TableAt<I>) -> Entry {
        if let Some(block) = Block::of(at) {
            let mut act = self.act();
            let me = act.me;
            if !act.leave(env, block) {
                if let Some(member) = act.group.members.get_mut(&me) {
                    member.own.remove(&block);
                }
            } else if act.group.members.get(&me).is_some_and(|m| m.areas.touches(block.range()))
                && act.part(env, block, me)
            {
                // It gave its pages back and may touch them again: what the others keep is not for it.
                act.owe_block(block, Reach::Shared);
            }
        }
        self.inner.unlink(env, parent, at)
    }

    fn adopt(
        &mut self,
        env: &mut TableEnv<'_, M>,
        slot: Slot<M::Space>,
        table: Frame<M::Space>,
        at: TableAt<I>,
    ) -> Option<NewTable<M::Space>> {
        let block = Block::of(at)?;
        self.copying = None;
        let mut act = self.act();
        let me = act.me;
        let sharing = act.sharing();
        let member = act.group.members.get(&me)?;
        let parent = member.parent?;
        if member.own.contains_key(&block) || !(sharing.tables || sharing.tlb) {
            return None;
        }
        let linked = act.group.sharer(block, me).is_some();
        if !linked {
            let known = act.group.blocks.get(&block).map(|shared| shared.sharers.len());
            let with_parent = act.group.sharer(block, parent).is_some();
            let parents = act.group.members.get(&parent).is_some_and(|p| p.own.contains_key(&block));
            match known {
                Some(sharers) if with_parent && sharers < MAX_SHARERS => {
                    if sharing.tables {
                        act.enter(env, block);
                    }
                }
                None if parents && holds_leaves(env.mem, table, block.level) => {
                    if let Some(parent) = act.group.members.get_mut(&parent) {
                        parent.own.remove(&block);
                    }
                    let sharers =
                        [Sharer { member: parent, slot: Some(slot) }, Sharer { member: me, slot: None }];
                    act.begin(env, block, table, sharers.into(), true);
                    let link = act.link(block);
                    act.inner.modify(env, slot, block.level + 1, link, OWNED.without(link));
                    // The parent's own entries would stand beside the group's.
                    act.owe_block(block, Reach::Group);
                    act.owed.path_gone(NodeSet::ALL, Reach::Group, at);
                }
                None if !parents => return None,
                _ => {
                    // The child gets copies of what the parent has.
                    act.keep(block, Origin::Fresh);
                    return None;
                }
            }
            if sharing.tables {
                act.group.stats.tables_linked += 1;
                act.group.stats.tables_adopted += 1;
                act.group.stats.leaves_given += paging::ops::entries(env.mem, table).count() as u64;
            }
        }
        if !sharing.tables {
            // It is a sharer once it has the copy.
            if !linked {
                act.leave(env, block);
                drop(act);
                self.copying = Some(block);
            }
            return None;
        }
        let link = act.link(block);
        drop(act);
        self.linking = Some((block, table));
        Some(NewTable { frame: table, fresh: false, link })
    }

    fn reach(&self, at: TableAt<I>) -> Reach {
        let Some(block) = Block::of(at) else { return Reach::Space };
        let process = self.member.process();
        let group = process.group().lock();
        if group.sharer(block, process.id()).is_some() {
            return Reach::Group;
        }
        let Some(member) = group.members.get(&process.id()) else { return Reach::Space };
        match member.own.get(&block) {
            Some(Origin::Shown) => Reach::Group,
            // What it maps nothing of any more, as it ends, is still the group's.
            Some(Origin::Copy) if member.areas.touches(block.range()) => Reach::Shared,
            _ => Reach::Space,
        }
    }

    fn is_parted(&self) -> bool {
        let process = self.member.process();
        let group = process.group().lock();
        let bit = group.bit(process.id());
        bit != 0 && group.blocks.values().any(|shared| shared.mask & bit != 0)
    }

    fn owed(&mut self, flush: &mut Flush<I, M::Space>) {
        // Asked at the end of a `fork`, too.
        self.copying = None;
        flush.merge(core::mem::take(&mut self.owed));
    }

    fn fault_in(
        &mut self,
        env: &mut TableEnv<'_, M>,
        master: Frame<M::Space>,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<bool, NoFrame> {
        self.inner.fault_in(env, master, addr, node)
    }

    fn sharers(&self, mem: &M, table: Frame<M::Space>) -> NodeSet {
        self.inner.sharers(mem, table)
    }

    fn copies(&self, mem: &M, table: Frame<M::Space>, visit: &mut dyn FnMut(Frame<M::Space>)) {
        self.inner.copies(mem, table, visit);
    }
}
