//! VMs and their memory slots.

use crate::calls::{bad_range, checked};
use crate::error::{MmError, Stop};
use crate::hardware::Hardware;
use crate::kernel::{Core, Cx, Kernel, NewSpace};
use crate::process::GroupId;
use crate::space::{AddressSpace, Owner};
use crate::thp::ThpMode;
use crate::vma::{Backing, HugeAdvice, Policy, Prot, Vma};
use alloc::collections::BTreeMap;
use core::ops::Range;
use paging::frames::{CpuId, NodeId};
use paging::{Frame, Gfn, Gpa, GuestPhys, PageSize, TableMemory};

/// A VM. Numbers are not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VmId(pub u32);

/// A memory slot of a VM. Numbers are not used again within the VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

/// A run of guest frames with memory behind them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    /// The first guest frame.
    pub start: Gfn,
    /// Guest frames.
    pub frames: u64,
    /// Above 4 KiB: backed by reserved huge pages.
    pub page: PageSize,
    /// On which host nodes.
    pub policy: Option<Policy>,
}

impl Slot {
    /// `frames` frames from `start` on, backed by small or transparent huge pages.
    pub const fn new(start: Gfn, frames: u64) -> Self {
        Slot { start, frames, page: PageSize::Size4K, policy: None }
    }
    fn range(&self, end: u64) -> Result<Range<u64>, MmError> {
        let start = self.start.base().raw();
        let Some(len) = self.frames.checked_mul(4096) else {
            return Err(bad_range(start, u64::MAX, "the slot is too large"));
        };
        let range = checked(start, len, end)?;
        if (range.start | range.end) & (self.page.bytes() - 1) != 0 {
            return Err(bad_range(start, len, "the slot is not made of whole pages of its size"));
        }
        Ok(range)
    }
}

/// How a VM begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmSpec {
    /// Its group.
    pub group: GroupId,
    /// Where its memory and its table are wanted.
    pub policy: Policy,
    /// Its huge-page mode, if not the kernel's.
    pub thp: Option<ThpMode>,
}

/// A VM.
#[derive(Debug)]
pub struct Vm<M: TableMemory> {
    pub(crate) id: VmId,
    pub(crate) space: AddressSpace<GuestPhys, M>,
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    next_slot: u32,
}

impl<M: TableMemory> Vm<M> {
    /// Its number.
    pub fn id(&self) -> VmId {
        self.id
    }
    /// Its guest-physical address space.
    pub fn space(&self) -> &AddressSpace<GuestPhys, M> {
        &self.space
    }
    /// Its guest-physical address space, for whoever switches a mechanism on and off.
    pub fn space_mut(&mut self) -> &mut AddressSpace<GuestPhys, M> {
        &mut self.space
    }
    /// Its memory slots.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().map(|(&id, slot)| (id, slot))
    }
    /// The root that a CPU of `node` loads.
    pub fn root(&self, node: NodeId) -> Frame<M::Space> {
        self.space.table.hardware_root(node)
    }

    pub(crate) fn add_slot(
        &mut self,
        core: &mut Core<M>,
        cx: &mut Cx<'_, M::Space>,
        slot: Slot,
    ) -> Result<SlotId, Stop> {
        let range = slot.range(self.space.table.end())?;
        if let Some(other) = self.space.vmas.within(range.clone()).next() {
            let why = "another slot has a part of it";
            return Err(bad_range(other.start, other.len(), why).into());
        }
        let vma = Vma {
            start: range.start,
            end: range.end,
            prot: Prot::RWX,
            backing: Backing::Anonymous,
            shared: false,
            page: slot.page,
            huge: HugeAdvice::None,
            policy: slot.policy,
        };
        core.add_area(&mut self.space, cx, vma)?;
        let id = SlotId(self.next_slot);
        self.next_slot += 1;
        self.slots.insert(id, slot);
        Ok(id)
    }

    pub(crate) fn remove_slot(
        &mut self,
        core: &mut Core<M>,
        cx: &mut Cx<'_, M::Space>,
        id: SlotId,
    ) -> Result<(), Stop> {
        let Some(slot) = self.slots.get(&id) else {
            return Err(bad_range(u64::from(id.0), 0, "the VM has no slot of this number").into());
        };
        let range = slot.range(self.space.table.end())?;
        core.unmap(&mut self.space, cx, range)?;
        self.slots.remove(&id);
        Ok(())
    }
}

impl<M: TableMemory> Kernel<M> {
    /// A VM with these memory slots, nothing of them backed yet.
    ///
    /// # Errors
    /// [`MmError::BadRange`] for slots that overlap; memory errors.
    pub fn create_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        spec: VmSpec,
        slots: &[Slot],
    ) -> Result<VmId, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let id = VmId(self.vms.next());
        let VmSpec { group, policy, thp } = spec;
        let levels = self.core.config.levels;
        let begin = NewSpace { owner: Owner::Vm(id), group, policy, thp, parent: None, levels };
        let mut attempts = 0;
        let space = loop {
            let space = self.core.new_space(cpu, &begin, |tables, info| tables.vm(info));
            match space {
                Ok(space) => break space,
                Err(stop) => self.relieve(&mut cx, stop, &mut attempts)?,
            }
        };
        let vm = Vm { id, space, slots: BTreeMap::new(), next_slot: 0 };
        self.vms.push(vm);
        for slot in slots {
            if let Err(e) = self.add_slot(&mut *cx.hw, cpu, id, *slot) {
                self.destroy_vm(cx.hw, cpu, id)?;
                return Err(e);
            }
        }
        Ok(id)
    }

    /// A VM.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn vm(&self, id: VmId) -> Result<&Vm<M>, MmError> {
        self.vms.get(id.0).ok_or(MmError::NoVm(id))
    }

    /// A VM, for whoever switches a mechanism on and off.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn vm_mut(&mut self, id: VmId) -> Result<&mut Vm<M>, MmError> {
        self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))
    }

    /// The VMs alive, by number.
    pub fn vms(&self) -> impl Iterator<Item = &Vm<M>> {
        self.vms.iter()
    }

    /// Ends a VM: all its frames come back.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn destroy_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        if self.shadow(id).is_ok() {
            self.disable_shadow(&mut *hw, cpu, id)?;
        }
        if self.passthrough(id).is_ok() {
            self.disable_passthrough(&mut *hw, cpu, id)?;
        }
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, id, |core, vm, cx| core.empty(&mut vm.space, cx))?;
        let vm = self.vms.remove(id.0).ok_or(MmError::NoVm(id))?;
        self.core.end_space(vm.space, &mut cx)
    }

    /// Adds a memory slot (the host's half of memory hot-plug).
    ///
    /// # Errors
    /// [`MmError::BadRange`] if another slot has a part of it.
    pub fn add_slot(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        slot: Slot,
    ) -> Result<SlotId, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, id, |core, vm, cx| vm.add_slot(core, cx, slot))
    }

    /// Takes a memory slot away; its frames come back.
    ///
    /// # Errors
    /// [`MmError::BadRange`] if there is no such slot.
    pub fn remove_slot(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        slot: SlotId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, id, |core, vm, cx| vm.remove_slot(core, cx, slot))
    }

    /// Where guest frame `gfn` of a VM is in host memory now.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn host_frame(&mut self, id: VmId, gfn: Gfn) -> Result<Option<Frame<M::Space>>, MmError> {
        let vm = self.vms.get(id.0).ok_or(MmError::NoVm(id))?;
        let gpa: Gpa = gfn.base();
        if let Some(frame) = vm.space.in_place(gpa) {
            return Ok(Some(frame));
        }
        let found = self.core.lookup(&vm.space, CpuId(0), gpa);
        let size = found.size().unwrap_or_default();
        Ok(found.frame().map(|head| head.offset(gpa.page_offset(size) >> 12)))
    }
}
