//! Opening a trace: what it is, and the reader for it.

use crate::archive::{self, ReadSeek};
use crate::champsim::ChampSim;
use crate::compression::MAGIC_MAX;
use crate::drmemtrace::{self, DrMemtrace};
use crate::error::{Hint, error};
use crate::gem5::Gem5;
use crate::input::Input;
use crate::meter::Meter;
use crate::options::{Compression, Format, OpenOptions};
use crate::parquet::{ParquetSource, Store};
use crate::qemu16::Qemu16;
use crate::sniff;
use crate::source::TraceSource;
use crate::text::{Dinero, Lackey, PerfMem, PerfScript, Ramulator, Text};
use bytes::Bytes;
use machine::input::SourceError;
use std::borrow::Cow;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// Opens a trace file of any format, or a directory of `DynamoRIO`'s.
///
/// # Errors
/// If the file cannot be opened, or what it is cannot be told.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn TraceSource>, SourceError> {
    let source = open_unmetered(path, options)?;
    Ok(match &options.meter {
        Some(meter) => meter.source(source),
        None => source,
    })
}

fn open_unmetered(path: &Path, options: &OpenOptions) -> Result<Box<dyn TraceSource>, SourceError> {
    let name = path.display().to_string();
    let meter = options.meter.as_ref();
    if path.is_dir() {
        let inputs = drmemtrace::directory_inputs(path, meter)?;
        return Ok(Box::new(DrMemtrace::new(name, inputs, options.fetches)));
    }
    let mut file = open_file(path)?;
    if is_parquet(&head(&name, &mut file)?, options) {
        let recover = options.recover || path.extension().is_some_and(|e| e == "partial");
        return Ok(Box::new(ParquetSource::new(name, Store::File(file), recover, options.fetches)?));
    }
    reader(seekable(name, metered(file, meter))?, options)
}

/// Opens a trace that is in memory, such as one embedded in the program.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(
    name: &str,
    bytes: impl Into<Cow<'static, [u8]>>,
    options: &OpenOptions,
) -> Result<Box<dyn TraceSource>, SourceError> {
    let bytes = match bytes.into() {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    if is_parquet(&bytes, options) {
        let store = Store::Bytes(bytes);
        return Ok(Box::new(ParquetSource::new(name.to_owned(), store, options.recover, options.fetches)?));
    }
    reader(seekable(name.to_owned(), Box::new(Cursor::new(bytes)))?, options)
}

/// Opens a trace that comes through a pipe. Formats that need to go back and
/// forth in the file (Parquet, zip) cannot.
///
/// # Errors
/// As [`open`].
pub fn from_reader(
    name: &str,
    from: Box<dyn Read + Send>,
    options: &OpenOptions,
) -> Result<Box<dyn TraceSource>, SourceError> {
    let input = Input::new(name.to_owned(), from)?;
    if input.compression() == Compression::Zip {
        return Err(error(name, "a zip archive cannot be read from a pipe").hint("store it in a file first"));
    }
    reader(input, options)
}

/// The decompressed bytes of a file.
pub(crate) fn file_input(path: &Path, meter: Option<&Meter>) -> Result<Input, SourceError> {
    seekable(path.display().to_string(), metered(open_file(path)?, meter))
}

fn metered(file: File, meter: Option<&Meter>) -> Box<dyn ReadSeek> {
    match meter {
        Some(meter) => Box::new(meter.file(file)),
        None => Box::new(file),
    }
}

fn open_file(path: &Path) -> Result<File, SourceError> {
    File::open(path).map_err(|e| {
        let error = error(&path.display().to_string(), format_args!("cannot be opened: {e}"));
        // EMFILE, the same number on all Unix systems.
        match e.raw_os_error() {
            Some(24) => error.hint("a trace of many threads has as many files: ulimit -n 8192"),
            _ => error,
        }
    })
}

fn head(name: &str, raw: &mut dyn ReadSeek) -> Result<Vec<u8>, SourceError> {
    let mut head = Vec::with_capacity(MAGIC_MAX);
    raw.take(MAGIC_MAX as u64)
        .read_to_end(&mut head)
        .and_then(|_| raw.rewind())
        .map_err(|e| error(name, format_args!("cannot be read: {e}")))?;
    Ok(head)
}

/// The decompressed bytes of what can be read anywhere.
fn seekable(name: String, mut raw: Box<dyn ReadSeek>) -> Result<Input, SourceError> {
    if Compression::of(&head(&name, &mut raw)?) != Compression::Zip {
        return Input::new(name, raw);
    }
    let members = archive::list(&mut raw).map_err(|e| error(&name, e).hint(crate::error::CUT_OFF))?;
    if members.len() > 1 && !members.iter().all(|member| member.name.starts_with("chunk.")) {
        return Err(error(&name, format_args!("a zip archive of {} files", members.len()))
            .hint("unpack it and give one of them"));
    }
    Ok(Input::decompressed(name, Box::new(archive::Members::new(raw, members)), Compression::Zip))
}

/// The reader for a decompressed input.
fn reader(mut input: Input, options: &OpenOptions) -> Result<Box<dyn TraceSource>, SourceError> {
    let format = match options.format {
        Some(format) => format,
        None => sniff::format(&mut input)?,
    };
    let fetches = options.fetches;
    Ok(match format {
        Format::Parquet if input.compression() == Compression::None => {
            return Err(
                error(input.name(), "Parquet cannot be read from a pipe").hint("store it in a file first")
            );
        }
        Format::Parquet => {
            let packed = input.compression();
            return Err(error(input.name(), format_args!("Parquet inside {packed}")).hint("unpack it first"));
        }
        Format::Qemu16 => Box::new(Qemu16::new(input)),
        Format::DrMemtrace => Box::new(DrMemtrace::new(input.name().to_owned(), vec![input], fetches)),
        Format::ChampSim => Box::new(ChampSim::<false>::new(input, fetches)),
        Format::CloudSuite => Box::new(ChampSim::<true>::new(input, fetches)),
        Format::Gem5 => Box::new(Gem5::new(input, fetches)),
        Format::Lackey => Box::new(Text::new(input, Lackey::default(), fetches)),
        Format::Dinero => Box::new(Text::new(input, Dinero::default(), fetches)),
        Format::Ramulator => Box::new(Text::new(input, Ramulator::default(), fetches)),
        Format::PerfScript => {
            let lines =
                PerfScript::new(options.perf_fields.as_deref()).map_err(|e| error(input.name(), e))?;
            Box::new(Text::new(input, lines, fetches))
        }
        Format::PerfMem => Box::new(Text::new(input, PerfMem::default(), fetches)),
    })
}

fn is_parquet(head: &[u8], options: &OpenOptions) -> bool {
    match options.format {
        Some(format) => format == Format::Parquet,
        None => head.starts_with(b"PAR1"),
    }
}
