//! Small values as places in a dictionary, in runs or packed bits
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).
//!
//! Nearly all values are below 256, and for them the dictionary is the identity: a value is its own place, nothing is
//! looked up. Larger ones come behind these 256, in the order in which they appear.

/// Places below this are values themselves.
const OWN: usize = 256;

/// The dictionary of a column in a row group, as it grows.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    /// The largest value below [`OWN`].
    largest: u8,
    /// Larger values.
    others: Vec<u16>,
    /// Place of a value that is not its own place; 0 where it has none. Empty until there is one.
    places: Vec<u16>,
}

impl Dictionary {
    /// Its values.
    pub(super) fn values(&self) -> impl Iterator<Item = u16> {
        let own = if self.others.is_empty() { u16::from(self.largest) } else { OWN as u16 - 1 };
        (0..=own).chain(self.others.iter().copied())
    }

    /// Begins another row group.
    pub(super) fn clear(&mut self) {
        self.largest = 0;
        self.others.drain(..).for_each(|value| self.places[usize::from(value)] = 0);
    }

    /// A page of values, of which the low bytes are given and the high ones if there can be any: the width of a place, then
    /// places.
    pub(super) fn page(&mut self, low: &[u8], high: Option<&[u8]>, out: &mut Vec<u8>) {
        out.clear();
        match high {
            Some(high) if high.iter().fold(0, |any, byte| any | byte) != 0 => {
                let values = low.iter().zip(high).map(|(&low, &high)| u16::from_le_bytes([low, high]));
                out.push(16);
                header(low.len(), out);
                out.extend(values.flat_map(|value| self.place(value).to_le_bytes()));
                // The last group of eight is filled up.
                out.resize(out.len() + 2 * (low.len().next_multiple_of(8) - low.len()), 0);
            }
            _ => {
                let (least, most) = low.iter().fold((u8::MAX, 0), |(a, b), &v| (a.min(v), b.max(v)));
                if least == most {
                    self.run(most, low.len(), out);
                } else {
                    self.largest = self.largest.max(most);
                    let width = width(most);
                    out.push(width as u8);
                    header(low.len(), out);
                    pack(low, width, out);
                }
            }
        }
    }

    /// A page of one value.
    pub(super) fn run(&mut self, value: u8, rows: usize, out: &mut Vec<u8>) {
        self.largest = self.largest.max(value);
        out.clear();
        out.push(width(value) as u8);
        varint((rows as u64) << 1, out);
        out.push(value);
    }

    fn place(&mut self, value: u16) -> u16 {
        if usize::from(value) < OWN {
            self.largest = self.largest.max(value as u8);
            return value;
        }
        if self.places.is_empty() {
            self.places = vec![0; 1 << 16];
        }
        let place = &mut self.places[usize::from(value)];
        if *place == 0 {
            *place = (OWN + self.others.len()) as u16;
            self.others.push(value);
        }
        *place
    }
}

/// Bits of a place: a power of two, because what repeats then repeats byte by byte, and compresses to a third of what it
/// does else.
fn width(most: u8) -> u32 {
    (8 - most.leading_zeros()).next_power_of_two()
}

/// Announces packed places, in groups of eight.
pub(super) fn header(values: usize, out: &mut Vec<u8>) {
    varint((values.div_ceil(8) as u64) << 1 | 1, out);
}

/// The definition levels of a page of nulls: a run of level 0, behind its length in bytes.
pub(super) fn levels(rows: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 4]);
    varint((rows as u64) << 1, out);
    out.push(0);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// A number in groups of 7 bits, least first.
fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The lowest `width` bits of each value, 1, 2, 4 or 8, in groups of eight; the last group is filled up.
fn pack(values: &[u8], width: u32, out: &mut Vec<u8>) {
    let end = out.len() + values.len().div_ceil(8) * width as usize;
    match width {
        8 => out.extend_from_slice(values),
        4 => halve::<4>(values, out),
        2 => pack(&halves::<2>(values), 4, out),
        _ => pack(&halves::<1>(values), 2, out),
    }
    out.resize(end, 0);
}

fn halves<const WIDTH: u32>(values: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len().div_ceil(2));
    halve::<WIDTH>(values, &mut out);
    out
}

/// Two values of so many bits into a byte each: a loop that compilers make wide instructions of.
fn halve<const WIDTH: u32>(values: &[u8], out: &mut Vec<u8>) {
    let (pairs, rest) = values.as_chunks();
    out.extend(pairs.iter().map(|&pair| {
        let both = u16::from_le_bytes(pair);
        (both | both >> (8 - WIDTH)) as u8
    }));
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of a page.
    fn unpack(page: &[u8], rows: usize, dictionary: &[u16]) -> Vec<u16> {
        let (width, mut at) = (usize::from(page[0]), 1);
        let (mut head, mut shift) = (0, 0);
        loop {
            head |= usize::from(page[at] & 0x7f) << shift;
            shift += 7;
            at += 1;
            if page[at - 1] & 0x80 == 0 {
                break;
            }
        }
        let bits = |from: usize| -> usize {
            (0..width).map(|b| usize::from(page[at + (from + b) / 8] >> ((from + b) % 8) & 1) << b).sum()
        };
        if head & 1 == 0 {
            assert_eq!((head >> 1, page.len()), (rows, at + 1));
            vec![dictionary[bits(0)]; rows]
        } else {
            assert_eq!(page.len(), at + (head >> 1) * width, "a whole number of groups");
            (0..rows).map(|row| dictionary[bits(row * width)]).collect()
        }
    }

    proptest! {
        #[test]
        fn pages_hold_their_values(
            pages in prop::collection::vec(
                prop_oneof![
                    (any::<u8>(), 1..300_usize).prop_map(|(v, n)| vec![u16::from(v); n]),
                    (1..9_u32).prop_flat_map(|w| prop::collection::vec(0..1_u16 << w, 1..300)),
                    prop::collection::vec(prop_oneof![9 => 0..20_u16, 1 => any::<u16>()], 1..300),
                ],
                1..5,
            ),
        ) {
            let mut dictionary = Dictionary::default();
            // What an earlier row group left must not matter.
            dictionary.page(&[1, 2], Some(&[7, 0]), &mut Vec::new());
            dictionary.clear();
            let mut encoded = Vec::new();
            for page in &pages {
                let low: Vec<u8> = page.iter().map(|v| *v as u8).collect();
                let high: Vec<u8> = page.iter().map(|v| (*v >> 8) as u8).collect();
                let mut out = Vec::new();
                dictionary.page(&low, Some(&high).filter(|_| page.iter().any(|v| *v > 9)).map(Vec::as_slice), &mut out);
                encoded.push(out);
            }
            let values: Vec<u16> = dictionary.values().collect();
            for (page, bytes) in pages.iter().zip(encoded) {
                prop_assert_eq!(&unpack(&bytes, page.len(), &values), page);
            }
        }
    }
}
