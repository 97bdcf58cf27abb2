//! What a VM's exits call, and its administrator.

use super::host::{PassThrough, PassThroughStats};
use crate::error::MmError;
use crate::hardware::{Cost, ExitKind, Hardware, Invalidate};
use crate::hypervisor::{Vm, VmId};
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::NotifyCx;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use mechanisms::passthrough::{Entered, FrameTags, HostArray, Owner};
use paging::frames::{AllocRequest, CpuId, FrameState, NodeSet};
use paging::{Flags, Frame, Gfn, Hfn, Intent, Reach, TableMemory};

const NOT_ENABLED: &str = "it was not enabled";

impl<M: TableMemory> Kernel<M> {
    /// The VM's guest may map host frames itself from now on: `array` tells it
    /// which it has, `tags` are the machine's. The array's memory is set aside, and what
    /// the VM has already is given to it.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; [`MmError::NoPassThrough`] if others derive translations from the VM's table, or
    /// it is behind a segment; [`MmError::OutOfMemory`] without frames for the array.
    pub fn enable_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        array: Arc<HostArray>,
        tags: Arc<FrameTags>,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let refused = |why| MmError::NoPassThrough { vm: id, why };
        let owner = Owner::vm(id.0).ok_or(refused("frame tags tell 65535 VMs apart"))?;
        let vm = self.vm(id)?;
        if vm.space.notifier.is_some() {
            return Err(refused("its table has another follower (shadow tables)"));
        }
        if vm.space.segment.is_some() {
            return Err(refused("its memory is behind a segment, not in entries that can be followed"));
        }
        let (policy, local) = (vm.space.policy, self.core.node(cpu));
        let mut array_frames: Vec<Frame<M::Space>> = Vec::new();
        for page in 0..array.bytes() / 4096 {
            // Near the memory that it tells of, as far as the VM's policy says where that is.
            let request = AllocRequest::new(policy.node(local, page), FrameState::Kernel);
            match self.core.pool.alloc(request) {
                Ok(frame) => array_frames.push(frame),
                Err(e) => {
                    array_frames.into_iter().for_each(|frame| self.core.pool.free(frame, 0, None));
                    return Err(MmError::OutOfMemory(e));
                }
            }
        }
        let passed = PassThrough {
            owner,
            array,
            tags,
            array_frames,
            entered: BTreeMap::new(),
            suspended: false,
            stats: PassThroughStats::default(),
        };
        let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
        vm.space.notifier = Some(Box::new(passed));
        self.core.notify_now(&mut vm.space, &mut cx, 0..u64::MAX);
        self.core.charge(&mut cx, Cost::Exit(ExitKind::Hypercall));
        Ok(())
    }

    /// The guest maps host frames no more: all tags of the VM are cleared, the array's memory comes back.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`].
    pub fn disable_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        self.suspend_passthrough(&mut *hw, cpu, id)?;
        let frames = self.with_passthrough(id, |_, _, passed| core::mem::take(&mut passed.array_frames))?;
        frames.into_iter().for_each(|frame| self.core.pool.free(frame, 0, None));
        self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?.space.notifier = None;
        Ok(())
    }

    /// A VM's tags and array.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; [`MmError::NoPassThrough`] if it was not enabled.
    pub fn passthrough(&self, id: VmId) -> Result<&PassThrough<M::Space>, MmError> {
        let none = MmError::NoPassThrough { vm: id, why: NOT_ENABLED };
        let notifier: &dyn Any = self.vm(id)?.space.notifier.as_deref().ok_or(none.clone())?;
        notifier.downcast_ref().ok_or(none)
    }

    fn with_passthrough<R>(
        &mut self,
        id: VmId,
        op: impl FnOnce(&mut Core<M>, &mut Vm<M>, &mut PassThrough<M::Space>) -> R,
    ) -> Result<R, MmError> {
        let none = MmError::NoPassThrough { vm: id, why: NOT_ENABLED };
        let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
        let mut notifier = vm.space.notifier.take().ok_or(none.clone())?;
        let any: &mut dyn Any = &mut *notifier;
        let done = any.downcast_mut().map(|passed| op(&mut self.core, vm, passed));
        vm.space.notifier = Some(notifier);
        done.ok_or(none)
    }

    /// The guest touched `gfn`, which has no slot: it is backed with a frame that is
    /// the VM's alone, and given to it.
    ///
    /// # Errors
    /// [`MmError::Segv`] if no memory slot of the VM holds it; memory errors.
    pub fn expose_to_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        gfn: Gfn,
    ) -> Result<(), MmError> {
        let passed = self.passthrough(id)?;
        if passed.suspended || passed.array.get(gfn).is_some() {
            return Ok(());
        }
        self.with_passthrough(id, |_, _, passed| passed.stats.touched += 1)?;
        // A fault may answer a NUMA hint first, and the store only when it is tried again.
        for _ in 0..3 {
            self.vm_fault(&mut *hw, cpu, id, gfn.base(), Intent::WRITE)?;
            if self.passthrough(id)?.array.get(gfn).is_some() {
                break;
            }
            // Mapped for stores already: another CPU was faster.
            let mut cx = self.cx(hw, cpu)?;
            let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
            let page = gfn.base().raw();
            self.core.notify_now(&mut vm.space, &mut cx, page..page + 4096);
        }
        Ok(())
    }

    /// A walk of the VM reached a frame that is not tagged for it: an exit. The
    /// guest gets a page fault for its address.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`].
    pub fn tag_fault(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        self.with_passthrough(id, |_, vm, passed| {
            passed.stats.tag_faults += 1;
            vm.space.stats.exited(ExitKind::FrameTag, 1);
        })?;
        hw.charge(cpu, Cost::Exit(ExitKind::FrameTag), &Default::default());
        Ok(())
    }

    /// What `cpu`'s registers hold for a guest whose root's twin is the guest frame `root`.
    ///
    /// # Errors
    /// [`MmError::NoPassThrough`], also while the VM has fallen back to nested paging.
    pub fn passthrough_registers(&self, id: VmId, root: Gfn, levels: u8) -> Result<Entered, MmError> {
        let passed = self.passthrough(id)?;
        if passed.suspended {
            return Err(MmError::NoPassThrough { vm: id, why: "it has fallen back to nested paging" });
        }
        let root = passed.array.get(root).map(|given| (given.frame(), given.colour()));
        Ok(Entered { root, levels, owner: passed.owner })
    }

    /// The guest's hypercall to enter the mode on `cpu` with a root; whether it did (not
    /// while the VM has fallen back to nested paging). `exits`: the call costs one.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`]; [`MmError::Segv`] for a root outside of the VM's memory.
    pub fn enter_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        root: Gfn,
        exits: bool,
    ) -> Result<bool, MmError> {
        self.expose_to_vm(&mut *hw, cpu, id, root)?;
        let entered = self.with_passthrough(id, |_, vm, passed| {
            if passed.suspended || passed.entered.get(&cpu) == Some(&root) {
                return (!passed.suspended, false);
            }
            passed.entered.insert(cpu, root);
            passed.stats.entered += 1;
            vm.space.stats.hypercalls += u64::from(exits);
            vm.space.stats.exited(ExitKind::Hypercall, u64::from(exits));
            (true, exits)
        })?;
        if entered.1 {
            hw.charge(cpu, Cost::Exit(ExitKind::Hypercall), &Default::default());
        }
        Ok(entered.0)
    }

    /// A guest's kernel: completes what the tables of a process wait for, and looks at all entries if
    /// colours came round.
    ///
    /// # Errors
    /// [`MmError::NoProcess`], [`MmError::NoCpu`].
    pub fn settle_tables(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let process = self.processes.get_mut(pid.0).ok_or(MmError::NoProcess(pid))?;
        self.core.settle(&mut process.space, &mut cx);
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// The guest's hypercall to leave the mode on `cpu`, if it is in it.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`].
    pub fn leave_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
        exits: bool,
    ) -> Result<(), MmError> {
        let was = self.with_passthrough(id, |_, vm, passed| {
            let was = passed.entered.remove(&cpu).is_some() && exits;
            vm.space.stats.hypercalls += u64::from(was);
            vm.space.stats.exited(ExitKind::Hypercall, u64::from(was));
            was
        })?;
        if was {
            hw.charge(cpu, Cost::Exit(ExitKind::Hypercall), &Default::default());
        }
        Ok(())
    }

    /// The VM falls back to nested paging: all its frames are taken back, and no CPU enters
    /// the mode until [`resume_passthrough`](Self::resume_passthrough).
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`].
    pub fn suspend_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.with_passthrough(id, |core, vm, passed| {
            passed.stats.suspended += u64::from(!core::mem::replace(&mut passed.suspended, true));
            passed.entered.clear();
            revoke_all(core, &mut cx, passed);
            core.invalidate(&mut vm.space, &mut cx, Invalidate::All, true, NodeSet::ALL, Reach::Space);
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// The VM returns from nested paging.
    ///
    /// # Errors
    /// [`MmError::NoVm`], [`MmError::NoPassThrough`], also while stores are logged.
    pub fn resume_passthrough(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        if self.vm(id)?.space.log.is_some() {
            return Err(MmError::NoPassThrough {
                vm: id,
                why: "its stores are logged, which tags do not see",
            });
        }
        self.with_passthrough(id, |_, _, passed| passed.suspended = false)?;
        let mut cx = self.cx(hw, cpu)?;
        let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
        self.core.notify_now(&mut vm.space, &mut cx, 0..u64::MAX);
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// Compares tags and array of a VM with its table, leaf by leaf, both ways.
    ///
    /// # Errors
    /// With the first difference.
    pub fn check_passthrough(&mut self, id: VmId) -> Result<(), PassThroughFlaw> {
        let none = |_| PassThroughFlaw::NotEnabled;
        let passed = self.passthrough(id).map_err(none)?;
        let (array, tags, owner) = (Arc::clone(&passed.array), Arc::clone(&passed.tags), passed.owner);
        let suspended = passed.suspended;
        let vm = self.vms.get(id.0).ok_or(PassThroughFlaw::NotEnabled)?;
        let mut expected: BTreeMap<u64, (u64, paging::PageSize)> = BTreeMap::new();
        self.core.env(CpuId(0), |env| {
            vm.space.table.scan(env, 0..u64::MAX, &mut |leaf| {
                if leaf.entry.has(Flags::PRESENT | Flags::WRITABLE) && !suspended {
                    let first: Frame<M::Space> = leaf.entry.leaf_frame(leaf.size);
                    for n in 0..leaf.size.frames() {
                        expected.insert(leaf.addr.page() + n, (first.number() + n, leaf.size));
                    }
                }
            });
        });
        let mut owned: BTreeMap<Hfn, _> = tags.owned(owner).collect();
        for (gfn, given) in array.range(0..u64::MAX) {
            if expected.remove(&gfn.number()) != Some((given.frame().number(), given.size())) {
                return Err(PassThroughFlaw::Slot(gfn));
            }
            let tag = owned.remove(&given.frame()).ok_or(PassThroughFlaw::Untagged(given.frame()))?;
            if (tag.colour, tag.size, tag.gfn) != (given.colour(), given.size(), gfn) {
                return Err(PassThroughFlaw::Untagged(given.frame()));
            }
        }
        match (expected.pop_first(), owned.pop_first()) {
            (Some((gfn, _)), _) => Err(PassThroughFlaw::Slot(Gfn::new(gfn))),
            (None, Some((frame, _))) => Err(PassThroughFlaw::Survives(frame)),
            (None, None) => Ok(()),
        }
    }
}

/// How tags, array and table of a VM differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassThroughFlaw {
    /// Nothing is passed through.
    NotEnabled,
    /// The slot of a guest frame does not say what the VM's table says.
    Slot(Gfn),
    /// A frame that a slot names has another tag.
    Untagged(Hfn),
    /// A frame is tagged for the VM, and no slot names it.
    Survives(Hfn),
}

fn revoke_all<M: TableMemory>(
    core: &mut Core<M>,
    cx: &mut Cx<'_, M::Space>,
    passed: &mut PassThrough<M::Space>,
) {
    let (hw, cpu) = (&mut *cx.hw, cx.cpu);
    core.env(cpu, |env| passed.revoke_all(&mut NotifyCx { env: env.reborrow(), hw, cpu }));
}
