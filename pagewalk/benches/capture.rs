//! How fast programs are captured: `cargo bench -p pagewalk --bench capture [-- PROGRAM ARGS]`.
//!
//! The yardstick is the plugin alone, which only counts. Against it: a live stream that nobody simulates, live
//! simulation of one system end to end (`pagewalk run -s native -- …`), and a recording (`pagewalk record`). Each is the
//! best of some runs, with everything that a user waits for: the emulator's start, the program's end, the file.
//!
//! Without a program there are two: one that hits the L1 TLB nearly always, which is the hardest case, for the
//! plugin is fastest there; and random updates of 1 GiB, which miss everything.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};
use std::time::Instant;

use machine::input::{Block, More, Source};
use trace::capture::{CaptureOptions, start};

const SQL: &str =
    "with recursive c(x) as (select 1 union all select x+1 from c where x < 200000) select sum(x*x%7) from c";
const RUNS: usize = 5;

fn main() {
    let words: Vec<OsString> = std::env::args_os().skip(1).filter(|word| word != "--bench").collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("updates") => updates(),
        Some(_) => measure("the program", &words),
        None => {
            let me = std::env::current_exe().expect("this program's path").into_os_string();
            measure("sqlite3 (misses are rare)", &["sqlite3", ":memory:", SQL].map(OsString::from));
            measure("random updates of 1 GiB", &[me, "updates".into()]);
        }
    }
}

/// 2^25 random read-modify-writes of 2^27 words.
fn updates() {
    let mut table = vec![0_u64; 1 << 27];
    let mut state = 1_u64;
    for _ in 0..1 << 25 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        table[(state >> 37) as usize] ^= state;
    }
    std::hint::black_box(&table);
}

fn measure(what: &str, command: &[OsString]) {
    println!("{what}:");
    let (program, args) = command.split_first().expect("a program");
    let count = best(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
        let mut command = Command::new("qemu-x86_64");
        command.arg("-plugin").arg(format!("{},count=on", plugin().display()));
        command.arg(found.unwrap_or_else(|| program.into())).args(args).stdout(Stdio::null());
        let output = command.output().expect("qemu-x86_64: apt install qemu-user");
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines().find_map(|line| line.strip_suffix(" accesses")?.parse().ok()).expect("a count")
    });
    let live = best(|| {
        let stdout = std::fs::File::create("/dev/null").expect("/dev/null");
        let options =
            CaptureOptions { stdout: Some(stdout), plugin: Some(plugin()), ..CaptureOptions::default() };
        let mut source = start(program, args, options).unwrap_or_else(|error| panic!("{error}"));
        source.setup().expect("a world");
        let mut block = Block::new();
        while source.fill(&mut block).expect("accesses") == More::Yes {}
        let summary = source.finish().expect("an end");
        assert_eq!(summary.lost(), 0);
        summary.seen
    });
    let simulated = best(|| pagewalk(&["run", "-s", "native", "--json"], command, "\"accesses\":"));
    let path = std::env::temp_dir().join(format!("pagewalk-bench-{}.parquet", std::process::id()));
    let recorded =
        best(|| pagewalk(&["record".as_ref(), "-o".as_ref(), path.as_os_str()], command, "accesses taken"));
    let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let _ = std::fs::remove_file(path);
    let line = |what: &str, (n, seconds): (u64, f64)| {
        let rate = n as f64 / seconds;
        let share = 100.0 * rate / (count.0 as f64 / count.1);
        println!("  {what:<28} {n:>12} accesses {seconds:>7.2} s {:>8.1} M/s {share:>6.0} %", rate / 1e6);
    };
    line("the plugin alone, counting", count);
    line("live, not simulated", live);
    line("live simulation, end to end", simulated);
    line("recording", recorded);
    println!("  {:.2} bytes an access\n", bytes as f64 / recorded.0 as f64);
}

fn plugin() -> std::path::PathBuf {
    std::env::current_exe().expect("this program's path").with_file_name("libcapture_qemu.so")
}

/// Runs `pagewalk` on a program; the number in the line with these words.
fn pagewalk<A: AsRef<OsStr>>(args: &[A], command: &[OsString], words: &str) -> u64 {
    let mut pagewalk = Command::new(env!("CARGO_BIN_EXE_pagewalk"));
    pagewalk.env("PAGEWALK_QEMU_PLUGIN", plugin()).args(args).arg("--").args(command);
    let output = pagewalk.output().expect("pagewalk");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(words));
    let line = line.unwrap_or_else(|| panic!("no {words:?} in what pagewalk says:\n{text}"));
    let digits: String =
        line.split("accesses taken").next().unwrap_or(line).chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number in {line:?}"))
}

fn best(mut run: impl FnMut() -> u64) -> (u64, f64) {
    let timed = (0..RUNS).map(|_| {
        let begun = Instant::now();
        let n = run();
        (n, begun.elapsed().as_secs_f64())
    });
    timed.min_by(|a, b| a.1.total_cmp(&b.1)).expect("some runs")
}
