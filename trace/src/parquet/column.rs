//! The values of a column, page by page, with what the library does not check.

use super::store::Store;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::Length;
use parquet::file::serialized_reader::SerializedPageReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of events that are taken from a batch of rows: some 100 000 events.
const EVENTS_MAX: usize = 16 << 20;
/// Bytes of pages that a batch of rows may take.
const PAGES_MAX: usize = 128 << 20;

/// Where a column chunk begins and ends, both within the file.
pub(super) fn chunk_range(meta: &ColumnChunkMetaData, store: &Store) -> ParquetResult<(u64, u64)> {
    let start = meta.dictionary_page_offset().unwrap_or(meta.data_page_offset());
    let (start, len) = (u64::try_from(start), u64::try_from(meta.compressed_size()));
    match (start, len) {
        (Ok(start), Ok(len)) if start.checked_add(len).is_some_and(|end| end <= store.len()) => {
            Ok((start, start + len))
        }
        _ => Err(ParquetError::EOF(format!("column {} is not within the file", meta.column_path()))),
    }
}

/// Calls the decoders of the library. On bytes that were forged to pass the
/// checks before, some of them panic instead of returning an error.
fn guarded<T>(decode: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(ParquetError::General("the decoder gave up on these bytes".to_owned())))
}

/// One column of a row group.
pub(super) struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    optional: bool,
    levels: Vec<i16>,
    /// Bytes of the pages that the current batch met.
    met: Arc<AtomicUsize>,
    /// Where it begins in the file.
    pub(super) byte: u64,
}

impl<T: DataType> Column<T> {
    pub(super) fn open(store: &Arc<Store>, group: &RowGroupMetaData, at: usize) -> ParquetResult<Column<T>> {
        let meta = group.column(at);
        let (start, _) = chunk_range(meta, store)?;
        let name = meta.column_path();
        if meta.num_values() != group.num_rows() {
            return Err(ParquetError::General(format!(
                "column {name} has {} values for {} rows",
                meta.num_values(),
                group.num_rows()
            )));
        }
        let rows = group.num_rows() as usize;
        let met = Arc::new(AtomicUsize::new(0));
        let inner = SerializedPageReader::new(store.clone(), meta, rows, None)?;
        let pages = CheckedPages { inner, rows, met: met.clone() };
        let descr = meta.column_descr_ptr();
        let optional = descr.max_def_level() > 0;
        let reader = guarded(|| Ok(get_typed_column_reader(get_column_reader(descr, Box::new(pages)))))?;
        Ok(Column { reader, optional, levels: Vec::new(), met, byte: start })
    }

    /// Appends `rows` values to `out`.
    pub(super) fn read(&mut self, rows: usize, out: &mut Vec<T::T>) -> ParquetResult<()> {
        self.levels.clear();
        self.met.store(0, Relaxed);
        let levels = self.optional.then_some(&mut self.levels);
        let (records, values, _) = guarded(|| self.reader.read_records(rows, levels, None, out))?;
        if records != rows || values != rows {
            return Err(ParquetError::EOF(format!("{values} values where {rows} rows are announced")));
        }
        Ok(())
    }
}

impl Column<ByteArrayType> {
    /// The values among the next `rows` rows that are not null.
    pub(super) fn read_sparse(&mut self, rows: usize) -> ParquetResult<Vec<(usize, Vec<u8>)>> {
        self.levels.clear();
        self.met.store(0, Relaxed);
        let mut values: Vec<ByteArray> = Vec::new();
        let levels = self.optional.then_some(&mut self.levels);
        let (records, present, _) = guarded(|| self.reader.read_records(rows, levels, None, &mut values))?;
        if records != rows || present != values.len() {
            return Err(ParquetError::EOF(format!("{records} values where {rows} rows are announced")));
        }
        let bytes: usize = values.iter().map(ByteArray::len).sum();
        if bytes > EVENTS_MAX {
            return Err(ParquetError::General(format!("{bytes} bytes of events in {rows} rows")));
        }
        let is_set = |row: &usize| self.levels.get(*row).is_none_or(|level| *level > 0);
        Ok((0..rows).filter(is_set).zip(values.iter().map(|v| v.data().to_vec())).collect())
    }
}

/// Whether the statistics of a column chunk say that it holds nothing.
pub(super) fn all_null(meta: &ColumnChunkMetaData) -> bool {
    meta.statistics()
        .and_then(|s| s.null_count_opt())
        .is_some_and(|n| i64::try_from(n) == Ok(meta.num_values()))
}

/// Pages whose counts were compared with what their bytes can hold: the
/// decoders behind reserve memory for as many values as a page claims.
struct CheckedPages {
    inner: SerializedPageReader<Store>,
    rows: usize,
    met: Arc<AtomicUsize>,
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let page = self.inner.get_next_page()?;
        let claim = match &page {
            // A dictionary's values lie there one by one, of at least 4 bytes each.
            Some(Page::DictionaryPage { buf, num_values, .. }) => (*num_values as usize, buf.len() / 4),
            Some(page) => (page.num_values() as usize, self.rows),
            None => return Ok(None),
        };
        // The values of `events` keep their pages in memory.
        let bytes = page.as_ref().map_or(0, |page| page.buffer().len());
        if self.met.fetch_add(bytes, Relaxed) > PAGES_MAX {
            return Err(ParquetError::General(format!("a batch of rows takes more than {PAGES_MAX} bytes")));
        }
        if claim.0 > claim.1 {
            return Err(ParquetError::General(format!("a page claims {} values; {} fit", claim.0, claim.1)));
        }
        Ok(page)
    }
    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }
    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.inner.skip_next_page()
    }
}

impl Iterator for CheckedPages {
    type Item = ParquetResult<Page>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
