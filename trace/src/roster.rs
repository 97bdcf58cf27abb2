//! Threads and processes that turn up while a trace is read.
//!
//! Most formats do not say up front who runs. The first thread of the trace is
//! in the [`Setup`]; each further one is announced by a [`Event::Spawn`] before
//! its first access. A further process has no parent in the trace: it is
//! announced as a fork of process 0 that at once executes an empty image,
//! which leaves it nothing shared.

use machine::input::{Event, ProcessSetup, Setup, ThreadSetup};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// How a trace without a layout describes a process.
pub(crate) fn process(name: &str) -> ProcessSetup {
    ProcessSetup { name: name.to_owned(), implicit_regions: true, ..ProcessSetup::default() }
}

/// The world before the first access of a trace that describes none.
pub(crate) fn single(name: &str) -> Setup {
    Setup {
        name: name.to_owned(),
        processes: vec![process(name)],
        threads: vec![ThreadSetup { process: 0 }],
        more_threads: true,
        accesses: None,
    }
}

/// Gives dense numbers to threads, and to processes, in order of appearance.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    threads: HashMap<(u64, u64), u16>,
    processes: HashMap<u64, u16>,
    last: Option<((u64, u64), u16)>,
}

/// More threads or processes than an index has room for.
#[derive(Debug)]
pub(crate) struct TooMany;

impl TooMany {
    pub(crate) const REASON: &str = "more than 65536 threads or processes";
}

impl Roster {
    /// The index of thread `tid` of process `pid`, and what to announce before
    /// its first access. Thread 0 and process 0 are in the setup.
    #[inline]
    pub(crate) fn thread(&mut self, pid: u64, tid: u64, announce: &mut Vec<Event>) -> Result<u16, TooMany> {
        match self.last {
            Some((who, index)) if who == (pid, tid) => Ok(index),
            _ => self.look_up(pid, tid, announce),
        }
    }

    #[cold]
    fn look_up(&mut self, pid: u64, tid: u64, announce: &mut Vec<Event>) -> Result<u16, TooMany> {
        let next_process = self.processes.len();
        let process = match self.processes.entry(pid) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let index = u16::try_from(next_process).map_err(|_| TooMany)?;
                if index > 0 {
                    announce.push(Event::Fork { parent: 0, child: index });
                    announce.push(Event::Exec {
                        process: index,
                        image: self::process(&format!("process {pid}")),
                    });
                }
                *new.insert(index)
            }
        };
        let next_thread = self.threads.len();
        let index = match self.threads.entry((pid, tid)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let index = u16::try_from(next_thread).map_err(|_| TooMany)?;
                if index > 0 {
                    announce.push(Event::Spawn { thread: index, process });
                }
                *new.insert(index)
            }
        };
        self.last = Some(((pid, tid), index));
        Ok(index)
    }
}
