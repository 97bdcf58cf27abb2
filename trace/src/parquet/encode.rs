//! Columns as bytes of a file, page by page.
//!
//! The library's encoders would do: they hash each value of a dictionary column and take 25 ns for a row of
//! ours, several times what the capture of an access takes. These know that small columns have at most 16 bits, so that a
//! dictionary is a table, and that the bytes of an address are to be apart. What they write is plain Parquet,
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use super::pack::{Dictionary, levels};
use super::rows::Page as Rows;
use super::small::Column;
use super::split::Streams;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

/// Columns of small values.
const SMALL: usize = 5;

/// A column of a row group, as it will lie in the file.
pub(super) type Chunk = (Bytes, ColumnCloseResult);

/// Encodes the columns of a row group but the events; keeps what it needs for that.
pub(super) struct Encoder {
    streams: Streams,
    /// Low and high bytes of a small column.
    bytes: [Vec<u8>; 2],
    /// The dictionary of addresses.
    values: Vec<u64>,
    dictionaries: [Dictionary; SMALL],
    addresses: Pages,
    /// The least and the largest address.
    bounds: (u64, u64),
    small: [Pages; SMALL],
    rows: usize,
    zstd: Zstd,
    /// A page before compression.
    plain: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// A compressor, and room for what it makes.
struct Zstd {
    context: zstd::bulk::Compressor<'static>,
    level: ZstdLevel,
    packed: Vec<u8>,
}

impl Zstd {
    fn new(level: i32) -> Result<Zstd> {
        let context = zstd::bulk::Compressor::new(level).map_err(external)?;
        Ok(Zstd { context, level: ZstdLevel::try_new(level)?, packed: Vec::new() })
    }

    fn compress(&mut self, plain: &[u8]) -> Result<Bytes> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.context.compress_to_buffer(plain, &mut self.packed).map_err(external)?;
        Ok(Bytes::copy_from_slice(&self.packed))
    }
}

fn external(e: std::io::Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

/// Pages of a column chunk.
#[derive(Default)]
struct Pages {
    bytes: Vec<u8>,
    plain_bytes: usize,
    packed_bytes: usize,
    encodings: Vec<Encoding>,
}

impl Pages {
    /// Compresses and adds values, with their levels if the column is optional.
    fn add(&mut self, zstd: &mut Zstd, plain: &[u8], encoding: Encoding, values: usize) -> Result<()> {
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        let page = Page::DataPage {
            buf: zstd.compress(plain)?,
            num_values: values as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        self.push(page, plain.len())
    }

    fn push(&mut self, page: Page, plain: usize) -> Result<()> {
        let mut sink = TrackedWrite::new(std::mem::take(&mut self.bytes));
        let spec = SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(page, plain))?;
        self.bytes = sink.into_inner()?;
        self.plain_bytes += spec.uncompressed_size;
        self.packed_bytes += spec.compressed_size;
        Ok(())
    }

    /// The column chunk, and an empty one in its place. Its dictionary, if it has one, comes first in the file and is
    /// known last: `plain` is of so many values.
    fn close(
        &mut self,
        zstd: &mut Zstd,
        column: ColumnDescPtr,
        rows: usize,
        dictionary: Option<(&[u8], usize)>,
        statistics: Option<Statistics>,
    ) -> Result<Chunk> {
        let mut chunk = Pages::default();
        if let Some((plain, values)) = dictionary {
            let page = Page::DictionaryPage {
                buf: zstd.compress(plain)?,
                num_values: values as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            chunk.push(page, plain.len())?;
        }
        let pages = std::mem::take(self);
        let mut encodings = pages.encodings;
        encodings.push(Encoding::RLE);
        encodings.extend(dictionary.map(|_| Encoding::PLAIN));
        let mut meta = ColumnChunkMetaData::builder(column)
            .set_num_values(rows as i64)
            .set_encodings(encodings)
            .set_compression(Compression::ZSTD(zstd.level))
            .set_total_compressed_size((chunk.packed_bytes + pages.packed_bytes) as i64)
            .set_total_uncompressed_size((chunk.plain_bytes + pages.plain_bytes) as i64)
            .set_dictionary_page_offset(dictionary.map(|_| 0))
            .set_data_page_offset(chunk.packed_bytes as i64);
        if let Some(statistics) = statistics {
            meta = meta.set_statistics(statistics);
        }
        chunk.bytes.extend_from_slice(&pages.bytes);
        let result = ColumnCloseResult {
            bytes_written: chunk.bytes.len() as u64,
            rows_written: rows as u64,
            metadata: meta.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((chunk.bytes.into(), result))
    }
}

impl Encoder {
    /// Compresses by zstd at this level.
    pub(super) fn new(level: i32) -> Result<Encoder> {
        Ok(Encoder {
            streams: Streams::default(),
            bytes: Default::default(),
            values: Vec::new(),
            dictionaries: Default::default(),
            addresses: Pages::default(),
            bounds: (u64::MAX, 0),
            small: Default::default(),
            rows: 0,
            zstd: Zstd::new(level)?,
            plain: Vec::new(),
        })
    }

    /// Rows since the last row group was closed.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a page to each column.
    pub(super) fn add(&mut self, page: &Rows) -> Result<()> {
        let rows = page.rows;
        let addresses = &page.addresses;
        self.values.extend_from_slice(&addresses.new);
        if addresses.pack(rows, &mut self.plain).is_some() {
            self.addresses.add(&mut self.zstd, &self.plain, Encoding::RLE_DICTIONARY, rows)?;
        } else {
            let addresses = &addresses.plain[..rows];
            self.bounds = bounds(self.bounds, addresses);
            self.streams.fill(addresses);
            self.addresses.add(&mut self.zstd, self.streams.all(), Encoding::BYTE_STREAM_SPLIT, rows)?;
        }
        let small = &page.small;
        if small.is_wide {
            self.streams.fill(&small.words);
        }
        for (i, (pages, dictionary)) in self.small.iter_mut().zip(&mut self.dictionaries).enumerate() {
            if small.is_wide {
                let (low, high) = STREAMS[i];
                let high = high.map(|at| self.streams.byte(at));
                dictionary.page(self.streams.byte(low), high, &mut self.plain);
            } else {
                match small.column(i, rows, &mut self.bytes) {
                    Column::One(value) => dictionary.run(value, rows, &mut self.plain),
                    Column::Bytes(low, high) => dictionary.page(low, high, &mut self.plain),
                }
            }
            pages.add(&mut self.zstd, &self.plain, Encoding::RLE_DICTIONARY, rows)?;
        }
        self.rows += rows;
        Ok(())
    }

    /// A column of nulls, of as many rows as a group has.
    pub(super) fn nulls(&mut self, column: ColumnDescPtr, rows: usize) -> Result<Chunk> {
        let statistics = Statistics::byte_array(None, None, None, Some(rows as u64), false);
        let mut pages = Pages::default();
        self.plain.clear();
        levels(rows, &mut self.plain);
        pages.add(&mut self.zstd, &self.plain, Encoding::PLAIN, rows)?;
        pages.close(&mut self.zstd, column, rows, None, Some(statistics))
    }

    /// The columns of a row group, of the rows that came since the last one.
    pub(super) fn close(&mut self, schema: &SchemaDescriptor) -> Result<Vec<Chunk>> {
        let rows = std::mem::take(&mut self.rows);
        let mut chunks = Vec::with_capacity(1 + SMALL);
        let addresses = &self.values;
        let (least, most) = bounds(std::mem::replace(&mut self.bounds, (u64::MAX, 0)), addresses);
        let statistics = Statistics::int64(Some(least as i64), Some(most as i64), None, Some(0), false);
        self.plain.clear();
        self.plain.extend(addresses.iter().flat_map(|va| va.to_le_bytes()));
        let used = self.addresses.encodings.contains(&Encoding::RLE_DICTIONARY);
        let dictionary = used.then_some((self.plain.as_slice(), addresses.len()));
        let column = schema.column(0);
        chunks.push(self.addresses.close(&mut self.zstd, column, rows, dictionary, Some(statistics))?);
        self.values.clear();
        for (i, (pages, dictionary)) in self.small.iter_mut().zip(&mut self.dictionaries).enumerate() {
            self.plain.clear();
            self.plain.extend(dictionary.values().flat_map(|v| u32::from(v).to_le_bytes()));
            let values = Some((self.plain.as_slice(), self.plain.len() / 4));
            chunks.push(pages.close(&mut self.zstd, schema.column(1 + i), rows, values, None)?);
            dictionary.clear();
        }
        Ok(chunks)
    }
}

/// Which bytes of a row's word each small column is in the schema's order: the low one, and the high one if there is one.
const STREAMS: [(usize, Option<usize>); SMALL] =
    [(0, Some(1)), (2, Some(3)), (4, None), (5, None), (6, None)];

fn bounds(known: (u64, u64), addresses: &[u64]) -> (u64, u64) {
    addresses.iter().fold(known, |(least, most), &va| (least.min(va), most.max(va)))
}
