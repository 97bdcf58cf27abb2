//! Where the processes of one program lie, and how they come to lie at one place.
//!
//! Programs that ran with randomised layouts have the same files and areas at other addresses. They can share only at the
//! same ones, so the first process of a program decides, and the others' segments are moved to where it has its own
//! (`aslr=software`: the kernel gives a group one layout; `aslr=hardware`: hardware adds an offset to each segment, and
//! the model then gives each process one of its own again). Files are recognised by name and offset, heap
//! and stack by name; anonymous memory goes with the segment that it lies in.

use machine::input::{Backing, Region};
use paging::Va;
use std::collections::BTreeMap;

/// Where something lies: what of its address is left without its place in a file.
type Base = u64;

/// What tells where the segments of a process are.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchors {
    /// Of the program itself: where its file would begin, and where its regions do.
    program: Option<(Base, u64)>,
    heap: Option<u64>,
    /// First and last.
    stack: Option<(u64, u64)>,
    /// Files mapped above the program.
    files: BTreeMap<String, Base>,
    /// From the lowest of these to the highest.
    mappings: Option<(u64, u64)>,
}

/// The file of a region, and where it would begin.
fn file(region: &Region) -> Option<(&str, Base)> {
    match &region.backing {
        Backing::PrivateFile { file, offset } | Backing::SharedFile { file, offset } => {
            Some((file, region.start.raw().wrapping_sub(*offset)))
        }
        Backing::Anonymous | Backing::SharedAnonymous => None,
    }
}

impl Anchors {
    /// Those of a process that begins with `regions`.
    pub(super) fn of(regions: &[Region]) -> Anchors {
        let mut anchors = Anchors::default();
        let mut sorted: Vec<&Region> = regions.iter().collect();
        sorted.sort_by_key(|region| region.start.raw());
        let mut program = None;
        for region in sorted {
            let (start, end) = (region.start.raw(), region.start.raw().saturating_add(region.len));
            match (region.name.as_str(), file(region)) {
                _ if region.is_heap() => anchors.heap = Some(start),
                ("stack" | "[stack]", _) => anchors.stack = Some((start, end)),
                // The lowest file is the program's.
                (_, Some((name, base))) if program.is_none_or(|program| program == name) => {
                    program = Some(name);
                    anchors.program.get_or_insert((base, start));
                }
                (_, Some((name, base))) => {
                    anchors.files.entry(name.to_string()).or_insert(base);
                    anchors.mappings = Some((anchors.mappings.map_or(start, |(low, _)| low), end));
                }
                _ => {}
            }
        }
        anchors
    }

    /// Notes a heap that comes later; whether it is one.
    pub(super) fn learn(&mut self, region: &Region) -> bool {
        let new = self.heap.is_none() && region.is_heap();
        if new {
            self.heap = Some(region.start.raw());
        }
        new
    }
}

/// The segments of a process: from which own address on how much is added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place(Vec<(u64, u64)>);

impl Place {
    /// How a process with anchors `own` comes to lie as one with anchors `group`.
    pub(super) fn new(own: &Anchors, group: &Anchors) -> Place {
        let moved = |own: u64, group: u64| group.wrapping_sub(own);
        let program = own.program.zip(group.program).map(|((own, at), (group, _))| (at, moved(own, group)));
        let heap = own.heap.zip(group.heap).map(|(own, group)| (own, moved(own, group)));
        let shift = own.files.iter().find_map(|(name, own)| Some(moved(*own, *group.files.get(name)?)));
        let (low, high) = own.mappings.unwrap_or_default();
        // A heap grows up, mappings down, and so does a stack: what lies between is divided in the middle.
        let between = |below: u64, above: u64| below + above.saturating_sub(below) / 2;
        let below = own.heap.max(own.program.map(|(_, at)| at)).unwrap_or(0);
        let mappings = own.mappings.map(|_| (between(below, low), shift.unwrap_or(0)));
        let stack = own.stack.zip(group.stack);
        let stack = stack.map(|((start, own), (_, group))| (between(high, start), moved(own, group)));
        let mut segments: Vec<(u64, u64)> = [program, heap, mappings, stack].into_iter().flatten().collect();
        segments.sort_by_key(|(start, _)| *start);
        Place(segments)
    }

    /// Whether it is the group's.
    pub(super) fn is_group(&self) -> bool {
        self.0.iter().all(|(_, shift)| *shift == 0)
    }

    /// The group's address.
    pub(super) fn group(&self, va: Va) -> Va {
        let segment = self.0.iter().rev().find(|(start, _)| *start <= va.raw());
        Va::new(segment.map_or(va.raw(), |(_, shift)| va.raw().wrapping_add(*shift)))
    }
}
