//! Opening a trace: what it is, and the reader for it.

use crate::error::{Hint, error};
use crate::input::Input;
use crate::options::{Compression, Format, OpenOptions};
use crate::parquet::{ParquetSource, Store};
use crate::qemu16::Qemu16;
use crate::sniff;
use bytes::Bytes;
use machine::input::{Source, SourceError};
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

/// Opens a trace file of any format.
///
/// # Errors
/// If the file cannot be opened, or what it is cannot be told.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Source + Send>, SourceError> {
    let name = path.display().to_string();
    let cannot = |e: std::io::Error| error(&name, format_args!("cannot be opened: {e}"));
    let mut file = File::open(path).map_err(cannot)?;
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head).map_err(cannot)?;
    if is_parquet(&head, options) {
        let recover = options.recover || path.extension().is_some_and(|e| e == "partial");
        let source = ParquetSource::new(name, Store::File(file), recover, options.fetches)?;
        return Ok(Box::new(source));
    }
    file.rewind().map_err(cannot)?;
    from_reader(&name, Box::new(file), options)
}

/// Opens a trace that is in memory, such as one embedded in the program.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(
    name: &str,
    bytes: &'static [u8],
    options: &OpenOptions,
) -> Result<Box<dyn Source + Send>, SourceError> {
    if is_parquet(bytes, options) {
        let store = Store::Bytes(Bytes::from_static(bytes));
        return Ok(Box::new(ParquetSource::new(name.to_owned(), store, options.recover, options.fetches)?));
    }
    from_reader(name, Box::new(Cursor::new(bytes)), options)
}

/// Opens a trace that comes through a pipe. Formats that need to go back and
/// forth in the file (Parquet, zip) cannot.
///
/// # Errors
/// As [`open`].
pub fn from_reader(
    name: &str,
    reader: Box<dyn Read + Send>,
    options: &OpenOptions,
) -> Result<Box<dyn Source + Send>, SourceError> {
    let mut input = Input::new(name.to_owned(), reader)?;
    let format = match options.format {
        Some(format) => format,
        None => sniff::format(&mut input)?,
    };
    match format {
        Format::Parquet if input.compression() == Compression::None => {
            Err(error(name, "Parquet cannot be read from a pipe").hint("store it in a file first"))
        }
        Format::Parquet => {
            Err(error(name, format_args!("Parquet inside {}", input.compression())).hint("unpack it first"))
        }
        Format::Qemu16 => Ok(Box::new(Qemu16::new(input))),
    }
}

fn is_parquet(head: &[u8], options: &OpenOptions) -> bool {
    match options.format {
        Some(format) => format == Format::Parquet,
        None => head.starts_with(b"PAR1"),
    }
}
