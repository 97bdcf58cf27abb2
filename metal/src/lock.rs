//! The one lock: a CPU that waits for it goes on answering the others.

use crate::smp;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};
use paging::frames::CpuId;

/// What one CPU at a time may use.
///
/// Whoever holds it may send shootdowns and wait for the answers: all other
/// CPUs are in ring 3 or in a guest (which an interrupt ends), halted, or waiting here.
#[derive(Debug)]
pub struct Big<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lets one CPU at a time reach the value.
unsafe impl<T: Send> Sync for Big<T> {}

impl<T> Big<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Big<T> {
        Big { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Uses the value, on `cpu`.
    pub fn with<R>(&self, cpu: CpuId, f: impl FnOnce(&mut T) -> R) -> R {
        smp::until(cpu, "the kernel's lock", || !self.taken.swap(true, Ordering::Acquire));
        // SAFETY: nobody else has set `taken`, and nobody else uses the value without it.
        let done = f(unsafe { &mut *self.value.get() });
        self.taken.store(false, Ordering::Release);
        done
    }
}
