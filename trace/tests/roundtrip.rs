//! What a format can hold comes back from it as it was.

mod support;

use machine::input::{Access, Block, Event, Kind, ProcessSetup, Setup, ThreadSetup};
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use support::{Whole, read_all, sample, scratch};
use trace::{Format, OpenOptions, WriteOptions, Written, convert, create};

/// Three threads in two processes; what the accesses are is the test's.
fn setup() -> Setup {
    let process =
        |name: &str| ProcessSetup { name: name.into(), implicit_regions: true, ..Default::default() };
    Setup {
        more_threads: false,
        name: "t".into(),
        processes: vec![process("a"), process("b")],
        threads: [0, 0, 1].map(|process| ThreadSetup { process }).to_vec(),
        accesses: None,
    }
}

fn write(
    path: &Path,
    accesses: &[Access],
    options: &WriteOptions,
) -> Result<Written, machine::input::SourceError> {
    let mut writer = create(path, &setup(), options)?;
    let mut block = Block::new();
    for part in accesses.chunks(100) {
        block.clear();
        block.accesses.extend_from_slice(part);
        writer.write(&block)?;
    }
    writer.finish()
}

fn read(path: &Path) -> Whole {
    let options = OpenOptions::default();
    read_all(&mut *trace::open(path, &options).unwrap_or_else(|e| panic!("{e}")))
        .unwrap_or_else(|e| panic!("{e}"))
}

/// The same trace with its threads numbered in order of appearance.
fn by_appearance(accesses: &[Access]) -> Vec<Access> {
    let mut numbers = HashMap::new();
    let mut renamed = accesses.to_vec();
    for access in &mut renamed {
        let next = numbers.len() as u16;
        access.thread = *numbers.entry(access.thread).or_insert(next);
    }
    renamed
}

fn va() -> impl Strategy<Value = u64> {
    prop_oneof![0x40_0000..0x40_8000u64, 0x7fff_ffff_0000..0x7fff_ffff_8000u64, Just(0xffff_8000_1234_5000)]
}

fn access(kind: Kind, va: u64, thread: u16, insns: u16, size_log2: u8) -> Access {
    let mut access = Access::new(va, kind, thread, insns);
    access.size_log2 = size_log2;
    access
}

prop_compose! {
    /// An instruction: fetched or not, loads, stores.
    fn instruction()(
        fetch in proptest::option::weighted(0.8, va()), insns in 1..5u16,
        loads in proptest::collection::vec(va(), 0..=4), stores in proptest::collection::vec(va(), 0..=2),
    ) -> Vec<Access> {
        let mut all: Vec<Access> = fetch.map(|va| access(Kind::Fetch, va, 0, insns, 2)).into_iter().collect();
        all.extend(loads.iter().map(|va| access(Kind::Read, *va, 0, 0, 3)));
        all.extend(stores.iter().map(|va| access(Kind::Write, *va, 0, 0, 3)));
        if let Some(first) = all.first_mut() {
            first.insns = insns;
        }
        all
    }
}

prop_compose! {
    fn drmemtrace_access()(kind in 0..4usize, va in va(), thread in 0..3u16, size_log2 in 0..=12u8) -> Access {
        let kind = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify][kind];
        access(kind, va, thread, u16::from(kind == Kind::Fetch), size_log2)
    }
}

/// A modify as the read and the write that it is.
fn split_modifies(accesses: &[Access]) -> Vec<Access> {
    let split = |a: &Access| match a.kind {
        Kind::Modify => vec![Access { kind: Kind::Read, ..*a }, Access { kind: Kind::Write, insns: 0, ..*a }],
        _ => vec![*a],
    };
    accesses.iter().flat_map(split).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn champsim(instructions in proptest::collection::vec(instruction(), 1..300), packed in 0..4usize) {
        let name = ["t.champsimtrace", "t.champsimtrace.xz", "t.champsimtrace.gz", "t.champsimtrace.zst"][packed];
        let path = scratch("rt_champsim").join(name);
        let accesses = instructions.concat();
        write(&path, &accesses, &WriteOptions::default()).unwrap();
        if !accesses.is_empty() {
            prop_assert_eq!(read(&path).accesses, accesses);
        }
    }

    #[test]
    fn drmemtrace_directory(accesses in proptest::collection::vec(drmemtrace_access(), 1..900)) {
        let path = scratch("rt_drmemtrace").join("t.dir");
        write(&path, &accesses, &WriteOptions::default()).unwrap();
        let whole = read(&path);
        prop_assert_eq!(whole.accesses, by_appearance(&split_modifies(&accesses)));
    }

    #[test]
    fn drmemtrace_zip(accesses in proptest::collection::vec(drmemtrace_access(), 1..900)) {
        let path = scratch("rt_drmemtrace_zip").join("t.trace.zip");
        let options = WriteOptions { thread: Some(1), ..Default::default() };
        write(&path, &accesses, &options).unwrap();
        let only: Vec<_> = accesses.into_iter().filter(|a| a.thread == 1).collect();
        prop_assert_eq!(read(&path).accesses, by_appearance(&split_modifies(&only)));
    }

    #[test]
    fn lackey(accesses in proptest::collection::vec(drmemtrace_access(), 1..900)) {
        let path = scratch("rt_lackey").join("t.lackey.zst");
        // A fetch first, so that instructions are told; threads are not.
        let first = access(Kind::Fetch, 0x40_0000, 0, 1, 2);
        let accesses: Vec<_> = std::iter::once(first).chain(accesses.into_iter().map(|a| Access { thread: 0, ..a })).collect();
        write(&path, &accesses, &WriteOptions::default()).unwrap();
        prop_assert_eq!(read(&path).accesses, accesses);
    }
}

#[test]
fn a_second_thread_is_refused_where_there_is_no_room() {
    let accesses = [access(Kind::Read, 0x1000, 0, 1, 3), access(Kind::Read, 0x1000, 1, 1, 3)];
    for name in ["t.champsimtrace", "t.trace.zip"] {
        let path = scratch("rt_threads").join(name);
        let error = write(&path, &accesses, &WriteOptions::default()).unwrap_err().to_string();
        assert!(error.contains("several threads") && error.contains("--thread"), "{error}");
    }
}

#[test]
fn a_format_that_cannot_be_written_is_refused() {
    let dir = scratch("rt_refused");
    let options = WriteOptions { format: Some(Format::Gem5), ..Default::default() };
    let error = create(&dir.join("t"), &setup(), &options).err().unwrap().to_string();
    assert!(error.contains("gem5") && error.contains("parquet|"), "{error}");
    let error = create(&dir.join("t.xyz"), &setup(), &WriteOptions::default()).err().unwrap().to_string();
    assert!(error.contains("cannot be told"), "{error}");
}

#[test]
fn a_large_drmemtrace_has_several_chunks() {
    let path = scratch("rt_chunks").join("t.trace.zip");
    let mut writer = create(&path, &setup(), &WriteOptions::default()).unwrap();
    let mut block = Block::new();
    block.accesses.extend((0..256).map(|i| access(Kind::Fetch, 0x40_0000 + i * 4, 0, 1, 2)));
    // 10 M instructions make a chunk.
    for _ in 0..40_000 {
        writer.write(&block).unwrap();
    }
    let written = writer.finish().unwrap();
    assert_eq!(written.accesses, 10_240_000);
    let names: Vec<String> = zip::ZipArchive::new(std::fs::File::open(&path).unwrap())
        .unwrap()
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    assert_eq!(names, ["chunk.0000", "chunk.0001"]);
    let mut source = trace::open(&path, &OpenOptions::default()).unwrap();
    source.setup().unwrap();
    let mut count = 0;
    while source.fill(&mut block).unwrap() == machine::input::More::Yes {
        count += block.accesses.len();
    }
    assert_eq!(count, 10_240_000);
}

#[test]
fn a_real_trace_goes_through_parquet_and_back() {
    let Some(path) = sample("offline-legacy-trace.gz") else { return };
    let whole = read(&path);
    let dir = scratch("rt_real");
    let mut from = path;
    for name in ["t.parquet", "u.parquet", "t.dir"] {
        let to = dir.join(name);
        let mut options = WriteOptions::default();
        options.about.command = (name == "t.parquet").then(|| "a command".to_owned());
        convert(&from, &OpenOptions::default(), &to, &options).unwrap();
        let got = read(&to);
        assert!(got.accesses == whole.accesses, "{name}");
        let spawned =
            |whole: &Whole| whole.events.iter().filter(|(_, e)| matches!(e, Event::Spawn { .. })).count();
        assert_eq!(spawned(&got), 4);
        let facts = trace::open(&to, &OpenOptions::default()).unwrap().facts();
        assert_eq!(facts.command.is_some(), facts.format == Format::Parquet);
        from = to;
    }
}
