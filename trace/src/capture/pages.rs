//! Counting different pages, fast and in little memory.

use std::collections::HashMap;

/// Pages of a chunk: 128 MiB in a bitmap of one page.
const CHUNK: u64 = 1 << 15;
/// Pages remembered ahead of the map.
const RECENT: usize = 1024;

/// The different 4 KiB pages that were accessed; the same address in two processes is two pages.
#[derive(Debug)]
pub struct Pages {
    chunks: HashMap<(u16, u64), Box<[u64; CHUNK as usize / 64]>>,
    recent: Box<[(u64, u16); RECENT]>,
    count: u64,
}

impl Pages {
    /// None yet.
    pub fn new() -> Pages {
        Pages { chunks: HashMap::new(), recent: Box::new([(u64::MAX, 0); RECENT]), count: 0 }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts the page of an address, if it was not counted before.
    #[inline]
    pub fn add(&mut self, process: u16, va: u64) {
        let page = va >> 12;
        let recent = &mut self.recent[page as usize % RECENT];
        if *recent != (page, process) {
            *recent = (page, process);
            self.look_up(process, page);
        }
    }

    fn look_up(&mut self, process: u16, page: u64) {
        let bits =
            self.chunks.entry((process, page / CHUNK)).or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
        let (word, bit) = ((page % CHUNK / 64) as usize, 1 << (page % 64));
        self.count += (bits[word] & bit == 0) as u64;
        bits[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_as_a_set_does(accesses in prop::collection::vec((0..3_u16, 0..1_u64 << 34), 0..500)) {
            let mut pages = Pages::new();
            let mut set = HashSet::new();
            for (process, va) in accesses {
                // Dense in some places, so that pages come again.
                let va = if va % 3 == 0 { va } else { va % (1 << 20) };
                pages.add(process, va);
                set.insert((process, va >> 12));
            }
            prop_assert_eq!(pages.count(), set.len() as u64);
        }
    }
}
