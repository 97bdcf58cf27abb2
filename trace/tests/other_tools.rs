//! Our Parquet in the hands of other tools, where they are installed.

mod support;

use machine::input::{Access, Block, Event, Kind, ProcessSetup, Setup, ThreadSetup};
use std::path::Path;
use std::process::Command;
use support::{read_all, scratch};
use trace::{About, OpenOptions, ParquetWriter};

fn write(path: &Path) {
    let setup = Setup {
        more_threads: false,
        name: "t".into(),
        processes: vec![ProcessSetup { name: "p".into(), implicit_regions: true, ..Default::default() }],
        threads: vec![ThreadSetup { process: 0 }],
        accesses: None,
    };
    let about = About { command: Some("true".into()), tool: "pagewalk test".into() };
    let mut writer = ParquetWriter::create(path, &setup, about).unwrap();
    let mut block = Block::new();
    // The top half of the address space: unsigned, or the sums are wrong.
    block.accesses.extend((0..200).map(|i| Access::new(0xffff_8000_0000_0000 + i * 4096, Kind::Write, 0, 2)));
    block.events.push(Event::Spawn { thread: 1, process: 0 });
    writer.write(&block).unwrap();
    block.clear();
    block.accesses.extend((0..100).map(|i| Access::new(0x1000 + i, Kind::Fetch, 1, 1)));
    writer.write(&block).unwrap();
    writer.finish().unwrap();
}

/// Runs a Python program that prints `rows max(va) sum(insns) rows-with-events`.
fn ask(module: &str, program: &str) {
    let path = scratch(&format!("tools_{module}")).join("t.parquet");
    write(&path);
    // A virtual environment's python, if PYTHON names one.
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if !has.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: {python} has no {module}: pip install {module}");
        return;
    }
    let out = Command::new(&python).args(["-c", program]).arg(&path).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(
        stdout.trim(),
        format!("300 {} 500 1", 0xffff_8000_0000_0000u64 + 199 * 4096),
        "{module}: {stderr}"
    );
}

#[test]
fn duckdb_reads_it() {
    ask(
        "duckdb",
        "import duckdb, sys; print(*duckdb.sql(f\"select count(*), max(va), sum(insns), count(events) from '{sys.argv[1]}'\").fetchall()[0])",
    );
}

#[test]
fn polars_reads_it() {
    ask(
        "polars",
        "import polars as pl, sys; d = pl.read_parquet(sys.argv[1]); \
         print(d.height, d['va'].max(), d['insns'].cast(pl.UInt64).sum(), d['events'].count())",
    );
}

#[test]
fn pyarrow_reads_it() {
    ask(
        "pyarrow",
        "import pyarrow.parquet as pq, pyarrow.compute as pc, sys; t = pq.read_table(sys.argv[1]); \
         print(t.num_rows, pc.max(t['va']), pc.sum(t['insns']), pc.count(t['events']))",
    );
}

#[test]
fn what_polars_writes_is_read() {
    let dir = scratch("tools_back");
    let (path, back) = (dir.join("t.parquet"), dir.join("back.parquet"));
    write(&path);
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let program = "import polars as pl, sys; \
        pl.scan_parquet(sys.argv[1]).filter(pl.col('kind') == 1).select('va', 'insns', 'kind').sink_parquet(sys.argv[2])";
    let out = Command::new(&python).args(["-c", program]).arg(&path).arg(&back).output();
    if !out.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: {python} has no polars: pip install polars");
        return;
    }
    let whole = read_all(&mut *trace::open(&back, &OpenOptions::default()).unwrap()).unwrap();
    let expected: Vec<_> =
        (0..200).map(|i| Access::new(0xffff_8000_0000_0000 + i * 4096, Kind::Write, 0, 2)).collect();
    assert_eq!(whole.accesses, expected);
    assert!(whole.setup.processes[0].implicit_regions);
}
