//! The machine's own kernel, for what no input says: who switches replicas on in the middle
//! of a run, or reads every entry of every table.

use super::*;

impl World {
    /// The kernel on the machine itself, and its hardware: the processes' kernel natively, else
    /// the hypervisor. What it does to pages is seen by the oracle as all else; what processes map is
    /// the input's to say.
    pub fn on_host<R>(
        &mut self,
        f: impl FnOnce(&mut Kernel<Arena<HostPhys>>, &mut dyn Hardware<HostPhys>) -> R,
    ) -> R {
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        f(&mut self.host, &mut hardware)
    }

    /// How its kernel names a process of the input.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn pid(&self, process: u16) -> Result<ProcessId, WorldError> {
        Ok(self.process(process)?.pid)
    }
}
