//! Memory pressure. What is given back, in this order: what a mechanism keeps
//! and nobody uses; cached file pages that nobody maps; then, by a clock,
//! mapped file pages and anonymous memory, which goes to swap.
//!
//! There is no reverse map. The clock's hand walks the address spaces: a leaf
//! whose accessed bit is set gets another round, one whose bit stayed clear goes.

use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware};
use crate::kernel::{Core, Cx, Kernel};
use crate::pagecache::{Cached, FileId};
use crate::process::GroupId;
use crate::space::AddressSpace;
use alloc::vec::Vec;
use paging::frames::{CpuId, FrameState, NodeId, NodePolicy, NodeSet};
use paging::{
    Addr, Entry, Flags, Flush, Frame, LeafAt, PageSize, PhysSpace, Space, TableMemory, Unmapped, Visibility,
};

/// Pages reclaimed at once (Linux `SWAP_CLUSTER_MAX`).
const CLUSTER: u64 = 32;
/// Times that a step is taken again after reclaim before it is given up.
const ATTEMPTS: u32 = 16;
/// Faults between two looks at the watermarks.
const CHECK_EVERY: u32 = 64;
/// Bytes of an address space that one step of the hand passes: a leaf table.
const STEP: u64 = PageSize::Size2M.bytes();

/// Whose frames are wanted back.
#[derive(Clone, Copy, Debug)]
struct Scope {
    nodes: NodeSet,
    group: Option<GroupId>,
}

/// A page that goes to swap.
struct SwapOut<S: PhysSpace> {
    page: u64,
    frame: Frame<S>,
    slot: u64,
    /// Not if the slot has the content already.
    write: bool,
}

impl<M: TableMemory> Kernel<M> {
    /// A step stopped for want of frames: gives some back so that it can be
    /// taken again.
    ///
    /// # Errors
    /// With what stopped the step, if nothing can be done.
    pub(crate) fn relieve(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        stop: Stop,
        attempts: &mut u32,
    ) -> Result<(), MmError> {
        *attempts += 1;
        let all = self.core.pool.nodes();
        let (scope, want, error) = match stop {
            Stop::Fail(e) => return Err(e),
            Stop::NoFrame(e) => {
                let nodes = match e.policy {
                    NodePolicy::Prefer => all,
                    NodePolicy::Strict => NodeSet::default().with(NodeId(e.node)),
                    NodePolicy::Within(nodes) => nodes,
                };
                (Scope { nodes, group: None }, e.frames.max(CLUSTER), MmError::OutOfMemory(e))
            }
            Stop::Limit(group) => {
                let limit = self.group(group).limit.unwrap_or(u64::MAX);
                (Scope { nodes: all, group: Some(group) }, CLUSTER, MmError::GroupLimit { group, limit })
            }
        };
        if *attempts > ATTEMPTS || self.reclaim_in(cx, scope, want) == 0 {
            return Err(error);
        }
        Ok(())
    }

    /// Now and then after a fault: kswapd, if a node is below its low watermark.
    #[inline]
    pub(crate) fn balance_memory(&mut self, cx: &mut Cx<'_, M::Space>) {
        match self.core.until_check.checked_sub(1) {
            Some(left) => self.core.until_check = left,
            None => self.kswapd(cx),
        }
    }

    fn kswapd(&mut self, cx: &mut Cx<'_, M::Space>) {
        self.core.until_check = CHECK_EVERY;
        let nodes = self.core.pool.nodes();
        for node in nodes.iter().filter(|&node| self.core.pool.below_low(node)).collect::<Vec<_>>() {
            let scope = Scope { nodes: NodeSet::default().with(node), group: None };
            while !self.core.pool.above_high(node) {
                if self.reclaim_in(cx, scope, CLUSTER) == 0 {
                    // There is nothing to be had: not again at once.
                    self.core.until_check = CHECK_EVERY * CHECK_EVERY;
                    break;
                }
            }
        }
    }

    /// Gives up to `want` frames back now. Returns how many came back.
    ///
    /// # Errors
    /// [`MmError::NoCpu`].
    pub fn reclaim(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        want: u64,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let scope = Scope { nodes: self.core.pool.nodes(), group: None };
        Ok(self.reclaim_in(&mut cx, scope, want))
    }

    /// Pages of swap that are used.
    pub fn swap_used(&self) -> u64 {
        self.core.swap.used()
    }

    fn reclaim_in(&mut self, cx: &mut Cx<'_, M::Space>, scope: Scope, want: u64) -> u64 {
        let before = self.free_in(scope);
        let target = before.saturating_add(want);
        if scope.group.is_none() {
            self.core.source.reclaim(&mut self.core.pool, scope.nodes, want);
            if self.free_in(scope) < target {
                self.core.drain_table_cache();
            }
            self.shrink_cache(cx, scope, target);
        }
        self.turns(cx, scope, target);
        if self.free_in(scope) <= before && self.shorten_segments(cx, scope, want) {
            self.turns(cx, scope, target);
        }
        self.core.charge(cx, Cost::Background);
        self.free_in(scope).saturating_sub(before)
    }

    /// Nothing else can be had: segments give up pages at their ends, which can be swapped then.
    /// Whether one did.
    fn shorten_segments(&mut self, cx: &mut Cx<'_, M::Space>, scope: Scope, want: u64) -> bool {
        if self.core.swap.is_full() {
            return false;
        }
        let wanted = |group: GroupId| scope.group.is_none_or(|of| of == group);
        let mut left = false;
        for process in self.processes.iter_mut().filter(|process| wanted(process.space.group)) {
            left |= self.core.shorten_segment(&mut process.space, cx, want);
        }
        for vm in self.vms.iter_mut().filter(|vm| wanted(vm.space.group)) {
            left |= self.core.shorten_segment(&mut vm.space, cx, want);
        }
        left
    }

    /// The hand goes around until `target` is free.
    fn turns(&mut self, cx: &mut Cx<'_, M::Space>, scope: Scope, target: u64) {
        // Twice: the first time may do no more than clear accessed bits.
        let spaces = self.processes.next() + self.vms.next();
        let mut turns = 0;
        while turns <= 2 * spaces && self.free_in(scope) < target {
            if self.turn(cx, scope, target) {
                self.core.hand = (self.core.hand + 1) % spaces.max(1);
                turns += 1;
            }
            if scope.group.is_none() {
                self.shrink_cache(cx, scope, target);
            }
        }
    }

    /// What reclaim in `scope` wants to grow.
    fn free_in(&self, scope: Scope) -> u64 {
        match scope.group {
            Some(group) => u64::MAX / 2 - self.group(group).charged,
            None => {
                let pool = &self.core.pool;
                scope.nodes.iter().map(|node| pool.free_frames(node) + pool.pcp_frames(node)).sum()
            }
        }
    }

    /// The hand goes on in the address space that it is in, until `target` is
    /// free. Whether it came to the space's end.
    fn turn(&mut self, cx: &mut Cx<'_, M::Space>, scope: Scope, target: u64) -> bool {
        let processes = self.processes.next();
        let hand = self.core.hand;
        let skip = |group: GroupId| scope.group.is_some_and(|wanted| wanted != group);
        loop {
            let around = if hand < processes {
                match self.processes.get_mut(hand) {
                    Some(process) if !skip(process.space.group) => {
                        self.core.step(&mut process.space, cx, scope)
                    }
                    _ => true,
                }
            } else {
                match self.vms.get_mut(hand - processes) {
                    Some(vm) if !skip(vm.space.group) => self.core.step(&mut vm.space, cx, scope),
                    _ => true,
                }
            };
            if around || self.free_in(scope) >= target {
                return around;
            }
        }
    }

    /// Drops cached pages that nobody maps until `target` is free; what the device (or
    /// swap) does not have yet is written first.
    fn shrink_cache(&mut self, cx: &mut Cx<'_, M::Space>, scope: Scope, target: u64) {
        for _ in 0..=self.core.files.count() {
            if self.free_in(scope) >= target {
                return;
            }
            let id = FileId(self.core.files.clock);
            let want = target - self.free_in(scope);
            if self.core.shrink_file(cx, id, scope.nodes, want) < want {
                self.core.files.clock = (id.0 + 1) % self.core.files.count().max(1);
            }
        }
    }
}

impl<M: TableMemory> Core<M> {
    /// Drops up to `want` unmapped pages of a file. Returns how many.
    fn shrink_file(&mut self, cx: &mut Cx<'_, M::Space>, id: FileId, nodes: NodeSet, want: u64) -> u64 {
        let Ok(file) = self.files.get(id) else { return 0 };
        let (from, device) = (file.clock, file.has_device());
        let mut victims = Vec::new();
        for (page, frame, dirty) in file.frames::<M::Space>(from).filter(|&(page, ..)| page >= from) {
            if self.pool.refs(frame) == 1 && nodes.contains(self.pool.node_of(frame)) {
                victims.push((page, frame, dirty));
                if victims.len() as u64 >= want {
                    break;
                }
            }
        }
        let next = victims.last().map_or(0, |&(page, ..)| page + 1);
        let mut dropped = 0;
        for (page, frame, dirty) in victims {
            let left: Cached<M::Space> = match (dirty, device) {
                (false, _) => Cached::No,
                (true, true) => {
                    cx.hw.file_write(cx.cpu, id, page, frame);
                    self.files.written += 1;
                    Cached::No
                }
                (true, false) => {
                    let Ok(slot) = self.swap.take() else { continue };
                    cx.hw.swap_out(cx.cpu, frame, slot);
                    Cached::Swapped(slot)
                }
            };
            if let Ok(file) = self.files.get_mut(id) {
                file.set_page(page, left);
                file.clock = next;
            }
            self.pool.put(frame, Some(cx.cpu));
            dropped += 1;
        }
        if dropped < want
            && let Ok(file) = self.files.get_mut(id)
        {
            file.clock = 0;
        }
        dropped
    }

    /// One step of the hand: the next leaf table's worth. Whether it came to the end.
    fn step<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        scope: Scope,
    ) -> bool {
        let Some(area) = space.vmas.first_within(space.clocks.reclaim..u64::MAX) else {
            space.clocks.reclaim = 0;
            return true;
        };
        let window = area.start..area.end.min((area.start / STEP + 1) * STEP);
        space.clocks.reclaim = window.end;
        if area.page > PageSize::Size4K || (area.is_anonymous() && self.swap.is_full()) {
            space.clocks.reclaim = area.end;
            return false;
        }
        let mut leaves: Vec<LeafAt<I>> = Vec::new();
        self.env(cx.cpu, |env| space.table.scan(env, window.clone(), &mut |leaf| leaves.push(leaf)));
        if let [huge] = leaves.as_slice()
            && huge.size > PageSize::Size4K
            && !huge.entry.has(Flags::ACCESSED)
        {
            // Its small pages go when the hand comes by again. Without a frame for the table it stays.
            let _ = self.split_huge(space, cx, huge.addr);
            return false;
        }
        let mut swapped = Vec::new();
        let mut new: Vec<(Addr<I>, Entry)> = Vec::new();
        for leaf in leaves {
            let entry = self.judge(&leaf, scope, &mut swapped);
            if entry != leaf.entry {
                new.push((leaf.addr, entry));
            }
        }
        if new.is_empty() {
            return false;
        }
        let mut flush = Flush::none();
        let mut new = new.into_iter().peekable();
        let changed = self.env(cx.cpu, |env| {
            let change = &mut |leaf: LeafAt<I>| match new.next_if(|&(addr, _)| addr == leaf.addr) {
                // A bit that hardware set just now stays where the page does.
                Some((_, entry)) => entry,
                None => leaf.entry,
            };
            // In a table that others use, for all of them.
            space.table.update_range(env, window, Visibility::Shared, &mut flush, change)
        });
        debug_assert!(changed.is_ok(), "nothing is made this space's own: {changed:?}");
        let released = self.shoot(space, cx, flush);
        // No TLB reaches the pages any more.
        space.stats.file_unmaps += released.gone.len() as u64;
        self.release(space, cx.cpu, &released);
        for out in swapped {
            if out.write {
                cx.hw.swap_out(cx.cpu, out.frame, out.slot);
                space.stats.swap_outs += 1;
            }
            self.source.unmapped(
                &mut self.pool,
                &Unmapped {
                    space: u32::from(space.id.0),
                    page: out.page,
                    pages: 1,
                    frame: out.frame,
                    last: false,
                },
            );
            self.put(space.group, out.frame, cx.cpu);
        }
        false
    }

    /// What becomes of a leaf.
    fn judge<I: Space>(
        &mut self,
        leaf: &LeafAt<I>,
        scope: Scope,
        swapped: &mut Vec<SwapOut<M::Space>>,
    ) -> Entry {
        let entry = leaf.entry;
        if entry.swap_slot().is_some() {
            return entry;
        }
        let frame: Frame<M::Space> = entry.leaf_frame(leaf.size);
        if frame == self.zero || !scope.nodes.contains(self.pool.node_of(frame)) {
            return entry;
        }
        if entry.has(Flags::ACCESSED) {
            return entry.without(Flags::ACCESSED);
        }
        match self.pool.state(frame) {
            FrameState::File if scope.group.is_none() => Entry::EMPTY,
            FrameState::Anon if leaf.size == PageSize::Size4K => {
                // A frame that several map after a `fork` goes to one slot.
                let slot = match self.swap.slot(frame) {
                    Some(slot) => {
                        self.swap.get(slot);
                        swapped.push(SwapOut { page: leaf.addr.page(), frame, slot, write: false });
                        slot
                    }
                    None => {
                        let Ok(slot) = self.swap.take() else { return entry };
                        self.swap.remember(slot, frame);
                        swapped.push(SwapOut { page: leaf.addr.page(), frame, slot, write: true });
                        slot
                    }
                };
                Entry::swapped(slot)
            }
            _ => entry,
        }
    }
}
