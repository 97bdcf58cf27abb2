//! Systems, experiments, metrics and results.

pub mod advise;
pub mod contained;
pub mod containers;
pub mod experiment;
pub mod figures;
pub mod groups;
pub mod hardware;
pub mod huge;
pub mod layout;
pub mod look;
pub mod matrix;
mod named;
pub mod names;
pub mod numa;
pub mod oracle;
pub mod outcome;
pub mod passthrough;
mod randomised;
pub mod reproduce;
pub mod results;
pub mod scenario;
pub mod segments;
pub mod shareable;
pub mod sharing;
pub mod soak;
pub mod sweep;
pub mod system;
pub mod tagged;
pub mod world;

pub use outcome::Outcome;
pub use system::{System, SystemError};

/// How many may work at the same time: `threads`, or one on each core that this process has for 0.
pub fn workers(threads: usize) -> usize {
    if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads }
}
