//! Pagewalk's own format: what goes in comes out, also after a kill.

mod support;

use machine::input::{
    Access, Backing, Block, Event, HugeAdvice, Kind, Permissions, Populate, ProcessSetup, Region, Setup,
    ThreadSetup,
};
use paging::{PageSize, Va};
use proptest::prelude::*;
use std::path::Path;
use support::{Whole, read_all, sample, scratch};
use trace::{About, OpenOptions, ParquetWriter, Written};

fn about() -> About {
    About { command: Some("redis-server --port 0".into()), tool: "pagewalk test".into() }
}

/// Writes a whole trace in blocks of `step` accesses, events after theirs.
fn write(path: &Path, whole: &Whole, step: usize) -> ParquetWriter {
    let mut writer = ParquetWriter::create(path, &whole.setup, about()).unwrap();
    let (mut at, mut next_event) = (0, 0);
    let mut block = Block::new();
    loop {
        let next = whole.events.get(next_event).map_or(whole.accesses.len(), |(after, _)| *after);
        let end = next.min(at + step);
        block.clear();
        block.accesses.extend_from_slice(&whole.accesses[at..end]);
        at = end;
        while whole.events.get(next_event).is_some_and(|(after, _)| *after == at) {
            block.events.push(whole.events[next_event].1.clone());
            next_event += 1;
        }
        writer.write(&block).unwrap();
        if at == whole.accesses.len() {
            return writer;
        }
    }
}

fn open(path: &Path) -> Whole {
    read_all(&mut *trace::open(path, &OpenOptions::default()).unwrap()).unwrap()
}

fn region(name: &str, start: u64, backing: Backing) -> Region {
    Region {
        name: name.into(),
        start: Va::new(start),
        len: 0x20_0000,
        backing,
        permissions: Permissions::READ_EXECUTE,
        advice: HugeAdvice::Reserved(PageSize::Size2M),
        populate: Populate::Partitioned,
    }
}

fn rich_setup() -> Setup {
    let mut heap = Region::anonymous("heap", 0x5555_0000_0000, 0x40_0000, Populate::By(1));
    heap.advice = HugeAdvice::Huge;
    let file = Backing::PrivateFile { file: "lib\"c\".so".into(), offset: 0x1000 };
    Setup {
        more_threads: true,
        name: "t".into(),
        processes: vec![
            ProcessSetup {
                name: "redis".into(),
                regions: vec![heap, region("text", 0x7f00_0000_0000, file)],
                group: Some(3),
                implicit_regions: false,
            },
            ProcessSetup { name: "other".into(), implicit_regions: true, ..ProcessSetup::default() },
        ],
        threads: vec![ThreadSetup { process: 0 }, ThreadSetup { process: 0 }, ThreadSetup { process: 1 }],
        accesses: None,
    }
}

fn all_events() -> Vec<Event> {
    let start = Va::new(0x7f12_3456_7000);
    let shared = Backing::SharedFile { file: "/dev/shm/x".into(), offset: 0 };
    let image = ProcessSetup {
        name: "child".into(),
        regions: vec![region("anon", 0x1000_0000, Backing::SharedAnonymous)],
        group: None,
        implicit_regions: true,
    };
    vec![
        Event::Map { process: 0, region: region("m", 0x7f12_3400_0000, shared) },
        Event::Unmap { process: 1, start, len: 0x3000 },
        Event::Protect { process: 0, start, len: 0x1000, permissions: Permissions::READ },
        Event::Discard { process: 0, start, len: 0x1000 },
        Event::Fork { parent: 0, child: 2 },
        Event::Exec { process: 2, image },
        Event::Spawn { thread: 3, process: 2 },
        Event::MoveThread { thread: 1, node: 3 },
        Event::Request { thread: 0 },
        Event::Exit { process: 2 },
    ]
}

fn numbered(count: usize) -> Vec<Access> {
    (0..count as u64)
        .map(|i| {
            let mut access =
                Access::new(0x7f00_0000_0000 ^ ((i * 0x9e37_79b9) & 0xff_ffff_ffff), Kind::Read, 0, 1);
            access.kind = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify][i as usize % 4];
            access.insns = (i % 7) as u16;
            access.thread = (i / 100 % 3) as u16;
            access.size_log2 = (i % 5) as u8;
            access.flags = u8::from(i % 11 == 0);
            access
        })
        .collect()
}

/// A reader gives its file's name to the setup, and the count of accesses.
fn as_read(mut whole: Whole, path: &Path) -> Whole {
    whole.setup.name = path.display().to_string();
    whole.setup.accesses = Some(whole.accesses.len() as u64);
    whole
}

#[test]
fn a_trace_with_every_kind_of_event_comes_back_as_it_was() {
    let dir = scratch("parquet_events");
    let path = dir.join("t.parquet");
    let whole = Whole {
        setup: rich_setup(),
        accesses: numbered(10_000),
        events: [0, 1, 4096, 4097, 5000, 5000, 10_000]
            .into_iter()
            .zip(all_events())
            .chain(all_events().into_iter().skip(7).map(|e| (10_000, e)))
            .collect(),
    };
    let Written { accesses, bytes, .. } = write(&path, &whole, 256).finish().unwrap();
    assert_eq!(accesses, 10_000);
    assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
    assert!(!dir.join("t.parquet.partial").exists());
    assert_eq!(open(&path), as_read(whole, &path));
}

#[test]
fn without_fetches_instructions_still_count() {
    let path = scratch("parquet_fetches").join("t.parquet");
    let whole = Whole { setup: rich_setup(), accesses: numbered(5000), events: vec![] };
    write(&path, &whole, 256).finish().unwrap();
    let options = {
        let mut o = OpenOptions::default();
        o.fetches = false;
        o
    };
    let data = read_all(&mut *trace::open(&path, &options).unwrap()).unwrap();
    assert_eq!(data.setup.accesses, None);
    assert_eq!(data.accesses.len(), whole.accesses.iter().filter(|a| a.kind != Kind::Fetch).count());
    for thread in 0..3 {
        let last =
            |all: &[Access]| all.iter().rposition(|a| a.thread == thread && a.kind != Kind::Fetch).unwrap();
        let insns = |all: &[Access]| -> u64 {
            all[..=last(all)].iter().filter(|a| a.thread == thread).map(|a| u64::from(a.insns)).sum()
        };
        assert_eq!(insns(&data.accesses), insns(&whole.accesses));
    }
}

#[test]
fn a_killed_writer_leaves_what_it_had_seen() {
    let path = scratch("parquet_kill").join("t.parquet");
    let mut whole = Whole { setup: rich_setup(), accesses: numbered((1 << 20) + 5000), events: vec![] };
    let writer = write(&path, &whole, 256);
    // Nothing finishes the file, as when the process is killed; only that its thread is waited for.
    drop(writer);
    let partial = path.with_extension("parquet.partial");
    assert!(!path.exists());
    // Whole as it lies there, and whatever half-written rows follow.
    let bytes = std::fs::read(&partial).unwrap();
    whole.accesses.truncate(1 << 20);
    for tail in [0, 1, 100_000] {
        let mut torn = bytes.clone();
        torn.extend_from_slice(&bytes[..tail]);
        std::fs::write(&partial, torn).unwrap();
        let read = open(&partial);
        assert_eq!(read.accesses.len(), 1 << 20);
        assert!(read.accesses == whole.accesses);
    }
    // Under another name the same bytes are a damaged file.
    std::fs::copy(&partial, &path).unwrap();
    let error = trace::open(&path, &OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("cut off") && error.contains(".partial"), "{error}");
}

#[test]
fn empty_and_cut_off_files_are_refused() {
    let dir = scratch("parquet_cut");
    let path = dir.join("t.parquet");
    let whole = Whole { setup: rich_setup(), accesses: numbered(1000), events: vec![] };
    write(&path, &whole, 256).finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for len in [4, 5, 8, 11, 12, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = trace::open(&path, &OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains("t.parquet") && error.contains("hint:"), "{len}: {error}");
    }
    std::fs::write(&path, []).unwrap();
    let error = trace::open(&path, &OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("empty"), "{error}");
}

#[test]
fn a_real_trace_takes_less_than_a_byte_an_access() {
    let Some(sample) = sample("measured/bfs16.qemu16.xz") else { return };
    let whole = open(&sample);
    assert_eq!(whole.accesses.len(), 2_000_000);
    let path = scratch("parquet_bfs").join("bfs16.parquet");
    let written = write(&path, &whole, 256).finish().unwrap();
    assert!(written.bytes < 2_000_000, "{} bytes", written.bytes);
    let read = open(&path);
    assert!(read.accesses == whole.accesses);
}

prop_compose! {
    fn access()(
        page in prop_oneof![0..64u64, Just(0x7fff_ffff_f000 >> 12), Just(0xffff_8000_0000_0000 >> 12)],
        offset in 0..4096u64, insns: u16, thread in 0..3u16, kind in 0..4usize, size_log2 in 0..=12u8, flags: u8,
    ) -> Access {
        let kind = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify][kind];
        Access { va: Va::new(page << 12 | offset), insns, thread, kind, size_log2, flags, reserved: 0 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_accesses_come_back(accesses in proptest::collection::vec(access(), 0..9000), step in 1..=256usize) {
        let path = scratch("parquet_any").join("t.parquet");
        let whole = Whole { setup: rich_setup(), accesses, events: vec![] };
        write(&path, &whole, step).finish().unwrap();
        prop_assert_eq!(open(&path), as_read(whole, &path));
    }
}

#[test]
fn a_thread_may_wait_for_its_process() {
    let path = scratch("parquet_later").join("t.parquet");
    let mut setup = rich_setup();
    setup.threads.push(ThreadSetup { process: 2 });
    let mut accesses = numbered(20);
    accesses[10].thread = 3;
    let fork = Event::Fork { parent: 0, child: 2 };
    for (at, fine) in [(10, true), (11, false)] {
        let events = vec![(at, fork.clone())];
        let whole = Whole { setup: setup.clone(), accesses: accesses.clone(), events };
        write(&path, &whole, 256).finish().unwrap();
        let read = read_all(&mut *trace::open(&path, &OpenOptions::default()).unwrap());
        assert_eq!(read.is_ok(), fine, "{read:?}");
    }
}

#[test]
fn events_about_nobody_are_refused() {
    let path = scratch("parquet_nobody").join("t.parquet");
    let start = Va::new(0x1000);
    for event in [
        Event::Unmap { process: 2, start, len: 0x1000 },
        Event::Fork { parent: 0, child: 3 },
        Event::Fork { parent: 2, child: 2 },
        Event::Spawn { thread: 4, process: 0 },
        Event::Spawn { thread: 3, process: 2 },
        Event::Request { thread: 3 },
        Event::Map { process: 0, region: Region::anonymous("r", 0x1000, 0x1000, Populate::By(3)) },
    ] {
        let whole = Whole { setup: rich_setup(), accesses: numbered(10), events: vec![(5, event.clone())] };
        write(&path, &whole, 256).finish().unwrap();
        let mut source = trace::open(&path, &OpenOptions::default()).unwrap();
        let error = read_all(&mut *source).unwrap_err().to_string();
        assert!(error.contains("row 5") && error.contains("3 threads"), "{event:?}: {error}");
    }
}
