//! Writing traces for other tools, and for this one.

mod champsim;
mod drmemtrace;
mod lackey;
mod packed;

use crate::error::{Hint, error};
use crate::open::open;
use crate::options::{Format, OpenOptions};
use crate::parquet::{About, ParquetWriter, Written};
use crate::sniff;
use machine::input::{Block, More, Setup, Source, SourceError};
use std::path::Path;

/// A trace that is being written.
pub trait TraceWriter: Send {
    /// Appends a block. What the format has no place for is left out.
    ///
    /// # Errors
    /// If the disk is full or gone, or the format cannot hold the trace at all.
    fn write(&mut self, block: &Block) -> Result<(), SourceError>;
    /// Writes what is left and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or gone.
    fn finish(self: Box<Self>) -> Result<Written, SourceError>;
}

impl TraceWriter for ParquetWriter {
    fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        ParquetWriter::write(self, block)
    }
    fn finish(self: Box<Self>) -> Result<Written, SourceError> {
        ParquetWriter::finish(*self)
    }
}

/// How to write a trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteOptions {
    /// The format, where the file's name does not tell.
    pub format: Option<Format>,
    /// Write this thread only.
    pub thread: Option<u16>,
    /// Where the trace comes from, for formats that can say.
    pub about: About,
}

/// The formats that can be written.
pub const WRITABLE: [Format; 4] = [Format::Parquet, Format::DrMemtrace, Format::ChampSim, Format::Lackey];

/// Begins a trace at `path`, in the format that its name tells: `.parquet`;
/// `.trace.zip`, or a directory `.dir` with a file a thread; `.champsimtrace`
/// and `.lackey`, with `.gz`, `.xz` or `.zst` where wanted.
///
/// # Errors
/// If the format cannot be told or cannot be written, or the file not made.
pub fn create(
    path: &Path,
    setup: &Setup,
    options: &WriteOptions,
) -> Result<Box<dyn TraceWriter>, SourceError> {
    let name = path.display().to_string();
    let Some(format) = options.format.or_else(|| by_name(path)) else {
        return Err(error(&name, "the format to write cannot be told from the name").hint(choices()));
    };
    Ok(match format {
        Format::Parquet => Box::new(OfThread::new(
            Box::new(ParquetWriter::create(path, setup, options.about.clone())?),
            options.thread,
        )),
        Format::DrMemtrace => Box::new(OfThread::new(
            Box::new(drmemtrace::DrMemtraceWriter::create(path, setup)?),
            options.thread,
        )),
        Format::ChampSim => {
            Box::new(OfThread::new(Box::new(champsim::ChampSimWriter::create(path)?), options.thread))
        }
        Format::Lackey => {
            Box::new(OfThread::new(Box::new(lackey::LackeyWriter::create(path)?), options.thread))
        }
        other => return Err(error(&name, format_args!("{other} cannot be written")).hint(choices())),
    })
}

fn choices() -> String {
    format!("say which it is to be: --to-format {}", WRITABLE.map(Format::name).join("|"))
}

fn by_name(path: &Path) -> Option<Format> {
    let file = path.file_name()?.to_str()?.to_ascii_lowercase();
    match file.rsplit('.').next() {
        Some("parquet") => Some(Format::Parquet),
        Some("zip" | "dir") => Some(Format::DrMemtrace),
        _ => sniff::by_name(&file),
    }
}

/// Copies a source to its end. The source's setup must have been asked for.
///
/// # Errors
/// As reading and writing; what was written before stays.
pub fn copy(source: &mut dyn Source, mut writer: Box<dyn TraceWriter>) -> Result<Written, SourceError> {
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block)?;
        writer.write(&block)?;
        if more == More::No {
            return writer.finish();
        }
    }
}

/// Writes the trace at `from` to `to`. A command that it was captured from stays with it.
///
/// # Errors
/// As [`crate::open()`], [`create`] and [`copy`].
pub fn convert(
    from: &Path,
    reading: &OpenOptions,
    to: &Path,
    writing: &WriteOptions,
) -> Result<Written, SourceError> {
    let mut source = open(from, reading)?;
    let setup = source.setup()?;
    let mut writing = writing.clone();
    let facts = source.facts();
    if writing.about.tool.is_empty() {
        // How the accesses were captured is worth keeping, whoever wrote them down last.
        let before = facts.notes.iter().find_map(|note| note.strip_prefix("written by "));
        let before = before.map_or_else(|| format!("{} ({})", from.display(), facts.format), str::to_owned);
        writing.about.tool = format!("pagewalk {}, from {before}", env!("CARGO_PKG_VERSION"));
    }
    writing.about.command = writing.about.command.or(facts.command);
    copy(&mut *source, create(to, &setup, &writing)?)
}

/// Lets one thread's accesses through, or all.
struct OfThread {
    inner: Box<dyn TraceWriter>,
    only: Option<u16>,
    block: Block,
}

impl OfThread {
    fn new(inner: Box<dyn TraceWriter>, only: Option<u16>) -> OfThread {
        OfThread { inner, only, block: Block::new() }
    }
}

impl TraceWriter for OfThread {
    fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        let Some(only) = self.only else { return self.inner.write(block) };
        self.block.clear();
        self.block.accesses.extend(block.accesses.iter().filter(|a| a.thread == only));
        self.block.events.extend_from_slice(&block.events);
        self.inner.write(&self.block)
    }
    fn finish(self: Box<Self>) -> Result<Written, SourceError> {
        self.inner.finish()
    }
}

/// Refuses a second thread where a format has no place for it.
#[derive(Debug, Default)]
struct OneThread(Option<u16>);

impl OneThread {
    fn check(&mut self, what: &str, thread: u16) -> Result<(), SourceError> {
        match self.0 {
            Some(only) if only != thread => {
                Err(error(what, "the trace has several threads, the format has room for one")
                    .hint("choose one with --thread N"))
            }
            _ => {
                self.0 = Some(thread);
                Ok(())
            }
        }
    }
}
