//! What happens to a group's blocks: members come, part and go.
//!
//! Three things must hold of an entry that is cached as the group's (O = 0):
//! * a member that it admits has the same page there, or none;
//! * it says what the block's table says;
//! * there is one for a page in a TLB.
//!
//! So a member that gets something else in a block is *parted* from it first (its
//! bit is set in the mask, and entries that do not know that yet are flushed: those
//! of the page alone where the member changes one, those of the block where it has
//! other pages already), and when a block's last sharer takes the table for its own,
//! the block's entries are flushed, and it begins anew with an empty mask.

use super::areas::Areas;
use super::group::{Group, Origin, Shared, Sharer, Sharing};
use super::mask::{Block, Set, WRITERS, store_mask, store_pid};
use alloc::sync::Arc;
use alloc::vec::Vec;
use paging::flush::Reach;
use paging::frames::{NoFrame, NodeSet};
use paging::{
    Addr, ENTRIES, Entry, Flags, Flush, Frame, PageSize, Slot, Space, TableAt, TableEnv, TableMemory,
    TableOps, Visibility,
};
use spin::MutexGuard;

/// ORPC: somebody has a private copy in the block.
pub(super) const ORPC: Flags = Flags::SOFT_9;
/// O: the entries of the block are the process's own.
pub(super) const OWNED: Flags = Flags::SOFT_10;
/// The [`TableAt::level`] by which a MaskPage is freed.
pub(super) const MASK_PAGE: u8 = 0;

/// One operation of member `me` on its group.
pub(super) struct Act<'a, T, I: Space, M: TableMemory> {
    pub(super) group: MutexGuard<'a, Group<M::Space>>,
    pub(super) me: u32,
    pub(super) inner: &'a mut T,
    pub(super) owed: &'a mut Flush<I, M::Space>,
}

impl<T: TableOps<I, M>, I: Space, M: TableMemory> Act<'_, T, I, M> {
    pub(super) fn sharing(&self) -> Sharing {
        self.group.sharing
    }

    /// The software bits of a sharer's entry.
    pub(super) fn link(&self, block: Block) -> Flags {
        match self.group.blocks.get(&block) {
            Some(shared) if self.sharing().tlb && !shared.unshared => {
                if shared.mask == 0 {
                    Flags::NONE
                } else {
                    ORPC
                }
            }
            _ => OWNED,
        }
    }

    /// Owes the invalidation of all that is cached of `block`.
    pub(super) fn owe_block(&mut self, block: Block, reach: Reach) {
        self.owed.add_reaching(NodeSet::ALL, reach, Addr::new(block.base), block.bytes());
    }

    fn owe_paths(&mut self, block: Block, reach: Reach) {
        self.owed.path_gone(NodeSet::ALL, reach, block.at());
    }

    /// Sets and clears bits in the entries of all sharers that point to the block's tables.
    fn relink(&mut self, env: &mut TableEnv<'_, M>, block: Block, set: Flags, clear: Flags) {
        let Some(shared) = self.group.blocks.get(&block) else { return };
        for slot in shared.sharers.iter().filter_map(|s| s.slot) {
            self.inner.modify(env, slot, block.level + 1, set, clear);
        }
    }

    /// Makes a block shared, by the sharers given; those who have something else are parted from it.
    pub(super) fn begin(
        &mut self,
        env: &mut TableEnv<'_, M>,
        block: Block,
        table: Frame<M::Space>,
        sharers: Vec<Sharer<M::Space>>,
        inherited: bool,
    ) {
        let mut layout = Areas::default();
        for sharer in &sharers {
            if let Some(member) = self.group.members.get(&sharer.member) {
                layout.merge(&member.areas, block.range());
            }
        }
        let shared = Shared {
            table: self.sharing().tables.then_some(table),
            sharers,
            layout,
            inherited,
            mask: 0,
            unshared: self.group.private.contains(&block.set()),
        };
        self.group.blocks.insert(block, shared);
        self.count_users(env, block);
        self.divide(env, block);
    }

    /// Adds `me` to the sharers; its entry is still to be written.
    pub(super) fn enter(&mut self, env: &mut TableEnv<'_, M>, block: Block) {
        let Group { blocks, members, .. } = &mut *self.group;
        let (Some(shared), Some(member)) = (blocks.get_mut(&block), members.get(&self.me)) else { return };
        shared.layout.merge(&member.areas, block.range());
        shared.sharers.push(Sharer { member: self.me, slot: None });
        self.count_users(env, block);
        if self.divide(env, block) {
            self.owe_block(block, Reach::Group);
        }
    }

    /// Takes `me` from the sharers; whether it was one.
    pub(super) fn leave(&mut self, env: &mut TableEnv<'_, M>, block: Block) -> bool {
        let Some(at) = self.group.sharer(block, self.me) else { return false };
        if let Some(shared) = self.group.blocks.get_mut(&block) {
            shared.sharers.remove(at);
        }
        self.count_users(env, block);
        true
    }

    /// Writes the counter of sharers beside the table (16 bits in the paper).
    fn count_users(&mut self, env: &mut TableEnv<'_, M>, block: Block) {
        let Some(shared) = self.group.blocks.get(&block) else { return };
        let Some(table) = shared.table else { return };
        let users = shared.sharers.len().saturating_sub(1) as u32;
        let mut copies = Vec::new();
        self.inner.copies(env.mem, table, &mut |copy| copies.push(copy));
        for copy in copies {
            if let Some(descriptor) = env.mem.descriptor_mut(copy) {
                descriptor.users = users;
            }
        }
    }

    /// Parts all members that have something else in the block; whether there were more than before. Entries that
    /// admit them are where they ran, not only where `me` did.
    pub(super) fn divide(&mut self, env: &mut TableEnv<'_, M>, block: Block) -> bool {
        if !self.sharing().tlb {
            return false;
        }
        let others: Vec<u32> = self.group.members.keys().copied().collect();
        let mut parted = false;
        for member in others {
            if self.group.sharer(block, member).is_none() && self.group.must_part(block, member) {
                parted |= self.part(env, block, member);
            }
        }
        parted
    }

    /// Keeps `member` from entries that the group caches for the block from now
    /// on; whether it was not kept from them before.
    pub(super) fn part(&mut self, env: &mut TableEnv<'_, M>, block: Block, member: u32) -> bool {
        let unshared = self.group.blocks.get(&block).is_none_or(|shared| shared.unshared);
        if !self.sharing().tlb || unshared || self.group.is_apart(block, member) {
            return false;
        }
        if !self.sharing().mask {
            self.unshare(env, block);
            return true;
        }
        let Some(index) = self.index(env, member) else {
            self.unshare_set(env, block.set());
            return true;
        };
        let Ok(page) = self.mask_page(env, block.set()) else {
            self.unshare(env, block);
            return true;
        };
        let Some(shared) = self.group.blocks.get_mut(&block) else { return false };
        let first = shared.mask == 0;
        shared.mask |= 1 << index;
        let mask = shared.mask;
        store_pid(env, page, index, member);
        store_mask(env, page, block.index(), mask);
        self.group.stats.bits_set += 1;
        if first {
            // Walk caches remember that there was no mask to fetch.
            self.relink(env, block, ORPC, Flags::NONE);
            self.owe_paths(block, Reach::Group);
        }
        true
    }

    fn mask_page(&mut self, env: &mut TableEnv<'_, M>, set: Set) -> Result<Frame<M::Space>, NoFrame> {
        if let Some(page) = self.group.masks.page(set) {
            return Ok(page);
        }
        let page = env.new_table(env.node, false)?;
        Arc::make_mut(&mut self.group.masks).insert(set, page);
        Ok(page)
    }

    /// The member's bit, given now if it has none; `None` if all are in use.
    fn index(&mut self, env: &mut TableEnv<'_, M>, member: u32) -> Option<u8> {
        if let Some(index) = self.group.members.get(&member)?.index {
            return Some(index);
        }
        let mut dead = 0u32;
        let mut free = None;
        let used = self.group.blocks.values().fold(0, |all, shared| all | shared.mask);
        for index in (0..WRITERS).rev() {
            let ended = match self.group.writers.0[index] {
                Some(writer) => !self.group.members.contains_key(&writer),
                None => true,
            };
            if ended {
                dead |= 1 << index;
                if used >> index & 1 == 0 {
                    free = Some(index);
                }
            }
        }
        if free.is_none() && dead != 0 {
            self.recycle(env, dead);
            free = Some(dead.trailing_zeros() as usize);
        }
        let index = free?;
        self.group.writers.0[index] = Some(member);
        self.group.members.get_mut(&member)?.index = Some(index as u8);
        Some(index as u8)
    }

    /// Takes the bits `dead` of ended processes out of all masks. Entries whose mask has
    /// one would stand beside new ones for the same page, so all go.
    fn recycle(&mut self, env: &mut TableEnv<'_, M>, dead: u32) {
        let with: Vec<Block> =
            self.group.blocks.iter().filter(|(_, s)| s.mask & dead != 0).map(|(b, _)| *b).collect();
        for block in with {
            let Some(shared) = self.group.blocks.get_mut(&block) else { continue };
            shared.mask &= !dead;
            let mask = shared.mask;
            if let Some(page) = self.group.masks.page(block.set()) {
                store_mask(env, page, block.index(), mask);
            }
            if mask == 0 {
                self.relink(env, block, Flags::NONE, ORPC);
                self.owe_paths(block, Reach::Group);
            }
        }
        self.owed.add_all_reaching(Reach::Group);
        self.group.stats.bits_recycled += 1;
    }

    /// The block's TLB entries are private from now on; the table stays shared.
    fn unshare(&mut self, env: &mut TableEnv<'_, M>, block: Block) {
        let Some(shared) = self.group.blocks.get_mut(&block) else { return };
        shared.unshared = true;
        shared.mask = 0;
        if let Some(page) = self.group.masks.page(block.set()) {
            store_mask(env, page, block.index(), 0);
        }
        self.relink(env, block, OWNED, ORPC);
        self.owe_block(block, Reach::Group);
        self.owe_paths(block, Reach::Group);
        self.group.stats.blocks_unshared += 1;
    }

    /// More writers than bits: the set falls back to private translations.
    fn unshare_set(&mut self, env: &mut TableEnv<'_, M>, set: Set) {
        self.group.private.push(set);
        self.group.stats.sets_unshared += 1;
        let blocks: Vec<Block> = self
            .group
            .blocks
            .iter()
            .filter(|(block, shared)| block.set() == set && !shared.unshared)
            .map(|(block, _)| *block)
            .collect();
        for block in blocks {
            self.unshare(env, block);
        }
    }

    /// The block's last sharer left or takes the table: it is the group's no more.
    fn end(&mut self, env: &mut TableEnv<'_, M>, block: Block) {
        self.count_users(env, block);
        let Some(shared) = self.group.blocks.remove(&block) else { return };
        if self.sharing().tlb && !shared.unshared {
            self.owe_block(block, Reach::Group);
        }
        let set = block.set();
        if let Some(page) = self.group.masks.page(set) {
            store_mask(env, page, block.index(), 0);
        }
        if self.group.blocks.keys().any(|other| other.set() == set) {
            return;
        }
        self.group.private.retain(|private| *private != set);
        if let Some(page) = Arc::make_mut(&mut self.group.masks).remove(set) {
            let at = TableAt { base: Addr::new(block.base), level: MASK_PAGE };
            self.owed.table_gone(NodeSet::ALL, page, at);
        }
    }

    /// `me`, a sharer, is about to change something in `range` alone (or to unmap it:
    /// `gone`): makes the table `child`, to which `parent` points, its own.
    pub(super) fn own(
        &mut self,
        env: &mut TableEnv<'_, M>,
        parent: Slot<M::Space>,
        child: Frame<M::Space>,
        block: Block,
        range: core::ops::Range<u64>,
        gone: bool,
    ) -> Result<Frame<M::Space>, NoFrame> {
        let Some(shared) = self.group.blocks.get(&block) else { return Ok(child) };
        let alone = shared.sharers.iter().all(|s| s.member == self.me);
        let copies = self.sharing().tables && !alone;
        let table = match copies {
            true => self.inner.alloc(env, block.at(), env.node, Visibility::Private)?.frame,
            false => child,
        };
        // One page of it, so that the path is forgotten with what is flushed anyway.
        self.owed.add_reaching(NodeSet::ALL, Reach::Shared, Addr::new(range.start & !4095), 4096);
        self.owe_paths(block, Reach::Shared);
        self.leave(env, block);
        let origin = if alone {
            self.drop_foreign(env, block, child);
            self.end(env, block);
            self.group.stats.tables_taken += 1;
            Origin::Fresh
        } else {
            // The mask is written before the private table can be seen.
            let leaves = gone && self.only_in(block, &range);
            if copies {
                self.part(env, block, self.me);
            } else if !leaves {
                self.part(env, block, self.me);
                // It was served pages that its own table has not.
                self.owe_block(block, Reach::Shared);
            }
            if copies {
                self.copy(env, block, child, table);
                Origin::Copy
            } else {
                Origin::Shown
            }
        };
        self.keep(block, origin);
        match copies {
            true => self.inner.write(env, parent, block.level + 1, Entry::table(table).with(OWNED)),
            false => {
                self.inner.modify(env, parent, block.level + 1, OWNED, ORPC);
            }
        }
        Ok(table)
    }

    /// Remembers that `me` has a table of its own for the block.
    pub(super) fn keep(&mut self, block: Block, origin: Origin) {
        if let Some(member) = self.group.members.get_mut(&self.me) {
            member.own.insert(block, origin);
        }
    }

    /// Whether `me` has nothing in the block but in `range`.
    pub(super) fn only_in(&self, block: Block, range: &core::ops::Range<u64>) -> bool {
        self.group.members.get(&self.me).is_some_and(|m| m.areas.only_in(block.range(), range))
    }

    fn maps(&self, block: Block, index: usize) -> bool {
        let start = block.base + index as u64 * block.page();
        let areas = self.group.members.get(&self.me).map(|m| &m.areas);
        areas.is_some_and(|areas| areas.covers(start))
    }

    /// Copies the leaves of `from` where `me` maps something to the empty table `to`.
    pub(super) fn copy(
        &mut self,
        env: &mut TableEnv<'_, M>,
        block: Block,
        from: Frame<M::Space>,
        to: Frame<M::Space>,
    ) {
        let mut leaves = [Entry::EMPTY; ENTRIES];
        for (index, leaf) in leaves.iter_mut().enumerate() {
            let entry = env.mem.load(Slot::new(from, index));
            if !entry.is_empty() && self.maps(block, index) {
                env.frames.leaf_copied(entry);
                *leaf = entry;
            }
        }
        env.passed(from, &(0..ENTRIES), 0);
        self.inner.update(env, to, block.level, 0..ENTRIES, &mut |index, _| leaves[index], &mut |_, _, _| {});
        self.group.stats.tables_copied += 1;
    }

    /// Takes leaves out of `table` that only sharers who left had mapped.
    fn drop_foreign(&mut self, env: &mut TableEnv<'_, M>, block: Block, table: Frame<M::Space>) {
        if !self.sharing().tables {
            return;
        }
        let mine: Vec<bool> = (0..ENTRIES).map(|index| self.maps(block, index)).collect();
        let size = PageSize::from_level(block.level).unwrap_or_default();
        let owed = &mut *self.owed;
        self.inner.update(
            env,
            table,
            block.level,
            0..ENTRIES,
            &mut |index, entry| if mine[index] { entry } else { Entry::EMPTY },
            &mut |index, old, _| {
                let addr = Addr::new(block.base + index as u64 * block.page());
                // Those who mapped it flushed their own entries; the group's go with the block.
                owed.leaf_gone(NodeSet::ALL, Reach::Space, addr, size, old);
            },
        );
    }
}
