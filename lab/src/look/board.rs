//! Where systems that are at work tell how far they are, for whoever watches.

use super::Counts;
use std::sync::Mutex;

/// A board: one line for each system.
#[derive(Debug, Default)]
pub struct Board(Mutex<Vec<Standing>>);

/// How far a system is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The system.
    pub system: String,
    /// It still warms up, and nothing is counted.
    pub warming: bool,
    /// Accesses so far, warm-up included.
    pub seen: u64,
    /// What was counted.
    pub counts: Counts,
}

impl Board {
    /// All lines, as they are now.
    pub fn standings(&self) -> Vec<Standing> {
        self.0.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Second-level misses so far of the system that has most.
    pub fn misses(&self) -> u64 {
        self.0.lock().map_or(0, |lines| lines.iter().map(|line| line.counts.stlb_misses).max().unwrap_or(0))
    }

    pub(crate) fn begin(&self, systems: impl Iterator<Item = String>) {
        if let Ok(mut lines) = self.0.lock() {
            *lines =
                systems.map(|system| Standing { system, warming: true, ..Standing::default() }).collect();
        }
    }

    pub(crate) fn tell(&self, line: usize, seen: u64, warming: bool, counts: Counts) {
        let Ok(mut lines) = self.0.lock() else { return };
        if let Some(line) = lines.get_mut(line) {
            (line.seen, line.warming, line.counts) = (seen, warming, counts);
        }
    }
}
