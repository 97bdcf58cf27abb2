//! One walk, written down step by step.

use crate::core::Core;
use crate::metrics::Served;
use crate::port::WalkPort;
use crate::timing::{TICKS, Ticks};
use crate::tlb::Hit;
use crate::uncore::Uncore;
use paging::{
    CachedTable, Cell, Check, Dim, Direct, Fault, Gpa, HostLeaf, Hpa, Intent, Leaf, NodeId, Port, TlbTag,
};
use paging::{Translation, Va};

/// What a walker did next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It loaded an entry.
    Reference {
        /// The reference's place in the grid.
        cell: Cell,
        /// The entry's address.
        at: Hpa,
        /// Under two dimensions: the guest-physical address of a guest's entry, or the one that a row of the
        /// host dimension translates.
        gpa: Option<Gpa>,
        /// The node of its memory.
        node: NodeId,
        /// Where it was served.
        served: Served,
    },
    /// It loaded from a structure that is no page table: a frame's tag, a mask page.
    Side {
        /// What for: the guest (or native) level, 0 for the data page.
        cell: Cell,
        /// The address.
        at: Hpa,
        /// The node of its memory.
        node: NodeId,
        /// Where it was served.
        served: Served,
    },
    /// A page-walk cache knew a table, so the levels above it were skipped.
    WalkCache {
        /// Which table.
        dim: Dim,
        /// The row of the grid, in the host dimension.
        row: u8,
        /// The levels skipped: from the root's down to this one.
        down_to: u8,
        /// The root's level.
        from: u8,
    },
    /// The nested TLB knew where a guest-physical page is.
    NestedTlb {
        /// The row of the grid.
        row: u8,
        /// The page.
        gpa: Gpa,
    },
    /// A check against registers or a small structure.
    Check(Check),
}

/// One step, and when it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What.
    pub what: What,
    /// Cycles that it took.
    pub cycles: u64,
}

/// A walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// How it ended.
    pub end: Result<Leaf, Fault>,
}

impl Explained {
    /// Cycles of all steps.
    pub fn cycles(&self) -> u64 {
        self.steps.iter().map(|s| s.cycles).sum()
    }
    /// References made.
    pub fn references(&self) -> usize {
        self.steps.iter().filter(|s| matches!(s.what, What::Reference { .. } | What::Side { .. })).count()
    }
}

/// Walks as they happen, for whoever wants to see them in time.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// In the order of their ends.
    pub walks: Vec<Recorded>,
    /// How many are wanted; later ones are not recorded.
    pub limit: usize,
}

impl Recorder {
    /// Whether it wants more.
    #[inline(always)]
    pub fn wants(&self) -> bool {
        self.walks.len() < self.limit
    }
}

/// A walk that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// What was translated.
    pub va: Va,
    /// For what.
    pub intent: Intent,
    /// When it began, by the core's clock.
    pub start: Ticks,
    /// Which of the core's walkers made it.
    pub walker: usize,
    /// Its steps.
    pub walk: Explained,
}

/// A port that takes every step through another one and writes it down.
struct Scribe<'a> {
    port: WalkPort<'a>,
    steps: Vec<Step>,
    /// The guest-physical page that is spoken of.
    page: Option<Gpa>,
}

impl<'a> Scribe<'a> {
    fn new(port: WalkPort<'a>) -> Self {
        Scribe { port, steps: Vec::new(), page: None }
    }
    fn write(&mut self, what: What, since: Ticks) {
        let cycles = (self.port.time - since) / TICKS;
        self.steps.push(Step { what, cycles });
    }
    /// Writes down the reference beside the tables that the port has just made; `before` are its counts of them before.
    fn side(&mut self, cell: Cell, at: Hpa, before: [u64; Served::ALL.len()], since: Ticks) {
        let now = self.port.counters.side;
        let served = Served::ALL.into_iter().find(|s| now[*s as usize] != before[*s as usize]);
        let node = self.port.uncore.memory.node_of(at.raw() >> 6);
        self.write(What::Side { cell, at, node, served: served.unwrap_or(Served::L1) }, since);
    }
}

impl Port for Scribe<'_> {
    fn reference(&mut self, cell: Cell, at: Hpa) {
        let since = self.port.time;
        let before = Served::ALL.map(|s| self.port.counters.grid.get(cell, s));
        self.port.reference(cell, at);
        let served = Served::ALL
            .into_iter()
            .find(|s| self.port.counters.grid.get(cell, *s) != before[*s as usize])
            .unwrap_or(Served::L1);
        let node = self.port.uncore.memory.node_of(at.raw() >> 6);
        let gpa = self.page.map(|gpa| match cell.host {
            0 => Gpa::new(gpa.raw() & !4095 | at.raw() & 4095),
            _ => gpa,
        });
        self.write(What::Reference { cell, at, gpa, node, served }, since);
    }
    fn side_reference(&mut self, cell: Cell, at: Hpa) {
        let since = self.port.time;
        let before = self.port.counters.side;
        self.port.side_reference(cell, at);
        self.side(cell, at, before, since);
    }
    fn check(&mut self, check: Check) {
        let since = self.port.time;
        self.port.check(check);
        self.write(What::Check(check), since);
    }
    fn late_check(&mut self, check: Check, cell: Cell, at: Hpa) {
        // What it adds to the walk is the wait for the late check before.
        let since = self.port.time;
        let before = self.port.counters.side;
        self.port.late_check(check, cell, at);
        self.side(cell, at, before, since);
        self.steps.push(Step { what: What::Check(check), cycles: 0 });
    }
    fn cached_table(&mut self, dim: Dim, addr: u64, levels: u8, row: u8) -> Option<CachedTable> {
        let since = self.port.time;
        let found = self.port.cached_table(dim, addr, levels, row)?;
        if dim == Dim::Guest {
            self.page = Some(Gpa::new(found.frame << 12));
        }
        self.write(What::WalkCache { dim, row, down_to: found.level + 1, from: levels }, since);
        Some(found)
    }
    fn cache_table(&mut self, dim: Dim, addr: u64, table: CachedTable) {
        self.port.cache_table(dim, addr, table);
    }
    fn cached_host(&mut self, gpa: Gpa, write: bool, row: u8, levels: u8) -> Option<HostLeaf> {
        let since = self.port.time;
        self.page = Some(gpa);
        let found = self.port.cached_host(gpa, write, row, levels)?;
        self.write(What::NestedTlb { row, gpa }, since);
        Some(found)
    }
    fn cache_host(&mut self, gpa: Gpa, leaf: HostLeaf) {
        self.port.cache_host(gpa, leaf);
    }
}

impl<T: TlbTag> Core<T> {
    /// Walks for `va` whatever the TLBs hold, writing the steps down. Caches
    /// and accessed bits change as by any walk; TLBs, clock and counts of walks do not.
    pub fn explain<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        va: Va,
        intent: Intent,
    ) -> Explained {
        let group = T::group_va(&self.context, va);
        let start = self.timing.elapsed();
        let mut scribe = Scribe::new(self.port(uncore, start));
        match translation.direct(group) {
            Direct::Off => {}
            Direct::Miss => scribe.check(Check::Direct),
            Direct::Hit(leaf) => {
                scribe.check(Check::Direct);
                if leaf.rights.allow(intent) {
                    return Explained { steps: scribe.steps, end: Ok(leaf) };
                }
            }
        }
        let end = translation.walk(&mut scribe, group, intent);
        Explained { steps: scribe.steps, end }
    }

    /// Walks at `start`, writes the walk down and ends it: a way of its own to the end, as what a walk found would
    /// go through memory where it met the other.
    #[cold]
    #[inline(never)]
    pub(crate) fn recorded_walk<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        va: Va,
        intent: Intent,
        (walker, start): (usize, Ticks),
        missed: bool,
    ) -> Result<(Hit, Ticks), Fault> {
        let group = T::group_va(&self.context, va);
        let mut scribe = Scribe::new(self.port(uncore, start));
        let end = translation.walk(&mut scribe, group, intent);
        let (time, checked, steps) = (scribe.port.time, scribe.port.checked, scribe.steps);
        if let Some(recorder) = &mut self.recorder {
            let walk = Explained { steps, end };
            recorder.walks.push(Recorded { va: group, intent, start, walker, walk });
        }
        self.end_walk::<X>(va, intent, (walker, start, time), checked, missed, end)
    }

    /// Which level of TLBs would answer a load of `va`, first (1) or second (2).
    pub fn in_tlb(&mut self, va: Va) -> Option<u8> {
        let group = T::group_va(&self.context, va);
        if self.l1d_tlb.lookup(va, &self.context).is_some() {
            Some(1)
        } else {
            self.stlb.lookup(group, &self.context).map(|_| 2)
        }
    }

    /// Forgets what the walk caches hold: the next walk is made in full.
    pub fn forget_walk_caches(&mut self) {
        self.walk_caches.flush_all();
    }
}
