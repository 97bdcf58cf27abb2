//! Writing: rows are gathered by the page, and encoded by another thread meanwhile.
//!
//! Two threads, because what a captured program does must be taken from it while earlier pages are encoded. Pages go over
//! in order, so that the bytes of the file do not depend on how the threads run. Addresses go as places of the dictionary:
//! they are looked up while they are in the nearest cache, and what the other thread has to fetch is less.

use super::groups::{GROUP, Groups, PAGE};
use super::rows::{Page, Rows};
use crate::error::error;
use machine::input::{Block, Setup, SourceError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Pages that may wait to be encoded.
const WAITING: usize = 2;

/// Where a trace comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// The command that was captured, or how the trace was made.
    pub command: Option<String>,
    /// The tool that wrote it, with its version.
    pub tool: String,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The file, under its final name.
    pub path: PathBuf,
    /// Accesses in it.
    pub accesses: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Writes a trace in Pagewalk's own format.
#[derive(Debug)]
pub struct ParquetWriter {
    path: PathBuf,
    partial: PathBuf,
    rows: Rows,
    /// Rows in pages that have been handed over.
    earlier: usize,
    encoding: Encoding,
}

/// The thread that encodes and writes.
#[derive(Debug)]
struct Encoding {
    /// `None` once it is to end.
    pages: Option<SyncSender<Page>>,
    /// Pages come back, to be filled again.
    empty: Receiver<Page>,
    thread: Option<JoinHandle<Result<Groups, SourceError>>>,
}

impl Encoding {
    fn start(groups: Groups) -> std::io::Result<Encoding> {
        let (pages, full) = sync_channel(WAITING);
        let (back, empty) = channel();
        let thread = std::thread::Builder::new().name("parquet".into());
        let thread = thread.spawn(move || encode(groups, &full, &back))?;
        Ok(Encoding { pages: Some(pages), empty, thread: Some(thread) })
    }

    /// Hands a page over, for an empty one.
    fn swap(&mut self, page: &mut Page) -> Result<(), SourceError> {
        let full = std::mem::take(page);
        let sent = self.pages.as_ref().is_some_and(|pages| pages.send(full).is_ok());
        *page = self.empty.try_recv().unwrap_or_else(|_| Page::new());
        if sent {
            return Ok(());
        }
        // The thread has ended, so it failed; if that has been told, it is told again.
        match self.end() {
            Some(Err(e)) => Err(e),
            _ => Err(error("the trace", "cannot be written any more")),
        }
    }

    /// Waits for the thread; `None` if it was waited for before.
    fn join(&mut self) -> Option<std::thread::Result<Result<Groups, SourceError>>> {
        self.pages = None;
        Some(self.thread.take()?.join())
    }

    /// The same; a panic of the thread goes on here.
    fn end(&mut self) -> Option<Result<Groups, SourceError>> {
        Some(self.join()?.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Encoding {
    /// A writer that is dropped leaves a file at rest.
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn encode(mut groups: Groups, full: &Receiver<Page>, back: &Sender<Page>) -> Result<Groups, SourceError> {
    for mut page in full {
        groups.add(&mut page)?;
        page.clear();
        // Nobody wants it back at the end.
        let _ = back.send(page);
    }
    Ok(groups)
}

impl ParquetWriter {
    /// Begins `path`; until [`ParquetWriter::finish`] it is called `path.partial`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path, setup: &Setup, about: About) -> Result<ParquetWriter, SourceError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let encoding = Encoding::start(Groups::create(&partial, setup, about)?)
            .map_err(|e| error(&partial.display().to_string(), format_args!("no thread to write it: {e}")))?;
        Ok(ParquetWriter { path: path.to_owned(), partial, rows: Rows::new(), earlier: 0, encoding })
    }

    /// Appends a block.
    ///
    /// # Errors
    /// If the disk is full or gone, perhaps since an earlier block; what is in `path.partial` stays readable.
    pub fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        let mut accesses = block.accesses.as_slice();
        while !accesses.is_empty() {
            // A full page is handed over only when more rows come: events that
            // come alone belong to its last row.
            if self.rows.room() == 0 {
                self.encoding.swap(&mut self.rows.page)?;
                self.earlier += PAGE;
                if self.earlier.is_multiple_of(GROUP) {
                    self.rows.begin_group();
                }
            }
            let (now, later) = accesses.split_at(accesses.len().min(self.rows.room()));
            self.rows.add(now);
            accesses = later;
        }
        if !block.events.is_empty() {
            self.rows.page.events_now().extend_from_slice(&block.events);
        }
        Ok(())
    }

    /// The rows of the page, to append some; `None` if it is full: then a block makes room.
    pub(crate) fn rows(&mut self) -> Option<&mut Rows> {
        Some(&mut self.rows).filter(|rows| rows.room() > 0)
    }

    /// How many accesses have been appended.
    pub(crate) fn accesses(&self) -> u64 {
        (self.earlier + self.rows.len()) as u64
    }

    /// Writes what is left and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or gone; what is in `path.partial` stays readable.
    pub fn finish(mut self) -> Result<Written, SourceError> {
        self.encoding.swap(&mut self.rows.page)?;
        let groups = self.encoding.end().expect("it has not ended before")?;
        let (accesses, bytes) = groups.finish()?;
        std::fs::rename(&self.partial, &self.path).map_err(|e| {
            let place = self.path.display().to_string();
            error(&place, format_args!("cannot be made of {}: {e}", self.partial.display()))
        })?;
        Ok(Written { path: self.path, accesses, bytes })
    }
}
