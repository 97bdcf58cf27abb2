//! Recording: what is in the file is what a live stream gives.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use machine::input::{Access, Block, Event, More, Setup};
use trace::OpenOptions;
use trace::capture::{CaptureOptions, record};

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("trace-record-{}-{name}.parquet", std::process::id()))
}

fn read(path: &Path) -> (Setup, Vec<Access>, Vec<Event>) {
    let mut source = trace::open(path, &OpenOptions::default()).unwrap();
    let setup = source.setup().unwrap();
    let (mut accesses, mut events) = (Vec::new(), Vec::new());
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block).unwrap();
        accesses.append(&mut block.accesses);
        events.append(&mut block.events);
        if more == More::No {
            return (setup, accesses, events);
        }
    }
}

const SQL: &str = "with recursive c(x) as (select 1 union all select x+1 from c where x < 2000) \
    select sum(x * 7919 % 1000) from c;";

#[test]
fn a_recording_is_the_live_stream() {
    let command = ["sqlite3", ":memory:", SQL];
    let Some(live) = common::run(&command, CaptureOptions::default()) else { return };
    let source = common::start(&command, CaptureOptions::default()).unwrap();
    let path = path("same");
    let mut reports = Vec::new();
    let recorded = record(source, &path, |progress| reports.push(*progress)).unwrap();
    let (setup, accesses, events) = read(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(common::same(&accesses, &live.accesses));
    assert_eq!(events.len(), live.events.len());
    assert_eq!(setup.threads, live.setup.threads);
    let names = |setup: &Setup| -> Vec<String> {
        setup
            .processes
            .iter()
            .flat_map(|p| &p.regions)
            .map(|r| format!("{} {:?}", r.name, r.permissions))
            .collect()
    };
    assert_eq!(names(&setup), names(&live.setup));
    assert_eq!(recorded.written.accesses, live.accesses.len() as u64);
    assert_eq!(recorded.summary.lost(), 0);
    let mut pages: Vec<u64> = accesses.iter().map(|a| a.va.raw() >> 12).collect();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(recorded.pages, pages.len() as u64);
    let last = reports.last().unwrap();
    assert_eq!((last.accesses, last.pages), (recorded.written.accesses, recorded.pages));
    assert!(reports.windows(2).all(|w| w[0].accesses <= w[1].accesses && w[0].elapsed < w[1].elapsed));
}

#[test]
fn a_killed_recording_leaves_what_was_seen() {
    if common::start(&["/bin/true"], CaptureOptions::default()).is_none() {
        return;
    }
    let path = path("killed");
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "subject_record", "--ignored"])
        .env("TRACE_RECORD_TO", &path)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    // Until the first part is in the file.
    while trace::open(&partial, &OpenOptions::default()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, accesses, _) = read(&partial);
    std::fs::remove_file(&partial).unwrap();
    assert!(accesses.len() >= 1 << 20, "{}", accesses.len());
}

/// Records until it is killed. The program ends by itself, also without a recorder.
#[test]
#[ignore = "runs in a process that is killed"]
fn subject_record() {
    let path = PathBuf::from(std::env::var_os("TRACE_RECORD_TO").unwrap());
    let command = ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"];
    record(common::start(&command, CaptureOptions::default()).unwrap(), &path, |_| ()).unwrap();
}
