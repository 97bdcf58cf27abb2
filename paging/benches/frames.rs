//! What the frame allocator costs: `cargo bench -p paging --bench frames [-- part of a name]`.
//!
//! Prints nanoseconds for each operation (the best of many short runs) and the memory of the allocator itself.

use paging::frames::{
    AllocRequest, CpuId, Fragmentation, FramePool, FrameState, Layout, NodeId, PoolConfig, Unit,
};
use paging::{Frame, HostPhys};
use std::hint::black_box;
use std::time::Instant;

type Pool = FramePool<HostPhys>;

const GIB: u64 = 1 << 30;
const NODE: NodeId = NodeId(0);
const CPU: Option<CpuId> = Some(CpuId(0));

fn pool(nodes: usize, gib: u64, fragmentation: Option<Fragmentation>) -> Pool {
    let layout = Layout::pc(&vec![gib * GIB; nodes]);
    Pool::new(&layout, PoolConfig { fragmentation, ..PoolConfig::default() }).expect("a layout that can be")
}

/// Whether the command line's filter, if there is one, is a part of `name`.
fn wanted(name: &str) -> bool {
    // Cargo itself passes `--bench`.
    std::env::args().skip(1).find(|arg| !arg.starts_with('-')).is_none_or(|filter| name.contains(&filter))
}

/// Prints the best of 40 runs of `ops` operations; `run` returns the seconds that it took. Runs are a few
/// milliseconds, so that one of them is not interrupted on a busy machine either.
fn report(name: &str, ops: u64, mut run: impl FnMut() -> f64) {
    if !wanted(name) {
        return;
    }
    let best = (0..40).map(|_| run()).fold(f64::INFINITY, f64::min);
    println!("{name:<58} {:>8.1} ns/op", best * 1e9 / ops as f64);
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// xorshift64: fast enough not to be what is measured.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn sequential(name: &str, request: AllocRequest, count: u64) {
    report(&format!("{name}: first use, one after the other"), count, || {
        let mut pool = pool(1, 64, None);
        timed(|| {
            for _ in 0..count {
                black_box(pool.alloc(request).expect("64 GiB suffice"));
            }
        })
    });
    let mut pool = pool(1, 64, None);
    let mut held: Vec<Frame<HostPhys>> = Vec::with_capacity(count as usize);
    report(&format!("{name}: allocate all and free all"), 2 * count, || {
        timed(|| {
            held.extend((0..count).map(|_| pool.alloc(request).expect("64 GiB suffice")));
            for frame in held.drain(..) {
                pool.free(frame, request.order, request.cpu);
            }
        })
    });
    report(&format!("{name}: allocate one and free it"), 2 * count, || {
        timed(|| {
            for _ in 0..count {
                let frame = black_box(pool.alloc(request).expect("64 GiB suffice"));
                pool.free(frame, request.order, request.cpu);
            }
        })
    });
}

/// Frees a random one of `live` blocks and allocates another.
fn mixed(name: &str, request: AllocRequest, live: usize) {
    let mut pool = pool(1, 64, None);
    if !wanted(name) {
        return;
    }
    let mut held: Vec<_> = (0..live).map(|_| pool.alloc(request).expect("64 GiB suffice")).collect();
    let mut state = 1;
    let count = 50_000;
    report(&format!("{name}: random free and allocate, {live} live"), 2 * count, || {
        timed(|| {
            for _ in 0..count {
                let slot = &mut held[(random(&mut state) % live as u64) as usize];
                pool.free(*slot, request.order, request.cpu);
                *slot = pool.alloc(request).expect("one was just freed");
            }
        })
    });
}

fn start_up() {
    let fragmentation = Some(Fragmentation::new(0.9, 1));
    for (name, fragmentation) in [("clean", None), ("fragmented to 0.9", fragmentation)] {
        report(&format!("start of 4 nodes, 512 GiB, {name}"), 1, || {
            timed(|| drop(black_box(pool(4, 128, fragmentation))))
        });
    }
}

fn memory() {
    let huge = AllocRequest::new(NODE, FrameState::Anon).order(9).unit(Unit::Compound);
    let small = AllocRequest::new(NODE, FrameState::Anon).on_cpu(CpuId(0));
    let giant = huge.order(18);
    for (name, request, count) in [
        ("512 GiB, not used", small, 1),
        ("64 GiB in 4 KiB pages", small, 16 << 20),
        ("440 GiB in 2 MiB pages", huge, 440 * 512),
        ("440 GiB in 1 GiB pages", giant, 440),
    ] {
        if !wanted(name) {
            continue;
        }
        let mut pool = pool(4, 128, None);
        let seconds = timed(|| {
            for _ in 0..count {
                black_box(pool.alloc(request).expect("512 GiB suffice"));
            }
        });
        let mib = pool.bytes() as f64 / f64::from(1 << 20);
        println!("{name:<58} {mib:>8.1} MiB, {:>8.1} ns/page", seconds * 1e9 / f64::from(count));
    }
    let name = "all huge pages of 512 GiB at level 0.9";
    if !wanted(name) {
        return;
    }
    let mut pool = pool(4, 128, Some(Fragmentation::new(0.9, 1)));
    let mut count = 0;
    let seconds = timed(|| {
        while pool.alloc(huge).is_ok() {
            count += 1;
        }
    });
    let mib = pool.bytes() as f64 / f64::from(1 << 20);
    let per_page = seconds * 1e9 / f64::from(count);
    println!("{name:<58} {mib:>8.1} MiB, {per_page:>8.1} ns/page, {count} pages");
}

fn main() {
    let anon = AllocRequest::new(NODE, FrameState::Anon);
    sequential("order 0 through a CPU's list", anon.on_cpu(CpuId(0)), 1 << 16);
    sequential("order 0 from the buddy lists", anon, 1 << 16);
    sequential("order 3, eight singles", anon.order(3), 1 << 15);
    sequential("order 9, one huge page", anon.order(9).unit(Unit::Compound), 1 << 13);
    for live in [10_000, 1_000_000] {
        mixed("order 0 through a CPU's list", AllocRequest { cpu: CPU, ..anon }, live);
        mixed("order 0 from the buddy lists", anon, live);
        mixed("order 3, eight singles", anon.order(3), live);
    }
    start_up();
    memory();
}
