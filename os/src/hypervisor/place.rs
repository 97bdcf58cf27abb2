//! Guest memory that shall lie on a node: what a guest that is shown one node
//! asks for when it knows of more (vMitosis, NO-P).

use crate::calls::{bad_range, checked};
use crate::error::MmError;
use crate::hardware::{Cost, ExitKind, Hardware};
use crate::hypervisor::VmId;
use crate::kernel::Kernel;
use crate::vma::Policy;
use paging::frames::{CpuId, NodeId};
use paging::{Gfn, Intent, TableMemory};

impl<M: TableMemory> Kernel<M> {
    /// A hypercall: `frames` guest frames from `start` on are to lie on `node`.
    /// They are backed there now; what was backed elsewhere moves, as far as
    /// there is room. Returns how many 4 KiB pages moved.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; [`MmError::BadRange`] if it is not the VM's memory; memory errors.
    pub fn place_vm_memory(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        start: Gfn,
        frames: u64,
        node: NodeId,
    ) -> Result<u64, MmError> {
        let len = frames.saturating_mul(4096);
        let mut cx = self.cx(&mut *hw, cpu)?;
        let moved = self.on_vm(&mut cx, vm, |core, vm, cx| {
            let space = &mut vm.space;
            let range = checked(start.base().raw(), len, space.table.end())?;
            if !space.vmas.covers(range.clone()) {
                return Err(bad_range(range.start, len, "a part of it is not the VM's memory").into());
            }
            core.split_at(space, cx, range.start)?;
            core.split_at(space, cx, range.end)?;
            space.vmas.update(range.clone(), |area| area.policy = Some(Policy::Preferred(node)));
            core.migrate_range(space, cx, range, node, u64::MAX)
        })?;
        if let Some(vm) = self.vms.get_mut(vm.0) {
            vm.space.stats.hypercalls += 1;
        }
        self.core.charge(&mut cx, Cost::Exit(ExitKind::Hypercall));
        self.core.charge(&mut cx, Cost::Migrate { pages: moved });
        self.populate_vm(hw, cpu, vm, start.base(), len, Intent::WRITE)?;
        Ok(moved)
    }
}
