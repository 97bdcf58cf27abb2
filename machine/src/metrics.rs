//! What a core counts.

use paging::Cell;

/// Where a reference was served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Served {
    /// Not made: the page-walk cache knew the table.
    WalkCache = 0,
    /// Not made: the nested TLB knew the page.
    NestedTlb = 1,
    /// The L1 data (or instruction) cache.
    L1 = 2,
    /// The core's L2.
    L2 = 3,
    /// The socket's last-level cache.
    Llc = 4,
    /// Memory of the core's own node.
    Local = 5,
    /// Memory of another node.
    Remote = 6,
}

impl Served {
    /// All places, nearest first.
    pub const ALL: [Served; 7] = [
        Served::WalkCache,
        Served::NestedTlb,
        Served::L1,
        Served::L2,
        Served::Llc,
        Served::Local,
        Served::Remote,
    ];
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Served::WalkCache => "PWC",
            Served::NestedTlb => "nTLB",
            Served::L1 => "L1",
            Served::L2 => "L2",
            Served::Llc => "LLC",
            Served::Local => "local",
            Served::Remote => "remote",
        }
    }
    /// Whether a memory reference was made at all.
    pub const fn is_reference(self) -> bool {
        self as u8 >= Served::L1 as u8
    }
}

/// Places of the grid: 0 to 5 in both dimensions.
const CELLS: usize = 36;

#[inline(always)]
fn place(cell: Cell) -> usize {
    (cell.guest as usize * 6 + cell.host as usize).min(CELLS - 1)
}

/// Walker references by place in the grid and by where they were served.
///
/// What a cache lets a walk skip is counted once, where the walk goes on, and
/// spread over the places that were skipped when somebody asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grid {
    references: [[u64; 7]; CELLS],
    /// By the levels of the table (4, 5) and the place that was skipped to.
    skips: [[[u64; CELLS]; 2]; 2],
}

impl Default for Grid {
    fn default() -> Self {
        Grid { references: [[0; 7]; CELLS], skips: [[[0; CELLS]; 2]; 2] }
    }
}

impl Grid {
    /// Counts a reference.
    #[inline(always)]
    pub fn count(&mut self, cell: Cell, served: Served) {
        self.references[place(cell)][served as usize] += 1;
    }
    /// A page-walk cache answered with the table of level `to`, in a table of
    /// `levels`: in row `to.guest` if that is in the host dimension, otherwise
    /// in the first column, down to `to.guest`.
    #[inline(always)]
    pub fn skip_tables(&mut self, to: Cell, levels: u8) {
        self.skips[0][usize::from(levels == 5)][place(to)] += 1;
    }
    /// The nested TLB answered for row `row`, under a table of `levels`.
    #[inline(always)]
    pub fn skip_row(&mut self, row: u8, levels: u8) {
        self.skips[1][usize::from(levels == 5)][place(Cell { guest: row, host: 0 })] += 1;
    }
    /// How often the reference at `cell` was served by `served`.
    pub fn get(&self, cell: Cell, served: Served) -> u64 {
        let level = if cell.host > 0 { cell.host } else { cell.guest };
        // Tables of 4 levels have no place of level 5.
        let deep_enough = |skips: &[[[u64; CELLS]; 2]; 2], cache: usize, at: Cell| {
            let of = |levels: u8| {
                if level <= levels { skips[cache][usize::from(levels == 5)][place(at)] } else { 0 }
            };
            of(4) + of(5)
        };
        match served {
            Served::WalkCache => (1..level)
                .map(|to| if cell.host > 0 { Cell { host: to, ..cell } } else { Cell { guest: to, ..cell } })
                .map(|to| deep_enough(&self.skips, 0, to))
                .sum(),
            Served::NestedTlb if cell.host > 0 => deep_enough(&self.skips, 1, Cell { host: 0, ..cell }),
            Served::NestedTlb => 0,
            _ => self.references[place(cell)][served as usize],
        }
    }
    /// All cells with a count, rows first.
    pub fn cells(&self) -> impl Iterator<Item = (Cell, [u64; 7])> + '_ {
        (0..CELLS as u8)
            .map(|index| Cell { guest: index / 6, host: index % 6 })
            .map(|cell| (cell, Served::ALL.map(|served| self.get(cell, served))))
            .filter(|(_, by)| by.iter().any(|n| *n > 0))
    }
    /// References really made.
    pub fn references(&self) -> u64 {
        self.references.iter().flatten().sum()
    }
    /// Counts by where they were served, over all cells.
    pub fn by_served(&self) -> [u64; 7] {
        self.cells().fold([0; 7], |mut sum, (_, by)| {
            sum.iter_mut().zip(by).for_each(|(s, n)| *s += n);
            sum
        })
    }
    /// Adds another grid.
    pub fn add(&mut self, other: &Grid) {
        let mine = self.references.as_flattened_mut().iter_mut();
        mine.zip(other.references.as_flattened()).for_each(|(m, t)| *m += t);
        let mine = self.skips.as_flattened_mut().as_flattened_mut().iter_mut();
        mine.zip(other.skips.as_flattened().as_flattened()).for_each(|(m, t)| *m += t);
    }
}

/// A histogram by powers of two: bucket `i` counts values in `[2^i, 2^(i+1))`, bucket 0 also 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log2Histogram(pub [u64; 24]);

impl Log2Histogram {
    /// Counts one value.
    #[inline(always)]
    pub fn count(&mut self, value: u64) {
        self.0[((63 - (value | 1).leading_zeros()) as usize).min(23)] += 1;
    }
    /// Adds another histogram.
    pub fn add(&mut self, other: &Log2Histogram) {
        self.0.iter_mut().zip(&other.0).for_each(|(m, t)| *m += t);
    }
    /// Values counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Counters of one core. Counts are exact for the modelled geometry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Accesses, fetches included.
    pub accesses: u64,
    /// Instruction fetches among them.
    pub fetches: u64,
    /// Accesses that write.
    pub writes: u64,
    /// First-level TLB misses of data accesses.
    pub l1d_tlb_misses: u64,
    /// First-level TLB misses of fetches.
    pub l1i_tlb_misses: u64,
    /// Second-level TLB misses of data accesses: each is a walk.
    pub stlb_misses: u64,
    /// Second-level TLB misses of fetches: each is a walk.
    pub stlb_fetch_misses: u64,
    /// Second-level hits on an entry that another address space brought in.
    pub shared_hits: u64,
    /// Walks made only because a store hit an entry whose D was not known to be set.
    pub dirty_walks: u64,
    /// Walks that ended in a fault.
    pub faulting_walks: u64,
    /// Walks that ended in a leaf.
    pub walks: u64,
    /// Walker references.
    pub grid: Grid,
    /// References to side structures (mask pages, tag tables), by where they were served.
    pub side: [u64; 7],
    /// Checks made by the walker or beside the TLB, by [`paging::Check`].
    pub checks: [u64; 5],
    /// First-level misses that segments beside the second-level TLB answered.
    pub direct_hits: u64,
    /// Data accesses and fetches by where their line was found ([`Served::L1`] on).
    pub data: [u64; 7],
    /// Latency of walks that ended in a leaf, in cycles.
    pub walk_cycles: Log2Histogram,
    /// Ticks of the walker's references to the process's table (or natively, to the only one), and to the VM's.
    pub dimension_ticks: [u64; 2],
    /// Cycles of second-level TLB hits, not hidden by anything.
    pub stlb_hit_cycles: u64,
}

impl Counters {
    /// Adds another core's counters.
    pub fn add(&mut self, o: &Counters) {
        self.accesses += o.accesses;
        self.fetches += o.fetches;
        self.writes += o.writes;
        self.l1d_tlb_misses += o.l1d_tlb_misses;
        self.l1i_tlb_misses += o.l1i_tlb_misses;
        self.stlb_misses += o.stlb_misses;
        self.stlb_fetch_misses += o.stlb_fetch_misses;
        self.shared_hits += o.shared_hits;
        self.direct_hits += o.direct_hits;
        self.dirty_walks += o.dirty_walks;
        self.faulting_walks += o.faulting_walks;
        self.walks += o.walks;
        self.grid.add(&o.grid);
        self.side.iter_mut().zip(&o.side).for_each(|(m, t)| *m += t);
        self.checks.iter_mut().zip(&o.checks).for_each(|(m, t)| *m += t);
        self.data.iter_mut().zip(&o.data).for_each(|(m, t)| *m += t);
        self.walk_cycles.add(&o.walk_cycles);
        self.dimension_ticks.iter_mut().zip(&o.dimension_ticks).for_each(|(m, t)| *m += t);
        self.stlb_hit_cycles += o.stlb_hit_cycles;
    }
}
