//! Transparent huge pages: given at the fault, made in the background
//! (khugepaged), split when a part of one is treated apart.

use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware};
use crate::hypervisor::VmId;
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::space::AddressSpace;
use crate::vma::{HugeAdvice, Vma};
use alloc::vec::Vec;
use paging::frames::{CpuId, FrameState};
use paging::{Addr, Entry, Flags, Flush, Frame, MapError, PageSize, Space, TableMemory, Visibility};

/// `/sys/kernel/mm/transparent_hugepage/enabled`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ThpMode {
    /// No huge pages but reserved ones.
    Never,
    /// Where `madvise` asked for them.
    #[default]
    Madvise,
    /// Wherever they fit and nobody said no.
    Always,
}

impl<I: Space, M: TableMemory> AddressSpace<I, M> {
    /// Whether the block around `addr` should be a huge page.
    pub(crate) fn wants_huge(&self, vma: &Vma, addr: u64) -> bool {
        let wanted = match (self.thp, vma.huge) {
            (ThpMode::Never, _) | (_, HugeAdvice::No) => false,
            (ThpMode::Madvise, advice) => advice == HugeAdvice::Yes,
            (ThpMode::Always, _) => true,
        };
        wanted
            && vma.is_anonymous()
            && vma.page == PageSize::Size4K
            && vma.holds_block(addr, PageSize::Size2M)
            && !self.segment_touches(addr, PageSize::Size2M)
    }
}

impl<M: TableMemory> Core<M> {
    /// Splits the transparent huge page that covers `addr`, if one does.
    pub(crate) fn split_huge<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: Addr<I>,
    ) -> Result<(), Stop> {
        let found = self.lookup(space, cx.cpu, addr);
        let node = space.table_node(self.table_node(cx.cpu), addr.raw());
        let Some(flush) = self.env(cx.cpu, |env| space.table.split(env, addr, node))? else { return Ok(()) };
        let size = found.size().unwrap_or_default();
        let head: Frame<M::Space> = found.entry.leaf_frame(size);
        if self.pool.refs(head) == 1 && self.pool.compound(head).is_some_and(|(first, _)| first == head) {
            // Nobody else maps it: its frames become single ones, free to go one by one.
            let split = self.pool.split_compound(head, size.order() - 9);
            debug_assert!(split.is_ok(), "{split:?}");
        } else {
            // Each new leaf holds a reference to the unit; the huge leaf's was one of them.
            (1..512).for_each(|_| {
                self.pool.get(head);
            });
        }
        self.discharge(space, cx, flush);
        space.stats.splits += 1;
        if space.notifier.is_some() {
            // What derives translations was told that the huge page went.
            let (start, lower) = (addr.align_down(size), PageSize::from_level(found.level - 1));
            let lower = lower.unwrap_or_default();
            for index in 0..512 {
                let part = start.offset(index * lower.bytes());
                let entry = self.lookup(space, cx.cpu, part).entry;
                self.notify_mapped(space, cx, part, entry, lower);
            }
        }
        Ok(())
    }

    /// Splits huge pages that stick out over `addr`, where an area will end.
    pub(crate) fn split_at<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        addr: u64,
    ) -> Result<(), Stop> {
        loop {
            let found = self.lookup(space, cx.cpu, Addr::new(addr));
            let huge = found.level > 1 && found.frame().is_some();
            match found.size() {
                Some(size) if huge && addr & (size.bytes() - 1) != 0 => {
                    self.split_huge(space, cx, Addr::new(addr))?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Makes the block of small pages at `base` one huge page, if khugepaged would.
    fn collapse<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        vma: &Vma,
        base: Addr<I>,
    ) -> Result<bool, Stop> {
        let size = PageSize::Size2M;
        let found = self.lookup(space, cx.cpu, base);
        let block = base.raw()..base.raw() + size.bytes();
        if found.level != 1 || !self.can_collapse(space, cx, block.clone()) {
            return Ok(false);
        }
        let new = match self.data_frame(space, cx, vma, base, size, FrameState::Anon) {
            Ok(frame) => frame,
            Err(Stop::NoFrame(_) | Stop::Limit(_)) => return Ok(false),
            Err(other) => return Err(other),
        };
        // Nobody may store to the old pages while they are copied.
        let mut flush = Flush::none();
        let mut old = Vec::with_capacity(512);
        let hidden = self.env(cx.cpu, |env| {
            space.table.update_range(env, block, Visibility::Private, &mut flush, &mut |leaf| {
                old.push((leaf.addr.index(1), leaf.entry));
                if leaf.entry.is_present() { leaf.entry.to_prot_none() } else { leaf.entry }
            })
        });
        self.discharge(space, cx, flush);
        if let Err(e) = hidden {
            self.put(space.group, new, cx.cpu);
            return Err(e.into());
        }
        let mut next = 0;
        let mut bits = Flags::NONE;
        for &(index, entry) in &old {
            (next..index).for_each(|hole| self.zero(cx, new.offset(hole as u64), PageSize::Size4K));
            next = index + 1;
            let from: Frame<M::Space> = entry.frame();
            let to = new.offset(index as u64);
            if from == self.zero {
                self.zero(cx, to, PageSize::Size4K);
            } else {
                self.copy(cx, from, to, PageSize::Size4K);
            }
            bits = bits | Flags(entry.0 & Flags::DIRTY.0);
        }
        (next..512).for_each(|hole| self.zero(cx, new.offset(hole as u64), PageSize::Size4K));
        let flags = space.page_flags(vma, base.raw(), size, false) | bits;
        match self.env(cx.cpu, |env| space.table.collapse(env, base, new, size, flags)) {
            Ok(Some(flush)) => {
                self.discharge(space, cx, flush);
                self.notify_mapped(space, cx, base, Entry::leaf(new, size, flags), size);
                space.stats.collapses += 1;
                Ok(true)
            }
            Ok(None) => Err(MapError::TableInTheWay.into()),
            Err(e) => {
                self.put(space.group, new, cx.cpu);
                Err(e.into())
            }
        }
    }

    /// Whether the block can be collapsed: few enough empty entries, all others
    /// pages that this space alone has (or the zero page), nothing swapped.
    fn can_collapse<I: Space>(
        &mut self,
        space: &AddressSpace<I, M>,
        cx: &Cx<'_, M::Space>,
        block: core::ops::Range<u64>,
    ) -> bool {
        let mut leaves = Vec::with_capacity(512);
        self.env(cx.cpu, |env| space.table.scan(env, block, &mut |leaf| leaves.push(leaf.entry)));
        // The zero page counts as an empty entry (Linux: `pte_none_or_zero`).
        let mut empty = 512 - leaves.len();
        let mut fit = true;
        for entry in leaves {
            let frame: Frame<M::Space> = entry.frame();
            if entry.swap_slot().is_some() {
                fit = false;
            } else if frame == self.zero {
                empty += 1;
            } else {
                fit &= self.is_exclusive(frame);
            }
        }
        fit && empty <= usize::from(self.config.max_ptes_none)
    }

    /// Looks at up to `budget` blocks from where the last pass ended.
    pub(crate) fn collapse_pass<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        mut budget: u64,
    ) -> Result<u64, Stop> {
        let span = PageSize::Size2M.bytes();
        let mut done = 0;
        let mut start = core::mem::take(&mut space.clocks.collapse);
        while let Some(vma) = space.vmas.first_within(start..u64::MAX) {
            let vma = *space.vmas.get(vma.start).unwrap_or(&vma);
            let mut base = start.max(vma.start).next_multiple_of(span);
            while base + span <= vma.end {
                if budget == 0 {
                    space.clocks.collapse = base;
                    return Ok(done);
                }
                if !vma.prot.any() || !space.wants_huge(&vma, base) {
                    break;
                }
                budget -= 1;
                done += u64::from(self.collapse(space, cx, &vma, Addr::new(base))?);
                base += span;
            }
            start = vma.end;
        }
        Ok(done)
    }
}

impl<M: TableMemory> Kernel<M> {
    /// khugepaged on one process: looks at up to `blocks` blocks of 2 MiB, from
    /// where it stopped the last time, and makes huge pages where it may. Returns how many it made.
    ///
    /// # Errors
    /// If no frame is left for a table that must be made the process's own.
    pub fn khugepaged(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        blocks: u64,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let made = self.on_process(&mut cx, pid, |core, process, cx| {
            core.collapse_pass(&mut process.space, cx, blocks)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(made)
    }

    /// As [`khugepaged`](Self::khugepaged), on a VM's memory.
    ///
    /// # Errors
    /// If no frame is left for a table.
    pub fn khugepaged_vm(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        vm: VmId,
        blocks: u64,
    ) -> Result<u64, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let made = self.on_vm(&mut cx, vm, |core, vm, cx| core.collapse_pass(&mut vm.space, cx, blocks))?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(made)
    }
}
