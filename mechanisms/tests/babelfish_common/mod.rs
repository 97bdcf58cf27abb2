//! A small kernel and a machine whose TLBs and walk caches never forget unless
//! they are told to, around the tables under test; and a model that knows what
//! each process must see at each page.
//!
//! `World::check` holds everything that is cached against the model after every action.

#![allow(dead_code, reason = "each test file uses its part")]

mod check;
mod machine;

pub use machine::{Machine, Walk};

use mechanisms::babelfish::*;
use paging::frames::{NoFrame, NodeId};
use paging::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub const NODES: usize = 2;
const FRAMES: u64 = 1 << 20;

/// All frames of a physical space: tables' and data. The last one freed is the
/// next one given, so that whoever still uses it is found out.
#[derive(Debug)]
pub struct Pool<S> {
    free: [Vec<u64>; NODES],
    next: [u64; NODES],
    pub tables: BTreeSet<u64>,
    /// References to data frames.
    pub refs: HashMap<u64, u32>,
    space: std::marker::PhantomData<S>,
    /// Frames that table allocations may still take; none: all.
    pub budget: Option<u32>,
}

impl<S: PhysSpace> Pool<S> {
    fn new() -> Self {
        Pool {
            free: Default::default(),
            next: [1, FRAMES / NODES as u64],
            tables: BTreeSet::new(),
            refs: HashMap::new(),
            space: std::marker::PhantomData,
            budget: None,
        }
    }
    fn take(&mut self, node: usize) -> u64 {
        self.free[node].pop().unwrap_or_else(|| {
            self.next[node] += 1;
            self.next[node] - 1
        })
    }
    fn give(&mut self, frame: u64) {
        self.free[(frame / (FRAMES / NODES as u64)) as usize].push(frame);
    }
}

impl<S: PhysSpace> TableFrames<S> for Pool<S> {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Frame<S>, NoFrame> {
        match &mut self.budget {
            Some(0) => {
                return Err(NoFrame::for_table(node, false));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let frame = self.take(node.index());
        self.tables.insert(frame);
        Ok(Frame::new(frame))
    }
    fn free_table(&mut self, frame: Frame<S>) {
        assert!(self.tables.remove(&frame.number()), "{frame:?} freed twice");
        self.give(frame.number());
    }
    fn node_of(&self, frame: Frame<S>) -> NodeId {
        NodeId((frame.number() / (FRAMES / NODES as u64)) as u8)
    }
    fn leaf_copied(&mut self, entry: Entry) {
        *self.refs.get_mut(&entry.frame::<S>().number()).expect("a copied leaf maps a live frame") += 1;
    }
}

/// What a process maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    pub start: u64,
    pub end: u64,
    /// A file and its page at `start`.
    pub file: Option<(u64, u64)>,
    pub shared: bool,
    pub write: bool,
}

impl Area {
    fn content(&self) -> Content {
        Content {
            object: self.file.map(|(file, _)| file),
            page: self.file.map_or(0, |(_, page)| page),
            rights: if self.write { Flags::WRITABLE } else { Flags::NONE },
            shared: self.shared,
        }
    }
    fn file_page(&self, page: u64) -> Option<(u64, u64)> {
        self.file.map(|(file, first)| (file, first + page - self.start))
    }
    fn cut(&self, start: u64, end: u64) -> Area {
        Area { start, end, file: self.file.map(|(f, p)| (f, p + start - self.start)), ..*self }
    }
}

pub struct Proc<S: PhysSpace> {
    pub table: PageTable<Virt, Arena<S>>,
    pub process: Process<S>,
    pub pcid: u16,
    pub areas: Vec<Area>,
    /// Pages that it alone sees, and what it wrote there.
    pub own: BTreeMap<u64, u64>,
}

impl<S: PhysSpace> Proc<S> {
    pub fn area(&self, page: u64) -> Option<Area> {
        self.areas.iter().copied().find(|a| a.start <= page && page < a.end)
    }
}

pub type Ops<S> = Box<dyn TableOps<Virt, Arena<S>>>;

pub struct World<S: Walk> {
    pub mem: Arena<S>,
    pub pool: Pool<S>,
    pub work: Work,
    pub groups: Groups<S>,
    pub ccid: Ccid,
    pub share_first_level: bool,
    ops: fn(Membership<S>) -> Ops<S>,
    pub procs: Vec<Option<Proc<S>>>,
    pub machine: Machine<S>,
    /// What each data frame holds.
    pub data: HashMap<u64, u64>,
    /// The page cache, with one reference to each frame.
    pub files: BTreeMap<(u64, u64), u64>,
    /// What files hold whose pages were dropped from it.
    disk: BTreeMap<(u64, u64), u64>,
    next_value: u64,
    next_pcid: u16,
    pub faults: u64,
}

pub const ME: Identity = Identity { user: 1000, application: 0xcafe };

pub fn one_copy<S: PhysSpace>(member: Membership<S>) -> Ops<S> {
    Box::new(SharedTables::new(OneCopy::default(), member))
}

impl<S: Walk> World<S> {
    pub fn new(sharing: Sharing, share_first_level: bool, ops: fn(Membership<S>) -> Ops<S>) -> Self {
        let mut groups = Groups::new(sharing);
        let ccid = groups.of(ME).unwrap().ccid();
        World {
            mem: Arena::new(FRAMES),
            pool: Pool::new(),
            work: Work::default(),
            groups,
            ccid,
            share_first_level,
            ops,
            procs: Vec::new(),
            machine: Machine::new(FRAMES),
            data: HashMap::new(),
            files: BTreeMap::new(),
            disk: BTreeMap::new(),
            next_value: 1,
            next_pcid: 1,
            faults: 0,
        }
    }

    pub fn group(&mut self) -> SharedGroup<S> {
        self.groups.of(ME).unwrap()
    }

    pub fn env(&mut self, cpu: usize) -> TableEnv<'_, Arena<S>> {
        TableEnv { mem: &mut self.mem, frames: &mut self.pool, node: NodeId(cpu as u8), work: &mut self.work }
    }

    fn admit(&mut self, member: Membership<S>) -> usize {
        let process = member.process().clone();
        let ops = (self.ops)(member);
        let table = PageTable::new(ops, &mut self.env(0), 4, NodeId(0)).unwrap();
        let pcid = self.next_pcid;
        self.next_pcid += 1;
        self.procs.push(Some(Proc { table, process, pcid, areas: Vec::new(), own: BTreeMap::new() }));
        let p = self.procs.len() - 1;
        self.owed(p);
        p
    }

    pub fn spawn(&mut self) -> usize {
        let member = self.groups.join(self.ccid, ME).unwrap();
        self.admit(member)
    }

    pub fn live(&self) -> Vec<usize> {
        (0..self.procs.len()).filter(|&p| self.procs[p].is_some()).collect()
    }
    pub fn proc(&self, p: usize) -> &Proc<S> {
        self.procs[p].as_ref().unwrap()
    }
    pub fn proc_mut(&mut self, p: usize) -> &mut Proc<S> {
        self.procs[p].as_mut().unwrap()
    }

    pub fn context(&self, p: usize) -> BabelContext {
        let proc = self.proc(p);
        let context = proc.process.context(proc.pcid);
        if self.share_first_level { context.sharing_first_level().unwrap() } else { context }
    }

    /// Calls the process's page table.
    pub fn on<R>(
        &mut self,
        p: usize,
        cpu: usize,
        call: impl FnOnce(&mut PageTable<Virt, Arena<S>>, &mut TableEnv<'_, Arena<S>>) -> R,
    ) -> R {
        let mut proc = self.procs[p].take().unwrap();
        let result = call(&mut proc.table, &mut self.env(cpu));
        self.procs[p] = Some(proc);
        result
    }

    fn new_frame(&mut self, cpu: usize, value: u64) -> u64 {
        let frame = self.pool.take(cpu);
        self.pool.refs.insert(frame, 1);
        self.data.insert(frame, value);
        frame
    }
    fn put(&mut self, frame: u64) {
        let refs = self.pool.refs.get_mut(&frame).expect("a frame with a reference");
        *refs -= 1;
        if *refs == 0 {
            self.pool.refs.remove(&frame);
            self.data.remove(&frame);
            self.pool.give(frame);
        }
    }

    pub fn discharge(&mut self, p: usize, flush: Flush<Virt, S>) {
        let context = self.context(p);
        let machine = &mut self.machine;
        let released = flush
            .discharge_reaching(|reach, extent, paths| machine.shootdown(p, &context, reach, extent, paths));
        for gone in &released.gone {
            if let Some(frame) = gone.frame() {
                self.put(frame.number());
            }
        }
        self.on(p, 0, |table, env| table.free_tables(env, &released));
    }
    fn owed(&mut self, p: usize) {
        let flush = self.on(p, 0, |table, _| table.owed());
        self.discharge(p, flush);
    }

    // System calls. Addresses and lengths in pages.

    pub fn map(&mut self, p: usize, area: Area) {
        self.unmap(p, area.start, area.end);
        let range = area.start << 12..area.end << 12;
        let told = self.on(p, 0, |table, env| table.area(env, range, Some(area.content())));
        let flush = told.unwrap();
        self.proc_mut(p).areas.push(area);
        self.discharge(p, flush);
    }

    fn cut(&mut self, p: usize, start: u64, end: u64) -> Vec<Area> {
        let proc = self.proc_mut(p);
        let mut inside = Vec::new();
        for area in std::mem::take(&mut proc.areas) {
            let (s, e) = (area.start.max(start), area.end.min(end));
            if s >= e {
                proc.areas.push(area);
                continue;
            }
            inside.push(area.cut(s, e));
            if area.start < s {
                proc.areas.push(area.cut(area.start, s));
            }
            if e < area.end {
                proc.areas.push(area.cut(e, area.end));
            }
        }
        inside
    }

    pub fn unmap(&mut self, p: usize, start: u64, end: u64) {
        let parts = self.cut(p, start, end);
        if parts.is_empty() {
            return;
        }
        let mut flush = Flush::none();
        self.on(p, 0, |table, env| table.unmap_range(env, start << 12..end << 12, &mut flush)).unwrap();
        self.discharge(p, flush);
        let flush = self.on(p, 0, |table, env| table.area(env, start << 12..end << 12, None)).unwrap();
        self.discharge(p, flush);
        self.proc_mut(p).own.retain(|page, _| *page < start || *page >= end);
    }

    pub fn protect(&mut self, p: usize, start: u64, end: u64, write: bool) {
        for area in self.cut(p, start, end) {
            let area = Area { write, ..area };
            let range = area.start << 12..area.end << 12;
            let mut flush = Flush::none();
            self.on(p, 0, |table, env| {
                table.update_range(env, range.clone(), Visibility::Private, &mut flush, &mut |leaf| {
                    let shown = match leaf.entry.is_prot_none() {
                        true => leaf.entry.from_prot_none(),
                        false => leaf.entry,
                    };
                    if write { shown } else { shown.without(Flags::WRITABLE) }
                })
            })
            .unwrap();
            self.discharge(p, flush);
            let told = self.on(p, 0, |table, env| table.area(env, range, Some(area.content())));
            self.discharge(p, told.unwrap());
            self.proc_mut(p).areas.push(area);
        }
    }

    /// Makes all leaves fault, as NUMA balancing does, in shared tables too.
    pub fn hide(&mut self, p: usize, start: u64, end: u64) {
        let mut flush = Flush::none();
        self.on(p, 0, |table, env| {
            table.update_range(env, start << 12..end << 12, Visibility::Shared, &mut flush, &mut |leaf| {
                if leaf.entry.is_present() { leaf.entry.to_prot_none() } else { leaf.entry }
            })
        })
        .unwrap();
        self.discharge(p, flush);
    }

    /// Takes a page that a process maps at `page` out of the page cache: unmapped from all who map it.
    pub fn reclaim(&mut self, p: usize, page: u64) {
        let Some(at) = self.proc(p).area(page).and_then(|area| area.file_page(page)) else { return };
        let Some(frame) = self.files.remove(&at) else { return };
        for p in self.live() {
            let places: Vec<u64> = self
                .leaves(p)
                .iter()
                .filter(|(_, e)| e.frame::<S>().number() == frame)
                .map(|l| l.0)
                .collect();
            for page in places {
                let mut flush = Flush::none();
                self.on(p, 0, |table, env| {
                    table.update_range(
                        env,
                        page << 12..(page + 1) << 12,
                        Visibility::Shared,
                        &mut flush,
                        &mut |_| Entry::EMPTY,
                    )
                })
                .unwrap();
                self.discharge(p, flush);
            }
        }
        self.disk.insert(at, self.data[&frame]);
        assert_eq!(self.pool.refs[&frame], 1, "nobody maps it any more");
        self.put(frame);
    }

    pub fn fork(&mut self, p: usize) -> usize {
        let member = self.proc(p).process.fork();
        let c = self.admit(member);
        let areas = self.proc(p).areas.clone();
        let own = self.proc(p).own.clone();
        let child = self.proc_mut(c);
        (child.areas, child.own) = (areas.clone(), own);
        for area in areas {
            let mut flush = Flush::none();
            let mut taken = Vec::new();
            let mut child = self.procs[c].take().unwrap();
            let visibility = if area.file.is_some() { Visibility::Shared } else { Visibility::Private };
            self.on(p, 0, |table, env| {
                table.fork_range(
                    env,
                    &mut child.table,
                    area.start << 12..area.end << 12,
                    visibility,
                    &mut flush,
                    &mut |leaf| {
                        if area.shared {
                            return Forked { parent: leaf.entry, child: Entry::EMPTY };
                        }
                        if !leaf.linked {
                            taken.push(leaf.entry.leaf_frame::<S>(leaf.size).number());
                        }
                        let entry = match leaf.entry.is_prot_none() {
                            true => leaf.entry.from_prot_none(),
                            false => leaf.entry,
                        };
                        let entry = entry.without(Flags::WRITABLE).with(Flags::COW);
                        Forked { parent: entry, child: entry.without(Flags::ACCESSED | Flags::DIRTY) }
                    },
                )
            })
            .unwrap();
            self.procs[c] = Some(child);
            for frame in taken {
                *self.pool.refs.get_mut(&frame).unwrap() += 1;
            }
            self.discharge(p, flush);
        }
        c
    }

    pub fn exit(&mut self, p: usize) {
        let mut flush = Flush::none();
        let areas = std::mem::take(&mut self.proc_mut(p).areas);
        let end = self.proc(p).table.end();
        let told = self.on(p, 0, |table, env| table.area(env, 0..end, None)).unwrap();
        self.discharge(p, told);
        // One by one, as a kernel does that keeps a list of them.
        for area in areas {
            let range = area.start << 12..area.end << 12;
            self.on(p, 0, |table, env| table.unmap_range(env, range, &mut flush)).unwrap();
        }
        self.discharge(p, flush);
        let context = self.context(p);
        let proc = self.procs[p].take().unwrap();
        proc.table
            .destroy(&mut self.env(0), || panic!("nothing is left to flush"), &mut |gone| panic!("{gone:?}"))
            .unwrap();
        // Its PCID is given out anew: what is left of it goes.
        self.machine.forget(p, &context);
    }

    // Accesses.

    /// What the process must see.
    pub fn expected(&self, p: usize, page: u64) -> Option<u64> {
        let proc = self.proc(p);
        let area = proc.area(page)?;
        if let Some(value) = proc.own.get(&page) {
            return Some(*value);
        }
        match area.file_page(page) {
            Some(at) => Some(self.files.get(&at).map_or_else(|| self.on_disk(at), |frame| self.data[frame])),
            None => Some(0),
        }
    }

    /// An access that the program may make; whether it was.
    pub fn access(&mut self, p: usize, cpu: usize, page: u64, write: bool, skip_first: bool) -> bool {
        let Some(area) = self.proc(p).area(page) else { return false };
        if write && !area.write {
            return false;
        }
        let parted = self.proc(p).table.ops_ref().is_parted();
        let arriving = self.context(p);
        self.machine.arrive(cpu, p, &arriving, parted);
        for _ in 0..8 {
            let context = self.context(p);
            let masks = self.proc(p).process.group().masks();
            let root = self.proc(p).table.hardware_root(NodeId(cpu as u8));
            let intent = if write { Intent::WRITE } else { Intent::READ };
            let va = Va::new(page << 12);
            let got =
                self.machine.translate(&self.mem, cpu, p, &context, root, &masks, va, intent, skip_first);
            match got {
                Ok(frame) => {
                    let seen = self.data.get(&frame).copied();
                    assert_eq!(
                        seen,
                        self.expected(p, page),
                        "process {p} at page {page:#x}, frame {frame:#x}"
                    );
                    if write {
                        self.stored(p, page, &area, frame);
                    }
                    return true;
                }
                Err(fault) => {
                    assert!(matches!(fault, Fault::Page { .. }), "{fault:?}");
                    self.faults += 1;
                    self.fault(p, cpu, page, write, &area);
                    self.owed(p);
                }
            }
        }
        panic!("process {p} faults for ever at page {page:#x}");
    }

    fn stored(&mut self, p: usize, page: u64, area: &Area, frame: u64) {
        self.next_value += 1;
        let value = self.next_value;
        self.data.insert(frame, value);
        if !area.shared {
            self.proc_mut(p).own.insert(page, value);
        }
    }

    fn on_disk(&self, at: (u64, u64)) -> u64 {
        self.disk.get(&at).copied().unwrap_or(at.0 << 32 | at.1)
    }
    fn cached(&mut self, at: (u64, u64)) -> u64 {
        if let Some(frame) = self.files.get(&at) {
            return *frame;
        }
        let frame = self.new_frame(0, self.on_disk(at));
        self.files.insert(at, frame);
        frame
    }

    fn install(&mut self, p: usize, cpu: usize, page: u64, frame: u64, flags: Flags, visibility: Visibility) {
        let (va, node) = (Va::new(page << 12), NodeId(cpu as u8));
        let frame = Frame::new(frame);
        let done = self.on(p, cpu, |table, env| {
            table.map(env, va, frame, PageSize::Size4K, flags | Flags::USER, node, visibility)
        });
        match done {
            Ok(()) => {}
            // It linked a table that has the page, or got a copy of one.
            Err(MapError::Occupied(_)) => self.put(frame.number()),
            Err(other) => panic!("{other}"),
        }
    }

    fn fault(&mut self, p: usize, cpu: usize, page: u64, write: bool, area: &Area) {
        let va = Va::new(page << 12);
        let found = self.on(p, cpu, |table, env| table.lookup(env, va));
        let entry = found.entry;
        if entry.is_prot_none() {
            let mut flush = Flush::none();
            self.on(p, cpu, |table, env| {
                table.update_range(
                    env,
                    page << 12..(page + 1) << 12,
                    Visibility::Shared,
                    &mut flush,
                    &mut |leaf| {
                        if leaf.entry.is_prot_none() { leaf.entry.from_prot_none() } else { leaf.entry }
                    },
                )
            })
            .unwrap();
            return self.discharge(p, flush);
        }
        if !entry.is_empty() {
            if write && !entry.has(Flags::WRITABLE) {
                if entry.has(Flags::COW) || !area.shared {
                    self.cow(p, cpu, page);
                } else {
                    let set = Flags::WRITABLE | Flags::DIRTY;
                    self.on(p, cpu, |table, env| {
                        table.set_flags(env, va, set, Flags::NONE, Visibility::Shared)
                    })
                    .unwrap();
                }
            }
            return;
        }
        match area.file_page(page) {
            Some(at) => {
                let cached = self.cached(at);
                if write && !area.shared {
                    let value = self.data[&cached];
                    let new = self.new_frame(cpu, value);
                    return self.install(p, cpu, page, new, Flags::WRITABLE, Visibility::Private);
                }
                *self.pool.refs.get_mut(&cached).unwrap() += 1;
                let flags = match (area.shared, write) {
                    (true, true) => Flags::WRITABLE,
                    (true, false) => Flags::NONE,
                    (false, _) => Flags::COW,
                };
                self.install(p, cpu, page, cached, flags, Visibility::Shared);
            }
            None => {
                let new = self.new_frame(cpu, 0);
                let flags = if area.write { Flags::WRITABLE } else { Flags::NONE };
                self.install(p, cpu, page, new, flags, Visibility::Private);
            }
        }
    }

    fn cow(&mut self, p: usize, cpu: usize, page: u64) {
        let (va, node) = (Va::new(page << 12), NodeId(cpu as u8));
        let slot = self.on(p, cpu, |table, env| table.ensure(env, va, 1, node, Visibility::Private)).unwrap();
        let entry = self.mem.load(slot);
        let old = entry.frame::<S>().number();
        if self.pool.refs[&old] == 1 && !self.files.values().any(|f| *f == old) {
            self.on(p, cpu, |table, env| {
                table.ops().modify(env, slot, 1, Flags::WRITABLE | Flags::DIRTY, Flags::COW)
            });
            return;
        }
        let value = self.data[&old];
        let new = self.new_frame(cpu, value);
        let flags = Flags::WRITABLE | Flags::USER | Flags::DIRTY;
        let entry = Entry::leaf(Frame::<S>::new(new), PageSize::Size4K, flags);
        let flush = self
            .on(p, cpu, |table, env| {
                table.replace(env, va, PageSize::Size4K, entry, node, Visibility::Private)
            })
            .unwrap();
        self.discharge(p, flush);
    }

    /// Ends everything: all frames come back.
    pub fn end(mut self) {
        for p in self.live() {
            self.exit(p);
            self.check();
        }
        for frame in std::mem::take(&mut self.files).into_values() {
            self.put(frame);
        }
        assert!(self.pool.refs.is_empty() && self.pool.tables.is_empty(), "{:?}", self.pool);
        assert_eq!(self.mem.tables(), 0);
        assert_eq!(self.group().space(), cost::Space::default());
        assert_eq!(self.group().members(), 0);
    }
}
