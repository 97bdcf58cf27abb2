//! Which pages of a VM were stored to: by write protection, or from the dirty
//! bits that hardware sets.

use super::VmId;
use crate::error::{MmError, Stop};
use crate::hardware::{Cost, Hardware};
use crate::kernel::{Core, Cx, Kernel};
use crate::segment::{Content, Reason};
use crate::space::AddressSpace;
use core::ops::Range;
use paging::frames::CpuId;
use paging::{Flags, Flush, GuestPhys, LeafAt, SparseFrames, TableMemory, Visibility};

/// A log of stored-to pages: one bit for each 4 KiB of guest-physical memory.
#[derive(Debug, Default)]
pub struct DirtyLog {
    words: SparseFrames<u64>,
    pages: u64,
}

impl DirtyLog {
    /// Logs `pages` pages from `page` on.
    pub(crate) fn set(&mut self, page: u64, pages: u64) {
        for page in page..page + pages {
            let word = self.words.get_or_default(page >> 6);
            self.pages += u64::from(*word >> (page & 63) & 1 == 0);
            *word |= 1 << (page & 63);
        }
    }
    /// Whether `page` is in the log.
    pub fn contains(&self, page: u64) -> bool {
        self.words.get(page >> 6).is_some_and(|word| word >> (page & 63) & 1 == 1)
    }
    /// Pages in the log.
    pub fn len(&self) -> u64 {
        self.pages
    }
    /// Whether no page is.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }
    /// The pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at << 6 | bit)
        })
    }
}

impl<M: TableMemory> Core<M> {
    /// Takes W from the pages of `range`, so that their next store is noticed.
    fn protect_log(
        &mut self,
        space: &mut AddressSpace<GuestPhys, M>,
        cx: &mut Cx<'_, M::Space>,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        let mut flush = Flush::none();
        let done = self.env(cx.cpu, |env| {
            let protect = &mut |leaf: LeafAt<GuestPhys>| match leaf.entry.swap_slot() {
                Some(_) => leaf.entry,
                None if leaf.entry.is_prot_none() => {
                    leaf.entry.from_prot_none().without(Flags::WRITABLE).to_prot_none()
                }
                None => leaf.entry.without(Flags::WRITABLE),
            };
            space.table.update_range(env, range, Visibility::Private, &mut flush, protect)
        });
        self.discharge(space, cx, flush);
        Ok(done?)
    }
}

impl<M: TableMemory> Kernel<M> {
    /// Logs which pages of a VM are stored to from now on: all pages are
    /// write-protected, huge ones are split at their first store.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn start_dirty_log(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, id, |core, vm, cx| {
            // Only entries can be write-protected.
            core.leave(&mut vm.space, cx, 0..u64::MAX, Content::Kept, Reason::Logged)?;
            vm.space.log.get_or_insert_with(DirtyLog::default);
            let end = vm.space.vmas.end();
            core.protect_log(&mut vm.space, cx, 0..end)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// The pages stored to since the log began or was last taken; they are
    /// write-protected again. Empty if there is no log.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn take_dirty_log(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<DirtyLog, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let vm = self.vms.get_mut(id.0).ok_or(MmError::NoVm(id))?;
        let Some(log) = vm.space.log.replace(DirtyLog::default()) else {
            vm.space.log = None;
            return Ok(DirtyLog::default());
        };
        let mut pages = log.iter().peekable();
        while let Some(first) = pages.next() {
            let mut last = first;
            while pages.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            self.on_vm(&mut cx, id, |core, vm, cx| {
                core.protect_log(&mut vm.space, cx, first << 12..(last + 1) << 12)
            })?;
        }
        drop(pages);
        self.core.charge(&mut cx, Cost::Background);
        Ok(log)
    }

    /// Ends the log: stores go unnoticed again.
    ///
    /// # Errors
    /// [`MmError::NoVm`].
    pub fn stop_dirty_log(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<(), MmError> {
        let mut cx = self.cx(hw, cpu)?;
        self.on_vm(&mut cx, id, |core, vm, cx| {
            vm.space.log = None;
            let mut flush = Flush::none();
            let space = &mut vm.space;
            let done = core.env(cx.cpu, |env| {
                let allow = &mut |leaf: LeafAt<GuestPhys>| match leaf.entry.is_present() {
                    true if !leaf.entry.has(Flags::COW) => leaf.entry.with(Flags::WRITABLE),
                    _ => leaf.entry,
                };
                space.table.update_range(env, 0..space.vmas.end(), Visibility::Private, &mut flush, allow)
            });
            core.discharge(space, cx, flush);
            // Rights that come back are no flush.
            core.notify_now(space, cx, 0..u64::MAX);
            Ok(done?)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(())
    }

    /// The pages of a VM whose dirty bits hardware has set since the last time
    /// (or since they were mapped); the bits are cleared. A huge page counts as a whole.
    ///
    /// # Errors
    /// [`MmError::NoVm`]; memory errors.
    pub fn take_dirty_bits(
        &mut self,
        hw: &mut dyn Hardware<M::Space>,
        cpu: CpuId,
        id: VmId,
    ) -> Result<DirtyLog, MmError> {
        let mut cx = self.cx(hw, cpu)?;
        let mut log = DirtyLog::default();
        self.on_vm(&mut cx, id, |core, vm, cx| {
            let mut flush = Flush::none();
            let space = &mut vm.space;
            let done = core.env(cx.cpu, |env| {
                let clear = &mut |leaf: LeafAt<GuestPhys>| {
                    if leaf.entry.swap_slot().is_some() || !leaf.entry.has(Flags::DIRTY) {
                        return leaf.entry;
                    }
                    log.set(leaf.addr.page(), leaf.size.frames());
                    leaf.entry.without(Flags::DIRTY)
                };
                space.table.update_range(env, 0..space.vmas.end(), Visibility::Private, &mut flush, clear)
            });
            core.discharge(space, cx, flush);
            Ok(done?)
        })?;
        self.core.charge(&mut cx, Cost::Background);
        Ok(log)
    }
}
