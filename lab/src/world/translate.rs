//! The way of translation of a thread, built anew for each stretch of accesses
//! so that it holds the tables as they are now.

use super::passthrough::passing;
use super::*;
use machine::Machine;
use mechanisms::agile::Agile;
use mechanisms::segments::{DirectSegment, Segmented, VmmStage};
use paging::TlbTag;

/// What is done on a core with a way of translation.
pub(super) trait OnCore {
    type Output;
    fn on<T: TlbTag, X: Translation>(
        self,
        core: &mut Core<T>,
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
    fn on<T: TlbTag, X: Translation>(
        self,
        core: &mut Core<T>,
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
    fn on<T: TlbTag, X: Translation>(
        self,
        core: &mut Core<T>,
        uncore: &mut Uncore,
        translation: &X,
    ) -> Explained {
        core.explain(uncore, translation, self.0, Intent::READ)
    }
}

/// The walk of a process's table by a core of `node`.
pub(super) fn native(
    host: &Kernel<Arena<HostPhys>>,
    pid: ProcessId,
    node: NodeId,
    frames: u64,
) -> Result<Native<'_, Arena<HostPhys>>, MmError> {
    let table = host.process(pid)?.space().table();
    Ok(Native { mem: host.mem(), root: table.hardware_root(node), levels: table.levels(), frames })
}

/// A walk in two dimensions.
pub(super) type TwoDim<'a> = Nested<'a, Arena<GuestPhys>, HostDim<'a, Arena<HostPhys>>>;

/// The walk of a guest process's table and the VM's, by a core of `node`.
pub(super) fn nested<'a>(
    guest: &'a Guest,
    host: &'a Kernel<Arena<HostPhys>>,
    pid: ProcessId,
    (cpu, node): (CpuId, NodeId),
    frames: u64,
) -> Result<TwoDim<'a>, MmError> {
    let table = guest.kernel.process(pid)?.space().table();
    let host = host_dim(host, guest.vm, node, frames)?;
    let root = table.hardware_root(guest.kernel.table_node(cpu));
    Ok(Nested { guest: guest.kernel.mem().inner(), root, levels: table.levels(), frames: u64::MAX, host })
}

/// The VM's table, as a core of `node` walks it.
fn host_dim(
    host: &Kernel<Arena<HostPhys>>,
    vm: VmId,
    node: NodeId,
    frames: u64,
) -> Result<HostDim<'_, Arena<HostPhys>>, MmError> {
    let table = host.vm(vm)?.space().table();
    Ok(HostDim { mem: host.mem(), root: table.hardware_root(node), levels: table.levels(), frames })
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
    pub(super) fn with_translation<J: OnCore>(
        &mut self,
        thread: Thread,
        job: J,
    ) -> Result<J::Output, WorldError> {
        let pid = self.process(thread.process)?.pid;
        let Machine { cores, uncore } = match &mut self.machine {
            Tagged::Plain(machine) => machine,
            Tagged::Babel(..) => return self.with_shared(thread, job),
        };
        let core = &mut cores[thread.cpu.index()];
        let failed = |error| WorldError::Kernel { what: "the running process".to_string(), error };
        let frames = self.frames;
        let (way, segments) = (self.plan.system.translation, &self.segments[thread.cpu.index()]);
        Ok(match &self.guest {
            None => {
                let walk = native(&self.host, pid, core.node(), frames).map_err(failed)?;
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
                match shadow.switches() {
                    Some(switches) => {
                        let host = host_dim(&self.host, guest.vm, core.node(), frames).map_err(failed)?;
                        let (guest, guest_frames) = (guest.kernel.mem().inner(), u64::MAX);
                        job.on(core, uncore, &Agile { shadow: walk, switches, guest, guest_frames, host })
                    }
                    None => job.on(core, uncore, &walk),
                }
            }
            Some(guest)
                if let Some(ready) = passing(
                    guest,
                    guest.kernel.process(pid).map_err(failed)?.space().table(),
                    &self.host,
                    frames,
                    self.plan.system,
                ) =>
            {
                job.on(core, uncore, &ready.walk())
            }
            Some(guest) => {
                let walk =
                    nested(guest, &self.host, pid, (thread.cpu, core.node()), frames).map_err(failed)?;
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
        self.enter(thread)?;
        let access = Access::new(va.raw(), machine::input::Kind::Read, 0, 1);
        for _ in 0..MAX_TRIES {
            if cold {
                self.machine.forget_walk_caches(thread.cpu);
            }
            let explained = self.with_translation(thread, Explain(va))?;
            match explained.end {
                Ok(_) => return Ok(explained),
                Err(fault) => {
                    self.fault(thread, &access, fault)?;
                    self.enter(thread)?;
                }
            }
        }
        let fault = Fault::Page { va, level: 1, why: paging::Why::NotPresent };
        Err(WorldError::Stuck { va: va.raw(), process, tries: MAX_TRIES, fault })
    }
}
