//! Writing, a row group at a time.

use super::document::{events_to_json, setup_to_json};
use super::encode::Encoder;
use super::schema;
use crate::error::{Hint, error};
use flate2::Crc;
use machine::input::{Access, Block, Event, Setup, SourceError};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataWriter};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a row group: 18 MiB while it is gathered.
const GROUP: usize = 1 << 20;
/// Rows of a page: 512 KiB of addresses.
const PAGE_ROWS: usize = 1 << 16;
/// zstd's default: higher levels gain 5 % and cost several times the time.
const ZSTD: i32 = 3;
/// A footer for the case of a kill is put after this many times its own size.
const FOOTER_SHARE: u64 = 16;

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

/// The file, and the CRC-32 of what went into it since it was last asked for.
struct Sink {
    file: File,
    crc: Crc,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes a trace in Pagewalk's own format.
pub struct ParquetWriter {
    path: PathBuf,
    partial: PathBuf,
    about: About,
    setup: String,
    before: Vec<Event>,
    file: SerializedFileWriter<Sink>,
    /// CRC-32 of the bytes of each row group.
    crcs: Vec<u32>,
    columns: Columns,
    encoder: Encoder,
    descr: Arc<SchemaDescriptor>,
    /// Rows in closed row groups.
    rows: u64,
    last_footer: Footer,
}

#[derive(Clone, Copy, Default)]
struct Footer {
    end: u64,
    len: u64,
}

#[derive(Default)]
struct Columns {
    va: Vec<u64>,
    small: [Vec<u16>; 5],
    /// Row in the group, and what happens after it.
    events: Vec<(usize, Vec<Event>)>,
}

impl std::fmt::Debug for ParquetWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetWriter")
            .field("path", &self.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
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
        let name = partial.display().to_string();
        let file = File::create(&partial).map_err(|e| {
            error(&name, format_args!("cannot be made: {e}")).hint("choose another place with -o")
        })?;
        let sink = Sink { file, crc: Crc::new() };
        let file = SerializedFileWriter::new(sink, schema::schema(), properties())
            .map_err(|e| error(&name, format_args!("cannot be written: {e}")))?;
        Ok(ParquetWriter {
            path: path.to_owned(),
            partial,
            about,
            setup: setup_to_json(setup),
            before: Vec::new(),
            file,
            crcs: Vec::new(),
            columns: Columns::default(),
            encoder: Encoder::new(ZSTD).map_err(|e| error(&name, e))?,
            descr: Arc::new(SchemaDescriptor::new(schema::schema())),
            rows: 0,
            last_footer: Footer::default(),
        })
    }

    /// Appends a block.
    ///
    /// # Errors
    /// If the disk is full or gone; what is in `path.partial` stays readable.
    pub fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        // A full group is closed only when more rows come: events that come
        // alone belong to its last row.
        if self.columns.va.len() >= GROUP && !block.accesses.is_empty() {
            self.close_group().and_then(|()| self.checkpoint()).map_err(|e| self.failed(&e))?;
        }
        self.columns.push(&block.accesses);
        if !block.events.is_empty() {
            let events = match self.columns.va.len().checked_sub(1) {
                None => &mut self.before,
                Some(row) => self.columns.events_after(row),
            };
            events.extend_from_slice(&block.events);
        }
        Ok(())
    }

    fn close_group(&mut self) -> ParquetResult<()> {
        let rows = self.columns.va.len();
        if rows == 0 {
            return Ok(());
        }
        // What is buffered belongs to what came before.
        self.file.flush()?;
        self.file.inner_mut().crc.reset();
        let mut group = self.file.next_row_group()?;
        let (bytes, close) = self.encoder.addresses(self.descr.column(0), &self.columns.va)?;
        group.append_column(&bytes, close)?;
        for (i, column) in self.columns.small.iter().enumerate() {
            let (bytes, close) = self.encoder.small(self.descr.column(i + 1), column)?;
            group.append_column(&bytes, close)?;
        }
        let mut levels = vec![0i16; rows];
        let mut values = Vec::with_capacity(self.columns.events.len());
        for (row, events) in self.columns.events.drain(..) {
            levels[row] = 1;
            let json = events_to_json(&events).map_err(ParquetError::General)?;
            values.push(ByteArray::from(json.into_bytes()));
        }
        let mut column = group.next_column()?.expect("as many columns as the schema has");
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
        column.close()?;
        group.close()?;
        self.rows += rows as u64;
        self.columns.va.clear();
        self.columns.small.iter_mut().for_each(Vec::clear);
        self.file.flush()?;
        self.crcs.push(self.file.inner().crc.sum());
        Ok(())
    }

    /// Puts a footer that makes the file whole as it is, if it is time for one.
    fn checkpoint(&mut self) -> ParquetResult<()> {
        let at = self.file.bytes_written() as u64;
        if at - self.last_footer.end < FOOTER_SHARE * self.last_footer.len {
            return Ok(());
        }
        let descr = Arc::clone(&self.descr);
        let rows = i64::try_from(self.rows).expect("fewer than 2^63 accesses");
        let keys = self.keys(false).map_err(ParquetError::General)?;
        let file = FileMetaData::new(1, rows, Some(self.about.tool.clone()), Some(keys), descr, None);
        let footer = ParquetMetaData::new(file, self.file.flushed_row_groups().to_vec());
        let mut bytes = Vec::new();
        ParquetMetaDataWriter::new(&mut bytes, &footer).finish()?;
        self.file.write_all(&bytes)?;
        self.file.flush()?;
        self.last_footer = Footer { end: at + bytes.len() as u64, len: bytes.len() as u64 };
        Ok(())
    }

    fn keys(&self, complete: bool) -> Result<Vec<KeyValue>, String> {
        let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let mut keys = vec![
            pair(schema::KEY_VERSION, schema::VERSION.to_string()),
            pair(schema::KEY_TOOL, self.about.tool.clone()),
            pair(schema::KEY_COMPLETE, complete.to_string()),
            pair(schema::KEY_ACCESSES, self.rows.to_string()),
            pair(schema::KEY_SETUP, self.setup.clone()),
            pair(
                schema::KEY_CRC,
                self.crcs.iter().map(|crc| format!("{crc:08x}")).collect::<Vec<_>>().join(","),
            ),
        ];
        if let Some(command) = &self.about.command {
            keys.push(pair(schema::KEY_COMMAND, command.clone()));
        }
        if !self.before.is_empty() {
            keys.push(pair(schema::KEY_EVENTS_BEFORE, events_to_json(&self.before)?));
        }
        Ok(keys)
    }

    /// Writes what is left and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or gone; what is in `path.partial` stays readable.
    pub fn finish(mut self) -> Result<Written, SourceError> {
        self.close_group().map_err(|e| self.failed(&e))?;
        for pair in self.keys(true).map_err(|e| error(&self.path.display().to_string(), e))? {
            self.file.append_key_value_metadata(pair);
        }
        self.file.finish().map_err(|e| self.failed(&e))?;
        let bytes = self.file.bytes_written() as u64;
        std::fs::rename(&self.partial, &self.path).map_err(|e| {
            let place = self.path.display().to_string();
            error(&place, format_args!("cannot be made of {}: {e}", self.partial.display()))
        })?;
        Ok(Written { path: self.path, accesses: self.rows, bytes })
    }

    #[cold]
    fn failed(&self, e: &ParquetError) -> SourceError {
        let name = self.partial.display().to_string();
        error(&name, format_args!("cannot be written after {} accesses: {e}", self.rows))
            .hint("make room; the file is readable up to there")
    }
}

impl Columns {
    fn push(&mut self, accesses: &[Access]) {
        self.va.extend(accesses.iter().map(|a| a.va.raw()));
        let [insns, thread, kind, size_log2, flags] = &mut self.small;
        insns.extend(accesses.iter().map(|a| a.insns));
        thread.extend(accesses.iter().map(|a| a.thread));
        kind.extend(accesses.iter().map(|a| a.kind as u16));
        size_log2.extend(accesses.iter().map(|a| u16::from(a.size_log2)));
        flags.extend(accesses.iter().map(|a| u16::from(a.flags)));
    }

    /// The list of what happens after a row that is not before the last such row.
    fn events_after(&mut self, row: usize) -> &mut Vec<Event> {
        if self.events.last().is_none_or(|(last, _)| *last != row) {
            self.events.push((row, Vec::new()));
        }
        &mut self.events.last_mut().expect("pushed above").1
    }
}

/// Of the column that the library encodes: events.
fn properties() -> WriterPropertiesPtr {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD).expect("a valid level")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_data_page_size_limit(8 * PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_max_row_group_row_count(None)
        .set_created_by(format!("pagewalk {}", env!("CARGO_PKG_VERSION")));
    Arc::new(properties.build())
}
