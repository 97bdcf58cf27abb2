//! Dinero: `din` lines `label address`, labels 0 read, 1 write, 2 fetch (others
//! are no accesses), and the extended form `r|w|i address size`. Addresses in
//! hexadecimal with or without `0x`.

use super::number::{decimal, fields, hex, shown};
use super::{Lines, Out, Pending};
use crate::input::size_log2;
use crate::options::Format;
use machine::input::Kind;

/// `din` tells no sizes; its tools count words.
const WORD_LOG2: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Dinero {
    pending: Pending,
    counts: bool,
}

/// What a label means; `None` for an unknown one, `Some(None)` for no access.
pub(crate) fn kind(label: &[u8]) -> Option<Option<Kind>> {
    Some(match label {
        b"0" | b"r" => Some(Kind::Read),
        b"1" | b"w" => Some(Kind::Write),
        b"2" | b"i" => Some(Kind::Fetch),
        b"3" | b"4" | b"5" | b"m" | b"c" | b"v" => None,
        _ => return None,
    })
}

impl Lines for Dinero {
    const FORMAT: Format = Format::Dinero;

    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        let mut fields = fields(line);
        let Some(label) = fields.next() else { return Ok(()) };
        let no_line = || format!("{} is no line of Dinero", shown(line));
        let Some(kind) = kind(label).ok_or_else(no_line)? else { return Ok(()) };
        let va = fields.next().and_then(hex).ok_or_else(no_line)?;
        let size = if label[0].is_ascii_digit() {
            WORD_LOG2
        } else {
            let size = fields.next().and_then(decimal).filter(|size| *size <= 4096);
            size_log2(size.ok_or_else(no_line)? as u32)
        };
        if kind == Kind::Fetch {
            self.counts = true;
            if !out.fetches {
                self.pending.add(1);
                return Ok(());
            }
            return out.access(va, kind, size, 1);
        }
        let insns = if self.counts { self.pending.take() } else { 1 };
        out.access(va, kind, size, insns)
    }
}
