//! Formats of text, a line a record.

mod dinero;
mod lackey;
mod number;
mod perf;
mod ramulator;
mod sniff;

pub(crate) use dinero::Dinero;
pub(crate) use lackey::Lackey;
pub(crate) use perf::{PerfMem, PerfScript};
pub(crate) use ramulator::Ramulator;
pub(crate) use sniff::{looks_like, text_lines};

use crate::input::{Input, is_canonical};
use crate::options::Format;
use crate::roster::{self, Roster, TooMany};
use crate::source::{Facts, TraceSource};
use machine::input::{Access, BLOCK, Block, Event, Kind, More, Setup, Source, SourceError};
use paging::Va;

/// What a line of a format means.
pub(crate) trait Lines: Send {
    /// The format.
    const FORMAT: Format;
    /// Adds what a line says; it may be asked again about the same line.
    fn line(&mut self, line: &[u8], out: &mut Out<'_>) -> Result<(), String>;
    /// What to know of the trace.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The most accesses that a line can stand for.
const LINE_ACCESSES: usize = 2;

/// Lines after which a block is delivered even if it is empty: a few packed kilobytes can be
/// millions of lines that say nothing, and whoever asks must be able to stop in between.
const LINES: usize = 16 * BLOCK;

/// Where a line's accesses go.
pub(crate) struct Out<'a> {
    accesses: &'a mut Vec<Access>,
    announce: &'a mut Vec<Event>,
    roster: &'a mut Roster,
    thread: u16,
    /// Deliver fetches?
    pub(crate) fetches: bool,
}

impl Out<'_> {
    /// The following accesses are by this thread.
    pub(crate) fn by(&mut self, pid: u64, tid: u64) -> Result<(), String> {
        self.thread = self.roster.thread(pid, tid, self.announce).map_err(|TooMany| TooMany::REASON)?;
        Ok(())
    }

    /// Adds an access.
    pub(crate) fn access(&mut self, va: u64, kind: Kind, size_log2: u8, insns: u16) -> Result<(), String> {
        if !is_canonical(va) {
            return Err(format!("address {va:#x} is not canonical"));
        }
        let mut access = Access::new(va, kind, self.thread, insns);
        access.va = Va::new(va);
        access.size_log2 = size_log2;
        self.accesses.push(access);
        Ok(())
    }
}

/// Instructions that no access has counted yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(u64);

impl Pending {
    /// Some more retired.
    pub(crate) fn add(&mut self, insns: u64) {
        self.0 = self.0.saturating_add(insns);
    }
    /// As many as an access can count; what is over waits for the next.
    pub(crate) fn take(&mut self) -> u16 {
        let insns = u16::try_from(self.0).unwrap_or(u16::MAX);
        self.0 -= u64::from(insns);
        insns
    }
}

/// A trace of text.
#[derive(Debug)]
pub(crate) struct Text<L> {
    input: Input,
    lines: L,
    roster: Roster,
    fetches: bool,
}

impl<L: Lines> Text<L> {
    pub(crate) fn new(input: Input, lines: L, fetches: bool) -> Text<L> {
        Text { input, lines, roster: Roster::default(), fetches }
    }
}

impl<L: Lines> TraceSource for Text<L> {
    fn facts(&self) -> Facts {
        Facts::new(L::FORMAT, self.input.compression(), self.lines.notes())
    }
}

impl<L: Lines> Source for Text<L> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(roster::single(self.input.name()))
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        for _ in 0..LINES {
            if block.room() < LINE_ACCESSES {
                break;
            }
            let Some(line) = self.input.line()? else { return Ok(More::No) };
            let before = block.accesses.len();
            let mut out = Out {
                accesses: &mut block.accesses,
                announce: &mut block.events,
                roster: &mut self.roster,
                thread: 0,
                fetches: self.fetches,
            };
            let result = self.lines.line(line, &mut out);
            if let Err(reason) = result {
                block.accesses.truncate(before);
                if before == 0 {
                    return Err(self.input.line_error(reason));
                }
                // The line is met again when the ones before it are delivered.
                break;
            }
            if !block.events.is_empty() {
                // The new thread exists only after this block.
                block.accesses.truncate(before);
                break;
            }
            self.input.consume_line();
        }
        Ok(More::Yes)
    }
}
