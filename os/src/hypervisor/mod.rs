//! The hypervisor: VMs as address spaces of guest-physical addresses.

mod dirty;
mod vm;

pub use dirty::DirtyLog;
pub use vm::{Slot, SlotId, Vm, VmId, VmSpec};
