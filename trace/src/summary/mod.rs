//! What is in a trace: `pagewalk trace info`, `head` and `stat`.

mod reuse;
mod stat;

pub use stat::{FootprintPoint, Kinds, Stat, ThreadStat, stat};

use crate::capture::Pages;
use crate::open::open;
use crate::options::OpenOptions;
use crate::source::{Facts, TraceSource};
use machine::input::{Access, Block, Event, Kind, More, Setup, SourceError};
use serde::Serialize;
use std::path::Path;

/// What a trace is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Info {
    /// The file.
    pub path: String,
    /// Its length, or that of a directory's files together.
    pub bytes: u64,
    /// What it is.
    pub facts: Facts,
    /// Accesses in it, where the format tells.
    pub accesses: Option<u64>,
    /// Processes that exist before the first access.
    pub processes: Vec<ProcessInfo>,
    /// Threads that exist before the first access.
    pub threads: usize,
    /// What was counted, if the trace was read to its end.
    pub counted: Option<Counted>,
}

/// What reading a trace to its end tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counted {
    /// Accesses.
    pub accesses: u64,
    /// Processes, also those that started later.
    pub processes: usize,
    /// Threads, also those that started later.
    pub threads: usize,
    /// Distinct 4 KiB pages; the same address in two processes is two.
    pub pages: u64,
}

/// A process of a trace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProcessInfo {
    /// Its name.
    pub name: String,
    /// Mappings that the trace describes.
    pub regions: usize,
    /// Their length together.
    pub mapped_bytes: u64,
}

/// Whether a trace is read to its end to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Only its beginning, and what it says of itself.
    Beginning,
    /// All of it.
    All,
}

/// Tells what a trace is.
///
/// # Errors
/// If it cannot be opened or understood.
pub fn info(path: &Path, options: &OpenOptions, extent: Extent) -> Result<Info, SourceError> {
    let mut source = open(path, options)?;
    let setup = source.setup()?;
    let counted = if extent == Extent::All { Some(counted(&mut *source, &setup)?) } else { None };
    let processes = setup.processes.iter().map(|p| ProcessInfo {
        name: p.name.clone(),
        regions: p.regions.len(),
        mapped_bytes: p.regions.iter().fold(0, |sum, r| r.len.saturating_add(sum)),
    });
    Ok(Info {
        path: path.display().to_string(),
        bytes: bytes_of(path),
        facts: source.facts(),
        accesses: setup.accesses,
        processes: processes.collect(),
        threads: setup.threads.len(),
        counted,
    })
}

fn counted(source: &mut dyn TraceSource, setup: &Setup) -> Result<Counted, SourceError> {
    let mut pages = Pages::new();
    let mut threads: Vec<u16> = setup.threads.iter().map(|thread| thread.process).collect();
    let mut counted =
        Counted { processes: setup.processes.len(), threads: setup.threads.len(), ..Counted::default() };
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block)?;
        counted.accesses += block.accesses.len() as u64;
        for access in &block.accesses {
            pages.add(threads.get(usize::from(access.thread)).copied().unwrap_or(0), access.va.raw());
        }
        for event in &block.events {
            if let Event::Spawn { process, .. } = event {
                threads.push(*process);
                counted.threads += 1;
            }
            counted.processes += usize::from(matches!(event, Event::Fork { .. }));
        }
        if more == More::No {
            counted.pages = pages.count();
            return Ok(counted);
        }
    }
}

/// Length of a file, or of the files in a directory and its directories.
fn bytes_of(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes_of(&entry.path())).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |m| m.len()),
    }
}

/// An access as a row of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// Number of the access, from 0.
    pub index: u64,
    /// The thread's index.
    pub thread: u16,
    /// `read`, `write`, `fetch` or `modify`.
    pub kind: &'static str,
    /// The address, hexadecimal.
    pub va: String,
    /// Bytes, a power of two.
    pub size: u64,
    /// Instructions since the thread's previous access.
    pub insns: u16,
    /// Waits for the thread's previous access.
    pub dependent: bool,
    /// Made by a locked instruction.
    pub locked: bool,
    /// What happens after it.
    pub events: Vec<String>,
}

/// A kind's name.
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Fetch => "fetch",
        Kind::Modify => "modify",
    }
}

impl Row {
    fn new(index: u64, access: &Access) -> Row {
        Row {
            index,
            thread: access.thread,
            kind: kind_name(access.kind),
            va: format!("{:#x}", access.va.raw()),
            size: 1 << access.size_log2.min(63),
            insns: access.insns,
            dependent: access.flags & Access::DEPENDENT != 0,
            locked: access.flags & Access::LOCKED != 0,
            events: Vec::new(),
        }
    }
}

/// The first `count` accesses of a trace.
///
/// # Errors
/// If it cannot be opened or read.
pub fn head(path: &Path, options: &OpenOptions, count: usize) -> Result<Vec<Row>, SourceError> {
    let mut source = open(path, options)?;
    source.setup()?;
    let mut rows: Vec<Row> = Vec::new();
    let mut block = Block::new();
    while rows.len() < count {
        let more = source.fill(&mut block)?;
        let first = rows.len() as u64;
        let wanted = count - rows.len();
        let whole = block.accesses.len() <= wanted;
        rows.extend(block.accesses.iter().take(wanted).zip(first..).map(|(a, i)| Row::new(i, a)));
        if let Some(last) = rows.last_mut().filter(|_| whole) {
            last.events.extend(block.events.iter().map(|event| format!("{event:?}")));
        }
        if more == More::No {
            break;
        }
    }
    Ok(rows)
}
