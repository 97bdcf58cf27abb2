//! The members of a zip archive as one stream.

use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::io::{BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom, Take};
use zip::{CompressionMethod, ZipArchive};

/// What can be read anywhere.
pub(crate) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

type Raw = BufReader<Box<dyn ReadSeek>>;

/// The members of an archive, concatenated in the order of their names.
pub(crate) struct Members {
    /// What is to come, last first.
    members: Vec<Member>,
    state: State,
}

/// A file in the archive.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    start: u64,
    packed: u64,
    size: u64,
    crc: u32,
    deflated: bool,
}

enum State {
    Between(Raw),
    Deflate(Member, DeflateDecoder<Take<Raw>>, Progress),
    Stored(Member, Take<Raw>, Progress),
    /// Only while the state changes, and after an error.
    Broken,
}

#[derive(Default)]
struct Progress {
    crc: Crc,
    size: u64,
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

/// The files of an archive, in the order of their names.
pub(crate) fn list(raw: &mut dyn ReadSeek) -> Result<Vec<Member>> {
    let mut archive = ZipArchive::new(raw).map_err(|e| invalid(format!("the zip directory: {e}")))?;
    let mut members = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|e| invalid(format!("zip member {index}: {e}")))?;
        if file.is_dir() {
            continue;
        }
        let name = file.name().map_err(|e| invalid(format!("zip member {index}: {e}")))?.into_owned();
        let deflated = match file.compression() {
            CompressionMethod::Deflated => true,
            CompressionMethod::Stored => false,
            other => return Err(invalid(format!("zip member '{name}' is compressed with {other}"))),
        };
        members.push(Member {
            name,
            start: file.data_start().ok_or_else(|| invalid(format!("zip member {index} has no data")))?,
            packed: file.compressed_size(),
            size: file.size(),
            crc: file.crc32(),
            deflated,
        });
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

impl Members {
    pub(crate) fn new(raw: Box<dyn ReadSeek>, mut members: Vec<Member>) -> Members {
        members.reverse();
        Members { members, state: State::Between(BufReader::with_capacity(64 << 10, raw)) }
    }

    fn begin(mut raw: Raw, member: Member) -> Result<State> {
        raw.seek(SeekFrom::Start(member.start))?;
        let packed = raw.take(member.packed);
        Ok(match member.deflated {
            true => State::Deflate(member, DeflateDecoder::new(packed), Progress::default()),
            false => State::Stored(member, packed, Progress::default()),
        })
    }
}

impl Member {
    /// Compares what a member was announced as with what it was.
    fn check(&self, progress: &Progress) -> Result<()> {
        if progress.size != self.size || progress.crc.sum() != self.crc {
            return Err(invalid(format!(
                "zip member '{}': {} bytes with checksum {:08x}, where the directory says {} and {:08x}",
                self.name,
                progress.size,
                progress.crc.sum(),
                self.size,
                self.crc
            )));
        }
        Ok(())
    }
}

impl Read for Members {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        loop {
            let (n, progress) = match &mut self.state {
                State::Deflate(_, decoder, progress) => (decoder.read(out)?, progress),
                State::Stored(_, data, progress) => (data.read(out)?, progress),
                State::Between(_) => {
                    let Some(next) = self.members.pop() else { return Ok(0) };
                    let State::Between(raw) = std::mem::replace(&mut self.state, State::Broken) else {
                        unreachable!("matched above")
                    };
                    self.state = Members::begin(raw, next)?;
                    continue;
                }
                State::Broken => return Err(invalid("the archive could not be read before".to_owned())),
            };
            if n > 0 || out.is_empty() {
                progress.crc.update(&out[..n]);
                progress.size += n as u64;
                return Ok(n);
            }
            self.state = match std::mem::replace(&mut self.state, State::Broken) {
                State::Deflate(member, decoder, progress) => {
                    member.check(&progress)?;
                    State::Between(decoder.into_inner().into_inner())
                }
                State::Stored(member, data, progress) => {
                    member.check(&progress)?;
                    State::Between(data.into_inner())
                }
                other => other,
            };
        }
    }
}
