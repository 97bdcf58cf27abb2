//! Ctrl-C. Alone in its file, since a signal is for the whole process.

mod common;

use std::os::unix::process::ExitStatusExt;

use machine::input::{Block, More, Source};
use rustix::process::{Signal, getpid, kill_process};
use trace::capture::{CaptureError, CaptureOptions, Route, Start};

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
    interrupted_while_it_waits();
}

/// A program that waits writes nothing that could wake the reader.
fn interrupted_while_it_waits() {
    let options = CaptureOptions { route: Route::Lackey, ..CaptureOptions::default() };
    let mut source = match trace::capture::start("sleep".as_ref(), &["600".into()], options) {
        Ok(source) => source,
        Err(error @ CaptureError::NoValgrind) => return common::skip(&error.to_string()).unwrap_or(()),
        Err(error) => panic!("{error}"),
    };
    source.setup().unwrap();
    let (mut block, mut accesses) = (Block::new(), 0);
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(1));
        kill_process(getpid(), Signal::INT).unwrap();
    });
    while source.fill(&mut block).unwrap() == More::Yes {
        accesses += block.accesses.len();
    }
    assert!(accesses > 10_000, "{accesses}");
    let summary = source.finish().unwrap();
    assert!(summary.interrupted);
    assert_eq!(summary.lost(), 0);
    assert_eq!(summary.status.signal(), Some(15));
}
