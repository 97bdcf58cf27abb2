//! The page fault, from the area to the entry. The same for a process's
//! address and for a VM's.
//!
//! Order, as in Linux's `handle_mm_fault`: area and permission; then what the
//! entry says: present (somebody was faster, a replica must be filled, or a
//! store must be noticed or needs its own copy), hinting, swapped, empty.

use crate::error::{MmError, Segv, Stop};
use crate::hardware::{Cost, ExitKind, Hardware};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use crate::stats::{FaultKind, Stats};
use crate::vma::{Backing, Prot, Vma};
use alloc::boxed::Box;
use paging::frames::{CpuId, FrameState};
use paging::{
    Addr, Entry, Flags, Found, Frame, Gpa, Intent, MapError, PageSize, Space, TableMemory, Va, Visibility,
};

/// How a fault was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultOutcome {
    /// How.
    pub kind: FaultKind,
    /// The size of the page that is mapped now.
    pub size: PageSize,
}

impl FaultOutcome {
    pub(crate) const fn new(kind: FaultKind, size: PageSize) -> Self {
        FaultOutcome { kind, size }
    }
    pub(crate) const fn small(kind: FaultKind) -> Self {
        Self::new(kind, PageSize::Size4K)
    }
    /// Puts it on the account.
    pub(crate) fn count(&self, stats: &mut Stats) {
        if self.kind.is_major() {
            stats.major_faults += 1;
        } else {
            stats.minor_faults += 1;
        }
        match self.kind {
            FaultKind::Spurious => stats.spurious_faults += 1,
            FaultKind::Replica => stats.replica_faults += 1,
            FaultKind::ZeroPage => stats.zero_page_faults += 1,
            FaultKind::CowCopy | FaultKind::FileCopy => stats.cow_copies += 1,
            FaultKind::CowReuse => stats.cow_reuses += 1,
            FaultKind::WriteNotify => stats.write_notifies += 1,
            FaultKind::Segment => stats.segment_faults += 1,
            FaultKind::NumaHint | FaultKind::NumaMigrate => stats.numa_hints += 1,
            FaultKind::Anonymous if self.size > PageSize::Size4K => stats.huge_faults += 1,
            _ => {}
        }
    }
}

impl<M: TableMemory> Kernel<M> {
    /// A fault of process `pid` on `cpu`.
    ///
    /// # Errors
    /// [`MmError::Segv`] and [`MmError::Bus`] for the process; memory errors.
    pub fn fault(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        va: Va,
        intent: Intent,
    ) -> Result<FaultOutcome, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let outcome = self
            .on_process(&mut cx, pid, |core, process, cx| core.fault(&mut process.space, cx, va, intent))?;
        self.core.charge(&mut cx, Cost::PageFault(outcome.kind));
        self.balance_memory(&mut cx);
        Ok(outcome)
    }

    /// A VM's access to `gpa` that its table did not allow: an EPT violation.
    ///
    /// # Errors
    /// [`MmError::Segv`] if no memory slot holds the address (device memory); memory errors.
    pub fn vm_fault(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        gpa: Gpa,
        intent: Intent,
    ) -> Result<FaultOutcome, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let outcome = self.on_vm(&mut cx, vm, |core, vm, cx| core.fault(&mut vm.space, cx, gpa, intent))?;
        if let Some(vm) = self.vms.get_mut(vm.0) {
            vm.space.stats.exited(ExitKind::Nested, 1);
        }
        cx.hw.charge(cpu, Cost::Exit(ExitKind::Nested), &Default::default());
        self.core.charge(&mut cx, Cost::PageFault(outcome.kind));
        self.balance_memory(&mut cx);
        Ok(outcome)
    }
}

/// The flags of a leaf in `vma`, without W.
pub(crate) fn leaf_flags(prot: Prot) -> Flags {
    // Linux installs leaves with A set (its x86 page protections contain it).
    let base = Flags::PRESENT | Flags::USER | Flags::ACCESSED;
    if prot.exec { base } else { base | Flags::NO_EXECUTE }
}

/// Whether the area allows the access. On x86 every right implies loads.
fn allows(prot: Prot, intent: Intent) -> bool {
    prot.any() && (!intent.write || prot.write) && (!intent.fetch || prot.exec)
}

impl<M: TableMemory> Core<M> {
    /// Charges for what was done since the last charge.
    pub(crate) fn charge(&mut self, cx: &mut Cx<'_, M::Space>, cost: Cost) {
        let work = core::mem::take(&mut self.work);
        cx.hw.charge(cx.cpu, cost, &work);
    }

    /// Zeroes fresh frames.
    pub(crate) fn zero(&mut self, cx: &mut Cx<'_, M::Space>, frame: Frame<M::Space>, size: PageSize) {
        self.work.zeroed[self.pool.node_of(frame).index()] += size.frames() as u32;
        cx.hw.zero(cx.cpu, frame, size.order());
    }

    /// Copies frames.
    pub(crate) fn copy(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        from: Frame<M::Space>,
        to: Frame<M::Space>,
        size: PageSize,
    ) {
        self.work.copied[self.pool.node_of(to).index()] += size.frames() as u32;
        cx.hw.copy(cx.cpu, from, to, size.order());
    }

    pub(crate) fn lookup<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cpu: CpuId,
        addr: Addr<I>,
    ) -> Found<M::Space> {
        self.env(cpu, |env| space.table.lookup(env, addr))
    }

    /// The area for an access, or why it is none.
    pub(crate) fn area<I: Space>(
        space: &mut AddressSpace<I, M>,
        addr: Addr<I>,
        intent: Intent,
    ) -> Result<Vma, MmError> {
        let area = space.vmas.find(addr.raw());
        match area {
            Some(area) if allows(area.prot, intent) => Ok(area),
            _ => {
                let (below, above) = match area {
                    Some(_) => (None, None),
                    None => space.vmas.neighbours(addr.raw()),
                };
                let segv = Segv { space: I::NAME, addr: addr.raw(), intent, area, below, above };
                Err(MmError::Segv(Box::new(segv)))
            }
        }
    }

    /// Answers one fault, and counts it.
    pub(crate) fn fault<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        intent: Intent,
    ) -> Result<FaultOutcome, Stop> {
        let vma = Self::area(space, addr, intent)?;
        loop {
            let found = self.lookup(space, cx.cpu, addr);
            let entry = found.entry;
            let outcome = if entry.is_leaf(found.level) {
                self.present(space, cx, &vma, addr, intent, &found)?
            } else if entry.is_prot_none() {
                Some(self.hint(space, cx, &vma, addr, &found)?)
            } else if let Some(slot) = entry.swap_slot() {
                self.swap_in(space, cx, &vma, addr, intent, slot)?
            } else if entry.is_empty() && space.in_place(addr).is_some() {
                Some(self.false_positive(space, cx, &vma, addr, intent.write)?)
            } else if entry.is_empty() {
                self.demand(space, cx, &vma, addr, intent, found.level)?
            } else {
                return Err(MapError::Occupied(entry).into());
            };
            if let Some(outcome) = outcome {
                outcome.count(&mut space.stats);
                self.settle(space, cx);
                return Ok(outcome);
            }
        }
    }

    /// The entry is a present leaf.
    fn present<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        intent: Intent,
        found: &Found<M::Space>,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let size = found.size().unwrap_or_default();
        if intent.write && !found.entry.has(Flags::WRITABLE) {
            return if found.entry.has(Flags::COW) {
                self.cow(space, cx, vma, addr, found)
            } else {
                self.write_notify(space, cx, vma, addr, found)
            };
        }
        let node = self.table_node(cx.cpu);
        let repaired = self.env(cx.cpu, |env| space.table.fault_in(env, addr, node))?;
        let kind = if repaired { FaultKind::Replica } else { FaultKind::Spurious };
        Ok(Some(FaultOutcome::new(kind, size)))
    }

    /// The entry is empty. `None`: it was filled by who shares the table.
    fn demand<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        intent: Intent,
        level: u8,
    ) -> Result<Option<FaultOutcome>, Stop> {
        if let Backing::File { .. } = vma.backing {
            return self.file_fault(space, cx, vma, addr, intent);
        }
        if vma.page > PageSize::Size4K {
            return self.anonymous(space, cx, vma, addr, vma.page, intent.write);
        }
        if level >= PageSize::Size2M.level() && space.wants_huge(vma, addr.raw()) {
            match self.anonymous(space, cx, vma, addr, PageSize::Size2M, intent.write) {
                Err(Stop::NoFrame(_) | Stop::Limit(_)) => space.stats.huge_fallbacks += 1,
                answered => return answered,
            }
        }
        if !intent.write && self.config.zero_page {
            let flags = leaf_flags(vma.prot) | Flags::COW;
            let entry = Entry::leaf(self.zero, PageSize::Size4K, flags);
            return Ok(self
                .install(space, cx, addr, PageSize::Size4K, entry, Visibility::Private)?
                .then_some(FaultOutcome::small(FaultKind::ZeroPage)));
        }
        self.anonymous(space, cx, vma, addr, PageSize::Size4K, intent.write)
    }

    /// Gives a fresh page of zeroes.
    fn anonymous<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        size: PageSize,
        write: bool,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let slot = self.ensure(space, cx, addr, size.level(), Visibility::Private)?;
        if !self.mem.load(slot).is_empty() {
            return Ok(None);
        }
        let frame = if vma.page > PageSize::Size4K {
            self.reserved_frame(space, cx, vma, addr)?
        } else {
            self.data_frame(space, cx, vma, addr, size, FrameState::Anon)?
        };
        self.zero(cx, frame, size);
        let entry = Entry::leaf(frame, size, space.page_flags(vma, addr.raw(), size, write));
        self.env(cx.cpu, |env| space.table.ops().write(env, slot, size.level(), entry));
        self.notify_mapped(space, cx, addr, entry, size);
        Ok(Some(FaultOutcome::new(FaultKind::Anonymous, size)))
    }

    /// Writes the leaf `entry` where nothing is yet; whether nothing was.
    pub(crate) fn install<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        size: PageSize,
        entry: Entry,
        visibility: Visibility,
    ) -> Result<bool, Stop> {
        let level = size.level();
        let slot = self.ensure(space, cx, addr, level, visibility)?;
        if !self.mem.load(slot).is_empty() {
            return Ok(false);
        }
        self.env(cx.cpu, |env| space.table.ops().write(env, slot, level, entry));
        self.notify_mapped(space, cx, addr, entry, size);
        Ok(true)
    }

    /// A store to a page that others may see: its own copy, unless it is the
    /// last owner. `None`: look again (a huge page was split).
    fn cow<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        found: &Found<M::Space>,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let size = found.size().unwrap_or_default();
        // A table that is shared becomes this space's own first: until then
        // its frames have one reference for all sharers.
        let slot = self.ensure(space, cx, addr, size.level(), Visibility::Private)?;
        let entry = self.mem.load(slot);
        let old: Frame<M::Space> = entry.leaf_frame(size);
        if self.is_exclusive(old) {
            self.swap.forget_frame(old);
            let set = space.page_flags(vma, addr.raw(), size, true);
            let old =
                self.env(cx.cpu, |env| space.table.ops().modify(env, slot, size.level(), set, Flags::COW));
            self.notify_mapped(space, cx, addr, old.with(set).without(Flags::COW), size);
            return Ok(Some(FaultOutcome::new(FaultKind::CowReuse, size)));
        }
        if size > vma.page {
            // A transparent huge page is not copied whole (Linux since 5.8).
            self.split_huge(space, cx, addr)?;
            return Ok(None);
        }
        let new = match vma.page {
            PageSize::Size4K => self.data_frame(space, cx, vma, addr, size, FrameState::Anon)?,
            _ => self.reserved_frame(space, cx, vma, addr)?,
        };
        if old == self.zero {
            self.zero(cx, new, size);
        } else {
            self.copy(cx, old, new, size);
        }
        let entry = Entry::leaf(new, size, space.page_flags(vma, addr.raw(), size, true));
        self.replace(space, cx, addr, size, entry)?;
        Ok(Some(FaultOutcome::new(FaultKind::CowCopy, size)))
    }

    /// Replaces the leaf at `addr`; what was there is released after the
    /// shootdown. If that fails the new entry's frame is put.
    pub(crate) fn replace<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
        size: PageSize,
        entry: Entry,
    ) -> Result<(), Stop> {
        let node = space.table_node(self.table_node(cx.cpu), addr.raw());
        let replaced =
            self.env(cx.cpu, |env| space.table.replace(env, addr, size, entry, node, Visibility::Private));
        match replaced {
            Ok(flush) => {
                self.discharge(space, cx, flush);
                self.notify_mapped(space, cx, addr, entry, size);
                Ok(())
            }
            Err(e) => {
                self.put(space.group, entry.leaf_frame(size), cx.cpu);
                Err(e.into())
            }
        }
    }

    /// The first store to a page that was write-protected to notice it. `None`:
    /// look again (a huge page was split).
    fn write_notify<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        addr: Addr<I>,
        found: &Found<M::Space>,
    ) -> Result<Option<FaultOutcome>, Stop> {
        let size = found.size().unwrap_or_default();
        if space.log.is_some() && size > PageSize::Size4K {
            // Logged by the page that is stored to, as KVM does.
            self.split_huge(space, cx, addr)?;
            return Ok(None);
        }
        if let Some((file, page)) = vma.file_page(addr.raw()) {
            self.files.set_dirty(file, page);
        }
        let visibility = if vma.shared { Visibility::Shared } else { Visibility::Private };
        let set = space.page_flags(vma, addr.raw(), size, true);
        let old = self.env(cx.cpu, |env| space.table.set_flags(env, addr, set, Flags::NONE, visibility));
        self.pay_owed(space, cx);
        if let Some(old) = old? {
            self.notify_mapped(space, cx, addr, old.with(set), size);
        }
        Ok(Some(FaultOutcome::new(FaultKind::WriteNotify, size)))
    }
}

impl<I: Space, M: TableMemory> AddressSpace<I, M> {
    /// The flags of a page that this space alone maps (or that stores may reach
    /// from now on), mapped for a load or a `write`. While stores are logged, a load's page
    /// is write-protected.
    pub(crate) fn page_flags(&mut self, vma: &Vma, addr: u64, size: PageSize, write: bool) -> Flags {
        let mut flags = leaf_flags(vma.prot);
        if write {
            flags = flags | Flags::DIRTY;
        }
        let logged = match &mut self.log {
            Some(log) if write => {
                log.set(addr >> size.shift() << (size.shift() - 12), size.frames());
                true
            }
            Some(_) => false,
            None => true,
        };
        if vma.prot.write && logged { flags | Flags::WRITABLE } else { flags }
    }
}
