//! Valgrind lackey, `--trace-mem=yes`: `I  addr,size` for a fetch, ` L`, ` S`
//! and ` M` for load, store and modify; addresses in hexadecimal.
//!
//! Valgrind runs one thread at a time and does not say which. Its address space
//! is not the native one: program, libraries and heap lie low, the stack near
//! `0x1fff000000`.

use super::number::{decimal, hex, shown};
use super::{Lines, Out, Pending};
use crate::input::size_log2;
use crate::options::Format;
use machine::input::Kind;

#[derive(Debug, Default)]
pub(crate) struct Lackey {
    pending: Pending,
    /// Has an `I` line been seen? Some tools write none.
    counts: bool,
}

/// The kind, address and size of a line.
pub(crate) fn parse(line: &[u8]) -> Option<(Kind, u64, u64)> {
    let (kind, rest) = match line {
        [b'I', b' ', b' ', rest @ ..] => (Kind::Fetch, rest),
        [b' ', b'L', b' ', rest @ ..] => (Kind::Read, rest),
        [b' ', b'S', b' ', rest @ ..] => (Kind::Write, rest),
        [b' ', b'M', b' ', rest @ ..] => (Kind::Modify, rest),
        _ => return None,
    };
    let comma = memchr::memchr(b',', rest)?;
    Some((kind, hex(&rest[..comma])?, decimal(rest[comma + 1..].trim_ascii_end())?))
}

/// Whether a line is Valgrind's own talk: `==PID== …`, `--PID-- …`, or blank.
pub(crate) fn is_talk(line: &[u8]) -> bool {
    line.starts_with(b"==") || line.starts_with(b"--") || line.trim_ascii().is_empty()
}

impl Lines for Lackey {
    const FORMAT: Format = Format::Lackey;

    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        let Some((kind, va, size)) = parse(line) else {
            return if is_talk(line) { Ok(()) } else { Err(format!("{} is no line of lackey", shown(line))) };
        };
        let size = u32::try_from(size).ok().filter(|size| *size <= 4096);
        let size = size_log2(size.ok_or_else(|| format!("an access of {} bytes", shown(line)))?);
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

    fn notes(&self) -> Vec<String> {
        vec![
            "addresses are those of Valgrind's layout, not the native one; threads are not told apart"
                .to_owned(),
        ]
    }
}
