//! The 16-byte records of a QEMU plugin, little-endian and without a header:
//! `u64 va, u32 vcpu, u8 store, u8 log2 size, u16 flags`. Bit 0 of the flags is
//! [`Access::DEPENDENT`]; no other has a meaning.
//!
//! They hold no instruction counts: each access counts as one instruction.

use crate::input::{Input, is_canonical};
use crate::options::Format;
use crate::roster::{self, Roster, TooMany};
use crate::source::{Facts, TraceSource};
use machine::input::{Access, BLOCK, Block, Kind, More, Setup, Source, SourceError};
use paging::Va;

const RECORD: usize = 16;
/// Larger than any access of x86-64 (64 bytes; `fxsave` and `xsave` areas are up to 4 KiB).
const SIZE_LOG2_MAX: u8 = 12;

#[derive(Debug)]
pub(crate) struct Qemu16 {
    input: Input,
    roster: Roster,
}

/// Whether the whole records of `head` can be such: a store flag, a size of at
/// most 64 bytes, flags that have a meaning.
pub(crate) fn plausible(head: &[u8]) -> bool {
    let mut records = head.chunks_exact(RECORD).peekable();
    records.peek().is_some()
        && records.all(|r| {
            let va = u64::from_le_bytes(r[..8].try_into().expect("8 bytes"));
            va != 0
                && is_canonical(va)
                && r[10..12] == [0, 0]
                && r[12] <= 1
                && r[13] <= 6
                && r[14] <= 1
                && r[15] == 0
        })
}

impl Qemu16 {
    pub(crate) fn new(input: Input) -> Qemu16 {
        Qemu16 { input: input.with_unit(RECORD), roster: Roster::default() }
    }
}

impl TraceSource for Qemu16 {
    fn facts(&self) -> Facts {
        let notes = vec!["instructions are not counted: each access is one".to_owned()];
        Facts::new(Format::Qemu16, self.input.compression(), notes)
    }
}

impl Source for Qemu16 {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(roster::single(self.input.name()))
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let window = self.input.window(BLOCK * RECORD)?;
        if window.is_empty() {
            return Ok(More::No);
        }
        let have = window.len();
        let mut wrong = None;
        for (i, record) in window.chunks_exact(RECORD).take(BLOCK).enumerate() {
            let word = u64::from_le_bytes(record[0..8].try_into().expect("8 bytes"));
            let rest = u64::from_le_bytes(record[8..16].try_into().expect("8 bytes"));
            let (vcpu, store, size_log2, flags) =
                (rest as u32, (rest >> 32) as u8, (rest >> 40) as u8, (rest >> 48) as u8);
            if !is_canonical(word) || store > 1 || size_log2 > SIZE_LOG2_MAX {
                wrong = Some((
                    i,
                    format!("not a record: address {word:#x}, store {store}, log2 size {size_log2}"),
                ));
                break;
            }
            let Ok(thread) = self.roster.thread(0, vcpu.into(), &mut block.events) else {
                wrong = Some((i, TooMany::REASON.to_owned()));
                break;
            };
            if !block.events.is_empty() {
                // The new thread exists only after this block.
                break;
            }
            block.accesses.push(Access {
                va: Va::new(word),
                insns: 1,
                thread,
                kind: if store == 1 { Kind::Write } else { Kind::Read },
                size_log2,
                flags: flags & Access::DEPENDENT,
                reserved: 0,
            });
        }
        let read = block.accesses.len() * RECORD;
        match wrong {
            Some((0, reason)) => return Err(self.input.error(0, reason)),
            None if read == 0 && block.events.is_empty() => return Err(self.input.cut_off(have, RECORD)),
            _ => self.input.consume(read),
        }
        Ok(More::Yes)
    }
}
