//! The host's side of Translation Pass-Through, and the part of a guest's that
//! chooses who takes part.
//!
//! [`PassThrough`] is an [`MmuNotifier`](crate::MmuNotifier) of a VM's address space: whatever
//! changes a leaf of the VM's table (a fault, reclaim and swap, migration, ballooning, merging, a
//! split or a collapse) changes tags and array with it. Exact means: a guest
//! frame has a slot, and its host frame the VM's tag, if and only if a present leaf of the VM's
//! table lets stores through to it. Order when a leaf goes, as everything that a flush
//! owes: tag and slot are cleared, then TLBs and walk caches flushed, then the frame is put.
//!
//! What a guest asks for is [`Kernel::expose_to_vm`](crate::Kernel::expose_to_vm) (it touched a
//! page that had no slot), and to enter and leave the mode. A hostile guest may
//! ask what it likes: it is only ever given frames of its own.
//!
//! Live migration, and whatever else must see each store of a guest, uses the VM's table: the VM
//! falls back to nested paging ([`Kernel::suspend_passthrough`](crate::Kernel::suspend_passthrough)) and returns.

mod calls;
mod host;
mod tables;

pub use calls::PassThroughFlaw;
pub use host::{PassThrough, PassThroughStats};
pub use tables::{Enlightened, TwinTables};
