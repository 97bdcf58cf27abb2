//! Any bytes, as a trace of any format: no panic, and a reader's promises hold.
//!
//! The first byte says what to take the rest for: its low bits number a format
//! (past the last: what the content says), bit 6 leaves fetches out, bit 7
//! lets Parquet without its end be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machine::input::{BLOCK, Block, Event, More};
use std::sync::Once;
use trace::{Format, OpenOptions, from_bytes};

/// Blocks looked at of an input: a bomb must not take the fuzzer's time.
const BLOCKS: usize = 500;
static HOOK: Once = Once::new();

fuzz_target!(|data: &[u8]| {
    // The reader of Parquet catches panics of the library's decoders;
    // libfuzzer's hook would end the process before.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let Some((choice, bytes)) = data.split_first() else { return };
    let mut options = OpenOptions::default();
    options.format = Format::ALL.get(usize::from(choice & 0x3f)).copied();
    options.fetches = choice & 0x40 == 0;
    options.recover = choice & 0x80 != 0;
    let Ok(mut source) = from_bytes("fuzz", bytes.to_vec(), &options) else { return };
    let Ok(setup) = source.setup() else { return };
    let mut threads = setup.threads.len();
    let mut block = Block::new();
    for _ in 0..BLOCKS {
        let Ok(more) = source.fill(&mut block) else { return };
        assert!(block.accesses.len() <= BLOCK);
        for access in &block.accesses {
            assert!(usize::from(access.thread) < threads && access.va.is_canonical(5));
        }
        threads += block.events.iter().filter(|e| matches!(e, Event::Spawn { .. })).count();
        if more == More::No {
            return;
        }
    }
});
