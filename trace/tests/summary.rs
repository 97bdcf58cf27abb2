//! What `info`, `head` and `stat` say.

mod support;

use support::fixtures;
use support::{sample, scratch};
use trace::summary::{Counted, Extent, head, info, stat};
use trace::{Compression, Format, Meter, OpenOptions};

#[test]
fn a_small_trace_is_counted() {
    let path = scratch("summary").join("t.trace");
    // 90 instructions of one page, loads 16 bytes apart, and 30 stores.
    std::fs::write(&path, fixtures::drmemtrace(7, 7, 90, &[1])).unwrap();
    let options = OpenOptions::default();
    let quick = info(&path, &options, Extent::Beginning).unwrap();
    assert_eq!((quick.accesses, &quick.counted), (None, &None));
    let info = info(&path, &options, Extent::All).unwrap();
    let counted = Counted { accesses: 212, processes: 1, threads: 1, pages: 3 };
    assert_eq!(info.counted, Some(counted));
    assert_eq!((info.facts.format, info.facts.compression), (Format::DrMemtrace, Compression::None));
    assert_eq!(info.bytes, std::fs::metadata(&path).unwrap().len());
    let stat = stat(&path, &options).unwrap();
    assert_eq!((stat.kinds.reads, stat.kinds.writes, stat.kinds.fetches), (90, 30, 92));
    assert_eq!((stat.accesses, stat.instructions), (212, 92));
    assert_eq!(stat.pages, [3, 3, 2]);
    assert_eq!(stat.footprint.last().unwrap().pages, 3);
    // Text and data in turn, the stack every third time: 1 or 2 pages between.
    assert_eq!(stat.reuse_distance.iter().sum::<u64>(), 212 - 3);
    assert_eq!(stat.touches.iter().sum::<u64>(), 3);
    assert_eq!(stat.bytes_per_access, info.bytes as f64 / 212.0);
}

#[test]
fn the_head_is_what_stands_first() {
    let path = scratch("summary_head").join("t.trace");
    std::fs::write(&path, fixtures::drmemtrace(7, 7, 90, &[1])).unwrap();
    let rows = head(&path, &OpenOptions::default(), 3).unwrap();
    let got: Vec<_> = rows.iter().map(|r| (r.index, r.kind, r.va.as_str(), r.size, r.insns)).collect();
    assert_eq!(
        got,
        [(0, "fetch", "0x400000", 8, 1), (1, "read", "0x7f000000", 8, 0), (2, "write", "0x7fff0000", 32, 0)]
    );
    assert_eq!(head(&path, &OpenOptions::default(), 10_000).unwrap().len(), 212);
}

#[test]
fn a_real_trace_is_counted() {
    let Some(path) = sample("measured/bfs16.qemu16.xz") else { return };
    let stat = stat(&path, &OpenOptions::default()).unwrap();
    assert_eq!((stat.accesses, stat.pages[0]), (2_000_000, 2933));
    assert!(stat.footprint.len() <= 64 && stat.footprint.is_sorted_by_key(|p| p.pages));
    assert_eq!(stat.reuse_distance.iter().sum::<u64>(), 2_000_000 - 2933);
    assert_eq!(stat.touches.iter().sum::<u64>(), 2933);
}

#[test]
fn a_meter_tells_how_far_a_trace_was_read() {
    let directory = scratch("meter");
    for fixtures::Fixture { name, bytes, .. } in fixtures::all() {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        let meter = Meter::default();
        let mut options = OpenOptions::default();
        options.meter = Some(meter.clone());
        assert_eq!((meter.accesses(), meter.share()), (0, None));
        let counted = info(&path, &options, Extent::All).unwrap().counted.unwrap();
        assert_eq!((meter.accesses(), meter.share()), (counted.accesses, Some(1.0)), "{name}");
    }
    // Parquet says how many accesses it has.
    let (from, to) = (directory.join("t.trace"), directory.join("t.parquet"));
    std::fs::write(&from, fixtures::drmemtrace(7, 7, 90, &[1])).unwrap();
    trace::convert(&from, &OpenOptions::default(), &to, &trace::WriteOptions::default()).unwrap();
    let meter = Meter::default();
    let mut options = OpenOptions::default();
    options.meter = Some(meter.clone());
    info(&to, &options, Extent::All).unwrap();
    assert_eq!((meter.accesses(), meter.share()), (212, Some(1.0)));
}
