//! Who exists while a trace is read: events and accesses of others are refused.

use machine::input::{Event, Populate, Region, Setup};

/// How many processes and threads there are so far.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) processes: usize,
    /// The process of each thread.
    pub(super) threads: Vec<u16>,
    /// Whether a thread waits for its process to be forked.
    waiting: bool,
}

impl World {
    pub(super) fn new(setup: &Setup) -> World {
        let processes = setup.processes.len();
        let threads: Vec<u16> = setup.threads.iter().map(|t| t.process).collect();
        World { waiting: threads.iter().any(|p| usize::from(*p) >= processes), processes, threads }
    }

    /// The first of these accesses' threads that is not there.
    pub(super) fn missing(&self, threads: &[i32]) -> Option<usize> {
        let known = self.threads.len();
        if !self.waiting {
            return threads.iter().position(|t| *t as usize >= known);
        }
        let runs = |t: i32| self.threads.get(t as usize).is_some_and(|p| usize::from(*p) < self.processes);
        threads.iter().position(|t| !runs(*t))
    }

    /// Whether an event is about what exists; what it makes exists from then on.
    pub(super) fn admit(&mut self, event: &Event) -> bool {
        let is_process = |process: &u16| usize::from(*process) < self.processes;
        let is_thread = |thread: &u16| usize::from(*thread) < self.threads.len();
        let fits = |region: &Region| match &region.populate {
            Populate::By(thread) => is_thread(thread),
            _ => true,
        };
        match event {
            Event::Map { process, region } => is_process(process) && fits(region),
            Event::Exec { process, image } => is_process(process) && image.regions.iter().all(fits),
            Event::Unmap { process, .. }
            | Event::Protect { process, .. }
            | Event::Discard { process, .. }
            | Event::Exit { process } => is_process(process),
            Event::MoveThread { thread, .. } | Event::Request { thread } => is_thread(thread),
            Event::Fork { parent, child } => {
                let fine = is_process(parent) && usize::from(*child) == self.processes;
                self.processes += usize::from(fine);
                fine
            }
            Event::Spawn { thread, process } => {
                let fine = is_process(process) && usize::from(*thread) == self.threads.len();
                if fine {
                    self.threads.push(*process);
                }
                fine
            }
            _ => false,
        }
    }
}
