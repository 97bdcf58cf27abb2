//! A system come to life: a machine, a kernel or two, and the threads that run
//! on them.
//!
//! The life of one access is one direction: a block of accesses goes to a core;
//! a fault comes back; the kernel whose fault it is mends its tables; the core
//! goes on.

use crate::hardware::{Costs, GuestHardware, GuestRoot, HostHardware, Shared};
use crate::oracle::{Mismatch, Oracle};
use crate::outcome::TableBytes;
use crate::system::{Pages, Placement, Side, System, Translation as Way};
use machine::Machine;
use machine::core::{Core, Observer, Stop, Unobserved};
use machine::explain::Explained;
use machine::input::{
    Access, Backing, Block, Event, HugeAdvice, Permissions, Populate, ProcessSetup, Region, Setup,
};
use machine::profile::Profile;
use machine::timing::TICKS;
use machine::uncore::Uncore;
use os::shadow::{ShadowFault, ShadowOutcome, TrapLog, TrappedTables};
use os::{
    Advice, FileId, Hardware, Kernel, KernelConfig, MapRequest, MmError, Policy, ProcessId, ProcessSpec,
    Prot, SingleTables, Slot, SpaceId, Stats, Tables, ThpMode, VmId, VmSpec,
};
use paging::frames::{CpuId, Fragmentation, Layout, LayoutError, NodeSet, PoolConfig};
use paging::{
    Arena, AsidVmid, Fault, Frame, FramePool, FromBuddy, GuestPhys, HostDim, HostPhys, Intent, Native,
    Nested, NodeId, PageSize, PhysSpace, Shadow, TableMemory, Translation, Va,
};
use std::collections::HashMap;

/// What a world is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The system.
    pub system: System,
    /// The machine.
    pub profile: Profile,
    /// The node of each core that is modelled: one core for each thread that may run at once.
    pub cores: Vec<NodeId>,
    /// Seed of fragmentation.
    pub seed: u64,
    /// Check every access.
    pub verify: bool,
    /// Forget every shootdown: builds the bug that the oracle must find.
    pub lose_shootdowns: bool,
}

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The memory layout of the profile cannot be.
    #[error("the machine's memory cannot be laid out: {0}")]
    Layout(#[from] LayoutError),
    /// The kernel of the processes.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: MmError,
    },
    /// The same access faults again and again.
    #[error("access at {va:#x} of process {process} still faults after {tries} tries: {fault:?}")]
    Stuck {
        /// The address.
        va: u64,
        /// The process.
        process: u16,
        /// How often.
        tries: u32,
        /// The last fault.
        fault: Fault,
    },
    /// The oracle found an access that saw what it must not see.
    #[error("the oracle found a mismatch: {0}")]
    Mismatch(Mismatch),
    /// The hypervisor could not keep a shadow table: its memory is exhausted.
    #[error("there is no shadow table for process {process}: the host has no memory left for one")]
    NoShadowTable {
        /// The process.
        process: u16,
    },
    /// The input named a thread or process that does not exist.
    #[error("the input names {kind} {index}, and there are {count}")]
    Unknown {
        /// `thread` or `process`.
        kind: &'static str,
        /// Which.
        index: u16,
        /// How many there are.
        count: usize,
    },
}

/// A guest's kernel in its VM.
#[derive(Debug)]
struct Guest {
    kernel: Kernel<Arena<GuestPhys>>,
    vm: VmId,
    files: Files,
    /// Under shadow paging: the guest's roots by address space.
    shadowed: Option<HashMap<SpaceId, GuestRoot>>,
}

/// Files of one kernel, by name.
#[derive(Debug, Default)]
struct Files {
    names: Vec<String>,
    ids: HashMap<String, FileId>,
}

/// A thread: where it runs, and for whom.
#[derive(Clone, Copy, Debug)]
struct Thread {
    process: u16,
    cpu: CpuId,
}

/// A process of the input, as its kernel knows it.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: ProcessId,
    implicit: bool,
}

/// A system at work.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    /// Host frames, with holes.
    frames: u64,
    nodes: usize,
    costs: Costs,
    machine: Machine<AsidVmid>,
    host: Kernel<Arena<HostPhys>>,
    guest: Option<Guest>,
    host_files: Files,
    vms: Vec<SpaceId>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    /// Which process each core runs.
    running: Vec<Option<u16>>,
    oracle: Option<Oracle>,
    spent: u64,
    since_tick: u64,
}

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

/// Accesses between two rounds of background work (khugepaged, NUMA balancing).
const TICK: u64 = 1 << 20;
/// An access that faults more often than this without getting done is stuck: a
/// bug, or an input that no kernel could satisfy.
const MAX_TRIES: u32 = 64;

fn thp(side: &Side) -> ThpMode {
    match side.pages {
        Pages::Thp => ThpMode::Always,
        Pages::Small => ThpMode::Never,
        // Huge pages are asked for by area; nothing else is to become huge.
        Pages::Huge2M | Pages::Huge1G => ThpMode::Never,
    }
}

fn reserved(side: &Side) -> PageSize {
    match side.pages {
        Pages::Huge2M => PageSize::Size2M,
        Pages::Huge1G => PageSize::Size1G,
        Pages::Small | Pages::Thp => PageSize::Size4K,
    }
}

fn policy(side: &Side, nodes: usize) -> Policy {
    match side.placement {
        Placement::FirstTouch => Policy::FirstTouch,
        Placement::Interleave => Policy::Interleave((0..nodes as u8).map(NodeId).collect::<NodeSet>()),
        Placement::Fixed(node) => Policy::Preferred(NodeId(node)),
    }
}

fn pool<S: PhysSpace>(layout: &Layout, side: &Side, seed: u64) -> Result<FramePool<S>, LayoutError> {
    let fragmentation = (side.fragmentation > 0.0).then(|| Fragmentation::new(side.fragmentation, seed));
    FramePool::new(layout, PoolConfig { fragmentation, ..PoolConfig::default() })
}

fn config(side: &Side, cpus: Vec<NodeId>) -> KernelConfig {
    KernelConfig { levels: side.levels, thp: thp(side), ..KernelConfig::new(cpus) }
}

macro_rules! shared {
    ($world:expr, $files:expr) => {
        Shared {
            machine: &mut $world.machine,
            oracle: $world.oracle.as_mut(),
            costs: &$world.costs,
            spent: &mut $world.spent,
            files: $files,
            vms: &$world.vms,
            lose_shootdowns: $world.plan.lose_shootdowns,
        }
    };
}

/// Calls `$call` with the kernel of the processes, its hardware, and its files.
macro_rules! on_kernel {
    ($world:expr, |$kernel:ident, $hw:ident, $files:ident| $call:expr) => {
        match &mut $world.guest {
            None => {
                let $files = &mut $world.host_files;
                let names = $files.names.clone();
                let mut hardware = HostHardware(shared!($world, &names));
                let ($kernel, $hw) = (&mut $world.host, &mut hardware as &mut dyn Hardware<HostPhys>);
                $call
            }
            Some(guest) => {
                let $files = &mut guest.files;
                let names = $files.names.clone();
                let mut hardware = GuestHardware {
                    shared: shared!($world, &names),
                    host: &mut $world.host,
                    vm: guest.vm,
                    index: 1,
                    shadowed: guest.shadowed.as_mut(),
                };
                let ($kernel, $hw) = (&mut guest.kernel, &mut hardware as &mut dyn Hardware<GuestPhys>);
                $call
            }
        }
    };
}

impl World {
    /// Builds the machine and its kernels, creates the input's processes, and
    /// fills what the input says was filled before.
    ///
    /// # Errors
    /// If memory does not suffice or the plan makes no sense.
    pub fn new(plan: Plan, setup: &Setup) -> Result<World, WorldError> {
        let layout = plan.profile.layout();
        let costs = Costs::of(&plan.profile);
        let nodes = layout.nodes.len();
        let mut machine = Machine::new(&plan.profile, &plan.cores);
        let cpus = plan.cores.clone();
        let mut oracle = plan.verify.then(|| Oracle::new(layout.end(), &setup.processes));
        let mut spent = 0;
        let native = !plan.system.is_virtual();
        let host_side = if native { plan.system.kernel } else { plan.system.host };
        let failed = |what: &str| {
            let what = what.to_string();
            move |error: MmError| WorldError::Kernel { what, error }
        };
        let mut host = {
            let mut hardware = HostHardware(Shared {
                machine: &mut machine,
                oracle: oracle.as_mut(),
                costs: &costs,
                spent: &mut spent,
                files: &[],
                vms: &[],
                lose_shootdowns: false,
            });
            Kernel::new(
                config(&host_side, cpus.clone()),
                pool(&layout, &host_side, plan.seed)?,
                Arena::new(layout.end()),
                Box::new(FromBuddy),
                Box::new(SingleTables { fixed: host_side.tables_on.map(NodeId) }),
                &mut hardware,
            )
            .map_err(failed("the host's kernel"))?
        };
        let mut vms = Vec::new();
        let mut guest = None;
        if !native {
            // The VM gets what the host can spare: seven eighths of each node.
            let bytes: Vec<u64> = layout
                .nodes
                .iter()
                .map(|n| n.frames.iter().map(|r| r.end - r.start).sum::<u64>() / 8 * 7 * 4096)
                .map(|b| b & !((1 << 30) - 1))
                .collect();
            let memory = Layout::pc(&[bytes.iter().sum()]);
            let page = reserved(&host_side);
            let slots: Vec<Slot> = memory
                .nodes
                .iter()
                .flat_map(|n| &n.frames)
                .map(|r| whole_pages(r, page))
                .filter(|r| r.end > r.start)
                .map(|r| Slot { page, ..Slot::new(Frame::new(r.start), r.end - r.start) })
                .collect();
            let memory = Layout {
                nodes: vec![paging::frames::NodeSpec {
                    frames: slots.iter().map(|s| s.start.number()..s.start.number() + s.frames).collect(),
                }],
                distances: memory.distances,
            };
            let spec =
                VmSpec { policy: policy(&host_side, nodes), thp: Some(thp(&host_side)), ..VmSpec::default() };
            let mut hardware = HostHardware(Shared {
                machine: &mut machine,
                oracle: oracle.as_mut(),
                costs: &costs,
                spent: &mut spent,
                files: &[],
                vms: &[],
                lose_shootdowns: false,
            });
            let vm =
                host.create_vm(&mut hardware, CpuId(0), spec, &slots).map_err(failed("creating the VM"))?;
            let space = host.vm(vm).map_err(failed("the VM"))?.space().id();
            vms.push(space);
            for cpu in 0..cpus.len() {
                host.enter_vm(&mut hardware, CpuId(cpu as u16), vm).map_err(failed("entering the VM"))?;
            }
            let side = plan.system.kernel;
            let single = SingleTables { fixed: side.tables_on.map(NodeId) };
            let shadow = plan.system.translation == Way::Shadow;
            let mut shadowed = shadow.then(HashMap::new);
            let tables: Box<dyn Tables<Arena<GuestPhys>>> = if shadow {
                let log = TrapLog::new(memory.end());
                host.enable_shadow(vm, log.clone()).map_err(failed("shadow paging"))?;
                Box::new(TrappedTables::new(single, log))
            } else {
                Box::new(single)
            };
            let guest_pool = pool(&memory, &side, plan.seed.wrapping_add(1))?;
            let mut hardware = GuestHardware {
                shared: Shared {
                    machine: &mut machine,
                    oracle: oracle.as_mut(),
                    costs: &costs,
                    spent: &mut spent,
                    files: &[],
                    vms: &vms,
                    lose_shootdowns: false,
                },
                host: &mut host,
                vm,
                index: 1,
                shadowed: shadowed.as_mut(),
            };
            let kernel = Kernel::new(
                config(&side, vec![NodeId(0); cpus.len()]),
                guest_pool,
                Arena::new(memory.end()),
                Box::new(FromBuddy),
                tables,
                &mut hardware,
            )
            .map_err(failed("the guest's kernel"))?;
            guest = Some(Guest { kernel, vm, files: Files::default(), shadowed });
        }
        let running = vec![None; cpus.len()];
        let mut world = World {
            plan,
            frames: layout.end(),
            nodes,
            costs,
            machine,
            host,
            guest,
            host_files: Files::default(),
            vms,
            processes: Vec::new(),
            threads: Vec::new(),
            running,
            oracle,
            spent,
            since_tick: 0,
        };
        for process in &setup.processes {
            world.create_process(process)?;
        }
        for thread in &setup.threads {
            world.add_thread(thread.process)?;
        }
        for (index, process) in setup.processes.iter().enumerate() {
            for region in &process.regions {
                world.populate(index as u16, region)?;
            }
        }
        Ok(world)
    }

    fn create_process(&mut self, setup: &ProcessSetup) -> Result<(), WorldError> {
        let kernel_nodes = if self.guest.is_some() { 1 } else { self.nodes };
        let spec = ProcessSpec {
            group: os::GroupId(setup.group.map_or(0, |g| u32::from(g) + 1)),
            policy: policy(&self.plan.system.kernel, kernel_nodes),
            ..ProcessSpec::default()
        };
        let pid = on_kernel!(self, |kernel, hw, _files| kernel.create_process(hw, CpuId(0), spec)).map_err(
            |error| WorldError::Kernel { what: format!("creating process {}", setup.name), error },
        )?;
        self.processes.push(Process { pid, implicit: setup.implicit_regions });
        let index = (self.processes.len() - 1) as u16;
        setup.regions.iter().try_for_each(|region| self.map(index, region))
    }

    fn add_thread(&mut self, process: u16) -> Result<(), WorldError> {
        if usize::from(process) >= self.processes.len() {
            let count = self.processes.len();
            return Err(WorldError::Unknown { kind: "process", index: process, count });
        }
        let cpu = CpuId((self.threads.len() % self.running.len()) as u16);
        self.threads.push(Thread { process, cpu });
        Ok(())
    }

    /// Maps a region for a process of the input.
    fn map(&mut self, process: u16, region: &Region) -> Result<(), WorldError> {
        let pid = self.process(process)?.pid;
        let side = self.plan.system.kernel;
        let page = match region.advice {
            HugeAdvice::Reserved(size) => size,
            _ if region.backing == Backing::Anonymous && region.permissions.write => reserved(&side),
            _ => PageSize::Size4K,
        };
        // Reserved huge pages need whole ones; a region that is too crooked stays small.
        let page = if region.start.raw() & (page.bytes() - 1) != 0 || region.len & (page.bytes() - 1) != 0 {
            PageSize::Size4K
        } else {
            page
        };
        let name = region.name.clone();
        on_kernel!(self, |kernel, hw, files| {
            let file = |kernel: &mut Kernel<_>, files: &mut Files, name: &str, offset: u64| {
                files.open(kernel, name).map(|id| (id, offset >> 12))
            };
            let (backing, shared) = match &region.backing {
                Backing::Anonymous => (Ok(None), false),
                Backing::SharedAnonymous => (Ok(None), true),
                Backing::PrivateFile { file: f, offset } => {
                    (file(kernel, files, f, *offset).map(Some), false)
                }
                Backing::SharedFile { file: f, offset } => (file(kernel, files, f, *offset).map(Some), true),
            };
            backing.and_then(|file| {
                let request = MapRequest {
                    addr: Some(region.start),
                    fixed: true,
                    prot: prot(region.permissions),
                    file,
                    shared,
                    page,
                    ..MapRequest::anonymous(region.len)
                };
                let cpu = CpuId(0);
                kernel.mmap(hw, cpu, pid, &request)?;
                let advice = match region.advice {
                    HugeAdvice::Huge => Some(Advice::HugePage),
                    HugeAdvice::NoHuge => Some(Advice::NoHugePage),
                    HugeAdvice::None | HugeAdvice::Reserved(_) => None,
                };
                match advice {
                    Some(advice) => kernel.madvise(hw, cpu, pid, region.start, region.len, advice),
                    None => Ok(()),
                }
            })
        })
        .map_err(|error| WorldError::Kernel { what: format!("mapping `{name}`"), error })
    }

    /// Takes the faults of a region's initialisation.
    fn populate(&mut self, process: u16, region: &Region) -> Result<(), WorldError> {
        let threads: Vec<CpuId> =
            self.threads.iter().filter(|t| t.process == process).map(|t| t.cpu).collect();
        let first = threads.first().copied().unwrap_or_default();
        let pages = region.len >> 12;
        match region.populate {
            Populate::OnDemand => Ok(()),
            Populate::By(thread) => {
                let cpu = self.threads.get(usize::from(thread)).map_or(first, |t| t.cpu);
                self.fill(process, cpu, region, 0, pages)
            }
            Populate::Partitioned => {
                // Everyone fills a share of its own, all at once: in turns of a huge page.
                let share = pages.div_ceil(threads.len().max(1) as u64).max(1);
                let turn = 512;
                for step in (0..share).step_by(turn as usize) {
                    for (i, cpu) in threads.iter().enumerate() {
                        let start = i as u64 * share + step;
                        let end = (start + turn).min((i as u64 + 1) * share).min(pages);
                        if start < end {
                            self.fill(process, *cpu, region, start, end)?;
                        }
                    }
                }
                Ok(())
            }
            Populate::RoundRobin => {
                for page in 0..pages {
                    let cpu = threads.get(page as usize % threads.len().max(1)).copied().unwrap_or(first);
                    self.fill(process, cpu, region, page, page + 1)?;
                }
                Ok(())
            }
        }
    }

    /// Faults the pages `start..end` of a region in on `cpu`.
    fn fill(
        &mut self,
        process: u16,
        cpu: CpuId,
        region: &Region,
        start: u64,
        end: u64,
    ) -> Result<(), WorldError> {
        self.switch(cpu, process)?;
        let pid = self.process(process)?.pid;
        let intent = Intent { write: region.permissions.write, fetch: false };
        let va = region.start.offset(start << 12);
        on_kernel!(self, |kernel, hw, _files| kernel.populate(hw, cpu, pid, va, (end - start) << 12, intent))
            .map_err(|error| WorldError::Kernel { what: format!("filling `{}`", region.name), error })?;
        if self.guest.as_ref().is_some_and(|guest| guest.shadowed.is_some()) {
            // The accesses that filled the pages went through the shadow table.
            let thread = Thread { process, cpu };
            let (mut at, end) = (va.raw(), region.start.offset(end << 12).raw());
            while at < end {
                let size = self.shadow_fault(thread, Va::new(at), intent)?.unwrap_or_default();
                at = (at & !(size.bytes() - 1)) + size.bytes();
            }
        }
        Ok(())
    }

    fn process(&self, index: u16) -> Result<Process, WorldError> {
        let count = self.processes.len();
        self.processes.get(usize::from(index)).copied().ok_or(WorldError::Unknown {
            kind: "process",
            index,
            count,
        })
    }

    /// Makes `cpu` run `process`.
    fn switch(&mut self, cpu: CpuId, process: u16) -> Result<(), WorldError> {
        if self.running[cpu.index()] == Some(process) {
            return Ok(());
        }
        let pid = self.process(process)?.pid;
        on_kernel!(self, |kernel, hw, _files| kernel.switch_to(hw, cpu, pid))
            .map_err(|error| WorldError::Kernel { what: format!("running process {process}"), error })?;
        self.running[cpu.index()] = Some(process);
        Ok(())
    }

    /// Runs a block: its accesses, then its events.
    ///
    /// # Errors
    /// If a process does what its kernel refuses, or the oracle finds a mismatch.
    pub fn run(&mut self, block: &Block) -> Result<(), WorldError> {
        let mut rest = block.accesses.as_slice();
        while let Some(first) = rest.first() {
            let same = rest.iter().position(|a| a.thread != first.thread).unwrap_or(rest.len());
            self.run_thread(&rest[..same])?;
            rest = &rest[same..];
        }
        for event in &block.events {
            self.event(event)?;
        }
        self.since_tick += block.accesses.len() as u64;
        if self.since_tick >= TICK {
            self.since_tick -= TICK;
            self.tick()?;
        }
        match self.oracle.as_ref().and_then(Oracle::mismatch) {
            Some(mismatch) => Err(WorldError::Mismatch(mismatch)),
            None => Ok(()),
        }
    }

    /// Accesses of one thread.
    fn run_thread(&mut self, accesses: &[Access]) -> Result<(), WorldError> {
        let index = accesses[0].thread;
        let count = self.threads.len();
        let thread = *self.threads.get(usize::from(index)).ok_or(WorldError::Unknown {
            kind: "thread",
            index,
            count,
        })?;
        self.switch(thread.cpu, thread.process)?;
        if let Some(oracle) = &mut self.oracle {
            oracle.set_process(thread.process);
        }
        let (mut rest, mut tries) = (accesses, 0);
        loop {
            let done = match &mut self.oracle.take() {
                Some(oracle) => {
                    let done = self.run_on(thread, rest, oracle);
                    self.oracle = Some(std::mem::replace(oracle, Oracle::new(0, &[])));
                    done
                }
                None => self.run_on(thread, rest, &mut Unobserved),
            }?;
            let Err(stop) = done else { return Ok(()) };
            rest = &rest[stop.at..];
            tries = if stop.at == 0 { tries + 1 } else { 1 };
            let (va, process) = (rest[0].va.raw(), thread.process);
            if tries > MAX_TRIES {
                return Err(WorldError::Stuck { va, process, tries, fault: stop.fault });
            }
            self.fault(thread, &rest[0], stop.fault)?;
        }
    }

    fn run_on<O: Observer>(
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
        Ok(match &self.guest {
            None => {
                let table = self.host.process(pid).map_err(failed)?.space().table();
                let root = table.hardware_root(core.node());
                let walk = Native { mem: self.host.mem(), root, levels: table.levels(), frames };
                job.on(core, uncore, &walk)
            }
            Some(guest) if guest.shadowed.is_some() => {
                let root =
                    guest.kernel.process(pid).map_err(failed)?.space().table().hardware_root(NodeId(0));
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
                    root: table.hardware_root(NodeId(0)),
                    levels: table.levels(),
                    frames: u64::MAX,
                    host,
                };
                job.on(core, uncore, &walk)
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

    /// Has the right kernel resolve a fault.
    fn fault(&mut self, thread: Thread, access: &Access, fault: Fault) -> Result<(), WorldError> {
        let cpu = thread.cpu;
        let intent =
            Intent { write: access.kind.writes(), fetch: access.kind == machine::input::Kind::Fetch };
        let what = || format!("access at {:#x} of process {}", access.va.raw(), thread.process);
        match fault {
            Fault::Page { va, .. } => {
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
            Fault::Tag { .. } => {
                Err(WorldError::Stuck { va: access.va.raw(), process: thread.process, tries: 1, fault })
            }
        }
    }

    /// Has the hypervisor answer a fault on a shadow table, and tells the size of
    /// what is mapped there now; `None` if the fault is the guest's own.
    fn shadow_fault(
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
        let fault = ShadowFault { root: table.hardware_root(NodeId(0)), levels: table.levels(), va, intent };
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

    /// A trace that does not say what was mapped touched `va`: 2 MiB around it,
    /// as far as they are free, become memory.
    fn map_implicit(&mut self, process: u16, va: Va) -> Result<(), WorldError> {
        let pid = self.process(process)?.pid;
        let block = PageSize::Size2M;
        let (mut start, mut end) = (va.align_down(block).raw(), va.align_down(block).raw() + block.bytes());
        let neighbours = on_kernel!(self, |kernel, _hw, _files| kernel
            .process(pid)
            .map(|p| p.space().vmas().neighbours(va.raw())))
        .map_err(|error| WorldError::Kernel { what: format!("process {process}"), error })?;
        start = neighbours.0.map_or(start, |below| start.max(below.end));
        end = neighbours.1.map_or(end, |above| end.min(above.start));
        let mut region = Region::anonymous("implicit", start, end - start, Populate::OnDemand);
        region.permissions = Permissions { read: true, write: true, execute: true };
        self.map(process, &region)
    }

    /// Background work of the kernels.
    fn tick(&mut self) -> Result<(), WorldError> {
        let side = self.plan.system.kernel;
        if side.pages != Pages::Thp && !side.numa_balancing {
            return Ok(());
        }
        for index in 0..self.processes.len() {
            let pid = self.processes[index].pid;
            let failed = |error| WorldError::Kernel { what: "background work".to_string(), error };
            let alive = on_kernel!(self, |kernel, _hw, _files| kernel.process(pid).is_ok());
            if alive && side.pages == Pages::Thp {
                // Linux scans 4096 pages a round (khugepaged/pages_to_scan): 8 blocks.
                on_kernel!(self, |kernel, hw, _files| kernel.khugepaged(hw, CpuId(0), pid, 8))
                    .map_err(failed)?;
            }
            if alive && side.numa_balancing {
                on_kernel!(self, |kernel, hw, _files| kernel.numa_scan(hw, CpuId(0), pid)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), WorldError> {
        let failed = |error| WorldError::Kernel { what: format!("{event:?}"), error };
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
            Event::Fork { parent, .. } => {
                let (process, cpu) = (self.process(*parent)?, self.cpu_of(*parent));
                let pid = on_kernel!(self, |kernel, hw, _files| kernel.fork(hw, cpu, process.pid))
                    .map_err(failed)?;
                self.processes.push(Process { pid, implicit: process.implicit });
                if let Some(oracle) = &mut self.oracle {
                    oracle.fork(*parent);
                }
                Ok(())
            }
            Event::Exec { process, image } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                if let Some(oracle) = &mut self.oracle {
                    oracle.exec(*process, image);
                }
                on_kernel!(self, |kernel, hw, _files| kernel.exec(hw, cpu, pid)).map_err(failed)?;
                self.running.iter_mut().filter(|r| **r == Some(*process)).for_each(|r| *r = None);
                image.regions.iter().try_for_each(|region| self.map(*process, region))?;
                image.regions.iter().try_for_each(|region| self.populate(*process, region))
            }
            Event::Exit { process } => {
                let (pid, cpu) = (self.process(*process)?.pid, self.cpu_of(*process));
                self.running.iter_mut().filter(|r| **r == Some(*process)).for_each(|r| *r = None);
                if let Some(oracle) = &mut self.oracle {
                    oracle.exit(*process);
                }
                on_kernel!(self, |kernel, hw, _files| kernel.exit(hw, cpu, pid)).map_err(failed)
            }
            Event::Spawn { process, .. } => self.add_thread(*process),
            Event::MoveThread { thread, node } => {
                let to = self.machine.cores.iter().find(|c| c.node() == NodeId(*node)).map(|c| c.id);
                let count = self.threads.len();
                match (self.threads.get_mut(usize::from(*thread)), to) {
                    (Some(thread), Some(cpu)) => thread.cpu = cpu,
                    (Some(_), None) => {}
                    (None, _) => return Err(WorldError::Unknown { kind: "thread", index: *thread, count }),
                }
                Ok(())
            }
            // Marks for whoever measures latencies.
            Event::Request { .. } => Ok(()),
            _ => Ok(()),
        }
    }

    /// A CPU that the process runs on, for its system calls.
    fn cpu_of(&self, process: u16) -> CpuId {
        self.threads.iter().find(|t| t.process == process).map_or(CpuId(0), |t| t.cpu)
    }

    /// The machine, to read counters and clocks from.
    pub fn machine(&self) -> &Machine<AsidVmid> {
        &self.machine
    }

    /// Forgets what was counted so far, not what is cached or mapped.
    pub fn reset_counters(&mut self) {
        self.machine.cores.iter_mut().for_each(|core| core.reset_counters());
    }

    /// Cycles of each core until now.
    pub fn cycles(&self) -> Vec<u64> {
        self.machine.cores.iter().map(|c| c.timing.elapsed() / TICKS).collect()
    }

    /// Cycles that software took until now.
    pub fn software_cycles(&self) -> u64 {
        self.spent
    }

    /// The counters of the processes' kernel, and of the host under it.
    pub fn stats(&self) -> (Stats, Option<Stats>) {
        match &self.guest {
            None => (self.host.stats(), None),
            Some(guest) => (guest.kernel.stats(), Some(self.host.stats())),
        }
    }

    /// Accesses that the oracle checked.
    pub fn verified(&self) -> Option<u64> {
        self.oracle.as_ref().map(Oracle::checked)
    }

    /// Bytes of page tables now.
    pub fn table_bytes(&self) -> TableBytes {
        fn of<M: TableMemory>(kernel: &Kernel<M>) -> u64 {
            kernel.processes().map(|p| p.space().table().table_pages().iter().sum::<u64>() * 4096).sum()
        }
        let vms = self.host.vms().map(|vm| vm.space().table().table_pages().iter().sum::<u64>() * 4096).sum();
        let processes = match &self.guest {
            None => of(&self.host),
            Some(guest) => of(&guest.kernel),
        };
        let shadow = self.guest.as_ref().and_then(|guest| self.host.shadow(guest.vm).ok());
        TableBytes { processes, vms, shadow: shadow.map_or(0, |s| s.table_pages() * 4096) }
    }

    /// Frames that the host has given out.
    pub fn frames_used(&self) -> u64 {
        let pool = self.host.pool();
        pool.nodes().iter().map(|n| pool.frames(n) - pool.free_frames(n)).sum()
    }
}

impl Files {
    fn open<M: TableMemory>(&mut self, kernel: &mut Kernel<M>, name: &str) -> Result<FileId, MmError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = kernel.create_file(os::MAX_FILE_PAGES)?;
        let index = id.0 as usize;
        if self.names.len() <= index {
            self.names.resize(index + 1, String::new());
        }
        self.names[index] = name.to_string();
        self.ids.insert(name.to_string(), id);
        Ok(id)
    }
}

fn prot(p: Permissions) -> Prot {
    Prot { read: p.read, write: p.write, exec: p.execute }
}

fn whole_pages(range: &std::ops::Range<u64>, page: PageSize) -> std::ops::Range<u64> {
    let frames = page.frames();
    range.start.next_multiple_of(frames)..range.end / frames * frames
}
