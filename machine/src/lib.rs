//! The modelled hardware: TLBs, page-walk caches, data caches, NUMA memory,
//! cores and their timing.

pub mod cache;
pub mod input;
pub mod numa;
pub mod profile;
pub mod set;
pub mod tlb;
pub mod walkcache;
