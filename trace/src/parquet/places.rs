//! Addresses as places in a dictionary.
//!
//! A loop returns to the same addresses over and over, in orders that repeat. There the dictionary's places compress
//! better than addresses do, and faster. Where a program does not, the dictionary is soon as large as it may be, and the
//! rest of the row group has its addresses as such.

use super::groups::PAGE;
use super::pack::header;
use machine::input::Access;

/// Most addresses of a dictionary. With eight times as many, a search through a graph and the middle of a Python program
/// took a fifth to a half more bytes an access than without a dictionary; with these, none took more.
const MOST: usize = 2048;
/// No place.
const NOTHING: u16 = u16::MAX;
/// A quarter of the slots is taken at most, and all lie in the first-level cache.
const SLOT_BITS: u32 = 13;
/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The addresses of a page.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// What has come into the dictionary since the page before.
    pub(super) new: Vec<u64>,
    /// Of each row the place, and room for as many as a page can have.
    pub(super) places: Vec<u16>,
    /// The dictionary has not room for all addresses.
    pub(super) is_plain: bool,
    /// Of each row the address, if the page is plain; room then as for places.
    pub(super) plain: Vec<u64>,
}

impl Addresses {
    pub(super) fn clear(&mut self) {
        self.new.clear();
        self.is_plain = false;
    }

    /// So many rows as places: their width, then places. `None` if the page is plain.
    pub(super) fn pack(&self, rows: usize, out: &mut Vec<u8>) -> Option<()> {
        if self.is_plain {
            return None;
        }
        out.clear();
        out.push(16);
        header(rows, out);
        let start = out.len();
        // The last group of eight is filled up.
        out.resize(start + 2 * rows.next_multiple_of(8), 0);
        for (to, place) in out[start..].as_chunks_mut().0.iter_mut().zip(&self.places[..rows]) {
            *to = place.to_le_bytes();
        }
        Some(())
    }
}

/// The dictionary of addresses of a row group, as it grows.
#[derive(Debug)]
pub(super) struct Places {
    /// Those that there are come first.
    values: [u64; MOST],
    len: usize,
    /// Places by hash; the next slot where that is taken.
    slots: [u16; 1 << SLOT_BITS],
    /// An address did not fit any more.
    is_full: bool,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { values: [0; MOST], len: 0, slots: [NOTHING; 1 << SLOT_BITS], is_full: false }
    }

    /// Begins another row group.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.slots.fill(NOTHING);
        self.is_full = false;
    }

    /// Appends addresses to a page that has so many rows.
    pub(super) fn add(&mut self, rows: usize, accesses: &[Access], page: &mut Addresses) {
        let known = self.len;
        let mut placed = 0;
        if !self.is_full {
            for (to, access) in page.places[rows..].iter_mut().zip(accesses) {
                let Some(place) = self.place(access.va.raw()) else { break };
                *to = place;
                placed += 1;
            }
        }
        self.settle(known, rows + placed, page);
        if self.is_full {
            let rest = page.plain[rows + placed..].iter_mut().zip(&accesses[placed..]);
            rest.for_each(|(to, access)| *to = access.va.raw());
        }
    }

    /// How many addresses there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether an address did not fit any more.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The page learns what has come since there were so many addresses; and if one did not fit, that it is plain and has
    /// places in so many rows.
    pub(super) fn settle(&self, known: usize, placed: usize, page: &mut Addresses) {
        page.new.extend_from_slice(&self.values[known..self.len]);
        if self.is_full && !page.is_plain {
            page.is_plain = true;
            page.plain.resize(PAGE, 0);
            for (to, &place) in page.plain.iter_mut().zip(&page.places[..placed]) {
                *to = self.values[usize::from(place)];
            }
        }
    }

    /// The place of an address; `None` if there is not room for it.
    #[inline(always)]
    pub(super) fn place(&mut self, address: u64) -> Option<u16> {
        let slot = (address.wrapping_mul(GOLDEN) >> (64 - SLOT_BITS)) as usize;
        let place = self.slots[slot];
        // Nothing's place is behind all others.
        if self.values.get(usize::from(place)) == Some(&address) {
            return Some(place);
        }
        self.look_up(slot, address)
    }

    /// The place of an address whose own slot is another's or nobody's.
    #[inline(never)]
    fn look_up(&mut self, mut slot: usize, address: u64) -> Option<u16> {
        while let Some(value) = self.values.get(usize::from(self.slots[slot])) {
            if *value == address {
                return Some(self.slots[slot]);
            }
            slot = (slot + 1) % (1 << SLOT_BITS);
        }
        let Some(value) = self.values.get_mut(self.len) else {
            self.is_full = true;
            return None;
        };
        *value = address;
        self.slots[slot] = self.len as u16;
        self.len += 1;
        Some(self.slots[slot])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::input::Kind;

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
    fn addresses_come_back_whether_or_not_the_dictionary_is_full() {
        const ROWS: u64 = 1001;
        let mut places = Places::new();
        for _ in 0..2 {
            // Multiples of a large power of two, as pages are, and an address that comes again and again.
            let address = |i: u64| if i.is_multiple_of(3) { 0x7fff_0000 } else { i << 30 };
            let (mut dictionary, mut packed, mut plain) = (Vec::new(), 0, 0);
            for first in (0..6 * ROWS).step_by(ROWS as usize) {
                let expected: Vec<u64> = (first..first + ROWS).map(address).collect();
                let rows: Vec<Access> =
                    expected.iter().map(|&va| Access::new(va, Kind::Read, 0, 1)).collect();
                let mut page = Addresses { places: vec![0; ROWS as usize], ..Addresses::default() };
                for (i, part) in rows.chunks(17).enumerate() {
                    places.add(17 * i, part, &mut page);
                }
                dictionary.extend_from_slice(&page.new);
                let mut out = Vec::new();
                if page.pack(ROWS as usize, &mut out).is_some() {
                    assert_eq!(unpack(&out, ROWS as usize, &dictionary), expected);
                    packed += 1;
                } else {
                    assert_eq!(page.plain[..ROWS as usize], expected);
                    plain += 1;
                }
            }
            // Two thirds of a page's addresses are new: the fourth page does not fit, nor does any after it.
            assert_eq!((packed, plain, dictionary.len()), (3, 3, MOST));
            places.clear();
        }
    }
}
