//! A server under a client's load, captured live.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machine::input::Event;
use trace::capture::CaptureOptions;

/// Sends a command and takes the answer, which ends with the given bytes.
fn ask(stream: &mut UnixStream, command: &str, end: &[u8]) {
    stream.write_all(command.as_bytes()).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(end) {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "the server hung up after {command:?}");
        answer.extend_from_slice(&part[..n]);
    }
}

fn client(socket: &Path) {
    let begun = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => {
                assert!(begun.elapsed() < Duration::from_secs(60), "the server does not answer: {error}")
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for i in 0..500 {
        ask(&mut stream, &format!("SET key:{i} {}\r\n", "v".repeat(i + 1)), b"+OK\r\n");
    }
    for i in 0..500 {
        ask(
            &mut stream,
            &format!("STRLEN key:{}\r\n", i * 7 % 500),
            format!(":{}\r\n", i * 7 % 500 + 1).as_bytes(),
        );
    }
    stream.write_all(b"SHUTDOWN NOSAVE\r\n").unwrap();
}

#[test]
fn redis_under_load_loses_nothing() {
    let socket: PathBuf = std::env::temp_dir().join(format!("trace-redis-{}.sock", std::process::id()));
    let log = std::env::temp_dir().join(format!("trace-redis-{}.log", std::process::id()));
    let command = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        socket.to_str().unwrap(),
        "--logfile",
        log.to_str().unwrap(),
        "--save",
        "",
    ];
    let Some(source) = common::start(&command, CaptureOptions::default()) else { return };
    let stream = std::thread::scope(|scope| {
        let client = scope.spawn(|| client(&socket));
        // A client that fails leaves the server running: then the capture ends with it, and the test.
        scope.spawn(|| client.join().unwrap_or_else(|_| std::process::exit(101)));
        common::take(source)
    });
    let _ = std::fs::remove_file(log);
    let summary = stream.summary.unwrap();
    assert_eq!(summary.status.code(), Some(0));
    assert_eq!(summary.seen - summary.emulators, stream.accesses.len() as u64);
    // Its main thread and those for background work.
    let threads = stream.events.iter().filter(|e| matches!(e, Event::Spawn { .. })).count();
    assert!(threads >= 4, "{threads}");
    assert!(stream.accesses.len() > 1_000_000);
}
