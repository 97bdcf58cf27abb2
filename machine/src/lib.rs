//! The modelled hardware: TLBs, page-walk caches, data caches, NUMA memory,
//! cores and their timing.

pub mod input;
