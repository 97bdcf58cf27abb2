//! Agile paging: a walk that begins in a shadow table and goes on in the guest's own
//! (Gandhi, Hill, Swift: Agile Paging; ISCA 2016). The scheme that others for VMs are
//! measured against.
//!
//! Shadow paging is fast to walk and slow to update, nested paging the other way
//! round; and what is updated often is a small part of a page table, mostly near the leaves.
//! So the hypervisor shadows the upper levels, and where the guest keeps changing a table page, the shadow's entry
//! above has the *switching bit* and points to the guest's page itself ([`switch_entry`]). The walker
//! ([`Agile`]) goes on from there as in a nested walk; stores to that page no longer exit.
//! Where to switch is the hypervisor's to decide, and moves (`os::shadow`).
//!
//! References of a full walk with 4×4 levels: 4 in shadow mode; 8 if the leaf table is nested (three of the shadow, the
//! guest's leaf entry, four of the VM's table for the data page); 12 if two levels are.
//!
//! # What must hold
//!
//! The answer is what a nested walk would give, wherever the switch is: an entry of the shadow is either a leaf
//! that guest and host agree on, or points to a shadow table, or switches to the host frame of the guest's table page.
//!
//! # Where we had to decide
//!
//! The switching bit is bit 9 together with PS, so that software, which drops shadow
//! entries and never follows them, sees a leaf; and so the walk switches
//! into tables of level 1 or 2 only. What changes above (512 GiB at a time) stays shadowed.

mod walk;

pub use walk::{Agile, Switches, is_switch, switch_entry};
