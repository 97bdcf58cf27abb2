//! The modelled hardware: TLBs, page-walk caches, data caches, NUMA memory,
//! cores and their timing.

pub mod cache;
pub mod core;
mod datapath;
pub mod explain;
pub mod input;
pub mod machine;
pub mod metrics;
pub mod numa;
mod port;
pub mod profile;
mod recent;
pub mod set;
pub mod timing;
pub mod tlb;
pub mod uncore;
pub mod walkcache;

pub use machine::{Machine, Scope, Whose};
