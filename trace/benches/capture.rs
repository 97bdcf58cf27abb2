//! How fast programs are captured: `cargo bench -p trace --bench capture [-- PROGRAM ARGS]`.
//!
//! Three rates of the same program: the plugin only counting, a live stream that nobody simulates, and a recording.
//! The first is the yardstick. Each is the best of three.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Instant;

use machine::input::{Block, More, Source};
use trace::capture::{CaptureOptions, record, start};

/// 2.7 × 10^8 accesses, nearly all of them hits in the L1 TLB and cache: the hardest case, for it is the fastest.
const SQL: &str =
    "with recursive c(x) as (select 1 union all select x+1 from c where x < 200000) select sum(x*x%7) from c";

fn main() {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).filter(|word| word != "--bench").collect();
    if words.is_empty() {
        words = ["sqlite3", ":memory:", SQL].map(OsString::from).to_vec();
    }
    let plugin = std::env::current_exe().unwrap().with_file_name("libcapture_qemu.so");
    let path = std::env::temp_dir().join(format!("trace-bench-{}.parquet", std::process::id()));
    let (program, args) = words.split_first().unwrap();

    let count = best(|| {
        let path = std::env::var_os("PATH").unwrap();
        let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
        let mut command = Command::new("qemu-x86_64");
        command.arg("-plugin").arg(format!("{},count=on", plugin.display()));
        command.arg(found.unwrap_or_else(|| program.into())).args(args).stdout(Stdio::null());
        let output = command.output().expect("qemu-x86_64: apt install qemu-user");
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines().find_map(|line| line.strip_suffix(" accesses")?.parse().ok()).expect("a count")
    });
    let options = || CaptureOptions {
        stdout: Some(std::fs::File::create("/dev/null").unwrap()),
        ..CaptureOptions::default()
    };
    let live = best(|| {
        let mut source = start(program, args, options()).unwrap_or_else(|error| panic!("{error}"));
        source.setup().unwrap();
        let mut block = Block::new();
        while source.fill(&mut block).unwrap() == More::Yes {}
        let summary = source.finish().unwrap();
        assert_eq!(summary.lost(), 0);
        summary.seen
    });
    let mut bytes = 0;
    let recorded = best(|| {
        let source = start(program, args, options()).unwrap_or_else(|error| panic!("{error}"));
        let recorded = record(source, &path, |_| ()).unwrap();
        bytes = recorded.written.bytes;
        recorded.written.accesses
    });
    let _ = std::fs::remove_file(path);
    let line = |what: &str, (n, seconds): (u64, f64)| {
        let rate = n as f64 / seconds;
        let share = 100.0 * rate / (count.0 as f64 / count.1);
        println!("{what:<10} {n:>12} accesses {seconds:>7.2} s {:>8.1} M/s {share:>6.0} %", rate / 1e6);
    };
    line("counting", count);
    line("live", live);
    line("recording", recorded);
    println!("{:.2} bytes an access", bytes as f64 / recorded.0 as f64);
}

fn best(mut run: impl FnMut() -> u64) -> (u64, f64) {
    let timed = (0..3).map(|_| {
        let begun = Instant::now();
        let n = run();
        (n, begun.elapsed().as_secs_f64())
    });
    timed.min_by(|a, b| a.1.total_cmp(&b.1)).expect("three runs")
}
