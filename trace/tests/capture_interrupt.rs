//! Ctrl-C. Alone in its file, since a signal is for the whole process.

mod common;

use std::os::unix::process::ExitStatusExt;

use machine::input::{Block, More, Source};
use rustix::process::{Signal, getpid, kill_process};
use trace::capture::{CaptureOptions, Start};

#[test]
fn an_interruption_ends_the_stream_and_the_program() {
    // Waits for the first signal to begin, and stops at the second.
    let options = CaptureOptions {
        start: Start::Signal(rustix::process::Signal::USR1.as_raw()),
        ..CaptureOptions::default()
    };
    let Some(mut source) = common::start(&["sh", "-c", "while :; do :; done"], options) else { return };
    kill_process(getpid(), Signal::USR1).unwrap();
    let setup = source.setup().unwrap();
    assert!(!setup.processes[0].regions.is_empty());
    let (mut block, mut accesses) = (Block::new(), 0);
    loop {
        let more = source.fill(&mut block).unwrap();
        accesses += block.accesses.len() as u64;
        if accesses > 100_000 && accesses - (block.accesses.len() as u64) <= 100_000 {
            kill_process(getpid(), Signal::INT).unwrap();
        }
        if more == More::No {
            break;
        }
    }
    let summary = source.finish().unwrap();
    assert!(summary.interrupted);
    assert_eq!((summary.delivered, summary.lost()), (accesses, 0));
    assert_eq!(summary.status.signal(), Some(15), "a program that goes on is asked to end");
}
