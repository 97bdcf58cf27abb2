//! The way of translation where containers share translations: the walks of the other systems, with the
//! mask that the group's tables may have beside them.

use super::translate::{GuestRooted, HostRooted, OnCore, Rooted, guest_side, vm_side};
use super::*;
use machine::core::Core;
use mechanisms::babelfish::{Babel, BabelTag, Masks};
use mechanisms::mechanism::Walker;
use paging::Walked;

impl World {
    /// Lets `job` use the core of a thread of a process in a group.
    ///
    /// The core's registers are loaded anew each time: what any member of the group did since may have
    /// given the process a bit. (A real kernel loads them on the cores that it interrupts for the flush which goes with it.)
    pub(super) fn with_shared<J: OnCore>(&mut self, thread: Thread, job: J) -> Result<J::Output, WorldError> {
        let pid = self.process(thread.process)?.pid;
        let failed = |error| WorldError::Kernel { what: "the running process".to_string(), error };
        let (vm, space) = match &self.guest {
            None => (0, self.host.process(pid).map_err(failed)?.space().id()),
            Some(guest) => (1, guest.kernel.process(pid).map_err(failed)?.space().id()),
        };
        self.machine.load(thread.cpu, vm, space);
        let Tagged::Babel(machine, members) = &mut self.machine else {
            return self.with_translation(thread, job);
        };
        let masks = members.masks(space);
        let core = &mut machine.cores[thread.cpu.index()];
        let uncore = &mut machine.uncore;
        Ok(match &self.guest {
            // The group's marks are in ordinary tables: no mechanism of the list keeps those of its processes.
            None => {
                let table = self.host.process(pid).map_err(failed)?.space().table();
                let Rooted { mem, root, levels, frames, .. } =
                    Rooted::of(table, self.host.mem(), core.node(), self.frames, None);
                job.on(core, uncore, &Babel { walk: Native { mem, root, levels, frames }, masks: &masks })
            }
            Some(guest) => {
                let mechanism = self.plan.system.host.mechanism;
                let host = vm_side(&self.host, guest.vm, core.node(), self.frames, mechanism);
                let host = &host.map_err(failed)?;
                let guest = &guest_side(guest, pid, thread.cpu, None).map_err(failed)?;
                host.walked(InVm { guest, host, masks: &masks, core: (core, uncore), job })
            }
        })
    }
}

/// A walk in two dimensions with the mask that may be in the guest's.
struct InVm<'a, 'c, J> {
    guest: &'a GuestRooted<'a>,
    host: &'a HostRooted<'a>,
    masks: &'a Masks,
    core: (&'c mut Core<BabelTag>, &'c mut Uncore),
    job: J,
}

impl<J: OnCore> Walker<HostPhys> for InVm<'_, '_, J> {
    type Output = J::Output;
    fn on<W: Walked<Space = HostPhys>>(self, mem: &W) -> J::Output {
        let &Rooted { root, levels, frames, .. } = self.host;
        let host = HostDim { mem, root, levels, frames };
        let &Rooted { mem: guest, root, levels, frames, .. } = self.guest;
        let walk = Nested { guest, root, levels, frames, host };
        self.job.on(self.core.0, self.core.1, &Babel { walk, masks: self.masks })
    }
}
