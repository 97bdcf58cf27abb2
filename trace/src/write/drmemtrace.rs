//! `DynamoRIO`'s post-processed traces: a zip of chunks a thread. They hold
//! fetches, reads, writes, sizes and threads; the order between threads by
//! timestamps (a count of switches, not a time). A modify becomes a read and a
//! write. Instructions that were not fetched are not held.

use super::packed::{failed, partial};
use super::{OneThread, TraceWriter};
use crate::drmemtrace::record::*;
use crate::error::error;
use crate::parquet::Written;
use machine::input::{Access, Block, Event, Kind, Setup, SourceError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Instructions of a chunk, as `DynamoRIO` makes them.
const CHUNK_INSTRUCTIONS: u64 = 10_000_000;
/// A trace without instructions has chunks all the same.
const CHUNK_RECORDS: u64 = 40_000_000;
/// Version 3: no encodings, no branch directions, which we do not know.
const VERSION: u64 = 3;

pub(super) struct DrMemtraceWriter {
    path: PathBuf,
    /// A file a thread, or one file for the only thread.
    directory: bool,
    only: OneThread,
    files: BTreeMap<u16, ThreadFile>,
    current: Option<u16>,
    processes: Vec<u16>,
    /// Switches between threads so far: our time.
    time: u64,
    accesses: u64,
}

struct ThreadFile {
    path: PathBuf,
    zip: ZipWriter<BufWriter<File>>,
    records: Vec<u8>,
    chunk: u64,
    /// Instructions and records in this chunk.
    instructions: u64,
    chunk_records: u64,
    /// Records that the reader of `DynamoRIO` counts.
    visible: u64,
    tid: u64,
}

impl DrMemtraceWriter {
    pub(super) fn create(path: &Path, setup: &Setup) -> Result<DrMemtraceWriter, SourceError> {
        let directory = path.extension().is_none_or(|e| e != "zip");
        if directory {
            std::fs::create_dir_all(path)
                .map_err(|e| error(&path.display().to_string(), format_args!("cannot be made: {e}")))?;
        }
        Ok(DrMemtraceWriter {
            path: path.to_owned(),
            directory,
            only: OneThread::default(),
            files: BTreeMap::new(),
            current: None,
            processes: setup.threads.iter().map(|t| t.process).collect(),
            time: 0,
            accesses: 0,
        })
    }

    fn switch_to(&mut self, thread: u16) -> Result<(), SourceError> {
        if !self.directory {
            self.only.check(&self.path.display().to_string(), thread)?;
        }
        self.time += 1;
        self.current = Some(thread);
        let accesses = self.accesses;
        if !self.files.contains_key(&thread) {
            let process = self.processes.get(usize::from(thread)).copied().unwrap_or(0);
            // Numbers that cannot be 0, which means "none".
            let (pid, tid) = (u64::from(process) + 1, u64::from(thread) + 1);
            let path = match self.directory {
                true => self.path.join(format!("drmemtrace.pagewalk.{tid:05}.0000.trace.zip")),
                false => self.path.clone(),
            };
            let file = ThreadFile::create(path.clone(), pid, tid).map_err(|e| failed(&path, accesses, e))?;
            self.files.insert(thread, file);
        }
        let file = self.files.get_mut(&thread).expect("inserted above");
        file.time(self.time);
        file.flush_if_large().map_err(|e| failed(&file.path, accesses, e))
    }
}

impl ThreadFile {
    fn create(path: PathBuf, pid: u64, tid: u64) -> std::io::Result<ThreadFile> {
        let file = BufWriter::with_capacity(256 << 10, File::create(partial(&path))?);
        let mut file = ThreadFile {
            path,
            zip: ZipWriter::new(file),
            records: Vec::new(),
            chunk: 0,
            instructions: 0,
            chunk_records: 0,
            visible: 0,
            tid,
        };
        file.begin_chunk()?;
        file.put(HEADER, 0, VERSION);
        file.marker(MARKER_VERSION, VERSION);
        file.marker(MARKER_FILETYPE, FILETYPE_X86_64);
        file.put(THREAD, 4, tid);
        file.put(PID, 4, pid);
        file.marker(MARKER_CACHE_LINE_SIZE, 64);
        file.marker(MARKER_CHUNK_INSTR_COUNT, CHUNK_INSTRUCTIONS);
        file.marker(MARKER_PAGE_SIZE, 4096);
        Ok(file)
    }

    fn begin_chunk(&mut self) -> std::io::Result<()> {
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(true);
        self.zip.start_file(format!("chunk.{:04}", self.chunk), options).map_err(std::io::Error::other)
    }

    fn put(&mut self, kind: u16, size: u16, addr: u64) {
        self.records.extend_from_slice(&Record { kind, size, addr }.to_bytes());
        self.chunk_records += 1;
        self.visible += u64::from(!matches!(kind, HEADER | THREAD | PID));
    }

    fn marker(&mut self, marker: u16, value: u64) {
        self.put(MARKER, marker, value);
    }

    fn time(&mut self, time: u64) {
        self.marker(MARKER_TIMESTAMP, time);
        self.marker(MARKER_CPU_ID, 0);
    }

    fn flush_if_large(&mut self) -> std::io::Result<()> {
        if self.records.len() < 1 << 20 {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.zip.write_all(&self.records)?;
        self.records.clear();
        Ok(())
    }

    /// Ends a chunk that is full; the next repeats the time.
    fn end_chunk_if_full(&mut self, time: u64) -> std::io::Result<()> {
        if self.instructions < CHUNK_INSTRUCTIONS && self.chunk_records < CHUNK_RECORDS {
            return Ok(());
        }
        self.marker(MARKER_CHUNK_FOOTER, self.chunk);
        self.flush()?;
        self.chunk += 1;
        (self.instructions, self.chunk_records) = (0, 0);
        self.begin_chunk()?;
        let visible = self.visible;
        self.marker(MARKER_RECORD_ORDINAL, visible);
        self.time(time);
        self.visible = visible;
        Ok(())
    }

    fn access(&mut self, access: &Access) {
        let (va, size) = (access.va.raw(), 1u16 << access.size_log2.min(15));
        match access.kind {
            Kind::Fetch => {
                self.instructions += 1;
                self.put(INSTR, size, va);
            }
            Kind::Read => self.put(READ, size, va),
            Kind::Write => self.put(WRITE, size, va),
            Kind::Modify => {
                self.put(READ, size, va);
                self.put(WRITE, size, va);
            }
        }
    }

    fn finish(mut self) -> std::io::Result<u64> {
        self.put(THREAD_EXIT, 4, self.tid);
        self.put(FOOTER, 0, 0);
        self.flush()?;
        let file = self.zip.finish().map_err(std::io::Error::other)?;
        let file = file.into_inner().map_err(|e| e.into_error())?;
        let bytes = file.metadata()?.len();
        std::fs::rename(partial(&self.path), &self.path)?;
        Ok(bytes)
    }
}

impl TraceWriter for DrMemtraceWriter {
    fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        for access in &block.accesses {
            if self.current != Some(access.thread) {
                self.switch_to(access.thread)?;
            }
            let file = self.files.get_mut(&access.thread).expect("made when switched to");
            // An instruction's data stays in its chunk.
            if access.kind == Kind::Fetch || access.insns > 0 {
                let result = file.end_chunk_if_full(self.time).and_then(|()| file.flush_if_large());
                result.map_err(|e| failed(&file.path, self.accesses, e))?;
            }
            file.access(access);
            self.accesses += 1;
        }
        for event in &block.events {
            if let Event::Spawn { process, .. } = event {
                self.processes.push(*process);
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written, SourceError> {
        if self.files.is_empty() {
            self.switch_to(0)?;
        }
        let mut bytes = 0;
        for (_, file) in std::mem::take(&mut self.files) {
            let path = file.path.clone();
            bytes += file.finish().map_err(|e| failed(&path, self.accesses, e))?;
        }
        Ok(Written { path: self.path, accesses: self.accesses, bytes })
    }
}
