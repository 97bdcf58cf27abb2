//! Translation Pass-Through in a world: the tags' memory, the way in and out of
//! the mode, and who mends what.

use super::*;
use crate::passthrough::PassThroughOutcome;
use mechanisms::passthrough::{
    Checks, Enlightenment, Entered, FrameBits, FrameTags, HostArray, Owner, PassThrough, TagPlaces,
    TwinPages, twin_of,
};
use os::passthrough::{Enlightened, TwinTables};
use paging::Hfn;
use paging::frames::{AllocRequest, FrameState};
use paging::sync::AtomicU64;

/// log2 of the frames whose tags fill a 2 MiB block.
const BLOCK_ORDER: u32 = 17;
/// log2 of the frames whose tags fill a page.
const PAGE_ORDER: u32 = 8;

/// What a guest that maps host frames itself has besides a kernel.
#[derive(Debug)]
pub(super) struct Passed {
    tags: Arc<FrameTags>,
    array: Arc<HostArray>,
    pages: Arc<TwinPages>,
    /// The array's epoch when the guest looked at all its entries last.
    epoch: u64,
    /// Ticks since the start, for who migrates.
    ticks: u64,
}

impl Passed {
    /// Sets the tags' memory aside, as firmware does at boot: each piece on the node of its frames.
    pub(super) fn new(
        host: &mut Kernel<Arena<HostPhys>>,
        layout: &Layout,
        guest_frames: u64,
    ) -> Result<Passed, WorldError> {
        let places = places(host, layout, BLOCK_ORDER).or_else(|_| places(host, layout, PAGE_ORDER));
        let places = places.map_err(|error| WorldError::Kernel {
            what: "memory for the tags of all frames".to_string(),
            error,
        })?;
        Ok(Passed {
            tags: Arc::new(FrameTags::new(layout.end(), places)),
            array: Arc::new(HostArray::new(guest_frames)),
            pages: Arc::new(TwinPages::default()),
            epoch: 0,
            ticks: 0,
        })
    }

    /// The host gives the VM what it has.
    pub(super) fn enable(
        &self,
        host: &mut Kernel<Arena<HostPhys>>,
        hw: &mut dyn Hardware<HostPhys>,
        vm: VmId,
    ) -> Result<(), MmError> {
        host.enable_passthrough(hw, CpuId(0), vm, Arc::clone(&self.array), Arc::clone(&self.tags))
    }

    /// For a guest without twins: how its entries are translated.
    pub(super) fn enlightenment(&self, system: &System, vm: VmId) -> Option<Enlightenment> {
        if !system.passthrough.twin_free {
            return None;
        }
        self.array.keep_stale();
        let owner = Owner::vm(vm.0)?;
        Some(Enlightenment { array: Arc::clone(&self.array), tags: Arc::clone(&self.tags), owner })
    }

    /// The guest's tables, those of enlightened processes with twins; `inner`'s, if there are none.
    pub(super) fn tables(
        &self,
        system: &System,
        inner: Box<dyn Tables<GuestMem>>,
    ) -> Box<dyn Tables<GuestMem>> {
        let side = &system.kernel;
        let who = system.passthrough.enlightened.map_or(Enlightened::All, Enlightened::Below);
        let tables = TwinTables::new(inner, Arc::clone(&self.array), Arc::clone(&self.pages), who);
        let tables = tables.fixed(side.tables_on.map(NodeId));
        Box::new(if system.passthrough.twin_free { tables.without_twins() } else { tables })
    }
}

fn places(host: &mut Kernel<Arena<HostPhys>>, layout: &Layout, order: u32) -> Result<TagPlaces, MmError> {
    let block = TagPlaces::piece_frames(order).ilog2() as u8;
    let mut pieces: Vec<Hfn> = Vec::new();
    for piece in 0..layout.end().div_ceil(1 << order) {
        let frames = piece << order..(piece + 1) << order;
        let node = layout.nodes.iter().position(|node| {
            node.frames.iter().any(|range| range.start < frames.end && range.end > frames.start)
        });
        // A hole needs no tags.
        let Some(node) = node else {
            pieces.push(Hfn::default());
            continue;
        };
        let request = AllocRequest::new(NodeId(node as u8), FrameState::Kernel).order(block);
        match host.pool_mut().alloc(request) {
            Ok(frame) => pieces.push(frame),
            Err(e) => {
                pieces.into_iter().filter(|at| *at != Hfn::default()).for_each(|at| {
                    host.pool_mut().free(at, block, None);
                });
                return Err(MmError::OutOfMemory(e));
            }
        }
    }
    Ok(TagPlaces { order, pieces })
}

/// The words of host memory as a walker finds them: the frames of the VM hold what its
/// guest wrote, all others the host's tables.
pub(super) struct GuestBits<'a> {
    tags: &'a FrameTags,
    guest: &'a Arena<GuestPhys>,
    host: &'a Arena<HostPhys>,
}

impl FrameBits for GuestBits<'_> {
    #[inline(always)]
    fn cell(&self, slot: paging::Slot<HostPhys>) -> Option<&AtomicU64> {
        let tag = self.tags.get(slot.table);
        match tag.owner {
            Some(_) => self.guest.cell(paging::Slot::new(tag.gfn, slot.index)),
            None => self.host.cell(slot),
        }
    }
}

/// A walk in pass-through mode, ready to be made.
pub(super) struct Ready<'a> {
    bits: GuestBits<'a>,
    tags: &'a FrameTags,
    entered: Entered,
    frames: u64,
    checks: Checks,
}

impl Ready<'_> {
    pub(super) fn walk(&self) -> PassThrough<'_, GuestBits<'_>> {
        let &Ready { ref bits, tags, entered, frames, checks } = self;
        PassThrough { bits, tags, entered, frames, checks }
    }
}

/// The walk of a CPU that runs this table in pass-through mode; none if the
/// process is not enlightened, or the VM has fallen back to nested paging.
pub(super) fn passing<'a>(
    guest: &'a Guest,
    cpu: CpuId,
    table: &PageTable<Virt, GuestMem>,
    host: &'a Kernel<Arena<HostPhys>>,
    frames: u64,
    system: System,
) -> Option<Ready<'a>> {
    let passed = guest.passed.as_ref()?;
    let twin = root_of(guest, cpu, table, system)?;
    let entered = host.passthrough_registers(guest.vm, twin, table.levels()).ok()?;
    let bits = GuestBits { tags: &passed.tags, guest: guest.kernel.mem().inner(), host: host.mem() };
    let checks =
        Checks { tables: system.passthrough.table_check, overlapped: system.passthrough.overlapped_check };
    Some(Ready { bits, tags: &passed.tags, entered, frames, checks })
}

/// The root that a process's CPU enters the mode with; none if it is not enlightened.
fn root_of(
    guest: &Guest,
    cpu: CpuId,
    table: &PageTable<Virt, GuestMem>,
    system: System,
) -> Option<paging::Gfn> {
    if system.passthrough.twin_free {
        return Some(table.hardware_root(guest.kernel.table_node(cpu)));
    }
    twin_of(guest.kernel.mem(), table.root())
}

impl World {
    /// Whether the guest's kernel leaves the mode by a hypercall.
    fn exits(&self) -> bool {
        let choices = &self.plan.system.passthrough;
        !choices.fast_entry && !choices.twin_free
    }

    /// Before a thread goes on in user mode: its CPU enters the mode, if it is for that.
    pub(super) fn enter(&mut self, thread: Thread) -> Result<(), WorldError> {
        let Some((vm, epoch)) =
            self.guest.as_ref().and_then(|guest| Some((guest.vm, guest.passed.as_ref()?.epoch)))
        else {
            return Ok(());
        };
        let failed = |error| WorldError::Kernel { what: "entering pass-through mode".to_string(), error };
        self.look_at_all(epoch)?;
        let pid = self.process(thread.process)?.pid;
        let Some(guest) = &self.guest else { return Ok(()) };
        let table = guest.kernel.process(pid).map_err(failed)?.space().table();
        let Some(twin) = root_of(guest, thread.cpu, table, self.plan.system) else { return Ok(()) };
        let exits = self.exits();
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        self.host.enter_passthrough(&mut hardware, thread.cpu, vm, twin, exits).map_err(failed)?;
        Ok(())
    }

    /// A CPU goes into the guest's kernel.
    pub(super) fn leave(&mut self, cpu: CpuId) -> Result<(), WorldError> {
        let Some(vm) = self.guest.as_ref().filter(|guest| guest.passed.is_some()).map(|guest| guest.vm)
        else {
            return Ok(());
        };
        let exits = self.exits();
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        self.host
            .leave_passthrough(&mut hardware, cpu, vm, exits)
            .map_err(|error| WorldError::Kernel { what: "leaving pass-through mode".to_string(), error })
    }

    /// When colours came round, the guest looks at all entries of all its tables.
    fn look_at_all(&mut self, seen: u64) -> Result<(), WorldError> {
        let now = |world: &World| Some(world.guest.as_ref()?.passed.as_ref()?.array.epoch());
        let Some(epoch) = now(self).filter(|epoch| *epoch != seen) else { return Ok(()) };
        for index in 0..self.processes.len() {
            let pid = self.processes[index].pid;
            on_kernel!(self, |kernel, hw, _files| match kernel.process(pid) {
                Ok(_) => kernel.settle_tables(hw, CpuId(0), pid),
                Err(_) => Ok(()),
            })
            .map_err(|error| WorldError::Kernel { what: "looking at all entries".to_string(), error })?;
        }
        if let Some(passed) = self.guest.as_mut().and_then(|guest| guest.passed.as_mut()) {
            passed.epoch = epoch;
        }
        Ok(())
    }

    /// A walk reached a frame that is not tagged for the VM: an exit. What follows is the
    /// guest's page fault.
    pub(super) fn tag_fault(&mut self, cpu: CpuId) -> Result<(), WorldError> {
        let Some(vm) = self.guest.as_ref().map(|guest| guest.vm) else { return Ok(()) };
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        self.host
            .tag_fault(&mut hardware, cpu, vm)
            .map_err(|error| WorldError::Kernel { what: "a fault on a frame's tag".to_string(), error })
    }

    /// Live migration, a step a tick: fall back and log stores; then move all memory
    /// to the next node, and return.
    pub(super) fn migrate_live(&mut self) -> Result<(), WorldError> {
        if !self.plan.system.passthrough.live_migration {
            return Ok(());
        }
        let nodes = self.nodes as u64;
        let Some(guest) = &mut self.guest else { return Ok(()) };
        let (Some(passed), vm, cpu) = (&mut guest.passed, guest.vm, CpuId(0)) else { return Ok(()) };
        passed.ticks += 1;
        let round = passed.ticks / 2;
        let mut hardware = HostHardware(shared!(self, &self.host_files.names));
        let (host, hw) = (&mut self.host, &mut hardware);
        let done = if passed.ticks % 2 == 1 {
            host.suspend_passthrough(hw, cpu, vm).and_then(|()| host.start_dirty_log(hw, cpu, vm))
        } else {
            let node = NodeId((round % nodes) as u8);
            host.take_dirty_log(hw, cpu, vm)
                .and_then(|_| host.stop_dirty_log(hw, cpu, vm))
                .and_then(|()| host.migrate_vm(hw, cpu, vm, 0..u64::MAX, node, u64::MAX))
                .and_then(|_| host.resume_passthrough(hw, cpu, vm))
        };
        done.map_err(|error| WorldError::Kernel { what: "live migration".to_string(), error })
    }

    /// An entry as it stands in host memory: in the host's own tables, or in a guest's page that
    /// hardware walks by host frame.
    pub(super) fn entry_in_memory(&self, slot: paging::Slot<HostPhys>) -> paging::Entry {
        let guest = self.guest.as_ref().and_then(|guest| {
            let mem = guest.kernel.mem().inner();
            if let Some(passed) = &guest.passed {
                let tag = passed.tags.get(slot.table);
                return tag.owner.map(|_| mem.load(paging::Slot::new(tag.gfn, slot.index)));
            }
            let switched = self.host.shadow(guest.vm).ok()?.switches()?.get(slot.table)?;
            Some(mem.load(paging::Slot::new(switched, slot.index)))
        });
        guest.unwrap_or_else(|| self.host.mem().load(slot))
    }

    /// Whether tags and array say what the VM's table says; with the first difference if not.
    pub fn check_passthrough(&mut self) -> Option<Result<(), os::passthrough::PassThroughFlaw>> {
        let vm = self.guest.as_ref().filter(|guest| guest.passed.is_some())?.vm;
        Some(self.host.check_passthrough(vm))
    }

    /// Pass-through as it is now.
    pub fn passthrough(&self) -> Option<PassThroughOutcome> {
        let guest = self.guest.as_ref()?;
        let passed = guest.passed.as_ref()?;
        let vm = self.host.passthrough(guest.vm).ok()?;
        let frames = |pool: u64| pool * 4096;
        let host: u64 = self.host.pool().nodes().iter().map(|n| self.host.pool().frames(n)).sum();
        let of_guest: u64 = guest.kernel.pool().nodes().iter().map(|n| guest.kernel.pool().frames(n)).sum();
        let stats = vm.stats();
        Some(PassThroughOutcome {
            array_bytes: frames(vm.array_frames()),
            guest_bytes: frames(of_guest),
            tag_bytes: passed.tags.bytes(),
            host_bytes: frames(host),
            twin_bytes: frames(passed.pages.twins()),
            splinter_bytes: frames(passed.pages.splinters()),
            mapped_bytes: self.mapped(&guest.kernel),
            given: stats.given,
            revoked: stats.revoked,
            tag_faults: stats.tag_faults,
            repairs: passed.pages.repairs(),
            touched: stats.touched,
            entered: stats.entered,
            suspended: stats.suspended,
        })
    }

    fn mapped(&self, kernel: &Kernel<GuestMem>) -> u64 {
        // Leaf tables are full but at their edges; an exact count would walk them all.
        kernel
            .processes()
            .map(|process| process.space().vmas().iter().map(|area| area.len()).sum::<u64>())
            .sum()
    }
}
