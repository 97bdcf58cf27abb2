//! gem5's packet traces: the magic number `gem5`, then protobuf messages, each
//! after its length as a varint; the first is a header, the others packets
//! (`src/proto/packet.proto`).

use crate::input::{Input, is_canonical, size_log2};
use crate::options::Format;
use crate::roster;
use crate::source::{Facts, TraceSource};
use machine::input::{Access, Block, Kind, More, Setup, Source, SourceError};

/// LE `0x356d6567`.
pub(crate) const MAGIC: &[u8; 4] = b"gem5";
/// A packet takes some 60 bytes, a header with its table of names a few thousand.
const MESSAGE_MAX: u64 = 1 << 20;
/// `MemCmd::ReadReq` and `MemCmd::WriteReq`.
const READ_REQ: u64 = 1;
const WRITE_REQ: u64 = 4;
/// `Request::INST_FETCH`.
const INST_FETCH: u64 = 0x100;

#[derive(Debug)]
pub(crate) struct Gem5 {
    input: Input,
    fetches: bool,
    started: bool,
    pending: u32,
    others: u64,
}

/// The fields of a packet that are looked at.
#[derive(Default)]
struct Packet {
    cmd: u64,
    addr: u64,
    size: u64,
    flags: u64,
}

/// A varint at the beginning of `bytes`, and its length.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

impl Packet {
    /// The fields of a message; `None` if it is not well formed.
    fn parse(mut message: &[u8]) -> Option<Packet> {
        let mut packet = Packet::default();
        while !message.is_empty() {
            let (key, len) = varint(message)?;
            message = &message[len..];
            let skip = match key & 7 {
                0 => {
                    let (value, len) = varint(message)?;
                    match key >> 3 {
                        2 => packet.cmd = value,
                        3 => packet.addr = value,
                        4 => packet.size = value,
                        5 => packet.flags = value,
                        _ => {}
                    }
                    len
                }
                1 => 8,
                2 => {
                    let (value, len) = varint(message)?;
                    len.checked_add(usize::try_from(value).ok()?)?
                }
                5 => 4,
                _ => return None,
            };
            message = message.get(skip..)?;
        }
        Some(packet)
    }
}

impl Gem5 {
    pub(crate) fn new(input: Input, fetches: bool) -> Gem5 {
        Gem5 { input, fetches, started: false, pending: 0, others: 0 }
    }

    /// The lengths of the next message's length and of the message, which the window then holds.
    fn message(&mut self) -> Result<Option<(usize, usize)>, SourceError> {
        let window = self.input.window(10)?;
        if window.is_empty() {
            return Ok(None);
        }
        let have = window.len();
        let (len, prefix) = match varint(window) {
            Some((len, prefix)) if len <= MESSAGE_MAX => (len as usize, prefix),
            Some((len, _)) => return Err(self.input.error(0, format_args!("a message of {len} bytes"))),
            None if have < 10 => return Err(self.input.cut_off(have, have + 1)),
            None => return Err(self.input.error(0, "the length of a message is no varint")),
        };
        let have = self.input.window(prefix + len)?.len();
        if have < prefix + len {
            return Err(self.input.cut_off(have, prefix + len));
        }
        Ok(Some((prefix, len)))
    }
}

impl TraceSource for Gem5 {
    fn facts(&self) -> Facts {
        let mut notes = vec!["addresses are physical, unless the monitor stood before the MMU".to_owned()];
        if self.others > 0 {
            notes.push(format!("{} packets are neither ReadReq nor WriteReq and were left out", self.others));
        }
        Facts::new(Format::Gem5, self.input.compression(), notes)
    }
}

impl Source for Gem5 {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        if !self.input.window(4)?.starts_with(MAGIC) {
            return Err(self.input.error(0, "a gem5 trace begins with 'gem5'"));
        }
        self.input.consume(MAGIC.len());
        let Some((prefix, len)) = self.message()? else {
            return Err(self.input.error(0, "the header is missing"));
        };
        self.input.consume(prefix + len);
        self.started = true;
        Ok(roster::single(self.input.name()))
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        debug_assert!(self.started, "setup comes first");
        while block.room() > 0 {
            let (prefix, len) = match self.message() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(More::No),
                Err(e) if block.accesses.is_empty() => return Err(e),
                Err(_) => break,
            };
            let window = self.input.window(prefix + len)?;
            let packet = Packet::parse(&window[prefix..prefix + len]);
            let fine = packet.filter(|p| is_canonical(p.addr) && p.size <= 1 << 20);
            let Some(packet) = fine else {
                if !block.accesses.is_empty() {
                    break;
                }
                return Err(self.input.error(
                    0,
                    "not a packet: broken fields, an address that is not canonical, or more than 1 MiB",
                ));
            };
            let kind = match packet.cmd {
                READ_REQ if packet.flags & INST_FETCH != 0 => Some(Kind::Fetch),
                READ_REQ => Some(Kind::Read),
                WRITE_REQ => Some(Kind::Write),
                _ => None,
            };
            self.input.consume(prefix + len);
            match kind {
                None => self.others += 1,
                Some(Kind::Fetch) if !self.fetches => self.pending += 1,
                Some(kind) => {
                    let insns = self.pending.saturating_add(1).min(u16::MAX.into()) as u16;
                    self.pending = (self.pending + 1) - u32::from(insns);
                    let mut access = Access::new(packet.addr, kind, 0, insns);
                    access.size_log2 = size_log2(packet.size as u32);
                    block.accesses.push(access);
                }
            }
        }
        Ok(More::Yes)
    }
}
