//! One file of a trace: the records of a thread, or of all threads on a core.

use super::physical::PhysicalMap;
use super::record::*;
use crate::error::{CUT_OFF, Hint};
use crate::input::{Input, is_canonical, size_log2};
use crate::roster::{Roster, TooMany};
use machine::input::{Access, BLOCK, Block, Kind, SourceError};
use paging::Va;
use std::collections::HashMap;

/// As many threads as have an index.
const THREADS_MAX: usize = 1 << 16;

/// What the files of a trace share.
#[derive(Debug)]
pub(crate) struct Shared {
    fetches: bool,
    roster: Roster,
    /// Instructions that no access has counted, by thread.
    pending: Vec<u32>,
    /// Bits of all file types.
    filetype: u64,
    /// Physical addresses, where they are asked for.
    pub(super) physical: Option<PhysicalMap>,
    mappings: u64,
}

impl Shared {
    pub(super) fn new(fetches: bool) -> Shared {
        Shared {
            fetches,
            roster: Roster::default(),
            pending: Vec::new(),
            filetype: 0,
            physical: None,
            mappings: 0,
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let filters = [
            (
                FILETYPE_FILTERED,
                "a cache filtered the trace: only its misses are there, TLB misses are undercounted",
            ),
            (FILETYPE_IFILTERED, "instruction fetches are filtered: only misses of a cache are there"),
            (FILETYPE_DFILTERED, "data accesses are filtered: only misses of a cache are there"),
        ];
        notes.extend(
            filters.iter().filter(|(bit, _)| self.filetype & bit != 0).map(|(_, note)| (*note).to_owned()),
        );
        if self.mappings > 0 {
            notes.push(format!("the trace tells {} physical addresses of pages", self.mappings));
        }
        notes
    }
}

/// Why decoding stopped.
pub(super) enum Stop {
    /// The block is full, or must be delivered for its events.
    Full,
    /// The file goes on at this time.
    Time(u64),
    /// The file is over.
    End,
}

#[derive(Debug)]
pub(super) struct Stream {
    input: Input,
    /// Is the file one of several?
    merged: bool,
    pid: u64,
    tid: u64,
    processes: HashMap<u64, u64>,
    /// The thread's index, once an access needed it.
    thread: Option<u16>,
    pending: u32,
    pc: u64,
    bundle: Bundle,
    physical: Option<u64>,
    footer: bool,
}

/// Lengths of instructions that follow the last one without a gap.
#[derive(Debug, Default)]
struct Bundle {
    lengths: [u8; 8],
    at: usize,
    len: usize,
}

impl Stream {
    pub(super) fn new(input: Input, merged: bool) -> Stream {
        Stream {
            input: input.with_unit(BYTES),
            merged,
            pid: 0,
            tid: 0,
            processes: HashMap::new(),
            thread: None,
            pending: 0,
            pc: 0,
            bundle: Bundle::default(),
            physical: None,
            footer: false,
        }
    }

    /// Reads what stands before the first record of an execution.
    pub(super) fn read_header(&mut self, shared: &mut Shared) -> Result<(), SourceError> {
        if !is_header(self.input.window(BYTES)?) {
            return Err(self.input.error(0, "not a post-processed trace of DynamoRIO: no header").hint(
                "of a raw trace (*.raw*), make one: drrun -t drmemtrace -indir DIR, or drraw2trace -indir DIR",
            ));
        }
        loop {
            let window = self.input.window(BYTES)?;
            if window.len() < BYTES {
                return Ok(());
            }
            let record = Record::parse(window);
            match record.kind {
                HEADER | THREAD | PID => {}
                MARKER if record.size != MARKER_TIMESTAMP => {}
                _ => return Ok(()),
            }
            self.rare(record, shared)?;
            self.input.consume(BYTES);
        }
    }

    /// Everything but accesses and instructions.
    #[cold]
    fn rare(&mut self, record: Record, shared: &mut Shared) -> Result<(), SourceError> {
        match (record.kind, record.size) {
            (THREAD, _) => {
                self.leave_thread(shared);
                self.tid = record.addr;
                self.pid = self.processes.get(&self.tid).copied().unwrap_or(self.pid);
            }
            (PID, _) => {
                self.leave_thread(shared);
                self.pid = record.addr;
                self.processes.insert(self.tid, self.pid);
                if self.processes.len() > THREADS_MAX {
                    return Err(self.input.error(0, TooMany::REASON));
                }
            }
            (FOOTER, _) => self.footer = true,
            (HEADER, _) => self.footer = false,
            (MARKER, MARKER_FILETYPE) => self.filetype(record.addr, shared)?,
            (MARKER, MARKER_PHYSICAL_ADDRESS) => self.physical = Some(record.addr),
            (MARKER, MARKER_VIRTUAL_ADDRESS) => {
                if let Some(physical) = self.physical.take() {
                    shared.mappings += 1;
                    if let Some(map) = &mut shared.physical {
                        map.insert(record.addr, physical).map_err(|e| self.input.error(0, e))?;
                    }
                }
            }
            (INVALID.., _) => {
                return Err(self
                    .input
                    .error(0, format_args!("a record of the unknown type {}", record.kind)));
            }
            _ => {}
        }
        Ok(())
    }

    fn filetype(&self, bits: u64, shared: &mut Shared) -> Result<(), SourceError> {
        let refused = [
            (FILETYPE_INSTR_ONLY, "holds instructions only, no data accesses"),
            (FILETYPE_KERNEL_INSTR_ONLY, "holds kernel instructions only, no data accesses"),
            (FILETYPE_X86_32, "is of a 32-bit program (x86)"),
            (FILETYPE_ARM32, "is of a 32-bit program (ARM)"),
        ];
        if let Some((_, reason)) = refused.iter().find(|(bit, _)| bits & bit != 0) {
            return Err(self
                .input
                .error(0, format_args!("the trace {reason} (file type {bits:#x})"))
                .hint("trace a 64-bit program, without -instr_only_trace"));
        }
        shared.filetype |= bits;
        Ok(())
    }

    /// Puts by what belongs to the thread that ran until now.
    fn leave_thread(&mut self, shared: &mut Shared) {
        if let Some(thread) = self.thread.take() {
            let thread = usize::from(thread);
            if shared.pending.len() <= thread {
                shared.pending.resize(thread + 1, 0);
            }
            shared.pending[thread] = std::mem::take(&mut self.pending);
        }
    }

    /// The index of the thread that runs now; what is new is announced in the block.
    #[cold]
    fn enter_thread(&mut self, block: &mut Block, shared: &mut Shared) -> Result<u16, SourceError> {
        let thread = shared
            .roster
            .thread(self.pid, self.tid, &mut block.events)
            .map_err(|TooMany| self.input.error(0, TooMany::REASON))?;
        self.thread = Some(thread);
        self.pending = shared.pending.get_mut(usize::from(thread)).map(std::mem::take).unwrap_or(0);
        Ok(thread)
    }

    /// Adds to the block until it is full, the file's time moves on, or the file ends.
    pub(super) fn decode(&mut self, block: &mut Block, shared: &mut Shared) -> Result<Stop, SourceError> {
        match self.decode_or_fail(block, shared) {
            // What came before the damage is delivered first; it is met again.
            Err(_) if !block.accesses.is_empty() || !block.events.is_empty() => Ok(Stop::Full),
            result => result,
        }
    }

    fn decode_or_fail(&mut self, block: &mut Block, shared: &mut Shared) -> Result<Stop, SourceError> {
        loop {
            if block.room() == 0 || !block.events.is_empty() {
                return Ok(Stop::Full);
            }
            if self.bundle.at < self.bundle.len {
                self.unbundle(block, shared.fetches)?;
                continue;
            }
            let record = match self.run(block, shared.fetches)? {
                Met::Nothing => continue,
                Met::Record(record) => record,
                Met::End if self.footer => return Ok(Stop::End),
                Met::End => {
                    return Err(self.input.error(0, "the trace ends without its footer").hint(CUT_OFF));
                }
            };
            match record.kind {
                READ
                | WRITE
                | INSTR..=INSTR_BUNDLE
                | INSTR_SYSENTER
                | INSTR_TAKEN_JUMP
                | INSTR_UNTAKEN_JUMP
                    if self.thread.is_none() =>
                {
                    self.enter_thread(block, shared)?;
                    continue;
                }
                INSTR_BUNDLE if record.size <= 8 => {
                    self.bundle =
                        Bundle { lengths: record.addr.to_le_bytes(), at: 0, len: record.size.into() };
                }
                INSTR_BUNDLE => {
                    return Err(self
                        .input
                        .error(0, format_args!("a bundle of {} instructions", record.size)));
                }
                READ
                | WRITE
                | INSTR..=INSTR_RETURN
                | INSTR_SYSENTER
                | INSTR_TAKEN_JUMP
                | INSTR_UNTAKEN_JUMP => {
                    return Err(self.not_canonical(record.addr));
                }
                _ => self.rare(record, shared)?,
            }
            self.input.consume(BYTES);
            if self.merged && record.kind == MARKER && record.size == MARKER_TIMESTAMP {
                return Ok(Stop::Time(record.addr));
            }
        }
    }

    #[cold]
    fn not_canonical(&self, addr: u64) -> SourceError {
        self.input.error(0, format_args!("address {addr:#x} is not canonical"))
    }

    /// Takes records until one needs a closer look, which the window then begins with.
    fn run(&mut self, block: &mut Block, fetches: bool) -> Result<Met, SourceError> {
        let window = self.input.window(BYTES * 4 * BLOCK)?;
        let have = window.len();
        let out = &mut block.accesses;
        let mut pending = self.pending;
        let mut used = 0;
        let mut met = Met::Nothing;
        for bytes in window.chunks_exact(BYTES) {
            let record = Record::parse(bytes);
            let kind = match record.kind {
                READ => Kind::Read,
                WRITE => Kind::Write,
                INSTR..=INSTR_RETURN | INSTR_SYSENTER | INSTR_TAKEN_JUMP | INSTR_UNTAKEN_JUMP => Kind::Fetch,
                // Prefetches, flushes, encodings, idle cores: nothing to deliver.
                PREFETCH..=PREFETCH_LAST
                | FLUSH..=FLUSH_LAST
                | HW_PREFETCH
                | INSTR_NO_FETCH
                | INSTR_MAYBE_FETCH
                | PREFETCH_KINDS..=ENCODING => {
                    used += BYTES;
                    continue;
                }
                MARKER
                    if !matches!(
                        record.size,
                        MARKER_TIMESTAMP | MARKER_FILETYPE | MARKER_PHYSICAL_ADDRESS | MARKER_VIRTUAL_ADDRESS
                    ) =>
                {
                    used += BYTES;
                    continue;
                }
                _ => {
                    met = Met::Record(record);
                    break;
                }
            };
            let Some(thread) = self.thread else {
                met = Met::Record(record);
                break;
            };
            if !is_canonical(record.addr) {
                met = Met::Record(record);
                break;
            }
            if out.len() == BLOCK {
                break;
            }
            if kind == Kind::Fetch {
                self.pc = record.addr.wrapping_add(record.size.into());
                pending = pending.saturating_add(1);
                if !fetches {
                    used += BYTES;
                    continue;
                }
            }
            let insns = pending.min(u16::MAX.into());
            pending -= insns;
            out.push(Access {
                va: Va::new(record.addr),
                insns: insns as u16,
                thread,
                kind,
                size_log2: size_log2(record.size.into()),
                flags: 0,
                reserved: 0,
            });
            used += BYTES;
        }
        self.pending = pending;
        self.input.consume(used);
        match have {
            0 => Ok(Met::End),
            1..BYTES => Err(self.input.cut_off(have, BYTES)),
            _ => Ok(met),
        }
    }

    /// Delivers the next instruction of a bundle.
    fn unbundle(&mut self, block: &mut Block, fetches: bool) -> Result<(), SourceError> {
        let length = self.bundle.lengths[self.bundle.at];
        self.bundle.at += 1;
        let pc = self.pc;
        if !is_canonical(pc) {
            return Err(self.not_canonical(pc));
        }
        self.pc = pc.wrapping_add(length.into());
        self.pending = self.pending.saturating_add(1);
        if fetches {
            let insns = self.pending.min(u16::MAX.into());
            self.pending -= insns;
            let thread = self.thread.expect("a bundle follows its thread's record");
            let mut access = Access::new(pc, Kind::Fetch, thread, insns as u16);
            access.size_log2 = size_log2(length.into());
            block.accesses.push(access);
        }
        Ok(())
    }
}

/// What ended a run of plain records.
enum Met {
    /// Room or the window.
    Nothing,
    /// A record that is not plain.
    Record(Record),
    /// The end of the file.
    End,
}
