//! Systems, experiments, metrics and results.

pub mod names;
pub mod system;

pub use system::{System, SystemError};
