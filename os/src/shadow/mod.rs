//! Shadow paging: the hypervisor keeps a table gVA→hPA for each of the guest's
//! page tables, and hardware walks that one.
//!
//! The simple correct form that others are measured against: a shadow table is
//! filled entry by entry on faults; the guest's table pages that it was made
//! from are write-protected, and every store to one is an exit that drops what
//! was derived from the entry at once. Shadow tables of guest roots that are not
//! loaded are kept. (KVM: `arch/x86/kvm/mmu/mmu.c`, without unsync.)
//!
//! A [`ShadowMmu`] is an [`MmuNotifier`](crate::MmuNotifier) of its VM's address space: what the
//! host unmaps or moves leaves the shadow tables too.

mod calls;
mod guest;
mod map;
mod trap;

pub use calls::ShadowFault;
pub use map::{ShadowMmu, ShadowOutcome};
pub use trap::{TrapLog, TrappedTables};
