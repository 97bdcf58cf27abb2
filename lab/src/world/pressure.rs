//! What happens to memory from outside of programs: pages that move between
//! nodes, the balloon, reclaim.

use super::*;
use os::hypervisor::VmId;

impl World {
    /// A guest and its VM, if there is one.
    fn vm(&self) -> Option<VmId> {
        self.guest.as_ref().map(|guest| guest.vm)
    }

    /// `move_pages` of a process, by its kernel.
    pub(super) fn migrate(&mut self, process: u16, start: Va, len: u64, node: u8) -> Result<(), WorldError> {
        let (pid, cpu) = (self.process(process)?.pid, self.cpu_of(process));
        on_kernel!(self, |kernel, hw, _files| {
            let to = nth(kernel.nodes(), node);
            kernel.migrate(hw, cpu, pid, start, len, to)
        })
        .map(|_| ())
        .map_err(|error| WorldError::Kernel { what: format!("moving pages of process {process}"), error })
    }

    /// The host moves the VM's memory.
    pub(super) fn migrate_vm(&mut self, node: u8, pages: u64) -> Result<(), WorldError> {
        let Some(vm) = self.vm() else { return Ok(()) };
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        let to = nth(self.host.nodes(), node);
        self.host
            .migrate_vm(&mut hardware, CpuId(0), vm, 0..u64::MAX, to, pages)
            .map(|_| ())
            .map_err(|error| WorldError::Kernel { what: "moving memory of the VM".to_string(), error })
    }

    /// The balloon takes free memory of the guest's nodes in turn.
    pub(super) fn inflate(&mut self, pages: u64) -> Result<(), WorldError> {
        let Some(guest) = &mut self.guest else { return Ok(()) };
        let nodes = guest.kernel.nodes();
        let each = pages.div_ceil(nodes.iter().count().max(1) as u64);
        let taken: Vec<_> = nodes.iter().flat_map(|node| guest.kernel.inflate_balloon(node, each)).collect();
        let vm = guest.vm;
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        self.host
            .take_ballooned(&mut hardware, CpuId(0), vm, &taken)
            .map(|_| ())
            .map_err(|error| WorldError::Kernel { what: "inflating the balloon".to_string(), error })
    }

    /// The balloon gives memory back.
    pub(super) fn deflate(&mut self, pages: u64) {
        if let Some(guest) = &mut self.guest {
            guest.kernel.deflate_balloon(pages);
        }
    }

    /// The kernel of the processes, or the host under them, takes pages back.
    pub(super) fn reclaim(&mut self, pages: u64, of_host: bool) -> Result<(), WorldError> {
        let failed = |error| WorldError::Kernel { what: "reclaiming memory".to_string(), error };
        if !of_host {
            on_kernel!(self, |kernel, hw, _files| kernel.reclaim(hw, CpuId(0), pages)).map_err(failed)?;
        } else if self.guest.is_some() {
            let mut hardware = HostHardware(shared!(self, &self.host_files.names));
            self.host.reclaim(&mut hardware, CpuId(0), pages).map_err(failed)?;
        }
        Ok(())
    }
}

/// The `nth` of the nodes, modulo how many there are.
fn nth(nodes: NodeSet, nth: u8) -> NodeId {
    let count = nodes.iter().count().max(1);
    nodes.iter().nth(usize::from(nth) % count).unwrap_or_default()
}
