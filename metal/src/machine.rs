//! The kernel on the machine: its memory, the lock around it, and processes in ring 3.

use crate::acpi::Topology;
use crate::firmware::Firmware;
use crate::hardware::Metal;
use crate::lock::Big;
use crate::physical::DirectMap;
use crate::program::{Program, TEXT, text};
use crate::smp::{self, Task};
use crate::tables::CALL;
use crate::traps::{self, Context, intent_of};
use crate::{apic, cpu};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use os::{Kernel, KernelConfig, MapRequest, MmError, ProcessId, ProcessSpec, Prot, SingleTables, Tables};
use paging::frames::{CpuId, FramePool, FrameState, LEGACY_END, Layout, NodeSpec, PoolConfig};
use paging::{FrameSource, FromBuddy, HostPhys, NodeId, TableMemory, Va};

/// Faults of one instruction at one address after which it will never succeed.
const STUCK: u32 = 16;

/// The CPUs and the memory that a kernel may use.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The node of each CPU.
    pub cpus: Vec<NodeId>,
    /// The memory of nodes that have CPUs. (Nodes without are the kernel's own.)
    pub layout: Layout,
    /// This kernel's image as a file, for guests.
    pub image: Option<Range<u64>>,
    /// What the command line says beside the scenario.
    pub command_line: String,
}

/// The kernel and its hardware.
#[derive(Debug)]
pub struct Os {
    /// The kernel.
    pub kernel: Kernel<DirectMap>,
    /// The machine.
    pub hw: Metal,
}

static OS: Big<Option<Os>> = Big::new(None);

/// The boot CPU, which tells the scenarios.
pub const BOOT: CpuId = CpuId(0);

/// Uses the kernel on `cpu`.
pub fn with<R>(cpu: CpuId, f: impl FnOnce(&mut Kernel<DirectMap>, &mut Metal) -> R) -> R {
    OS.with(cpu, |os| {
        let os = os.as_mut().expect("the kernel was made");
        f(&mut os.kernel, &mut os.hw)
    })
}

/// Uses kernel and hardware as one, on `cpu`.
pub fn with_os<R>(cpu: CpuId, f: impl FnOnce(&mut Os) -> R) -> R {
    OS.with(cpu, |os| f(os.as_mut().expect("the kernel was made")))
}

impl Machine {
    /// From what the firmware says; `used` is the kernel's own.
    pub fn new(firmware: &Firmware, topology: &Topology, used: &[Range<u64>]) -> Machine {
        let mut domains: Vec<u32> = topology.cpus.iter().map(|&(_, domain)| domain).collect();
        domains.sort_unstable();
        domains.dedup();
        let node_of = |domain: u32| domains.iter().position(|&d| d == domain);
        let own = cpu::apic_id();
        let mut cpus = topology.cpus.clone();
        // The boot CPU is number 0, the others follow in the tables' order.
        cpus.sort_by_key(|&(apic, _)| apic != own);
        let cpus = cpus.iter().filter_map(|&(_, domain)| Some(NodeId(node_of(domain)? as u8))).collect();
        let mut nodes = vec![NodeSpec::default(); domains.len()];
        for (domain, range) in &topology.memory {
            let Some(node) = node_of(*domain) else { continue };
            for ram in &firmware.ram {
                let start = range.start.max(ram.start).max(LEGACY_END << 12);
                let end = range.end.min(ram.end);
                if start < end {
                    nodes[node].frames.extend(without(start..end, used));
                }
            }
        }
        let distances = Layout::uniform_distances(nodes.len());
        let layout = Layout { nodes, distances };
        Machine { cpus, layout, image: None, command_line: String::new() }
    }

    /// The choices of a kernel on this machine: as Linux's, no PCIDs.
    pub fn config(&self) -> KernelConfig {
        KernelConfig { pcids: 1, ..KernelConfig::new(self.cpus.clone()) }
    }

    /// Makes the kernel with the baselines.
    pub fn start(&self) {
        self.start_with(self.config(), Box::new(FromBuddy), Box::new(SingleTables::default()));
    }

    /// Makes the kernel.
    pub fn start_with(
        &self,
        config: KernelConfig,
        source: Box<dyn FrameSource<HostPhys>>,
        tables: Box<dyn Tables<DirectMap>>,
    ) {
        let mut hw = Metal::default();
        let pool =
            FramePool::new(&self.layout, PoolConfig::default()).expect("the firmware's memory map is sound");
        let mem = DirectMap::new(self.layout.end());
        let mut kernel = Kernel::new(config, pool, mem, source, tables, &mut hw).expect("a kernel");
        // As the lab's: what is read around a page is there.
        hw.text = Some(kernel.create_file(os::MAX_FILE_PAGES).expect("a file"));
        OS.with(BOOT, |os| *os = Some(Os { kernel, hw }));
    }

    /// All CPUs.
    pub fn all_cpus(&self) -> Vec<CpuId> {
        (0..self.cpus.len() as u16).map(CpuId).collect()
    }

    /// The first CPU of each node.
    pub fn cpu_of_each_node(&self) -> impl Iterator<Item = (NodeId, CpuId)> + '_ {
        (0..self.layout.nodes.len() as u8).filter_map(|node| {
            let cpu = self.cpus.iter().position(|of| *of == NodeId(node))?;
            Some((NodeId(node), CpuId(cpu as u16)))
        })
    }
}

/// Whole frames of a range outside `used`.
fn without(range: Range<u64>, used: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut used: Vec<_> =
        used.iter().filter(|u| u.start < range.end && range.start < u.end).cloned().collect();
    used.sort_by_key(|u| u.start);
    let (mut next, mut left) = (range.start, Vec::new());
    for hole in used.into_iter().chain(core::iter::once(range.end..range.end)) {
        let frames = next.div_ceil(4096)..hole.start.max(next) / 4096;
        if !frames.is_empty() {
            left.push(frames);
        }
        next = next.max(hole.end);
    }
    left
}

/// Ends the kernel: everything must come back.
///
/// # Panics
/// If a frame is missing.
pub fn finish() -> Metal {
    finish_but(0)
}

/// The same, where `faulty` frames were taken out of use and stay away.
///
/// # Panics
/// If another frame is missing.
pub fn finish_but(faulty: u64) -> Metal {
    OS.with(BOOT, |os| {
        let Os { mut kernel, mut hw } = os.take().expect("the kernel was made");
        let processes: Vec<_> = kernel.processes().map(|process| process.id()).collect();
        let vms: Vec<_> = kernel.vms().map(|vm| vm.id()).collect();
        processes.into_iter().for_each(|pid| kernel.exit(&mut hw, BOOT, pid).expect("an exit"));
        vms.into_iter().for_each(|vm| kernel.destroy_vm(&mut hw, BOOT, vm).expect("the end of a VM"));
        // All CPUs leave the kernel's own table too, before it goes.
        let boot = &raw const crate::boot::boot_pml4 as u64;
        let cpus = kernel.config().cpus.len() as u16;
        (0..cpus).for_each(|cpu| smp::ask(BOOT, CpuId(cpu), smp::Request::LoadRoot(boot)));
        let (pool, _) = kernel.shutdown(&mut hw).expect("an orderly end");
        let totals = pool.audit().expect("every frame is free or owned once");
        let isolated = totals.of(FrameState::Faulty);
        let owned = totals.owned() - if FrameState::Faulty.is_owned() { isolated } else { 0 };
        assert_eq!((owned, isolated), (0, faulty), "all frames come back: {totals:?}");
        hw
    })
}

/// Why a program did not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Killed {
    /// The kernel refused its fault.
    Refused(MmError),
    /// It trapped in another way.
    Trap(u64),
    /// It faults at an address again and again, although the kernel believes it need not.
    Stuck(u64),
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Killed::Refused(error) => write!(f, "{error}"),
            Killed::Trap(vector) => write!(f, "it trapped with vector {vector}"),
            Killed::Stuck(va) => write!(
                f,
                "it faults at {va:#x} again and again, although the kernel sees a present entry: the entry is wrong"
            ),
        }
    }
}

/// A process that has the programs mapped.
pub fn create(spec: ProcessSpec) -> ProcessId {
    let pid = with(BOOT, |kernel, hw| kernel.create_process(hw, BOOT, spec)).expect("a process");
    map_programs(pid);
    pid
}

/// Maps the programs of ring 3.
pub fn map_programs(pid: ProcessId) {
    with(BOOT, |kernel, hw| {
        let file = hw.text.expect("the kernel has the file");
        let request = MapRequest::private_file(file, text().len() as u64, Prot::RX).at(Va::new(TEXT));
        kernel.mmap(hw, BOOT, pid, &request)
    })
    .expect("a mapping of the programs");
}

/// Gives a process so many pages of memory at an address.
pub fn map_memory(pid: ProcessId, at: u64, pages: u64) {
    let request = MapRequest::anonymous(pages * 4096).at(Va::new(at));
    with(BOOT, |kernel, hw| kernel.mmap(hw, BOOT, pid, &request)).expect("memory");
}

/// Runs a program on the CPU that runs this, to its end.
///
/// # Errors
/// If it did not come to its end.
pub fn run_here(cpu: CpuId, pid: ProcessId, program: &Program) -> Result<Context, Killed> {
    with(cpu, |kernel, hw| kernel.switch_to(hw, cpu, pid)).map_err(Killed::Refused)?;
    let context = smp::context(cpu);
    // SAFETY: the context is this CPU's own, and it is in the kernel now.
    unsafe { context.write(program.context()) };
    let (mut last, mut times) = ((0, 0), 0);
    loop {
        // SAFETY: it is the context that this CPU's task state names, and the
        // table that was loaded has the kernel's half linked.
        let trap = unsafe {
            traps::enter(context);
            *context
        };
        match trap.vector as u8 {
            apic::KICK => {
                apic::end_of_interrupt();
                smp::serve(cpu);
            }
            14 => {
                let va = cpu::cr2();
                times = if last == (trap.rip, va) { times + 1 } else { 0 };
                last = (trap.rip, va);
                if times > STUCK {
                    return Err(Killed::Stuck(va));
                }
                with(cpu, |kernel, hw| kernel.fault(hw, cpu, pid, Va::new(va), intent_of(trap.error)))
                    .map_err(Killed::Refused)?;
            }
            CALL => return Ok(trap),
            vector => return Err(Killed::Trap(u64::from(vector))),
        }
    }
}

/// Lets a program run on another CPU while this one goes on.
pub fn run_beside(cpu: CpuId, pid: ProcessId, program: Program) -> Task<Result<Context, Killed>> {
    smp::spawn(cpu, move |cpu| run_here(cpu, pid, &program))
}

/// Runs a program on any CPU, to its end.
///
/// # Errors
/// If it did not come to its end.
pub fn run(cpu: CpuId, pid: ProcessId, program: Program) -> Result<Context, Killed> {
    if cpu == BOOT { run_here(cpu, pid, &program) } else { run_beside(cpu, pid, program).join(BOOT) }
}

/// What a process must see, and does: a program's loads are compared.
///
/// # Panics
/// If not, with the address and the walk.
pub fn expect(cpu: CpuId, pid: ProcessId, series: crate::program::Series) {
    let done = run(cpu, pid, Program::Check(series))
        .unwrap_or_else(|killed| panic!("CPU {} process {}: {series:x?}: {killed}", cpu.0, pid.0));
    if done.rax != series.count {
        let va = series.start + done.rax * series.stride;
        let word = series.first + done.rax * series.step;
        let walk = walk_of(pid, va);
        panic!(
            "CPU {} process {} reads {:#x} at {va:#x}, must read {word:#x}; {walk}",
            cpu.0, pid.0, done.rbx
        );
    }
}

/// Lets a program store a series.
///
/// # Panics
/// If the process may not.
pub fn fill(cpu: CpuId, pid: ProcessId, series: crate::program::Series) {
    run(cpu, pid, Program::Fill(series))
        .unwrap_or_else(|killed| panic!("CPU {} process {}: {series:x?}: {killed}", cpu.0, pid.0));
}

/// The walk of a process's address, as a line.
pub fn walk_of(pid: ProcessId, va: u64) -> alloc::string::String {
    with(smp::here(), |kernel, _| match kernel.process(pid) {
        Ok(process) => {
            let table = process.space().table();
            walk(kernel.mem(), table.root(), table.levels(), va)
        }
        Err(error) => alloc::format!("{error}"),
    })
}

/// The entries on the way to `va`, as a line.
pub fn walk(mem: &DirectMap, root: paging::Hfn, levels: u8, va: u64) -> alloc::string::String {
    let mut line = alloc::format!("walk from {:#x}:", root.number());
    let (mut table, mut level) = (root, levels);
    loop {
        let slot = paging::Slot::new(table, (va >> (3 + 9 * u32::from(level))) as usize);
        let entry = mem.load(slot);
        line += &alloc::format!(" {level}[{}]={:#x}", slot.index, entry.bits());
        if !entry.is_table(level) {
            return line;
        }
        table = entry.frame();
        level -= 1;
    }
}
