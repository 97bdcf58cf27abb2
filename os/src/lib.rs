//! Kernel and hypervisor memory management on the seams of [`paging`].
//!
//! A [`Kernel`] owns a machine's frames and the address spaces on them:
//! processes (virtual addresses) and VMs (guest-physical addresses), which are
//! the same [`AddressSpace`] code. A host and a guest are two kernels; what a
//! guest's kernel asks of its [`Hardware`] is answered by its host.
//!
//! Nothing here knows which mechanism is at work: page tables are changed
//! through [`paging::TableOps`], made by [`Tables`] for each address space,
//! frames come from a [`paging::FrameSource`].
//!
//! Locks: a kernel has one owner (`&mut`). What a machine with many CPUs does
//! meanwhile is to use the page tables: accessed and dirty bits change under
//! this code, which reads and clears them only in atomic steps; pages are
//! copied or written out only after a shootdown took stores away from them.
#![no_std]
extern crate alloc;

mod calls;
mod compact;
mod error;
mod fault;
mod fork;
mod frames;
mod hardware;
pub mod hypervisor;
mod kernel;
mod numa;
mod pagecache;
pub mod passthrough;
mod populate;
mod process;
mod reclaim;
mod remap;
mod runqueue;
mod sched;
pub mod segment;
pub mod shadow;
mod space;
mod stats;
mod swap;
mod thp;
mod usage;
mod vma;

pub use calls::{Advice, LOWEST, MapRequest};
pub use error::{MmError, Segv};
pub use fault::FaultOutcome;
pub use frames::TableCache;
pub use hardware::{
    Cost, CpuMask, ExitKind, Hardware, Invalidate, MAX_CPUS, NoMachine, PageRange, RootLoad, SegmentLoad,
    Shootdown, SpaceId, SpaceKind, Syscall,
};
pub use hypervisor::{DirtyLog, Slot, SlotId, Vm, VmId, VmSpec};
pub use kernel::{Kernel, KernelConfig};
pub use mechanisms::babelfish::Identity;
pub use numa::NumaBalancing;
pub use pagecache::{FileId, MAX_FILE_PAGES};
pub use process::{Group, GroupId, Process, ProcessId, ProcessSpec};
pub use runqueue::RunQueues;
pub use space::{AddressSpace, MmuNotifier, NotifyCx, Owner, SingleTables, SpaceInfo, Tables};
pub use stats::{FaultKind, Stats};
pub use thp::ThpMode;
pub use usage::Resident;
pub use vma::{Backing, HugeAdvice, Policy, Prot, Vma, VmaSet};
