//! Addresses as places in a dictionary.
//!
//! A loop returns to the same addresses over and over, in orders that repeat. There the dictionary's places compress
//! better than addresses do, and faster. Where a program does not, the dictionary is soon as large as it may be, and the
//! rest of the row group has its addresses as such.

use super::pack::header;

/// Most addresses of a dictionary. With eight times as many, a search through a graph and the middle of a Python program
/// took a fifth to a half more bytes an access than without a dictionary; with these, none took more.
const MOST: usize = 2048;
/// No place.
const NOTHING: u16 = u16::MAX;
/// A quarter of the slots is taken at most, and all lie in the first-level cache.
const SLOT_BITS: u32 = 13;
/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The dictionary of addresses of a row group, as it grows.
pub(super) struct Places {
    values: Vec<u64>,
    /// Places by hash; the next slot where that is taken.
    slots: Box<[u16; 1 << SLOT_BITS]>,
    /// An address did not fit any more.
    is_full: bool,
}

impl Places {
    pub(super) fn new() -> Places {
        let slots = vec![NOTHING; 1 << SLOT_BITS].into_boxed_slice().try_into().expect("as many");
        Places { values: Vec::new(), slots, is_full: false }
    }

    /// The addresses, each at its place.
    pub(super) fn values(&self) -> &[u64] {
        &self.values
    }

    /// Begins another row group.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.slots.fill(NOTHING);
        self.is_full = false;
    }

    /// A page of so many addresses: the width of a place, then places. `false` if they do not all fit into the dictionary, now or
    /// on an earlier page.
    pub(super) fn page(
        &mut self,
        rows: usize,
        addresses: impl Iterator<Item = u64>,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.is_full {
            return false;
        }
        out.clear();
        out.push(16);
        header(rows, out);
        let start = out.len();
        // The last group of eight is filled up.
        out.resize(start + 2 * rows.next_multiple_of(8), 0);
        for (to, address) in out[start..].as_chunks_mut().0.iter_mut().zip(addresses) {
            match self.place(address) {
                Some(place) => *to = place.to_le_bytes(),
                None => return false,
            }
        }
        true
    }

    #[inline(always)]
    fn place(&mut self, address: u64) -> Option<u16> {
        let mut slot = (address.wrapping_mul(GOLDEN) >> (64 - SLOT_BITS)) as usize;
        loop {
            let place = self.slots[slot];
            match self.values.get(usize::from(place)) {
                Some(value) if *value == address => return Some(place),
                Some(_) => slot = (slot + 1) % (1 << SLOT_BITS),
                // Nothing's place is behind all others.
                None => return self.insert(slot, address),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn insert(&mut self, slot: usize, address: u64) -> Option<u16> {
        if self.values.len() == MOST {
            self.is_full = true;
            return None;
        }
        let place = self.values.len() as u16;
        self.values.push(address);
        self.slots[slot] = place;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of a page, through the dictionary.
    fn unpack(page: &[u8], rows: usize, dictionary: &[u64]) -> Vec<u64> {
        let at = page.len() - 2 * rows.next_multiple_of(8);
        assert_eq!(page[0], 16);
        page[at..].as_chunks().0[..rows]
            .iter()
            .map(|p| dictionary[usize::from(u16::from_le_bytes(*p))])
            .collect()
    }

    #[test]
    fn addresses_come_back_until_the_dictionary_is_full() {
        let mut places = Places::new();
        for _ in 0..2 {
            // Multiples of a large power of two, as pages are, and an address that comes again and again.
            let address = |i: u64| if i.is_multiple_of(3) { 0x7fff_0000 } else { i << 30 };
            let mut pages = Vec::new();
            let mut first = 0;
            let taken = loop {
                let mut page = Vec::new();
                if !places.page(1001, (first..first + 1001).map(address), &mut page) {
                    break first;
                }
                pages.push((first, page));
                first += 1001;
            };
            assert_eq!(places.values().len(), MOST);
            assert!((MOST as u64..MOST as u64 + 1001).contains(&(taken / 3 * 2 + 1001)), "{taken}");
            for (first, page) in pages {
                let expected: Vec<u64> = (first..first + 1001).map(address).collect();
                assert_eq!(unpack(&page, 1001, places.values()), expected);
            }
            assert!(!places.page(1, [0x7fff_0000].into_iter(), &mut Vec::new()), "it stays full");
            places.clear();
        }
    }
}
