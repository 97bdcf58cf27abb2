//! Which pages of a VM were stored to.

use paging::SparseFrames;

/// A log of stored-to pages: one bit for each 4 KiB of guest-physical memory.
#[derive(Debug, Default)]
pub struct DirtyLog {
    words: SparseFrames<u64>,
    pages: u64,
}

impl DirtyLog {
    /// Logs `pages` pages from `page` on.
    pub(crate) fn set(&mut self, page: u64, pages: u64) {
        for page in page..page + pages {
            let word = self.words.get_or_default(page >> 6);
            self.pages += u64::from(*word >> (page & 63) & 1 == 0);
            *word |= 1 << (page & 63);
        }
    }
    /// Whether `page` is in the log.
    pub fn contains(&self, page: u64) -> bool {
        self.words.get(page >> 6).is_some_and(|word| word >> (page & 63) & 1 == 1)
    }
    /// Pages in the log.
    pub fn len(&self) -> u64 {
        self.pages
    }
    /// Whether no page is.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }
    /// The pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at << 6 | bit)
        })
    }
}
