//! What replication costs the operations on areas: `mmap` with populate,
//! `mprotect` and `munmap` of 4 KiB, 8 MiB and 4 GiB on four nodes, against
//! tables with one copy; beside it Mitosis's table 5 (cycles per call, as the
//! artifact's reference data have them). Then the memory that copies take,
//! against the formula behind table 4.
//!
//! `cargo bench -p mechanisms --bench mitosis_ops`
//!
//! Wall clock is of this machine, which need not have four nodes: it shows
//! instructions and caches, not remote latency. The counts beside it are exact:
//! references to entries, and cache lines in passes, on all nodes.

use mechanisms::mitosis::{Lazy, Replicated};
use paging::frames::{NoFrame, NodeSet};
use paging::*;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

const PER_NODE: u64 = 1 << 24;

#[derive(Debug, Default)]
struct Pool {
    next: [u64; 8],
    free: [Vec<u64>; 8],
}

impl TableFrames<HostPhys> for Pool {
    fn alloc_table(&mut self, node: NodeId, _strict: bool) -> Result<Hfn, NoFrame> {
        let n = node.index();
        let frame = self.free[n].pop().unwrap_or_else(|| {
            self.next[n] += 1;
            self.next[n]
        });
        if frame < PER_NODE / 2 {
            return Ok(Hfn::new(n as u64 * PER_NODE + frame));
        }
        Err(NoFrame::for_table(node, false))
    }
    fn free_table(&mut self, frame: Hfn) {
        self.free[(frame.number() / PER_NODE) as usize].push(frame.number() % PER_NODE);
    }
    fn node_of(&self, frame: Hfn) -> NodeId {
        NodeId((frame.number() / PER_NODE) as u8)
    }
}

/// The published scheme: each entry of a range is read from and written around
/// the ring by itself.
#[derive(Debug)]
struct EntryByEntry(Replicated<HostPhys>);

type Mem = Arena<HostPhys>;

impl TableOps<Virt, Mem> for EntryByEntry {
    fn create_root(&mut self, env: &mut TableEnv<'_, Mem>, level: u8, node: NodeId) -> Result<Hfn, NoFrame> {
        TableOps::<Virt, Mem>::create_root(&mut self.0, env, level, node)
    }
    fn hardware_root(&self, master: Hfn, node: NodeId) -> Hfn {
        TableOps::<Virt, Mem>::hardware_root(&self.0, master, node)
    }
    fn alloc(
        &mut self,
        env: &mut TableEnv<'_, Mem>,
        at: TableAt<Virt>,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<NewTable<HostPhys>, NoFrame> {
        self.0.alloc(env, at, node, visibility)
    }
    fn free(&mut self, env: &mut TableEnv<'_, Mem>, table: Hfn, at: TableAt<Virt>) {
        self.0.free(env, table, at);
    }
    fn read(&self, env: &mut TableEnv<'_, Mem>, slot: Slot<HostPhys>, level: u8) -> Entry {
        TableOps::<Virt, Mem>::read(&self.0, env, slot, level)
    }
    fn write(&mut self, env: &mut TableEnv<'_, Mem>, slot: Slot<HostPhys>, level: u8, entry: Entry) {
        TableOps::<Virt, Mem>::write(&mut self.0, env, slot, level, entry);
    }
    fn take(&mut self, env: &mut TableEnv<'_, Mem>, slot: Slot<HostPhys>, level: u8) -> Entry {
        TableOps::<Virt, Mem>::take(&mut self.0, env, slot, level)
    }
    fn modify(
        &mut self,
        env: &mut TableEnv<'_, Mem>,
        slot: Slot<HostPhys>,
        level: u8,
        set: Flags,
        clear: Flags,
    ) -> Entry {
        TableOps::<Virt, Mem>::modify(&mut self.0, env, slot, level, set, clear)
    }
}

struct World {
    mem: Mem,
    pool: Pool,
    work: Work,
    /// Pages to zero in turn, more than the caches hold.
    data: Vec<[u64; 512]>,
}

impl World {
    fn env(&mut self) -> TableEnv<'_, Mem> {
        TableEnv { mem: &mut self.mem, frames: &mut self.pool, node: NodeId(0), work: &mut self.work }
    }
}

/// A row of the table: time and references, summed over the repetitions.
#[derive(Clone, Copy, Default)]
struct Cost {
    time: Duration,
    single: u64,
    lines: u64,
}

impl Cost {
    fn of(world: &mut World, work: impl FnOnce(&mut World)) -> Cost {
        world.work = Work::default();
        let start = Instant::now();
        work(world);
        let time = start.elapsed();
        let sum = |counts: [u32; 8]| counts.iter().map(|&c| u64::from(c)).sum::<u64>();
        Cost {
            time,
            single: sum(world.work.table_reads) + sum(world.work.table_writes),
            lines: sum(world.work.pass_lines),
        }
    }
}

const RW: Flags = Flags::USER.with(Flags::WRITABLE);

fn populate(world: &mut World, table: &mut PageTable<Virt, Mem>, pages: u64, zero: bool) {
    for page in 0..pages {
        if zero {
            let at = page as usize % world.data.len();
            black_box(&mut world.data[at]).fill(0);
        }
        let (va, frame) = (Va::new(page << 12), Hfn::new(PER_NODE / 2 + page));
        let env = &mut world.env();
        table.map(env, va, frame, PageSize::Size4K, RW, NodeId(0), Visibility::Private).expect("room");
    }
}

fn protect(world: &mut World, table: &mut PageTable<Virt, Mem>, range: Range<u64>, write: bool) {
    let mut flush = Flush::none();
    let change = &mut |leaf: LeafAt<Virt>| {
        if write { leaf.entry.with(Flags::WRITABLE) } else { leaf.entry.without(Flags::WRITABLE) }
    };
    table.update_range(&mut world.env(), range, Visibility::Private, &mut flush, change).expect("room");
    let _ = black_box(flush.discharge(|_, _| {}));
}

fn unmap(world: &mut World, table: &mut PageTable<Virt, Mem>, range: Range<u64>) {
    let mut flush = Flush::none();
    table.unmap_range(&mut world.env(), range, &mut flush).expect("room");
    let released = flush.discharge(|_, _| {});
    table.free_tables(&mut world.env(), &released);
    black_box(released);
}

/// mmap+populate with and without zeroing, mprotect, munmap.
fn run(ops: Box<dyn TableOps<Virt, Mem>>, walkers: NodeSet, pages: u64, repeat: usize) -> [Cost; 4] {
    let mut world = World {
        mem: Arena::new(PER_NODE * 5),
        pool: Pool::default(),
        work: Work::default(),
        data: vec![[1; 512]; 1 << 15],
    };
    let world = &mut world;
    let mut table = PageTable::new(ops, &mut world.env(), 4, NodeId(0)).expect("a root");
    table.walked_by(walkers);
    // A neighbour keeps the upper tables, as in a process with other areas.
    let far = Va::new((1 << 30) - 4096 + (8 << 30));
    let env = &mut world.env();
    table.map(env, far, Hfn::new(9), PageSize::Size4K, RW, NodeId(0), Visibility::Private).expect("room");
    let range = 0..pages << 12;
    let mut best = [Cost { time: Duration::MAX, ..Cost::default() }; 4];
    for _ in 0..repeat {
        let mapped = Cost::of(world, |w| populate(w, &mut table, pages, false));
        unmap(world, &mut table, range.clone());
        let zeroed = Cost::of(world, |w| populate(w, &mut table, pages, true));
        let protected = Cost::of(world, |w| protect(w, &mut table, range.clone(), false));
        protect(world, &mut table, range.clone(), true);
        let unmapped = Cost::of(world, |w| unmap(w, &mut table, range.clone()));
        for (best, now) in best.iter_mut().zip([mapped, zeroed, protected, unmapped]) {
            if now.time < best.time {
                *best = now;
            }
        }
    }
    best
}

/// Mitosis table 5, private, 4 nodes against off: reference data of the artifact.
const PAPER: [[f64; 3]; 3] = [[1.07, 1.09, 1.05], [1.22, 4.27, 4.33], [1.07, 1.52, 1.58]];

/// A way to keep tables, and the nodes that the program runs on.
struct Tables {
    name: &'static str,
    /// Tables with one copy: those that follow are measured against it.
    is_base: bool,
    walkers: NodeSet,
    ops: Box<dyn TableOps<Virt, Mem>>,
}

/// Each scheme after its own tables with one copy.
fn kinds() -> [Tables; 7] {
    let (none, four, all) = (NodeSet::default(), NodeSet::first(4), NodeSet::ALL);
    let of = |name, is_base, walkers, ops| Tables { name, is_base, walkers, ops };
    [
        of("one copy", true, all, Box::<OneCopy>::default()),
        of("off", false, all, Box::new(Replicated::new(none))),
        // The case that was published: the program runs on one node.
        of("4, run on 1", false, NodeSet::first(1), Box::new(Replicated::new(four))),
        of("4, run on all", false, all, Box::new(Replicated::new(four))),
        of("4, lazy", false, all, Box::new(Lazy::new(four, 4))),
        of("published: off", true, all, Box::new(EntryByEntry(Replicated::new(none)))),
        // Four replicas and a master.
        of("published: 4+1", false, all, Box::new(EntryByEntry(Replicated::new(NodeSet::first(5))))),
    ]
}

fn main() {
    let sizes = [("4 KiB", 1u64, 2000), ("8 MiB", 2048, 60), ("4 GiB", 1 << 20, 4)];
    println!("best of n; ns and references a call; ratio to one copy; paper: Mitosis table 5 [F:AE-M]");
    println!(
        "{:22} {:>6} {:16} {:>12} {:>9} {:>10} {:>7} {:>7} {:>7}",
        "operation", "size", "tables", "ns", "single", "lines", "x time", "x refs", "paper"
    );
    for (column, (name, pages, repeat)) in sizes.into_iter().enumerate() {
        let mut base = [Cost::default(); 4];
        let mut rows: [Vec<String>; 4] = Default::default();
        for Tables { name: kind, is_base, walkers, ops } in kinds() {
            let costs = run(ops, walkers, pages, repeat);
            if is_base {
                base = costs;
            }
            let labels = ["mmap, tables only", "mmap, pages zeroed", "mprotect", "munmap"];
            for (op, cost) in costs.into_iter().enumerate() {
                let paper = match op {
                    0 => String::new(),
                    _ => format!("{:.2}", PAPER[op - 1][column]),
                };
                let refs = |c: Cost| (c.single + c.lines) as f64;
                rows[op].push(format!(
                    "{:22} {name:>6} {kind:16} {:>12} {:>9} {:>10} {:>7.2} {:>7.2} {paper:>7}",
                    labels[op],
                    cost.time.as_nanos(),
                    cost.single,
                    cost.lines,
                    cost.time.as_secs_f64() / base[op].time.as_secs_f64(),
                    refs(cost) / refs(base[op]),
                ));
            }
        }
        rows.iter().flatten().for_each(|row| println!("{row}"));
    }
    memory();
}

/// Mitosis table 4: memory with R copies over memory with one.
fn memory() {
    println!(
        "\nmemory with R copies over that with one; formula 1 + (R-1) PT / (data + PT) [D]; table 4 [M-m]"
    );
    println!("{:>8} {:>3} {:>8} {:>8} {:>8} {:>10}", "data", "R", "pages", "ours", "formula", "published");
    let table4 = [("1 MiB", 256u64, [1.015, 1.046, 1.108]), ("1 GiB", 1 << 18, [1.002, 1.006, 1.014])];
    for (name, data, paper) in table4 {
        for (copies, paper) in [2usize, 4, 8].into_iter().zip(paper) {
            let mut world = World {
                mem: Arena::new(PER_NODE * 8),
                pool: Pool::default(),
                work: Work::default(),
                data: vec![],
            };
            let ops = Box::new(Replicated::new(NodeSet::first(copies)));
            let mut table = PageTable::new(ops, &mut world.env(), 4, NodeId(0)).expect("a root");
            populate(&mut world, &mut table, data, false);
            let one = table.table_pages().iter().sum::<u64>();
            let all = world.mem.tables();
            let ours = (data + all) as f64 / (data + one) as f64;
            let leaves = data.div_ceil(512);
            let formula_pages = if data < 512 { 4.0 } else { leaves as f64 * (1.0 + 1.0 / 512.0) };
            let formula = 1.0 + (copies as f64 - 1.0) * formula_pages / (data as f64 + formula_pages);
            println!("{name:>8} {copies:>3} {all:>8} {ours:>8.4} {formula:>8.4} {paper:>10}");
        }
    }
}
