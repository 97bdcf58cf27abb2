//! Ramulator: CPU traces `instructions read [writeback]` in decimal, DRAM traces
//! `0xADDR R|W`, and version 2's `LD|ST address`. All are of cache lines.

use super::number::{decimal, either, fields, hex, shown};
use super::{Lines, Out, Pending};
use crate::options::Format;
use machine::input::Kind;

const LINE_LOG2: u8 = 6;

#[derive(Debug, Default)]
pub(crate) struct Ramulator {
    pending: Pending,
    cpu: bool,
    dram: bool,
}

impl Lines for Ramulator {
    const FORMAT: Format = Format::Ramulator;

    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        let no_line = || format!("{} is no line of Ramulator", shown(line));
        let mut fields = fields(line);
        let Some(first) = fields.next() else { return Ok(()) };
        let second = fields.next().ok_or_else(no_line)?;
        let third = fields.next();
        match (first, second) {
            (b"R" | b"W", vector) if memchr::memchr(b',', vector).is_some() => {
                Err("the coordinates of a DRAM cell are no address: give a trace of loads and stores"
                    .to_owned())
            }
            (b"LD" | b"ST", address) => {
                let kind = if first == b"LD" { Kind::Read } else { Kind::Write };
                out.access(either(address).ok_or_else(no_line)?, kind, LINE_LOG2, 1)
            }
            (address, b"R" | b"W") => {
                self.dram = true;
                let kind = if second == b"R" { Kind::Read } else { Kind::Write };
                out.access(hex(address).ok_or_else(no_line)?, kind, LINE_LOG2, 1)
            }
            (others, read) => {
                self.cpu = true;
                let others = decimal(others).ok_or_else(no_line)?;
                let read = decimal(read).ok_or_else(no_line)?;
                let writeback = third.map(|field| decimal(field).ok_or_else(no_line)).transpose()?;
                self.pending.add(others.saturating_add(1));
                out.access(read, Kind::Read, LINE_LOG2, self.pending.take())?;
                writeback.map_or(Ok(()), |va| out.access(va, Kind::Write, LINE_LOG2, 0))
            }
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.cpu {
            notes.push(
                "only what missed in a last-level cache is in the trace: TLB misses are undercounted"
                    .to_owned(),
            );
        }
        if self.dram {
            notes.push("addresses are physical".to_owned());
        }
        notes
    }
}
