//! Pages of equal content that become one (Linux: KSM).

use super::VmId;
use crate::error::MmError;
use crate::hardware::{Cost, Hardware};
use crate::kernel::Kernel;
use paging::frames::CpuId;
use paging::{Entry, Flags, Flush, Frame, Gfn, LeafAt, PageSize, TableMemory, Visibility};

impl<M: TableMemory> Kernel<M> {
    /// Two guest pages whose content the caller found equal share the frame of the first from now
    /// on, until one of them is stored to. Whether they do: only small pages are
    /// merged that nobody else shares (the first may be shared by such merging).
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn merge_vm_pages(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        kept: (VmId, Gfn),
        gone: (VmId, Gfn),
    ) -> Result<bool, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        // Nobody may store to either while they are compared.
        let frame = self.on_vm(&mut cx, kept.0, |core, vm, cx| {
            let found = core.lookup(&vm.space, cx.cpu, kept.1.base());
            let small = found.level == 1 && found.entry.is_leaf(1);
            let frame: Frame<M::Space> = found.entry.frame();
            if !small || !(core.is_exclusive(frame) || found.entry.has(Flags::COW)) || frame == core.zero {
                return Ok(None);
            }
            let start = kept.1.base().raw();
            let mut flush = Flush::none();
            let done = core.env(cx.cpu, |env| {
                let protect = &mut |leaf: LeafAt<_>| leaf.entry.without(Flags::WRITABLE).with(Flags::COW);
                vm.space.table.update_range(
                    env,
                    start..start + 4096,
                    Visibility::Private,
                    &mut flush,
                    protect,
                )
            });
            core.discharge(&mut vm.space, cx, flush);
            done?;
            Ok(Some(frame))
        })?;
        let Some(frame) = frame else { return Ok(false) };
        let merged = self.on_vm(&mut cx, gone.0, |core, vm, cx| {
            let addr = gone.1.base();
            let found = core.lookup(&vm.space, cx.cpu, addr);
            let own: Frame<M::Space> = found.entry.frame();
            let small = found.level == 1 && found.entry.is_leaf(1);
            if !small || own == frame || !core.is_exclusive(own) {
                return Ok(false);
            }
            core.pool.get(frame);
            let flags = found.entry.without(Flags::WRITABLE).with(Flags::COW).flags();
            core.replace(
                &mut vm.space,
                cx,
                addr,
                PageSize::Size4K,
                Entry::leaf(frame, PageSize::Size4K, flags),
            )?;
            Ok(true)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(merged)
    }
}
