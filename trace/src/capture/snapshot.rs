//! The layout of a process that runs natively.

use super::maps::Line;

/// A process's mappings as they were when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Which process.
    pub pid: u32,
    /// Its mappings, in address order.
    pub mappings: Vec<Line>,
}

impl Snapshot {
    /// Where its anonymous mappings are.
    pub(super) fn anonymous(&self) -> Vec<(u64, u64)> {
        self.mappings.iter().filter(|m| m.name.is_empty()).map(|m| (m.start, m.end)).collect()
    }
    /// The end of its stack.
    pub(super) fn stack_top(&self) -> Option<u64> {
        self.mappings.iter().find(|m| m.name == "[stack]").map(|m| m.end)
    }
    /// Where the same part of the same file is.
    pub(super) fn place(&self, line: &Line) -> Option<u64> {
        let file = line.file()?;
        self.mappings
            .iter()
            .find(|m| m.file().as_ref() == Some(&file) && m.offset == line.offset)
            .map(|m| m.start)
    }
}
