//! Columns as bytes of a file.
//!
//! The library's encoders would do: they hash each value of a dictionary column and take 25 ns for a row of
//! ours, several times what the capture of an access takes. These know that small columns have at most 16 bits, so that a
//! dictionary is a table, and that the bytes of an address are to be apart. What they write is plain Parquet,
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// Values of a page: 512 KiB of addresses.
const PAGE: usize = 1 << 16;

/// A column of a row group, as it will lie in the file.
pub(super) type Chunk = (bytes::Bytes, ColumnCloseResult);

/// Encodes columns; keeps what it needs for that.
pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    level: ZstdLevel,
    /// Place in the dictionary plus one, by value; all 0 between two columns.
    places: Box<[u32; 1 << 16]>,
    /// A page before compression.
    plain: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("level", &self.level).finish_non_exhaustive()
    }
}

/// A column chunk that grows page by page.
struct Pages<'a> {
    file: SerializedPageWriter<'a, Vec<u8>>,
    zstd: &'a mut zstd::bulk::Compressor<'static>,
    plain_bytes: usize,
    packed_bytes: usize,
}

impl Pages<'_> {
    /// Compresses and adds what `page` makes of the bytes.
    fn add(&mut self, plain: &[u8], page: impl FnOnce(bytes::Bytes) -> Page) -> Result<()> {
        let packed = self.zstd.compress(plain).map_err(|e| ParquetError::External(Box::new(e)))?;
        let spec = self.file.write_page(CompressedPage::new(page(packed.into()), plain.len()))?;
        self.plain_bytes += spec.uncompressed_size;
        self.packed_bytes += spec.compressed_size;
        Ok(())
    }
}

/// A page of values; none of our columns that come here is optional, so there are no levels.
fn data(encoding: Encoding, values: usize) -> impl FnOnce(bytes::Bytes) -> Page {
    move |buf| Page::DataPage {
        buf,
        num_values: values as u32,
        encoding,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    }
}

impl Encoder {
    /// Compresses by zstd at this level.
    pub(super) fn new(level: i32) -> Result<Encoder> {
        Ok(Encoder {
            zstd: zstd::bulk::Compressor::new(level).map_err(|e| ParquetError::External(Box::new(e)))?,
            level: ZstdLevel::try_new(level)?,
            places: vec![0; 1 << 16].into_boxed_slice().try_into().expect("65536 places"),
            plain: Vec::new(),
        })
    }

    /// Addresses: `BYTE_STREAM_SPLIT`.
    pub(super) fn addresses(&mut self, column: ColumnDescPtr, values: &[u64]) -> Result<Chunk> {
        let mut sink = TrackedWrite::new(Vec::new());
        let mut pages = Pages {
            file: SerializedPageWriter::new(&mut sink),
            zstd: &mut self.zstd,
            plain_bytes: 0,
            packed_bytes: 0,
        };
        for values in values.chunks(PAGE) {
            self.plain.clear();
            for byte in 0..8 {
                self.plain.extend(values.iter().map(|v| (v >> (8 * byte)) as u8));
            }
            pages.add(&self.plain, data(Encoding::BYTE_STREAM_SPLIT, values.len()))?;
        }
        let (plain, packed) = (pages.plain_bytes, pages.packed_bytes);
        let (least, most) = values.iter().fold((u64::MAX, 0), |(a, b), &v| (a.min(v), b.max(v)));
        let meta = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![Encoding::BYTE_STREAM_SPLIT, Encoding::RLE])
            .set_statistics(Statistics::int64(Some(least as i64), Some(most as i64), None, Some(0), false));
        self.close(sink, meta, values.len(), (plain, packed), None)
    }

    /// Small values: a dictionary, and places in it as runs or packed bits.
    pub(super) fn small(&mut self, column: ColumnDescPtr, values: &[u16]) -> Result<Chunk> {
        let mut dictionary: Vec<u16> = Vec::new();
        for &value in values {
            let place = &mut self.places[usize::from(value)];
            if *place == 0 {
                dictionary.push(value);
                *place = dictionary.len() as u32;
            }
        }
        let mut sink = TrackedWrite::new(Vec::new());
        let mut pages = Pages {
            file: SerializedPageWriter::new(&mut sink),
            zstd: &mut self.zstd,
            plain_bytes: 0,
            packed_bytes: 0,
        };
        self.plain.clear();
        self.plain.extend(dictionary.iter().flat_map(|&v| u32::from(v).to_le_bytes()));
        let num_values = dictionary.len() as u32;
        pages.add(&self.plain, |buf| Page::DictionaryPage {
            buf,
            num_values,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        })?;
        let first_page = pages.packed_bytes;
        let width = (usize::BITS - (dictionary.len() - 1).leading_zeros()).max(1);
        for values in values.chunks(PAGE) {
            self.plain.clear();
            self.plain.push(width as u8);
            if values.iter().all(|v| *v == values[0]) {
                run(self.places[usize::from(values[0])] - 1, values.len(), width, &mut self.plain);
            } else {
                pack(&self.places, values, width, &mut self.plain);
            }
            pages.add(&self.plain, data(Encoding::RLE_DICTIONARY, values.len()))?;
        }
        let (plain, packed) = (pages.plain_bytes, pages.packed_bytes);
        dictionary.iter().for_each(|&value| self.places[usize::from(value)] = 0);
        let meta = ColumnChunkMetaData::builder(column).set_encodings(vec![
            Encoding::PLAIN,
            Encoding::RLE,
            Encoding::RLE_DICTIONARY,
        ]);
        self.close(sink, meta, values.len(), (plain, packed), Some(first_page))
    }

    fn close(
        &self,
        mut sink: TrackedWrite<Vec<u8>>,
        meta: parquet::file::metadata::ColumnChunkMetaDataBuilder,
        rows: usize,
        (plain, packed): (usize, usize),
        dictionary: Option<usize>,
    ) -> Result<Chunk> {
        std::io::Write::flush(&mut sink)?;
        let bytes = std::mem::take(sink.inner_mut());
        let metadata = meta
            .set_num_values(rows as i64)
            .set_compression(Compression::ZSTD(self.level))
            .set_total_compressed_size(packed as i64)
            .set_total_uncompressed_size(plain as i64)
            .set_data_page_offset(dictionary.unwrap_or(0) as i64)
            .set_dictionary_page_offset(dictionary.map(|_| 0))
            .build()?;
        let result = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((bytes.into(), result))
    }
}

/// A number in groups of 7 bits, least first.
fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// One value many times.
fn run(place: u32, times: usize, width: u32, out: &mut Vec<u8>) {
    varint((times as u64) << 1, out);
    out.extend_from_slice(&place.to_le_bytes()[..width.div_ceil(8) as usize]);
}

/// Places of `width` bits each, in groups of eight; the last group is filled up.
fn pack(places: &[u32; 1 << 16], values: &[u16], width: u32, out: &mut Vec<u8>) {
    varint((values.len().div_ceil(8) as u64) << 1 | 1, out);
    let place = |value: &u16| u128::from(places[usize::from(*value)] - 1);
    let group = |values: &[u16]| values.iter().rev().fold(0, |bits, value| bits << width | place(value));
    for values in values.chunks(8) {
        out.extend_from_slice(&group(values).to_le_bytes()[..width as usize]);
    }
}
