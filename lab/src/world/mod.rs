//! A system come to life: a machine, a kernel or two, and the threads that run
//! on them.
//!
//! The life of one access is one direction: a block of accesses goes to a core;
//! a fault comes back; the kernel whose fault it is mends its tables; the core
//! goes on.

mod babelfish;
mod background;
mod build;
mod dump;
mod events;
mod faults;
mod kernel;
mod memory;
mod oblivious;
mod passthrough;
mod pressure;
mod requests;
mod segments;
mod tables;
mod translate;
mod view;

pub use dump::{DataDump, LevelDump, SocketTables, TableDump, WalkerDump};
pub use view::Place;

use crate::hardware::{CoreSegments, Costs, GuestHardware, GuestRoot, HostHardware, Shared, Spent};
use crate::layout::{self, LayoutFrames, Placing};
use crate::numa::Interference;
use crate::oracle::{Mismatch, Oracle};
use crate::outcome::{LayoutCounts, TableBytes};
use crate::system::{Pages, Placement, Side, System, Translation as Way};
use crate::tagged::{CoreView, Tagged};
use machine::core::{Core, Observer, Stop, Unobserved};
use machine::explain::{Explained, Recorded};
use machine::input::{
    Access, Backing, Block, Event, HugeAdvice, Permissions, Populate, ProcessSetup, Region, Setup,
};
use machine::profile::Profile;
use machine::timing::TICKS;
use machine::uncore::Uncore;
use mechanisms::passthrough::GuestTables;
use os::shadow::{ShadowFault, ShadowOutcome, TrapLog, TrappedTables, Trapping};
use os::{
    Advice, FileId, Hardware, Kernel, KernelConfig, MapRequest, MmError, Policy, ProcessId, ProcessSpec,
    Prot, Slot, SpaceId, Stats, Tables, ThpMode, VmId, VmSpec,
};
use paging::frames::{CpuId, Fragmentation, Layout, LayoutError, NodeSet, PoolConfig};
use paging::lines::{HostLines, Table, host_lines};
use paging::{
    Arena, Fault, Frame, FramePool, FromBuddy, GuestPhys, HostDim, HostPhys, Intent, Native, Nested, NodeId,
    PageSize, PageTable, PhysSpace, Shadow, TableMemory, Translation, Va, Virt,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    /// A real layout, and who gets it.
    pub placing: Option<Placing>,
    /// Forget every shootdown: builds the bug that the oracle must find.
    pub lose_shootdowns: bool,
}

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The memory layout of the profile cannot be.
    #[error("the machine's memory cannot be laid out: {0}")]
    Layout(#[from] LayoutError),
    /// The machine has no room for a real layout.
    #[error("{0}")]
    NoPlace(String),
    /// The kernel of the processes.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: MmError,
    },
    /// A trace of a kernel, too.
    #[error(
        "access at {va:#x} is in the kernel's half of the address space; only memory of processes is modelled, \
         so a trace must be of programs alone"
    )]
    KernelHalf {
        /// The address.
        va: u64,
    },
    /// Layouts are moved there.
    #[error(
        "mapping `{name}` at {start:#x}: with layouts of processes' own (`aslr=hardware`) nothing may lie between \
         programs and mappings, 0x5e0000000000 to 0x620000000000; use `aslr=software`"
    )]
    InTheWay {
        /// What.
        name: String,
        /// Where.
        start: u64,
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

/// Where a guest's page tables are.
type GuestMem = GuestTables<Arena<GuestPhys>>;

/// A guest's kernel in its VM.
#[derive(Debug)]
struct Guest {
    kernel: Kernel<GuestMem>,
    vm: VmId,
    files: Files,
    /// Under shadow paging: the guest's roots by address space.
    shadowed: Option<HashMap<SpaceId, GuestRoot>>,
    /// Under pass-through: tags and array.
    passed: Option<passthrough::Passed>,
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
    /// The largest page that is whole where the process lies.
    page: PageSize,
}

/// A system at work.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    /// Host frames, with holes.
    frames: u64,
    nodes: usize,
    costs: Costs,
    machine: Tagged,
    host: Kernel<Arena<HostPhys>>,
    guest: Option<Guest>,
    host_files: Files,
    vms: Vec<SpaceId>,
    segments: Vec<CoreSegments>,
    segment_log: segments::Log,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    /// Threads on each core whose process has not ended.
    living: Vec<u32>,
    /// Which process each core runs.
    running: Vec<Option<u16>>,
    oracle: Option<Oracle>,
    /// Before a process ended, where they were most.
    tables_before: TableBytes,
    /// What is shared with the source of a real layout's frames.
    placed: Arc<layout::Shared>,
    spent: Spent,
    watch: background::Watch,
    dumps: dump::Dumps,
    since_tick: u64,
    /// The machine's cycle at the last round of background work.
    last_tick: u64,
    requests: requests::Requests,
    own: babelfish::Own,
}

/// Accesses that share a line of the host's caches.
const ACCESSES_IN_LINE: usize = 64 / size_of::<Access>();
/// Accesses between two rounds of background work (khugepaged, NUMA balancing).
const TICK: u64 = 1 << 20;
/// Linux scans a process for NUMA balancing once in so many milliseconds (`scan_period_min_ms`).
const SCAN_PERIOD: u64 = 1000;
/// An access that faults more often than this without getting done is stuck: a
/// bug, or an input that no kernel could satisfy.
const MAX_TRIES: u32 = 64;

macro_rules! shared {
    ($world:expr, $files:expr) => {
        Shared {
            machine: &mut $world.machine,
            oracle: $world.oracle.as_mut(),
            costs: &$world.costs,
            spent: &mut $world.spent,
            files: $files,
            vms: &$world.vms,
            segments: &mut $world.segments,
            agile: $world.plan.system.translation == Way::Agile,
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

pub(super) use {on_kernel, shared};

impl World {
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
        // Whoever decoded it may have been another CPU: all its lines at once, before they are read one by one.
        rest.iter().step_by(ACCESSES_IN_LINE).for_each(paging::prefetch::prefetch);
        while let Some(first) = rest.first() {
            // At the same access however the input is cut into blocks.
            let until_tick = rest.len().min((TICK - self.since_tick) as usize);
            let same = rest[..until_tick].iter().position(|a| a.thread != first.thread);
            let (part, others) = rest.split_at(same.unwrap_or(until_tick));
            self.run_thread(part)?;
            rest = others;
            self.since_tick += part.len() as u64;
            if self.since_tick == TICK {
                self.since_tick = 0;
                self.tick()?;
                self.promote(TICK)?;
            }
        }
        for event in &block.events {
            self.event(event)?;
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
        let begin = self.clock(thread.cpu);
        let done = self.run_all(thread, accesses);
        self.requests.ran(index, self.clock(thread.cpu) - begin);
        done
    }

    /// Runs accesses, which the process itself makes as `own`, and has its kernel answer what faults.
    fn run_until_done(
        &mut self,
        thread: Thread,
        accesses: &[Access],
        mut own: &[Access],
    ) -> Result<(), WorldError> {
        let (mut rest, mut tries) = (accesses, 0);
        loop {
            self.enter(thread)?;
            let done = match &mut self.oracle.take() {
                Some(oracle) => {
                    let done = self.run_on(thread, own, oracle);
                    self.oracle = Some(std::mem::replace(oracle, Oracle::new(0, &[])));
                    done
                }
                None => self.run_on(thread, own, &mut Unobserved),
            }?;
            let Err(stop) = done else { return Ok(()) };
            (rest, own) = (&rest[stop.at..], &own[stop.at..]);
            tries = if stop.at == 0 { tries + 1 } else { 1 };
            let (va, process) = (rest[0].va.raw(), thread.process);
            if tries > MAX_TRIES {
                return Err(WorldError::Stuck { va, process, tries, fault: stop.fault });
            }
            self.fault(thread, &rest[0], stop.fault)?;
        }
    }

    /// The machine, to read counters and clocks from.
    pub fn machine(&self) -> &Tagged {
        &self.machine
    }

    /// Forgets what was counted so far, not what is cached or mapped.
    pub fn reset_counters(&mut self) {
        self.machine.reset_counters();
        self.watch.restart(&self.machine);
        self.requests.restart();
    }

    /// Records the next `limit` walks of each core.
    pub fn record_walks(&mut self, limit: usize) {
        self.machine.record_walks(limit);
    }

    /// What was recorded, by core; recording ends.
    pub fn recorded_walks(&mut self) -> Vec<Vec<Recorded>> {
        self.machine.recorded_walks()
    }

    /// The clock of a core, in cycles.
    pub fn clock(&self, cpu: CpuId) -> u64 {
        self.machine.core(cpu).timing.elapsed() / TICKS
    }

    /// A core does nothing until its clock is at `cycle`.
    pub fn idle_until(&mut self, cpu: CpuId, cycle: u64) {
        let wait = cycle.saturating_sub(self.clock(cpu));
        self.machine.spend(cpu, wait * TICKS);
    }

    /// Cycles of each core until now.
    pub fn cycles(&self) -> Vec<u64> {
        self.machine.cores().map(|c| c.timing.elapsed() / TICKS).collect()
    }

    /// What software took until now.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Cycles that software took until now.
    pub fn software_cycles(&self) -> u64 {
        self.spent.cycles
    }

    /// The counters of the processes' kernel, and of the host under it.
    pub fn stats(&self) -> (Stats, Option<Stats>) {
        match &self.guest {
            None => (self.host.stats(), None),
            Some(guest) => (guest.kernel.stats(), Some(self.host.stats())),
        }
    }

    /// Where the frames of the process with a real layout are.
    pub fn placed(&self) -> Option<LayoutCounts> {
        self.plan.placing.as_ref().map(|_| {
            let (placed, elsewhere) = self.placed.counts();
            LayoutCounts { placed, elsewhere }
        })
    }

    /// Accesses that the oracle checked.
    pub fn verified(&self) -> Option<u64> {
        self.oracle.as_ref().map(Oracle::checked)
    }

    /// Bytes of page tables now; if there were more before a process ended, then.
    pub fn table_bytes(&self) -> TableBytes {
        let now = self.tables_now();
        if now.total() >= self.tables_before.total() { now } else { self.tables_before }
    }

    fn tables_now(&self) -> TableBytes {
        // Copies included; each kernel has one more, for idle CPUs.
        let host = self.host.mem().tables() - 1;
        let Some(guest) = &self.guest else {
            return TableBytes { processes: host * 4096, vms: 0, shadow: 0 };
        };
        let processes = guest.kernel.mem().inner().tables() - 1;
        // The VM's tables and the shadow tables have the same number of copies.
        let shadow = self.host.shadow(guest.vm).map_or(0, |s| s.table_pages());
        let vms: u64 = self.host.vms().map(|vm| vm.space().table().table_pages().iter().sum::<u64>()).sum();
        let shadow = host * shadow / (shadow + vms).max(1);
        TableBytes { processes: processes * 4096, vms: (host - shadow) * 4096, shadow: shadow * 4096 }
    }

    /// How the table of a process lies in the VM's; `None` without a VM.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn host_lines_of(&self, process: u16) -> Result<Option<HostLines>, WorldError> {
        let Some(guest) = &self.guest else { return Ok(None) };
        let failed = |error| WorldError::Kernel { what: format!("process {process}"), error };
        let table = guest.kernel.process(self.process(process)?.pid).map_err(failed)?.space().table();
        let of_vm = self.host.vm(guest.vm).map_err(failed)?.space().table();
        Ok(Some(lines(&guest.kernel, table, &self.host, of_vm)))
    }

    /// The same for all processes that are there.
    pub fn host_lines(&self) -> Option<HostLines> {
        let guest = self.guest.as_ref()?;
        let of_vm = self.host.vm(guest.vm).ok()?.space().table();
        let mut sum = HostLines::default();
        for process in guest.kernel.processes() {
            sum.add(&lines(&guest.kernel, process.space().table(), &self.host, of_vm));
        }
        Some(sum)
    }

    /// Blocks that the allocator of the processes' kernel handed out.
    pub fn allocations(&self) -> u64 {
        let stats = match &self.guest {
            None => self.host.pool().stats(),
            Some(guest) => guest.kernel.pool().stats(),
        };
        stats.allocs.iter().sum()
    }

    /// Frames that the processes' kernel keeps for later faults.
    pub fn reserved(&self) -> u64 {
        match &self.guest {
            None => self.host.source().reserved(),
            Some(guest) => guest.kernel.source().reserved(),
        }
    }

    /// Frames that the host has given out.
    pub fn frames_used(&self) -> u64 {
        let pool = self.host.pool();
        pool.nodes().iter().map(|n| pool.frames(n) - pool.free_frames(n)).sum()
    }
}

fn lines(
    guest: &Kernel<GuestMem>,
    table: &PageTable<Virt, GuestMem>,
    host: &Kernel<Arena<HostPhys>>,
    of_vm: &PageTable<GuestPhys, Arena<HostPhys>>,
) -> HostLines {
    host_lines(
        Table { mem: guest.mem(), root: table.root(), levels: table.levels() },
        Table { mem: host.mem(), root: of_vm.root(), levels: of_vm.levels() },
    )
}
