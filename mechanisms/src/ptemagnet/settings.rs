//! What can be chosen.

/// The choices of [`PteMagnet`](super::PteMagnet).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pages: u32,
    /// Unused frames that all reservations may keep together; `None`: one in 64 of the
    /// memory. Whatever programs do, reservations waste no more than this.
    pub threshold: Option<u64>,
    /// Only for spaces whose group may have this many frames of memory (or has no limit):
    /// small containers have nothing to gain and little to spare.
    pub min_limit: u64,
}

/// The share of the memory that reservations may keep unused if nothing else is said.
pub(super) const SHARE: u64 = 64;

impl Default for Settings {
    /// Reservations of 8 pages, a cache line of page-table entries, for everybody.
    fn default() -> Self {
        Settings { pages: 8, threshold: None, min_limit: 0 }
    }
}

/// No size for a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPages(pub u32);

impl core::fmt::Display for BadPages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a reservation of {} pages cannot be: it has 2, 4, 8, 16, 32 or 64", self.0)
    }
}

impl core::error::Error for BadPages {}

impl Settings {
    /// Reservations of `pages` pages.
    ///
    /// # Errors
    /// If that is not a power of two from 2 to 64.
    pub const fn of(pages: u32) -> Result<Settings, BadPages> {
        if pages.is_power_of_two() && pages >= 2 && pages <= 64 {
            Ok(Settings { pages, threshold: None, min_limit: 0 })
        } else {
            Err(BadPages(pages))
        }
    }
    /// Pages of a reservation.
    pub const fn pages(&self) -> u32 {
        self.pages
    }
    /// The order of a reservation's block.
    pub(super) const fn order(&self) -> u8 {
        self.pages.trailing_zeros() as u8
    }
    /// With this threshold, in frames.
    #[must_use]
    pub const fn threshold(mut self, frames: u64) -> Self {
        self.threshold = Some(frames);
        self
    }
    /// For groups that may have this many frames.
    #[must_use]
    pub const fn min_limit(mut self, frames: u64) -> Self {
        self.min_limit = frames;
        self
    }
}
