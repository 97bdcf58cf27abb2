//! Places of the last addresses in a trace's dictionary.
//!
//! By the address that the program used: for most accesses of a recording it need not be moved.

/// Log2 of the entries.
const BITS: u32 = 12;
/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Addresses of 48 bits, each with its place below it.
pub(super) type Entries = [u64; 1 << BITS];

/// What is known of a process's addresses.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `None` until they are first asked for.
    entries: Option<Box<Entries>>,
    /// The dictionary that the places are of.
    dictionary: u64,
}

impl Known {
    /// Forgets everything: addresses mean something else.
    pub fn clear(&mut self) {
        if let Some(entries) = &mut self.entries {
            clear(entries);
        }
    }

    /// What is known of places in this dictionary.
    pub fn of(&mut self, dictionary: u64) -> &mut Entries {
        if self.dictionary != dictionary {
            self.clear();
            self.dictionary = dictionary;
        }
        self.entries.get_or_insert_with(|| {
            let mut entries = Box::new([0; 1 << BITS]);
            clear(&mut entries);
            entries
        })
    }
}

/// No address is in its slot then: those that there are belong to another.
pub(super) fn clear(entries: &mut Entries) {
    entries.fill(0);
    entries[0] = 1 << 16;
}

#[inline(always)]
fn slot(address: u64) -> usize {
    ((address << 16).wrapping_mul(GOLDEN) >> (64 - BITS)) as usize
}

/// The place of an address.
#[inline(always)]
pub(super) fn find(entries: &Entries, address: u64) -> Option<u16> {
    let entry = entries[slot(address)];
    ((entry ^ address << 16) >> 16 == 0).then_some(entry as u16)
}

/// Keeps an address's place, and forgets another's for it.
pub(super) fn learn(entries: &mut Entries, address: u64, place: u16) {
    entries[slot(address)] = address << 16 | u64::from(place);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_was_learnt(addresses in prop::collection::vec((0..1_u64 << 14, 0..9_u8), 0..3000)) {
            let mut known = Known::default();
            let mut model = HashMap::new();
            for (i, (address, action)) in addresses.into_iter().enumerate() {
                let address = address.wrapping_sub(100) << 20 >> 17;
                if action == 0 {
                    known.clear();
                }
                let entries = known.of(i as u64 / 1000);
                if action == 0 || i % 1000 == 0 {
                    model.clear();
                }
                let place = find(entries, address);
                prop_assert!(place.is_none() || place == model.get(&address).copied());
                learn(entries, address, i as u16);
                model.insert(address, i as u16);
                prop_assert_eq!(find(entries, address), Some(i as u16));
            }
        }

        #[test]
        fn nothing_is_known_at_first(address in any::<u64>()) {
            for address in [address, address % 256, u64::MAX] {
                prop_assert_eq!(find(Known::default().of(0), address << 16 >> 16), None);
            }
        }
    }
}
