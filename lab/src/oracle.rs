//! The oracle: a model that knows no page table.
//!
//! It holds two things. For each process and page, which content it must see:
//! that follows from what the program did (map, write, fork, discard) alone.
//! For each host frame, which content it holds: that follows from what was
//! zeroed, copied, read or written there. An access that reaches a frame whose
//! content is another than the process must see is a bug: a missed shootdown, a
//! leak through copy-on-write, a stale translation, a hole in isolation.
//!
//! A content is a number. Zeroed memory is [`ZERO`]; a page of a file as it is
//! on disk has a number made from file and page; every store makes a new one.
//! Content is kept by 4 KiB page: a store to any byte changes the page's.

use machine::core::Observer;
use machine::input::{Access, Backing, ProcessSetup, Region};
use mechanisms::babelfish::Aslr;
use paging::{Hfn, Hpa, SparseFrames, Va};
use rustc_hash::FxHashMap as HashMap;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What zeroed memory holds.
pub const ZERO: u64 = 0;
/// Set in the number of a file's page as it is on disk.
const FILE: u64 = 1 << 63;
/// A frame that nobody gave a content: whoever reaches it sees a leak.
const UNKNOWN: u64 = u64::MAX;

/// An access that reached what it must not see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Number of the access, from 0.
    pub access: u64,
    /// Which process made it.
    pub process: u16,
    /// Its address.
    pub va: Va,
    /// The frame it reached.
    pub frame: Hfn,
    /// The content the process must see; `None`: it must see a fault.
    pub expected: Option<u64>,
    /// The content of the frame.
    pub found: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |content: u64| match content {
            ZERO => "zeroes".to_string(),
            UNKNOWN => "something nobody put there".to_string(),
            c if c & FILE != 0 => format!("a file's page as on disk (#{:x})", c & !FILE),
            c => format!("the content of store #{c}"),
        };
        write!(
            f,
            "access {} of process {} at {:#x} reached frame {:#x}, which holds {}; it must see {}",
            self.access,
            self.process,
            self.va.raw(),
            self.frame.number(),
            name(self.found),
            self.expected.map_or_else(|| "a fault: nothing is mapped there".to_string(), name)
        )
    }
}

/// Contents by page, shared by everyone who maps the object.
type Object = Arc<str>;

/// Where a region's content comes from.
#[derive(Clone, Debug)]
enum Origin {
    /// Private: the pages of its own, and where the others come from.
    Private { under: Option<(Object, u64)> },
    /// The object's pages are everybody's.
    Shared { object: Object, first: u64 },
}

#[derive(Clone, Debug)]
struct Area {
    end: u64,
    origin: Origin,
}

/// A process as the program sees it. Own pages are kept by page number.
#[derive(Clone, Debug, Default)]
struct Process {
    areas: BTreeMap<u64, Area>,
    own: HashMap<u64, u64>,
    implicit: bool,
}

/// The model.
#[derive(Debug)]
pub struct Oracle {
    processes: Vec<Process>,
    objects: HashMap<Object, HashMap<u64, u64>>,
    frames: SparseFrames<Content>,
    swap: HashMap<(u32, u64), u64>,
    stores: u64,
    checked: u64,
    mismatch: Option<Mismatch>,
    shared_anonymous: u64,
    current: u16,
    /// Where the current process lies, if elsewhere than its group.
    moved: Option<Aslr>,
}

#[derive(Clone, Copy, Debug)]
struct Content(u64);

impl Default for Content {
    fn default() -> Self {
        Content(UNKNOWN)
    }
}

fn on_disk(object: &str, page: u64) -> u64 {
    if object.starts_with('\0') {
        return ZERO; // shared anonymous memory begins as zeroes
    }
    // FNV-1a over the name and the page: equal pages of equal files are equal.
    let bytes = object.bytes().chain(page.to_le_bytes());
    FILE | bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)) >> 1
}

impl Oracle {
    /// For a machine of `frames` host frames, and the processes that exist.
    pub fn new(frames: u64, processes: &[ProcessSetup]) -> Oracle {
        let mut oracle = Oracle {
            processes: Vec::new(),
            objects: HashMap::default(),
            frames: SparseFrames::new(frames),
            swap: HashMap::default(),
            stores: 0,
            checked: 0,
            mismatch: None,
            shared_anonymous: 0,
            current: 0,
            moved: None,
        };
        for process in processes {
            oracle.exec_new(process);
        }
        oracle
    }

    /// A new process.
    pub fn exec_new(&mut self, setup: &ProcessSetup) {
        self.processes.push(Process { implicit: setup.implicit_regions, ..Process::default() });
        let process = (self.processes.len() - 1) as u16;
        setup.regions.iter().for_each(|region| self.map(process, region));
    }

    /// A process starts another program.
    pub fn exec(&mut self, process: u16, image: &ProcessSetup) {
        self.processes[usize::from(process)] =
            Process { implicit: image.implicit_regions, ..Process::default() };
        image.regions.iter().for_each(|region| self.map(process, region));
    }

    /// `mmap`.
    pub fn map(&mut self, process: u16, region: &Region) {
        let (start, end) = (region.start.page(), region.start.page() + region.len.div_ceil(4096));
        self.unmap(process, start, end);
        let object = |name: &str| Object::from(name);
        let origin = match &region.backing {
            Backing::Anonymous => Origin::Private { under: None },
            Backing::SharedAnonymous => {
                self.shared_anonymous += 1;
                let name = format!("\0{}", self.shared_anonymous);
                Origin::Shared { object: object(&name), first: 0 }
            }
            Backing::PrivateFile { file, offset } => {
                Origin::Private { under: Some((object(file), offset >> 12)) }
            }
            Backing::SharedFile { file, offset } => {
                Origin::Shared { object: object(file), first: offset >> 12 }
            }
        };
        self.processes[usize::from(process)].areas.insert(start, Area { end, origin });
    }

    /// `munmap` of the pages `start..end`.
    pub fn unmap(&mut self, process: u16, start: u64, end: u64) {
        let p = &mut self.processes[usize::from(process)];
        let overlapping: Vec<u64> =
            p.areas.range(..end).filter(|(_, a)| a.end > start).map(|(s, _)| *s).collect();
        for s in overlapping {
            let Some(area) = p.areas.remove(&s) else { continue };
            let tail = |from: u64| {
                let step = from - s;
                let origin = match &area.origin {
                    Origin::Private { under } => {
                        Origin::Private { under: under.as_ref().map(|(o, f)| (o.clone(), f + step)) }
                    }
                    Origin::Shared { object, first } => {
                        Origin::Shared { object: object.clone(), first: first + step }
                    }
                };
                Area { end: area.end, origin }
            };
            if area.end > end {
                p.areas.insert(end, tail(end));
            }
            if s < start {
                p.areas.insert(s, Area { end: start, origin: area.origin });
            }
        }
        p.discard(start, end);
    }

    /// `madvise(MADV_DONTNEED)` of the pages `start..end`.
    pub fn discard(&mut self, process: u16, start: u64, end: u64) {
        self.processes[usize::from(process)].discard(start, end);
    }

    /// `fork`: the child, the next process, sees what the parent sees now.
    pub fn fork(&mut self, parent: u16) {
        let child = self.processes[usize::from(parent)].clone();
        self.processes.push(child);
    }

    /// The process is gone.
    pub fn exit(&mut self, process: u16) {
        self.processes[usize::from(process)] = Process::default();
    }

    /// Whose accesses [`Observer::access`] reports from now on.
    pub fn set_process(&mut self, process: u16) {
        self.current = process;
    }

    /// The addresses of accesses that are reported from now on are the process's own.
    pub fn set_moved(&mut self, layout: Option<Aslr>) {
        self.moved = layout;
    }

    /// Frames were zeroed.
    pub fn zero(&mut self, frame: Hfn, frames: u64) {
        (0..frames).for_each(|i| self.put(frame.offset(i), ZERO));
    }

    /// Frames were copied.
    pub fn copy(&mut self, from: Hfn, to: Hfn, frames: u64) {
        for i in 0..frames {
            let content = self.content(from.offset(i));
            self.put(to.offset(i), content);
        }
    }

    /// A page of a file was read into a frame.
    pub fn file_read(&mut self, file: &str, page: u64, frame: Hfn) {
        let content = self.object_page(file, page);
        self.put(frame, content);
    }

    /// A frame was written to a swap slot of kernel `kernel` (0: the host).
    pub fn swap_out(&mut self, kernel: u32, frame: Hfn, slot: u64) {
        let content = self.content(frame);
        self.swap.insert((kernel, slot), content);
    }

    /// A swap slot was read into a frame.
    pub fn swap_in(&mut self, kernel: u32, slot: u64, frame: Hfn) {
        let content = self.swap.get(&(kernel, slot)).copied().unwrap_or(UNKNOWN);
        self.put(frame, content);
    }

    /// What a frame holds.
    pub fn content(&self, frame: Hfn) -> u64 {
        self.frames.get(frame.number()).map_or(UNKNOWN, |c| c.0)
    }

    fn put(&mut self, frame: Hfn, content: u64) {
        self.frames.get_or_default(frame.number()).0 = content;
    }

    fn object_page(&self, object: &str, page: u64) -> u64 {
        self.objects
            .get(object)
            .and_then(|pages| pages.get(&page))
            .copied()
            .unwrap_or_else(|| on_disk(object, page))
    }

    /// What the process must see at a page; `None` if nothing is mapped.
    fn expected(&self, process: &Process, page: u64) -> Option<u64> {
        if let Some(content) = process.own.get(&page) {
            return Some(*content);
        }
        let area = process.areas.range(..=page).next_back().filter(|(_, a)| page < a.end);
        match area {
            Some((start, area)) => Some(match &area.origin {
                Origin::Private { under: None } => ZERO,
                Origin::Private { under: Some((object, first)) } => {
                    self.object_page(object, first + page - start)
                }
                Origin::Shared { object, first } => self.object_page(object, first + page - start),
            }),
            None => process.implicit.then_some(ZERO),
        }
    }

    /// How many accesses were compared.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// The first mismatch, if there was one.
    pub fn mismatch(&self) -> Option<Mismatch> {
        self.mismatch
    }

    fn check(&mut self, access: &Access, at: Hpa) {
        let frame = at.frame();
        let page = access.va.page();
        let index = usize::from(self.current);
        let writes = access.kind.writes();
        let stored = self.stores + 1;
        let held = self.frames.get_or_default(frame.number());
        let found = held.0;
        if writes {
            held.0 = stored;
            self.stores = stored;
        }
        // Most pages were written by the process that reads them.
        let expected = match self.processes[index].own.get_mut(&page) {
            Some(own) if writes => Some(std::mem::replace(own, stored)),
            Some(own) => Some(*own),
            None => {
                let expected = self.expected(&self.processes[index], page);
                if writes {
                    self.store(index, page, stored);
                }
                expected
            }
        };
        // Stores too: one to a frame that is not this process's damages the owner's.
        if expected != Some(found) && self.mismatch.is_none() {
            let (access_number, process) = (self.checked, self.current);
            self.mismatch =
                Some(Mismatch { access: access_number, process, va: access.va, frame, expected, found });
        }
        self.checked += 1;
    }

    /// The first store of a process to a page of its own, or any to a shared one.
    fn store(&mut self, index: usize, page: u64, content: u64) {
        let process = &mut self.processes[index];
        let area = process.areas.range(..=page).next_back().filter(|(_, a)| page < a.end);
        match area {
            Some((start, Area { origin: Origin::Shared { object, first }, .. })) => {
                let page = first + page - start;
                let object = object.clone();
                self.objects.entry(object).or_default().insert(page, content);
            }
            _ => {
                process.own.insert(page, content);
            }
        }
    }
}

impl Process {
    fn discard(&mut self, start: u64, end: u64) {
        if end - start < self.own.len() as u64 {
            for page in start..end {
                self.own.remove(&page);
            }
        } else {
            self.own.retain(|page, _| !(start..end).contains(page));
        }
    }
}

impl Observer for Oracle {
    const ACTIVE: bool = true;
    #[inline(always)]
    fn access(&mut self, access: &Access, at: Hpa) {
        match &self.moved {
            None => self.check(access, at),
            Some(layout) => self.check(&Access { va: layout.group(access.va), ..*access }, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::input::{Kind, Populate};

    fn one() -> Oracle {
        let region = Region::anonymous("heap", 0x1000, 0x4000, Populate::OnDemand);
        let setup = ProcessSetup { regions: vec![region], ..ProcessSetup::default() };
        Oracle::new(1 << 20, &[setup])
    }
    fn access(oracle: &mut Oracle, va: u64, kind: Kind, frame: u64) -> Option<Mismatch> {
        oracle.access(&Access::new(va, kind, 0, 1), Hfn::new(frame).base());
        oracle.mismatch()
    }

    #[test]
    fn a_page_holds_what_was_stored_last() {
        let mut o = one();
        o.zero(Hfn::new(7), 1);
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 7), None);
        assert_eq!(access(&mut o, 0x1008, Kind::Write, 7), None);
        assert_eq!(access(&mut o, 0x1010, Kind::Read, 7), None);
        o.copy(Hfn::new(7), Hfn::new(8), 1);
        assert_eq!(access(&mut o, 0x1000, Kind::Write, 8), None);
        // The old frame is stale now.
        let m = access(&mut o, 0x1000, Kind::Read, 7).unwrap();
        assert_eq!((m.expected, m.found), (Some(2), 1));
        assert!(m.to_string().contains("access 4 of process 0"), "{m}");
    }

    #[test]
    fn a_frame_that_was_never_zeroed_is_a_leak() {
        let mut o = one();
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 9).unwrap().found, UNKNOWN);
    }

    #[test]
    fn a_child_does_not_see_what_the_parent_writes_later() {
        let mut o = one();
        o.zero(Hfn::new(7), 1);
        access(&mut o, 0x1000, Kind::Write, 7);
        o.fork(0);
        o.copy(Hfn::new(7), Hfn::new(8), 1);
        assert_eq!(access(&mut o, 0x1000, Kind::Write, 8), None);
        o.set_process(1);
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 7), None);
        assert!(access(&mut o, 0x1000, Kind::Read, 8).is_some(), "the parent's new page leaked to the child");
    }

    #[test]
    fn an_unmapped_page_must_fault() {
        let mut o = one();
        o.zero(Hfn::new(7), 1);
        assert_eq!(access(&mut o, 0x2000, Kind::Read, 7), None);
        o.unmap(0, 2, 3);
        assert_eq!(access(&mut o, 0x2000, Kind::Read, 7).unwrap().expected, None);
    }

    #[test]
    fn shared_files_are_everybodys_and_private_ones_are_not() {
        let file = |shared| Region {
            backing: if shared {
                Backing::SharedFile { file: "f".into(), offset: 0x1000 }
            } else {
                Backing::PrivateFile { file: "f".into(), offset: 0x1000 }
            },
            ..Region::anonymous("f", 0x1000, 0x2000, Populate::OnDemand)
        };
        let setup = |shared| ProcessSetup { regions: vec![file(shared)], ..ProcessSetup::default() };
        let mut o = Oracle::new(1 << 20, &[setup(true), setup(false)]);
        o.file_read("f", 1, Hfn::new(7));
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 7), None);
        assert_eq!(access(&mut o, 0x1000, Kind::Write, 7), None);
        o.set_process(1);
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 7), None, "reads through to the file");
        o.copy(Hfn::new(7), Hfn::new(8), 1);
        assert_eq!(access(&mut o, 0x1000, Kind::Write, 8), None);
        o.set_process(0);
        assert_eq!(access(&mut o, 0x1000, Kind::Read, 7), None, "a private write stays private");
        assert!(access(&mut o, 0x1000, Kind::Read, 8).is_some());
    }
}
