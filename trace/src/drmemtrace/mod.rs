//! `DynamoRIO`'s post-processed ("final") traces: packed 12-byte records
//! (`clients/drcachesim/common/trace_entry.h`), one file a thread or a core.
//!
//! Instructions become fetches, reads and writes follow theirs. Prefetches and
//! cache flushes are no accesses. Several files are merged by their timestamps.

mod directory;
mod physical;
pub(crate) mod record;
mod stream;

pub(crate) use directory::inputs as directory_inputs;
pub use physical::{PhysicalMap, physical_map, read_v2p};

use crate::input::Input;
use crate::options::{Compression, Format};
use crate::roster;
use crate::source::{Facts, TraceSource};
use machine::input::{Block, More, Setup, Source, SourceError};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use stream::{Shared, Stop, Stream};

/// A trace of one file or of several.
#[derive(Debug)]
pub(crate) struct DrMemtrace {
    name: String,
    compression: Compression,
    streams: Vec<Stream>,
    /// Time and number of the streams that are not being read and have not ended.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    current: Option<usize>,
    shared: Shared,
}

impl DrMemtrace {
    /// The trace whose threads (or cores) are `inputs`.
    pub(crate) fn new(name: String, mut inputs: Vec<Input>, fetches: bool) -> DrMemtrace {
        let count = inputs.len();
        if count > 1 {
            inputs.iter_mut().for_each(|input| input.share_memory(count));
        }
        DrMemtrace {
            name,
            compression: inputs.first().map_or(Compression::None, Input::compression),
            waiting: (0..count).map(|i| Reverse((0, i))).collect(),
            streams: inputs.into_iter().map(|input| Stream::new(input, count > 1)).collect(),
            current: None,
            shared: Shared::new(fetches),
        }
    }

    /// Keeps the physical addresses that the trace tells.
    fn collect_physical(&mut self) {
        self.shared.physical = Some(PhysicalMap::default());
    }
}

impl TraceSource for DrMemtrace {
    fn facts(&self) -> Facts {
        Facts::new(Format::DrMemtrace, self.compression, self.shared.notes())
    }
}

impl Source for DrMemtrace {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        for stream in &mut self.streams {
            stream.read_header(&mut self.shared)?;
        }
        Ok(roster::single(&self.name))
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        loop {
            let current = match self.current.take() {
                Some(current) => current,
                None => match self.waiting.pop() {
                    Some(Reverse((_, earliest))) => earliest,
                    None => return Ok(More::No),
                },
            };
            match self.streams[current].decode(block, &mut self.shared)? {
                Stop::Full => {
                    self.current = Some(current);
                    return Ok(More::Yes);
                }
                Stop::Time(time) => self.waiting.push(Reverse((time, current))),
                Stop::End => {}
            }
        }
    }
}
