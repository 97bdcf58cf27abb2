//! The world's tables, and walks through them, as they are at one time.

use super::*;
use crate::look::{
    Entry, GuestLine, HostEntry, LeafTables, PageView, RegionView, SegmentView, StepView, View, WalkView,
};
use machine::explain::What;
use os::AddressSpace;
use paging::{Dim, Gpa, Slot as EntrySlot, Space};
use std::collections::{BTreeMap, BTreeSet};

/// Entries of a cache line, and the bytes that they map.
const LINE: u64 = 8;
const LINE_BYTES: u64 = LINE << 12;
/// Processes, areas of each, and lines of entries that are looked at.
const PROCESSES: usize = 8;
const AREAS: usize = 16;
const LINES: usize = 24;
/// Level-1 tables that are drawn.
const LEAF_TABLES: usize = 240;
/// Escaped pages that are told one by one.
const ESCAPES: usize = 512;

/// A process's address, of a page or a group of 8.
pub type Place = (u16, Va);

impl World {
    /// The table of a process as its kernel has it, seen leaf by leaf.
    fn each_leaf(&self, process: u16, visit: &mut impl FnMut(u64, PageSize)) {
        let Ok(Process { pid, .. }) = self.process(process) else { return };
        fn all<M: TableMemory>(kernel: &Kernel<M>, pid: ProcessId, visit: &mut impl FnMut(u64, PageSize)) {
            let Ok(it) = kernel.process(pid) else { return };
            let table = it.space().table();
            Table { mem: kernel.mem(), root: table.root(), levels: table.levels() }.each_leaf(visit);
        }
        match &self.guest {
            None => all(&self.host, pid, visit),
            Some(guest) => all(&guest.kernel, pid, visit),
        }
    }

    fn living(&self) -> Vec<u16> {
        let alive = |pid| match &self.guest {
            None => self.host.process(pid).is_ok(),
            Some(guest) => guest.kernel.process(pid).is_ok(),
        };
        let all = self.processes.iter().enumerate();
        all.filter(|(_, p)| alive(p.pid)).map(|(i, _)| i as u16).take(PROCESSES).collect()
    }

    /// What is mapped by the processes that are looked at.
    fn regions(&self) -> Vec<RegionView> {
        let mut regions = Vec::new();
        for process in self.living() {
            let Ok(Process { pid, .. }) = self.process(process) else { continue };
            let areas = match &self.guest {
                None => self.host.process(pid).map(|p| p.space().vmas().iter().copied().collect::<Vec<_>>()),
                Some(guest) => guest.kernel.process(pid).map(|p| p.space().vmas().iter().copied().collect()),
            };
            let mut areas = areas.unwrap_or_default();
            areas.sort_by_key(|area| (std::cmp::Reverse(area.end - area.start), area.start));
            areas.truncate(4 * AREAS);
            areas.sort_by_key(|area| area.start);
            let view = |area: &os::Vma| RegionView {
                process,
                start: area.start,
                end: area.end,
                name: String::new(),
            };
            regions.extend(areas.iter().map(view));
        }
        regions
    }

    /// About `n` mapped pages to look at: of each larger area, and evenly over all. At one in four
    /// places all 8 neighbours, whose entries are on one line; one page at the others.
    pub fn places(&self, n: usize) -> Vec<Place> {
        let living = self.living();
        let regions = self.regions();
        // 8 pages at one place, 1 at the next three.
        let each = (n * 4 / 11 / living.len().max(1)).max(4);
        let mut pages = BTreeSet::new();
        for process in living {
            let areas: Vec<&RegionView> = regions.iter().filter(|r| r.process == process).collect();
            let mut largest: Vec<&RegionView> = areas.clone();
            largest.sort_by_key(|area| (std::cmp::Reverse(area.end - area.start), area.start));
            largest.truncate((each / 2).min(AREAS));
            // What a segment maps is in no table.
            if let Some(range) = self.process_segment(process) {
                let step = ((range.end - range.start) / each as u64) & !(LINE_BYTES - 1);
                pages.extend((0..each as u64).map(|i| (process, Va::new(range.start + i * step))));
                continue;
            }
            let (mut groups, mut last) = (0u64, u64::MAX);
            self.each_leaf(process, &mut |va, _| {
                groups += u64::from(va / LINE_BYTES != last);
                last = va / LINE_BYTES;
            });
            let step = (groups / (each - largest.len()).max(1) as u64).max(1);
            let (mut at, mut take, mut whole) = (0u64, false, false);
            let mut first: BTreeSet<u64> = largest.iter().map(|area| area.start).collect();
            last = u64::MAX;
            self.each_leaf(process, &mut |va, _| {
                if va / LINE_BYTES != last {
                    last = va / LINE_BYTES;
                    let begins = first.range(..=va).next_back().copied();
                    let begins = begins
                        .filter(|start| largest.iter().any(|area| area.start == *start && va < area.end));
                    if let Some(start) = begins {
                        first.remove(&start);
                    }
                    take = at % step == step / 2 || begins.is_some();
                    whole = at / step % 4 == 1 || begins.is_some();
                    at += 1;
                }
                if take {
                    pages.insert((process, Va::new(va)));
                    take = whole;
                }
            });
        }
        pages.into_iter().collect()
    }

    /// The walks for `places`, and the tables; `after` accesses were made.
    pub fn view(&mut self, places: &[Place], after: u64) -> View {
        let tables = self.dump_tables(after);
        let pages = places.iter().filter_map(|(process, va)| self.page(*process, *va)).collect();
        View {
            regions: self.regions(),
            pages,
            lines: self.lines_of_largest(),
            segments: self.all_segments(),
            leaf_tables: self.leaf_tables(),
            tables,
        }
    }

    /// The level of the TLBs, on the core of the process, that has its translation of `va`: 1, 2 or none. The core runs the
    /// process from then on.
    pub fn in_tlb(&mut self, process: u16, va: Va) -> Option<u8> {
        let cpu = self.cpu_of(process);
        self.switch(cpu, process).ok()?;
        let own = self.own_address(process, va).ok()?;
        self.machine.in_tlb(cpu, own)
    }

    /// A page and its two walks, each from the machine as it is now.
    fn page(&mut self, process: u16, va: Va) -> Option<PageView> {
        let cpu = self.cpu_of(process);
        self.switch(cpu, process).ok()?;
        let saved = self.machine.save(cpu);
        let in_tlb = self.in_tlb(process, va);
        let warm = self.explain(process, va, false).ok()?;
        self.machine.restore(&saved);
        let cold = self.explain(process, va, true).ok()?;
        self.machine.restore(&saved);
        let leaf = cold.end.ok()?;
        let offset = va.raw() >> 12 & (leaf.size.frames() - 1);
        Some(PageView {
            process,
            va: va.raw(),
            bytes: leaf.size.bytes(),
            frame: leaf.frame.number() + offset,
            node: self.host.pool().node_of(leaf.frame).0,
            writable: leaf.rights.write(),
            in_tlb,
            warm: self.walk_view(&warm),
            cold: self.walk_view(&cold),
        })
    }

    /// A walk as data, with the bits of the entries that it loaded.
    pub fn walk_view(&self, walk: &Explained) -> WalkView {
        // Where every guest table was reached by its gPA.
        let way = self.plan.system.translation;
        let two = self.plan.system.is_virtual() && !way.is_shadowed() && way != Way::PassThrough;
        let step = |step: &machine::explain::Step| {
            let cycles = step.cycles;
            match step.what {
                What::Reference { cell, at, gpa, node, served } => {
                    let gpa = gpa.filter(|_| two).map(Gpa::raw);
                    let index = (at.raw() & 4095) as usize / 8;
                    let entry = match (&self.guest, gpa) {
                        (Some(guest), Some(gpa)) if cell.host == 0 => {
                            guest.kernel.mem().load(EntrySlot::new(Frame::new(gpa >> 12), index))
                        }
                        _ => self.entry_in_memory(EntrySlot::new(at.frame(), index)),
                    };
                    StepView::Reference {
                        guest: cell.guest,
                        host: cell.host,
                        hpa: at.raw(),
                        gpa,
                        node: node.0,
                        served: served.name(),
                        entry: Entry(entry.bits()),
                        cycles,
                    }
                }
                What::Side { cell, at, node, served } => {
                    let (node, served) = (node.0, served.name());
                    StepView::Side { guest: cell.guest, hpa: at.raw(), node, served, cycles }
                }
                What::WalkCache { dim, row, down_to, from } => StepView::WalkCache {
                    host_dimension: dim == Dim::Host,
                    row,
                    skipped_from: from,
                    skipped_to: down_to,
                    cycles,
                },
                What::NestedTlb { row, gpa } => StepView::NestedTlb { row, gpa: gpa.raw(), cycles },
                What::Check(check) => StepView::Check { check: format!("{check:?}"), cycles },
            }
        };
        WalkView {
            cycles: walk.cycles(),
            references: walk.references(),
            steps: walk.steps.iter().map(step).collect(),
        }
    }

    /// Lines of entries from the middle of the largest area on, and the host's entries behind them.
    fn lines_of_largest(&self) -> Vec<GuestLine> {
        let Some(guest) = self.guest.as_ref().filter(|guest| guest.shadowed.is_none()) else {
            return Vec::new();
        };
        let regions = self.regions();
        let Some(area) = regions.iter().max_by_key(|r| (r.end - r.start, r.start)) else { return Vec::new() };
        let process = area.process;
        let mut groups = Vec::new();
        self.each_leaf(process, &mut |va, size| {
            let group = va / LINE_BYTES;
            if size == PageSize::Size4K && area.start <= va && va < area.end && groups.last() != Some(&group)
            {
                groups.push(group);
            }
        });
        let first = (groups.len() / 2).min(groups.len().saturating_sub(LINES));
        let found = self.process(process).ok().and_then(|p| guest.kernel.process(p.pid).ok());
        let (Some(it), Ok(vm)) = (found, self.host.vm(guest.vm)) else { return Vec::new() };
        let (of_process, of_vm) = (it.space().table(), vm.space().table());
        let guest = Table { mem: guest.kernel.mem(), root: of_process.root(), levels: of_process.levels() };
        let host = Table { mem: self.host.mem(), root: of_vm.root(), levels: of_vm.levels() };
        let entry = |va: u64| {
            let slot = guest.leaf(va)?;
            let gfn: Frame<GuestPhys> = guest.mem.load(slot).frame();
            let at = host.leaf(gfn.base().raw())?;
            let hfn: Frame<HostPhys> = host.mem.load(at).frame();
            Some(HostEntry { gfn: gfn.number(), hfn: hfn.number(), at: at.addr().raw() })
        };
        groups
            .iter()
            .skip(first)
            .take(LINES)
            .map(|group| GuestLine {
                process,
                va: group * LINE_BYTES,
                entries: std::array::from_fn(|i| entry(group * LINE_BYTES + ((i as u64) << 12))),
            })
            .collect()
    }

    /// The level-1 tables of all processes, beside each other.
    fn leaf_tables(&self) -> LeafTables {
        fn all<M: TableMemory>(kernel: &Kernel<M>, pid: ProcessId, visit: &mut impl FnMut(u64, u64)) {
            let Ok(it) = kernel.process(pid) else { return };
            let table = it.space().table();
            let table = Table { mem: kernel.mem(), root: table.root(), levels: table.levels() };
            table.each_leaf_table(&mut |at, frame| visit(at, frame.number()));
        }
        let processes = self.living();
        if processes.len() < 2 {
            return LeafTables::default();
        }
        let mut found: BTreeMap<u64, Vec<Option<u64>>> = BTreeMap::new();
        let (mut uses, mut frames) = (0, BTreeSet::new());
        for (index, process) in processes.iter().enumerate() {
            let Ok(Process { pid, .. }) = self.process(*process) else { continue };
            let mut visit = |at: u64, frame: u64| {
                found.entry(at).or_insert_with(|| vec![None; processes.len()])[index] = Some(frame);
                uses += 1;
                frames.insert(frame);
            };
            match &self.guest {
                None => all(&self.host, pid, &mut visit),
                Some(guest) => all(&guest.kernel, pid, &mut visit),
            }
        }
        let step = found.len().div_ceil(LEAF_TABLES).max(1);
        let tables = found.into_iter().step_by(step).collect();
        LeafTables { processes, tables, uses, frames: frames.len() as u64 }
    }

    fn process_segment(&self, process: u16) -> Option<std::ops::Range<u64>> {
        fn range<M: TableMemory>(kernel: &Kernel<M>, pid: ProcessId) -> Option<std::ops::Range<u64>> {
            let registers = kernel.process(pid).ok()?.space().segment()?.registers();
            Some(registers.range().start.raw()..registers.range().end.raw()).filter(|r| r.start < r.end)
        }
        let pid = self.process(process).ok()?.pid;
        match &self.guest {
            None => range(&self.host, pid),
            Some(guest) => range(&guest.kernel, pid),
        }
    }

    fn all_segments(&self) -> Vec<SegmentView> {
        let mut all = Vec::new();
        match &self.guest {
            None => {
                for (at, process) in self.host.processes().enumerate() {
                    all.extend(segment(process.space(), format!("process {at}: VA to PA")));
                }
            }
            Some(guest) => {
                for (at, process) in guest.kernel.processes().enumerate() {
                    all.extend(segment(process.space(), format!("process {at}: gVA to gPA")));
                }
                let vm = self.host.vm(guest.vm).ok();
                all.extend(vm.and_then(|vm| segment(vm.space(), "the VM: gPA to hPA".to_string())));
            }
        }
        all
    }
}

fn segment<I: Space, M: TableMemory>(space: &AddressSpace<I, M>, of: String) -> Option<SegmentView> {
    let segment = space.segment()?;
    let registers = segment.registers().save();
    Some(SegmentView {
        of,
        base: registers.base,
        limit: registers.limit,
        offset: registers.offset,
        escaped: segment
            .escaped()
            .take(ESCAPES)
            .map(|(page, why)| (page << 12, format!("{why:?}")))
            .collect(),
        escapes: segment.escaped().count() as u64,
    })
}
