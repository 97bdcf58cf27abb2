//! What is in a trace: `pagewalk trace info`, `head` and `stat`.

mod reuse;
mod stat;

pub use stat::{FootprintPoint, Kinds, Stat, ThreadStat, stat};

use crate::open::open;
use crate::options::OpenOptions;
use crate::source::Facts;
use machine::input::{Access, Block, Kind, More, SourceError};
use serde::Serialize;
use std::path::Path;

/// What can be told without reading a trace to its end.
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

/// Tells what a trace is.
///
/// # Errors
/// If it cannot be opened or understood.
pub fn info(path: &Path, options: &OpenOptions) -> Result<Info, SourceError> {
    let mut source = open(path, options)?;
    let setup = source.setup()?;
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
    })
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
