//! Bytes of a trace: a window that slides over a decompressed stream.

use crate::compression::MAGIC_MAX;
use crate::error::{CUT_OFF, Hint, error, error_at};
use crate::options::Compression;
use machine::input::SourceError;
use std::io::{Cursor, Read};

/// How much is asked of the layers below at a time.
const CHUNK: usize = 256 << 10;
/// The longest line of a text that is taken for one.
const LINE_MAX: usize = 64 << 10;

/// A sliding window over the decompressed bytes of a trace.
pub(crate) struct Input {
    name: String,
    reader: Box<dyn Read + Send>,
    compression: Compression,
    chunk: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Position of `buffer[start]` in the decompressed stream.
    offset: u64,
    at_end: bool,
    /// The error that ended the stream.
    damage: Option<String>,
    /// The shortest record: fewer bytes than this before damage are not delivered.
    unit: usize,
    /// Number of the line at the window's beginning, and its length with its end.
    line: u64,
    line_len: usize,
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
        let mut head = Vec::with_capacity(MAGIC_MAX);
        let cannot = |e: std::io::Error| error_at(&name, 0, format_args!("cannot be read: {e}"));
        reader.by_ref().take(MAGIC_MAX as u64).read_to_end(&mut head).map_err(cannot)?;
        let compression = Compression::of(&head);
        let reader = compression.decoder(Cursor::new(head).chain(reader)).map_err(cannot)?;
        Ok(Input::decompressed(name, reader, compression))
    }

    /// Bytes that something else has decompressed.
    pub(crate) fn decompressed(
        name: String,
        reader: Box<dyn Read + Send>,
        compression: Compression,
    ) -> Input {
        Input {
            name,
            reader,
            compression,
            chunk: CHUNK,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            at_end: false,
            damage: None,
            unit: 1,
            line: 1,
            line_len: 0,
        }
    }

    /// Makes the window smaller where many inputs are open at once.
    pub(crate) fn share_memory(&mut self, inputs: usize) {
        self.chunk = ((64 << 20) / inputs.max(1)).clamp(16 << 10, CHUNK);
    }

    /// Says how long the shortest record is.
    pub(crate) fn with_unit(mut self, bytes: usize) -> Input {
        self.unit = bytes;
        self
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
        self.buffer.resize(want.max(self.chunk).max(self.end), 0);
        while !self.at_end && self.end < want {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.at_end = true;
                    self.damage = Some(e.to_string());
                }
            }
        }
        // What came before the damage is delivered first: readers ask for more
        // than a record, and meet the error when not one is left.
        match self.damage() {
            Some(e) if self.end < self.unit.min(want) => Err(e),
            _ => Ok(()),
        }
    }

    /// The error that ended the stream, if one did.
    fn damage(&self) -> Option<SourceError> {
        let e = self.damage.as_ref()?;
        let byte = self.offset + (self.end - self.start) as u64;
        let reason = match self.compression {
            Compression::None => format!("cannot be read: {e}"),
            packed => format!("of the decompressed data: the {packed} stream is cut off or damaged: {e}"),
        };
        Some(error_at(&self.name, byte, reason).hint(CUT_OFF))
    }

    /// Moves the window's beginning on by `n` bytes that were seen in it.
    #[inline]
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.start);
        self.start += n;
        self.offset += n as u64;
    }

    /// The line at the window's beginning without its end, or `None` at the end of the input.
    pub(crate) fn line(&mut self) -> Result<Option<&[u8]>, SourceError> {
        let mut seen = 0;
        loop {
            let window = self.window(seen + 1)?;
            if window.len() == seen {
                if let Some(e) = self.damage() {
                    return Err(e);
                }
                self.line_len = seen;
                break;
            }
            if let Some(end) = memchr::memchr(b'\n', &window[seen..]) {
                self.line_len = seen + end + 1;
                break;
            }
            seen = window.len();
            if seen > LINE_MAX {
                return Err(
                    self.error(0, format_args!("a line of more than {LINE_MAX} bytes: this is not text"))
                );
            }
        }
        if self.line_len == 0 {
            return Ok(None);
        }
        let line = &self.buffer[self.start..self.start + self.line_len];
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Moves on by the line that [`Input::line`] returned.
    pub(crate) fn consume_line(&mut self) {
        self.consume(self.line_len);
        self.line_len = 0;
        self.line += 1;
    }

    /// An error at the window's beginning plus `ahead` bytes.
    #[cold]
    pub(crate) fn error(&self, ahead: usize, reason: impl std::fmt::Display) -> SourceError {
        error_at(&self.name, self.offset + ahead as u64, reason)
    }

    /// An error in the line at the window's beginning.
    #[cold]
    pub(crate) fn line_error(&self, reason: impl std::fmt::Display) -> SourceError {
        error(&self.name, format_args!("line {} (at byte {}): {reason}", self.line, self.offset))
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

/// log2 of a size in bytes, rounded up: what [`machine::input::Access`] can hold of it.
#[inline(always)]
pub(crate) fn size_log2(bytes: u32) -> u8 {
    (32 - bytes.saturating_sub(1).leading_zeros()) as u8
}
