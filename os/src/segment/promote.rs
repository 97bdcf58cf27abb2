//! Promotion: from base virtualised to Guest, VMM and Dual Direct, as
//! contiguity appears or can be made.

use super::{Begun, Contiguity, NoSegment};
use crate::error::MmError;
use crate::hypervisor::GuestOnHost;
use crate::kernel::Kernel;
use crate::process::ProcessId;
use alloc::vec::Vec;
use core::ops::Range;
use paging::frames::{NodeId, PAGEBLOCK};
use paging::{PageSize, TableMemory};

/// Which dimensions of a VM's walks segments replace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// None.
    BaseVirtualised,
    /// gPA to hPA.
    VmmDirect,
    /// gVA to gPA.
    GuestDirect,
    /// Both.
    DualDirect,
}

impl Mode {
    /// By which segments are on.
    pub const fn of(guest: bool, vmm: bool) -> Mode {
        match (guest, vmm) {
            (false, false) => Mode::BaseVirtualised,
            (false, true) => Mode::VmmDirect,
            (true, false) => Mode::GuestDirect,
            (true, true) => Mode::DualDirect,
        }
    }
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::BaseVirtualised => "base virtualised",
            Mode::VmmDirect => "VMM Direct",
            Mode::GuestDirect => "Guest Direct",
            Mode::DualDirect => "Dual Direct",
        }
    }
}

/// How a primary region came to its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promoted {
    /// The segment.
    pub begun: Begun,
    /// Frames that self-ballooning made contiguous for it.
    pub ballooned: u64,
}

impl<M: TableMemory> Kernel<M> {
    /// What a process's primary region would be: its longest run of private anonymous memory
    /// for loads and stores, made of 4 KiB pages.
    ///
    /// # Errors
    /// [`MmError::NoProcess`]; [`MmError::NoSegment`] if it has no such memory.
    pub fn primary_region(&self, pid: ProcessId) -> Result<Range<u64>, MmError> {
        let mut longest = 0..0;
        let mut run = 0..0;
        for area in self.process(pid)?.space().vmas().iter() {
            let fits = area.is_anonymous()
                && !area.shared
                && area.page == PageSize::Size4K
                && area.prot.read
                && area.prot.write;
            let start = if fits && area.start == run.end && !run.is_empty() { run.start } else { area.start };
            run = if fits { start..area.end } else { 0..0 };
            if run.end - run.start > longest.end - longest.start {
                longest = run.clone();
            }
        }
        if longest.is_empty() { Err(MmError::NoSegment(NoSegment::NotPrimary(0))) } else { Ok(longest) }
    }
}

/// Begins segments in a guest and its host.
pub trait Promote: GuestOnHost {
    /// The mode that a guest's process is in.
    ///
    /// # Errors
    /// [`MmError::NoProcess`], [`MmError::NoVm`].
    fn mode(&mut self, pid: ProcessId) -> Result<Mode, MmError> {
        let vm = self.vm();
        let vmm = self.host(|host, _| host.vm(vm).map(|vm| vm.space().segment().is_some()))?;
        let guest = self.guest(|guest, _| guest.process(pid).map(|p| p.space().segment().is_some()))?;
        Ok(Mode::of(guest, vmm))
    }

    /// Gives a process of the guest its primary region: from free contiguous guest memory; else
    /// scattered free frames are ballooned out and come back contiguous; else by compaction.
    ///
    /// # Errors
    /// [`MmError::NoSegment`] with the reason; memory errors.
    fn promote_guest(&mut self, pid: ProcessId) -> Result<Promoted, MmError> {
        let cpu = self.cpu();
        let range = self.guest(|guest, _| guest.primary_region(pid))?;
        let begin = |this: &mut Self, from| {
            let range = range.clone();
            this.guest(|guest, hw| guest.begin_segment(hw, cpu, pid, range, from))
        };
        match begin(self, Contiguity::Free) {
            Err(MmError::NoSegment(NoSegment::NoContiguity { .. })) => {}
            done => return done.map(|begun| Promoted { begun, ballooned: 0 }),
        }
        let phase = (range.start >> 12) % PAGEBLOCK;
        let frames = (((range.end - range.start) >> 12) + phase).next_multiple_of(PAGEBLOCK);
        let at = self.end_of_memory()?;
        let ballooned = self.self_balloon(NodeId(0), frames, at)?;
        let from = if ballooned < frames { Contiguity::Compacted } else { Contiguity::Free };
        begin(self, from).map(|begun| Promoted { begun, ballooned })
    }

    /// Puts the VM's memory behind the VMM's segment: its longest run of adjacent
    /// slots that the balloon has nothing of. By compaction of the host, if need be.
    ///
    /// # Errors
    /// [`MmError::NoSegment`] with the reason; memory errors.
    fn promote_vmm(&mut self) -> Result<Begun, MmError> {
        let (vm, cpu) = (self.vm(), self.cpu());
        let mut ballooned: Vec<u64> =
            self.guest(|guest, _| guest.balloon().iter().map(|frame| frame.number()).collect());
        ballooned.sort_unstable();
        let mut longest = 0..0;
        let mut run = 0..0;
        for (_, slot) in self.slots()? {
            let (start, end) = (slot.start.number(), slot.start.number() + slot.frames);
            let first = ballooned.partition_point(|&frame| frame < start);
            let whole = ballooned.get(first).is_none_or(|&frame| frame >= end);
            if slot.page > PageSize::Size4K || !whole {
                run = 0..0;
                continue;
            }
            run = if run.end == start && !run.is_empty() { run.start..end } else { start..end };
            if run.end - run.start > longest.end - longest.start {
                longest = run.clone();
            }
        }
        if longest.is_empty() {
            return Err(MmError::NoSegment(NoSegment::NotPrimary(0)));
        }
        let range = longest.start << 12..longest.end << 12;
        self.host(|host, hw| host.begin_vm_segment(hw, cpu, vm, range, Contiguity::Compacted))
    }
}

impl<T: GuestOnHost> Promote for T {}
