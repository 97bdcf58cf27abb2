//! The way of translation of a thread, built anew for each stretch of accesses
//! so that it holds the tables as they are now.

use super::passthrough::passing;
use super::*;
use machine::Machine;
use mechanisms::Named;
use mechanisms::agile::Agile;
use mechanisms::mechanism::Walker;
use mechanisms::segments::{DirectSegment, Registers, Segmented, VmmStage};
use paging::{Flags, Space, TlbTag, Walked};

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

/// Tables of a side in memory, as its cores walk them.
#[derive(Debug)]
pub(super) struct Rooted<'a, M: TableMemory> {
    pub(super) mem: &'a M,
    /// A mechanism of the list, which says where entries are.
    mechanism: Option<Named>,
    pub(super) root: Frame<M::Space>,
    /// Software bits beside the root.
    link: Flags,
    pub(super) levels: u8,
    pub(super) frames: u64,
}

impl<'a, M: TableMemory> Rooted<'a, M> {
    /// Of `table` in `mem`, as CPUs of `node` walk it; a kernel may write its tables through a memory of its own.
    pub(super) fn of<I: Space, T: TableMemory<Space = M::Space>>(
        table: &PageTable<I, T>,
        mem: &'a M,
        node: NodeId,
        frames: u64,
        mechanism: Option<Named>,
    ) -> Self {
        let (root, link) = (table.hardware_root(node), table.root_link(node));
        Rooted { mem, mechanism, root, link, levels: table.levels(), frames }
    }

    /// Lets `walker` at them. Here it is decided, once for a stretch of accesses, which walk it is.
    pub(super) fn walked<W: Walker<M::Space>>(&self, walker: W) -> W::Output {
        match self.mechanism {
            None => walker.on(self.mem),
            Some(named) => named.walked(self.mem, self.link, walker),
        }
    }
}

/// A process's tables in a VM's memory.
pub(super) type GuestRooted<'a> = Rooted<'a, Arena<GuestPhys>>;
/// Tables in the machine's memory.
pub(super) type HostRooted<'a> = Rooted<'a, Arena<HostPhys>>;

/// A walk in one dimension, with a segment in front or without.
struct OneDim<'a, 'c, T: TlbTag, J> {
    side: &'a HostRooted<'a>,
    segment: Option<&'a Registers<Virt, HostPhys>>,
    core: (&'c mut Core<T>, &'c mut Uncore),
    job: J,
}

impl<T: TlbTag, J: OnCore> Walker<HostPhys> for OneDim<'_, '_, T, J> {
    type Output = J::Output;
    fn on<W: Walked<Space = HostPhys>>(self, mem: &W) -> J::Output {
        let &Rooted { root, levels, frames, .. } = self.side;
        let walk = Native { mem, root, levels, frames };
        let (core, uncore) = self.core;
        match self.segment {
            Some(segment) => self.job.on(core, uncore, &DirectSegment { segment, walk }),
            None => self.job.on(core, uncore, &walk),
        }
    }
}

/// Both segments of a core: the guest process's, and the VM's.
type Both<'a> = (&'a Registers<Virt, GuestPhys>, &'a Registers<GuestPhys, HostPhys>);

/// A walk in two dimensions, with segments or without.
struct TwoDims<'a, 'c, T: TlbTag, J> {
    guest: &'a GuestRooted<'a>,
    host: &'a HostRooted<'a>,
    segments: Option<Both<'a>>,
    core: (&'c mut Core<T>, &'c mut Uncore),
    job: J,
}

impl<T: TlbTag, J: OnCore> Walker<GuestPhys> for TwoDims<'_, '_, T, J> {
    type Output = J::Output;
    fn on<W: Walked<Space = GuestPhys>>(self, mem: &W) -> J::Output {
        let host = self.host;
        host.walked(OverHost { mem, all: self })
    }
}

/// The same when the guest's tables are known.
struct OverHost<'g, 'a, 'c, G, T: TlbTag, J> {
    mem: &'g G,
    all: TwoDims<'a, 'c, T, J>,
}

impl<G: Walked<Space = GuestPhys>, T: TlbTag, J: OnCore> Walker<HostPhys> for OverHost<'_, '_, '_, G, T, J> {
    type Output = J::Output;
    fn on<W: Walked<Space = HostPhys>>(self, mem: &W) -> J::Output {
        let TwoDims { guest, host, segments, core: (core, uncore), job } = self.all;
        let host = HostDim { mem, root: host.root, levels: host.levels, frames: host.frames };
        let (root, levels, frames) = (guest.root, guest.levels, guest.frames);
        match segments {
            Some((segment, vmm)) => {
                let host = VmmStage { segment: vmm, host };
                let walk = Nested { guest: self.mem, root, levels, frames, host };
                job.on(core, uncore, &Segmented { segment, walk })
            }
            None => job.on(core, uncore, &Nested { guest: self.mem, root, levels, frames, host }),
        }
    }
}

/// The tables of a guest's process, as core `cpu` walks them.
pub(super) fn guest_side<'a>(
    guest: &'a Guest,
    pid: ProcessId,
    cpu: CpuId,
    mechanism: Option<Named>,
) -> Result<GuestRooted<'a>, MmError> {
    let (table, node) = (guest.kernel.process(pid)?.space().table(), guest.kernel.table_node(cpu));
    Ok(Rooted::of(table, guest.kernel.mem().inner(), node, u64::MAX, mechanism))
}

/// The VM's table, as a core of `node` walks it.
pub(super) fn vm_side(
    host: &Kernel<Arena<HostPhys>>,
    vm: VmId,
    node: NodeId,
    frames: u64,
    mechanism: Option<Named>,
) -> Result<HostRooted<'_>, MmError> {
    Ok(Rooted::of(host.vm(vm)?.space().table(), host.mem(), node, frames, mechanism))
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
        let (frames, node) = (self.frames, core.node());
        let (system, segments) = (&self.plan.system, &self.segments[thread.cpu.index()]);
        let segmented = system.translation.is_segmented();
        Ok(match &self.guest {
            None => {
                let table = self.host.process(pid).map_err(failed)?.space().table();
                let side = Rooted::of(table, self.host.mem(), node, frames, system.kernel.mechanism);
                let segment = segmented.then_some(&segments.native);
                side.walked(OneDim { side: &side, segment, core: (core, uncore), job })
            }
            Some(guest) if guest.shadowed.is_some() => {
                let of_guest = guest_side(guest, pid, thread.cpu, None).map_err(failed)?;
                let shadow = self.host.shadow(guest.vm).map_err(failed)?;
                let Some(table) = shadow.table(of_guest.root).map(|space| space.table()) else {
                    return Err(WorldError::NoShadowTable { process: thread.process });
                };
                let side = Rooted::of(table, self.host.mem(), node, frames, system.host.mechanism);
                match shadow.switches() {
                    Some(switches) => {
                        let vm = vm_side(&self.host, guest.vm, node, frames, None).map_err(failed)?;
                        let host =
                            HostDim { mem: vm.mem, root: vm.root, levels: vm.levels, frames: vm.frames };
                        let shadow: Shadow<'_, _> =
                            Native { mem: side.mem, root: side.root, levels: side.levels, frames };
                        let (guest, guest_frames) = (of_guest.mem, of_guest.frames);
                        job.on(core, uncore, &Agile { shadow, switches, guest, guest_frames, host })
                    }
                    None => side.walked(OneDim { side: &side, segment: None, core: (core, uncore), job }),
                }
            }
            Some(guest)
                if let Some(ready) = passing(
                    guest,
                    thread.cpu,
                    guest.kernel.process(pid).map_err(failed)?.space().table(),
                    &self.host,
                    frames,
                    self.plan.system,
                ) =>
            {
                job.on(core, uncore, &ready.walk())
            }
            Some(guest) => {
                let (kernel, host) = (system.kernel.mechanism, system.host.mechanism);
                let host = vm_side(&self.host, guest.vm, node, frames, host).map_err(failed)?;
                let guest = guest_side(guest, pid, thread.cpu, kernel).map_err(failed)?;
                let segments = segmented.then_some((&segments.guest, &segments.vmm));
                guest.walked(TwoDims { guest: &guest, host: &host, segments, core: (core, uncore), job })
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
        let own = self.own_address(process, va)?;
        for _ in 0..MAX_TRIES {
            if cold {
                self.machine.forget_walk_caches(thread.cpu);
            }
            let explained = self.with_translation(thread, Explain(own))?;
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
