//! What an address space has in memory, as `/proc/PID/numa_maps` says.

use crate::error::MmError;
use crate::hypervisor::VmId;
use crate::kernel::{Core, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use alloc::vec::Vec;
use paging::frames::{CpuId, MAX_NODES, NodeId};
use paging::{Found, Frame, PageSize, Space, TableMemory, Va};

/// Bytes that are looked at together.
const WINDOW: u64 = PageSize::Size1G.bytes();

/// Pages that an address space maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resident {
    /// Leaves of 4 KiB, 2 MiB and 1 GiB. The shared page of zeroes does not count.
    pub leaves: [u64; 3],
    /// 4 KiB frames on each node.
    pub frames: [u64; MAX_NODES],
    /// Leaves that are the shared page of zeroes.
    pub zero: u64,
    /// Entries that hold a swap slot.
    pub swapped: u64,
}

impl Resident {
    /// Leaves of a size.
    pub fn of_size(&self, size: PageSize) -> u64 {
        self.leaves[usize::from(size.level()) - 1]
    }
    /// 4 KiB frames on a node.
    pub fn on_node(&self, node: NodeId) -> u64 {
        self.frames[node.index()]
    }
    /// Bytes on all nodes.
    pub fn bytes(&self) -> u64 {
        self.frames.iter().sum::<u64>() * 4096
    }
}

impl<M: TableMemory> Core<M> {
    fn resident<I: Space>(&mut self, space: &AddressSpace<I, M>) -> Resident {
        // Looking is not work that anybody is charged for.
        let work = self.work;
        let mut resident = Resident::default();
        let zero = self.zero;
        let mut start = 0;
        while let Some(area) = space.vmas.first_within(start..u64::MAX) {
            // By windows, so that the list of leaves stays short.
            let window = area.start..area.end.min((area.start / WINDOW + 1) * WINDOW);
            start = window.end;
            let mut leaves: Vec<(Frame<M::Space>, PageSize)> = Vec::new();
            self.env(CpuId(0), |env| {
                space.table.scan(env, window.clone(), &mut |leaf| {
                    let frame = leaf.entry.leaf_frame(leaf.size);
                    match leaf.entry.swap_slot() {
                        Some(_) => resident.swapped += 1,
                        None if frame == zero => resident.zero += 1,
                        // A huge page that began in the window before was counted there.
                        None if leaf.addr.raw() < window.start => {}
                        None => leaves.push((frame, leaf.size)),
                    }
                });
            });
            for (frame, size) in leaves {
                resident.leaves[usize::from(size.level()) - 1] += 1;
                resident.frames[self.pool.node_of(frame).index()] += size.frames();
            }
        }
        self.work = work;
        resident
    }
}

impl<M: TableMemory> Kernel<M> {
    /// What software sees at `va` of a process: the leaf, or the entry where the way
    /// ends, with accessed and dirty as the walkers of all nodes set them.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn entry_of(&mut self, pid: ProcessId, va: Va) -> Result<Found<M::Space>, MmError> {
        let process = self.processes.get(pid.0).ok_or(MmError::NoProcess(pid))?;
        // Looking is not work that anybody is charged for.
        let work = self.core.work;
        let found = self.core.lookup(&process.space, CpuId(0), va);
        self.core.work = work;
        Ok(found)
    }

    /// What a process has in memory. Takes time in proportion to it.
    ///
    /// # Errors
    /// [`MmError::NoProcess`].
    pub fn resident(&mut self, pid: ProcessId) -> Result<Resident, MmError> {
        let process = self.processes.get(pid.0).ok_or(MmError::NoProcess(pid))?;
        Ok(self.core.resident(&process.space))
    }

    /// What a VM has in memory. Takes time in proportion to it.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn resident_vm(&mut self, vm: VmId) -> Result<Resident, MmError> {
        let it = self.vms.get(vm.0).ok_or(MmError::NoVm(vm))?;
        Ok(self.core.resident(&it.space))
    }
}
