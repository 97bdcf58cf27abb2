//! The atomics that page-table bits live in; replaced by a model checker's
//! under `--cfg loom`, so that schedules can be explored.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};
