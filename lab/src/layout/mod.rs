//! A real process's memory in the place of the model's own choices.
//!
//! A [`Snapshot`] says where a process's mappings were, which pages were in memory, by which
//! page sizes, in which frames, and on which nodes. The first process of an input gets
//! the same:
//!
//! * **Regions** are the input's, where it states any (a program that runs now, our own traces); for an
//!   input that states none (most tools' traces) they are the snapshot's, with the pages that were in memory filled
//!   before the first access.
//! * **Page sizes** are the snapshot's, whatever the system's own are: its blocks of 2 MiB that were mapped by small
//!   entries stay small. Pages that the snapshot does not have are as the system would have them.
//! * **Frames** keep their relative places (`place.rs`); where frame numbers could not be seen the
//!   allocator chooses, on the page's node if that is known.
//! * **Nodes** are the snapshot's, modulo the machine's.
//!
//! In a VM this is the guest's memory, whose frames are guest-physical: what a guest's own kernel shows.

mod place;
mod source;

pub use source::LayoutFrames;

use machine::input::{HugeAdvice, Region, Setup};
use paging::{PageSize, Va};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use trace::capture::{Advice, Mapping, Snapshot};

/// Pages that follow each other in address and, if frames are known, in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// Number of the first page: address / 4096.
    page: u64,
    pages: u64,
    size: PageSize,
    /// Of hugetlbfs.
    reserved: bool,
    /// The first frame, on the real machine.
    frame: Option<u64>,
    node: Option<u16>,
    /// Of the page cache, which nobody may write to here.
    file: bool,
}

impl Run {
    fn end(&self) -> u64 {
        self.page + self.pages
    }
}

/// A process's layout.
#[derive(Clone, Debug)]
pub struct RealLayout {
    program: String,
    pid: u32,
    /// All mappings, and ranges of pages of each that are in memory.
    regions: Vec<(Region, Vec<std::ops::Range<u64>>)>,
    /// In the order of their addresses.
    runs: Vec<Run>,
}

/// A layout that a process of an input gets.
#[derive(Clone, Debug)]
pub struct Placing {
    /// The layout.
    pub layout: Arc<RealLayout>,
    /// Which process gets it.
    pub process: u16,
    /// Whether the pages that were in memory are filled before the first access.
    pub fill: bool,
}

/// How the pages of a part of a region are mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// As the system would.
    Free,
    /// By 4 KiB entries.
    Small,
    /// By larger ones; `true`: of hugetlbfs.
    Large(PageSize, bool),
}

impl RealLayout {
    /// From a snapshot.
    pub fn new(snapshot: &Snapshot) -> RealLayout {
        let name = Path::new(&snapshot.program).file_name().unwrap_or_default();
        let mut layout = RealLayout {
            program: name.to_string_lossy().into_owned(),
            pid: snapshot.pid,
            regions: Vec::new(),
            runs: Vec::new(),
        };
        let regions = snapshot.process().regions;
        for (mapping, region) in snapshot.mappings.iter().zip(regions) {
            let runs = runs_of(mapping);
            let mut present: Vec<std::ops::Range<u64>> = Vec::new();
            for run in &runs {
                match present.last_mut() {
                    Some(last) if last.end == run.page => last.end = run.end(),
                    _ => present.push(run.page..run.end()),
                }
            }
            layout.runs.extend(runs);
            layout.regions.push((region, present));
        }
        layout
    }

    /// Decides what a process of the input gets, and gives it the regions, if it has none.
    pub fn give(self: &Arc<Self>, setup: &mut Setup) -> Placing {
        let named = setup.processes.iter().position(|p| p.name == self.program);
        let index = named.unwrap_or(0);
        let mut fill = false;
        if let Some(process) = setup.processes.get_mut(index).filter(|p| p.regions.is_empty()) {
            let regions = self.regions.iter().map(|(region, _)| region.clone());
            process.regions =
                regions.map(|r| Region { populate: machine::input::Populate::OnDemand, ..r }).collect();
            fill = true;
        }
        Placing { layout: Arc::clone(self), process: index as u16, fill }
    }

    /// What is known of it, in a sentence.
    pub fn says(&self) -> String {
        let pages =
            |f: &dyn Fn(&Run) -> bool| -> u64 { self.runs.iter().filter(|r| f(r)).map(|r| r.pages).sum() };
        let all = pages(&|_| true);
        let large = pages(&|r| r.size > PageSize::Size4K);
        let unseen = pages(&|r| r.frame.is_none());
        let mut text = format!(
            "the layout of process {} ({}): {all} pages of 4 KiB in memory, {large} of them in huge pages",
            self.pid, self.program
        );
        if unseen > 0 {
            text += &format!(
                "; {unseen} have no frame number in the snapshot (it needs CAP_SYS_ADMIN), so the model's allocator \
                 chooses their frames"
            );
        }
        text
    }

    /// The ranges of a region's addresses that are in memory, if the region is the layout's own.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&Region, &[std::ops::Range<u64>])> {
        self.regions.iter().map(|(region, present)| (region, present.as_slice()))
    }

    /// The part of the layout that holds a page: its index, and how far into it the page is.
    fn find(&self, page: u64) -> Option<(usize, u64)> {
        let at = self.runs.partition_point(|run| run.page <= page).checked_sub(1)?;
        let into = page - self.runs[at].page;
        (into < self.runs[at].pages).then_some((at, into))
    }

    /// A region cut where page sizes change, and what each part is to be mapped by (`None`: the system's choice).
    pub(crate) fn parts(&self, region: &Region) -> Vec<(Region, Option<PageSize>)> {
        let (start, end) = (region.start.page(), region.start.page() + (region.len >> 12));
        let mut classes: Vec<(u64, u64, Class)> = Vec::new();
        let mut at = start;
        let first = self.runs.partition_point(|run| run.end() <= start);
        for run in self.runs[first..].iter().take_while(|run| run.page < end) {
            // A block of 2 MiB with a small page in it cannot be a huge one.
            let (from, to, class) = if run.size == PageSize::Size4K {
                (run.page & !511, run.end().next_multiple_of(512), Class::Small)
            } else {
                (run.page, run.end(), Class::Large(run.size, run.reserved))
            };
            let (from, to) = (from.max(at), to.min(end));
            if from >= to {
                continue;
            }
            push(&mut classes, at, from, Class::Free);
            push(&mut classes, from, to, class);
            at = to;
        }
        push(&mut classes, at, end, Class::Free);
        classes.into_iter().map(|(from, to, class)| part(region, from, to, class)).collect()
    }
}

fn push(classes: &mut Vec<(u64, u64, Class)>, from: u64, to: u64, class: Class) {
    match classes.last_mut() {
        _ if from >= to => {}
        Some(last) if last.2 == class => last.1 = to,
        _ => classes.push((from, to, class)),
    }
}

/// A part of a region with the advice that makes its pages what they were.
fn part(region: &Region, from: u64, to: u64, class: Class) -> (Region, Option<PageSize>) {
    let (advice, page) = match class {
        Class::Free => (region.advice, None),
        Class::Small => (HugeAdvice::NoHuge, Some(PageSize::Size4K)),
        Class::Large(size, true) => (HugeAdvice::Reserved(size), Some(size)),
        Class::Large(..) => (HugeAdvice::Huge, Some(PageSize::Size4K)),
    };
    let skip = (from << 12) - region.start.raw();
    let part = Region {
        start: Va::new(from << 12),
        len: (to - from) << 12,
        backing: region.backing.further(skip),
        advice,
        ..region.clone()
    };
    (part, page)
}

/// A mapping's pages in memory. Where only their number on each node is known, they are dealt to
/// the nodes in the order of their addresses.
fn runs_of(mapping: &Mapping) -> Vec<Run> {
    let line = &mapping.line;
    let file = line.file().is_some() && !line.mode.permissions.write;
    let mut runs = Vec::with_capacity(mapping.runs.len());
    let mut counts = mapping.on_nodes.iter().copied();
    let mut left = counts.next();
    for run in &mapping.runs {
        let size = match run.size_log2 {
            21 => PageSize::Size2M,
            30 => PageSize::Size1G,
            _ => PageSize::Size4K,
        };
        let (mut page, end) = (line.start / 4096 + run.page, line.start / 4096 + run.page + run.pages);
        while page < end {
            let mut pages = end - page;
            let mut node = run.node;
            if let Some((n, count)) = left.as_mut().filter(|_| run.node.is_none()) {
                node = Some(*n);
                // Huge pages are whole on one node.
                pages = pages.min((*count).max(1).next_multiple_of(size.frames()));
                *count = count.saturating_sub(pages);
                if *count == 0 {
                    left = counts.next();
                }
            }
            let frame = run.frame.map(|f| f + (page - line.start / 4096 - run.page));
            let reserved = matches!(mapping.advice, Advice::Reserved(_));
            runs.push(Run { page, pages, size, reserved, frame, node, file });
            page += pages;
        }
    }
    runs
}

/// What a world and its source of frames tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// The address space that has the layout; 0 if none has.
    pub(crate) space: AtomicU32,
    placed: AtomicU64,
    elsewhere: AtomicU64,
}

impl Shared {
    /// Frames of the process that are where the layout says, and those that are elsewhere.
    pub fn counts(&self) -> (u64, u64) {
        (self.placed.load(Ordering::Relaxed), self.elsewhere.load(Ordering::Relaxed))
    }
}
