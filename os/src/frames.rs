//! Frames in and out of address spaces: allocation by policy, references,
//! and the way back over a discharged flush.

use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Invalidate, PageRange, Shootdown};
use crate::kernel::{Core, Cx};
use crate::process::GroupId;
use crate::space::{AddressSpace, NotifyCx};
use crate::swap::Swap;
use crate::vma::{Backing, Vma};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use paging::frames::{AllocRequest, CpuId, FrameState, NodeId, NodeSet};
use paging::{
    Addr, Content, Entry, Extent, Flags, Flush, Frame, FramePool, FrameRequest, Gone, MapError, NoFrame,
    PageSize, PhysSpace, Reach, Released, Slot, Space, TableFrames, TableMemory, Unmapped, Visibility,
};

/// The kernel's frames, for page tables.
pub(crate) struct PoolFrames<'a, S: PhysSpace> {
    pub pool: &'a mut FramePool<S>,
    pub swap: &'a mut Swap<S>,
    pub zero: Frame<S>,
    pub cpu: Option<CpuId>,
    pub cache: Option<&'a mut (dyn TableCache<S> + 'static)>,
}

/// Pages that are set aside for tables, in front of the frame pool; one for
/// all address spaces of a kernel (Mitosis's page-table page cache).
pub trait TableCache<S: PhysSpace>: fmt::Debug + Send {
    /// Takes from `pool` what it is to hold from the start; returns how many pages.
    fn fill(&mut self, _pool: &mut dyn TableFrames<S>) -> u64 {
        0
    }
    /// As [`TableFrames::alloc_table`].
    ///
    /// # Errors
    /// If neither the cache nor `pool` has a frame.
    fn alloc_table(
        &mut self,
        pool: &mut dyn TableFrames<S>,
        node: NodeId,
        strict: bool,
    ) -> Result<Frame<S>, NoFrame>;
    /// As [`TableFrames::free_table`].
    fn free_table(&mut self, pool: &mut dyn TableFrames<S>, frame: Frame<S>);
    /// The node that one of its pages is near to, where the kernel's own nodes do not tell.
    fn node_of(&self, _frame: Frame<S>) -> Option<NodeId> {
        None
    }
    /// Gives all pages back to `pool`; returns how many.
    fn drain(&mut self, pool: &mut dyn TableFrames<S>) -> u64;
}

impl<S: PhysSpace> TableFrames<S> for PoolFrames<'_, S> {
    fn alloc_table(&mut self, node: NodeId, strict: bool) -> Result<Frame<S>, NoFrame> {
        if let Some(cache) = self.cache.take() {
            let got = cache.alloc_table(self, node, strict);
            self.cache = Some(cache);
            return got;
        }
        let mut request = AllocRequest::new(node, FrameState::Table);
        request.cpu = self.cpu;
        self.pool.alloc(if strict { request.strict() } else { request })
    }
    fn alloc_tables(&mut self, node: NodeId, order: u8) -> Result<Frame<S>, NoFrame> {
        let request = AllocRequest::new(node, FrameState::Table).strict().opportunistic();
        self.pool.alloc(AllocRequest { cpu: self.cpu, ..request.order(order) })
    }
    fn free_table(&mut self, frame: Frame<S>) {
        match self.cache.take() {
            Some(cache) => {
                cache.free_table(self, frame);
                self.cache = Some(cache);
            }
            None => self.pool.free(frame, 0, self.cpu),
        }
    }
    #[inline]
    fn node_of(&self, frame: Frame<S>) -> NodeId {
        let near = self.cache.as_deref().and_then(|cache| cache.node_of(frame));
        near.unwrap_or_else(|| self.pool.node_of(frame))
    }
    fn leaf_copied(&mut self, entry: Entry) {
        if let Some(slot) = entry.swap_slot() {
            self.swap.get(slot);
        } else if (entry.is_present() || entry.is_prot_none()) && entry.frame() != self.zero {
            self.pool.get(entry.frame());
        }
    }
}

/// Huge pages set aside for areas that are made of them (hugetlbfs). The pool
/// keeps one reference to each page for itself.
#[derive(Debug, Default)]
pub(crate) struct HugePool<S: PhysSpace> {
    free: Vec<(PageSize, NodeId, Frame<S>)>,
    owned: BTreeSet<Frame<S>>,
}

impl<S: PhysSpace> HugePool<S> {
    pub(crate) fn add(&mut self, size: PageSize, node: NodeId, frame: Frame<S>) {
        self.free.push((size, node, frame));
        self.owned.insert(frame);
    }
    pub(crate) fn available(&self, size: PageSize) -> usize {
        self.free.iter().filter(|page| page.0 == size).count()
    }
    /// A page on one of `nodes`, the first that has one.
    fn take(&mut self, size: PageSize, nodes: impl Iterator<Item = NodeId>) -> Option<Frame<S>> {
        for node in nodes {
            if let Some(at) = self.free.iter().position(|page| page.0 == size && page.1 == node) {
                return Some(self.free.remove(at).2);
            }
        }
        None
    }
    pub(crate) fn owns(&self, frame: Frame<S>) -> bool {
        !self.owned.is_empty() && self.owned.contains(&frame)
    }
    pub(crate) fn drain(&mut self, pool: &mut FramePool<S>) {
        for (_, _, frame) in self.free.drain(..) {
            self.owned.remove(&frame);
            pool.put(frame, None);
        }
    }
}

impl<M: TableMemory> Core<M> {
    /// A frame for a page of `vma` at `addr`, with one reference and no
    /// defined content, by the policy of the area or the space.
    pub(crate) fn data_frame<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        size: PageSize,
        state: FrameState,
    ) -> Result<Frame<M::Space>, Stop> {
        if state == FrameState::Anon {
            self.check_limit(space.group, size.frames())?;
        }
        let policy = vma.policy.unwrap_or(space.policy);
        let node = policy.node(self.node(cx.cpu), addr.raw() >> size.shift());
        let mut request = FrameRequest {
            space: u32::from(space.id.0),
            page: addr.align_down(size).page(),
            area_start: vma.start >> 12,
            area_end: vma.end >> 12,
            order: size.order(),
            node,
            strict: policy.bound().is_some(),
            cpu: cx.cpu,
            state,
        };
        self.work.allocator_calls += 1;
        let mut got = self.source.frame(&mut self.pool, &request);
        if let (Err(_), Some(nodes)) = (&got, policy.bound()) {
            let others: Vec<NodeId> = self.pool.fallback_order(node).to_vec();
            for other in others.into_iter().filter(|&other| other != node && nodes.contains(other)) {
                request.node = other;
                got = self.source.frame(&mut self.pool, &request);
                if got.is_ok() {
                    break;
                }
            }
            if let Err(e) = &mut got {
                e.policy = paging::frames::NodePolicy::Within(nodes);
            }
        }
        let frame = got?;
        if state == FrameState::Anon {
            self.charge_group(space.group, size.frames());
        }
        Ok(frame)
    }

    /// A huge page for an area made of them: from those set aside, near first,
    /// else a fresh one.
    pub(crate) fn reserved_frame<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
    ) -> Result<Frame<M::Space>, Stop> {
        let size = vma.page;
        self.check_limit(space.group, size.frames())?;
        let policy = vma.policy.unwrap_or(space.policy);
        let node = policy.node(self.node(cx.cpu), addr.raw() >> size.shift());
        let allowed = |n: &NodeId| policy.bound().is_none_or(|nodes| nodes.contains(*n));
        let near = self.huge.take(size, core::iter::once(node).filter(allowed));
        if let Some(frame) = near {
            self.pool.get(frame);
            self.charge_group(space.group, size.frames());
            return Ok(frame);
        }
        match self.data_frame(space, cx, vma, addr, size, FrameState::Anon) {
            Ok(frame) => Ok(frame),
            Err(Stop::NoFrame(_)) => {
                let order: Vec<NodeId> = self.pool.fallback_order(node).to_vec();
                let frame = self
                    .huge
                    .take(size, order.into_iter().filter(allowed))
                    .ok_or(MmError::NoHugePage { addr: addr.raw(), size })?;
                self.pool.get(frame);
                self.charge_group(space.group, size.frames());
                Ok(frame)
            }
            Err(other) => Err(other),
        }
    }

    fn check_limit(&mut self, group: GroupId, frames: u64) -> Result<(), Stop> {
        match self.groups.get(&group) {
            Some(g) if g.limit.is_some_and(|limit| g.charged + frames > limit) => Err(Stop::Limit(group)),
            _ => Ok(()),
        }
    }
    fn charge_group(&mut self, group: GroupId, frames: u64) {
        self.groups.entry(group).or_default().charged += frames;
    }

    /// Puts one reference to `frame`, which an address space of `group` held.
    pub(crate) fn put(&mut self, group: GroupId, frame: Frame<M::Space>, cpu: CpuId) {
        if frame == self.zero {
            return;
        }
        let anonymous = self.pool.state(frame) == FrameState::Anon;
        let (head, order) = if anonymous { self.unit(frame) } else { (frame, 0) };
        let kept = self.huge.owns(head);
        let gone = self.pool.put(frame, Some(cpu)) || (kept && self.pool.refs(head) == 1);
        if gone && anonymous {
            self.forget(group, head, order);
        }
        if gone && kept {
            let size = if order > 9 { PageSize::Size1G } else { PageSize::Size2M };
            self.huge.free.push((size, self.pool.node_of(head), head));
        }
    }

    /// Anonymous memory that an address space of `group` had is nobody's now.
    fn forget(&mut self, group: GroupId, head: Frame<M::Space>, order: u8) {
        self.swap.forget_unit(head, order);
        if let Some(g) = self.groups.get_mut(&group) {
            g.charged = g.charged.saturating_sub(1 << order);
        }
    }

    fn unit(&self, frame: Frame<M::Space>) -> (Frame<M::Space>, u8) {
        self.pool.compound(frame).unwrap_or((frame, 0))
    }

    /// Whether one leaf alone holds `frame`: nobody else can see a store to it.
    pub(crate) fn is_exclusive(&self, frame: Frame<M::Space>) -> bool {
        frame != self.zero && self.pool.state(frame) == FrameState::Anon && {
            let own = if self.huge.owns(self.unit(frame).0) { 2 } else { 1 };
            self.pool.refs(frame) == own
        }
    }

    /// Pays what `flush` owes, puts the frames' references and frees the tables.
    pub(crate) fn discharge<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        flush: Flush<I, M::Space>,
    ) {
        let released = self.shoot(space, cx, flush);
        self.release(space, cx.cpu, &released);
    }

    /// Makes the shootdown that `flush` owes; what it releases is still to be released.
    pub(crate) fn shoot<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        flush: Flush<I, M::Space>,
    ) -> Released<I, M::Space> {
        let nodes = flush.nodes();
        if !flush.is_empty() {
            self.notify_now(space, cx, flush.hull());
        }
        flush.discharge_reaching(|reach, extent, tables| {
            let one;
            let many;
            let what = match extent {
                Extent::Nothing => Invalidate::Ranges(&[]),
                Extent::All => Invalidate::All,
                Extent::Ranges(ranges) => match ranges.as_slice() {
                    [r] => {
                        one = [PageRange { start: r.start.raw(), len: r.len }];
                        Invalidate::Ranges(&one)
                    }
                    ranges => {
                        many = ranges
                            .iter()
                            .map(|r| PageRange { start: r.start.raw(), len: r.len })
                            .collect::<Vec<_>>();
                        Invalidate::Ranges(&many)
                    }
                },
            };
            self.invalidate(space, cx, what, tables, nodes, reach);
        })
    }

    /// Tells whoever derived translations from the space, then the TLBs of the
    /// CPUs of `nodes` that may have cached some: those that ran the space, or,
    /// where its group's translations change, any member of the group.
    pub(crate) fn invalidate<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        what: Invalidate<'_>,
        tables_freed: bool,
        nodes: NodeSet,
        reach: Reach,
    ) {
        if let Some(mut notifier) = space.notifier.take_if(|notifier| !notifier.wants_what_is_left()) {
            self.env(cx.cpu, |env| {
                notifier
                    .invalidate(&mut NotifyCx { env: env.reborrow(), hw: &mut *cx.hw, cpu: cx.cpu }, what);
            });
            space.notifier = Some(notifier);
        }
        let ran = match reach {
            Reach::Space => space.cpus,
            Reach::Shared => space.visited,
            Reach::Group => self.groups.get(&space.group).map_or(space.cpus, |g| g.cpus),
        };
        let cpus = if nodes == NodeSet::ALL {
            ran
        } else {
            ran.iter().filter(|&cpu| nodes.contains(self.table_node(cpu))).collect()
        };
        if cpus.is_empty() {
            return;
        }
        let kind = space.owner.kind();
        let group = space.group;
        cx.hw.shootdown(cx.cpu, &Shootdown { space: space.id, kind, group, reach, what, tables_freed, cpus });
        let targets = cpus.count() - u32::from(cpus.contains(cx.cpu));
        space.stats.shootdowns += 1;
        space.stats.ipis += u64::from(targets);
        if targets > 0 {
            cx.hw.charge(cx.cpu, Cost::Ipi { targets }, &Default::default());
        }
        if what == Invalidate::All && nodes == NodeSet::ALL {
            self.forget_idle_cpus(space);
        }
    }

    /// Puts the references of leaves that are gone, and frees tables that are.
    pub(crate) fn release<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cpu: CpuId,
        released: &Released<I, M::Space>,
    ) {
        for gone in &released.gone {
            self.release_leaf(space, cpu, gone);
        }
        if !released.tables.is_empty() {
            self.env(cpu, |env| space.table.free_tables(env, released));
        }
    }

    fn release_leaf<I: Space>(&mut self, space: &AddressSpace<I, M>, cpu: CpuId, gone: &Gone<I, M::Space>) {
        if let Some(slot) = gone.entry.swap_slot() {
            self.swap.put(slot);
        } else if let Some(frame) = gone.frame() {
            let pages = gone.size.frames();
            // Asked first: what is mapped for the last time may be kept for the next fault.
            let single = pages == 1 && self.pool.compound(frame).is_none() && !self.huge.owns(frame);
            let last = single && self.is_exclusive(frame);
            let (id, page) = (u32::from(space.id.0), gone.addr.page());
            if self.source.unmapped(&mut self.pool, &Unmapped { space: id, page, pages, frame, last }) {
                self.forget(space.group, frame, 0);
            } else {
                self.put(space.group, frame, cpu);
            }
        }
    }

    /// The place of the level-`level` entry for `addr`, its tables made where they
    /// are missing and made the space's own where `visibility` is private.
    pub(crate) fn ensure<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        level: u8,
        visibility: Visibility,
    ) -> Result<Slot<M::Space>, MapError> {
        let node = space.table_node(self.table_node(cx.cpu), addr.raw());
        let slot = self.env(cx.cpu, |env| space.table.ensure(env, addr, level, node, visibility));
        self.pay_owed(space, cx);
        slot
    }

    /// Pays what is owed because a table became the space's own.
    pub(crate) fn pay_owed<I: Space>(&mut self, space: &mut AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        let flush = space.table.owed();
        if !flush.is_empty() {
            self.discharge(space, cx, flush);
        }
    }

    /// Tells the table what lies in `range` from now on.
    pub(crate) fn tell_area<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
        area: Option<&Vma>,
    ) -> Result<(), MapError> {
        let content = area.map(|area| {
            let (object, page) = match area.backing {
                Backing::Anonymous => (None, 0),
                Backing::File { file, page } => (Some(u64::from(file.0)), page),
            };
            let writable = if area.prot.write { Flags::WRITABLE } else { Flags::NONE };
            let data = if area.prot.exec { Flags::NONE } else { Flags::NO_EXECUTE };
            Content { object, page, rights: writable | data, shared: area.shared }
        });
        let told = self.env(cx.cpu, |env| space.table.area(env, range, content));
        match told {
            Ok(flush) => {
                self.discharge(space, cx, flush);
                Ok(())
            }
            Err(e) => {
                self.pay_owed(space, cx);
                Err(e)
            }
        }
    }

    /// Tells a notifier that wants to know what there is in `range` now.
    pub(crate) fn notify_now<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
    ) {
        let Some(mut notifier) = space.notifier.take_if(|notifier| notifier.wants_what_is_left()) else {
            return;
        };
        let range = range.start..range.end.min(space.table.end());
        self.env(cx.cpu, |env| {
            let mut leaves = Vec::new();
            space.table.scan(env, range.clone(), &mut |leaf| leaves.push(leaf));
            notifier.now(&mut NotifyCx { env: env.reborrow(), hw: &mut *cx.hw, cpu: cx.cpu }, range, &leaves);
        });
        space.notifier = Some(notifier);
    }

    /// Completes what an answered fault wrote: see [`paging::TableOps::settle`].
    pub(crate) fn settle<I: Space>(&mut self, space: &mut AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        let (hw, cpu) = (&mut *cx.hw, cx.cpu);
        self.env(cpu, |env| space.table.settle(env, &mut |frame| hw.touch(cpu, frame)));
        self.pay_owed(space, cx);
    }

    /// Tells a notifier of a new leaf.
    pub(crate) fn notify_mapped<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        entry: Entry,
        size: PageSize,
    ) {
        let Some(mut notifier) = space.notifier.take() else { return };
        self.env(cx.cpu, |env| {
            let mut notify = NotifyCx { env: env.reborrow(), hw: &mut *cx.hw, cpu: cx.cpu };
            notifier.mapped(&mut notify, addr.align_down(size), entry, size);
        });
        space.notifier = Some(notifier);
    }
}
