//! What a core counts.

use crate::timing::Ticks;
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

/// Places of the grid in one dimension: 0 to 5, and as many as make a place a matter of bits.
const WIDTH: usize = 8;
/// Places of the grid.
const CELLS: usize = WIDTH * WIDTH;

#[inline(always)]
fn place(cell: Cell) -> usize {
    cell.guest as usize % WIDTH * WIDTH + cell.host as usize % WIDTH
}

/// References of one place that were served at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Group {
    count: u64,
    /// What they took.
    ticks: Ticks,
}

/// Walker references by place in the grid and by where they were served.
///
/// What a cache lets a walk skip is counted once, where the walk goes on, and
/// spread over the places that were skipped when somebody asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grid {
    /// As many groups as make a place a matter of bits.
    references: [[Group; WIDTH]; CELLS],
    /// By the levels of the table (4, 5) and the place that was skipped to.
    skips: [[[u64; CELLS]; 2]; 2],
}

impl Default for Grid {
    fn default() -> Self {
        Grid { references: [[Group::default(); WIDTH]; CELLS], skips: [[[0; CELLS]; 2]; 2] }
    }
}

impl Grid {
    /// Counts a reference that took `ticks`.
    #[inline(always)]
    pub fn count(&mut self, cell: Cell, served: Served, ticks: Ticks) {
        let group = &mut self.references[place(cell)][served as usize];
        group.count += 1;
        group.ticks += ticks;
    }
    /// Ticks of the references at `cell`, by where they were served.
    pub fn ticks(&self, cell: Cell) -> [Ticks; 7] {
        Served::ALL.map(|served| self.references[place(cell)][served as usize].ticks)
    }
    /// Ticks of the references to the process's table (or natively, to the only one), and to the VM's.
    pub fn dimension_ticks(&self) -> [Ticks; 2] {
        let mut sum = [0; 2];
        for (index, by) in self.references.iter().enumerate() {
            sum[usize::from(index % WIDTH > 0)] += by.iter().map(|group| group.ticks).sum::<Ticks>();
        }
        sum
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
            _ => self.references[place(cell)][served as usize].count,
        }
    }
    /// All cells with a count, rows first.
    pub fn cells(&self) -> impl Iterator<Item = (Cell, [u64; 7])> + '_ {
        (0..CELLS as u8)
            .map(|index| Cell { guest: index / WIDTH as u8, host: index % WIDTH as u8 })
            .map(|cell| (cell, Served::ALL.map(|served| self.get(cell, served))))
            .filter(|(_, by)| by.iter().any(|n| *n > 0))
    }
    /// References really made.
    pub fn references(&self) -> u64 {
        self.references.iter().flatten().map(|group| group.count).sum()
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
        mine.zip(other.references.as_flattened()).for_each(|(m, t)| {
            m.count += t.count;
            m.ticks += t.ticks;
        });
        let mine = self.skips.as_flattened_mut().as_flattened_mut().iter_mut();
        mine.zip(other.skips.as_flattened().as_flattened()).for_each(|(m, t)| *m += t);
    }
}

/// Buckets of a [`LatencyHistogram`].
const BUCKETS: usize = 92;

/// A histogram of cycles: four buckets to each power of two, so that a bucket is at most a quarter
/// of its values wide; 0 to 3 have one each. The last one holds all that is longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LatencyHistogram([u64; BUCKETS]);

impl Default for LatencyHistogram {
    fn default() -> Self {
        LatencyHistogram([0; BUCKETS])
    }
}

impl LatencyHistogram {
    /// Counts one value.
    #[inline(always)]
    pub fn count(&mut self, value: u64) {
        self.0[Self::bucket(value)] += 1;
    }
    #[inline(always)]
    fn bucket(value: u64) -> usize {
        if value < 4 {
            return value as usize;
        }
        let power = 63 - value.leading_zeros() as usize;
        ((power - 1) * 4 + (value >> (power - 2) & 3) as usize).min(BUCKETS - 1)
    }
    /// The first value of a bucket.
    fn start(bucket: usize) -> u64 {
        if bucket < 4 { bucket as u64 } else { (4 + bucket as u64 % 4) << (bucket / 4 - 1) }
    }
    /// Buckets that counted something: their first value, the first of the next one, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let all = self.0.iter().enumerate();
        all.filter(|(_, n)| **n > 0).map(|(i, n)| (Self::start(i), Self::start(i + 1), *n))
    }
    /// Adds another histogram.
    pub fn add(&mut self, other: &LatencyHistogram) {
        self.0.iter_mut().zip(&other.0).for_each(|(m, t)| *m += t);
    }
    /// What was counted since `before`, an earlier state of this one.
    #[must_use]
    pub fn since(&self, before: &LatencyHistogram) -> LatencyHistogram {
        let mut new = self.clone();
        new.0.iter_mut().zip(&before.0).for_each(|(n, b)| *n -= b);
        new
    }
    /// Values counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
    /// The value that `share` (0 to 1) of all values do not exceed: as far as the buckets tell, the last of its bucket.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.total() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, n) in self.0.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Self::start(bucket + 1) - 1;
            }
        }
        0
    }
    /// The same by powers of two: `i` counts values in `[2^i, 2^(i+1))`, 0 also 0.
    pub fn by_powers(&self) -> [u64; 24] {
        let mut powers = [0; 24];
        for (bucket, n) in self.0.iter().enumerate() {
            powers[Self::start(bucket).max(1).ilog2() as usize] += n;
        }
        powers
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
    pub walk_cycles: LatencyHistogram,
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
        self.stlb_hit_cycles += o.stlb_hit_cycles;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_bucket_that_holds_it() {
        let mut last = 0;
        for value in
            (0..5000).chain((12..25).flat_map(|p| [(1 << p) - 1, 1 << p, (1 << p) + 12345 % (1 << p)]))
        {
            let bucket = LatencyHistogram::bucket(value);
            assert!(LatencyHistogram::start(bucket) <= value, "{value}");
            assert!(value < LatencyHistogram::start(bucket + 1) || bucket == BUCKETS - 1, "{value}");
            last = last.max(bucket);
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(LatencyHistogram::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_a_sorted_list_within_a_bucket() {
        let mut values: Vec<u64> = (0..1000).map(|i| i * i % 7919 + 20).collect();
        let mut histogram = LatencyHistogram::default();
        values.iter().for_each(|v| histogram.count(*v));
        values.sort_unstable();
        for (share, at) in [(0.0, 0), (0.5, 499), (0.9, 899), (0.99, 989), (1.0, 999)] {
            let (exact, found) = (values[at], histogram.quantile(share));
            assert!(exact <= found && found < exact + exact / 4 + 1, "{share}: {exact}, found {found}");
        }
        assert_eq!(histogram.by_powers().iter().sum::<u64>(), 1000);
        let small = values.iter().filter(|v| (32..64).contains(*v)).count() as u64;
        assert_eq!(histogram.by_powers()[5], small);
        let before = histogram.clone();
        histogram.count(77);
        assert_eq!(histogram.since(&before).buckets().collect::<Vec<_>>(), [(64, 80, 1)]);
    }
}
