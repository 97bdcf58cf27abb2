//! `ChampSim`'s instruction records, little-endian and without a header
//! (`inc/trace_instruction.h`): 64 bytes with 2 destinations and 4 sources, or
//! 96 bytes of the `CloudSuite` set with 4 and 4. An address of 0 is an empty slot.
//!
//! A record is an instruction: its fetch, its loads, its stores, in this order.
//! Sizes are not told: data accesses count as 8 bytes, fetches as 4.

use crate::input::{Input, is_canonical};
use crate::options::Format;
use crate::roster;
use crate::source::{Facts, TraceSource};
use machine::input::{Access, Block, Kind, More, Setup, Source, SourceError};
use paging::Va;

/// Where things are in a record.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    pub(crate) bytes: usize,
    pub(crate) stores: std::ops::Range<usize>,
    pub(crate) loads: std::ops::Range<usize>,
}

/// `input_instr`.
pub(crate) const PLAIN: Layout =
    Layout { format: Format::ChampSim, bytes: 64, stores: 16..32, loads: 32..64 };
/// `cloudsuite_instr`.
pub(crate) const CLOUDSUITE: Layout =
    Layout { format: Format::CloudSuite, bytes: 96, stores: 24..56, loads: 56..88 };

const DATA_LOG2: u8 = 3;
const FETCH_LOG2: u8 = 2;
/// A fetch and eight operands.
const RECORD_ACCESSES: usize = 9;

#[derive(Debug)]
pub(crate) struct ChampSim<const CLOUD: bool> {
    input: Input,
    fetches: bool,
    /// Instructions since the last access.
    pending: u32,
}

impl<const CLOUD: bool> ChampSim<CLOUD> {
    const LAYOUT: Layout = if CLOUD { CLOUDSUITE } else { PLAIN };

    pub(crate) fn new(input: Input, fetches: bool) -> Self {
        ChampSim { input: input.with_unit(Self::LAYOUT.bytes), fetches, pending: 0 }
    }
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

impl<const CLOUD: bool> TraceSource for ChampSim<CLOUD> {
    fn facts(&self) -> Facts {
        Facts::new(Self::LAYOUT.format, self.input.compression(), Vec::new())
    }
}

impl<const CLOUD: bool> Source for ChampSim<CLOUD> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(roster::single(self.input.name()))
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let bytes = Self::LAYOUT.bytes;
        let window = self.input.window(bytes * machine::input::BLOCK)?;
        let have = window.len();
        let out = &mut block.accesses;
        let mut records = 0;
        let mut wrong = None;
        for record in window.chunks_exact(bytes) {
            if machine::input::BLOCK - out.len() < RECORD_ACCESSES {
                break;
            }
            let before = out.len();
            let mut push = |va: u64, kind: Kind, size_log2: u8, pending: &mut u32| {
                let insns = (*pending).min(u16::MAX.into()) as u16;
                *pending -= u32::from(insns);
                out.push(Access {
                    va: Va::new(va),
                    insns,
                    thread: 0,
                    kind,
                    size_log2,
                    flags: 0,
                    reserved: 0,
                });
                is_canonical(va)
            };
            let pending_before = self.pending;
            self.pending = self.pending.saturating_add(1);
            let mut fine = record[8] <= 1 && record[9] <= 1;
            let ip = word(&record[0..8]);
            if self.fetches && ip != 0 {
                fine &= push(ip, Kind::Fetch, FETCH_LOG2, &mut self.pending);
            }
            for (range, kind) in [(Self::LAYOUT.loads, Kind::Read), (Self::LAYOUT.stores, Kind::Write)] {
                for va in record[range].chunks_exact(8).map(word).filter(|va| *va != 0) {
                    fine &= push(va, kind, DATA_LOG2, &mut self.pending);
                }
            }
            if !fine {
                out.truncate(before);
                self.pending = pending_before;
                wrong = Some(ip);
                break;
            }
            records += 1;
        }
        match wrong {
            Some(ip) if records == 0 => Err(self.input.error(
                0,
                format_args!(
                    "not an instruction of {}: a branch flag above 1 or an address that is not canonical (ip {ip:#x})",
                    Self::LAYOUT.format
                ),
            )),
            None if records == 0 && have > 0 => Err(self.input.cut_off(have, bytes)),
            None if records == 0 => Ok(More::No),
            _ => {
                self.input.consume(records * bytes);
                Ok(More::Yes)
            }
        }
    }
}
