//! The hypervisor's side of shadow paging: what the exits of a VM call.

use super::guest::{GuestWalk, Step};
use super::map::{Root, ShadowMmu, Use};
use super::{ShadowOutcome, TrapLog, Trapping};
use crate::error::{MmError, Stop};
use crate::hardware::{Cost, ExitKind, Hardware, Invalidate};
use crate::hypervisor::{Vm, VmId};
use crate::kernel::{Core, Cx, Kernel, NewSpace};
use crate::segment::NoSegment;
use crate::space::{AddressSpace, NotifyCx, Owner};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use mechanisms::agile::{is_switch, switch_entry};
use paging::frames::{CpuId, NodeSet};
use paging::{
    Entry, Flags, Flush, Found, Gfn, Gpa, GuestPhys, Hfn, Intent, MapError, PageSize, Reach, TableAt,
    TableMemory, Va, Virt, Visibility,
};

/// Guest roots whose shadow tables are kept.
const ROOTS: usize = 64;

/// An access of a guest that its shadow table did not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowFault {
    /// The guest's root that is loaded.
    pub root: Gfn,
    /// Its levels.
    pub levels: u8,
    /// The address.
    pub va: Va,
    /// The access.
    pub intent: Intent,
    /// It is a program's, not the guest kernel's.
    pub user: bool,
}

impl<M: TableMemory> Kernel<M> {
    /// The VM's guests run on shadow tables from now on. `log` is what the
    /// guest's kernel writes its stores to, see [`super::TrappedTables`].
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn enable_shadow(&mut self, vm: VmId, log: Arc<TrapLog>) -> Result<(), MmError> {
        let vm = self.vms.get_mut(vm.0).ok_or(MmError::NoVm(vm))?;
        if vm.space.segment.is_some() {
            return Err(MmError::NoSegment(NoSegment::Watched));
        }
        vm.space.notifier = Some(Box::new(ShadowMmu::<M>::new(log)));
        Ok(())
    }

    /// The VM runs without shadow tables again; all of them are freed.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; [`MmError::BadRange`] if it had none.
    pub fn disable_shadow(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        while self.end_oldest(&mut cx, id)? {}
        self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?.space.notifier = None;
        Ok(())
    }

    /// The shadow tables of a VM.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; [`MmError::NoShadow`] if it has none.
    pub fn shadow(&self, id: VmId) -> Result<&ShadowMmu<M>, MmError> {
        let notifier: &dyn Any = self.vm(id)?.space.notifier.as_deref().ok_or(MmError::NoShadow(id))?;
        notifier.downcast_ref().ok_or(MmError::NoShadow(id))
    }

    /// Runs `op` with the VM's shadow tables, which are not told of anything meanwhile.
    pub(super) fn with_shadow<R>(
        &mut self,
        id: VmId,
        op: impl FnOnce(&mut Core<M>, &mut Vm<M>, &mut ShadowMmu<M>) -> R,
    ) -> Result<R, MmError> {
        let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
        let mut notifier = vm.space.notifier.take().ok_or(MmError::NoShadow(id))?;
        let any: &mut dyn Any = &mut *notifier;
        let done = any.downcast_mut().map(|shadow| op(&mut self.core, vm, shadow));
        vm.space.notifier = Some(notifier);
        done.ok_or(MmError::NoShadow(id))
    }

    /// Lets the shadow tables of a VM, if it has some, follow its data. Returns how many table pages moved.
    pub(crate) fn rebalance_shadow(&mut self, cx: &mut Cx<'_, M::Space>, id: VmId) -> u64 {
        let follow = |core: &mut Core<M>, _: &mut Vm<M>, shadow: &mut ShadowMmu<M>| {
            shadow.spaces_mut().map(|space| core.follow_data(space, cx)).sum()
        };
        self.with_shadow(id, follow).unwrap_or(0)
    }

    /// Takes note of the guest's stores to its tables; each was an exit. Everything
    /// here that depends on the guest's tables does it first. Returns the stores.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoShadow`].
    pub fn shadow_sync(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let stores = self.with_shadow(id, |core, vm, shadow| {
            let stores = core.with_notify(&mut cx, |cx| shadow.sync(cx));
            vm.space.stats.exited(ExitKind::TableWrite, stores);
            stores
        })?;
        for _ in 0..stores {
            cx.hw.charge(cpu, Cost::Exit(ExitKind::TableWrite), &Default::default());
        }
        Ok(stores)
    }

    /// The guest loads `root` on `cpu`: its shadow table is loaded instead.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoShadow`]; memory errors.
    pub fn shadow_load(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        root: Gfn,
        levels: u8,
    ) -> Result<(), MmError> {
        self.shadow_sync(&mut *hw, cpu, id)?;
        let mut cx = self.cx(hw, cpu)?;
        self.compare_unsync(&cx, id)?;
        self.vm_exit(&mut cx, id, ExitKind::RootLoad);
        self.ensure_root(&mut cx, id, root, levels)?;
        self.with_shadow(id, |core, _, shadow| {
            if let Some(space) = shadow.use_root(root) {
                core.load(space, &mut cx);
            }
        })
    }

    /// Answers a fault on a shadow table.
    ///
    /// # Errors
    /// [`MmError::Segv`] if the guest's table leads to where no memory slot is; memory errors.
    pub fn shadow_fault<G>(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        guest: &G,
        fault: &ShadowFault,
    ) -> Result<ShadowOutcome, MmError>
    where
        G: TableMemory<Space = GuestPhys>,
    {
        self.shadow_sync(&mut *hw, cpu, id)?;
        let mut cx = self.cx(hw, cpu)?;
        self.vm_exit(&mut cx, id, ExitKind::ShadowFault);
        // Tables know addresses by the bits that index them: without the sign extension of the guest kernel's.
        let fault =
            &ShadowFault { va: Va::new(fault.va.raw() & ((1 << (12 + 9 * fault.levels)) - 1)), ..*fault };
        let &ShadowFault { root, levels, intent, .. } = fault;
        let mut walk = match GuestWalk::new(guest, fault) {
            Ok(walk) => walk,
            Err(fault) => return Ok(ShadowOutcome::Guest(fault)),
        };
        if intent.write && self.shadow(id)?.is_table(walk.frame) {
            return Ok(ShadowOutcome::Emulate(walk.frame));
        }
        self.ensure_root(&mut cx, id, root, levels)?;
        let nested = |step: &Step| shadow_is_nested(self, id, step.slot.table);
        if let Some(step) = walk.steps().find(nested) {
            self.switch_to_guest(&mut cx, id, fault, &walk, step.slot.table, step.level)?;
            self.core.charge(&mut cx, Cost::PageFault(crate::FaultKind::Anonymous));
            return Ok(ShadowOutcome::Mapped(PageSize::Size4K));
        }
        // The walker's accesses to the guest's tables set A there: stores to the VM's memory.
        for step in walk.steps() {
            self.back(&mut cx, id, step.slot.addr(), Intent::WRITE)?;
        }
        let host = self.back(&mut cx, id, walk.frame.base(), intent)?;
        walk.mark(guest, intent.write);
        let mut attempts = 0;
        let size = loop {
            let filled = self
                .with_shadow(id, |core, _, shadow| core.fill_shadow(shadow, &mut cx, fault, &walk, &host))?;
            match filled {
                Ok(size) => break size,
                Err(stop) => self.relieve(&mut cx, stop, &mut attempts)?,
            }
        };
        if size == PageSize::Size4K && walk.size == size {
            self.fill_around(&mut cx, id, guest, fault, &walk)?;
        }
        self.core.charge(&mut cx, Cost::PageFault(crate::FaultKind::Anonymous));
        Ok(ShadowOutcome::Mapped(size))
    }

    /// The guest invalidates translations of the tree at `root`. Its stores before
    /// that have taken effect then.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoShadow`].
    pub fn shadow_invalidate(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        root: Gfn,
        what: Invalidate<'_>,
    ) -> Result<(), MmError> {
        let log = Arc::clone(&self.shadow(id)?.log);
        // Where the guest's own tables are walked, it invalidates by itself; the hypervisor
        // must see what concerns tables that it shadows.
        let own = log.trapping() == Trapping::Agile && log.is_quiet();
        self.shadow_sync(&mut *hw, cpu, id)?;
        let mut cx = self.cx(hw, cpu)?;
        match what {
            Invalidate::All => self.compare_unsync(&cx, id)?,
            // One entry each.
            Invalidate::Ranges(ranges) => {
                let pages = ranges.iter().map(|range| range.len >> 12).sum::<u64>().min(512);
                self.core.work.pass_lines[self.core.node(cpu).index()] += 2 * pages.div_ceil(8) as u32;
            }
        }
        if !own {
            self.vm_exit(&mut cx, id, ExitKind::Invalidate);
        }
        self.with_shadow(id, |core, _, shadow| {
            if let Some(space) = shadow.use_root(root) {
                core.invalidate(space, &mut cx, what, true, NodeSet::ALL, Reach::Space);
            }
        })
    }

    /// Compares the leaf tables that are out of sync with their shadows, as the guest flushes: two pages of lines each,
    /// within the exit of the flush.
    fn compare_unsync(&mut self, cx: &Cx<'_, M::Space>, id: VmId) -> Result<(), MmError> {
        let pages = self.shadow(id)?.log.in_sync();
        self.core.work.pass_lines[self.core.node(cx.cpu).index()] += (pages * 2 * 64) as u32;
        Ok(())
    }

    /// Whether the shadow of `root` switches to a table of the guest's on the way to `va`: a page fault there
    /// is the guest's own, without an exit.
    pub fn shadow_switches(&self, id: VmId, root: Gfn, va: Va) -> bool {
        let Ok(shadow) = self.shadow(id) else { return false };
        let Some(space) = shadow.table(root).filter(|_| shadow.switches().is_some()) else { return false };
        let (mut table, mut level) = (space.table.root(), space.table.levels());
        loop {
            let entry = self.core.mem.load(paging::Slot::new(table, va.index(level)));
            if is_switch(entry, level) {
                return true;
            }
            if !entry.is_table(level) {
                return false;
            }
            (table, level) = (entry.frame(), level - 1);
        }
    }

    /// An interval of agile paging ends: tables that the guest left alone are shadowed again.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoShadow`].
    pub fn end_agile_interval(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        self.shadow_sync(&mut *hw, cpu, id)?;
        let mut cx = self.cx(hw, cpu)?;
        self.with_shadow(id, |core, _, shadow| core.with_notify(&mut cx, |cx| shadow.end_interval(cx)))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// Makes the shadow switch to the guest's `table` for `va`.
    fn switch_to_guest(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        id: VmId,
        fault: &ShadowFault,
        walk: &GuestWalk,
        table: Gfn,
        level: u8,
    ) -> Result<(), MmError> {
        let host = self.back(cx, id, table.base(), Intent::WRITE)?;
        let size = host.size().unwrap_or_default();
        let frame = host.entry.leaf_frame::<M::Space>(size).offset(table.number() & (size.frames() - 1));
        let entry = switch_entry(Hfn::new(frame.number()));
        let at = TableAt::<Virt>::covering(fault.va, level);
        let mut attempts = 0;
        loop {
            let filled = self.with_shadow(id, |core, _, shadow| {
                for step in walk.steps().take_while(|step| step.level > level) {
                    let base = TableAt::<Virt>::covering(fault.va, step.level).base.raw();
                    shadow.uses(step.slot.table, Use { root: fault.root, level: step.level, base });
                }
                shadow.switches_at(table, Use { root: fault.root, level, base: at.base.raw() });
                if let Some(agile) = &mut shadow.agile {
                    agile.switches.insert(Hfn::new(frame.number()), table);
                }
                let Some(space) = shadow.use_root(fault.root) else { return Ok(()) };
                let slot = loop {
                    match core.ensure(space, cx, at.base, level + 1, Visibility::Private) {
                        Ok(slot) if core.mem.load(slot).is_table(level + 1) => {
                            core.clear_shadow(space, cx, at.range())?;
                        }
                        Ok(slot) => break slot,
                        Err(e) => return Err(Stop::from(e)),
                    }
                };
                core.env(cx.cpu, |env| space.table.ops().take(env, slot, level + 1));
                core.env(cx.cpu, |env| space.table.ops().write(env, slot, level + 1, entry));
                shadow.remember(fault.root, table.number(), at.base.page());
                Ok(())
            })?;
            match filled {
                Ok(()) => return Ok(()),
                Err(stop) => self.relieve(cx, stop, &mut attempts)?,
            }
        }
    }

    fn vm_exit(&mut self, cx: &mut Cx<'_, M::Space>, id: VmId, kind: ExitKind) {
        if let Some(vm) = self.vms.get_mut(id.0) {
            vm.space.stats.exited(kind, 1);
        }
        self.core.charge(cx, Cost::Exit(kind));
    }

    /// Where a guest-physical address is, mapped as `intent` needs it: the entry of the VM's own table.
    fn back(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        id: VmId,
        gpa: Gpa,
        intent: Intent,
    ) -> Result<Found<M::Space>, MmError> {
        self.on_vm(cx, id, |core, vm, cx| {
            loop {
                let found = core.lookup(&vm.space, cx.cpu, gpa);
                let writable = !intent.write || found.entry.has(Flags::WRITABLE);
                if found.entry.is_leaf(found.level) && writable {
                    // The hypervisor's own accesses, and the guest's through the shadow table, are
                    // what A and D of the VM's table would say.
                    let used = if intent.write { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED };
                    if !found.entry.has(used) {
                        let space = &mut vm.space;
                        let set = core.env(cx.cpu, |env| {
                            space.table.set_flags(env, gpa, used, Flags::NONE, Visibility::Private)
                        });
                        core.pay_owed(space, cx);
                        set?;
                    }
                    return Ok(found);
                }
                core.fault(&mut vm.space, cx, gpa, intent)?;
            }
        })
    }

    /// Makes a shadow table for a guest root that has none.
    fn ensure_root(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        id: VmId,
        guest: Gfn,
        levels: u8,
    ) -> Result<(), MmError> {
        if self.shadow(id)?.table(guest).is_some() {
            return Ok(());
        }
        if self.shadow(id)?.roots() >= ROOTS {
            self.end_oldest(cx, id)?;
        }
        let vm = self.vm(id)?;
        let (group, policy) = (vm.space.group, vm.space.policy);
        let begin = NewSpace { owner: Owner::Shadow(id), group, policy, thp: None, parent: None, levels };
        let mut attempts = 0;
        let space = loop {
            match self.core.new_space(cx.cpu, &begin, |tables, info| tables.shadow(info)) {
                Ok(space) => break space,
                Err(stop) => self.relieve(cx, stop, &mut attempts)?,
            }
        };
        self.with_shadow(id, |_, _, shadow| shadow.add_root(Root { guest, space, used: 0 }))
    }

    /// Frees the shadow table that was not loaded for the longest time; whether there was one.
    fn end_oldest(&mut self, cx: &mut Cx<'_, M::Space>, id: VmId) -> Result<bool, MmError> {
        self.with_shadow(id, |core, _, shadow| {
            let Some(mut root) = shadow.take_oldest() else { return Ok(false) };
            core.unload(&mut root.space, cx);
            core.env(cx.cpu, |env| {
                let mut flush = Flush::none();
                let done = root.space.table.unmap_range(env, 0..root.space.table.end(), &mut flush);
                debug_assert!(done.is_ok(), "shadow tables are nobody else's: {done:?}");
                let released = flush.discharge(|_, _| {});
                root.space.table.free_tables(env, &released);
            });
            core.end_space(root.space, cx)?;
            Ok(true)
        })?
    }
}

/// The leaf of a shadow table that guest and host agree on.
pub(super) struct Leaf {
    pub entry: Entry,
    pub size: PageSize,
    /// The first frame that it maps, as the guest knows it.
    pub gfn: Gfn,
}

impl Leaf {
    pub fn of<M: TableMemory>(shadow: &ShadowMmu<M>, walk: &GuestWalk, host: &Found<M::Space>) -> Leaf {
        let host_size = host.size().unwrap_or_default();
        let size = walk.size.min(host_size);
        // The leaf's first frames in both spaces.
        let gfn = Gfn::new(walk.frame.number() & !(size.frames() - 1));
        let within = gfn.number() & (host_size.frames() - 1);
        let frame = host.entry.leaf_frame::<M::Space>(host_size).offset(within);
        // Stores are let through when the guest's D is set, so that the first is seen; never
        // to a page that is one of its tables.
        let tables = shadow.has_table(gfn, size.frames());
        let write = walk.rights.write() && walk.dirty && host.entry.has(Flags::WRITABLE) && !tables;
        let mut flags = Flags::PRESENT | Flags::ACCESSED;
        for (allowed, flag) in [(walk.rights.user(), Flags::USER), (write, Flags::WRITABLE | Flags::DIRTY)] {
            flags = if allowed { flags | flag } else { flags };
        }
        if !walk.rights.execute() {
            flags = flags | Flags::NO_EXECUTE;
        }
        // A table page inside a block: mapped by small pages, so that the others stay writable.
        let (size, frame, gfn) = match tables {
            true => {
                let at = walk.frame.number() - gfn.number();
                (PageSize::Size4K, frame.offset(at), walk.frame)
            }
            false => (size, frame, gfn),
        };
        Leaf { entry: Entry::leaf(frame, size, flags), size, gfn }
    }
}

fn shadow_is_nested<M: TableMemory>(kernel: &Kernel<M>, id: VmId, table: Gfn) -> bool {
    kernel.shadow(id).is_ok_and(|shadow| shadow.is_nested(table))
}

impl<M: TableMemory> Core<M> {
    fn with_notify<R>(&mut self, cx: &mut Cx<'_, M::Space>, op: impl FnOnce(&mut NotifyCx<'_, M>) -> R) -> R {
        let (hw, cpu) = (&mut *cx.hw, cx.cpu);
        self.env(cpu, |env| op(&mut NotifyCx { env: env.reborrow(), hw, cpu }))
    }

    /// Writes the leaf that guest and host agree on. Returns its size.
    fn fill_shadow(
        &mut self,
        shadow: &mut ShadowMmu<M>,
        cx: &mut Cx<'_, M::Space>,
        fault: &ShadowFault,
        walk: &GuestWalk,
        host: &Found<M::Space>,
    ) -> Result<PageSize, Stop> {
        let &ShadowFault { root, va, intent, .. } = fault;
        for step in walk.steps() {
            let base = TableAt::<Virt>::covering(va, step.level).base.raw();
            if shadow.uses(step.slot.table, Use { root, level: step.level, base }) {
                self.with_notify(cx, |cx| shadow.write_protect(cx, step.slot.table));
            }
        }
        let Leaf { entry, size, gfn } = Leaf::of(shadow, walk, host);
        debug_assert!(
            !intent.write || entry.has(Flags::WRITABLE) || shadow.is_table(walk.frame),
            "the fault is answered: {fault:?}"
        );
        let Some(space) = shadow.use_root(root) else { return Ok(size) };
        let addr = va.align_down(size);
        let slot = loop {
            match self.ensure(space, cx, addr, size.level(), Visibility::Private) {
                Ok(slot) if self.mem.load(slot).is_table(size.level()) => {
                    self.clear_shadow(space, cx, addr.raw()..addr.raw() + size.bytes())?;
                }
                Ok(slot) => break slot,
                Err(MapError::HugeInTheWay(huge)) => {
                    let base = addr.align_down(huge).raw();
                    self.clear_shadow(space, cx, base..base + huge.bytes())?;
                }
                Err(e) => return Err(e.into()),
            }
        };
        let old = self.env(cx.cpu, |env| space.table.ops().take(env, slot, size.level()));
        self.env(cx.cpu, |env| space.table.ops().write(env, slot, size.level(), entry));
        if old.is_present() {
            let mut flush = Flush::none();
            flush.add(addr, size.bytes());
            let _nothing_gone = self.shoot(space, cx, flush);
        }
        shadow.remember(root, gfn.number(), addr.page());
        Ok(size)
    }

    fn clear_shadow(
        &mut self,
        space: &mut AddressSpace<Virt, M>,
        cx: &mut Cx<'_, M::Space>,
        range: core::ops::Range<u64>,
    ) -> Result<(), Stop> {
        let mut flush = Flush::none();
        let done = self.env(cx.cpu, |env| space.table.unmap_range(env, range, &mut flush));
        // Shadow leaves hold no references: what is gone needs no putting.
        let mut released = self.shoot(space, cx, flush);
        released.gone.clear();
        self.release(space, cx.cpu, &released);
        Ok(done?)
    }
}
