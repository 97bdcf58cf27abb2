//! The footer of a Parquet file, also where the file was cut off.

use super::store::Store;
use super::thrift::{FOOTER, is_believable};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::Length;

const MAGIC: &[u8; 4] = b"PAR1";
/// Length of what follows the footer: its length and the magic number.
const TAIL: u64 = 8;
/// The largest footer believed: 64 MiB hold some 100 000 row groups, 10^11 accesses.
const FOOTER_MAX: u64 = 64 << 20;
/// Ends of footers that are tried: the rows behind the last one hold such four
/// bytes by chance once in 4 GiB.
const TRIES_MAX: u32 = 100;
const SCAN: u64 = 1 << 20;

/// Whether the store begins as a Parquet file does.
pub(crate) fn has_magic(store: &Store) -> bool {
    store.get(0, MAGIC.len()).is_ok_and(|head| head[..] == MAGIC[..])
}

/// The footer that ends at byte `end` (exclusive).
fn ending_at(store: &Store, end: u64) -> Result<ParquetMetaData> {
    let missing = || ParquetError::EOF(format!("no footer ends at byte {end}"));
    let tail_start = end.checked_sub(TAIL).ok_or_else(missing)?;
    let tail = store.get(tail_start, TAIL as usize)?;
    if tail[4..] != MAGIC[..] {
        return Err(missing());
    }
    let length = u64::from(u32::from_le_bytes(tail[..4].try_into().expect("4 bytes")));
    let start = tail_start.checked_sub(length).filter(|_| length <= FOOTER_MAX).ok_or_else(|| {
        ParquetError::General(format!("the footer at byte {tail_start} claims {length} bytes"))
    })?;
    let footer = store.get(start, length as usize)?;
    if !is_believable(&footer, &FOOTER) {
        return Err(ParquetError::General(format!(
            "the footer at byte {start} has a field of the wrong kind, or a list of more elements than bytes"
        )));
    }
    ParquetMetaDataReader::decode_metadata(&footer)
}

/// The footer at the end of the file.
pub(crate) fn at_end(store: &Store) -> Result<ParquetMetaData> {
    ending_at(store, store.len())
}

/// The last footer in the file, wherever it ends, and the byte where it ends.
pub(crate) fn last(store: &Store) -> Result<(ParquetMetaData, u64)> {
    let mut end = store.len();
    let mut tried = 0;
    while end > TAIL {
        let start = end.saturating_sub(SCAN);
        let part = store.get(start, (end - start) as usize)?;
        for at in (0..part.len().saturating_sub(MAGIC.len() - 1)).rev() {
            if part[at..at + 4] == MAGIC[..] {
                let footer_end = start + at as u64 + 4;
                tried += 1;
                if tried > TRIES_MAX {
                    return Err(ParquetError::General(format!(
                        "none of the last {TRIES_MAX} footers is whole"
                    )));
                }
                if let Ok(footer) = ending_at(store, footer_end) {
                    return Ok((footer, footer_end));
                }
            }
        }
        // The magic number may lie across the two parts.
        end = if start == 0 { 0 } else { start + MAGIC.len() as u64 - 1 };
    }
    Err(ParquetError::EOF("no footer anywhere in the file".to_owned()))
}
