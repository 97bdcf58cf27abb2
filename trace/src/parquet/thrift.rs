//! Thrift's compact protocol, as far as the library must not be trusted with it: whether the lists of a structure can be as
//! long as they say, and what a page claims.
//!
//! The library that reads footers and page headers passes over fields that it does not know element by element, and takes
//! none of a boolean's bytes: a list of 2^31 of them in a file of a kilobyte keeps it busy for seconds. Parquet has no
//! list of booleans in either place.
//!
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

/// Structures in each other that are looked into; the library gives up as soon.
const DEPTH: u8 = 64;

/// The fields of a structure, from number 1 on, as `parquet.thrift` has them. The library reads them as what they must be,
/// whatever kind they say they are. Others are passed over by their kind.
pub(super) struct Fields(&'static [Kind]);

/// What a field is, and the fields of the structures in it that are known.
enum Kind {
    Flag,
    Number,
    Text,
    List(Option<&'static Fields>),
    Structure(Option<&'static Fields>),
}
use Kind::{Flag, List, Number, Structure, Text};

impl Kind {
    /// Whether it is what the protocol calls `kind`.
    fn is(&self, kind: u8) -> bool {
        match self {
            Flag => matches!(kind, 1 | 2),
            Number => matches!(kind, 4..=6),
            Text => kind == 8,
            List(_) => kind == 9,
            Structure(_) => kind == 12,
        }
    }

    fn fields(&self) -> Option<&'static Fields> {
        match self {
            Flag | Number | Text => None,
            List(fields) | Structure(fields) => *fields,
        }
    }
}

/// `FileMetaData`.
pub(super) static FOOTER: Fields =
    Fields(&[Number, List(Some(&ELEMENT)), Number, List(Some(&GROUP)), List(Some(&PAIR)), Text, List(None)]);
/// `PageHeader`.
pub(super) static PAGE: Fields = Fields(&[
    Number,
    Number,
    Number,
    Number,
    Structure(Some(&DATA)),
    Structure(None),
    Structure(Some(&DICTIONARY)),
    Structure(Some(&DATA_2)),
]);
/// `SchemaElement`.
static ELEMENT: Fields =
    Fields(&[Number, Number, Number, Text, Number, Number, Number, Number, Number, Structure(None)]);
/// `KeyValue`.
static PAIR: Fields = Fields(&[Text, Text]);
/// `RowGroup`.
static GROUP: Fields = Fields(&[List(Some(&COLUMN)), Number, Number, List(None), Number, Number, Number]);
/// `ColumnChunk`.
static COLUMN: Fields = Fields(&[Text, Number, Structure(Some(&META)), Number, Number, Number, Number]);
/// `ColumnMetaData`.
static META: Fields = Fields(&[
    Number,
    List(None),
    List(None),
    Number,
    Number,
    Number,
    Number,
    List(Some(&PAIR)),
    Number,
    Number,
    Number,
    Structure(Some(&STATISTICS)),
    List(None),
    Number,
    Number,
    Structure(None),
]);
/// `Statistics`.
static STATISTICS: Fields = Fields(&[Text, Text, Number, Number, Text, Text, Flag, Flag]);
/// `DataPageHeader`.
static DATA: Fields = Fields(&[Number, Number, Number, Number, Structure(Some(&STATISTICS))]);
/// `DictionaryPageHeader`.
static DICTIONARY: Fields = Fields(&[Number, Number, Flag]);
/// `DataPageHeaderV2`.
static DATA_2: Fields =
    Fields(&[Number, Number, Number, Number, Number, Number, Flag, Structure(Some(&STATISTICS))]);

/// Whether the structure at the beginning of `bytes` is one of these `fields`, and no list, set or map in it has more elements
/// than bytes. One that is cut off is for its reader to refuse.
pub(super) fn is_believable(bytes: &[u8], fields: &'static Fields) -> bool {
    !matches!(Rest(bytes).structure(Some(fields), DEPTH), Err(Stop::Lie))
}

/// Field 2 of a `PageHeader`: fields 1 (type) and 2 (uncompressed size) are required `i32`s, so each is a byte `0x15` (field
/// number one more than the last, type 5) and a zigzag varint, of five bytes at most.
pub(super) fn uncompressed_page_size(header: &[u8]) -> Option<i32> {
    let mut rest = Rest(header);
    let mut field = || -> Option<i32> {
        if rest.byte().ok()? != 0x15 {
            return None;
        }
        let before = rest.0.len();
        let value = rest.varint().ok()? as u32;
        (before - rest.0.len() <= 5).then_some((value >> 1) as i32 ^ -((value & 1) as i32))
    };
    field()?;
    field()
}

enum Stop {
    /// The bytes end, or are none of the protocol's.
    End,
    /// More elements than bytes, a field of another kind, or a number of more bits than there are.
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
        // The library would read on.
        Err(Stop::Lie)
    }

    fn structure(&mut self, fields: Option<&'static Fields>, depth: u8) -> Result<(), Stop> {
        // As the library: 16 bits.
        let mut number = 0_i16;
        loop {
            let field = self.byte()?;
            if field & 15 == 0 {
                return Ok(());
            }
            number = match field >> 4 {
                0 => {
                    let zigzag = self.varint()?;
                    ((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)) as i16
                }
                step => number.checked_add(step.into()).ok_or(Stop::End)?,
            };
            let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let known = fields.zip(at).and_then(|(fields, at)| fields.0.get(at));
            if known.is_some_and(|known| !known.is(field & 15)) {
                return Err(Stop::Lie);
            }
            self.value(field & 15, known.and_then(Kind::fields), depth)?;
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
        // Number -2, and 3 more: the version again, not the row groups.
        assert!(!is_believable(&[0x05, 3, 0, 0x39, 0x20, 0], &FOOTER));
        // A varint of eleven bytes.
        assert!(!is_believable(&[&[0x15][..], &[0x80; 10], &[0, 0]].concat(), &FOOTER));
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
