//! NUMA balancing: data follows the CPUs that use it. And page migration, which
//! balancing, compaction and moving a VM share.
//!
//! As in Linux: a scanner makes leaves fault on purpose, window by window; the
//! fault shows which node uses the page; a page moves when two faults in a row
//! come from the same other node. Linux's grouping of tasks by shared faults is
//! not modelled.

use crate::error::{MmError, Stop};
use crate::fault::FaultOutcome;
use crate::hardware::{Cost, Hardware, Syscall};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use crate::stats::FaultKind;
use crate::vma::Vma;
use core::ops::Range;
use paging::frames::{AllocRequest, CpuId, FrameState, NodeId, NodeSet};
use paging::{Addr, Entry, Flush, Found, Frame, MapError, PageSize, Space, TableMemory, Va, Visibility};

/// How NUMA balancing works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NumaBalancing {
    /// Bytes of an address space that one scan passes (Linux `scan_size_mb`, 256).
    pub scan_bytes: u64,
    /// A page moves at its first fault, not at the second from the same node.
    pub eager: bool,
}

impl Default for NumaBalancing {
    fn default() -> Self {
        NumaBalancing { scan_bytes: 256 << 20, eager: false }
    }
}

impl<M: TableMemory> Core<M> {
    /// A hinting fault.
    pub(crate) fn hint<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        found: &Found<M::Space>,
    ) -> Result<FaultOutcome, Stop> {
        let size = found.size().unwrap_or_default();
        let frame: Frame<M::Space> = found.entry.leaf_frame(size);
        let here = self.node(cx.cpu);
        let last = core::mem::replace(self.hinted.get_or_default(frame.number()), here.0 + 1);
        let again = self.config.numa_balancing.eager || last == here.0 + 1;
        let allowed = vma.policy.unwrap_or(space.policy).bound().is_none_or(|nodes| nodes.contains(here));
        let movable = again && allowed && self.pool.node_of(frame) != here && vma.page == PageSize::Size4K;
        if movable && self.migrate_leaf(space, cx, addr, here)? {
            return Ok(FaultOutcome::new(FaultKind::NumaMigrate, size));
        }
        self.show(space, cx, addr, size, frame)?;
        Ok(FaultOutcome::new(FaultKind::NumaHint, size))
    }

    /// Moves the page at `addr` to `node` if this space alone maps it; whether
    /// it did. The leaf is present afterwards in either case.
    pub(crate) fn migrate_leaf<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        node: NodeId,
    ) -> Result<bool, Stop> {
        let found = self.lookup(space, cx.cpu, addr);
        let (Some(size), Some(old)) = (found.size(), found.frame()) else { return Ok(false) };
        self.ensure(space, cx, addr, size.level(), Visibility::Private)?;
        let whole = self.pool.compound(old).map_or(0, |unit| unit.1) == size.order();
        if !self.is_exclusive(old) || !whole || self.huge.owns(old) || self.pool.node_of(old) == node {
            return Ok(false);
        }
        let request = AllocRequest::new(node, FrameState::Anon).page(size).strict().opportunistic();
        let Ok(new) = self.pool.alloc(request) else { return Ok(false) };
        self.move_leaf(space, cx, addr, size, old, new)?;
        Ok(true)
    }

    /// Copies the page at `addr` from `old` to `new` and maps it there.
    pub(crate) fn move_leaf<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        size: PageSize,
        old: Frame<M::Space>,
        new: Frame<M::Space>,
    ) -> Result<(), Stop> {
        if let Err(e) = self.hide(space, cx, addr, size) {
            self.pool.put(new, Some(cx.cpu));
            return Err(e.into());
        }
        self.swap.forget_unit(old, size.order());
        self.copy(cx, old, new, size);
        // With the bits that hardware set until it was hidden.
        let entry = self.lookup(space, cx.cpu, addr).entry;
        let entry = if space.accessible(addr) { entry.from_prot_none() } else { entry };
        // The group's charge moves with the page: `replace` takes the old one's away.
        self.groups.entry(space.group).or_default().charged += size.frames();
        self.replace(space, cx, addr.align_down(size), size, entry.with_frame(new))?;
        space.stats.migrated_pages += size.frames();
        Ok(())
    }

    /// Takes all accesses to the page at `addr` away, as nobody may store to it while
    /// it is copied. The table becomes this space's own.
    pub(crate) fn hide<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        size: PageSize,
    ) -> Result<(), MapError> {
        let start = addr.align_down(size).raw();
        let mut flush = Flush::none();
        let hidden = self.env(cx.cpu, |env| {
            let hide = &mut |leaf: paging::LeafAt<I>| match leaf.entry.is_present() {
                true => leaf.entry.to_prot_none(),
                false => leaf.entry,
            };
            space.table.update_range(env, start..start + size.bytes(), Visibility::Private, &mut flush, hide)
        });
        self.discharge(space, cx, flush);
        hidden
    }

    /// Makes the hidden page at `addr` present again (if its area allows any access), in the frame `frame` from now on.
    pub(crate) fn show<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        size: PageSize,
        frame: Frame<M::Space>,
    ) -> Result<(), MapError> {
        let start = addr.align_down(size).raw();
        let mut flush = Flush::none();
        let mut shown = Entry::EMPTY;
        let accessible = space.accessible(addr);
        let done = self.env(cx.cpu, |env| {
            let show = &mut |leaf: paging::LeafAt<I>| match leaf.entry.is_prot_none() {
                true => {
                    let entry = leaf.entry.with_frame(frame);
                    shown = if accessible { entry.from_prot_none() } else { entry };
                    shown
                }
                false => leaf.entry,
            };
            space.table.update_range(env, start..start + size.bytes(), Visibility::Shared, &mut flush, show)
        });
        self.discharge(space, cx, flush);
        self.notify_mapped(space, cx, addr, shown, size);
        done
    }

    /// Makes the leaves of the next window fault. Returns how many it hid, and
    /// whether it came to the end of the address space.
    fn hide_window<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> Result<(u64, bool), Stop> {
        let mut left = self.config.numa_balancing.scan_bytes;
        let mut start = core::mem::take(&mut space.clocks.numa);
        let mut hidden = 0;
        while let Some(area) = space.vmas.first_within(start..u64::MAX) {
            if left == 0 {
                space.clocks.numa = area.start;
                return Ok((hidden, false));
            }
            // Windows end where huge pages do, or none would be hidden that lies across.
            let edge = area.start.saturating_add(left) & !(PageSize::Size2M.bytes() - 1);
            let edge = if edge > area.start { edge } else { area.start.saturating_add(left) };
            let window = area.start..area.end.min(edge);
            start = window.end;
            left -= (window.end - window.start).min(left);
            // Linux skips what cannot move: pages of files that nobody may
            // store to, and reserved huge pages.
            if !area.prot.any() || !area.is_anonymous() || area.page > PageSize::Size4K {
                continue;
            }
            let zero = self.zero;
            let mut flush = Flush::none();
            let done = self.env(cx.cpu, |env| {
                let hide = &mut |leaf: paging::LeafAt<I>| {
                    if leaf.entry.is_present() && leaf.entry.frame() != zero {
                        hidden += 1;
                        leaf.entry.to_prot_none()
                    } else {
                        leaf.entry
                    }
                };
                // In a table that others use, too: they lose nothing but a fault.
                space.table.update_range(env, window, Visibility::Shared, &mut flush, hide)
            });
            self.discharge(space, cx, flush);
            done?;
        }
        Ok((hidden, true))
    }

    /// Hides the next window; after the last one tables may follow the data.
    fn scan_numa<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> Result<u64, Stop> {
        let (hidden, around) = self.hide_window(space, cx)?;
        if around {
            self.follow_data(space, cx);
        }
        Ok(hidden)
    }

    /// Lets page tables follow the data (a mechanism may; the baseline does not).
    pub(crate) fn follow_data<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> u64 {
        let mut flush = Flush::none();
        let moved = self.env(cx.cpu, |env| space.table.rebalance(env, &mut flush));
        if moved > 0 {
            space.stats.migrated_tables += moved;
            self.reload(space, cx);
        }
        self.discharge(space, cx, flush);
        moved
    }

    /// Gives the CPUs of `nodes` page tables of their own; see [`paging::TableOps::replicate`].
    fn replicate<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        nodes: NodeSet,
    ) -> Result<NodeSet, Stop> {
        let mut flush = Flush::none();
        let done = self.env(cx.cpu, |env| space.table.replicate(env, nodes, &mut flush));
        self.reload(space, cx);
        self.discharge(space, cx, flush);
        Ok(done?)
    }

    /// Moves pages of `range` to `node`, at most `budget` of them. Returns how
    /// many 4 KiB pages moved.
    pub(crate) fn migrate_range<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
        node: NodeId,
        budget: u64,
    ) -> Result<u64, Stop> {
        let before = space.stats.migrated_pages;
        let mut start = range.start;
        while start < range.end
            && space.stats.migrated_pages - before < budget
            && let Some(area) = space.vmas.first_within(start..range.end)
        {
            // By windows, so that the list of leaves stays short.
            let window = area.start
                ..area.end.min((area.start / PageSize::Size1G.bytes() + 1) * PageSize::Size1G.bytes());
            start = window.end;
            let mut leaves = alloc::vec::Vec::new();
            self.env(cx.cpu, |env| space.table.scan(env, window, &mut |leaf| leaves.push(leaf.addr)));
            for addr in leaves {
                if space.stats.migrated_pages - before >= budget {
                    break;
                }
                self.migrate_leaf(space, cx, addr, node)?;
            }
        }
        Ok(space.stats.migrated_pages - before)
    }
}

impl<M: TableMemory> Kernel<M> {
    /// One scan of NUMA balancing (Linux `task_numa_work`): makes the pages of
    /// the next window fault; when it came around, lets page tables follow the data. Returns the leaves hidden.
    ///
    /// # Errors
    /// [`MmError::NoProcess`]; memory errors.
    pub fn numa_scan(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let hidden =
            self.on_process(&mut cx, pid, |core, process, cx| core.scan_numa(&mut process.space, cx))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(hidden)
    }

    /// As [`numa_scan`](Self::numa_scan), of a VM's memory: its pages follow the
    /// virtual CPUs that use them, its table the pages.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn numa_scan_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let hidden = self.on_vm(&mut cx, vm, |core, vm, cx| core.scan_numa(&mut vm.space, cx))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(hidden)
    }

    /// Lets the page tables of a process follow its data now. Returns how many table pages moved.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn rebalance_tables(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let moved =
            self.on_process(&mut cx, pid, |core, process, cx| Ok(core.follow_data(&mut process.space, cx)))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(moved)
    }

    /// As [`rebalance_tables`](Self::rebalance_tables), for a VM's table, or its shadow tables.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn rebalance_vm_tables(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        // Under shadow paging no walker is in the VM's own table; what is made from it would go if it moved.
        let moved = match self.shadow(vm) {
            Ok(_) => self.rebalance_shadow(&mut cx, vm),
            Err(_) => self.on_vm(&mut cx, vm, |core, vm, cx| Ok(core.follow_data(&mut vm.space, cx)))?,
        };
        self.core.charge(&mut cx, Cost::Background);
        Ok(moved)
    }

    /// From now on the CPUs of `nodes` walk page tables of their own for this
    /// process; with no node, all walk the same. Returns the nodes that do.
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`]; everything is then as it was.
    pub fn replicate_tables(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        nodes: NodeSet,
    ) -> Result<NodeSet, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let done =
            self.on_process(&mut cx, pid, |core, process, cx| core.replicate(&mut process.space, cx, nodes))?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Policy));
        Ok(done)
    }

    /// As [`replicate_tables`](Self::replicate_tables), for a VM's table.
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`]; everything is then as it was.
    pub fn replicate_vm_tables(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        nodes: NodeSet,
    ) -> Result<NodeSet, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let done = self.on_vm(&mut cx, vm, |core, vm, cx| core.replicate(&mut vm.space, cx, nodes))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(done)
    }

    /// `migrate_pages`: moves what a process alone has in `len` bytes from `va` to
    /// `node`, as far as there is room. Returns how many 4 KiB pages moved.
    ///
    /// # Errors
    /// [`MmError::NoProcess`]; memory errors.
    pub fn migrate(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
        node: NodeId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let pages = self.on_process(&mut cx, pid, |core, process, cx| {
            let range = va.raw()..va.raw().saturating_add(len).min(process.space.table.end());
            core.migrate_range(&mut process.space, cx, range, node, u64::MAX)
        })?;
        self.core.charge(&mut cx, Cost::Migrate { pages });
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Policy));
        Ok(pages)
    }
}
