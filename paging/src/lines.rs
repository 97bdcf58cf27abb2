//! How a guest's page tables lie in the host's: the distinct cache lines of host
//! page-table entries behind each cache line of guest entries.
//!
//! A guest line has the entries of 8 neighbouring pages; the host entries that
//! translate those pages are on 1 to 8 lines, depending on which guest frames the pages
//! have. A walker that misses the TLB for all of them loads that many lines
//! (`PTEMagnet`, ASPLOS 2021, calls the mean the fragmentation of the host's page table). Counted on
//! the bits of both tables as they are.

use crate::addr::{Frame, GuestPhys, HostPhys, PageSize};
use crate::entry::Entry;
use crate::memory::{ENTRIES, Slot, TableMemory};

/// Entries of a cache line.
const LINE: usize = 8;

/// Guest lines by how many lines their host entries are on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HostLines {
    /// Groups of 8 pages that are all mapped: `whole[i]` have their entries on `i + 1` lines.
    pub whole: [u64; LINE],
    /// Groups of 2 to 7 mapped pages, in the same way.
    pub partial: [u64; LINE],
    /// Groups of one mapped page: there is nothing to keep together.
    pub single: u64,
    /// Guest pages above 4 KiB: their entries are not in a level-1 line.
    pub huge: u64,
    /// Mapped 4 KiB pages that the host has not backed yet.
    pub unbacked: u64,
}

impl HostLines {
    /// Lines per whole group, on average; 0 if there is none.
    pub fn mean_whole(&self) -> f64 {
        mean(&[self.whole])
    }
    /// Lines per group of at least two pages, on average; 0 if there is none.
    pub fn mean(&self) -> f64 {
        mean(&[self.whole, self.partial])
    }
    /// Adds another table's.
    pub fn add(&mut self, other: &HostLines) {
        for (mine, theirs) in [(&mut self.whole, &other.whole), (&mut self.partial, &other.partial)] {
            mine.iter_mut().zip(theirs).for_each(|(m, t)| *m += t);
        }
        self.single += other.single;
        self.huge += other.huge;
        self.unbacked += other.unbacked;
    }

    fn count(&mut self, pages: usize, lines: usize) {
        match pages {
            0 => {}
            1 => self.single += 1,
            LINE => self.whole[lines - 1] += 1,
            _ => self.partial[lines - 1] += 1,
        }
    }
}

fn mean(histograms: &[[u64; LINE]]) -> f64 {
    let (mut groups, mut lines) = (0, 0);
    for histogram in histograms {
        for (at, count) in histogram.iter().enumerate() {
            groups += count;
            lines += count * (at as u64 + 1);
        }
    }
    if groups == 0 { 0.0 } else { lines as f64 / groups as f64 }
}

/// A table by its root and levels.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a, M: TableMemory> {
    /// Where its bits are.
    pub mem: &'a M,
    /// Its root.
    pub root: Frame<M::Space>,
    /// 4 or 5.
    pub levels: u8,
}

impl<M: TableMemory> Table<'_, M> {
    /// Calls `visit` with the address and size of every leaf, in order of addresses.
    pub fn each_leaf(&self, visit: &mut impl FnMut(u64, PageSize)) {
        self.below(self.root, self.levels, 0, visit);
    }

    /// Calls `visit` with the first address and the frame of every level-1 table, in order of addresses.
    pub fn each_leaf_table(&self, visit: &mut impl FnMut(u64, Frame<M::Space>)) {
        let mut todo = alloc::vec![(self.root, self.levels, 0u64)];
        while let Some((table, level, start)) = todo.pop() {
            if level == 1 {
                visit(start, table);
                continue;
            }
            // The last one is taken first.
            for index in (0..ENTRIES).rev() {
                let entry = self.mem.load(Slot::new(table, index));
                if entry.is_table(level) {
                    let at = start + ((index as u64) << (3 + 9 * u32::from(level)));
                    todo.push((entry.frame(), level - 1, at));
                }
            }
        }
    }

    fn below(&self, table: Frame<M::Space>, level: u8, start: u64, visit: &mut impl FnMut(u64, PageSize)) {
        for index in 0..ENTRIES {
            let entry = self.mem.load(Slot::new(table, index));
            let at = start + ((index as u64) << (3 + 9 * u32::from(level)));
            if entry.is_table(level) {
                self.below(entry.frame(), level - 1, at, visit);
            } else if entry.is_leaf(level)
                && let Some(size) = PageSize::from_level(level)
            {
                visit(at, size);
            }
        }
    }

    /// The place of the leaf that translates `addr`.
    pub fn leaf(&self, addr: u64) -> Option<Slot<M::Space>> {
        let (mut at, mut level) = (self.root, self.levels);
        loop {
            let slot = Slot::new(at, (addr >> (3 + 9 * u32::from(level))) as usize % ENTRIES);
            let entry = self.mem.load(slot);
            if !entry.is_table(level) {
                return entry.is_leaf(level).then_some(slot);
            }
            at = entry.frame();
            level -= 1;
        }
    }
}

/// Counts a guest's table `guest` against its VM's table `host`.
pub fn host_lines<G, H>(guest: Table<'_, G>, host: Table<'_, H>) -> HostLines
where
    G: TableMemory<Space = GuestPhys>,
    H: TableMemory<Space = HostPhys>,
{
    let mut counted = HostLines::default();
    let mut todo = alloc::vec![(guest.root, guest.levels)];
    while let Some((table, level)) = todo.pop() {
        let load = |index| guest.mem.load(Slot::new(table, index));
        if level > 1 {
            for entry in (0..ENTRIES).map(load) {
                if entry.is_table(level) {
                    todo.push((entry.frame(), level - 1));
                } else if entry.is_leaf(level) {
                    counted.huge += 1;
                }
            }
            continue;
        }
        for group in (0..ENTRIES).step_by(LINE) {
            let mut lines = [0; LINE];
            let (mut pages, mut distinct) = (0, 0);
            for entry in (group..group + LINE).map(load).filter(|entry: &Entry| entry.is_leaf(1)) {
                let gfn: Frame<GuestPhys> = entry.leaf_frame(PageSize::Size4K);
                let Some(slot) = host.leaf(gfn.base().raw()) else {
                    counted.unbacked += 1;
                    continue;
                };
                pages += 1;
                let line = slot.addr().raw() >> 6;
                if !lines[..distinct].contains(&line) {
                    lines[distinct] = line;
                    distinct += 1;
                }
            }
            counted.count(pages, distinct);
        }
    }
    counted
}
