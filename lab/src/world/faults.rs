//! Faults: which kernel resolves which.

use super::*;

impl World {
    /// Has the right kernel resolve a fault.
    pub(super) fn fault(&mut self, thread: Thread, access: &Access, fault: Fault) -> Result<(), WorldError> {
        let cpu = thread.cpu;
        let intent =
            Intent { write: access.kind.writes(), fetch: access.kind == machine::input::Kind::Fetch };
        let what = || format!("access at {:#x} of process {}", access.va.raw(), thread.process);
        self.leave(cpu)?;
        if let Fault::Tag { .. } = fault {
            self.tag_fault(cpu)?;
        }
        match fault {
            // A frame that the host took back is for the guest to ask for again.
            Fault::Page { va, .. } | Fault::Tag { va, .. } => {
                let process = self.process(thread.process)?;
                if self.shadow_fault(thread, va, intent)?.is_some() {
                    return Ok(());
                }
                let done =
                    on_kernel!(self, |kernel, hw, _files| kernel.fault(hw, cpu, process.pid, va, intent));
                match done {
                    Ok(_) => Ok(()),
                    Err(MmError::Segv(segv)) if process.implicit && segv.area.is_none() => {
                        self.map_implicit(thread.process, va)
                    }
                    Err(error) => Err(WorldError::Kernel { what: what(), error }),
                }
            }
            Fault::Nested { gpa, write, .. } => {
                let Some(guest) = &self.guest else { return Ok(()) };
                let intent = Intent { write, fetch: false };
                let mut hardware = HostHardware(shared!(self, &self.host_files.names));
                self.host
                    .vm_fault(&mut hardware, cpu, guest.vm, gpa, intent)
                    .map(|_| ())
                    .map_err(|error| WorldError::Kernel { what: what(), error })
            }
        }
    }

    /// Has the hypervisor answer a fault on a shadow table, and tells the size of
    /// what is mapped there now; `None` if the fault is the guest's own.
    pub(super) fn shadow_fault(
        &mut self,
        thread: Thread,
        va: Va,
        intent: Intent,
    ) -> Result<Option<PageSize>, WorldError> {
        let pid = self.process(thread.process)?.pid;
        let failed = |error| WorldError::Kernel { what: format!("shadow fault at {:#x}", va.raw()), error };
        let Some(guest) = self.guest.as_ref().filter(|guest| guest.shadowed.is_some()) else {
            return Ok(None);
        };
        let table = guest.kernel.process(pid).map_err(failed)?.space().table();
        let root = table.hardware_root(guest.kernel.table_node(thread.cpu));
        if self.host.shadow_switches(guest.vm, root, va) {
            // The walker was in the guest's own tables.
            return Ok(None);
        }
        let fault = ShadowFault { root, levels: table.levels(), va, intent, user: true };
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        let outcome = self
            .host
            .shadow_fault(&mut hardware, thread.cpu, guest.vm, guest.kernel.mem(), &fault)
            .map_err(failed)?;
        Ok(match outcome {
            ShadowOutcome::Mapped(size) => Some(size),
            // A process maps no page tables of its kernel; the guest's kernel
            // finds out what the access was.
            ShadowOutcome::Guest(_) | ShadowOutcome::Emulate(_) => None,
        })
    }
}
