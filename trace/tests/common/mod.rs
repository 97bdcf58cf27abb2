//! What the capture tests share: skipping where there is no emulator, and a
//! simple model that a stream is checked against.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use machine::input::{Access, Block, Event, Kind, More, Permissions, ProcessSetup, Setup, Source};
use trace::capture::{CaptureError, CaptureOptions, LiveSource, Summary};

/// Starts a capture; `None`, said aloud, where the emulator or the program is not installed.
pub fn start(command: &[&str], options: CaptureOptions) -> Option<LiveSource> {
    let args: Vec<OsString> = command[1..].iter().map(OsString::from).collect();
    match trace::capture::start(command[0].as_ref(), &args, options) {
        Ok(source) => Some(source),
        Err(error @ CaptureError::NoEmulator) => skip(&error.to_string()),
        Err(error @ CaptureError::Program { .. }) if !command[0].starts_with('/') => {
            skip(&format!("{error}\n  hint: apt install sqlite3 redis-server python3"))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Says that a test was skipped, past the test harness, which would swallow it.
pub fn skip<T>(why: &str) -> Option<T> {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    None
}

/// A whole stream.
#[derive(Debug, Default)]
pub struct Stream {
    pub setup: Setup,
    pub accesses: Vec<Access>,
    pub events: Vec<Event>,
    pub summary: Option<Summary>,
}

/// Takes a capture to its end, checking every access against the regions that the stream has told of.
pub fn take(mut source: LiveSource) -> Stream {
    let setup = source.setup().unwrap();
    let mut world = World::new(&setup);
    let mut stream = Stream { setup, ..Stream::default() };
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block).unwrap();
        for access in &block.accesses {
            world.check(access, stream.accesses.len());
            stream.accesses.push(*access);
        }
        for event in block.events.drain(..) {
            world.apply(&event);
            stream.events.push(event);
        }
        if more == More::No {
            break;
        }
    }
    let summary = source.finish().unwrap();
    assert_eq!(summary.lost(), 0, "{summary:?}");
    assert_eq!(summary.delivered, stream.accesses.len() as u64);
    assert!(summary.emulators < 1000, "{summary:?}");
    stream.summary = Some(summary);
    stream
}

/// Captures a command and takes all of it.
pub fn run(command: &[&str], options: CaptureOptions) -> Option<Stream> {
    Some(take(start(command, options)?))
}

/// Whether two streams are of the same accesses. QEMU before 9 chooses the program's addresses itself, always the
/// same; later ones leave it to the kernel, which randomises them, and programs compare addresses.
pub fn same(one: &[Access], two: &[Access]) -> bool {
    one == two || random_pages() && one.len().abs_diff(two.len()) * 100 < one.len()
}

fn random_pages() -> bool {
    let emulator = std::env::var_os("PAGEWALK_QEMU").unwrap_or("qemu-x86_64".into());
    let output = std::process::Command::new(emulator).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let major = text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
    major.unwrap() > 8
}

type Regions = BTreeMap<u64, (u64, Permissions)>;

/// A page-by-page notion of what is mapped.
pub struct World {
    processes: Vec<Regions>,
    threads: Vec<u16>,
}

fn regions(setup: &ProcessSetup) -> Regions {
    let mut regions = Regions::new();
    let mut last = 0;
    for region in &setup.regions {
        let (start, end) = (region.start.raw(), region.start.raw() + region.len);
        assert!(last <= start && start < end, "regions overlap or are out of order: {region:?}");
        last = end;
        regions.insert(start, (end, region.permissions));
    }
    regions
}

fn cut(regions: &mut Regions, start: u64, end: u64) {
    while let Some((&from, &(to, permissions))) = regions.range(..end).next_back()
        && start < to
    {
        regions.remove(&from);
        if from < start {
            regions.insert(from, (start, permissions));
        }
        if end < to {
            regions.insert(end, (to, permissions));
        }
    }
}

impl World {
    /// The world before the first access.
    pub fn new(setup: &Setup) -> World {
        World {
            processes: setup.processes.iter().map(regions).collect(),
            threads: setup.threads.iter().map(|t| t.process).collect(),
        }
    }

    /// Panics if the access, the `at`-th, is to what is not mapped.
    pub fn check(&self, access: &Access, at: usize) {
        let process = self.threads[access.thread as usize];
        let last = access.va.raw() + (1 << access.size_log2) - 1;
        for va in [access.va.raw(), last] {
            let found = self.processes[process as usize].range(..=va).next_back();
            let Some((_, (_, permissions))) = found.filter(|(_, (end, _))| va < *end) else {
                panic!("access {at} is outside of what is mapped: {access:x?}");
            };
            let allowed = match access.kind {
                Kind::Read => permissions.read,
                Kind::Write | Kind::Modify => permissions.write,
                Kind::Fetch => permissions.execute,
            };
            assert!(allowed, "access {at} is not allowed: {access:x?} {permissions:?}");
        }
    }

    /// Follows what happens.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Map { process, region } => {
                let (start, end) = (region.start.raw(), region.start.raw() + region.len);
                let regions = &mut self.processes[*process as usize];
                cut(regions, start, end);
                regions.insert(start, (end, region.permissions));
            }
            Event::Unmap { process, start, len } => {
                cut(&mut self.processes[*process as usize], start.raw(), start.raw() + len);
            }
            Event::Protect { process, start, len, permissions } => {
                let regions = &mut self.processes[*process as usize];
                let (start, end) = (start.raw(), start.raw() + len);
                let covered: u64 =
                    regions.iter().map(|(&s, &(e, _))| e.min(end).saturating_sub(s.max(start))).sum();
                assert_eq!(covered, *len, "protects what is not mapped");
                cut(regions, start, end);
                regions.insert(start, (end, *permissions));
            }
            Event::Fork { parent, child } => {
                assert_eq!(*child as usize, self.processes.len());
                let copy = self.processes[*parent as usize].clone();
                self.processes.push(copy);
            }
            Event::Exec { process, image } => self.processes[*process as usize] = regions(image),
            Event::Exit { process } => self.processes[*process as usize].clear(),
            Event::Spawn { thread, process } => {
                assert_eq!(*thread as usize, self.threads.len());
                self.threads.push(*process);
            }
            _ => {}
        }
    }
}
