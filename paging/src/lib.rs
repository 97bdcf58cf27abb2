//! x86-64 paging for kernels, hypervisors and simulators: typed addresses,
//! page-table entries, tables, the walker, frame allocators, and the seams
//! that the mechanisms plug into.
//!
//! The crate is `no_std`, does no I/O, has no clock and no randomness of its
//! own. The same code runs under the modelled MMU of `machine` and on a bare
//! machine.
//!
#![no_std]
extern crate alloc;

pub mod addr;

pub use addr::{Addr, Frame, Gfn, Gpa, GuestPhys, Hfn, HostPhys, Hpa, PageSize, PhysSpace, Space, Va, Virt};
