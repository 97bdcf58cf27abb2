//! Decompression, streaming and bounded in memory: a bomb costs time, not space.

use crate::options::Compression;
use std::io::{Read, Result};

/// How much memory a decompressor may take for its window. The presets of xz
/// end at 65 MiB (`-9`), those of zstd at 128 MiB (`--ultra -22`).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const XZ_MEMORY_KIB: u32 = 192 << 10;
/// Length of the longest magic number.
pub(crate) const MAGIC_MAX: usize = 10;

impl Compression {
    /// The compression whose magic number `head` begins with.
    pub(crate) fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
            [0xff, 6, 0, 0, b's', b'N', b'a', b'P', b'p', b'Y', ..] => Compression::Snappy,
            [b'P', b'K', 3, 4, ..] => Compression::Zip,
            _ => Compression::None,
        }
    }

    /// The decompressed bytes of `raw`; of a zip archive see [`crate::archive`].
    pub(crate) fn decoder<R: Read + Send + 'static>(self, raw: R) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Compression::None | Compression::Zip => Box::new(raw),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(raw, true, XZ_MEMORY_KIB)),
            Compression::Zstd => {
                let mut zstd = zstd::Decoder::new(raw)?;
                zstd.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(zstd)
            }
            Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(raw)),
            Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(raw)),
            Compression::Snappy => Box::new(snap::read::FrameDecoder::new(raw)),
        })
    }
}
