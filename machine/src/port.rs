//! The walker's way to memory: every step of a walk is looked up, counted and
//! charged here.

use crate::cache::Cache;
use crate::core::Latencies;
use crate::metrics::{Counters, Served};
use crate::timing::Ticks;
use crate::uncore::Uncore;
use crate::walkcache::WalkCaches;
use paging::{CachedTable, Cell, Check, Dim, Gpa, HostLeaf, Hpa, NodeId, Port};

/// The data caches and memory as seen from one core.
#[derive(Debug)]
pub(crate) struct MemoryPath<'a> {
    pub l1d: &'a mut Cache,
    pub l2: &'a mut Cache,
    pub uncore: &'a mut Uncore,
    pub latencies: &'a Latencies,
    pub socket: usize,
    pub node: NodeId,
    pub skips_l1: bool,
}

impl MemoryPath<'_> {
    /// A load of `line` at `now`: where it was served, and after how long.
    #[inline(always)]
    fn load(&mut self, line: u64, now: Ticks) -> (Served, Ticks) {
        if !self.skips_l1 && self.l1d.access(line) {
            (Served::L1, self.latencies.l1)
        } else if self.l2.access(line) {
            (Served::L2, self.latencies.l2)
        } else {
            self.uncore.access(self.socket, self.node, line, now, self.latencies.llc)
        }
    }
}

/// The walker of one core during one walk.
#[derive(Debug)]
pub(crate) struct WalkPort<'a> {
    pub path: MemoryPath<'a>,
    pub caches: &'a mut WalkCaches,
    pub counters: &'a mut Counters,
    pub time: Ticks,
    /// When the newest late check is answered.
    pub checked: Ticks,
}

impl Port for WalkPort<'_> {
    #[inline(always)]
    fn reference(&mut self, cell: Cell, at: Hpa) {
        let (served, latency) = self.path.load(at.raw() >> 6, self.time);
        self.counters.grid.count(cell, served, latency);
        // Each level's address comes from the one before: walks are serial.
        self.time += latency;
    }

    fn side_reference(&mut self, _cell: Cell, at: Hpa) {
        let (served, latency) = self.path.load(at.raw() >> 6, self.time);
        self.counters.side[served as usize] += 1;
        self.time += latency;
    }

    #[inline(always)]
    fn check(&mut self, check: Check) {
        self.counters.checks[check as usize] += 1;
        // A filter is looked up while its segment's registers are compared.
        if check != Check::EscapeFilter {
            self.time += self.path.latencies.check;
        }
    }

    fn late_check(&mut self, check: Check, cell: Cell, at: Hpa) {
        // What the walker read last is used from here on: the check of the table that it was in must be answered.
        self.time = self.time.max(self.checked);
        let since = self.time;
        self.side_reference(cell, at);
        self.check(check);
        self.checked = core::mem::replace(&mut self.time, since);
    }

    #[inline(always)]
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, row: u8) -> Option<CachedTable> {
        self.time += self.path.latencies.walk_cache;
        let found = self.caches.table(dim, addr, levels)?;
        let to = match dim {
            Dim::Guest => Cell { guest: found.level, host: 0 },
            Dim::Host => Cell { guest: row, host: found.level },
        };
        self.counters.grid.skip_tables(to, levels);
        Some(found)
    }

    #[inline(always)]
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        self.caches.insert_table(dim, addr, table);
    }

    #[inline(always)]
    fn cached_host(&mut self, gpa: Gpa, write: bool, row: u8, levels: u8) -> Option<HostLeaf> {
        let leaf = self.caches.host(gpa).filter(|leaf| leaf.dirty || !write)?;
        self.counters.grid.skip_row(row, levels);
        self.time += self.path.latencies.walk_cache;
        Some(leaf)
    }

    #[inline(always)]
    fn cache_host(&mut self, gpa: Gpa, leaf: HostLeaf) {
        self.caches.insert_host(gpa, leaf);
    }
}
