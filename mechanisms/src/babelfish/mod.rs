//! BabelFish: one translation for a group of containers.
//!
//! D. Skarlatos, U. Darbaz, B. Gopireddy, N. S. Kim, J. Torrellas: "BabelFish:
//! Fusing Address Translations for Containers", ISCA 2020.
//!
//! Containers that run one image map the same pages at the same places, and
//! yet each caches and builds these translations for itself. Here the processes
//! of a [group](Groups), one user's and one application's, share
//! * **TLB entries**: [`BabelTag`] says when an entry that another process brought
//!   in may serve an access, [`Babel`] lets the walker fetch what the tag needs;
//! * **leaf tables**: [`SharedTables`] lets the upper tables of the members point to
//!   one table where they map the same; a fault that one takes, no other takes again.
//!
//! The software bits of an entry that points to a leaf table say how what is below it is
//! cached: O (bit 10), it is the process's own; ORPC (bit 9), it is the
//! group's, but somebody has a private copy and must be kept from it, by a bit in the
//! [MaskPage](Masks).
//!
//! | file | |
//! |---|---|
//! | `tag.rs`, `aslr.rs` | the hardware: tag, rule, registers, layouts |
//! | `walk.rs`, `mask.rs` | the walker's fetch, and what it fetches |
//! | `group.rs`, `areas.rs` | who is in a group, and who maps what where |
//! | `share.rs`, `tables.rs` | how tables come to be shared and cease to be |
//! | `cost.rs` | silicon and memory |
//!
//! What the paper leaves open is settled so:
//! * Whether two processes may share a table is decided by what they map in its
//!   range ([`paging::Content`]), not by the entries that happen to be present: the
//!   same object, page and rights wherever both map something. A hole fits
//!   everything; a stray access into one may be answered from the group's entries,
//!   as in the paper's hardware, which has no way to know.
//! * Private pages are shared after a `fork`, until they are written, with those who
//!   inherited the table and nobody else. All others that map something there get a bit.
//! * A private copy is always a bit *and* a table. A first private write in a block
//!   that the process has not touched copies the group's table, too.
//! * A store flushes the group's entry of its page wherever its process ran
//!   ([`paging::Reach`]): entries made from then on have its bit, and those that other CPUs keep must not
//!   serve it alone, so a CPU that runs it for the first time forgets them before
//!   ([`paging::TableOps::is_parted`]; the published shootdown goes to all cores). The first private copy in a
//!   block also flushes the paths that walk caches of all members hold: they would go on to fill entries without a mask.
//! * The last sharer that changes something takes the table for its own, and the
//!   group's entries for it are flushed.
//! * Bit numbers belong to a process in the whole group (see [`Masks`]). Those of ended
//!   processes are given out again when none is left, after one flush of the group. If there are
//!   more than 32 writers at a time, the set of the one too many falls back to
//!   private translations (O = 1), as it does if there is no memory for its
//!   MaskPage; its tables stay shared.
//!
//! The kernel's part: it tells [`paging::PageTable::area`] of every mapping, change of rights
//! and unmapping, pays every flush on the CPUs that ran the process, or a
//! member of the group if it [reaches](paging::Reach) further, flushes the group's entries on a CPU that a
//! parted process comes to, and loads [`Process::context`] anew after each fault.

pub use aslr::{Aslr, SEGMENTS, SHIFT_CYCLES, Segment};
pub use group::{GroupError, GroupStats, Groups, Identity, Membership, Process, SharedGroup, Sharing};
pub use mask::{Block, Masks, Set, WRITERS};
pub use tables::{MAX_SHARERS, SharedTables};
pub use tag::{BabelContext, BabelTag, Ccid, FirstLevelNeedsOneLayout, MASK_CYCLES};
pub use walk::{Babel, Masked};

mod areas;
mod aslr;
pub mod cost;
mod group;
mod mask;
mod share;
mod tables;
mod tag;
mod walk;
