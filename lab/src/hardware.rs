//! [`os::Hardware`] on the modelled machine: for the host's kernel, and for a
//! guest's, under which the hypervisor makes guest frames real.
//!
//! Every content that changes is told to the oracle; everything that takes
//! time is charged to the core that did it: a constant of the machine's
//! profile, and the memory references that were really made.

use crate::oracle::Oracle;
use crate::tagged::Tagged;
use machine::Scope;
use machine::profile::Profile;
use machine::timing::TICKS;
use mechanisms::segments::{Image, Registers};
use os::hypervisor::VmId;
use os::{
    Cost, ExitKind, FaultKind, FileId, Hardware, Invalidate, Kernel, MmError, PageRange, RootLoad,
    SegmentLoad, Shootdown, SpaceId, SpaceKind, Syscall,
};
use paging::frames::{CpuId, MAX_NODES, NodeId};
use paging::{Arena, Gfn, GuestPhys, Hfn, HostPhys, Intent, PhysSpace, Space, Virt, Work};
use std::collections::HashMap;

/// What software takes, in cycles; from the machine's profile. Devices take no
/// time: what a disk costs is not translation's.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Costs {
    /// Entry, handling and exit of a page fault, without its memory references.
    pub page_fault: u64,
    /// A VM exit and the way back in.
    pub exit: u64,
    /// A system call.
    pub syscall: u64,
    /// A context switch.
    pub context_switch: u64,
    /// A call of the hypervisor, exit included.
    pub hypercall: u64,
    /// A shootdown, for the core that asks.
    pub shootdown: u64,
    /// The same, more for each core that it interrupts.
    pub shootdown_core: u64,
    /// What a core that is interrupted loses.
    pub shootdown_target: u64,
    /// Zeroing 4 KiB.
    pub zero_page: u64,
    /// Copying 4 KiB.
    pub copy_page: u64,
    /// One page-table entry read or written by software, on the own node.
    pub entry_local: u64,
    /// The same on another node.
    pub entry_remote: u64,
    /// A cache line of a table that software passes over in order, on the own node.
    pub line_local: u64,
    /// The same on another node.
    pub line_remote: u64,
    /// An entry rewritten in such a pass, in the L1.
    pub pass_write: u64,
    /// How much of a hinting fault is charged, in [`Costs::WHOLE`]ths: scans of NUMA balancing come more often than in life.
    pub hint: u64,
}

/// Cycles that software took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    /// All.
    pub cycles: u64,
    /// Of these, cycles of page-table entries written.
    pub updates: u64,
    /// All, by what for.
    pub by: [u64; 5],
}

/// What software works for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    /// Page faults of the processes' kernel, and what is filled ahead.
    Faults,
    /// Exits, and all else that a hypervisor does for a VM.
    Exits,
    /// System calls.
    Calls,
    /// TLB shootdowns.
    Shootdowns,
    /// Context switches, segments, migration.
    Other,
}

impl For {
    fn of(cost: Cost, of_vm: bool) -> For {
        match cost {
            Cost::Ipi { .. } => For::Shootdowns,
            Cost::Exit(_) => For::Exits,
            _ if of_vm => For::Exits,
            Cost::PageFault(_) | Cost::Populate { .. } => For::Faults,
            Cost::Syscall(_) => For::Calls,
            _ => For::Other,
        }
    }
}

impl Costs {
    /// What [`Costs::hint`] is a share of.
    pub const WHOLE: u64 = 1 << 32;

    /// The costs of a machine. A page-table entry that software reads or writes
    /// is one of eight in a line and mostly next to the one before it: an L1
    /// access, and the way to memory for one in eight. A pass over a range of
    /// entries streams through their lines at the rate at which a core zeroes memory.
    pub fn of(profile: &Profile) -> Costs {
        let cost = |c: &machine::profile::Cost| u64::from(c.cycles);
        let c = &profile.cost;
        let memory = profile.memory_spec();
        let cycles = |ps: u64| ps * profile.clock.mhz / 1_000_000;
        let l1 = u64::from(profile.cache.l1d.cycles);
        let local = cycles(memory.latency_ps[0][0]);
        let remote = memory.latency_ps[0].get(1).map_or(local, |ps| cycles(*ps));
        let line = cost(&c.zero_page) / 64;
        Costs {
            page_fault: cost(&c.page_fault),
            exit: cost(&c.vm_exit),
            hypercall: cost(&c.hypercall),
            syscall: cost(&c.syscall),
            context_switch: cost(&c.context_switch),
            shootdown: cost(&c.shootdown),
            shootdown_core: cost(&c.shootdown_core),
            shootdown_target: cost(&c.shootdown_target),
            zero_page: cost(&c.zero_page),
            copy_page: cost(&c.copy_page),
            entry_local: l1 + local / 8,
            entry_remote: l1 + remote / 8,
            line_local: line,
            line_remote: line * remote / local.max(1),
            pass_write: l1,
            hint: Self::WHOLE,
        }
    }
}

/// The number that TLBs compare for a space of kernel `vm` (0: the host): 4
/// bits of VM, 12 of the kernel's own number.
pub fn tlb_space(vm: u16, space: SpaceId) -> u16 {
    debug_assert!(vm < 16 && space.0 < 4096, "more address spaces than TLB tags tell apart");
    vm << 12 | space.0 & 0xfff
}

/// What both kernels' hardware shares.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The machine.
    pub machine: &'a mut Tagged,
    /// The oracle, if accesses are verified.
    pub oracle: Option<&'a mut Oracle>,
    /// Costs.
    pub costs: &'a Costs,
    /// Cycles charged so far.
    pub spent: &'a mut Spent,
    /// Names of the files of the kernel, by number.
    pub files: &'a [String],
    /// The VM of each VM space of the host, by the host's number for it.
    pub vms: &'a [SpaceId],
    /// Each core's segment registers.
    pub segments: &'a mut [CoreSegments],
    /// Walks for a shadow table go on in the VM's (agile paging): what they cached is marked as the
    /// host's, index 0, and goes with what was derived from the VM's table.
    pub agile: bool,
    /// Shootdowns are forgotten: builds the bug that the oracle must find.
    pub lose_shootdowns: bool,
}

/// The segment registers of a core.
#[derive(Clone, Debug, Default)]
pub struct CoreSegments {
    /// Of the process that runs natively.
    pub native: Registers<Virt, HostPhys>,
    /// Of the guest's process that runs.
    pub guest: Registers<Virt, GuestPhys>,
    /// Of the VM that runs.
    pub vmm: Registers<GuestPhys, HostPhys>,
}

fn load<I: Space, O: PhysSpace>(registers: &mut Registers<I, O>, image: Option<&Image>) {
    match image {
        Some(image) => registers.load(image),
        None => registers.switch_off(),
    }
}

impl Shared<'_> {
    pub(crate) fn reborrow(&mut self) -> Shared<'_> {
        Shared {
            machine: self.machine,
            oracle: self.oracle.as_deref_mut(),
            costs: self.costs,
            spent: self.spent,
            files: self.files,
            vms: self.vms,
            segments: self.segments,
            agile: self.agile,
            lose_shootdowns: self.lose_shootdowns,
        }
    }

    fn spend(&mut self, cpu: CpuId, cycles: u64, on: For) {
        self.spent.cycles += cycles;
        self.spent.by[on as usize] += cycles;
        self.machine.spend(cpu, cycles * TICKS);
    }

    /// `of_vm`: the host works for a VM.
    fn charge(&mut self, cpu: CpuId, cost: Cost, work: &Work, of_vm: bool) {
        let c = self.costs;
        let fixed = match cost {
            Cost::PageFault(_) => c.page_fault,
            Cost::Populate { pages } => c.syscall + pages * (c.page_fault / 8),
            Cost::Syscall(Syscall::Fork | Syscall::Exec | Syscall::Exit) => c.syscall + c.page_fault,
            Cost::Syscall(_) => c.syscall,
            Cost::ContextSwitch => c.context_switch,
            Cost::Exit(ExitKind::Hypercall) => c.hypercall,
            Cost::Exit(_) => c.exit,
            Cost::Ipi { targets: 0 } => 0,
            Cost::Ipi { targets } => c.shootdown + u64::from(targets) * c.shootdown_core,
            // From where they were saved, as software reads entries.
            Cost::Segment { words } => u64::from(words) * c.entry_local,
            Cost::Migrate { pages } => pages * c.page_fault / 2,
            // Threads of the kernel's own, on cores that nobody else needs.
            Cost::Background => return,
        };
        let own = self.machine.core(cpu).node;
        let mut cycles = fixed;
        for node in 0..MAX_NODES {
            let near = node == own.index();
            let (entry, line) =
                if near { (c.entry_local, c.line_local) } else { (c.entry_remote, c.line_remote) };
            let passed = u64::from(work.pass_lines[node]) * line;
            let rewritten = u64::from(work.pass_writes[node]) * c.pass_write;
            let written = u64::from(work.table_writes[node]) * entry + rewritten;
            self.spent.updates += written;
            cycles += u64::from(work.table_reads[node]) * entry
                + passed
                + written
                + u64::from(work.zeroed[node]) * c.zero_page
                + u64::from(work.copied[node]) * c.copy_page;
        }
        if let Cost::PageFault(FaultKind::NumaHint | FaultKind::NumaMigrate) = cost {
            cycles = (u128::from(cycles) * u128::from(c.hint) / u128::from(Costs::WHOLE)) as u64;
        }
        self.spend(cpu, cycles, For::of(cost, of_vm));
    }

    /// Invalidates on the CPUs of `cpus` and charges the interrupts.
    fn shootdown(&mut self, from: CpuId, vm: u16, what: &Shootdown<'_>) {
        if self.lose_shootdowns {
            return;
        }
        let ranges: Vec<(u64, u64)>;
        let scope = match what.what {
            Invalidate::All => Scope::All,
            Invalidate::Ranges(list) => {
                ranges = list.iter().map(|r: &PageRange| (r.start, r.len)).collect();
                Scope::Ranges(&ranges)
            }
        };
        let cores = self.machine.len();
        let cpus = || what.cpus.iter().filter(|cpu| cpu.index() < cores);
        match what.kind {
            SpaceKind::Process => {
                self.machine.invalidate(cpus(), (vm, what.space, what.reach), scope, what.tables_freed);
            }
            SpaceKind::Vm => {
                let index = self.vms.iter().position(|s| *s == what.space).unwrap_or(0) as u16 + 1;
                cpus().for_each(|cpu| {
                    self.machine.invalidate_vm(cpu, index, scope);
                    if self.agile {
                        self.machine.invalidate_vm(cpu, 0, scope);
                    }
                });
            }
        }
        for cpu in cpus().filter(|cpu| *cpu != from) {
            self.spend(cpu, self.costs.shootdown_target, For::Shootdowns);
        }
    }

    fn load(&mut self, cpu: CpuId, vm: u16, space: SpaceId, kind: SpaceKind, evicted: Option<SpaceId>) {
        if kind == SpaceKind::Process {
            self.machine.load(cpu, vm, space);
            if let Some(old) = evicted {
                self.machine.forget(cpu, vm, old);
            }
        }
    }
}

/// The machine as the host's kernel sees it.
#[derive(Debug)]
pub struct HostHardware<'a>(pub Shared<'a>);

impl Hardware<HostPhys> for HostHardware<'_> {
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<HostPhys>) {
        self.0.load(cpu, 0, load.space, load.kind, load.evicted);
    }
    fn load_segment(&mut self, cpu: CpuId, what: &SegmentLoad<'_>) {
        let core = &mut self.0.segments[cpu.index()];
        match what.kind {
            SpaceKind::Process => load(&mut core.native, what.image),
            SpaceKind::Vm => load(&mut core.vmm, what.image),
        }
    }
    fn shootdown(&mut self, from: CpuId, what: &Shootdown<'_>) {
        self.0.shootdown(from, 0, what);
    }
    fn flush_space(&mut self, cpu: CpuId, space: SpaceId) {
        self.0.machine.forget(cpu, 0, space);
    }
    fn zero(&mut self, _cpu: CpuId, frame: Hfn, order: u8) {
        if let Some(oracle) = &mut self.0.oracle {
            oracle.zero(frame, 1 << order);
        }
    }
    fn copy(&mut self, _cpu: CpuId, from: Hfn, to: Hfn, order: u8) {
        if let Some(oracle) = &mut self.0.oracle {
            oracle.copy(from, to, 1 << order);
        }
    }
    fn file_read(&mut self, _cpu: CpuId, file: FileId, page: u64, frame: Hfn) {
        if let Some(oracle) = &mut self.0.oracle {
            oracle.file_read(name(self.0.files, file), page, frame);
        }
    }
    fn file_write(&mut self, _cpu: CpuId, _file: FileId, _page: u64, _frame: Hfn) {}
    fn swap_out(&mut self, _cpu: CpuId, frame: Hfn, slot: u64) {
        if let Some(oracle) = &mut self.0.oracle {
            oracle.swap_out(0, frame, slot);
        }
    }
    fn swap_in(&mut self, _cpu: CpuId, slot: u64, frame: Hfn) {
        if let Some(oracle) = &mut self.0.oracle {
            oracle.swap_in(0, slot, frame);
        }
    }
    fn charge(&mut self, cpu: CpuId, cost: Cost, work: &Work) {
        let of_vm = !self.0.vms.is_empty();
        self.0.charge(cpu, cost, work, of_vm);
    }
}

fn name(files: &[String], file: FileId) -> &str {
    files.get(file.0 as usize).map_or("", String::as_str)
}

/// The machine as a guest's kernel sees it: a frame that it touches must be
/// backed, and backing it is the hypervisor's fault to handle.
#[derive(Debug)]
pub struct GuestHardware<'a> {
    /// The machine, with the guest's file names.
    pub shared: Shared<'a>,
    /// The hypervisor's kernel.
    pub host: &'a mut Kernel<Arena<HostPhys>>,
    /// The VM, for the host.
    pub vm: VmId,
    /// The VM's index, from 1.
    pub index: u16,
    /// Under shadow paging: the guest's root of each of its address spaces.
    pub shadowed: Option<&'a mut HashMap<SpaceId, GuestRoot>>,
}

/// A root that a guest's kernel loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestRoot {
    /// Its frame.
    pub root: Gfn,
    /// Levels of the table.
    pub levels: u8,
}

impl GuestHardware<'_> {
    /// The host frame behind a guest frame, backed now if it was not.
    fn back(&mut self, cpu: CpuId, frame: Gfn) -> Option<Hfn> {
        if let Ok(Some(found)) = self.host.host_frame(self.vm, frame) {
            return Some(found);
        }
        let mut hardware = HostHardware(self.shared.reborrow());
        // Without memory the host's fault handler fails here; the guest's access
        // itself then meets the same failure, which is reported there.
        self.host.vm_fault(&mut hardware, cpu, self.vm, frame.base(), Intent::WRITE).ok()?;
        self.host.host_frame(self.vm, frame).ok().flatten()
    }

    /// The guest asks the hypervisor that `frames` of its frames lie on a node.
    ///
    /// # Errors
    /// If the host has no memory left.
    pub fn place(&mut self, cpu: CpuId, start: Gfn, frames: u64, node: NodeId) -> Result<u64, MmError> {
        let mut hardware = HostHardware(self.shared.reborrow());
        self.host.place_vm_memory(&mut hardware, cpu, self.vm, start, frames, node)
    }

    /// The guest invalidates translations of one of its spaces: an exit.
    fn invalidate_shadow(&mut self, cpu: CpuId, space: SpaceId, what: Invalidate<'_>) {
        let Some(root) = self.shadowed.as_ref().and_then(|roots| roots.get(&space)).copied() else { return };
        let mut hardware = HostHardware(self.shared.reborrow());
        // It fails only for a VM without shadow tables, which this one has.
        let _ = self.host.shadow_invalidate(&mut hardware, cpu, self.vm, root.root, what);
    }

    fn each(&mut self, cpu: CpuId, frame: Gfn, order: u8, mut f: impl FnMut(&mut Self, Hfn, u64)) {
        for i in 0..1u64 << order {
            if let Some(hfn) = self.back(cpu, frame.offset(i)) {
                f(self, hfn, i);
            }
        }
    }
}

impl Hardware<GuestPhys> for GuestHardware<'_> {
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<GuestPhys>) {
        if let Some(roots) = &mut self.shadowed {
            // An exit: the hypervisor loads the shadow table in its place.
            let loaded = GuestRoot { root: load.root, levels: load.levels };
            roots.insert(load.space, loaded);
            let mut hardware = HostHardware(self.shared.reborrow());
            // Without memory for a root the walk that follows finds none and
            // asks again; that is where the failure is reported.
            let _ = self.host.shadow_load(&mut hardware, cpu, self.vm, loaded.root, loaded.levels);
            return;
        }
        self.shared.load(cpu, self.index, load.space, load.kind, load.evicted);
    }
    fn load_segment(&mut self, cpu: CpuId, what: &SegmentLoad<'_>) {
        load(&mut self.shared.segments[cpu.index()].guest, what.image);
    }
    fn shootdown(&mut self, from: CpuId, what: &Shootdown<'_>) {
        if self.shadowed.is_some() {
            self.invalidate_shadow(from, what.space, what.what);
        } else {
            self.shared.shootdown(from, self.index, what);
        }
    }
    fn flush_space(&mut self, cpu: CpuId, space: SpaceId) {
        if self.shadowed.is_some() {
            self.invalidate_shadow(cpu, space, Invalidate::All);
            return;
        }
        self.shared.machine.forget(cpu, self.index, space);
    }
    fn touch(&mut self, cpu: CpuId, frame: Gfn) {
        let mut hardware = HostHardware(self.shared.reborrow());
        // Without memory the entry stays empty, and the access that needs it fails.
        let _ = self.host.expose_to_vm(&mut hardware, cpu, self.vm, frame);
    }
    fn zero(&mut self, cpu: CpuId, frame: Gfn, order: u8) {
        self.each(cpu, frame, order, |this, hfn, _| {
            if let Some(oracle) = &mut this.shared.oracle {
                oracle.zero(hfn, 1);
            }
        });
    }
    fn copy(&mut self, cpu: CpuId, from: Gfn, to: Gfn, order: u8) {
        for i in 0..1u64 << order {
            let (source, target) = (self.back(cpu, from.offset(i)), self.back(cpu, to.offset(i)));
            if let (Some(source), Some(target), Some(oracle)) = (source, target, &mut self.shared.oracle) {
                oracle.copy(source, target, 1);
            }
        }
    }
    fn file_read(&mut self, cpu: CpuId, file: FileId, page: u64, frame: Gfn) {
        let hfn = self.back(cpu, frame);
        if let (Some(hfn), Some(oracle)) = (hfn, &mut self.shared.oracle) {
            oracle.file_read(name(self.shared.files, file), page, hfn);
        }
    }
    fn file_write(&mut self, _cpu: CpuId, _file: FileId, _page: u64, _frame: Gfn) {}
    fn swap_out(&mut self, cpu: CpuId, frame: Gfn, slot: u64) {
        let hfn = self.back(cpu, frame);
        if let (Some(hfn), Some(oracle)) = (hfn, &mut self.shared.oracle) {
            oracle.swap_out(u32::from(self.index), hfn, slot);
        }
    }
    fn swap_in(&mut self, cpu: CpuId, slot: u64, frame: Gfn) {
        let hfn = self.back(cpu, frame);
        if let (Some(hfn), Some(oracle)) = (hfn, &mut self.shared.oracle) {
            oracle.swap_in(u32::from(self.index), slot, hfn);
        }
    }
    fn charge(&mut self, cpu: CpuId, cost: Cost, work: &Work) {
        self.shared.charge(cpu, cost, work, false);
    }
}
