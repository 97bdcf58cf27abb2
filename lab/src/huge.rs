//! Huge pages for our own memory: the simulator misses its TLB where the
//! modelled machine misses its own.
//!
//! Tables and tags are large arrays that are read at random, and Linux gives
//! huge pages only to who asks (`transparent_hugepage/enabled` is `madvise` on
//! most systems). [`HugePages`] is a global allocator that asks, for every
//! allocation of 2 MiB or more, and leaves all others to the system's. A binary
//! chooses it: `#[global_allocator] static ALLOC: HugePages = HugePages;`.
#![expect(unsafe_code, reason = "a global allocator cannot be written without")]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a huge page on x86-64, and of one step of other machines'.
const HUGE: usize = 2 << 20;

/// The system's allocator, with huge pages for what is large.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

const fn is_large(layout: &Layout) -> bool {
    layout.size() >= HUGE && layout.align() <= HUGE
}

/// Bytes that are mapped for `size`.
const fn whole(size: usize) -> usize {
    size.next_multiple_of(HUGE)
}

/// Zeroed memory of `size` bytes, in huge pages if the system has them; null if
/// it has no memory.
fn map(size: usize) -> *mut u8 {
    let (size, room) = (whole(size), whole(size) + HUGE);
    // SAFETY: a new mapping at an address that the system chooses touches nobody's memory.
    let mapped = unsafe {
        mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let Ok(start) = mapped else { return std::ptr::null_mut() };
    let skip = start.cast::<u8>().align_offset(HUGE);
    // SAFETY: both ends lie in the new mapping, and nobody knows of them yet.
    unsafe {
        let first = start.byte_add(skip);
        if skip > 0 {
            let _ = munmap(start, skip);
        }
        let rest = room - skip - size;
        if rest > 0 {
            let _ = munmap(first.byte_add(size), rest);
        }
        // A wish: without huge pages everything works as well, only slower.
        let _ = madvise(first, size, Advice::LinuxHugepage);
        first.cast()
    }
}

// SAFETY: large layouts get a mapping of their own, aligned to `HUGE`, at least
// `whole(size)` bytes long, that `dealloc` unmaps with the same length; all other
// calls are the system allocator's. `is_large` depends on the layout alone, so
// that an allocation is returned to where it came from.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            // New mappings are zeroed.
            return map(layout.size());
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if is_large(&layout) {
            // SAFETY: `ptr` came from `map` with the same size.
            let _ = unsafe { munmap(ptr.cast(), whole(layout.size())) };
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }

    // `realloc` is the default one: allocate, copy, free. Whoever grows large
    // arrays step by step does it in steps of twice the size.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_is_aligned_zeroed_and_returned() {
        for size in [HUGE, HUGE + 1, 5 * HUGE - 4096] {
            let layout = Layout::from_size_align(size, 4096).unwrap();
            // SAFETY: the layout has a size, and the memory is used within it and freed once.
            unsafe {
                let at = HugePages.alloc_zeroed(layout);
                assert!(!at.is_null() && at.addr().is_multiple_of(HUGE));
                assert!((0..size).step_by(4096).all(|i| *at.add(i) == 0));
                *at.add(size - 1) = 1;
                HugePages.dealloc(at, layout);
            }
        }
    }

    #[test]
    fn small_memory_is_the_systems() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: as above.
        unsafe {
            let at = HugePages.alloc(layout);
            assert!(!at.is_null());
            let at = HugePages.realloc(at, layout, HUGE);
            let layout = Layout::from_size_align(HUGE, 8).unwrap();
            assert!(at.addr().is_multiple_of(HUGE), "it grew large");
            HugePages.dealloc(at, layout);
        }
    }
}
