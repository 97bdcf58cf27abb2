//! `ChampSim`'s 64-byte records, one an instruction. They hold addresses, kinds
//! and instruction counts of one thread; no sizes. An instruction with more
//! than two stores or four loads becomes several.

use super::packed::Packed;
use super::{OneThread, TraceWriter};
use crate::champsim::PLAIN;
use crate::parquet::Written;
use machine::input::{Access, Block, Kind, SourceError};
use std::path::Path;

const BYTES: usize = PLAIN.bytes;

pub(super) struct ChampSimWriter {
    out: Packed,
    thread: OneThread,
    /// The instruction that accesses are being added to.
    record: Option<[u8; BYTES]>,
}

impl ChampSimWriter {
    pub(super) fn create(path: &Path) -> Result<ChampSimWriter, SourceError> {
        Ok(ChampSimWriter { out: Packed::create(path)?, thread: OneThread::default(), record: None })
    }

    fn put_record(&mut self) -> Result<(), SourceError> {
        match self.record.take() {
            Some(record) => self.out.put(&record),
            None => Ok(()),
        }
    }

    fn access(&mut self, access: &Access) -> Result<(), SourceError> {
        let va = access.va.raw();
        let fetch = access.kind == Kind::Fetch;
        if fetch || access.insns > 0 {
            self.put_record()?;
            for _ in 1..access.insns {
                self.out.put(&[0; BYTES])?;
            }
        }
        if fetch {
            let mut record = [0; BYTES];
            record[..8].copy_from_slice(&va.to_le_bytes());
            self.record = Some(record);
            return Ok(());
        }
        let slots = [(access.kind != Kind::Write, PLAIN.loads), (access.kind.writes(), PLAIN.stores)];
        for (_, range) in slots.into_iter().filter(|(wanted, _)| *wanted) {
            if !place(self.record.get_or_insert([0; BYTES]), range.clone(), va) {
                self.put_record()?;
                place(self.record.insert([0; BYTES]), range, va);
            }
        }
        Ok(())
    }
}

/// Puts an address into a free slot, if there is one.
fn place(record: &mut [u8; BYTES], slots: std::ops::Range<usize>, va: u64) -> bool {
    match record[slots].chunks_exact_mut(8).find(|slot| **slot == [0; 8]) {
        Some(slot) => {
            slot.copy_from_slice(&va.to_le_bytes());
            true
        }
        None => false,
    }
}

impl TraceWriter for ChampSimWriter {
    fn write(&mut self, block: &Block) -> Result<(), SourceError> {
        for access in &block.accesses {
            self.thread.check(&self.out.name(), access.thread)?;
            self.access(access)?;
            self.out.accesses += 1;
        }
        Ok(())
    }
    fn finish(mut self: Box<Self>) -> Result<Written, SourceError> {
        self.put_record()?;
        self.out.finish()
    }
}
