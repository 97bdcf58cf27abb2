//! `MAP_POPULATE`: faults in a range at once, leaf table by leaf table. What it
//! leaves behind is what single faults in the order of the addresses would.

use crate::calls::checked;
use crate::error::{MmError, Stop};
use crate::fault::{FaultOutcome, leaf_flags};
use crate::hardware::{Cost, Hardware};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use crate::stats::FaultKind;
use crate::vma::Vma;
use paging::frames::{CpuId, FrameState};
use paging::{Addr, Entry, Flags, Gpa, Intent, PageSize, Slot, Space, TableMemory, Va, Visibility};

/// How far a populate came, over reclaims.
struct Progress {
    next: u64,
    faults: u64,
}

impl<M: TableMemory> Kernel<M> {
    /// Faults in all pages of `len` bytes from `va` on, for `intent`, as if a
    /// thread on `cpu` touched them in order. Returns the faults that this took.
    ///
    /// # Errors
    /// As [`fault`](Self::fault); what was populated before stays.
    pub fn populate(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        len: u64,
        intent: Intent,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let range = checked(va.raw(), len, self.process(pid)?.space.table.end())?;
        let mut progress = Progress { next: range.start, faults: 0 };
        while progress.next < range.end {
            let end = range.end;
            let faults = self.on_process(&mut cx, pid, |core, process, cx| {
                core.populate_step(&mut process.space, cx, end, intent, &mut progress)
            })?;
            self.balance_after(&mut cx, faults);
        }
        self.core.charge(&mut cx, Cost::Populate { pages: (range.end - range.start) >> 12 });
        Ok(progress.faults)
    }

    /// As [`populate`](Self::populate), for guest-physical memory of a VM: a pre-faulted guest.
    ///
    /// # Errors
    /// As [`vm_fault`](Self::vm_fault); what was populated before stays.
    pub fn populate_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        gpa: Gpa,
        len: u64,
        intent: Intent,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let range = checked(gpa.raw(), len, self.vm(vm)?.space.table.end())?;
        let mut progress = Progress { next: range.start, faults: 0 };
        while progress.next < range.end {
            let end = range.end;
            let faults = self.on_vm(&mut cx, vm, |core, vm, cx| {
                core.populate_step(&mut vm.space, cx, end, intent, &mut progress)
            })?;
            self.balance_after(&mut cx, faults);
        }
        self.core.charge(&mut cx, Cost::Populate { pages: (range.end - range.start) >> 12 });
        Ok(progress.faults)
    }

    /// The watermarks are looked at after the same faults as without populate.
    fn balance_after(&mut self, cx: &mut Cx<'_, M::Space>, faults: u64) {
        for _ in 0..faults {
            self.balance_memory(cx);
        }
    }
}

impl<M: TableMemory> Core<M> {
    /// Faults in some pages from `progress.next` on: at most one leaf table's,
    /// and no more than until the watermarks are due. Returns how many faults it took.
    fn populate_step<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        end: u64,
        intent: Intent,
        progress: &mut Progress,
    ) -> Result<u64, Stop> {
        let addr = Addr::new(progress.next);
        let vma = Self::area(space, addr, intent)?;
        if space.in_place(addr).is_some() {
            // Nor here: a segment has it.
            progress.next = space.after_in_place(addr);
            return Ok(0);
        }
        let found = self.lookup(space, cx.cpu, addr);
        let size = found.size().unwrap_or_default();
        let present = found.entry.is_leaf(found.level);
        if present && (!intent.write || found.entry.has(Flags::WRITABLE)) {
            // A thread would not fault here.
            progress.next = addr.align_down(size).offset(size.bytes()).raw();
            return Ok(0);
        }
        let huge = vma.page > PageSize::Size4K || (found.level > 1 && space.wants_huge(&vma, addr.raw()));
        if !found.entry.is_empty() || huge || !vma.is_anonymous() {
            let outcome = self.fault(space, cx, addr, intent)?;
            progress.next = addr.align_down(outcome.size).offset(outcome.size.bytes()).raw();
            progress.faults += 1;
            return Ok(1);
        }
        let block = addr.align_down(PageSize::Size2M).offset(PageSize::Size2M.bytes()).raw();
        let budget = u64::from(self.until_check) + 1;
        let last = end.min(vma.end).min(block).min(addr.raw() + (budget << 12));
        let before = progress.faults;
        let filled = self.fill_table(space, cx, &vma, last, intent, progress);
        self.settle(space, cx);
        let faults = progress.faults - before;
        match filled {
            // Those before the one that failed are done.
            Err(stop) if faults == 0 => Err(stop),
            _ => Ok(faults),
        }
    }

    /// Fills empty entries of one leaf table, up to the first that is not.
    fn fill_table<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        last: u64,
        intent: Intent,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let size = PageSize::Size4K;
        let first = Addr::<I>::new(progress.next);
        let table = self.ensure(space, cx, first, 1, Visibility::Private)?.table;
        while progress.next < last {
            let addr = Addr::<I>::new(progress.next);
            let slot = Slot::new(table, addr.index(1));
            if !self.mem.load(slot).is_empty() {
                return Ok(());
            }
            let (kind, entry) = if !intent.write && self.config.zero_page {
                (FaultKind::ZeroPage, Entry::leaf(self.zero, size, leaf_flags(vma.prot) | Flags::COW))
            } else {
                let frame = self.data_frame(space, cx, vma, addr, size, FrameState::Anon)?;
                self.zero(cx, frame, size);
                let flags = space.page_flags(vma, addr.raw(), size, intent.write);
                (FaultKind::Anonymous, Entry::leaf(frame, size, flags))
            };
            self.env(cx.cpu, |env| space.table.ops().write(env, slot, 1, entry));
            self.notify_mapped(space, cx, addr, entry, size);
            FaultOutcome::small(kind).count(&mut space.stats);
            progress.next += size.bytes();
            progress.faults += 1;
        }
        Ok(())
    }
}
