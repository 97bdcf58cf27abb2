//! Valgrind lackey's text. Holds kinds, addresses and sizes; not threads, nor
//! instructions that were not fetched.

use super::TraceWriter;
use super::packed::Packed;
use crate::parquet::Written;
use machine::input::{Block, Kind, SourceError};
use std::io::Write;
use std::path::Path;

pub(super) struct LackeyWriter {
    out: Packed,
    text: Vec<u8>,
}

impl LackeyWriter {
    pub(super) fn create(path: &Path) -> Result<LackeyWriter, SourceError> {
        Ok(LackeyWriter { out: Packed::create(path)?, text: Vec::new() })
    }
}

impl TraceWriter for LackeyWriter {
    fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        self.text.clear();
        for access in &block.accesses {
            let kind = match access.kind {
                Kind::Fetch => "I ",
                Kind::Read => " L",
                Kind::Write => " S",
                Kind::Modify => " M",
            };
            let (va, size) = (access.va.raw(), 1u64 << access.size_log2);
            writeln!(self.text, "{kind} {va:08x},{size}").expect("memory takes it");
        }
        self.out.accesses += block.accesses.len() as u64;
        self.out.put(&self.text)
    }
    fn finish(self: Box<Self>) -> Result<Written, SourceError> {
        self.out.finish()
    }
}
