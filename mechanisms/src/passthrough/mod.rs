//! Translation Pass-Through: a guest maps its processes' addresses to host frames
//! itself; tags on frames keep VMs apart (Bergman, Silberstein, Shinagawa,
//! Pietzuch, Vilanova; USENIX ATC 2023).
//!
//! A walk in a VM has two dimensions because the guest's tables name guest
//! frames, which the VM's table turns into host frames. Here the guest is told
//! where its frames are ([`HostArray`]) and keeps a second set of tables that
//! name host frames ([`Twin`]), which hardware walks in one dimension
//! ([`PassThrough`]). What it writes there is its own business: before a frame
//! is used, the hardware compares its tag ([`FrameTags`]) with the VM that runs.
//!
//! | part | who writes it | who reads it |
//! |---|---|---|
//! | [`HostArray`]: gPA→hPA | host, on each change of a leaf of the VM's table | guest |
//! | [`FrameTags`]: owner and colour of each frame | host, with the array | walkers |
//! | [`Twin`]s (or, where the whole guest is enlightened, its only tables: [`Direct`]) | guest; accessed and dirty bits: walkers | walkers |
//!
//! # What must hold
//!
//! * With both checks on, no access of a guest, whatever bits it wrote into frames
//!   of its own, reaches a frame that is not tagged for it, as data or as a table.
//! * Frames leave a guest in this order: tag cleared, array slot cleared, TLBs and walk
//!   caches flushed, frame released. So a stale entry is a fault, never a leak.
//! * A guest that follows the protocol sees what nested paging would show it: the
//!   twin of each entry is what the entry and the array say, or empty, or stale, and the latter two
//!   are faults that [`fault_in`](paging::TableOps::fault_in) mends.
//! * Accessed and dirty bits are the OR of both tables; none is lost.
//!
//! `tests/passthrough.rs` holds the guest's side to an independent model, and
//! lets a guest write anything at all; `os/tests/passthrough.rs` holds the host's side.
//!
//! # Where we had to decide
//!
//! The paper's text is not public where we looked; its artifact has the guest's
//! side and no tags. So:
//!
//! * **Colours.** An owner alone does not tell a stale entry of a guest from a good one
//!   once the same guest gets the frame back for another of its pages; the guest
//!   would read its own wrong page. A frame's colour (7 bits, in bits of an entry that hardware ignores
//!   today) changes each time it is given. After 127 times a guest looks at all its entries.
//! * **Huge pages.** The array's slot says how large the host's page is, so one load tells
//!   whether a huge leaf can pass; if not, the twin has a page of smaller entries ("splinter").
//!   The check admits no more than the host's page: a huge entry reaches foreign memory never,
//!   whatever it overlaps.
//! * **Frames that the host write-protects** (merged, shared with a snapshot, logged) are not given:
//!   a tag has no rights. They count as not backed, and being touched makes them the guest's own.
//! * **A page that is not backed yet** is touched by the guest's kernel, which the VM's table
//!   notices; then the slot is there. As in the artifact.

mod array;
pub mod attack;
mod direct;
mod tags;
mod twin;
mod walk;
mod words;

pub use array::{COLOURS, Given, HostArray, colour_of};
pub use direct::{Direct, Enlightenment, GuestTables};
pub use tags::{FrameTags, Owner, TAG_BYTES, Tag, TagPlaces};
pub use twin::{Twin, TwinPages, twin_of};
pub use walk::{Checks, Entered, FrameBits, LeafPlace, PassThrough};
