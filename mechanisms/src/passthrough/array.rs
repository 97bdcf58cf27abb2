//! The array that tells a guest where its memory is: one 64-bit slot for each
//! guest frame, written by the host, read-only to the guest.

use super::words::Words;
use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{Entry, Gfn, Hfn, PageSize};
use spin::Mutex;

/// Bits 12-51: the frame, where an entry has it.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits 52-58: the colour. The walker ignores them in today's entries (SDM 3A table 4-20).
const COLOUR: u64 = 0x7f << COLOUR_SHIFT;
const COLOUR_SHIFT: u32 = 52;
/// Colours are 1 to this; 0 stands for no frame.
pub const COLOURS: u8 = 127;

/// The bits of an entry that the tag check compares: frame and colour.
pub(super) const TARGET: u64 = FRAME | COLOUR;

/// The colour that an entry claims for its frame.
#[inline(always)]
pub const fn colour_of(entry: Entry) -> u8 {
    ((entry.0 & COLOUR) >> COLOUR_SHIFT) as u8
}

/// What the host gave a guest for one of its frames.
///
/// As the array's slot holds it: the frame and the colour where an entry has
/// them, and in bits 0-1 the size of the page that the host mapped there, so
/// that one load tells whether a huge page can be mapped whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Given(u64);

impl Given {
    /// A frame under a colour (1 to 127) in a host page of `size`.
    pub const fn new(frame: Hfn, colour: u8, size: PageSize) -> Given {
        Given((frame.number() << 12) & FRAME | (colour as u64) << COLOUR_SHIFT | (size.level() - 1) as u64)
    }
    /// The host frame.
    pub const fn frame(self) -> Hfn {
        Hfn::new((self.0 & FRAME) >> 12)
    }
    /// The colour that entries must name the frame by.
    pub const fn colour(self) -> u8 {
        ((self.0 & COLOUR) >> COLOUR_SHIFT) as u8
    }
    /// The same in a host page of another size.
    #[must_use]
    pub const fn resized(self, size: PageSize) -> Given {
        Given::new(self.frame(), self.colour(), size)
    }
    /// The host page that it is a part of: aligned alike in both spaces.
    pub const fn size(self) -> PageSize {
        match self.0 & 3 {
            1 => PageSize::Size2M,
            2 => PageSize::Size1G,
            _ => PageSize::Size4K,
        }
    }
    /// An entry with the flags of `entry`, whose frame is a guest's, for this frame.
    pub const fn entry(self, entry: Entry) -> Entry {
        Entry(entry.0 & !TARGET | self.0 & TARGET)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} as {} in {}", self.frame(), self.colour(), self.size())
    }
}

/// The array gPA→hPA of one VM.
///
/// The host publishes and withdraws; it keeps the array exact whatever changes in
/// the VM's table. The guest reads at any time: a slot that it read may be out
/// of date at once, and an entry made from it is then stale, which the tag check
/// finds. Nothing here needs a lock.
#[derive(Debug)]
pub struct HostArray {
    slots: Words,
    frames: u64,
    /// Colours came round: entries made before are not told from new ones until
    /// the guest has looked at all of them.
    epoch: AtomicU64,
    /// What withdrawn frames were, by frame and colour, if that is kept.
    stale: Mutex<Option<BTreeMap<u64, Gfn>>>,
}

impl HostArray {
    /// For a guest of `frames` frames (the highest frame number, plus one).
    pub fn new(frames: u64) -> Self {
        HostArray { slots: Words::new(frames), frames, epoch: AtomicU64::new(0), stale: Mutex::new(None) }
    }

    /// What the guest has for `gfn`; none if the host has not backed it (or does
    /// not let the guest reach it by itself).
    #[inline(always)]
    pub fn get(&self, gfn: Gfn) -> Option<Given> {
        match self.slots.load(gfn.number()) {
            0 => None,
            word => Some(Given(word)),
        }
    }

    /// The host: `gfn` has this frame now. Its tag is there already.
    pub fn publish(&self, gfn: Gfn, given: Given) {
        self.slots.swap(gfn.number(), given.0);
    }

    /// The host: `gfn` has no frame any more. Returns what it had.
    pub fn withdraw(&self, gfn: Gfn) -> Option<Given> {
        match self.slots.swap(gfn.number(), 0) {
            0 => None,
            word => {
                if let Some(stale) = &mut *self.stale.lock() {
                    stale.insert(word & TARGET, gfn);
                }
                Some(Given(word))
            }
        }
    }

    /// Guest frames of `range` that have one, ascending.
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = (Gfn, Given)> + '_ {
        self.slots.range(range).map(|(gfn, word)| (Gfn::new(gfn), Given(word)))
    }

    /// From now on the array remembers which guest frame a withdrawn host frame was: for a guest whose only
    /// tables name host frames.
    pub fn keep_stale(&self) {
        self.stale.lock().get_or_insert_default();
    }

    /// Which guest frame a host frame was under a colour, if it was withdrawn and that is kept.
    pub fn stale(&self, frame: Hfn, colour: u8) -> Option<Gfn> {
        let name = Given::new(frame, colour, PageSize::Size4K).0 & TARGET;
        self.stale.lock().as_ref()?.get(&name).copied()
    }

    /// What it takes of the host's memory: 8 bytes a guest frame, whole pages.
    pub const fn bytes(&self) -> u64 {
        (self.frames * 8).next_multiple_of(4096)
    }

    /// How often the guest was asked to look at all its entries.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The host: the guest has to look at all its entries before it runs on them again.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paging::Flags;

    #[test]
    fn a_slot_keeps_what_it_was_given() {
        let array = HostArray::new(1000);
        assert_eq!(array.bytes(), 8192);
        let given = Given::new(Hfn::new(0x3_4567), 127, PageSize::Size2M);
        array.publish(Gfn::new(999), given);
        array.publish(Gfn::new(5000), given);
        assert_eq!((array.get(Gfn::new(999)), array.get(Gfn::new(5000))), (Some(given), None));
        assert_eq!((given.frame(), given.colour()), (Hfn::new(0x3_4567), 127));
        let guest = Entry::leaf(Gfn::new(999), PageSize::Size4K, Flags::WRITABLE | Flags::NO_EXECUTE);
        let entry = given.entry(guest);
        assert_eq!((entry.frame::<paging::HostPhys>(), colour_of(entry)), (given.frame(), 127));
        assert!(entry.is_present() && entry.has(Flags::WRITABLE | Flags::NO_EXECUTE));
        assert_eq!(array.range(0..u64::MAX).count(), 1);
        assert_eq!(array.withdraw(Gfn::new(999)), Some(given));
        assert_eq!(array.get(Gfn::new(999)), None);
    }
}
