//! Reuse distances of pages: how many other pages were touched since the last
//! touch of this one. An LRU TLB of more entries than that hits.
//!
//! Olken's algorithm: each page is a mark at the time of its last touch, a
//! Fenwick tree counts the marks behind it. Times are renumbered when they
//! run out, so memory is proportional to the pages.

use std::collections::HashMap;

/// Pages that are told apart: 2^25 pages of 4 KiB are 128 GiB, and take 2 GiB here.
const PAGES_MAX: usize = 1 << 25;

/// The pages that were touched, in order of their last touch.
#[derive(Debug)]
pub(super) struct Reuse {
    pages: HashMap<u64, u32>,
    info: Vec<PageInfo>,
    /// Fenwick tree over times, from 1.
    marks: Vec<u32>,
    /// The last time given.
    now: usize,
    last: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct PageInfo {
    time: u32,
    touches: u64,
}

/// What a touch was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touch {
    /// The page's first.
    First,
    /// So many other pages were touched since.
    After(u32),
    /// There are too many pages to tell.
    Unknown,
}

impl Reuse {
    pub(super) fn new() -> Reuse {
        Reuse { pages: HashMap::new(), info: Vec::new(), marks: vec![0; 1 << 12], now: 0, last: None }
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.info.len()
    }

    /// How often each page was touched.
    pub(super) fn touches(&self) -> impl Iterator<Item = u64> {
        self.info.iter().map(|page| page.touches)
    }

    /// The page numbers.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    #[inline]
    pub(super) fn touch(&mut self, page: u64) -> Touch {
        match self.last {
            Some((last, index)) if last == page => {
                self.info[index as usize].touches += 1;
                Touch::After(0)
            }
            _ => self.touch_other(page),
        }
    }

    fn touch_other(&mut self, page: u64) -> Touch {
        if self.now + 1 == self.marks.len() {
            self.renumber();
        }
        let known = self.pages.get(&page).copied();
        if known.is_none() && self.info.len() == PAGES_MAX {
            return Touch::Unknown;
        }
        self.now += 1;
        let now = self.now;
        let (index, touch) = match known {
            Some(index) => {
                let then = self.info[index as usize].time as usize;
                // Marks behind `then`: all pages less those up to it.
                let distance = self.info.len() as u32 - self.sum(then);
                self.add(then, u32::MAX);
                (index, Touch::After(distance))
            }
            None => {
                let index = self.info.len() as u32;
                self.pages.insert(page, index);
                self.info.push(PageInfo { time: 0, touches: 0 });
                (index, Touch::First)
            }
        };
        self.add(now, 1);
        let info = &mut self.info[index as usize];
        info.time = now as u32;
        info.touches += 1;
        self.last = Some((page, index));
        touch
    }

    /// Adds to the mark at `time`; `u32::MAX` takes one away.
    fn add(&mut self, time: usize, amount: u32) {
        let mut at = time;
        while at < self.marks.len() {
            self.marks[at] = self.marks[at].wrapping_add(amount);
            at += at & at.wrapping_neg();
        }
    }

    /// Marks at times up to `time`.
    fn sum(&self, time: usize) -> u32 {
        let (mut at, mut sum) = (time, 0u32);
        while at > 0 {
            sum = sum.wrapping_add(self.marks[at]);
            at &= at - 1;
        }
        sum
    }

    /// Gives the pages the times 1, 2, … in their order.
    #[cold]
    fn renumber(&mut self) {
        let mut order: Vec<u32> = (0..self.info.len() as u32).collect();
        order.sort_unstable_by_key(|index| self.info[*index as usize].time);
        self.marks.clear();
        self.marks.resize((order.len() * 2).max(1 << 12), 0);
        self.now = order.len();
        for (i, index) in order.into_iter().enumerate() {
            self.info[index as usize].time = i as u32 + 1;
            self.add(i + 1, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn distances_equal_those_of_a_list(pages in proptest::collection::vec(0..300u64, 0..9000)) {
            let mut reuse = Reuse::new();
            // Most recent first.
            let mut list: Vec<u64> = Vec::new();
            for page in pages {
                let expected = match list.iter().position(|p| *p == page) {
                    Some(depth) => { list.remove(depth); Touch::After(depth as u32) }
                    None => Touch::First,
                };
                list.insert(0, page);
                prop_assert_eq!(reuse.touch(page), expected);
            }
            prop_assert_eq!(reuse.pages(), list.len());
        }
    }
}
