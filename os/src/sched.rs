//! Which address space each CPU runs. There is no scheduler: the caller says
//! who runs where.
//!
//! PCIDs as in Linux (`arch/x86/mm/tlb.c`): each CPU has a few, gives them to
//! the spaces it runs in turn, and flushes one when it gets a new owner.

use crate::error::MmError;
use crate::hardware::{
    Cost, CpuMask, Hardware, Invalidate, RootLoad, SegmentLoad, Shootdown, SpaceId, SpaceKind,
};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::{GroupId, ProcessId};
use crate::space::AddressSpace;
use alloc::vec::Vec;
use paging::frames::{CpuId, NodeSet};
use paging::{Reach, Space, TableMemory};

/// What a CPU has loaded and may have cached.
#[derive(Debug)]
pub(crate) struct CpuState {
    slots: Vec<Option<SpaceId>>,
    next: usize,
    current: Option<SpaceId>,
    /// The VM whose table is loaded beside it.
    vm: Option<SpaceId>,
    /// Whether the registers of a segment are on, by [`SpaceKind`].
    pub(crate) segments: [bool; 2],
}

impl CpuState {
    pub(crate) fn new(pcids: u8) -> Self {
        CpuState {
            slots: alloc::vec![None; usize::from(pcids.max(1))],
            next: 0,
            current: None,
            vm: None,
            segments: [false; 2],
        }
    }
    /// Whether `space` is loaded.
    pub(crate) fn runs<I: Space, M: TableMemory>(&self, space: &AddressSpace<I, M>) -> bool {
        match space.owner.kind() {
            SpaceKind::Process => self.current == Some(space.id),
            SpaceKind::Vm => self.vm == Some(space.id),
        }
    }
    /// The slot for `space`, and whom it takes the slot from; `None` if it has it already.
    fn slot(&mut self, space: SpaceId) -> (usize, Option<Option<SpaceId>>) {
        if let Some(at) = self.slots.iter().position(|&s| s == Some(space)) {
            return (at, None);
        }
        let at = self.next;
        self.next = (at + 1) % self.slots.len();
        (at, Some(self.slots[at].replace(space)))
    }
}

impl<M: TableMemory> Core<M> {
    pub(crate) fn load<I: Space>(&mut self, space: &mut AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        let node = self.table_node(cx.cpu);
        let state = &mut self.cpus[cx.cpu.index()];
        let kind = space.owner.kind();
        let (mut pcid, mut evicted) = (0, None);
        match kind {
            SpaceKind::Vm if state.vm == Some(space.id) => return,
            SpaceKind::Vm => state.vm = Some(space.id),
            SpaceKind::Process if state.current == Some(space.id) => return,
            SpaceKind::Process => {
                state.current = Some(space.id);
                let (at, taken) = state.slot(space.id);
                pcid = at as u8 + 1;
                evicted = taken.flatten();
            }
        }
        self.arrive(space, cx);
        space.cpus.insert(cx.cpu);
        self.groups.entry(space.group).or_default().cpus.insert(cx.cpu);
        // Before this CPU walks. Tables that spaces share (BabelFish) do not ask by
        // space: whose CPUs walk them only they know.
        let walkers = space.cpus.iter().map(|cpu| self.table_node(cpu)).collect();
        space.table.walked_by(walkers);
        space.stats.switches += 1;
        space.stats.pcid_evictions += u64::from(evicted.is_some());
        let root = space.table.hardware_root(node);
        let levels = space.table.levels();
        let load = RootLoad { space: space.id, kind, group: space.group, root, levels, pcid, evicted };
        cx.hw.load_root(cx.cpu, &load);
        self.load_segment(space, cx, cx.cpu);
        self.charge(cx, Cost::ContextSwitch);
    }

    /// The CPU runs the space for the first time: entries that the space's group shares there may be from before
    /// it got something else (`Reach::Shared`).
    fn arrive<I: Space>(&mut self, space: &mut AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        if space.visited.contains(cx.cpu) {
            return;
        }
        space.visited.insert(cx.cpu);
        if space.table.ops_ref().is_parted() {
            cx.hw.shootdown(
                cx.cpu,
                &Shootdown {
                    space: space.id,
                    kind: space.owner.kind(),
                    group: space.group,
                    reach: Reach::Shared,
                    what: Invalidate::All,
                    tables_freed: false,
                    cpus: CpuMask::from_iter([cx.cpu]),
                },
            );
        }
    }

    /// After a full flush, CPUs that do not run the space have nothing of it.
    pub(crate) fn forget_idle_cpus<I: Space>(&self, space: &mut AddressSpace<I, M>) {
        let runs = |cpu: &CpuId| {
            let state = &self.cpus[cpu.index()];
            state.current == Some(space.id) || state.vm == Some(space.id)
        };
        let kept: CpuMask = space.cpus.iter().filter(runs).collect();
        space.cpus = kept;
    }

    /// Takes a space that ends from all CPUs, and flushes what they have of it.
    pub(crate) fn unload<I: Space>(&mut self, space: &mut AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        for at in 0..self.cpus.len() {
            let cpu = CpuId(at as u16);
            if self.cpus[at].runs(space) {
                self.unload_segment(cx, cpu, space.id, space.owner.kind());
            }
            let state = &mut self.cpus[at];
            if state.vm == Some(space.id) {
                state.vm = None;
            }
            if state.current == Some(space.id) {
                state.current = None;
                self.load_idle(cx, cpu);
            }
        }
        self.invalidate(space, cx, Invalidate::All, true, NodeSet::ALL, Reach::Space);
        for state in &mut self.cpus {
            state.slots.iter_mut().filter(|slot| **slot == Some(space.id)).for_each(|slot| *slot = None);
        }
    }

    /// No space of this kind runs on `cpu` any more: nor does its segment.
    fn unload_segment(&mut self, cx: &mut Cx<'_, M::Space>, cpu: CpuId, space: SpaceId, kind: SpaceKind) {
        if core::mem::take(&mut self.cpus[cpu.index()].segments[kind as usize]) {
            cx.hw.load_segment(cpu, &SegmentLoad { space, kind, image: None });
        }
    }

    fn load_idle(&mut self, cx: &mut Cx<'_, M::Space>, cpu: CpuId) {
        let (root, levels) = (self.kernel_root, self.config.levels);
        let (space, kind, group) = (SpaceId::KERNEL, SpaceKind::Process, GroupId::default());
        cx.hw.load_root(cpu, &RootLoad { space, kind, group, root, levels, pcid: 0, evicted: None });
    }

    /// The roots of a space moved: CPUs that run it load them anew.
    pub(crate) fn reload<I: Space>(&mut self, space: &AddressSpace<I, M>, cx: &mut Cx<'_, M::Space>) {
        for (at, state) in self.cpus.iter().enumerate() {
            let kind = space.owner.kind();
            let runs = match kind {
                SpaceKind::Process => state.current == Some(space.id),
                SpaceKind::Vm => state.vm == Some(space.id),
            };
            if runs {
                let slot = state.slots.iter().position(|&s| s == Some(space.id));
                let load = RootLoad {
                    space: space.id,
                    kind,
                    group: space.group,
                    root: space.table.hardware_root(self.table_node(CpuId(at as u16))),
                    levels: space.table.levels(),
                    pcid: slot.map_or(0, |slot| slot as u8 + 1),
                    evicted: None,
                };
                cx.hw.load_root(CpuId(at as u16), &load);
            }
        }
    }
}

impl<M: TableMemory> Kernel<M> {
    /// `cpu` runs process `pid` from now on.
    ///
    /// # Errors
    /// [`MmError::NoProcess`], [`MmError::NoCpu`].
    pub fn switch_to(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let process = self.processes.get_mut(pid.0).ok_or(MmError::NoProcess(pid))?;
        // Whoever loses its PCID has nothing left on this CPU.
        let before = self.core.cpus[cpu.index()].slots.clone();
        self.core.load(&mut process.space, &mut cx);
        let evicted: Vec<SpaceId> = before
            .into_iter()
            .flatten()
            .filter(|s| !self.core.cpus[cpu.index()].slots.contains(&Some(*s)))
            .collect();
        if !evicted.is_empty() {
            for process in self.processes.iter_mut().filter(|p| evicted.contains(&p.space.id)) {
                process.space.cpus.remove(cpu);
            }
        }
        Ok(())
    }

    /// `cpu` runs no process from now on.
    ///
    /// # Errors
    /// [`MmError::NoCpu`].
    pub fn idle(&mut self, hw: &mut dyn Hardware<M::Space>, cpu: CpuId) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        if let Some(space) = self.core.cpus[cpu.index()].current.take() {
            self.core.unload_segment(&mut cx, cpu, space, SpaceKind::Process);
            self.core.load_idle(&mut cx, cpu);
        }
        Ok(())
    }

    /// `cpu` enters `vm`: its table translates what the guest there does.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoCpu`].
    pub fn enter_vm(&mut self, hw: &mut dyn Hardware<M::Space>, cpu: CpuId, vm: VmId) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let it = self.vms.get_mut(vm.0).ok_or(MmError::NoVm(vm))?;
        self.core.load(&mut it.space, &mut cx);
        Ok(())
    }
}
