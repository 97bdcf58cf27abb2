//! The columns of a row but the address and the events, on their way to the thread that encodes them.
//!
//! A row is two bytes, and threads are runs. That is enough for what captured programs do; a page with a row that has
//! flags, or comes many instructions after the one before, has eight bytes a row.

use machine::input::Access;

/// Most instructions that two bytes have room for.
const INSNS: u16 = (1 << 11) - 1;
/// The bits of a [`word`] that two bytes and a run have room for.
const FITS: u64 = INSNS as u64 | 0xffff << 16 | 3 << 32 | 7 << 40;

/// The small columns of a page.
#[derive(Debug, Default)]
pub(super) struct Small {
    /// Of each row a [`code`], and room for as many as a page can have; if the page is wide, what is to become words.
    pub(super) codes: Vec<u16>,
    /// The first row of each run, and its thread.
    pub(super) threads: Vec<(usize, u16)>,
    /// One of the rows does not fit.
    pub(super) is_wide: bool,
    /// Of each row a [`word`], if the page is wide.
    pub(super) words: Vec<u64>,
}

impl Small {
    pub(super) fn clear(&mut self) {
        self.threads.clear();
        self.is_wide = false;
        self.words.clear();
    }

    /// Appends accesses behind this many rows.
    pub(super) fn add(&mut self, mut rows: usize, accesses: &[Access]) {
        if accesses.iter().fold(0, |any, access| any | word(access)) & !FITS != 0 {
            self.widen(rows);
        }
        if self.is_wide {
            return self.words.extend(accesses.iter().map(word));
        }
        for run in accesses.chunk_by(|a, b| a.thread == b.thread) {
            self.run(rows, run[0].thread);
            for (to, a) in self.codes[rows..].iter_mut().zip(run) {
                *to = code(a.insns, a.kind as u8, a.size_log2);
            }
            rows += run.len();
        }
    }

    /// Appends a thread's codes, which have been put into their places. Some rows have more instructions than their
    /// code tells.
    pub(super) fn coded(&mut self, rows: std::ops::Range<usize>, thread: u16, long: &[(usize, u16)]) {
        if !long.is_empty() {
            self.widen(rows.start);
        }
        if !self.is_wide {
            return self.run(rows.start, thread);
        }
        self.words.extend(self.codes[rows].iter().map(|&code| widened(code, thread)));
        for &(row, insns) in long {
            self.words[row] = self.words[row] & !0xffff | u64::from(insns);
        }
    }

    /// From this row on it is this thread.
    fn run(&mut self, row: usize, thread: u16) {
        if self.threads.last().is_none_or(|(_, last)| *last != thread) {
            self.threads.push((row, thread));
        }
    }

    /// A column of so many rows, in the schema's order, of a page that is not wide.
    pub(super) fn column<'a>(&self, column: usize, rows: usize, bytes: &'a mut [Vec<u8>; 2]) -> Column<'a> {
        let codes = &self.codes[..rows];
        match column {
            0 => split(codes, bytes, |code| code & INSNS),
            1 => match self.threads[..] {
                [(_, thread)] if thread <= u8::MAX.into() => Column::One(thread as u8),
                _ => {
                    let [low, high] = bytes;
                    low.clear();
                    high.clear();
                    for (thread, codes) in self.runs(rows) {
                        let [a, b] = thread.to_le_bytes();
                        low.resize(low.len() + codes.len(), a);
                        high.resize(high.len() + codes.len(), b);
                    }
                    Column::Bytes(low, Some(high))
                }
            },
            2 => split(codes, bytes, |code| code >> 11 & 3),
            3 => split(codes, bytes, |code| code >> 13),
            _ => Column::One(0),
        }
    }

    /// The runs of so many rows: their thread and their codes.
    fn runs(&self, rows: usize) -> impl Iterator<Item = (u16, &[u16])> {
        let ends = self.threads.iter().skip(1).map(|(row, _)| *row).chain([rows]);
        self.threads.iter().zip(ends).map(|(&(row, thread), end)| (thread, &self.codes[row..end]))
    }

    /// Makes words of so many rows.
    fn widen(&mut self, rows: usize) {
        if !self.is_wide {
            let mut words = std::mem::take(&mut self.words);
            for (thread, codes) in self.runs(rows) {
                words.extend(codes.iter().map(|&code| widened(code, thread)));
            }
            (self.words, self.is_wide) = (words, true);
        }
    }
}

/// A small column of a page.
#[derive(Debug)]
pub(super) enum Column<'a> {
    /// One value in all rows.
    One(u8),
    /// The low bytes, and the high ones if not all are 0.
    Bytes(&'a [u8], Option<&'a [u8]>),
}

/// Part of each code, as low and high bytes. In loops that compilers make wide instructions of.
#[inline(always)]
fn split<'a>(codes: &[u16], bytes: &'a mut [Vec<u8>; 2], part: impl Fn(u16) -> u16) -> Column<'a> {
    let [low, high] = bytes;
    low.clear();
    low.extend(codes.iter().map(|&code| part(code) as u8));
    if codes.iter().fold(0, |any, &code| any | part(code)) <= u8::MAX.into() {
        return Column::Bytes(low, None);
    }
    high.clear();
    high.extend(codes.iter().map(|&code| (part(code) >> 8) as u8));
    Column::Bytes(low, Some(high))
}

/// A row but the thread, if instructions and size fit: instructions in bits 0 to 10, kind in 11 and 12, size above.
#[inline(always)]
pub(crate) fn code(insns: u16, kind: u8, size_log2: u8) -> u16 {
    insns & INSNS | u16::from(kind) << 11 | u16::from(size_log2) << 13
}

/// Whether a [`code`] tells so many instructions.
#[inline(always)]
pub(crate) fn fits(insns: u16) -> bool {
    insns <= INSNS
}

/// A row: its columns as they lie in an access.
#[inline(always)]
fn word(a: &Access) -> u64 {
    u64::from(a.insns)
        | u64::from(a.thread) << 16
        | (a.kind as u64) << 32
        | u64::from(a.size_log2) << 40
        | u64::from(a.flags) << 48
        | u64::from(a.reserved) << 56
}

/// A row of which the code and the thread are known.
#[inline(always)]
fn widened(code: u16, thread: u16) -> u64 {
    let (insns, kind, size) = (code & INSNS, code >> 11 & 3, code >> 13);
    u64::from(insns) | u64::from(thread) << 16 | u64::from(kind) << 32 | u64::from(size) << 40
}
