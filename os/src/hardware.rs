//! The machine as the kernel sees it.
//!
//! The modelled machine implements [`Hardware`] and charges for what it is
//! asked; a kernel on real silicon implements it with instructions; under a
//! guest kernel it is the hypervisor that makes guest frames real.
//!
//! A frame's content changes only through this trait: a frame that a process
//! can reach was zeroed, copied or read from a device first. So whoever
//! implements it can follow every content and find a leak.

use crate::pagecache::FileId;
use crate::process::GroupId;
use crate::stats::FaultKind;
use mechanisms::segments::Image;
use paging::frames::CpuId;
use paging::{Frame, PhysSpace, Reach, Work};

/// The number that TLB tags compare: one for each live address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpaceId(pub u16);

impl SpaceId {
    /// No process: what a CPU has loaded while it idles.
    pub const KERNEL: SpaceId = SpaceId(0);
}

/// What an address space translates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpaceKind {
    /// Virtual addresses: a process, or its shadow table.
    Process,
    /// Guest-physical addresses of a VM.
    Vm,
}

/// CPUs that a [`CpuMask`] can name.
pub const MAX_CPUS: usize = 256;

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CpuMask([u64; MAX_CPUS / 64]);

impl CpuMask {
    /// No CPU.
    pub const EMPTY: CpuMask = CpuMask([0; MAX_CPUS / 64]);

    /// Adds a CPU.
    #[inline]
    pub fn insert(&mut self, cpu: CpuId) {
        self.0[cpu.index() / 64] |= 1 << (cpu.index() % 64);
    }
    /// Takes a CPU out.
    #[inline]
    pub fn remove(&mut self, cpu: CpuId) {
        self.0[cpu.index() / 64] &= !(1 << (cpu.index() % 64));
    }
    /// Whether a CPU is a member.
    #[inline]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0[cpu.index() / 64] >> (cpu.index() % 64) & 1 == 1
    }
    /// Whether there is no member.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_CPUS / 64]
    }
    /// Members.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
    /// The members of both together.
    #[must_use]
    pub fn union(mut self, other: &CpuMask) -> CpuMask {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine |= theirs);
        self
    }
    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| CpuId((word * 64 + bit) as u16))
        })
    }
}

impl FromIterator<CpuId> for CpuMask {
    fn from_iter<T: IntoIterator<Item = CpuId>>(cpus: T) -> Self {
        let mut mask = CpuMask::EMPTY;
        cpus.into_iter().for_each(|cpu| mask.insert(cpu));
        mask
    }
}

/// A load of CR3 (or, for a VM, of the nested root).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootLoad<S: PhysSpace> {
    /// Whose table it is.
    pub space: SpaceId,
    /// What it translates.
    pub kind: SpaceKind,
    /// The group of the process: `BabelFish`'s CCID.
    pub group: GroupId,
    /// The root for this CPU's node.
    pub root: Frame<S>,
    /// 4 or 5.
    pub levels: u8,
    /// The PCID that the kernel gave the space on this CPU (0: none).
    pub pcid: u8,
    /// The space that had this PCID on this CPU before: its entries, and only
    /// its, are flushed by the load.
    pub evicted: Option<SpaceId>,
}

/// A run of input addresses to invalidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// What a shootdown invalidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidate<'a> {
    /// Everything of the space.
    All,
    /// These pages.
    Ranges(&'a [PageRange]),
}

impl Invalidate<'_> {
    /// Whether it covers `addr`.
    pub fn covers(&self, addr: u64) -> bool {
        match self {
            Invalidate::All => true,
            Invalidate::Ranges(ranges) => ranges.iter().any(|r| addr.wrapping_sub(r.start) < r.len),
        }
    }
}

/// An invalidation on several CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shootdown<'a> {
    /// Whose translations.
    pub space: SpaceId,
    /// What the space translates.
    pub kind: SpaceKind,
    /// The group of the process.
    pub group: GroupId,
    /// Whose translations besides: more than the space's own only in a group
    /// that shares them.
    pub reach: Reach,
    /// Which of them.
    pub what: Invalidate<'a>,
    /// Table pages go too, so that walk caches must forget the paths to these addresses.
    pub tables_freed: bool,
    /// On these CPUs; the one that asks may be among them.
    pub cpus: CpuMask,
}

/// A call into the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Syscall {
    /// `mmap`.
    Map,
    /// `munmap`.
    Unmap,
    /// `mprotect`.
    Protect,
    /// `madvise`.
    Advise,
    /// `mremap`.
    Remap,
    /// `fork`.
    Fork,
    /// `exec`.
    Exec,
    /// `exit`.
    Exit,
    /// `mbind`, `set_mempolicy`, `migrate_pages`.
    Policy,
}

/// Why a VM left to the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ExitKind {
    /// A guest-physical address is not mapped, or not as needed.
    Nested,
    /// A fault that the shadow table must answer.
    ShadowFault,
    /// A store to a guest table that is write-protected for shadowing.
    TableWrite,
    /// A load of CR3.
    RootLoad,
    /// An invalidation by the guest.
    Invalidate,
    /// A call to the hypervisor.
    Hypercall,
    /// A walk reached a frame whose tag is not the VM's.
    FrameTag,
}

/// Work of the software that takes time on top of its memory references.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// A page fault.
    PageFault(FaultKind),
    /// This many faults answered at once by `MAP_POPULATE`.
    Populate {
        /// Pages.
        pages: u64,
    },
    /// A system call.
    Syscall(Syscall),
    /// A switch to another address space.
    ContextSwitch,
    /// A VM exit and the way back.
    Exit(ExitKind),
    /// Interrupts sent for a shootdown, not counting the CPU that asks.
    Ipi {
        /// CPUs interrupted.
        targets: u32,
    },
    /// Pages moved between nodes or for compaction.
    Migrate {
        /// 4 KiB pages.
        pages: u64,
    },
    /// Background work: reclaim, khugepaged, the NUMA scanner.
    Background,
    /// The registers of a segment, loaded from where they were saved.
    Segment {
        /// 64-bit words.
        words: u32,
    },
}

/// A load of a segment's registers: at a switch, or because they changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentLoad<'a> {
    /// The space that runs.
    pub space: SpaceId,
    /// What the segment translates.
    pub kind: SpaceKind,
    /// The registers; `None` switches them off.
    pub image: Option<&'a Image>,
}

/// The machine. Calls are rare (faults and system calls), so it is used as a trait object.
pub trait Hardware<S: PhysSpace> {
    /// Loads a root on a CPU.
    fn load_root(&mut self, cpu: CpuId, load: &RootLoad<S>);

    /// Loads the registers of a segment on a CPU. Machines without are never asked:
    /// no software begins a segment there.
    fn load_segment(&mut self, _cpu: CpuId, _load: &SegmentLoad<'_>) {}

    /// Invalidates; when it returns, no CPU of `what.cpus` uses what was named.
    fn shootdown(&mut self, from: CpuId, what: &Shootdown<'_>);

    /// Forgets everything that `cpu` cached of `space`.
    fn flush_space(&mut self, cpu: CpuId, space: SpaceId);

    /// Loads a byte of `frame`, so that whoever backs the kernel's frames backs it: a guest's way
    /// to get a slot of its array of host frames filled.
    fn touch(&mut self, _cpu: CpuId, _frame: Frame<S>) {}

    /// Zeroes 2^`order` frames.
    fn zero(&mut self, cpu: CpuId, frame: Frame<S>, order: u8);

    /// Copies 2^`order` frames.
    fn copy(&mut self, cpu: CpuId, from: Frame<S>, to: Frame<S>, order: u8);

    /// Reads page `page` of `file` into `frame`.
    fn file_read(&mut self, cpu: CpuId, file: FileId, page: u64, frame: Frame<S>);

    /// Writes `frame` to page `page` of `file`.
    fn file_write(&mut self, cpu: CpuId, file: FileId, page: u64, frame: Frame<S>);

    /// Writes `frame` to a swap slot.
    fn swap_out(&mut self, cpu: CpuId, frame: Frame<S>, slot: u64);

    /// Reads a swap slot into `frame`.
    fn swap_in(&mut self, cpu: CpuId, slot: u64, frame: Frame<S>);

    /// Takes time for what `cpu` did.
    fn charge(&mut self, cpu: CpuId, cost: Cost, work: &Work);
}

/// A machine that does nothing: frames have no content, nothing is cached, and time is not
/// counted. For what only the software's books matter to: benchmarks, tests of the kernel alone.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NoMachine;

impl<S: PhysSpace> Hardware<S> for NoMachine {
    fn load_root(&mut self, _: CpuId, _: &RootLoad<S>) {}
    fn shootdown(&mut self, _: CpuId, _: &Shootdown<'_>) {}
    fn flush_space(&mut self, _: CpuId, _: SpaceId) {}
    fn zero(&mut self, _: CpuId, _: Frame<S>, _: u8) {}
    fn copy(&mut self, _: CpuId, _: Frame<S>, _: Frame<S>, _: u8) {}
    fn file_read(&mut self, _: CpuId, _: FileId, _: u64, _: Frame<S>) {}
    fn file_write(&mut self, _: CpuId, _: FileId, _: u64, _: Frame<S>) {}
    fn swap_out(&mut self, _: CpuId, _: Frame<S>, _: u64) {}
    fn swap_in(&mut self, _: CpuId, _: u64, _: Frame<S>) {}
    fn charge(&mut self, _: CpuId, _: Cost, _: &Work) {}
}
