//! Making room for huge pages, and room to take memory away: moving what
//! address spaces and the page cache have.
//!
//! The pool picks sources and targets; it is told at once that a unit moved,
//! and then the content and the mapping follow, before any frame is handed out.

use crate::error::MmError;
use crate::hardware::{Cost, Hardware};
use crate::kernel::{Core, Cx, Kernel};
use crate::pagecache::{Cached, FileId};
use crate::space::{AddressSpace, Owner};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use paging::frames::{CompactReport, CpuId, FrameState, NodeId, NodeSet};
use paging::{Addr, Frame, FramePool, PageSize, PhysSpace, Reach, Space, TableAt, TableMemory, Unmapped};

/// Who has a frame.
#[derive(Clone, Copy, Debug)]
enum User {
    Leaf(Owner, u64),
    Cache(FileId, u64),
}

/// Which frames will be looked for.
type Wanted<'a, S> = dyn Fn(&FramePool<S>, Frame<S>) -> bool + 'a;

/// Bytes whose leaves are looked at together.
const WINDOW: u64 = PageSize::Size1G.bytes();

/// Who has each unit of movable frames: what a reverse map would say, made when it is needed.
struct Users<S: PhysSpace>(Vec<(Frame<S>, u8, User)>);

impl<S: PhysSpace> Users<S> {
    fn of(&self, frame: Frame<S>) -> Option<(u8, User)> {
        let at = self.0.binary_search_by_key(&frame, |user| user.0).ok()?;
        Some((self.0[at].1, self.0[at].2))
    }
}

impl<M: TableMemory> Core<M> {
    /// The leaves of a space that alone hold a whole unit.
    fn users<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cpu: CpuId,
        wanted: &Wanted<'_, M::Space>,
        users: &mut Vec<(Frame<M::Space>, u8, User)>,
    ) {
        let mut start = 0;
        while let Some(area) = space.vmas.first_within(start..u64::MAX) {
            let window = area.start..area.end.min((area.start / WINDOW + 1) * WINDOW);
            start = window.end;
            let mut leaves = Vec::new();
            self.env(cpu, |env| {
                space.table.scan(env, window.clone(), &mut |leaf| {
                    let mapped = leaf.entry.is_present() || leaf.entry.is_prot_none();
                    if mapped && leaf.addr.raw() >= window.start {
                        leaves.push((leaf.entry.leaf_frame(leaf.size), leaf.size.order(), leaf.addr.raw()));
                    }
                });
            });
            let leaves = leaves.into_iter().filter(|leaf| wanted(&self.pool, leaf.0));
            let first = users.len();
            users.extend(leaves.map(|(frame, order, addr)| (frame, order, User::Leaf(space.owner, addr))));
            self.keep_movable(space, cpu, users, first);
        }
    }

    /// Drops the users from `first` on whose pages cannot be moved.
    fn keep_movable<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cpu: CpuId,
        users: &mut Vec<(Frame<M::Space>, u8, User)>,
        first: usize,
    ) {
        let mut kept = first;
        let mut block = (u64::MAX, false);
        for at in first..users.len() {
            let (frame, order, user) = users[at];
            let User::Leaf(_, addr) = user else { continue };
            if block.0 != addr >> PageSize::Size2M.shift() {
                // In a table that several use one reference stands for all of them.
                let found = self.lookup(space, cpu, Addr::new(addr));
                let table = TableAt::covering(Addr::new(addr), found.level);
                let shared = space.table.ops_ref().reach(table) != Reach::Space;
                block = (addr >> PageSize::Size2M.shift(), shared);
            }
            let whole = self.pool.compound(frame).map_or((frame, 0), |unit| unit) == (frame, order);
            if !block.1 && whole && self.is_exclusive(frame) && !self.huge.owns(frame) {
                users.swap(kept, at);
                kept += 1;
            }
        }
        users.truncate(kept);
    }
}

impl<M: TableMemory> Kernel<M> {
    fn all_users(&mut self, cpu: CpuId, wanted: &Wanted<'_, M::Space>) -> Users<M::Space> {
        let mut users = Vec::new();
        self.processes.iter().for_each(|p| self.core.users(&p.space, cpu, wanted, &mut users));
        self.vms.iter().for_each(|vm| self.core.users(&vm.space, cpu, wanted, &mut users));
        for id in (0..self.core.files.count()).map(FileId) {
            let Ok(file) = self.core.files.get(id) else { continue };
            let pool = &self.core.pool;
            let unmapped = file
                .frames::<M::Space>(0)
                .filter(|&(_, frame, _)| wanted(pool, frame) && pool.refs(frame) == 1);
            users.extend(unmapped.map(|(page, frame, _)| (frame, 0, User::Cache(id, page))));
        }
        users.sort_unstable_by_key(|user| user.0);
        Users(users)
    }

    /// Runs one of the pool's movers, and then moves content and mappings.
    fn moving(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        wanted: &Wanted<'_, M::Space>,
        mover: impl FnOnce(
            &mut FramePool<M::Space>,
            &mut dyn FnMut(Frame<M::Space>, Frame<M::Space>, u8) -> bool,
        ) -> CompactReport,
    ) -> Result<CompactReport, MmError> {
        let users = self.all_users(cx.cpu, wanted);
        let mut moves = Vec::new();
        let mut left = BTreeSet::new();
        let report = mover(&mut self.core.pool, &mut |from, to, order| {
            // A frame that something moved out of in this pass still has that content.
            let overwrites = left.range(to..to.offset(1 << order)).next().is_some();
            match users.of(from) {
                Some((size, user)) if size == order && !overwrites => {
                    left.extend((0..1 << order).map(|at| from.offset(at)));
                    moves.push((from, to, order, user));
                    true
                }
                _ => false,
            }
        });
        for (from, to, order, user) in moves {
            let size = if order == 0 { PageSize::Size4K } else { PageSize::Size2M };
            match user {
                User::Leaf(Owner::Process(pid), addr) => {
                    if let Some(process) = self.processes.get_mut(pid.0) {
                        self.core.follow_move(&mut process.space, cx, addr, size, from, to)?;
                    }
                }
                User::Leaf(Owner::Vm(id), addr) => {
                    if let Some(vm) = self.vms.get_mut(id.0) {
                        self.core.follow_move(&mut vm.space, cx, addr, size, from, to)?;
                    }
                }
                // Shadow tables hold no frames: they follow the VM's.
                User::Leaf(Owner::Shadow(_), _) => {}
                User::Cache(id, page) => {
                    self.core.copy(cx, from, to, size);
                    let file = self.core.files.get_mut(id)?;
                    let dirty = matches!(file.page::<M::Space>(page), Cached::Frame { dirty: true, .. });
                    file.set_page(page, Cached::Frame { frame: to, dirty });
                }
            }
        }
        self.core.charge(cx, Cost::Migrate { pages: report.moved });
        Ok(report)
    }

    /// Compacts `node` until it has a free block of 2^`order` frames.
    ///
    /// # Errors
    /// If no frame is left for a table that must be made an address space's own.
    pub fn compact(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        node: NodeId,
        order: u8,
    ) -> Result<CompactReport, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        // What is only kept for later must not stand in the way.
        self.core.source.reclaim(&mut self.core.pool, NodeSet::default().with(node), u64::MAX);
        let on_node = |pool: &FramePool<M::Space>, frame| pool.node_of(frame) == node;
        self.moving(&mut cx, &on_node, |pool, move_frame| pool.compact(node, order, move_frame))
    }

    /// Moves what can be moved out of `frames` frames (whole pageblocks) from `start` on.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub fn evacuate(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        start: Frame<M::Space>,
        frames: u64,
    ) -> Result<CompactReport, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let nodes = NodeSet::default().with(self.core.pool.node_of(start));
        self.core.source.reclaim(&mut self.core.pool, nodes, u64::MAX);
        let inside = |_: &FramePool<M::Space>, frame| (start..start.offset(frames)).contains(&frame);
        self.moving(&mut cx, &inside, |pool, move_frame| pool.evacuate(start, frames, move_frame))
    }

    /// Adds memory to `node` (the guest's half of memory hot-plug, or a machine's own).
    ///
    /// # Errors
    /// [`MmError::Hotplug`].
    pub fn add_memory(&mut self, node: NodeId, start: Frame<M::Space>, frames: u64) -> Result<(), MmError> {
        Ok(self.core.pool.add_range(node, start, frames)?)
    }

    /// Takes memory away: moves what is in it elsewhere, then gives it up.
    ///
    /// # Errors
    /// [`MmError::Hotplug`] if something in it could not be moved (a page table, a shared page).
    pub fn remove_memory(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        start: Frame<M::Space>,
        frames: u64,
    ) -> Result<(), MmError> {
        self.core.pool.drain(None);
        self.evacuate(hw, cpu, start, frames)?;
        Ok(self.core.pool.remove_range(start, frames)?)
    }

    /// Sets `count` pages of `size` aside on `node` for areas made of them (Linux
    /// `nr_hugepages` of a node). Returns how many could be had.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub fn reserve_huge(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        node: NodeId,
        size: PageSize,
        count: u64,
    ) -> Result<u64, MmError> {
        if size == PageSize::Size4K {
            return Ok(0);
        }
        for had in 0..count {
            let request = paging::frames::AllocRequest::new(node, FrameState::Anon).page(size).strict();
            let mut got = self.core.pool.alloc(request);
            if got.is_err() && size == PageSize::Size2M && self.compact(hw, cpu, node, size.order())?.success
            {
                got = self.core.pool.alloc(request);
            }
            match got {
                Ok(frame) => self.core.huge.add(size, node, frame),
                Err(_) => return Ok(had),
            }
        }
        Ok(count)
    }

    /// Huge pages of `size` that are set aside and not used.
    pub fn reserved_huge(&self, size: PageSize) -> u64 {
        self.core.huge.available(size) as u64
    }

    /// Moves a VM's memory in `len` bytes from `gpa` on to `node`, at most
    /// `budget` 4 KiB pages of it. Returns how many moved.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn migrate_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: crate::VmId,
        range: core::ops::Range<u64>,
        node: NodeId,
        budget: u64,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let pages = self.on_vm(&mut cx, vm, |core, vm, cx| {
            let range = range.start..range.end.min(vm.space.table.end());
            core.migrate_range(&mut vm.space, cx, range, node, budget)
        })?;
        self.core.charge(&mut cx, Cost::Migrate { pages });
        Ok(pages)
    }

    /// Nodes that have memory.
    pub fn nodes(&self) -> NodeSet {
        self.core.pool.nodes()
    }
}

impl<M: TableMemory> Core<M> {
    /// The unit at `from` is `to` now: copies it and maps it there.
    fn follow_move<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: u64,
        size: PageSize,
        from: Frame<M::Space>,
        to: Frame<M::Space>,
    ) -> Result<(), MmError> {
        let addr = Addr::<I>::new(addr);
        let hidden = self.hide(space, cx, addr, size);
        hidden.map_err(MmError::Map)?;
        self.swap.forget_unit(from, size.order());
        self.source.unmapped(
            &mut self.pool,
            &Unmapped {
                space: u32::from(space.id.0),
                page: addr.page(),
                pages: size.frames(),
                frame: from,
                last: false,
            },
        );
        self.copy(cx, from, to, size);
        self.show(space, cx, addr, size, to).map_err(MmError::Map)?;
        space.stats.migrated_pages += size.frames();
        Ok(())
    }
}
