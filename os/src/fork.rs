//! `fork`: the child gets the parent's areas and, copy-on-write, its pages.

use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware, Syscall};
use crate::kernel::{Core, Cx, Kernel};
use crate::process::{Process, ProcessId};
use crate::segment::{Content, Reason};
use crate::space::AddressSpace;
use alloc::vec::Vec;
use paging::frames::CpuId;
use paging::{Addr, Entry, Flags, Flush, Forked, Frame, LeafAt, TableMemory, Virt, Visibility};

impl<M: TableMemory> Kernel<M> {
    /// `fork`. The child belongs to the parent's group.
    ///
    /// # Errors
    /// If frames for the child's tables are missing; then there is no child.
    pub fn fork(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        parent: ProcessId,
    ) -> Result<ProcessId, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let id = ProcessId(self.processes.next());
        let (spec, space) = self.on_process(&mut cx, parent, |core, parent, cx| {
            let space = &mut parent.space;
            let mut child = core.process_space(cx, id, &parent.spec, Some(space.id))?;
            child.policy = space.policy;
            child.mmap_top = space.mmap_top;
            match core.copy_space(space, &mut child, cx) {
                Ok(()) => Ok((parent.spec, child)),
                Err(stop) => {
                    core.empty(&mut child, cx)?;
                    core.end_space(child, cx)?;
                    Err(stop)
                }
            }
        })?;
        self.processes.push(Process { id, spec, space });
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Fork));
        Ok(id)
    }
}

impl<M: TableMemory> Core<M> {
    fn copy_space(
        &mut self,
        parent: &mut AddressSpace<Virt, M>,
        child: &mut AddressSpace<Virt, M>,
        cx: &mut Cx<'_, M::Space>,
    ) -> Result<(), Stop> {
        // Only entries can be write-protected, and only frames with an entry shared.
        self.leave(parent, cx, 0..u64::MAX, Content::Kept, Reason::CopyOnWrite)?;
        let areas: Vec<_> = parent.vmas.iter().copied().collect();
        let mut flush = Flush::none();
        let mut copied = Ok(());
        for area in &areas {
            // The table knows them from its parent.
            self.count_mapping(area, true);
            child.vmas.insert(*area);
            if copied.is_ok() {
                copied = self.copy_area(parent, child, cx, area, &mut flush);
            }
        }
        // Linux flushes the parent always; a mechanism that let the child link
        // a table may have write-protected it.
        flush.add_all();
        self.discharge(parent, cx, flush);
        self.settle(child, cx);
        self.source.forked(&mut self.pool, u32::from(parent.id.0), u32::from(child.id.0));
        copied
    }

    fn copy_area(
        &mut self,
        parent: &mut AddressSpace<Virt, M>,
        child: &mut AddressSpace<Virt, M>,
        cx: &mut Cx<'_, M::Space>,
        area: &crate::vma::Vma,
        flush: &mut Flush<Virt, M::Space>,
    ) -> Result<(), Stop> {
        // The child's references, taken afterwards: `env` has the pool.
        let mut taken: Vec<(Addr<Virt>, Entry)> = Vec::new();
        let shared = area.shared;
        let visibility = if area.is_anonymous() { Visibility::Private } else { Visibility::Shared };
        let mut copy = |leaf: LeafAt<Virt>| {
            if shared {
                // Pages of a shared mapping are found in the page cache again.
                return Forked { parent: leaf.entry, child: Entry::EMPTY };
            }
            if !leaf.linked {
                taken.push((leaf.addr, leaf.entry));
            }
            if leaf.entry.swap_slot().is_some() {
                return Forked { parent: leaf.entry, child: leaf.entry };
            }
            let entry = match leaf.entry.is_prot_none() {
                true => leaf.entry.from_prot_none().without(Flags::WRITABLE).with(Flags::COW).to_prot_none(),
                false => leaf.entry.without(Flags::WRITABLE).with(Flags::COW),
            };
            // The child has not used it, nor written to it.
            Forked { parent: entry, child: entry.without(Flags::ACCESSED | Flags::DIRTY) }
        };
        let copied = self.env(cx.cpu, |env| {
            parent.table.fork_range(env, &mut child.table, area.range(), visibility, flush, &mut copy)
        });
        if copied.is_err()
            && let Some(&(addr, _)) = taken.last()
            && self.lookup(child, cx.cpu, addr).entry.is_empty()
        {
            // The one whose table could not be had.
            taken.pop();
        }
        for (_, entry) in taken {
            let frame: Frame<M::Space> = entry.frame();
            if let Some(slot) = entry.swap_slot() {
                self.swap.get(slot);
            } else if frame != self.zero {
                self.pool.get(frame);
            }
        }
        Ok(copied?)
    }
}
