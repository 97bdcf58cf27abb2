//! The atomics that page-table bits (and what mechanisms share between CPUs) live
//! in; replaced by a model checker's under `--cfg loom`, so that schedules can be explored.

#[cfg(loom)]
pub use loom::hint::spin_loop;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub use core::hint::spin_loop;
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};
