//! Shadow paging: the hypervisor keeps a table gVA→hPA for each of the guest's
//! page tables, and hardware walks that one.
//!
//! As KVM does it (`arch/x86/kvm/mmu/mmu.c`): a shadow table is filled entry by
//! entry on faults; the guest's table pages that it was made from are
//! write-protected, and a store to one is an exit that drops what was derived from the entry. A leaf table
//! goes *out of sync* at its first store: later ones do not exit, and the page is compared when the guest
//! flushes, all such pages in one batch ([`Trapping::Unsync`]). Shadow tables of guest roots that are not
//! loaded are kept. [`Trapping::Agile`] is agile paging: see [`mechanisms::agile`].
//!
//! A [`ShadowMmu`] is an [`MmuNotifier`](crate::MmuNotifier) of its VM's address space: what the
//! host unmaps or moves leaves the shadow tables too.

mod agile;
mod calls;
mod guest;
mod map;
mod prefetch;
mod trap;

pub use calls::ShadowFault;
pub use map::{ShadowMmu, ShadowOutcome};
pub use trap::{TrapLog, TrappedTables, Trapping};
