//! The walker's way to memory: every step of a walk is looked up, counted and
//! charged here.

use crate::datapath::DataPath;
use crate::metrics::Counters;
use crate::timing::Ticks;
use crate::uncore::Uncore;
use crate::walkcache::WalkCaches;
use paging::{CachedTable, Cell, Check, Dim, Gpa, HostLeaf, Hpa, Port};

/// The walker of one core during one walk.
#[derive(Debug)]
pub(crate) struct WalkPort<'a> {
    pub path: &'a mut DataPath,
    pub uncore: &'a mut Uncore,
    pub caches: &'a mut WalkCaches,
    pub counters: &'a mut Counters,
    pub time: Ticks,
    /// When the newest late check is answered.
    pub checked: Ticks,
}

impl Port for WalkPort<'_> {
    #[inline(always)]
    fn reference(&mut self, cell: Cell, at: Hpa) {
        let (served, latency) = self.path.walker_load(self.uncore, at.raw() >> 6, self.time);
        self.counters.grid.count(cell, served, latency);
        // Each level's address comes from the one before: walks are serial.
        self.time += latency;
    }

    fn side_reference(&mut self, _cell: Cell, at: Hpa) {
        let (served, latency) = self.path.walker_load(self.uncore, at.raw() >> 6, self.time);
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
