//! What a file's first bytes and its name say.

use crate::error::{Hint, error};
use crate::input::Input;
use crate::options::{Compression, Format};
use machine::input::SourceError;
use std::path::Path;

impl Compression {
    /// The compression whose magic number `head` begins with.
    pub(crate) fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// The format of a decompressed input: by its first bytes, else by its name.
pub(crate) fn format(input: &mut Input) -> Result<Format, SourceError> {
    let head = input.window(4)?;
    if head.is_empty() {
        return Err(error(input.name(), "is empty"));
    }
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    by_name(input.name()).ok_or_else(|| {
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        error(input.name(), "the format cannot be told from the content")
            .hint(format_args!("say which it is: --format {}", names.join("|")))
    })
}

/// The format that a file's name tells, for those that have no magic number.
fn by_name(name: &str) -> Option<Format> {
    let file = Path::new(name).file_name()?.to_str()?.to_ascii_lowercase();
    file.split('.').find_map(|part| match part {
        "qemu16" => Some(Format::Qemu16),
        _ => None,
    })
}
