//! The way of translation of a thread, built anew for each stretch of accesses
//! so that it holds the tables as they are now.

use super::*;
use mechanisms::segments::{DirectSegment, Segmented, VmmStage};

/// What is done on a core with a way of translation.
trait OnCore {
    type Output;
    fn on<X: Translation>(
        self,
        core: &mut Core<AsidVmid>,
        uncore: &mut Uncore,
        translation: &X,
    ) -> Self::Output;
}

/// Runs accesses.
struct Run<'a, O> {
    accesses: &'a [Access],
    observer: &'a mut O,
}

impl<O: Observer> OnCore for Run<'_, O> {
    type Output = Result<(), Stop>;
    fn on<X: Translation>(
        self,
        core: &mut Core<AsidVmid>,
        uncore: &mut Uncore,
        translation: &X,
    ) -> Self::Output {
        core.run(uncore, translation, self.accesses, self.observer)
    }
}

/// Writes a walk down.
struct Explain(Va);

impl OnCore for Explain {
    type Output = Explained;
    fn on<X: Translation>(
        self,
        core: &mut Core<AsidVmid>,
        uncore: &mut Uncore,
        translation: &X,
    ) -> Explained {
        core.explain(uncore, translation, self.0, Intent::READ)
    }
}

impl World {
    pub(super) fn run_on<O: Observer>(
        &mut self,
        thread: Thread,
        accesses: &[Access],
        observer: &mut O,
    ) -> Result<Result<(), Stop>, WorldError> {
        self.with_translation(thread, Run { accesses, observer })
    }

    /// Lets `job` use the core of a thread, with the way of translation as it is now.
    fn with_translation<J: OnCore>(&mut self, thread: Thread, job: J) -> Result<J::Output, WorldError> {
        let pid = self.process(thread.process)?.pid;
        let Machine { cores, uncore } = &mut self.machine;
        let core = &mut cores[thread.cpu.index()];
        let failed = |error| WorldError::Kernel { what: "the running process".to_string(), error };
        let frames = self.frames;
        let (way, segments) = (self.plan.system.translation, &self.segments[thread.cpu.index()]);
        Ok(match &self.guest {
            None => {
                let table = self.host.process(pid).map_err(failed)?.space().table();
                let root = table.hardware_root(core.node());
                let walk = Native { mem: self.host.mem(), root, levels: table.levels(), frames };
                if way.is_segmented() {
                    job.on(core, uncore, &DirectSegment { segment: &segments.native, walk })
                } else {
                    job.on(core, uncore, &walk)
                }
            }
            Some(guest) if guest.shadowed.is_some() => {
                let node = guest.kernel.table_node(thread.cpu);
                let root = guest.kernel.process(pid).map_err(failed)?.space().table().hardware_root(node);
                let shadow = self.host.shadow(guest.vm).map_err(failed)?;
                let Some(table) = shadow.table(root).map(|space| space.table()) else {
                    return Err(WorldError::NoShadowTable { process: thread.process });
                };
                let root = table.hardware_root(core.node());
                let walk: Shadow<'_, _> =
                    Native { mem: self.host.mem(), root, levels: table.levels(), frames };
                job.on(core, uncore, &walk)
            }
            Some(guest) => {
                let table = guest.kernel.process(pid).map_err(failed)?.space().table();
                let nested = self.host.vm(guest.vm).map_err(failed)?.space().table();
                let host = HostDim {
                    mem: self.host.mem(),
                    root: nested.hardware_root(core.node()),
                    levels: nested.levels(),
                    frames,
                };
                let walk = Nested {
                    guest: guest.kernel.mem(),
                    root: table.hardware_root(guest.kernel.table_node(thread.cpu)),
                    levels: table.levels(),
                    frames: u64::MAX,
                    host,
                };
                if way.is_segmented() {
                    let Nested { guest, root, levels, frames, host } = walk;
                    let host = VmmStage { segment: &segments.vmm, host };
                    let walk = Nested { guest, root, levels, frames, host };
                    job.on(core, uncore, &Segmented { segment: &segments.guest, walk })
                } else {
                    job.on(core, uncore, &walk)
                }
            }
        })
    }

    /// The walk that process `process` makes for `va` now: with the walk caches
    /// as they are, or emptied before.
    ///
    /// # Errors
    /// If nothing is mapped at `va`, or memory is exhausted.
    pub fn explain(&mut self, process: u16, va: Va, cold: bool) -> Result<Explained, WorldError> {
        let thread = Thread { process, cpu: self.cpu_of(process) };
        self.switch(thread.cpu, process)?;
        let access = Access::new(va.raw(), machine::input::Kind::Read, 0, 1);
        for _ in 0..MAX_TRIES {
            if cold {
                self.machine.cores[thread.cpu.index()].forget_walk_caches();
            }
            let explained = self.with_translation(thread, Explain(va))?;
            match explained.end {
                Ok(_) => return Ok(explained),
                Err(fault) => self.fault(thread, &access, fault)?,
            }
        }
        let fault = Fault::Page { va, level: 1, why: paging::Why::NotPresent };
        Err(WorldError::Stuck { va: va.raw(), process, tries: MAX_TRIES, fault })
    }
}
