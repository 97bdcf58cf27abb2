//! Writing speed of our own format: `cargo bench -p trace --bench write [-- TRACE]`.
//!
//! Prints nanoseconds an access of all threads' time together (so that a busy machine does not spoil it), the best
//! and the median of some passes, and bytes an access. Of a trace the first 2^22 accesses are written.

use machine::input::{Access, Block, Event, Kind, More, ProcessSetup, Setup, ThreadSetup};
use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use trace::{About, OpenOptions, ParquetWriter};

const PASSES: usize = 9;
const ACCESSES: usize = 1 << 22;

fn main() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench_write.parquet");
    match std::env::args().skip(1).find(|word| word != "--bench") {
        Some(trace) => measure(&trace, &read(Path::new(&trace)), &path),
        None => {
            measure("a loop over 64 KiB", &generated(|i, _| i % 8192 * 8), &path);
            measure("random, of 1 GiB", &generated(|_, x| (x >> 34) & !7), &path);
        }
    }
}

/// Every fourth address on a stack, the others as given.
fn generated(va: impl Fn(u64, u64) -> u64) -> Vec<Access> {
    let mut x = 1_u64;
    let accesses = (0..ACCESSES as u64).map(|i| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let va = if i % 4 == 0 { 0x7fff_ffff_0000 + i % 32 * 8 } else { 0x7f00_0000_0000 + va(i, x) };
        Access::new(va, if i % 3 == 0 { Kind::Write } else { Kind::Read }, 0, (i % 7) as u16)
    });
    accesses.collect()
}

fn read(path: &Path) -> Vec<Access> {
    let mut source = trace::open(path, &OpenOptions::default()).unwrap();
    source.setup().unwrap();
    let (mut block, mut all) = (Block::new(), Vec::new());
    while all.len() < ACCESSES && source.fill(&mut block).unwrap() == More::Yes {
        all.extend_from_slice(&block.accesses);
    }
    all
}

fn measure(label: &str, accesses: &[Access], path: &Path) {
    let threads = accesses.iter().map(|a| a.thread).max().unwrap_or(0);
    let setup = Setup {
        processes: vec![ProcessSetup { implicit_regions: true, ..ProcessSetup::default() }],
        threads: vec![ThreadSetup { process: 0 }; usize::from(threads) + 1],
        ..Setup::default()
    };
    let mut bytes = 0;
    let mut times: Vec<f64> = (0..PASSES)
        .map(|_| {
            let begun = seconds();
            let mut writer = ParquetWriter::create(path, &setup, About::default()).unwrap();
            let mut block = Block::new();
            for part in accesses.chunks(256) {
                block.clear();
                block.accesses.extend_from_slice(part);
                writer.write(&block).unwrap();
            }
            block.clear();
            block.events.push(Event::Request { thread: 0 });
            writer.write(&block).unwrap();
            bytes = writer.finish().unwrap().bytes;
            (seconds() - begun) * 1e9 / accesses.len() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{label:<24} {:>9} accesses {:>6.3} B/access  best {:>5.2} ns  median {:>5.2} ns",
        accesses.len(),
        bytes as f64 / accesses.len() as f64,
        times[0],
        times[PASSES / 2]
    );
}

/// Time that this process has run, on all its threads.
fn seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
