//! Changing where a guest's memory lies: memory hot-plug across guest and host.

use super::{Slot, SlotId, VmId};
use crate::calls::bad_range;
use crate::error::MmError;
use crate::hardware::Hardware;
use crate::kernel::Kernel;
use core::fmt;
use paging::frames::{CpuId, NodeId, PAGEBLOCK};
use paging::{Gfn, GuestPhys, HostPhys, TableMemory};

/// A guest's kernel and its host's, with their machines.
pub struct GuestAndHost<'a, G: TableMemory, H: TableMemory> {
    /// The guest's kernel.
    pub guest: &'a mut Kernel<G>,
    /// Its machine: the VM.
    pub guest_hw: &'a mut dyn Hardware<GuestPhys>,
    /// The host's kernel.
    pub host: &'a mut Kernel<H>,
    /// Its machine.
    pub host_hw: &'a mut dyn Hardware<HostPhys>,
    /// The VM that the guest runs in.
    pub vm: VmId,
    /// The CPU of both that does it.
    pub cpu: CpuId,
}

impl<G: TableMemory, H: TableMemory> fmt::Debug for GuestAndHost<'_, G, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestAndHost").field("vm", &self.vm).field("cpu", &self.cpu).finish_non_exhaustive()
    }
}

impl<G, H> GuestAndHost<'_, G, H>
where
    G: TableMemory<Space = GuestPhys>,
    H: TableMemory<Space = HostPhys>,
{
    /// Self-ballooning (Direct segments, MICRO'14): scattered free frames of the
    /// guest's `node` go to the host, and as much memory comes back as one
    /// contiguous range at `at`. Returns its frames: whole pageblocks, up to `frames`.
    ///
    /// # Errors
    /// [`MmError::BadRange`] if `at` is taken; [`MmError::Hotplug`]; memory errors. The guest
    /// then has its memory back.
    pub fn self_balloon(&mut self, node: NodeId, frames: u64, at: Gfn) -> Result<u64, MmError> {
        let pinned = self.guest.inflate_balloon(node, frames / PAGEBLOCK * PAGEBLOCK);
        let whole = pinned.len() as u64 / PAGEBLOCK * PAGEBLOCK;
        self.guest.deflate_balloon(pinned.len() as u64 - whole);
        if whole == 0 {
            return Ok(0);
        }
        self.host.take_ballooned(self.host_hw, self.cpu, self.vm, &pinned[..whole as usize])?;
        let added = self.host.add_slot(self.host_hw, self.cpu, self.vm, Slot::new(at, whole));
        let plugged = added.and_then(|slot| {
            let plugged = self.guest.add_memory(node, at, whole);
            if plugged.is_err() {
                self.host.remove_slot(self.host_hw, self.cpu, self.vm, slot)?;
            }
            plugged
        });
        if plugged.is_err() {
            // The frames pinned last: the host backs them again when they are used.
            self.guest.deflate_balloon(whole);
        }
        plugged.map(|()| whole)
    }

    /// Moves a memory slot in guest-physical space: the guest unplugs it, and plugs as much in
    /// at `to`. Closes the I/O gap below 4 GiB, when the slot is what lies under it.
    ///
    /// # Errors
    /// [`MmError::Hotplug`] if the guest cannot free the slot's frames (page tables, shared pages):
    /// nothing was changed then but that pages moved.
    pub fn replug(&mut self, slot: SlotId, node: NodeId, to: Gfn) -> Result<SlotId, MmError> {
        let old = self.host.vm(self.vm)?.slots().find(|&(id, _)| id == slot).map(|(_, slot)| *slot);
        let Some(old) = old else { return Err(bad_range(u64::from(slot.0), 0, "the VM has no such slot")) };
        self.guest.remove_memory(self.guest_hw, self.cpu, old.start, old.frames)?;
        self.host.remove_slot(self.host_hw, self.cpu, self.vm, slot)?;
        let new = self.host.add_slot(self.host_hw, self.cpu, self.vm, Slot { start: to, ..old })?;
        self.guest.add_memory(node, to, old.frames)?;
        Ok(new)
    }
}
