//! The way of translation where containers share translations: the walks of the other systems, with the
//! mask that the group's tables may have beside them.

use super::translate::{OnCore, native, nested};
use super::*;
use mechanisms::babelfish::Babel;

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
            None => {
                let walk = native(&self.host, pid, core.node(), self.frames).map_err(failed)?;
                job.on(core, uncore, &Babel { walk, masks: &masks })
            }
            Some(guest) => {
                let at = (thread.cpu, core.node());
                let walk = nested(guest, &self.host, pid, at, self.frames).map_err(failed)?;
                job.on(core, uncore, &Babel { walk, masks: &masks })
            }
        })
    }
}
