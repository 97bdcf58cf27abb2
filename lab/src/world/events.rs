//! What happens beside accesses: system calls of the input.

use super::memory::prot;
use super::*;
use crate::groups;

impl World {
    pub(super) fn event(&mut self, event: &Event) -> Result<(), WorldError> {
        let failed = |error| WorldError::Kernel { what: format!("{event:?}"), error };
        if let Some(process) = caller(event) {
            self.leave(self.cpu_of(process))?;
        }
        match event {
            Event::Map { process, region } => {
                if let Some(oracle) = &mut self.oracle {
                    oracle.map(*process, region);
                }
                self.map(*process, region)?;
                self.populate(*process, region)
            }
            Event::Unmap { process, start, len } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                if let Some(oracle) = &mut self.oracle {
                    oracle.unmap(*process, start.page(), start.page() + len.div_ceil(4096));
                }
                on_kernel!(self, |kernel, hw, _files| kernel.munmap(hw, cpu, pid, *start, *len))
                    .map_err(failed)
            }
            Event::Protect { process, start, len, permissions } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                let prot = prot(*permissions);
                on_kernel!(self, |kernel, hw, _files| kernel.mprotect(hw, cpu, pid, *start, *len, prot))
                    .map_err(failed)
            }
            Event::Discard { process, start, len } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                if let Some(oracle) = &mut self.oracle {
                    oracle.discard(*process, start.page(), start.page() + len.div_ceil(4096));
                }
                let advice = Advice::DontNeed;
                on_kernel!(self, |kernel, hw, _files| kernel.madvise(hw, cpu, pid, *start, *len, advice))
                    .map_err(failed)
            }
            Event::Fork { parent, child } => {
                let before = self.spent.cycles;
                let (process, cpu) = (self.process(*parent)?, self.cpu_of(*parent));
                let pid = on_kernel!(self, |kernel, hw, _files| kernel.fork(hw, cpu, process.pid))
                    .map_err(failed)?;
                self.processes.push(Process { pid, ..process });
                if let Some(oracle) = &mut self.oracle {
                    oracle.fork(*parent);
                }
                self.requests.began(*child, self.spent.cycles - before);
                Ok(())
            }
            Event::Exec { process, image } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                let before = self.spent.cycles;
                let identity = groups::identity(&image.name);
                let group = image.group.map(groups::group);
                if let Some(oracle) = &mut self.oracle {
                    oracle.exec(*process, image);
                }
                on_kernel!(self, |kernel, hw, _files| kernel.exec_as(hw, cpu, pid, group, identity))
                    .map_err(failed)?;
                self.follow_layout(*process)?;
                self.lay_out(*process, &image.regions)?;
                self.running.iter_mut().filter(|r| **r == Some(*process)).for_each(|r| *r = None);
                image.regions.iter().try_for_each(|region| self.map(*process, region))?;
                self.requests.began(*process, self.spent.cycles - before);
                image.regions.iter().try_for_each(|region| self.populate(*process, region))
            }
            Event::Exit { process } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                let threads = (0..).zip(&self.threads).filter(|(_, thread)| thread.process == *process);
                threads.for_each(|(number, thread)| {
                    self.requests.end(number);
                    let living = &mut self.living[usize::from(thread.cpu.0)];
                    *living = living.saturating_sub(1);
                });
                self.running.iter_mut().filter(|r| **r == Some(*process)).for_each(|r| *r = None);
                if let Some(oracle) = &mut self.oracle {
                    oracle.exit(*process);
                }
                self.tables_before = self.table_bytes();
                on_kernel!(self, |kernel, hw, _files| kernel.exit(hw, cpu, pid)).map_err(failed)
            }
            Event::Spawn { thread, process } => {
                self.requests.spawn(*thread, *process);
                self.add_thread(*process)
            }
            Event::MoveThread { thread, node } => {
                let to = self.machine.cores().find(|c| c.node == NodeId(*node)).map(|c| c.id);
                let count = self.threads.len();
                match (self.threads.get_mut(usize::from(*thread)), to) {
                    (Some(thread), Some(cpu)) => {
                        let living = &mut self.living[usize::from(thread.cpu.0)];
                        *living = living.saturating_sub(1);
                        self.living[usize::from(cpu.0)] += 1;
                        thread.cpu = cpu;
                    }
                    (Some(_), None) => {}
                    (None, _) => return Err(WorldError::Unknown { kind: "thread", index: *thread, count }),
                }
                Ok(())
            }
            Event::Migrate { process, start, len, node } => self.migrate(*process, *start, *len, *node),
            Event::MigrateVm { node, pages } => self.migrate_vm(*node, *pages),
            Event::Inflate { pages } => self.inflate(*pages),
            Event::Deflate { pages } => {
                self.deflate(*pages);
                Ok(())
            }
            Event::Reclaim { pages, of_host } => self.reclaim(*pages, *of_host),
            Event::Request { thread } => {
                self.requests.request(*thread);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A CPU that the process runs on, for its system calls.
    pub(super) fn cpu_of(&self, process: u16) -> CpuId {
        self.threads.iter().find(|t| t.process == process).map_or(CpuId(0), |t| t.cpu)
    }
}

/// The process that makes a system call.
fn caller(event: &Event) -> Option<u16> {
    match event {
        Event::Map { process, .. }
        | Event::Unmap { process, .. }
        | Event::Protect { process, .. }
        | Event::Discard { process, .. }
        | Event::Exec { process, .. }
        | Event::Exit { process } => Some(*process),
        Event::Fork { parent, .. } => Some(*parent),
        _ => None,
    }
}
