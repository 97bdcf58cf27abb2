//! Where the bytes of a Parquet file are: on disk, or embedded in the program.

use super::thrift::{PAGE, is_believable, uncompressed_page_size};
use bytes::{Buf, Bytes};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;

/// The largest page that is decompressed: a header that claims more is a lie
/// or a bomb. Pagewalk writes pages of 512 KiB; other tools' default is 1 MiB.
const PAGE_MAX: i32 = 64 << 20;

/// A file, or bytes in memory.
#[derive(Debug)]
pub(crate) enum Store {
    /// On disk.
    File(File),
    /// In memory.
    Bytes(Bytes),
}

impl Length for Store {
    fn len(&self) -> u64 {
        match self {
            Store::File(file) => file.len(),
            Store::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

impl Store {
    /// `length` bytes at `start`.
    pub(crate) fn get(&self, start: u64, length: usize) -> Result<Bytes> {
        match start.checked_add(length as u64) {
            Some(end) if end <= self.len() => {}
            _ => return Err(ParquetError::EOF(format!("{length} bytes at byte {start} are past the end"))),
        }
        match self {
            Store::File(file) => file.get_bytes(start, length),
            Store::Bytes(bytes) => {
                let start = usize::try_from(start).expect("within memory");
                Ok(bytes.slice(start..start + length))
            }
        }
    }
}

/// How much of a column chunk is read for a page's header, statistics included.
const HEADER_MAX: usize = 16 << 10;

impl ChunkReader for Store {
    type T = bytes::buf::Reader<Bytes>;

    /// The page reader calls this where a page header begins, and nowhere else:
    /// the place to look at the size that the page claims before it is believed.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let rest = self.len().saturating_sub(start);
        let head = self.get(start, HEADER_MAX.min(usize::try_from(rest).unwrap_or(HEADER_MAX)))?;
        match uncompressed_page_size(&head) {
            Some(size) if (0..=PAGE_MAX).contains(&size) && is_believable(&head, &PAGE) => Ok(head.reader()),
            Some(size) if (0..=PAGE_MAX).contains(&size) => Err(ParquetError::General(format!(
                "the header of the page at byte {start} has a field of the wrong kind, or a list of more elements than bytes"
            ))),
            Some(size) => Err(ParquetError::General(format!(
                "the page at byte {start} claims {size} decompressed bytes"
            ))),
            None => Err(ParquetError::General(format!("byte {start} does not begin a page"))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if length > PAGE_MAX as usize {
            return Err(ParquetError::General(format!("the page at byte {start} claims {length} bytes")));
        }
        self.get(start, length)
    }
}
