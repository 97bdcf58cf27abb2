//! The published mechanisms on real x86-64 page-table bits.
//!
//! Each is an implementation of one or two of the seams of [`paging`], and its
//! module holds all of it: the state that hardware would add, the software, and
//! what must hold. The crate is `no_std`, does no I/O, and has no clock and no
//! randomness; nothing in it knows whether the machine is modelled.
#![no_std]
extern crate alloc;

pub mod agile;
pub mod babelfish;
pub mod flattened;
pub mod mechanism;
pub mod mitosis;
pub mod passthrough;
pub mod ptemagnet;
pub mod segments;

// The list of names. A mechanism is a folder with a module above, and a line here.
mechanism::mechanisms! {
    /// Flattened page tables.
    Flattened = "flattened": flattened::Flattened,
}
