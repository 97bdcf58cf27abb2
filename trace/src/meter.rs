//! How far a trace has been read, for whoever watches.

use crate::source::{Facts, TraceSource};
use machine::input::{Block, More, Setup, Source, SourceError};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How far a trace has been read. A clone is the same meter.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    accesses: AtomicU64,
    /// 0 where nobody knows.
    of_accesses: AtomicU64,
    bytes: AtomicU64,
    of_bytes: AtomicU64,
}

impl Meter {
    /// Accesses so far.
    pub fn accesses(&self) -> u64 {
        self.0.accesses.load(Relaxed)
    }

    /// The share of the trace that has been read: of its accesses, if it says how many there are, else of the
    /// bytes of its files. `None` before anything has been read.
    pub fn share(&self) -> Option<f64> {
        let of = |part: &AtomicU64, all: &AtomicU64| match (part.load(Relaxed), all.load(Relaxed)) {
            (0, _) | (_, 0) => None,
            (part, all) => Some((part as f64 / all as f64).min(1.0)),
        };
        match self.0.of_accesses.load(Relaxed) {
            0 => of(&self.0.bytes, &self.0.of_bytes),
            _ => of(&self.0.accesses, &self.0.of_accesses),
        }
    }

    /// A file whose bytes count.
    pub(crate) fn file(&self, file: File) -> MeteredFile {
        let len = file.metadata().map_or(0, |m| m.len());
        self.0.of_bytes.fetch_add(len, Relaxed);
        MeteredFile { file, meter: self.clone() }
    }

    /// A source whose accesses count.
    pub(crate) fn source(&self, source: Box<dyn TraceSource>) -> Box<dyn TraceSource> {
        Box::new(Metered { source, meter: self.clone() })
    }
}

impl PartialEq for Meter {
    /// Whether they are the same meter.
    fn eq(&self, other: &Meter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Meter {}

/// A file of a trace.
#[derive(Debug)]
pub(crate) struct MeteredFile {
    file: File,
    meter: Meter,
}

impl Read for MeteredFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.meter.0.bytes.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

impl Seek for MeteredFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

struct Metered {
    source: Box<dyn TraceSource>,
    meter: Meter,
}

impl Source for Metered {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let setup = self.source.setup()?;
        self.meter.0.of_accesses.store(setup.accesses.unwrap_or(0), Relaxed);
        Ok(setup)
    }
    fn is_live(&self) -> bool {
        self.source.is_live()
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        let more = self.source.fill(block)?;
        self.meter.0.accesses.fetch_add(block.accesses.len() as u64, Relaxed);
        Ok(more)
    }
}

impl TraceSource for Metered {
    fn facts(&self) -> Facts {
        self.source.facts()
    }
}
