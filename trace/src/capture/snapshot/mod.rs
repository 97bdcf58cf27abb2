//! The layout of a process that runs natively: what is mapped where, by which
//! page sizes, in which frames, on which nodes.
//!
//! A snapshot is JSON. What the kernel did not show is listed in it, with what would help.

mod look;
mod scan;

use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use machine::input::{HugeAdvice, Populate, ProcessSetup, Region};
use paging::{PageSize, Va};
use serde::{Deserialize, Serialize};

use super::CaptureError;
use super::elf::Elf;
use super::maps::Line;

pub use look::snapshot;

/// A process's address space as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// 1.
    pub version: u32,
    /// Which process.
    pub pid: u32,
    /// Its executable.
    pub program: String,
    /// The kernel's release.
    pub kernel: String,
    /// NUMA nodes of the machine.
    pub nodes: u16,
    /// Its mappings, in address order.
    pub mappings: Vec<Mapping>,
    /// What could not be seen, why, and what would help.
    pub unseen: Vec<String>,
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    /// Its line of `/proc/PID/maps`.
    #[serde(flatten)]
    pub line: Line,
    /// What the program wished for about huge pages.
    pub advice: Advice,
    /// Pages on each node, where frames could not be seen: (node, 4 KiB pages).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_nodes: Vec<(u16, u64)>,
    /// The pages that are in memory, in address order.
    pub runs: Vec<Run>,
}

/// `madvise`, or hugetlbfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// None.
    #[default]
    None,
    /// `MADV_HUGEPAGE`.
    Huge,
    /// `MADV_NOHUGEPAGE`.
    NoHuge,
    /// Reserved pages of this many KiB.
    Reserved(u64),
}

/// Pages that follow each other in address and, if frames are known, in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Run {
    /// First page: its number in the mapping, in 4 KiB pages.
    pub page: u64,
    /// How many pages of 4 KiB.
    pub pages: u64,
    /// log2 of the size of the entries that map them: 12, 21 or 30.
    pub size_log2: u8,
    /// Number of the first frame, if it could be seen.
    pub frame: Option<u64>,
    /// The frames' node, if it could be seen.
    pub node: Option<u16>,
}

/// A run in the file: an array, because there are many.
type Row = (u64, u64, u8, Option<u64>, Option<u16>);

impl From<Row> for Run {
    fn from((page, pages, size_log2, frame, node): Row) -> Run {
        Run { page, pages, size_log2, frame, node }
    }
}

impl From<Run> for Row {
    fn from(run: Run) -> Row {
        (run.page, run.pages, run.size_log2, run.frame, run.node)
    }
}

impl Snapshot {
    /// Writes it to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CaptureError> {
        let error = |error: std::io::Error| CaptureError::File { path: path.to_owned(), error };
        let mut file = BufWriter::new(std::fs::File::create(path).map_err(error)?);
        serde_json::to_writer(&mut file, self).map_err(|e| error(e.into()))?;
        file.write_all(b"\n").and_then(|()| file.flush()).map_err(error)
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not a snapshot that makes sense; with the line and column.
    pub fn load(path: &Path) -> Result<Snapshot, CaptureError> {
        let error = |reason: String| CaptureError::Snapshot { path: path.to_owned(), reason };
        let file = std::fs::File::open(path).map_err(|e| error(e.to_string()))?;
        let snapshot: Snapshot =
            serde_json::from_reader(BufReader::new(file)).map_err(|e| error(e.to_string()))?;
        if snapshot.version != 1 {
            return Err(error(format!("is of version {}, this build reads 1", snapshot.version)));
        }
        let mut last = 0;
        for mapping in &snapshot.mappings {
            mapping.check(last).map_err(|why| error(format!("mapping {:x}: {why}", mapping.line.start)))?;
            last = mapping.line.end;
        }
        Ok(snapshot)
    }

    /// The process as a model's setup: its regions, those that are mostly in memory filled beforehand.
    pub fn process(&self) -> ProcessSetup {
        let name = Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let regions = self.mappings.iter().map(Mapping::region).collect();
        ProcessSetup { name, regions, group: None, implicit_regions: true }
    }

    /// Where its anonymous mappings are, without those that belong to a loaded file (.bss).
    pub(super) fn anonymous(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        // The last file seen, and where it ends in memory.
        let mut loaded: (Option<PathBuf>, u64) = (None, 0);
        for line in self.mappings.iter().map(|m| &m.line) {
            if let Some(file) = line.file() {
                if loaded.0.as_ref() != Some(&file) {
                    let len = Elf::open(&file).map_or(0, |elf| elf.memory());
                    loaded = (Some(file), line.start.saturating_add(len));
                }
            } else if line.name.is_empty() {
                let start = line.start.max(loaded.1.min(line.end));
                found.extend((start < line.end).then_some((start, line.end)));
            }
        }
        found
    }
    /// The end of its stack.
    pub(super) fn stack_top(&self) -> Option<u64> {
        self.mappings.iter().find(|m| m.line.name == "[stack]").map(|m| m.line.end)
    }
    /// Where its heap begins.
    pub(super) fn heap(&self) -> Option<u64> {
        self.mappings.iter().find(|m| m.line.name == "[heap]").map(|m| m.line.start)
    }
    /// Where this part of a file is: of the same path, else of the same name elsewhere.
    pub(super) fn place(&self, file: &str, offset: u64) -> Option<u64> {
        let name = |path: &str| Path::new(path).file_name().map(ToOwned::to_owned);
        let files = || self.mappings.iter().filter(|m| m.line.file().is_some());
        let at = |same: &dyn Fn(&str) -> bool| {
            let begins = files().find(|m| same(&m.line.name) && m.line.offset == offset);
            let holds = |m: &&Mapping| {
                let into = offset.checked_sub(m.line.offset);
                same(&m.line.name) && into.is_some_and(|into| into < m.line.end - m.line.start)
            };
            let found = begins.or_else(|| files().find(holds))?;
            Some(found.line.start + (offset - found.line.offset))
        };
        at(&|path| path == file).or_else(|| at(&|path| name(path) == name(file)))
    }
}

impl Mapping {
    fn check(&self, last: u64) -> Result<(), String> {
        let (start, end) = (self.line.start, self.line.end);
        if start >= end || !start.is_multiple_of(4096) || !end.is_multiple_of(4096) || end >> 47 != 0 {
            return Err("is not a range of user pages".into());
        }
        if start < last {
            return Err("overlaps the one before, or is out of order".into());
        }
        let mut next = 0;
        for run in &self.runs {
            let pages_of_entry = match run.size_log2 {
                12 | 21 | 30 => 1_u64 << (run.size_log2 - 12),
                other => return Err(format!("entries of 2^{other} bytes")),
            };
            let end_page = run.page.checked_add(run.pages).filter(|&e| e <= (end - start) / 4096);
            if run.page < next || run.pages == 0 || end_page.is_none() {
                return Err(format!("its run at page {} does not fit", run.page));
            }
            if !(start / 4096 + run.page).is_multiple_of(pages_of_entry)
                || !run.pages.is_multiple_of(pages_of_entry)
                || run.frame.is_some_and(|f| !f.is_multiple_of(pages_of_entry) || f >> 40 != 0)
            {
                return Err(format!("its run at page {} is not aligned to its entries", run.page));
            }
            next = end_page.unwrap_or(next);
        }
        Ok(())
    }

    /// 4 KiB pages in memory.
    pub fn present(&self) -> u64 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    fn region(&self) -> Region {
        let line = &self.line;
        let len = line.end - line.start;
        let mostly = self.present() * 2 >= len / 4096;
        Region {
            name: match line.file() {
                Some(file) => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                None if line.name.is_empty() => "anonymous".into(),
                None => line.name.clone(),
            },
            start: Va::new(line.start),
            len,
            backing: line.backing(),
            permissions: line.permissions(),
            advice: match self.advice {
                Advice::None => HugeAdvice::None,
                Advice::Huge => HugeAdvice::Huge,
                Advice::NoHuge => HugeAdvice::NoHuge,
                Advice::Reserved(1_048_576) => HugeAdvice::Reserved(PageSize::Size1G),
                Advice::Reserved(_) => HugeAdvice::Reserved(PageSize::Size2M),
            },
            populate: if mostly { Populate::By(0) } else { Populate::OnDemand },
        }
    }
}
