//! Counting different pages, fast and in little memory.

use std::collections::HashMap;

use machine::input::{Access, Event, Setup};

/// Pages of a chunk: 128 MiB in a bitmap of one page.
const CHUNK: u64 = 1 << 15;
/// Pages remembered ahead of the map.
const RECENT: usize = 1024;

/// The different 4 KiB pages that were accessed; the same address in two processes is two pages.
#[derive(Debug)]
pub struct Pages {
    chunks: HashMap<(u16, u64), Box<[u64; CHUNK as usize / 64]>>,
    recent: Box<[(u64, u16); RECENT]>,
    threads: Vec<u16>,
    count: u64,
}

impl Pages {
    /// None yet, in this world.
    pub fn new(setup: &Setup) -> Pages {
        Pages {
            chunks: HashMap::new(),
            recent: Box::new([(u64::MAX, 0); RECENT]),
            threads: setup.threads.iter().map(|t| t.process).collect(),
            count: 0,
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts an access's page.
    #[inline(always)]
    pub fn add(&mut self, access: &Access) {
        let page = access.va.raw() >> 12;
        let recent = &mut self.recent[page as usize % RECENT];
        if *recent != (page, access.thread) {
            *recent = (page, access.thread);
            self.look_up(page, access.thread);
        }
    }

    #[inline(never)]
    fn look_up(&mut self, page: u64, thread: u16) {
        let process = self.threads.get(thread as usize).copied().unwrap_or(0);
        let bits =
            self.chunks.entry((process, page / CHUNK)).or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
        let (word, bit) = ((page % CHUNK / 64) as usize, 1 << (page % 64));
        self.count += (bits[word] & bit == 0) as u64;
        bits[word] |= bit;
    }

    /// Learns of new threads.
    pub fn apply(&mut self, event: &Event) {
        if let Event::Spawn { process, .. } = event {
            self.threads.push(*process);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use machine::input::{Kind, ThreadSetup};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_as_a_set_does(accesses in prop::collection::vec((0..3_u16, 0..1_u64 << 34), 0..500)) {
            let threads = vec![ThreadSetup { process: 0 }, ThreadSetup { process: 1 }];
            let mut pages = Pages::new(&Setup { threads, ..Setup::default() });
            pages.apply(&Event::Spawn { thread: 2, process: 1 });
            let mut set = HashSet::new();
            for (thread, va) in accesses {
                // Dense in some places, so that pages come again.
                let va = if va % 3 == 0 { va } else { va % (1 << 20) };
                pages.add(&Access::new(va, Kind::Read, thread, 1));
                set.insert((thread.min(1), va >> 12));
            }
            prop_assert_eq!(pages.count(), set.len() as u64);
        }
    }
}
