//! Pagewalk as a library: what address translation costs a program's accesses, under real page tables.
//!
//! Three kinds of programs use it, and each has an example:
//!
//! * compare systems on a workload or trace (`examples/compare.rs`): [`System`], [`Experiment`], [`run`], [`Outcome`];
//! * write a mechanism (`examples/mechanism.rs`): implement a seam of [`paging`], and try it in an [`os`] kernel;
//! * take the tables of a mechanism into a kernel of one's own (`examples/kernel.rs`): [`mechanisms`] on [`paging`], which
//!   know nothing of the rest and are `no_std`. Such a kernel depends on those crates alone.
//!
//! ```
//! use pagewalk::{Experiment, System, machine, run, workload};
//!
//! let profile = machine::profile::Profile::builtin("skylake-sp")?;
//! let experiment = Experiment {
//!     warmup: 10_000,
//!     accesses: Some(10_000),
//!     ..Experiment::new(profile, [System::parse("native")?, System::parse("nested")?])
//! };
//! let outcomes = run(&experiment, &mut *workload("gups:footprint=64MiB", 1)?)?;
//! // The same accesses: in a VM each walk has two dimensions.
//! assert_eq!(outcomes[0].tlb.stlb_misses, outcomes[1].tlb.stlb_misses);
//! assert!(outcomes[1].slowdown(&outcomes[0]) > 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crates below are re-exported whole, as their own documentation has them. The command line is this package's
//! program, behind the feature `cli`, which is on by default: a program that wants the library alone turns default
//! features off.

pub use lab::experiment::{Experiment, ExperimentError};
pub use lab::outcome::Outcome;
pub use lab::system::{System, SystemError};
pub use machine::input::Source;
pub use {machine, mechanisms, os, paging, trace};

use std::ops::ControlFlow;

/// Runs all systems of an experiment on the accesses of `source`, in the order of its systems.
///
/// # Errors
/// If the input cannot be read, or a system makes no sense on the machine or for the input.
pub fn run(experiment: &Experiment, source: &mut dyn Source) -> Result<Vec<Outcome>, ExperimentError> {
    lab::experiment::run(experiment, source, &mut |_| ControlFlow::Continue(()))
}

/// A workload by name and parameters, as `pagewalk list workloads` has them: `gups:footprint=1GiB`; programs that
/// run together are joined by ` + `.
///
/// # Errors
/// If there is no such workload or parameter, with the nearest that there is.
pub fn workload(spec: &str, seed: u64) -> Result<Box<dyn Source + Send>, workloads::WorkloadError> {
    workloads::build(spec, seed)
}
