//! The way of translation where containers share translations: the walks of the other systems, with the
//! mask that the group's tables may have beside them; and accesses of processes that lie elsewhere than their group.

use super::translate::{GuestRooted, HostRooted, OnCore, Rooted, guest_side, vm_side};
use super::*;
use crate::randomised;
use machine::core::Core;
use machine::input::HugeAdvice;
use mechanisms::babelfish::{Aslr, Babel, BabelTag, Masks};
use mechanisms::mechanism::Walker;
use paging::Walked;
use paging::random::{SplitMix64, mix};

/// Layouts of processes' own.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// How many were drawn.
    drawn: u64,
    /// Accesses at a process's own addresses.
    accesses: Vec<Access>,
}

impl World {
    /// The space of a process, and whether it is the host's (0) or of the VM (1).
    fn space(&self, process: u16) -> Result<(u16, SpaceId), WorldError> {
        let pid = self.process(process)?.pid;
        let failed = |error| WorldError::Kernel { what: "the running process".to_string(), error };
        Ok(match &self.guest {
            None => (0, self.host.process(pid).map_err(failed)?.space().id()),
            Some(guest) => (1, guest.kernel.process(pid).map_err(failed)?.space().id()),
        })
    }

    /// Gives a process that begins with `regions` a layout of its own, where hardware makes layouts one.
    pub(super) fn lay_out(&mut self, process: u16, regions: &[Region]) -> Result<(), WorldError> {
        let Some(members) = self.machine.members().filter(|members| members.randomises()) else {
            return Ok(());
        };
        let of_system = match self.plan.placing {
            Some(_) => PageSize::Size1G,
            None => self.plan.system.kernel.pages.largest(),
        };
        let page = regions.iter().fold(of_system, |page, region| match region.advice {
            HugeAdvice::Reserved(size) => page.max(size),
            _ => page,
        });
        let mut random = SplitMix64(mix(self.plan.seed).wrapping_add(self.own.drawn));
        self.own.drawn += 1;
        members.lay_out(self.space(process)?.1, randomised::layout(regions, page, &mut random));
        self.processes[usize::from(process)].page = page;
        Ok(())
    }

    /// Refuses a region where layouts are moved to.
    pub(super) fn check_place(&self, region: &Region) -> Result<(), WorldError> {
        let randomises = self.machine.members().is_some_and(|members| members.randomises());
        let (name, start) = (region.name.clone(), region.start.raw());
        match randomises && randomised::in_the_way(start, region.len) {
            true => Err(WorldError::InTheWay { name, start }),
            false => Ok(()),
        }
    }

    /// Where a process lies, if elsewhere than its group.
    pub(super) fn moved(&self, process: u16) -> Result<Option<Aslr>, WorldError> {
        match &self.machine {
            Tagged::Plain(_) => Ok(None),
            machine => Ok(machine.moved(self.space(process)?.1)),
        }
    }

    /// A process's own address for one of the input.
    pub(super) fn own_address(&self, process: u16, va: Va) -> Result<Va, WorldError> {
        Ok(self.moved(process)?.map_or(va, |layout| layout.own(va)))
    }

    /// Runs accesses of a thread at the addresses that its process has for them.
    pub(super) fn run_all(&mut self, thread: Thread, accesses: &[Access]) -> Result<(), WorldError> {
        let Some(layout) = self.moved(thread.process)? else {
            return self.run_until_done(thread, accesses, accesses);
        };
        let mut own = std::mem::take(&mut self.own.accesses);
        own.clear();
        own.extend(accesses.iter().map(|access| Access { va: layout.own(access.va), ..*access }));
        self.set_moved(Some(layout));
        let done = self.run_until_done(thread, accesses, &own);
        self.set_moved(None);
        self.own.accesses = own;
        done
    }

    fn set_moved(&mut self, layout: Option<Aslr>) {
        if let Some(oracle) = &mut self.oracle {
            oracle.set_moved(layout);
        }
    }

    /// Lets `job` use the core of a thread of a process in a group.
    ///
    /// The core's registers are loaded anew each time: what any member of the group did since may have
    /// given the process a bit. (A real kernel loads them on the cores that it interrupts for the flush which goes with it.)
    pub(super) fn with_shared<J: OnCore>(&mut self, thread: Thread, job: J) -> Result<J::Output, WorldError> {
        let pid = self.process(thread.process)?.pid;
        let failed = |error| WorldError::Kernel { what: "the running process".to_string(), error };
        let (vm, space) = self.space(thread.process)?;
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
