//! `mremap`: an area grows, shrinks, or moves with its pages.

use crate::calls::{LOWEST, bad_range, checked};
use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware, Syscall};
use crate::kernel::{Core, Cx, Kernel};
use crate::process::ProcessId;
use crate::segment::{Content, Reason};
use crate::space::AddressSpace;
use crate::vma::{Backing, Vma};
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::CpuId;
use paging::{Addr, Flush, PageSize, Space, TableMemory, Unmapped, Va, Visibility};

impl<M: TableMemory> Core<M> {
    /// Moves area `area` with its pages to `to`, where nothing is mapped.
    fn move_area<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        area: &Vma,
        to: u64,
    ) -> Result<(), Stop> {
        let range = area.range();
        self.leave(space, cx, range.clone(), Content::Kept, Reason::Moved)?;
        let moved = |addr: u64| Addr::<I>::new(addr - range.start + to);
        self.split_at(space, cx, range.start)?;
        self.split_at(space, cx, range.end)?;
        let mut leaves = Vec::new();
        self.env(cx.cpu, |env| {
            space.table.scan(env, range.clone(), &mut |leaf| leaves.push((leaf.addr, leaf.size)));
        });
        let congruent = (range.start ^ to) & (PageSize::Size2M.bytes() - 1) == 0;
        if !congruent && area.page == PageSize::Size4K {
            // A huge page cannot lie at the new address.
            for &(addr, _) in leaves.iter().filter(|leaf| leaf.1 > PageSize::Size4K) {
                self.split_huge(space, cx, addr)?;
            }
            leaves.clear();
            self.env(cx.cpu, |env| {
                space.table.scan(env, range.clone(), &mut |leaf| leaves.push((leaf.addr, leaf.size)));
            });
        }
        // All tables first: once pages are taken out nothing may fail.
        for (addr, size) in leaves {
            let new = moved(addr.raw());
            self.ensure(space, cx, new, size.level(), Visibility::Private)?;
        }
        let new = Vma { start: to, end: to + area.len(), ..*area };
        self.tell_area(space, cx, new.range(), Some(&new))?;
        self.carry(space, cx, range.clone(), &moved)?;
        self.area_gone(space, &range);
        // The pages are at their new place: now the areas must follow.
        space.vmas.remove(range.clone());
        space.vmas.insert(new);
        Ok(self.tell_area(space, cx, range, None)?)
    }

    /// Takes the leaves of `range` out and writes them where `moved` says.
    fn carry<I: Space>(
        &mut self,
        space: &mut AddressSpace<I, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
        moved: &dyn Fn(u64) -> Addr<I>,
    ) -> Result<(), Stop> {
        let mut flush = Flush::none();
        let taken = self.env(cx.cpu, |env| space.table.unmap_range(env, range, &mut flush));
        let mut released = self.shoot(space, cx, flush);
        for gone in core::mem::take(&mut released.gone) {
            let new = moved(gone.addr.raw());
            if let Some(frame) = gone.frame() {
                self.source.unmapped(
                    &mut self.pool,
                    &Unmapped {
                        space: u32::from(space.id.0),
                        page: gone.addr.page(),
                        pages: gone.size.frames(),
                        frame,
                        last: false,
                    },
                );
            }
            let level = gone.size.level();
            let slot = self.ensure(space, cx, new, level, Visibility::Private)?;
            self.env(cx.cpu, |env| space.table.ops().write(env, slot, level, gone.entry));
            self.notify_mapped(space, cx, new, gone.entry, gone.size);
        }
        self.release(space, cx.cpu, &released);
        Ok(taken?)
    }
}

impl<M: TableMemory> Kernel<M> {
    /// `mremap`: the area (or the part of one) of `old_len` bytes at `old` gets `new_len`
    /// bytes; at `to` if given, else where it is if there is room, else elsewhere. Returns where.
    ///
    /// # Errors
    /// [`MmError::BadRange`] if the old range is not of one area, or overlaps
    /// the new one; [`MmError::NoRoom`]; memory errors.
    #[expect(clippy::too_many_arguments, reason = "the system call's own, and on which machine and CPU")]
    pub fn mremap(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        pid: ProcessId,
        old: Va,
        old_len: u64,
        new_len: u64,
        to: Option<Va>,
    ) -> Result<Va, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let va = self.on_process(&mut cx, pid, |core, process, cx| {
            core.remap(&mut process.space, cx, old.raw(), old_len, new_len, to.map(Va::raw))
        })?;
        self.core.charge(&mut cx, Cost::Syscall(Syscall::Remap));
        Ok(Va::new(va))
    }
}

impl<M: TableMemory> Core<M> {
    fn remap(
        &mut self,
        space: &mut AddressSpace<paging::Virt, M>,
        cx: &mut Cx<'_, M::Space>,
        old: u64,
        old_len: u64,
        new_len: u64,
        to: Option<u64>,
    ) -> Result<u64, Stop> {
        let limit = (1u64 << (11 + 9 * u32::from(space.table.levels()))) - 4096;
        let from = checked(old, old_len, limit)?;
        let new_len = checked(0, new_len, limit)?.end;
        let Some(area) = space.vmas.first_within(from.clone()).filter(|area| area.range() == from) else {
            return Err(bad_range(old, old_len, "it is not a part of one area").into());
        };
        if (from.start | from.end | new_len) & (area.page.bytes() - 1) != 0 {
            return Err(bad_range(old, old_len, "it cuts a reserved huge page").into());
        }
        let len = area.len();
        if let Some(to) = to {
            let target = checked(to, new_len, limit)?;
            if to & (area.page.bytes() - 1) != 0
                || to < LOWEST
                || (target.start < from.end && from.start < target.end)
            {
                return Err(
                    bad_range(to, new_len, "the new place overlaps the old one, or is not aligned").into()
                );
            }
            self.unmap(space, cx, target)?;
        }
        if new_len < len {
            self.unmap(space, cx, from.start + new_len..from.end)?;
        }
        let kept = Vma { end: from.start + new_len.min(len), ..area };
        let grown = from.end..from.start.saturating_add(new_len);
        let in_place = new_len <= len || (grown.end <= limit && space.vmas.first_within(grown).is_none());
        let start = match to {
            Some(to) => to,
            None if in_place => from.start,
            None => space
                .vmas
                .find_free(new_len, area.page.bytes(), LOWEST, space.mmap_top)
                .ok_or(MmError::NoRoom { len: new_len })?,
        };
        if start != from.start {
            self.move_area(space, cx, &kept, start)?;
        }
        if new_len > len {
            let mut rest = Vma { start: start + len, end: start + new_len, ..area };
            if let Backing::File { page, .. } = &mut rest.backing {
                *page += len >> 12;
            }
            self.add_area(space, cx, rest)?;
        }
        Ok(start)
    }
}
