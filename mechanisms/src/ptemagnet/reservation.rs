//! One entry of the table: a block of frames, who has which of them, and its lock.

use paging::sync::{AtomicU64, Ordering, spin_loop};

/// Bit 0 of the first word: somebody works on the entry.
const LOCK: u64 = 1;

/// The reservation for one aligned region of virtual pages: a block of as many
/// frames, the `i`-th of which is for the region's `i`-th page.
///
/// A frame of the block is *unused* (the reservation owns it), *mapped* by the
/// space at its page, or neither: gone for good, to whoever has it now. The
/// published code keeps a pointer and 8 bits in one word and has a spin lock beside
/// it; with up to 64 pages and a second mask it is three words, the first of which has the lock.
#[derive(Debug, Default)]
pub struct Reservation {
    /// Number of the block's first frame plus one, shifted left by one; [`LOCK`].
    block: AtomicU64,
    unused: AtomicU64,
    mapped: AtomicU64,
}

/// A reservation that nobody else can touch. Unlocks when it goes.
#[derive(Debug)]
pub struct Locked<'a> {
    entry: &'a Reservation,
    /// What the first word becomes.
    block: u64,
}

impl Reservation {
    /// Waits for the entry's lock and takes it.
    pub fn lock(&self) -> Locked<'_> {
        loop {
            let seen = self.block.load(Ordering::Relaxed) & !LOCK;
            let taken = self.block.compare_exchange(seen, seen | LOCK, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                return Locked { entry: self, block: seen };
            }
            spin_loop();
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.entry.block.store(self.block, Ordering::Release);
    }
}

impl Locked<'_> {
    /// The number of the block's first frame, if there is one.
    pub fn block(&self) -> Option<u64> {
        (self.block >> 1).checked_sub(1)
    }
    /// Frames that the reservation owns, as a mask.
    pub fn unused(&self) -> u64 {
        self.entry.unused.load(Ordering::Relaxed)
    }
    /// Pages of the space that map their frame of the block, as a mask.
    pub fn mapped(&self) -> u64 {
        self.entry.mapped.load(Ordering::Relaxed)
    }

    /// A block of `pages` frames from `first` on; page `index` maps its own at once.
    pub fn begin(&mut self, first: u64, pages: u32, index: u32) {
        debug_assert!(self.block().is_none(), "a reservation is ended before another begins");
        self.block = (first + 1) << 1;
        self.entry.unused.store(mask(pages) & !(1 << index), Ordering::Relaxed);
        self.entry.mapped.store(1 << index, Ordering::Relaxed);
    }

    /// The frame for page `index`, if it is unused: the caller's from now on. `own`:
    /// the space of this entry maps it, not a child.
    pub fn take(&mut self, index: u32, own: bool) -> Option<u64> {
        let (first, unused) = (self.block()?, self.unused());
        if unused >> index & 1 == 0 {
            return None;
        }
        self.entry.unused.store(unused & !(1 << index), Ordering::Relaxed);
        if own {
            self.entry.mapped.store(self.mapped() | 1 << index, Ordering::Relaxed);
        }
        Some(first + u64::from(index))
    }

    /// Page `index` no longer maps `frame`. Whether the frame was the block's; with
    /// `keep` it is the reservation's again.
    pub fn unmap(&mut self, index: u32, frame: u64, keep: bool) -> bool {
        let mapped = self.mapped();
        if self.block().map(|first| first + u64::from(index)) != Some(frame) || mapped >> index & 1 == 0 {
            return false;
        }
        self.entry.mapped.store(mapped & !(1 << index), Ordering::Relaxed);
        if keep {
            self.entry.unused.store(self.unused() | 1 << index, Ordering::Relaxed);
        }
        true
    }

    /// Lets go of the unused frames of `which`. Returns which those were.
    pub fn release(&mut self, which: u64) -> u64 {
        let unused = self.unused();
        self.entry.unused.store(unused & !which, Ordering::Relaxed);
        unused & which
    }

    /// The entry is empty. What was unused is the caller's.
    pub fn end(&mut self) -> u64 {
        self.block = 0;
        self.entry.mapped.store(0, Ordering::Relaxed);
        self.release(u64::MAX)
    }
}

/// The lowest `pages` bits.
pub(super) const fn mask(pages: u32) -> u64 {
    u64::MAX >> (64 - pages)
}
