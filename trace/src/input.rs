//! Bytes of a trace: a window that slides over a decompressed stream.

use crate::error::{CUT_OFF, Hint, error, error_at};
use crate::options::Compression;
use machine::input::SourceError;
use std::io::{Cursor, Read};

/// How much is asked of the layers below at a time.
const CHUNK: usize = 256 << 10;
/// How much memory a decompressor may take for its window. The presets of xz
/// end at 65 MiB (`-9`), those of zstd at 128 MiB (`--ultra -22`).
const WINDOW_LOG_MAX: u32 = 27;
const XZ_MEMORY_KIB: u32 = 192 << 10;

/// A sliding window over the decompressed bytes of a trace.
pub(crate) struct Input {
    name: String,
    reader: Box<dyn Read + Send>,
    compression: Compression,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Position of `buffer[start]` in the decompressed stream.
    offset: u64,
    at_end: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("name", &self.name)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Input {
    /// The bytes of `reader`, decompressed.
    pub(crate) fn new(name: String, mut reader: Box<dyn Read + Send>) -> Result<Input, SourceError> {
        let mut head = Vec::with_capacity(8);
        reader
            .by_ref()
            .take(8)
            .read_to_end(&mut head)
            .map_err(|e| error_at(&name, 0, format_args!("cannot be read: {e}")))?;
        let compression = Compression::of(&head);
        let raw = Cursor::new(head).chain(reader);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(raw, true, XZ_MEMORY_KIB)),
            Compression::Zstd => {
                let mut zstd = zstd::Decoder::new(raw).map_err(|e| error(&name, e))?;
                zstd.window_log_max(WINDOW_LOG_MAX).map_err(|e| error(&name, e))?;
                Box::new(zstd)
            }
        };
        Ok(Input {
            name,
            reader,
            compression,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            at_end: false,
        })
    }

    /// The input's name, for errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How the input is compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// A window of at least `want` bytes; of fewer only where the stream ends.
    #[inline]
    pub(crate) fn window(&mut self, want: usize) -> Result<&[u8], SourceError> {
        if self.end - self.start < want {
            self.refill(want)?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    #[cold]
    fn refill(&mut self, want: usize) -> Result<(), SourceError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer.resize(want.max(CHUNK), 0);
        while !self.at_end && self.end < want {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let byte = self.offset + self.end as u64;
                    let reason = match self.compression {
                        Compression::None => format!("cannot be read: {e}"),
                        packed => format!(
                            "of the decompressed data: the {packed} stream is cut off or damaged: {e}"
                        ),
                    };
                    return Err(error_at(&self.name, byte, reason).hint(CUT_OFF));
                }
            }
        }
        Ok(())
    }

    /// Moves the window's beginning on by `n` bytes that were seen in it.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.start);
        self.start += n;
        self.offset += n as u64;
    }

    /// An error at the window's beginning plus `ahead` bytes.
    #[cold]
    pub(crate) fn error(&self, ahead: usize, reason: impl std::fmt::Display) -> SourceError {
        error_at(&self.name, self.offset + ahead as u64, reason)
    }

    /// The error of an input that ends inside a record.
    #[cold]
    pub(crate) fn cut_off(&self, have: usize, need: usize) -> SourceError {
        self.error(0, format_args!("the input ends inside a record: {have} of {need} bytes")).hint(CUT_OFF)
    }
}

/// Whether an address can be a virtual address of x86-64: bits 63 to 56 equal
/// (57 bits are implemented with five levels, Intel SDM vol. 1 §3.3.7.1).
#[inline(always)]
pub(crate) fn is_canonical(va: u64) -> bool {
    ((va as i64) << 7 >> 7) as u64 == va
}
