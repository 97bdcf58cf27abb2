//! Hard faults: a frame that must not be used again.

use super::Reason;
use super::leave::Content;
use crate::VmId;
use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware};
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use alloc::vec::Vec;
use paging::frames::{AllocRequest, CpuId, FrameState, HotplugError};
use paging::{Addr, Frame, PageSize, Space, TableMemory};

/// Whose segment a frame is in.
enum Holder {
    Process(ProcessId, u64),
    Vm(VmId, u64),
}

impl<M: TableMemory> Core<M> {
    /// The page that is in place at `frame`.
    fn page_at<I: Space>(space: &AddressSpace<I, M>, frame: Frame<M::Space>) -> Option<u64> {
        let segment = space.segment()?;
        let bounds = segment.bounds();
        let page =
            frame.number().wrapping_sub(segment.frame(bounds.start).number()).wrapping_add(bounds.start);
        (bounds.contains(&page) && !segment.escaped.contains_key(&page)).then_some(page)
    }

    /// The page in place at `page` escapes to another frame; its own is faulty.
    fn escape_fault<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        page: u64,
    ) -> Result<(), Stop> {
        let addr = Addr::<I>::new(page << 12);
        let Some(old) = space.in_place(addr) else { return Ok(()) };
        let node = self.pool.node_of(old);
        let new = self.pool.alloc(AllocRequest::new(node, FrameState::Anon))?;
        let left = self.leave(space, cx, page << 12..(page + 1) << 12, Content::Kept, Reason::Faulty);
        if let Err(stop) = left {
            self.pool.free(new, 0, None);
            return Err(stop);
        }
        self.pool.set_state(old, FrameState::Faulty);
        let moved = self.move_leaf(space, cx, addr, PageSize::Size4K, old, new);
        // The new frame was charged for; the old one, no longer anonymous, was not discharged.
        let group = self.groups.entry(space.group).or_default();
        group.charged = group.charged.saturating_sub(u64::from(moved.is_ok()));
        moved
    }
}

impl<M: TableMemory> Kernel<M> {
    /// `frame` is faulty: what is in it goes elsewhere, and nobody gets it again.
    /// A page of a segment escapes.
    ///
    /// # Errors
    /// [`MmError::Hotplug`] if something is in it that cannot move; memory errors.
    pub fn mark_faulty(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        frame: Frame<M::Space>,
    ) -> Result<(), MmError> {
        let in_process = |p: &crate::Process<M>| Some(Holder::Process(p.id, Core::page_at(&p.space, frame)?));
        let in_vm = |vm: &crate::Vm<M>| Some(Holder::Vm(vm.id, Core::page_at(&vm.space, frame)?));
        let holders: Vec<Holder> =
            self.processes.iter().filter_map(in_process).chain(self.vms.iter().filter_map(in_vm)).collect();
        if let Some(holder) = holders.first() {
            let mut cx = self.cx(hw, cpu)?;
            match *holder {
                Holder::Process(pid, page) => self.on_process(&mut cx, pid, |core, process, cx| {
                    core.escape_fault(&mut process.space, cx, page)
                })?,
                Holder::Vm(vm, page) => {
                    self.on_vm(&mut cx, vm, |core, vm, cx| core.escape_fault(&mut vm.space, cx, page))?
                }
            }
            self.core.charge(&mut cx, Cost::Migrate { pages: 1 });
            return Ok(());
        }
        if !matches!(self.core.pool.state(frame), FrameState::Free | FrameState::PerCpuFree) {
            self.evacuate(hw, cpu, frame, 1)?;
        }
        self.core.pool.isolate(frame, FrameState::Faulty).map_err(|_| {
            let state = self.core.pool.state(frame);
            MmError::Hotplug(HotplugError::InUse { frame: frame.number(), state })
        })
    }
}
