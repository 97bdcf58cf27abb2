//! One captured process's address space, as its system calls made it: what is
//! mapped where, in the guest's addresses, and where that is natively.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capture_ring::Note;
use machine::input::{Backing, Event, HugeAdvice, Permissions, Populate, ProcessSetup, Region};
use paging::Va;

use super::elf::{Elf, Segment};
use super::maps::{Line, Mode};
use super::rebase::{EXECUTABLE, Rebase, STACK_TOP};
use super::snapshot::Snapshot;

/// One mapping, in the guest's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mapping {
    end: u64,
    name: String,
    backing: Backing,
    permissions: Permissions,
    advice: HugeAdvice,
}

/// The addresses that a program gets.
#[derive(Clone, Debug, Default)]
pub enum Layout {
    /// Linux's, with address randomisation off.
    #[default]
    Native,
    /// The emulator's own.
    Emulator,
    /// Those of a process that was looked at while it ran natively.
    Snapshot(Arc<Snapshot>),
}

/// One process's address space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// Its executable.
    pub path: PathBuf,
    mappings: BTreeMap<u64, Mapping>,
    /// The heap: where it begins and ends.
    heap: Option<(u64, u64)>,
    /// Whose addresses it gets, if anybody's.
    snapshot: Option<Arc<Snapshot>>,
    /// Native addresses.
    pub rebase: Rebase,
}

/// QEMU places position-independent programs from here on.
const RELOCATED: u64 = 0x40_0000_0000;
const PAGE: u64 = 4096;
const STACK: &str = "[stack]";
/// No kernel's vDSO is larger.
const VDSO_MOST: u64 = 64 << 10;
/// PROT_*, MAP_*, MADV_*, MREMAP_* of Linux on x86-64.
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
const MAP_SHARED: u32 = 1;
const MAP_FIXED: u32 = 0x10;
const MAP_HUGETLB: u32 = 0x40000;
const MAP_HUGE_SHIFT: u32 = 26;
const MADV_DONTNEED: u32 = 4;
const MADV_HUGEPAGE: u32 = 14;
const MADV_NOHUGEPAGE: u32 = 15;
const MREMAP_DONTUNMAP: u32 = 4;

fn page(address: u64) -> u64 {
    address & !(PAGE - 1)
}

fn up(bytes: u64) -> u64 {
    page(bytes.saturating_add(PAGE - 1))
}

fn permissions(prot: u32) -> Permissions {
    Permissions { read: prot & PROT_READ != 0, write: prot & PROT_WRITE != 0, execute: prot & PROT_EXEC != 0 }
}

impl Space {
    /// The address space of a program that has just been loaded: of the emulator's mappings, those that are a
    /// program's, whose stack is known.
    pub fn load(path: &Path, maps: &str, stack: (u64, u64), layout: &Layout) -> Space {
        let rebase = match layout {
            Layout::Native => Rebase::default(),
            Layout::Emulator => Rebase::identity(),
            Layout::Snapshot(snapshot) => Rebase::preferring(snapshot.anonymous()),
        };
        let snapshot =
            if let Layout::Snapshot(snapshot) = layout { Some(Arc::clone(snapshot)) } else { None };
        let mut space = Space { path: path.to_owned(), rebase, snapshot, ..Space::default() };
        let Image { lines, all } = image(path, maps.lines().filter_map(Line::parse), stack);
        space.rebase.set_emulators(all);
        for (i, (line, name)) in lines.iter().enumerate() {
            if space.rebase.around(line.start).is_none() {
                let is_stack = name == STACK;
                let run = lines[i..].windows(2).take_while(|w| w[0].0.end == w[1].0.start && w[1].1 != STACK);
                let end = if is_stack { line.end } else { run.last().map_or(line.end, |w| w[1].0.end) };
                space.place_loaded(line, end - line.start, is_stack);
            }
            let mapping = Mapping {
                end: line.end,
                name: name.clone(),
                backing: line.backing(),
                permissions: line.permissions(),
                advice: HugeAdvice::None,
            };
            space.mappings.insert(line.start, mapping);
        }
        space
    }

    /// Gives a run of mappings that the loader made its native place.
    fn place_loaded(&mut self, first: &Line, len: u64, is_stack: bool) {
        let snapshot = self.snapshot.as_ref();
        let native = if is_stack {
            Some(snapshot.and_then(|s| s.stack_top()).unwrap_or(STACK_TOP) - len)
        } else if first.start < RELOCATED {
            // Not position-independent: at home where it is.
            Some(first.start)
        } else if let Some(native) =
            first.file().and_then(|file| snapshot?.place(&file.to_string_lossy(), first.offset))
        {
            Some(native)
        } else {
            let executable = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
            (first.file() == Some(executable)).then_some(EXECUTABLE)
        };
        match native {
            Some(native) => self.rebase.place(first.start, len, native),
            None => self.rebase.map(first.start, len, false),
        }
    }

    /// The world as a process starts it.
    pub fn setup(&self, populated: impl Fn(u64, u64) -> bool) -> ProcessSetup {
        let mut regions: Vec<Region> = Vec::new();
        for (&start, mapping) in &self.mappings {
            for (at, len, native) in self.rebase.range(start, mapping.end - start) {
                let populate = if populated(at, len) { Populate::By(0) } else { Populate::OnDemand };
                regions.push(Region { populate, ..mapping.region(at - start, len, native) });
            }
        }
        regions.sort_by_key(|r| r.start.raw());
        regions.dedup_by(|next, region| join(region, next));
        ProcessSetup { name: base_name(&self.path), regions, group: None, implicit_regions: true }
    }

    /// Applies what a process did, and says what that means natively.
    pub fn apply(&mut self, process: u16, note: &Note, events: &mut Vec<Event>) {
        match *note {
            Note::Map { start, hint, len, prot, flags, offset, ref path } => {
                let placed = start == hint && hint != 0;
                let name = String::from_utf8_lossy(path).into_owned();
                let mapping = Mapping::of_call(start + up(len), prot, flags, offset, name);
                if flags & MAP_FIXED == 0 {
                    // The kernel chose a free place: what was told of it before is out of date.
                    self.unmap(process, start, up(len), events);
                }
                self.map(process, start, mapping, placed, events);
            }
            // `shmdt` does not say how long what it takes away is.
            Note::Unmap { start, len: 0 } => {
                if let Some(end) = self.mappings.get(&start).map(|m| m.end) {
                    self.unmap(process, start, end - start, events);
                }
            }
            Note::Unmap { start, len } => self.unmap(process, start, up(len), events),
            Note::Protect { start, len, prot } => {
                self.change(start, up(len), |mapping| mapping.permissions = permissions(prot));
                for (_, len, native) in self.rebase.range(start, up(len)) {
                    let start = Va::new(native);
                    events.push(Event::Protect { process, start, len, permissions: permissions(prot) });
                }
            }
            Note::Advise { start, len, advice: MADV_DONTNEED } => {
                for (_, len, native) in self.rebase.range(start, up(len)) {
                    events.push(Event::Discard { process, start: Va::new(native), len });
                }
            }
            Note::Advise { start, len, advice } => {
                let advice = match advice {
                    MADV_HUGEPAGE => HugeAdvice::Huge,
                    MADV_NOHUGEPAGE => HugeAdvice::NoHuge,
                    _ => return,
                };
                self.change(start, up(len), |mapping| mapping.advice = advice);
            }
            Note::Brk { end } => self.brk(process, end, events),
            Note::Remap { old, old_len, new, new_len, flags } => {
                let (old_len, new_len) = (up(old_len), up(new_len));
                let Some(mapping) = self.containing(old).map(|(_, m)| m.clone()) else { return };
                if flags & MREMAP_DONTUNMAP == 0 {
                    if new == old && new_len >= old_len {
                        // Grown in place: only the rest is new.
                        let mapping = Mapping { end: new + new_len, ..mapping };
                        return self.map(process, old + old_len, mapping, true, events);
                    }
                    self.unmap(process, old, old_len, events);
                }
                self.map(process, new, Mapping { end: new + new_len, ..mapping }, new == old, events);
            }
            _ => {}
        }
    }

    fn map(&mut self, process: u16, start: u64, mapping: Mapping, placed: bool, events: &mut Vec<Event>) {
        let end = mapping.end;
        if start >= end {
            return;
        }
        match self.home(&mapping) {
            Some(home)
                if self.rebase.around(start).is_none() && self.rebase.is_free(home, home + (end - start)) =>
            {
                self.rebase.place(start, end - start, home);
            }
            _ => self.rebase.map(start, end - start, placed),
        }
        self.cut(start, end);
        for (at, len, native) in self.rebase.range(start, end - start) {
            events.push(Event::Map { process, region: mapping.region(at - start, len, native) });
        }
        self.mappings.insert(start, mapping);
    }

    /// Where the snapshot has this part of a file: a library.
    fn home(&self, mapping: &Mapping) -> Option<u64> {
        match &mapping.backing {
            Backing::PrivateFile { file, offset } | Backing::SharedFile { file, offset } => {
                self.snapshot.as_ref()?.place(file, *offset)
            }
            _ => None,
        }
    }

    fn unmap(&mut self, process: u16, start: u64, len: u64, events: &mut Vec<Event>) {
        for (_, len, native) in self.rebase.range(start, len) {
            events.push(Event::Unmap { process, start: Va::new(native), len });
        }
        self.rebase.unmap(start, len);
        self.cut(start, start + len);
    }

    fn brk(&mut self, process: u16, end: u64, events: &mut Vec<Event>) {
        let Some((start, old)) = self.heap else {
            self.heap = Some((up(end), up(end)));
            return;
        };
        let end = up(end);
        self.heap = Some((start, end.max(start)));
        if end > old {
            if let Some(native) = self.snapshot.as_ref().and_then(|s| s.heap()).filter(|_| old == start) {
                self.rebase.place(old, end - old, native);
            }
            let mapping = Mapping {
                end,
                name: "[heap]".into(),
                backing: Backing::Anonymous,
                permissions: Permissions::READ_WRITE,
                advice: HugeAdvice::None,
            };
            self.map(process, old, mapping, true, events);
        } else if end < old {
            self.unmap(process, end.max(start), old - end.max(start), events);
        }
    }

    fn containing(&self, at: u64) -> Option<(u64, &Mapping)> {
        let (&start, mapping) = self.mappings.range(..=at).next_back()?;
        (at < mapping.end).then_some((start, mapping))
    }

    /// Splits the mapping around an address, so that one begins there.
    fn split(&mut self, at: u64) {
        let Some((start, mapping)) = self.containing(at).map(|(s, m)| (s, m.clone())) else { return };
        if start == at {
            return;
        }
        let rest = Mapping { backing: mapping.backing.further(at - start), ..mapping.clone() };
        self.mappings.insert(at, rest);
        self.mappings.insert(start, Mapping { end: at, ..mapping });
    }

    /// Takes out what is mapped in a range.
    fn cut(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let gone: Vec<u64> = self.mappings.range(start..end).map(|(&s, _)| s).collect();
        for s in gone {
            self.mappings.remove(&s);
        }
    }

    fn change(&mut self, start: u64, len: u64, f: impl Fn(&mut Mapping)) {
        self.split(start);
        self.split(start + len);
        self.mappings.range_mut(start..start + len).for_each(|(_, m)| f(m));
    }
}

impl Mapping {
    fn of_call(end: u64, prot: u32, flags: u32, offset: u64, file: String) -> Mapping {
        let shared = flags & MAP_SHARED != 0;
        let name = if file.is_empty() { "anonymous".into() } else { base_name(Path::new(&file)) };
        let backing = match (file.is_empty(), shared) {
            (true, true) => Backing::SharedAnonymous,
            (true, false) => Backing::Anonymous,
            (false, true) => Backing::SharedFile { file, offset },
            (false, false) => Backing::PrivateFile { file, offset },
        };
        // log2 of the size is in the flags' upper bits; the default is 2 MiB.
        let advice = match (flags & MAP_HUGETLB != 0, flags >> MAP_HUGE_SHIFT & 63) {
            (false, _) => HugeAdvice::None,
            (true, 30) => HugeAdvice::Reserved(paging::PageSize::Size1G),
            (true, _) => HugeAdvice::Reserved(paging::PageSize::Size2M),
        };
        Mapping { end, name, backing, permissions: permissions(prot), advice }
    }

    fn region(&self, skip: u64, len: u64, native: u64) -> Region {
        Region {
            name: self.name.clone(),
            start: Va::new(native),
            len,
            backing: self.backing.further(skip),
            permissions: self.permissions,
            advice: self.advice,
            populate: Populate::OnDemand,
        }
    }
}

/// Whether the next region continues this one; if so, it is added to it.
fn join(region: &mut Region, next: &Region) -> bool {
    let continues = region.start.raw() + region.len == next.start.raw()
        && region.backing.further(region.len) == next.backing
        && (&region.name, region.permissions, region.advice, region.populate)
            == (&next.name, next.permissions, next.advice, next.populate);
    if continues {
        region.len += next.len;
    }
    continues
}

/// A fresh program in the emulator.
struct Image {
    /// The program's mappings, with names.
    lines: Vec<(Line, String)>,
    /// All, the emulator's among them.
    all: Vec<(u64, u64)>,
}

/// What a fresh program consists of, with names: its file and its interpreter's, each with the zeroed memory behind it
/// (.bss), the stack, and the vDSO, which has no name in the emulator but is small and nobody may write to it. The
/// rest (code buffers, thread stacks) is the emulator's, also where the kernel made one mapping of both.
fn image(path: &Path, lines: impl Iterator<Item = Line>, stack: (u64, u64)) -> Image {
    // The kernel names the file, the program may have been started by a link to it.
    let real = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path);
    let interpreter = Elf::open(path).ok().and_then(|elf| elf.interpreter());
    let files: Vec<PathBuf> = [path.to_owned()].into_iter().chain(interpreter).map(real).collect();
    let (mut out, mut all) = (Vec::<(Line, String)>::new(), Vec::new());
    let mut loaded: Option<Loaded> = None;
    for line in lines {
        // The emulator's unless it turns out otherwise: what the program has is looked for first.
        all.push((line.start, line.end));
        if line.start <= stack.0 && stack.1 <= line.end && stack.0 < stack.1 {
            out.push((line.part(stack.0, stack.1), STACK.to_owned()));
        } else if let Some(file) = line.file() {
            if files.contains(&file) {
                let loaded = match loaded.take().filter(|l| l.file == file) {
                    Some(same) => loaded.insert(same),
                    None => loaded.insert(Loaded::new(file, &line)),
                };
                out.extend(loaded.parts(&line).into_iter().map(|part| (part, loaded.name())));
            }
        } else if let Some(loaded) = loaded.as_ref().filter(|l| (l.start..l.end).contains(&line.start)) {
            out.push((line.part(line.start, line.end.min(loaded.end)), loaded.name()));
        } else if line.name.is_empty()
            && line.mode.permissions == Permissions::READ
            && line.end - line.start <= VDSO_MOST
        {
            // QEMU maps code without execution.
            let mode = Mode { permissions: Permissions::READ_EXECUTE, ..line.mode };
            out.push((Line { mode, ..line }, "[vdso]".to_owned()));
        }
    }
    Image { lines: out, all }
}

/// A file that the emulator has loaded.
struct Loaded {
    file: PathBuf,
    segments: Vec<Segment>,
    /// Where its address 0 is.
    base: u64,
    start: u64,
    /// Where its last segment ends in memory.
    end: u64,
}

impl Loaded {
    fn new(file: PathBuf, first: &Line) -> Loaded {
        let segments = Elf::open(&file).map(|elf| elf.segments()).unwrap_or_default();
        let va = segments.iter().find(|s| page(s.offset) == first.offset).map_or(0, |s| page(s.va));
        let base = first.start.wrapping_sub(va);
        let end = segments.iter().map(|s| base.wrapping_add(up(s.va.saturating_add(s.len)))).max();
        Loaded { file, segments, base, start: first.start, end: end.unwrap_or(first.end) }
    }

    fn name(&self) -> String {
        base_name(&self.file)
    }

    /// A mapping of the file, cut where its segments meet and with the permissions that it asks for. QEMU maps code
    /// without execution, so that the kernel makes one mapping of several segments; and it takes write permission from
    /// pages whose code it has translated.
    fn parts(&self, line: &Line) -> Vec<Line> {
        let mut out = Vec::new();
        let mut at = line.start;
        for segment in &self.segments {
            let start = self.base.wrapping_add(page(segment.va)).max(at);
            let end = self.base.wrapping_add(up(segment.va.saturating_add(segment.file_len))).min(line.end);
            if start < end {
                out.extend((at < start).then(|| line.part(at, start)));
                let mode = Mode { permissions: segment.permissions, ..line.mode };
                out.push(Line { mode, ..line.part(start, end) });
                at = end;
            }
        }
        out.extend((at < line.end).then(|| line.part(at, line.end)));
        out
    }
}

fn base_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const GUEST: u64 = 0x40_0000_0000;
    const PAGES: u64 = 600;

    fn range() -> impl Strategy<Value = (u64, u64)> {
        (0..PAGES, 1..60_u64).prop_map(|(page, pages)| (GUEST + page * PAGE, pages * PAGE))
    }

    fn note() -> impl Strategy<Value = Note> {
        let prot = || prop_oneof![Just(1_u32), Just(3), Just(5), Just(0)];
        prop_oneof![
            3 => (range(), prot(), any::<bool>()).prop_map(|((start, len), prot, fixed)| Note::Map {
                start,
                hint: if fixed { start } else { 0 },
                len,
                prot,
                flags: if fixed { MAP_FIXED | 0x22 } else { 0x22 },
                offset: 0,
                path: Vec::new(),
            }),
            1 => range().prop_map(|(start, len)| Note::Unmap { start, len }),
            1 => (range(), prot()).prop_map(|((start, len), prot)| Note::Protect { start, len, prot }),
        ]
    }

    /// Applies events to a map from native page to permissions.
    fn apply(native: &mut HashMap<u64, Permissions>, events: &[Event]) {
        for event in events {
            let pages = |start: Va, len: u64| (start.raw()..start.raw() + len).step_by(PAGE as usize);
            match event {
                Event::Map { region, .. } => {
                    native.extend(pages(region.start, region.len).map(|page| (page, region.permissions)));
                }
                Event::Unmap { start, len, .. } => pages(*start, *len).for_each(|page| {
                    native.remove(&page);
                }),
                Event::Protect { start, len, permissions, .. } => pages(*start, *len).for_each(|page| {
                    native.entry(page).and_modify(|p| *p = *permissions);
                }),
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        /// What the events make of the native address space is what the calls made of the guest's.
        #[test]
        fn events_say_what_the_calls_did(notes in prop::collection::vec(note(), 1..40)) {
            let mut space = Space::default();
            let (mut guest, mut native) = (HashMap::new(), HashMap::new());
            for note in notes {
                let mut events = Vec::new();
                space.apply(0, &note, &mut events);
                apply(&mut native, &events);
                let pages = |start: u64, len: u64| (start..start + len).step_by(PAGE as usize);
                match note {
                    Note::Map { start, len, prot, .. } => guest.extend(pages(start, len).map(|p| (p, permissions(prot)))),
                    Note::Unmap { start, len } => pages(start, len).for_each(|p| { guest.remove(&p); }),
                    Note::Protect { start, len, prot } => {
                        pages(start, len).for_each(|p| { guest.entry(p).and_modify(|q| *q = permissions(prot)); });
                    }
                    _ => unreachable!(),
                }
                prop_assert_eq!(native.len(), guest.len());
                for (&page, permissions) in &guest {
                    let (_, _, delta) = space.rebase.around(page).expect("mapped");
                    prop_assert_eq!(native.get(&page.wrapping_add(delta)), Some(permissions));
                }
                // The regions that a stream beginning now would start with.
                let setup = space.setup(|_, _| false);
                let mut covered = 0;
                for pair in setup.regions.windows(2) {
                    prop_assert!(pair[0].start.raw() + pair[0].len <= pair[1].start.raw());
                }
                for region in &setup.regions {
                    for page in (region.start.raw()..region.start.raw() + region.len).step_by(PAGE as usize) {
                        prop_assert_eq!(native.get(&page), Some(&region.permissions));
                        covered += 1;
                    }
                }
                prop_assert_eq!(covered, native.len());
            }
        }
    }

    #[test]
    fn a_heap_grows_behind_its_program_and_shrinks() {
        let mut space = Space::default();
        space.rebase.place(GUEST, 0x4000, EXECUTABLE);
        let mut events = Vec::new();
        for end in [GUEST + 0x4000, GUEST + 0x25000, GUEST + 0x46000, GUEST + 0x26000] {
            space.apply(0, &Note::Brk { end }, &mut events);
        }
        let heap = |start: u64, len| Event::Map {
            process: 0,
            region: Region { ..Region::anonymous("[heap]", EXECUTABLE + start, len, Populate::OnDemand) },
        };
        let shrunk = Event::Unmap { process: 0, start: Va::new(EXECUTABLE + 0x26000), len: 0x20000 };
        assert_eq!(events, [heap(0x4000, 0x21000), heap(0x25000, 0x21000), shrunk]);
    }

    #[test]
    fn what_mremap_moves_is_mapped_where_it_goes() {
        let mut space = Space::default();
        let mut events = Vec::new();
        let path = b"/data".to_vec();
        let map = Note::Map { start: GUEST, hint: 0, len: 0x3000, prot: 3, flags: 1, offset: 0x1000, path };
        space.apply(0, &map, &mut events);
        let remap =
            Note::Remap { old: GUEST, old_len: 0x3000, new: GUEST + (1 << 30), new_len: 0x5000, flags: 1 };
        space.apply(0, &remap, &mut events);
        assert!(matches!(events[1], Event::Unmap { len: 0x3000, .. }));
        let Event::Map { region, .. } = &events[2] else { panic!("{events:?}") };
        assert_eq!(
            (region.len, &region.backing),
            (0x5000, &Backing::SharedFile { file: "/data".into(), offset: 0x1000 })
        );
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn an_executable_is_placed_by_its_segments() {
        let exe = std::env::current_exe().unwrap();
        let segments = Elf::open(&exe).unwrap().segments();
        // As QEMU maps it: one host mapping for what is not writable, for it drops execution.
        let end = |s: &Segment| up(s.va + s.file_len);
        let (code, data): (Vec<Segment>, Vec<Segment>) = segments.iter().partition(|s| !s.permissions.write);
        let line = |from: u64, to: u64, mode: &str, offset: u64| {
            format!("{:x}-{:x} {mode} {offset:08x} fe:00 7 {}\n", GUEST + from, GUEST + to, exe.display())
        };
        let mut maps = line(0, code.iter().map(end).max().unwrap(), "r--p", 0);
        for segment in &data {
            maps += &line(page(segment.va), end(segment), "rw-p", page(segment.offset));
        }
        maps +=
            &format!("{:x}-{:x} rw-p 00000000 00:00 0\n", GUEST + (1 << 30), GUEST + (1 << 30) + (9 << 20));
        let stack = (GUEST + (1 << 30), GUEST + (1 << 30) + (8 << 20));
        let space = Space::load(&exe, &maps, stack, &Layout::Native);
        for region in space.setup(|_, _| false).regions {
            if region.name == "[stack]" {
                assert_eq!(region.start.raw() + region.len, STACK_TOP);
                continue;
            }
            let va = region.start.raw() - EXECUTABLE;
            let segment = segments.iter().find(|s| page(s.va) <= va && va < end(s)).unwrap();
            assert_eq!(region.permissions, segment.permissions, "{region:x?}");
        }
    }
}
