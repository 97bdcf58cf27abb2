//! Reading speed of each format: `cargo bench -p trace`.
//!
//! Prints million accesses a second of one core's time (so that a busy machine
//! does not spoil it), the median of nine passes, and bytes an access. The trace is `measured/bfs16.qemu16.xz` of
//! `../shared/samples` where that exists, else one of our own making; formats
//! that need instructions get one for each access.

use machine::input::{Access, Block, Kind, More, ProcessSetup, Setup, ThreadSetup};
use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use trace::{Format, OpenOptions, WriteOptions, create};

const PASSES: usize = 9;

/// Calls `each` with every block of a trace.
fn read(path: &Path, mut each: impl FnMut(&[Access])) {
    let mut source = trace::open(path, &OpenOptions::default()).unwrap();
    source.setup().unwrap();
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block).unwrap();
        each(&block.accesses);
        if more == More::No {
            return;
        }
    }
}

/// Stack, heap and a table at random, as a program mixes them.
fn generated() -> Vec<Access> {
    let mut x = 1u64;
    (0..2_000_000u64)
        .map(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let va = match i % 8 {
                0..3 => 0x7fff_ffff_0000 + (x >> 60) * 8,
                3..6 => 0x5555_0000_0000 + i * 8,
                _ => 0x7f00_0000_0000 + (x >> 40) * 64,
            };
            Access::new(va, if i % 4 == 0 { Kind::Write } else { Kind::Read }, 0, 3)
        })
        .collect()
}

fn write(path: &Path, accesses: &[Access], format: Format) {
    let process = ProcessSetup { implicit_regions: true, ..ProcessSetup::default() };
    let setup =
        Setup { processes: vec![process], threads: vec![ThreadSetup { process: 0 }], ..Setup::default() };
    let options = WriteOptions { format: Some(format), ..WriteOptions::default() };
    let mut writer = create(path, &setup, &options).unwrap();
    let mut block = Block::new();
    for part in accesses.chunks(256) {
        block.clear();
        block.accesses.extend_from_slice(part);
        writer.write(&block).unwrap();
    }
    writer.finish().unwrap();
}

/// Time that this thread has run.
fn seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn measure(label: &str, path: &Path) {
    let mut rates: Vec<f64> = Vec::new();
    let mut count = 0;
    for _ in 0..PASSES {
        let start = seconds();
        count = 0;
        let mut sum = 0u64;
        read(path, |accesses| {
            count += accesses.len();
            sum = sum.wrapping_add(accesses.first().map_or(0, |a| a.va.raw()));
        });
        std::hint::black_box(sum);
        rates.push(count as f64 / (seconds() - start) / 1e6);
    }
    rates.sort_by(f64::total_cmp);
    let bytes = std::fs::metadata(path).unwrap().len() as f64 / count as f64;
    println!(
        "{label:<24} {count:>9} accesses {bytes:>7.2} B/access  median {:>7.1} M/s  best {:>7.1} M/s",
        rates[PASSES / 2],
        rates[PASSES - 1]
    );
}

fn main() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench_read");
    std::fs::create_dir_all(&dir).unwrap();
    let sample =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/samples/measured/bfs16.qemu16.xz"));
    let accesses = if sample.exists() {
        let mut all = Vec::new();
        read(&sample, |accesses| all.extend_from_slice(accesses));
        all
    } else {
        println!("../shared/samples is not there: a generated trace instead");
        generated()
    };
    // Each access with the fetch of its instruction.
    let with_fetches: Vec<Access> = accesses
        .iter()
        .zip(0u64..)
        .flat_map(|(a, i)| {
            let mut fetch = Access::new(0x40_1000 + i % 512 * 4, Kind::Fetch, 0, 1);
            fetch.size_log2 = 2;
            [fetch, Access { insns: 0, ..*a }]
        })
        .collect();
    let formats = [
        ("parquet", "t.parquet", Format::Parquet, &accesses),
        ("parquet, with fetches", "f.parquet", Format::Parquet, &with_fetches),
        ("drmemtrace zip", "t.trace.zip", Format::DrMemtrace, &with_fetches),
        ("champsim raw", "t.champsimtrace", Format::ChampSim, &with_fetches),
        ("champsim xz", "t.champsimtrace.xz", Format::ChampSim, &with_fetches),
        ("lackey", "t.lackey", Format::Lackey, &with_fetches),
        ("lackey zst", "t.lackey.zst", Format::Lackey, &with_fetches),
    ];
    for (label, name, format, accesses) in formats {
        let path = dir.join(name);
        write(&path, accesses, format);
        measure(label, &path);
    }
    if sample.exists() {
        measure("qemu16 xz", &sample);
        for name in ["drmemtrace.simple_app.trace.zip", "403.gcc.gz", "Whetstone.din.xz"] {
            measure(name, &sample.parent().unwrap().parent().unwrap().join(name));
        }
    }
}
