//! Whether the lists of a structure in Thrift's compact protocol can be as long as they say.
//!
//! The library that reads footers and page headers passes over fields that it does not know element by element, and takes
//! none of a boolean's bytes: a list of 2^31 of them in a file of a kilobyte keeps it busy for seconds. Parquet has no
//! list of booleans in either place.
//!
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

/// Structures in each other that are looked into; the library gives up as soon.
const DEPTH: u8 = 64;

/// A structure's fields as `parquet.thrift` has them: number, kind, and what is in it. The library reads them as what they
/// must be, whatever kind they say they are. Others are passed over by their kind.
type Shape = &'static [(u64, Kind, Option<&'static Fields>)];
/// A shape that may be in others.
pub(super) struct Fields(Shape);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Text,
    List,
    Structure,
}
use Kind::{Flag, List, Number, Structure, Text};

/// `FileMetaData`.
pub(super) static FOOTER: Fields = Fields(&[
    (1, Number, None),
    (2, List, Some(&ELEMENT)),
    (3, Number, None),
    (4, List, Some(&GROUP)),
    (5, List, Some(&PAIR)),
    (6, Text, None),
    (7, List, None),
]);
/// `PageHeader`.
pub(super) static PAGE: Fields = Fields(&[
    (1, Number, None),
    (2, Number, None),
    (3, Number, None),
    (4, Number, None),
    (5, Structure, Some(&DATA)),
    (6, Structure, None),
    (7, Structure, Some(&DICTIONARY)),
    (8, Structure, Some(&DATA_2)),
]);
/// `SchemaElement`.
static ELEMENT: Fields = Fields(&[
    (1, Number, None),
    (2, Number, None),
    (3, Number, None),
    (4, Text, None),
    (5, Number, None),
    (6, Number, None),
    (7, Number, None),
    (8, Number, None),
    (9, Number, None),
    (10, Structure, None),
]);
/// `KeyValue`.
static PAIR: Fields = Fields(&[(1, Text, None), (2, Text, None)]);
/// `RowGroup`.
static GROUP: Fields = Fields(&[
    (1, List, Some(&COLUMN)),
    (2, Number, None),
    (3, Number, None),
    (4, List, None),
    (5, Number, None),
    (6, Number, None),
    (7, Number, None),
]);
/// `ColumnChunk`.
static COLUMN: Fields = Fields(&[
    (1, Text, None),
    (2, Number, None),
    (3, Structure, Some(&META)),
    (4, Number, None),
    (5, Number, None),
    (6, Number, None),
    (7, Number, None),
]);
/// `ColumnMetaData`.
static META: Fields = Fields(&[
    (1, Number, None),
    (2, List, None),
    (3, List, None),
    (4, Number, None),
    (5, Number, None),
    (6, Number, None),
    (7, Number, None),
    (8, List, Some(&PAIR)),
    (9, Number, None),
    (10, Number, None),
    (11, Number, None),
    (12, Structure, Some(&STATISTICS)),
    (13, List, None),
    (14, Number, None),
    (15, Number, None),
    (16, Structure, None),
]);
/// `Statistics`.
static STATISTICS: Fields = Fields(&[
    (1, Text, None),
    (2, Text, None),
    (3, Number, None),
    (4, Number, None),
    (5, Text, None),
    (6, Text, None),
    (7, Flag, None),
    (8, Flag, None),
]);
/// `DataPageHeader`.
static DATA: Fields = Fields(&[
    (1, Number, None),
    (2, Number, None),
    (3, Number, None),
    (4, Number, None),
    (5, Structure, Some(&STATISTICS)),
]);
/// `DictionaryPageHeader`.
static DICTIONARY: Fields = Fields(&[(1, Number, None), (2, Number, None), (3, Flag, None)]);
/// `DataPageHeaderV2`.
static DATA_2: Fields = Fields(&[
    (1, Number, None),
    (2, Number, None),
    (3, Number, None),
    (4, Number, None),
    (5, Number, None),
    (6, Number, None),
    (7, Flag, None),
    (8, Structure, Some(&STATISTICS)),
]);

/// Whether the structure at the beginning of `bytes` is one of these `fields`, and no list, set or map in it has more elements
/// than bytes. One that is cut off is for its reader to refuse.
pub(super) fn is_believable(bytes: &[u8], fields: &'static Fields) -> bool {
    !matches!(Rest(bytes).structure(Some(fields), DEPTH), Err(Stop::Lie))
}

enum Stop {
    /// The bytes end, or are none of the protocol's.
    End,
    /// More elements than bytes, or a field of another kind.
    Lie,
}

/// What is still to be looked at.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        let bytes = usize::try_from(bytes).map_err(|_| Stop::End)?;
        self.0 = self.0.get(bytes..).ok_or(Stop::End)?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.0.split_first().ok_or(Stop::End)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::End)
    }

    fn structure(&mut self, fields: Option<&'static Fields>, depth: u8) -> Result<(), Stop> {
        let mut number = 0;
        loop {
            let field = self.byte()?;
            if field & 15 == 0 {
                return Ok(());
            }
            number = match field >> 4 {
                // Zigzag.
                0 => self.varint()? >> 1,
                step => number + u64::from(step),
            };
            let known = fields.and_then(|fields| fields.0.iter().find(|known| known.0 == number));
            let kind = match field & 15 {
                1 | 2 => Some(Flag),
                4..=6 => Some(Number),
                8 => Some(Text),
                9 => Some(List),
                12 => Some(Structure),
                _ => None,
            };
            if known.is_some_and(|known| Some(known.1) != kind) {
                return Err(Stop::Lie);
            }
            self.value(field & 15, known.and_then(|known| known.2), depth)?;
        }
    }

    fn value(&mut self, kind: u8, fields: Option<&'static Fields>, depth: u8) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::End)?;
        match kind {
            // A boolean is in the field's own byte.
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let long = head >> 4 == 15;
                let elements = if long { self.varint()? } else { u64::from(head >> 4) };
                self.elements(elements, &[head & 15], fields, depth)
            }
            11 => {
                let elements = self.varint()?;
                let kinds = if elements == 0 { 0 } else { self.byte()? };
                self.elements(elements, &[kinds >> 4, kinds & 15], None, depth)
            }
            12 => self.structure(fields, depth),
            13 => self.skip(16),
            _ => Err(Stop::End),
        }
    }

    fn elements(
        &mut self,
        elements: u64,
        kinds: &[u8],
        fields: Option<&'static Fields>,
        depth: u8,
    ) -> Result<(), Stop> {
        let are_booleans = kinds.iter().all(|kind| matches!(kind, 1 | 2));
        if elements > self.0.len() as u64 || (elements > 0 && are_booleans) {
            return Err(Stop::Lie);
        }
        for _ in 0..elements {
            kinds.iter().try_for_each(|kind| self.value(*kind, fields, depth))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 9 of these kinds, then what it holds, then the end.
    fn field(kind: u8, holds: &[u8]) -> Vec<u8> {
        [&[9 << 4 | kind], holds, &[0]].concat()
    }

    fn believed(bytes: &[u8]) -> bool {
        is_believable(bytes, &NONE)
    }
    static NONE: Fields = Fields(&[]);

    #[test]
    fn what_is_known_is_of_its_kind() {
        // The version, a number, as a list: the library would take its first byte for the number.
        assert!(is_believable(&[0x15, 2, 0], &FOOTER) && !is_believable(&[0x19, 0x20, 0], &FOOTER));
        // A row group's column that is not a structure's.
        assert!(!is_believable(&[0x49, 0x1c, 0x15, 2, 0, 0], &FOOTER));
    }

    #[test]
    fn lists_that_fit_are_believed() {
        // Three strings; two pairs of numbers; a list of two lists; nothing.
        assert!(believed(&field(9, &[3 << 4 | 8, 1, b'a', 0, 2, b'b', b'c'])));
        assert!(believed(&field(11, &[2, 5 << 4 | 6, 1, 0x80, 1, 2, 3])));
        assert!(believed(&field(9, &[2 << 4 | 9, 1 << 4 | 3, 7, 3])));
        assert!(believed(&field(11, &[0])) && believed(&[0]));
        // Cut off, or something else: not a lie.
        assert!(believed(&[]) && believed(&[0x19]) && believed(&[0x1f, 0xff, 0xff]));
    }

    #[test]
    fn lists_that_cannot_be_so_long_are_not() {
        let many = [0xff, 0xff, 0xff, 0xff, 7];
        let list = |kind: u8| [&[0xf0 | kind], many.as_slice()].concat();
        for kind in 1..=12 {
            assert!(!believed(&field(9, &list(kind))) && !believed(&field(10, &list(kind))), "{kind}");
        }
        assert!(!believed(&field(11, &[many.as_slice(), &[0x11]].concat())));
        // Within another structure, and a few booleans, of which the library would take no byte.
        assert!(!believed(&field(12, &field(9, &list(2)))));
        assert!(!believed(&field(9, &[4 << 4 | 1, 1, 1, 1, 1])));
        let deep = vec![0x1c; 10_000];
        assert!(believed(&deep), "neither a lie nor the end of the stack");
    }
}
