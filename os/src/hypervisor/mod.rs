//! The hypervisor: VMs as address spaces of guest-physical addresses.

mod balloon;
mod dirty;
mod hotplug;
mod merge;
mod place;
mod vm;

pub use dirty::DirtyLog;
pub use hotplug::{GuestAndHost, GuestOnHost, KEPT_BELOW_GAP};
pub use vm::{Slot, SlotId, Vm, VmId, VmSpec};
