//! Accesses per second and core of the path of one access: TLBs, walk caches,
//! data caches, walks over real tables, timing and counters; no software.

use machine::Machine;
use machine::core::Unobserved;
use machine::input::{Access, Kind};
use machine::profile::Profile;
use paging::frames::{NoFrame, NodeId};
use paging::*;
use std::time::Instant;

/// Frames from a counter, table pages clustered apart from data as kernels do.
#[derive(Debug)]
struct Frames<S>(u64, std::marker::PhantomData<S>);
impl<S: PhysSpace> TableFrames<S> for Frames<S> {
    fn alloc_table(&mut self, _: NodeId, _: bool) -> Result<Frame<S>, NoFrame> {
        self.0 += 1;
        Ok(Frame::new(self.0))
    }
    fn free_table(&mut self, _: Frame<S>) {}
    fn node_of(&self, _: Frame<S>) -> NodeId {
        NodeId(0)
    }
}

struct Tables<I: Space, S: PhysSpace> {
    mem: Arena<S>,
    table: PageTable<I, Arena<S>>,
    frames: Frames<S>,
}

impl<I: Space, S: PhysSpace> Tables<I, S> {
    fn new() -> Self {
        let mut mem = Arena::new(1 << 27);
        let mut frames = Frames(1, std::marker::PhantomData);
        let mut work = Work::default();
        let mut env = TableEnv { mem: &mut mem, frames: &mut frames, node: NodeId(0), work: &mut work };
        let table = PageTable::new(Box::new(OneCopy::default()), &mut env, 4, NodeId(0)).unwrap();
        Tables { mem, table, frames }
    }
    fn map(&mut self, page: u64, frame: u64) {
        let mut work = Work::default();
        let mut env =
            TableEnv { mem: &mut self.mem, frames: &mut self.frames, node: NodeId(0), work: &mut work };
        let flags = Flags::WRITABLE | Flags::USER;
        let _ = self.table.map(
            &mut env,
            Addr::new(page << 12),
            Frame::new(frame),
            PageSize::Size4K,
            flags,
            NodeId(0),
            Visibility::Private,
        );
    }
}

const DATA: u64 = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let only = args.iter().skip(1).find(|a| !a.starts_with('-'));
    let mut inputs: Vec<(&str, Vec<Access>)> = Vec::new();
    let mut x = 1u64;
    let mut random = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let base = 0x7f00_0000_0000u64;
    inputs.push((
        "gups64",
        (0..4_000_000)
            .map(|_| Access::new(base + (random() % (64 << 30)) / 8 * 8, Kind::Modify, 0, 8))
            .collect(),
    ));
    // Rank r of n with a probability of about 1/r, scattered over 16 GiB of lines.
    let lines = (16u64 << 30) / 64;
    inputs.push((
        "zipf16",
        (0..4_000_000)
            .map(|_| {
                let share = (random() >> 11) as f64 / (1u64 << 53) as f64;
                let rank = (lines as f64).powf(share) as u64;
                let line = rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % lines;
                Access::new(base + line * 64, Kind::Read, 0, 8)
            })
            .collect(),
    ));
    for (name, accesses) in &inputs {
        if only.is_some_and(|o| o != name) {
            continue;
        }
        let mut native = Tables::<Virt, HostPhys>::new();
        let mut gpt = Tables::<Virt, GuestPhys>::new();
        let mut hpt = Tables::<GuestPhys, HostPhys>::new();
        let gib = if *name == "gups64" { 64 } else { 16 };
        let pages: Vec<u64> = ((base >> 12)..(base >> 12) + (gib << 18)).collect();
        let start = Instant::now();
        // First touch at random: frames are not in the order of addresses.
        let n = pages.len() as u64;
        for (i, page) in pages.iter().enumerate() {
            let frame = DATA + (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % n;
            native.map(*page, frame);
            gpt.map(*page, frame);
        }
        for gfn in (1..=gpt.frames.0).chain(DATA..DATA + n) {
            hpt.map(gfn, DATA + gfn);
        }
        let frames = 1 << 27;
        println!("{name}: {} pages mapped three times in {:.2?}", pages.len(), start.elapsed());
        let native_walk = Native { mem: &native.mem, root: native.table.root(), levels: 4, frames };
        let host = HostDim { mem: &hpt.mem, root: hpt.table.root(), levels: 4, frames };
        let nested_walk = Nested { guest: &gpt.mem, root: gpt.table.root(), levels: 4, frames, host };
        measure(name, "native", accesses, &native_walk);
        measure(name, "nested", accesses, &nested_walk);
    }
}

/// Seconds that this thread has run: other work on the machine counts less than
/// on a wall clock.
fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn measure<X: Translation>(name: &str, kind: &str, accesses: &[Access], translation: &X) {
    let mut machine = Machine::<AsidVmid>::new(&Profile::builtin("haswell-ex").unwrap(), &[NodeId(0)]);
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let start = cpu_time();
            for block in accesses.chunks(machine::input::BLOCK) {
                let core = &mut machine.cores[0];
                core.run(&mut machine.uncore, translation, block, &mut Unobserved).unwrap();
            }
            accesses.len() as f64 / (cpu_time() - start) / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let c = machine.counters();
    println!(
        "{name:8} {kind}: {:6.1} M accesses/s ({:.1} ns); L1 {:.3} STLB {:.4} misses/access, {:.2} refs/walk, {:.1} cycles/access",
        rates[2],
        1000.0 / rates[2],
        c.l1d_tlb_misses as f64 / c.accesses as f64,
        c.stlb_misses as f64 / c.accesses as f64,
        c.grid.references() as f64 / c.walks as f64,
        (machine.cores[0].timing.elapsed() / machine::timing::TICKS) as f64 / c.accesses as f64
    );
}
