//! x86-64 paging for kernels, hypervisors and simulators: typed addresses,
//! page-table entries, tables, the walker, frame allocators, and the seams
//! that the mechanisms plug into.
//!
//! The crate is `no_std`, does no I/O, has no clock and no randomness of its
//! own. The same code runs under the modelled MMU of `machine` and on a bare
//! machine.
//!
//! | seam | what it decides | baseline here |
//! |---|---|---|
//! | [`TableMemory`] | where table bits live | [`Arena`] |
//! | [`Walked`] | where in a table a walker finds the entry for an address | any [`TableMemory`]: a page a level |
//! | [`TableOps`] | how table pages are allocated, freed, written, read back; which root a node loads | [`OneCopy`] |
//! | [`FrameSource`] | which frame answers a fault | [`FromBuddy`] |
//! | [`Translation`] | the way from a virtual address to host memory, step by step | [`Native`], [`Nested`], [`Shadow`] |
//! | [`TlbTag`] | when a cached entry may serve an access | [`AsidVmid`] |
#![no_std]
extern crate alloc;

pub mod addr;
pub mod entry;
pub mod flush;
pub mod frames;
pub mod lines;
pub mod memory;
pub mod ops;
pub mod prefetch;
pub mod random;
pub mod source;
pub mod sparse;
pub mod sync;
pub mod table;
pub mod tag;
pub mod walk;

pub use addr::{Addr, Frame, Gfn, Gpa, GuestPhys, Hfn, HostPhys, Hpa, PageSize, PhysSpace, Space, Va, Virt};
pub use entry::{Entry, Flags};
pub use flush::{Extent, Flush, FlushRange, Gone, Reach, Released};
pub use frames::{FramePool, NoFrame, NodeId};
pub use memory::{Arena, Descriptor, ENTRIES, Slot, TableMemory};
pub use ops::{Content, NewTable, OneCopy, TableAt, TableEnv, TableFrames, TableOps, Visibility, Work};
pub use source::{FrameRequest, FrameSource, FromBuddy, Unmapped};
pub use sparse::SparseFrames;
pub use table::{Forked, Found, LeafAt, MapError, PageTable};
pub use tag::{AsidVmid, TlbTag, tlb_key};
pub use walk::{
    CachedTable, Cell, Check, Dim, Direct, Fault, HostDim, HostLeaf, HostStage, Intent, Leaf, Native, Nested,
    Port, Rights, Shadow, Translation, Walked, Why,
};
