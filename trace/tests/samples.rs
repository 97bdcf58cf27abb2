//! Real files of other tools, read with the counts that their sources state.

mod support;

use machine::input::{Event, Kind};
use std::collections::BTreeSet;
use support::{Whole, read_all, sample};
use trace::{Compression, Format, OpenOptions};

/// Reads a sample after checking what it is taken for.
fn read(name: &str, format: Format, compression: Compression) -> Option<Whole> {
    let path = sample(name)?;
    let mut source = trace::open(&path, &OpenOptions::default()).unwrap();
    let facts = source.facts();
    assert_eq!((facts.format, facts.compression), (format, compression));
    Some(read_all(&mut *source).unwrap_or_else(|e| panic!("{e}")))
}

fn count(whole: &Whole, kind: Kind) -> usize {
    whole.accesses.iter().filter(|a| a.kind == kind).count()
}

fn pages(whole: &Whole, which: impl Fn(Kind) -> bool) -> usize {
    let pages: BTreeSet<u64> = whole.accesses.iter().filter(|a| which(a.kind)).map(|a| a.va.page()).collect();
    pages.len()
}

#[test]
fn drmemtrace_zip() {
    let Some(whole) = read("drmemtrace.simple_app.trace.zip", Format::DrMemtrace, Compression::Zip) else {
        return;
    };
    assert_eq!((count(&whole, Kind::Read), count(&whole, Kind::Write)), (31_507, 12_338));
    assert_eq!(pages(&whole, |k| k != Kind::Fetch), 84);
    assert_eq!(pages(&whole, |k| k == Kind::Fetch), 70);
    // Every instruction was fetched, and counts once.
    assert!(whole.accesses.iter().all(|a| a.insns == u16::from(a.kind == Kind::Fetch)));
    assert_eq!(whole.events, []);
}

#[test]
fn drmemtrace_gzip_of_five_threads() {
    let Some(whole) = read("offline-legacy-trace.gz", Format::DrMemtrace, Compression::Gzip) else { return };
    let kinds = [Kind::Read, Kind::Write, Kind::Fetch].map(|kind| count(&whole, kind));
    assert_eq!(kinds, [26_381, 16_308, 78_753]);
    assert_eq!(pages(&whole, |k| k != Kind::Fetch), 105);
    let threads: BTreeSet<u16> = whole.accesses.iter().map(|a| a.thread).collect();
    assert_eq!(threads, (0..5).collect());
    // Each thread is announced where it first runs.
    for (at, event) in &whole.events {
        if let Event::Spawn { thread, .. } = event {
            assert_eq!(whole.accesses[*at].thread, *thread);
            assert!(whole.accesses[..*at].iter().all(|a| a.thread != *thread));
        }
    }
}

#[test]
fn drmemtrace_snappy() {
    let name = "chase.20190225.185346.23699.memtrace.sz";
    let Some(whole) = read(name, Format::DrMemtrace, Compression::Snappy) else { return };
    let data = count(&whole, Kind::Read) + count(&whole, Kind::Write);
    assert_eq!(data / 1000, 221);
    assert_eq!(pages(&whole, |k| k != Kind::Fetch), 135);
}

#[test]
fn drmemtrace_raw_stream_and_edge_cases() {
    let Some(small) = read("drmemtrace.small.x64.trace", Format::DrMemtrace, Compression::None) else {
        return;
    };
    let kinds = |whole: &Whole| [Kind::Read, Kind::Write, Kind::Fetch].map(|kind| count(whole, kind));
    assert_eq!(kinds(&small), [42, 14, 173]);
    let name = "drmemtrace.allasm_x86_64.trace.zip";
    let Some(edge) = read(name, Format::DrMemtrace, Compression::Zip) else { return };
    assert_eq!(kinds(&edge), [0, 0, 133]);
}

#[test]
fn ramulator() {
    let Some(whole) = read("403.gcc.gz", Format::Ramulator, Compression::Gzip) else { return };
    assert_eq!((count(&whole, Kind::Read), count(&whole, Kind::Write)), (45_675, 4349));
    assert_eq!(pages(&whole, |_| true), 1306);
    let insns: u64 = whole.accesses.iter().map(|a| u64::from(a.insns)).sum();
    assert_eq!(insns, 203_728_525);
}

#[test]
fn dinero() {
    let Some(whole) = read("Whetstone.din.xz", Format::Dinero, Compression::Xz) else { return };
    assert_eq!((count(&whole, Kind::Read), count(&whole, Kind::Write)), (3_282_199, 717_801));
}

#[test]
fn qemu() {
    let Some(whole) = read("measured/bfs16.qemu16.xz", Format::Qemu16, Compression::Xz) else { return };
    assert_eq!(whole.accesses.len(), 2_000_000);
    assert_eq!(pages(&whole, |_| true), 2933);
}

#[test]
fn lackey() {
    let name = "measured/sqlite_lackey_head2000.txt";
    let Some(whole) = read(name, Format::Lackey, Compression::None) else { return };
    let text = std::fs::read_to_string(sample(name).unwrap()).unwrap();
    let lines = |begin: &str| text.lines().filter(|l| l.starts_with(begin)).count();
    for (kind, begin) in [(Kind::Fetch, "I "), (Kind::Read, " L"), (Kind::Write, " S"), (Kind::Modify, " M")]
    {
        assert_eq!(count(&whole, kind), lines(begin));
    }
}

#[test]
fn page_faults() {
    let name = "measured/perf_page_fault_user.txt";
    let Some(whole) = read(name, Format::PerfScript, Compression::None) else { return };
    let text = std::fs::read_to_string(sample(name).unwrap()).unwrap();
    assert_eq!(whole.accesses.len(), text.lines().count());
    assert_eq!(whole.accesses[0].va.raw(), 0x7fb2_e032_4b70);
    assert_eq!(whole.accesses[0].kind, Kind::Fetch);
    assert_eq!(whole.accesses[1].kind, Kind::Write);
}

#[test]
fn v2p_map() {
    let Some(path) = sample("v2p_example.textproto") else { return };
    let map = trace::drmemtrace::read_v2p(&path).unwrap();
    assert_eq!(map.page_size, Some(2 << 20));
    assert_eq!(map.pages, [(0, 6), (0x123, 3), (0x456, 4), (0x789, 5)].into());
}
