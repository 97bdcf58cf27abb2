//! The file: row groups, footers, and its end.

use super::document::{events_to_json, setup_to_json};
use super::encode::Encoder;
use super::rows::Page;
use super::schema;
use super::writer::About;
use crate::error::{Hint, error};
use flate2::Crc;
use machine::input::{Event, Setup, SourceError};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataWriter};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Rows of a page: 512 KiB of addresses.
pub(crate) const PAGE: usize = 1 << 16;
/// Rows of a row group.
pub(super) const GROUP: usize = 16 * PAGE;
/// zstd's fastest level but for those that hardly compress: the default, 3, gains 5 % and costs twice the time.
const ZSTD: i32 = 1;
/// A footer for the case of a kill is put after this many times its own size.
const FOOTER_SHARE: u64 = 16;

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

/// A file that pages go to.
pub(super) struct Groups {
    /// What it is called until it is complete.
    name: String,
    about: About,
    setup: String,
    before: Vec<Event>,
    file: SerializedFileWriter<Sink>,
    /// CRC-32 of the bytes of each row group.
    crcs: Vec<u32>,
    encoder: Encoder,
    /// Row in the group, and what happens after it.
    events: Vec<(usize, Vec<Event>)>,
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

impl Groups {
    /// Begins the file.
    pub(super) fn create(partial: &Path, setup: &Setup, about: About) -> Result<Groups, SourceError> {
        let name = partial.display().to_string();
        let file = File::create(partial).map_err(|e| {
            error(&name, format_args!("cannot be made: {e}")).hint("choose another place with -o")
        })?;
        let sink = Sink { file, crc: Crc::new() };
        let file = SerializedFileWriter::new(sink, schema::schema(), properties())
            .map_err(|e| error(&name, format_args!("cannot be written: {e}")))?;
        Ok(Groups {
            about,
            setup: setup_to_json(setup),
            before: Vec::new(),
            file,
            crcs: Vec::new(),
            encoder: Encoder::new(ZSTD).map_err(|e| error(&name, e))?,
            events: Vec::new(),
            descr: Arc::new(SchemaDescriptor::new(schema::schema())),
            rows: 0,
            last_footer: Footer::default(),
            name,
        })
    }

    /// Appends a page, of [`PAGE`] rows but for the last.
    pub(super) fn add(&mut self, page: &mut Page) -> Result<(), SourceError> {
        self.before.append(&mut page.before);
        if page.rows == 0 {
            return Ok(());
        }
        let first = self.encoder.rows();
        self.events.extend(page.events.drain(..).map(|(row, events)| (first + row, events)));
        let added = self.encoder.add(page).and_then(|()| {
            if self.encoder.rows() < GROUP {
                return Ok(());
            }
            self.close_group()?;
            self.checkpoint()
        });
        added.map_err(|e| self.failed(&e))
    }

    fn close_group(&mut self) -> ParquetResult<()> {
        let rows = self.encoder.rows();
        if rows == 0 {
            return Ok(());
        }
        // What is buffered belongs to what came before.
        self.file.flush()?;
        self.file.inner_mut().crc.reset();
        let chunks = self.encoder.close(&self.descr)?;
        let mut group = self.file.next_row_group()?;
        for (bytes, close) in chunks {
            group.append_column(&bytes, close)?;
        }
        if self.events.is_empty() {
            // Nearly always; the library takes as long for a column of nulls as all else does for another column.
            let (bytes, close) = self.encoder.nulls(self.descr.column(6), rows)?;
            group.append_column(&bytes, close)?;
        } else {
            let mut levels = vec![0i16; rows];
            let mut values = Vec::with_capacity(self.events.len());
            for (row, events) in self.events.drain(..) {
                levels[row] = 1;
                let json = events_to_json(&events).map_err(ParquetError::General)?;
                values.push(ByteArray::from(json.into_bytes()));
            }
            let mut column = group.next_column()?.expect("as many columns as the schema has");
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            column.close()?;
        }
        group.close()?;
        self.rows += rows as u64;
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

    /// Writes what is left and the last footer; how many rows and bytes there are.
    pub(super) fn finish(mut self) -> Result<(u64, u64), SourceError> {
        self.close_group().map_err(|e| self.failed(&e))?;
        for pair in self.keys(true).map_err(|e| error(&self.name, e))? {
            self.file.append_key_value_metadata(pair);
        }
        self.file.finish().map_err(|e| self.failed(&e))?;
        Ok((self.rows, self.file.bytes_written() as u64))
    }

    #[cold]
    fn failed(&self, e: &ParquetError) -> SourceError {
        error(&self.name, format_args!("cannot be written after {} accesses: {e}", self.rows))
            .hint("make room; the file is readable up to there")
    }
}

/// Of the column that the library encodes: events.
fn properties() -> WriterPropertiesPtr {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD).expect("a valid level")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(PAGE)
        .set_data_page_size_limit(8 * PAGE)
        .set_write_batch_size(PAGE)
        .set_max_row_group_row_count(None)
        .set_created_by(format!("pagewalk {}", env!("CARGO_PKG_VERSION")));
    Arc::new(properties.build())
}
