//! What the tests share: samples, where they are, and whole traces in memory.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod fixtures;

use machine::input::{Access, Block, Event, More, Setup, Source, SourceError};
use std::path::PathBuf;

/// A sample input, or `None` with a visible message where the samples are not there.
pub fn sample(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/samples")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: ../shared/samples/{name} is not there");
    None
}

/// A trace in memory: accesses in order, and each event with the number of
/// accesses before it.
#[derive(Debug, Default, PartialEq)]
pub struct Whole {
    pub setup: Setup,
    pub accesses: Vec<Access>,
    pub events: Vec<(usize, Event)>,
}

/// Reads a source to its end.
pub fn read_all(source: &mut dyn Source) -> Result<Whole, SourceError> {
    let mut whole = Whole { setup: source.setup()?, ..Whole::default() };
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block)?;
        assert!(block.accesses.len() <= machine::input::BLOCK);
        whole.accesses.extend_from_slice(&block.accesses);
        let at = whole.accesses.len();
        whole.events.extend(block.events.drain(..).map(|e| (at, e)));
        if more == More::No {
            return Ok(whole);
        }
    }
}

/// A place for a file of a test, empty at first.
pub fn scratch(test: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}
