//! A file that is compressed as its name says, and has its name only when it is complete.

use crate::error::{Hint, error};
use crate::parquet::Written;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};
use machine::input::SourceError;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::{Path, PathBuf};

enum Encoder {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Xz(Box<XzWriter<BufWriter<File>>>),
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

/// The presets that the tools themselves default to.
const XZ_PRESET: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

pub(super) struct Packed {
    path: PathBuf,
    partial: PathBuf,
    encoder: Encoder,
    pub(super) accesses: u64,
}

/// `path` while it is not complete.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

/// The error of a file that cannot be written.
pub(super) fn failed(path: &Path, accesses: u64, e: impl std::fmt::Display) -> SourceError {
    error(&path.display().to_string(), format_args!("cannot be written after {accesses} accesses: {e}"))
        .hint("make room, or choose another place with -o")
}

impl Packed {
    pub(super) fn create(path: &Path) -> std::result::Result<Packed, SourceError> {
        let partial = partial(path);
        let encoder = File::create(&partial).and_then(|file| {
            let file = BufWriter::with_capacity(256 << 10, file);
            Ok(match path.extension().and_then(|e| e.to_str()) {
                Some("gz") => Encoder::Gzip(GzEncoder::new(file, flate2::Compression::default())),
                Some("xz") => Encoder::Xz(Box::new(XzWriter::new(file, XzOptions::with_preset(XZ_PRESET))?)),
                Some("zst") => Encoder::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL)?),
                _ => Encoder::Plain(file),
            })
        });
        let encoder = encoder.map_err(|e| failed(&partial, 0, e))?;
        Ok(Packed { path: path.to_owned(), partial, encoder, accesses: 0 })
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> std::result::Result<(), SourceError> {
        let result = match &mut self.encoder {
            Encoder::Plain(out) => out.write_all(bytes),
            Encoder::Gzip(out) => out.write_all(bytes),
            Encoder::Xz(out) => out.write_all(bytes),
            Encoder::Zstd(out) => out.write_all(bytes),
        };
        result.map_err(|e| failed(&self.partial, self.accesses, e))
    }

    pub(super) fn finish(self) -> std::result::Result<Written, SourceError> {
        let Packed { path, partial, encoder, accesses } = self;
        let end = || -> Result<u64> {
            let file = match encoder {
                Encoder::Plain(out) => out,
                Encoder::Gzip(out) => out.finish()?,
                Encoder::Xz(out) => out.finish()?,
                Encoder::Zstd(out) => out.finish()?,
            };
            let file = file.into_inner().map_err(|e| e.into_error())?;
            let bytes = file.metadata()?.len();
            std::fs::rename(&partial, &path)?;
            Ok(bytes)
        };
        let bytes = end().map_err(|e| failed(&partial, accesses, e))?;
        Ok(Written { path, accesses, bytes })
    }
}
