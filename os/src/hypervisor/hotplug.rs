//! Changing where a guest's memory lies: memory hot-plug across guest and host.

use super::{Slot, SlotId, VmId};
use crate::calls::bad_range;
use crate::error::MmError;
use crate::hardware::Hardware;
use crate::kernel::Kernel;
use core::fmt;
use paging::frames::{CpuId, DMA32_END, NodeId, PAGEBLOCK};
use paging::{Frame, Gfn, GuestPhys, HostPhys, TableMemory};

/// Frames below 4 GiB that a guest keeps when the I/O gap is closed: 256 MiB, for its kernel
/// (Efficient Memory Virtualization, MICRO 2014).
pub const KEPT_BELOW_GAP: u64 = (256 << 20) / 4096;

/// A guest and its host, of which one at a time does something: a guest's
/// machine is made of its host.
pub trait GuestOnHost {
    /// Where the guest's tables are.
    type Guest: TableMemory<Space = GuestPhys>;
    /// Where the host's tables are.
    type Host: TableMemory<Space = HostPhys>;

    /// The guest's kernel on its machine.
    fn guest<R>(&mut self, f: impl FnOnce(&mut Kernel<Self::Guest>, &mut dyn Hardware<GuestPhys>) -> R) -> R;
    /// The host's kernel on its machine.
    fn host<R>(&mut self, f: impl FnOnce(&mut Kernel<Self::Host>, &mut dyn Hardware<HostPhys>) -> R) -> R;
    /// The VM that the guest runs in.
    fn vm(&self) -> VmId;
    /// The CPU of both that does it.
    fn cpu(&self) -> CpuId;

    /// The VM's memory slots, ascending.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    fn slots(&mut self) -> Result<alloc::vec::Vec<(SlotId, Slot)>, MmError> {
        let vm = self.vm();
        self.host(|host, _| {
            let mut slots: alloc::vec::Vec<_> = host.vm(vm)?.slots().map(|(id, slot)| (id, *slot)).collect();
            slots.sort_by_key(|(_, slot)| slot.start);
            Ok(slots)
        })
    }

    /// The first guest frame after all slots where another can be.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    fn end_of_memory(&mut self) -> Result<Gfn, MmError> {
        let last = self.slots()?.last().map_or(0, |(_, slot)| slot.start.number() + slot.frames);
        Ok(Frame::new(last.next_multiple_of(PAGEBLOCK)))
    }

    /// Self-ballooning (Direct segments, MICRO'14): scattered free frames of the
    /// guest's `node` go to the host, and as much memory comes back as one
    /// contiguous range at `at`. Returns its frames: whole pageblocks, up to `frames`.
    ///
    /// # Errors
    /// [`MmError::BadRange`] if `at` is taken; [`MmError::Hotplug`]; memory errors. The guest
    /// then has its memory back.
    fn self_balloon(&mut self, node: NodeId, frames: u64, at: Gfn) -> Result<u64, MmError> {
        let (vm, cpu) = (self.vm(), self.cpu());
        let pinned = self.guest(|guest, _| {
            let pinned = guest.inflate_balloon(node, frames / PAGEBLOCK * PAGEBLOCK);
            let whole = pinned.len() as u64 / PAGEBLOCK * PAGEBLOCK;
            guest.deflate_balloon(pinned.len() as u64 - whole);
            pinned
        });
        let whole = pinned.len() as u64 / PAGEBLOCK * PAGEBLOCK;
        if whole == 0 {
            return Ok(0);
        }
        let added = self.host(|host, hw| {
            host.take_ballooned(&mut *hw, cpu, vm, &pinned[..whole as usize])?;
            host.add_slot(hw, cpu, vm, Slot::new(at, whole))
        });
        let plugged = added.and_then(|slot| {
            let plugged = self.guest(|guest, _| guest.add_memory(node, at, whole));
            if plugged.is_err() {
                self.host(|host, hw| host.remove_slot(hw, cpu, vm, slot))?;
            }
            plugged
        });
        if plugged.is_err() {
            // The frames pinned last: the host backs them again when they are used.
            self.guest(|guest, _| guest.deflate_balloon(whole));
        }
        plugged.map(|()| whole)
    }

    /// Moves a memory slot in guest-physical space: the guest unplugs it, and plugs as much in
    /// at `to`.
    ///
    /// # Errors
    /// [`MmError::Hotplug`] if the guest cannot free the slot's frames (page tables, shared pages):
    /// nothing was changed then but that pages moved.
    fn replug(&mut self, slot: SlotId, node: NodeId, to: Gfn) -> Result<SlotId, MmError> {
        let (vm, cpu) = (self.vm(), self.cpu());
        let old = self.slots()?.into_iter().find(|&(id, _)| id == slot).map(|(_, slot)| slot);
        let Some(old) = old else { return Err(bad_range(u64::from(slot.0), 0, "the VM has no such slot")) };
        self.guest(|guest, hw| guest.remove_memory(hw, cpu, old.start, old.frames))?;
        let new = self.host(|host, hw| {
            host.remove_slot(&mut *hw, cpu, vm, slot)?;
            host.add_slot(hw, cpu, vm, Slot { start: to, ..old })
        })?;
        self.guest(|guest, _| guest.add_memory(node, to, old.frames))?;
        Ok(new)
    }

    /// Closes the I/O gap below 4 GiB: slots between [`KEPT_BELOW_GAP`] and the gap are unplugged and plugged
    /// in again after all others, so that one range holds nearly all memory. Returns the frames moved.
    ///
    /// # Errors
    /// As [`replug`](Self::replug).
    fn close_io_gap(&mut self, node: NodeId) -> Result<u64, MmError> {
        let mut moved = 0;
        for (id, slot) in self.slots()? {
            let (start, end) = (slot.start.number(), slot.start.number() + slot.frames);
            if start >= KEPT_BELOW_GAP && end <= DMA32_END {
                let to = self.end_of_memory()?;
                self.replug(id, node, to)?;
                moved += slot.frames;
            }
        }
        Ok(moved)
    }
}

/// A guest's kernel and its host's, with machines that do not need each other.
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

impl<G, H> GuestOnHost for GuestAndHost<'_, G, H>
where
    G: TableMemory<Space = GuestPhys>,
    H: TableMemory<Space = HostPhys>,
{
    type Guest = G;
    type Host = H;

    fn guest<R>(&mut self, f: impl FnOnce(&mut Kernel<G>, &mut dyn Hardware<GuestPhys>) -> R) -> R {
        f(self.guest, self.guest_hw)
    }
    fn host<R>(&mut self, f: impl FnOnce(&mut Kernel<H>, &mut dyn Hardware<HostPhys>) -> R) -> R {
        f(self.host, self.host_hw)
    }
    fn vm(&self) -> VmId {
        self.vm
    }
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}
