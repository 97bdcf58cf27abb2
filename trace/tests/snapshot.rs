//! Snapshots of running processes, and capture with their layout.

mod common;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use machine::input::{Block, Event, HugeAdvice, More, Populate, Setup, Source, SourceError};
use proptest::prelude::*;
use rustix::mm::{Advice as Wish, MapFlags, ProtFlags, madvise, mmap_anonymous};
use trace::capture::{Advice, CaptureOptions, Layout, Mapping, Relaid, Snapshot, snapshot};

/// 8 MiB of anonymous memory at a 2 MiB boundary.
fn memory(wish: Wish) -> &'static mut [u8] {
    const HUGE: usize = 2 << 20;
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a fresh mapping, never unmapped; the aligned part of it is within it.
    unsafe {
        let start = mmap_anonymous(std::ptr::null_mut(), 10 << 20, prot, flags).unwrap();
        let aligned = start.byte_add(start.align_offset(HUGE));
        madvise(aligned, 8 << 20, wish).unwrap();
        std::slice::from_raw_parts_mut(aligned.cast(), 8 << 20)
    }
}

fn mapping_of(snapshot: &Snapshot, bytes: &[u8]) -> Mapping {
    let at = bytes.as_ptr() as u64;
    snapshot.mappings.iter().find(|m| m.line.start <= at && at < m.line.end).unwrap().clone()
}

#[test]
fn pages_are_where_they_were_touched() {
    let bytes = memory(Wish::LinuxNoHugepage);
    for page in (100..200).chain(300..301) {
        bytes[page * 4096] = 1;
    }
    let snapshot = snapshot(std::process::id()).unwrap();
    let mapping = mapping_of(&snapshot, bytes);
    assert_eq!(mapping.advice, Advice::NoHuge);
    assert_eq!(mapping.present(), 101);
    let skip = (bytes.as_ptr() as u64 - mapping.line.start) / 4096;
    let pages: Vec<u64> =
        mapping.runs.iter().flat_map(|r| r.page..r.page + r.pages).map(|p| p - skip).collect();
    assert_eq!(pages, (100..200).chain(300..301).collect::<Vec<u64>>());
    assert!(mapping.runs.iter().all(|r| r.size_log2 == 12));
    // Frames are there, or it is said that they are not.
    let seen = mapping.runs.iter().all(|r| r.frame.is_some());
    assert_eq!(seen, !snapshot.unseen.iter().any(|w| w.contains("CAP_SYS_ADMIN")), "{:?}", snapshot.unseen);
    if seen {
        let mut frames: Vec<u64> =
            mapping.runs.iter().flat_map(|r| r.frame.unwrap()..r.frame.unwrap() + r.pages).collect();
        frames.sort_unstable();
        frames.dedup();
        assert_eq!(frames.len(), 101, "each page has a frame of its own");
    }
}

#[test]
fn huge_pages_are_told_from_small_ones() {
    let bytes = memory(Wish::LinuxHugepage);
    bytes.fill(1);
    let snapshot = snapshot(std::process::id()).unwrap();
    let mapping = mapping_of(&snapshot, bytes);
    assert_eq!(mapping.advice, Advice::Huge);
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let huge: u64 = mapping.runs.iter().filter(|r| r.size_log2 == 21).map(|r| r.pages).sum();
    if enabled.contains("[never]") || huge == 0 && !snapshot.unseen.is_empty() {
        common::skip::<()>("this kernel gives no huge pages, or does not show them");
        return;
    }
    assert_eq!(huge % 512, 0);
    assert!(huge > 0, "{mapping:?}");
    let process = snapshot.process();
    let region = process.regions.iter().find(|r| r.start.raw() == mapping.line.start).unwrap();
    assert_eq!((region.advice, region.populate), (HugeAdvice::Huge, Populate::By(0)));
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_captured_program_gets_a_snapshots_addresses() {
    let native = Running(Command::new("sleep").arg("60").spawn().unwrap());
    let exe = std::fs::canonicalize("/bin/sleep").unwrap();
    // Until it has become sleep and loaded its libraries.
    let snapshot = loop {
        let now = snapshot(native.0.id()).unwrap();
        if now.program == exe.to_str().unwrap()
            && ["libc.so", "[heap]"].iter().all(|n| now.mappings.iter().any(|m| m.line.name.contains(n)))
        {
            break now;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let path = std::env::temp_dir().join(format!("trace-snapshot-{}.json", std::process::id()));
    snapshot.save(&path).unwrap();
    assert_eq!(Snapshot::load(&path).unwrap(), snapshot);
    std::fs::remove_file(path).unwrap();
    let options =
        CaptureOptions { layout: Layout::Snapshot(Arc::new(snapshot.clone())), ..CaptureOptions::default() };
    let Some(stream) = common::run(&["sleep", "0"], options) else { return };
    let regions = &stream.setup.processes[0].regions;
    let start_of =
        |f: &dyn Fn(&Mapping) -> bool| snapshot.mappings.iter().find(|m| f(m)).unwrap().line.clone();
    let executable = start_of(&|m| m.line.file() == Some(exe.clone()));
    assert_eq!(regions.iter().find(|r| r.name == "sleep").unwrap().start.raw(), executable.start);
    let stack = start_of(&|m| m.line.name == "[stack]");
    let ours = regions.iter().find(|r| r.name == "[stack]").unwrap();
    assert_eq!(ours.start.raw() + ours.len, stack.end);
    let heap = start_of(&|m| m.line.name == "[heap]");
    let first = stream.events.iter().find_map(|e| match e {
        Event::Map { region, .. } if region.name == "[heap]" => Some(region.start.raw()),
        _ => None,
    });
    assert_eq!(first, Some(heap.start));
    let loader = start_of(&|m| m.line.name.contains("ld-linux"));
    assert_eq!(regions.iter().find(|r| r.name.contains("ld-linux")).unwrap().start.raw(), loader.start);
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let error = snapshot(u32::MAX).unwrap_err().to_string();
    assert!(error.contains("process 4294967295"), "{error}");
}

#[test]
fn what_is_no_snapshot_is_refused_with_its_place() {
    let path = std::env::temp_dir().join(format!("trace-no-snapshot-{}.json", std::process::id()));
    let error = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Snapshot::load(&path).unwrap_err().to_string()
    };
    assert!(error("").contains("line 1 column 0"));
    assert!(error("{\"version\":1,").contains("line 1 column"));
    let with = |mapping: &str| {
        format!(
            r#"{{"version":1,"pid":1,"program":"","kernel":"","nodes":1,"unseen":[],"mappings":[{mapping}]}}"#
        )
    };
    let mapping = |start: u64, end: u64, runs: &str| {
        format!(
            r#"{{"start":{start},"end":{end},"mode":"rw-p","offset":0,"inode":0,"name":"","advice":"none","runs":{runs}}}"#
        )
    };
    assert!(error(&with(&mapping(4096, 4096, "[]"))).contains("not a range"));
    assert!(error(&with(&mapping(1 << 50, 1 << 51, "[]"))).contains("not a range"));
    let two = format!("{},{}", mapping(8192, 16384, "[]"), mapping(4096, 8192, "[]"));
    assert!(error(&with(&two)).contains("overlaps"));
    assert!(error(&with(&mapping(4096, 8192, "[[0,2,12,null,null]]"))).contains("does not fit"));
    assert!(error(&with(&mapping(0, 4 << 20, "[[0,512,21,7,0]]"))).contains("not aligned"));
    assert!(error(&with(&mapping(0, 8192, "[[1,1,12,7,0],[0,1,12,9,0]]"))).contains("does not fit"));
    assert!(error(&with(&mapping(0, 8192, "[]")).replace("rw-p", "rw")).contains("mode"));
    std::fs::remove_file(path).unwrap();
}

proptest! {
    /// Whatever a damaged file says, it is read or refused.
    #[test]
    fn damaged_snapshots_do_no_harm(flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()) {
        let text = r#"{"version":1,"pid":1,"program":"/a","kernel":"6","nodes":1,"mappings":[{"start":4194304,"end":8388608,
            "mode":"rw-p","offset":0,"inode":0,"name":"","advice":{"reserved":2048},"runs":[[0,512,21,512,0],[512,3,12,null,null]]}],"unseen":[]}"#;
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut % 8);
        let path = std::env::temp_dir().join(format!("trace-damaged-{}.json", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(snapshot) = Snapshot::load(&path) {
            let _ = snapshot.process();
        }
    }
}

/// A program that waits for its input, natively.
fn waiting_sqlite() -> Option<(Running, Snapshot)> {
    let mut command = Command::new("sqlite3");
    let child = command.arg(":memory:").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(child) = child else { return common::skip("no sqlite3\n  hint: apt install sqlite3") };
    let native = Running(child);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let snapshot = snapshot(native.0.id()).unwrap();
    Some((native, snapshot))
}

/// An input that was captured without the snapshot, moved to it afterwards.
struct Given(Vec<Block>, Setup);

impl Source for Given {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(self.1.clone())
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        *block = self.0.remove(0);
        Ok(if self.0.is_empty() { More::No } else { More::Yes })
    }
}

#[test]
fn a_trace_gets_the_addresses_that_a_capture_would() {
    let Some((_native, snapshot)) = waiting_sqlite() else { return };
    let command = ["sqlite3", ":memory:", "select sum(value) from generate_series(1, 1000);"];
    let snapshot = Arc::new(snapshot);
    let options =
        CaptureOptions { layout: Layout::Snapshot(Arc::clone(&snapshot)), ..CaptureOptions::default() };
    let Some(direct) = common::run(&command, options) else { return };
    let mut source = common::start(&command, CaptureOptions::default()).unwrap();
    let setup = source.setup().unwrap();
    let mut blocks = vec![Block::new()];
    while source.fill(blocks.last_mut().unwrap()).unwrap() == More::Yes {
        blocks.push(Block::new());
    }
    source.finish().unwrap();
    let mut relaid = Relaid::new(Box::new(Given(blocks, setup)), Arc::clone(&snapshot));
    let mut world = common::World::new(&relaid.setup().unwrap());
    let (mut block, mut accesses) = (Block::new(), Vec::new());
    loop {
        let more = relaid.fill(&mut block).unwrap();
        for access in &block.accesses {
            world.check(access, accesses.len());
            accesses.push(*access);
        }
        block.events.iter().for_each(|event| world.apply(event));
        if more == More::No {
            break;
        }
    }
    assert!(common::same(&accesses, &direct.accesses));
    // The libraries, the heap and the stack are where the native process has them.
    for part in ["sqlite3", "libc.so", "[heap]", "[stack]"] {
        let mapping = snapshot.mappings.iter().find(|m| m.line.name.contains(part)).unwrap();
        let end = snapshot.mappings.iter().filter(|m| m.line.name.contains(part)).map(|m| m.line.end).max();
        let inside = |va: u64| (mapping.line.start..end.unwrap()).contains(&va);
        assert!(accesses.iter().any(|a| inside(a.va.raw())), "{part}");
    }
}
