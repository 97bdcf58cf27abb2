//! Workloads: address-exact generators of real algorithms' accesses, without
//! their data.
//!
//! Each module re-implements the inner loops of one program: which array, which
//! element, in which order, by which thread. Values that decide addresses are
//! recomputed (hashes, permutations, closed forms), so that a 440 GiB data set
//! costs kilobytes here. Each module says where its pattern comes from, and
//! what is estimated.
//!
//! ```
//! let mut gups = workloads::build("gups:footprint=64GiB", 1)?;
//! let setup = gups.setup().unwrap();
//! assert_eq!(setup.processes[0].regions[0].len, 64 << 30);
//! # Ok::<(), workloads::WorkloadError>(())
//! ```
//!
//! # What an access is here
//!
//! * Loads and stores of the data structures, in program order per thread. What
//!   stays in registers or in one always-hot stack page (loop counters, spilled
//!   temporaries) is not emitted, nor are instruction fetches (but in containers, whose
//!   code is large).
//! * Loops over single array elements (stream, GUPS, graph edges) give one
//!   access an element. Scans, copies and comparisons inside one object (the
//!   keys of a tree node, an item's value) give one access a cache line, as
//!   their vector instructions do.
//! * `insns` counts the instructions of the compiled inner loop up to and with
//!   the access, counted in each module from the source at `-O2`: an estimate,
//!   good to perhaps a quarter.
//! * [`machine::input::Access::DEPENDENT`] is set where the address needs the
//!   value that the thread's previous access loads, [`machine::input::Access::LOCKED`] where
//!   the instruction has a lock prefix.
//! * Threads take turns, a block each.

mod chained;
mod emit;
mod layout;
mod levels;
mod parameters;
mod random;
mod registry;
mod skew;
mod together;

mod bfs;
mod btree;
mod canneal;
mod cc;
mod chase;
mod churn;
mod containers;
mod gcc;
mod graph;
mod growkv;
mod gups;
mod hashjoin;
mod inference;
mod kv;
mod liblinear;
mod mcf;
mod nibble;
mod omnetpp;
mod pagerank;
mod stream;
mod turmoil;
mod xsbench;
mod xz;
mod zipf;

pub use parameters::{Parameter, Parameters, Unit, Value, size};
pub use registry::{Workload, WorkloadError, build, build_with, find, list, parse};
pub use together::{QUANTUM, Together};

const ALL: &[Workload] = &[
    gups::WORKLOAD,
    chase::WORKLOAD,
    stream::WORKLOAD,
    zipf::WORKLOAD,
    kv::WORKLOAD,
    xsbench::WORKLOAD,
    btree::WORKLOAD,
    hashjoin::WORKLOAD,
    bfs::WORKLOAD,
    pagerank::WORKLOAD,
    cc::WORKLOAD,
    nibble::WORKLOAD,
    liblinear::WORKLOAD,
    canneal::WORKLOAD,
    mcf::WORKLOAD,
    gcc::WORKLOAD,
    omnetpp::WORKLOAD,
    xz::WORKLOAD,
    growkv::WORKLOAD,
    churn::WORKLOAD,
    inference::WORKLOAD,
    turmoil::WORKLOAD,
    containers::MONGODB,
    containers::ARANGODB,
    containers::HTTPD,
    containers::GRAPHCHI,
    containers::FIO,
    containers::FUNCTIONS,
];

#[cfg(test)]
mod tests;
