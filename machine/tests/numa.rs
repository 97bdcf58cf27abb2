//! Memory: latency, bandwidth, and what interference does to both.

use machine::numa::{Memory, MemorySpec};
use machine::profile::Profile;
use paging::NodeId;
use paging::frames::Layout;

const HERE: NodeId = NodeId(0);
const THERE: NodeId = NodeId(1);

/// Two nodes at 1 GHz, a tick a cycle: 100 and 200 ns; 10 cycles a line at a
/// node and 20 on a link.
fn spec() -> MemorySpec {
    MemorySpec {
        latency_ps: vec![vec![100_000, 200_000], vec![200_000, 100_000]],
        node_mb_s: 6400,
        link_mb_s: 3200,
        bank_ps: 48_000,
        lines_under_way: 64,
    }
}

fn memory() -> Memory {
    Memory::new(&spec(), &Layout::pc(&[4 << 30, 4 << 30]), 1000, 1)
}

#[test]
fn alone_a_load_takes_the_latency_of_its_way() {
    let mut memory = memory();
    for n in 0..100 {
        assert_eq!(memory.access(n * 100_000, HERE, HERE), 100);
        assert_eq!(memory.access(n * 100_000, HERE, THERE), 200);
    }
    assert_eq!(
        (memory.lines(HERE, HERE), memory.lines(HERE, THERE), memory.lines(THERE, HERE)),
        (100, 100, 0)
    );
}

#[test]
fn lines_belong_to_the_node_of_their_frame() {
    let layout = Layout::pc(&[4 << 30, 4 << 30]);
    let memory = memory();
    for (node, spec) in layout.nodes.iter().enumerate() {
        for range in &spec.frames {
            for frame in [range.start, (range.start + range.end) / 2, range.end - 1] {
                assert_eq!(memory.node_of(frame << 6 | 63), NodeId(node as u8), "frame {frame:#x}");
            }
        }
    }
}

/// Cycles a line when `outstanding` loads are always under way.
fn closed_loop(memory: &mut Memory, outstanding: usize, to: NodeId) -> f64 {
    let mut done = vec![0u64; outstanding];
    let loads = 50_000;
    for _ in 0..loads {
        let next = (0..outstanding).min_by_key(|slot| done[*slot]).unwrap();
        done[next] += memory.access(done[next], HERE, to);
    }
    *done.iter().max().unwrap() as f64 / f64::from(loads)
}

#[test]
fn few_loads_at_a_time_are_bound_by_latency_and_many_by_bandwidth() {
    let one = closed_loop(&mut memory(), 1, HERE);
    assert!((100.0..105.0).contains(&one), "{one}");
    let many = closed_loop(&mut memory(), 64, HERE);
    assert!((10.0..10.5).contains(&many), "{many}");
    let remote = closed_loop(&mut memory(), 64, THERE);
    assert!((20.0..21.0).contains(&remote), "{remote}");
}

#[test]
fn interference_raises_latency_steeply_near_the_limit() {
    let latency = |share: u64| {
        let mut memory = memory();
        memory.set_interference(HERE, 6400 * share / 64);
        memory.access(1 << 20, HERE, HERE)
    };
    // S ρ / 2 (1 − ρ) with S = 48 cycles.
    assert_eq!(latency(0), 100);
    assert_eq!(latency(32), 100 + 24);
    assert_eq!(latency(48), 100 + 72);
    assert_eq!(latency(56), 100 + 168);
    // 64 lines under way at 10 cycles each: nobody waits longer than 640 cycles in all.
    assert_eq!(latency(64), 640);
    assert_eq!(latency(1000), 640);
    assert!((0..64).all(|share| latency(share) <= latency(share + 1)));
}

#[test]
fn interference_of_a_node_is_felt_from_everywhere_and_only_there() {
    let mut memory = memory();
    memory.set_interference(THERE, u64::MAX);
    assert_eq!(memory.access(1 << 20, HERE, HERE), 100);
    assert_eq!(memory.access(1 << 20, HERE, THERE), 200 + 540);
    assert_eq!(memory.access(1 << 20, THERE, THERE), 100 + 540);
    memory.set_interference(THERE, 0);
    assert_eq!(memory.access(1 << 30, THERE, THERE), 100);
}

#[test]
fn half_of_a_loaded_node_is_left_to_who_asks_for_it() {
    let mut memory = memory();
    memory.set_interference(HERE, u64::MAX);
    let taken = closed_loop(&mut memory, 1000, HERE);
    assert!((20.0..21.0).contains(&taken), "{taken}");
}

#[test]
fn a_core_that_lags_behind_does_not_wait_for_what_is_booked_later() {
    let mut memory = memory();
    for n in 0..10_000 {
        memory.access(1_000_000 + n, HERE, HERE);
    }
    assert_eq!(memory.access(900_000, HERE, HERE), 100);
    // So far behind that its time is forgotten.
    assert_eq!(memory.access(0, HERE, HERE), 100);
}

#[test]
fn the_same_loads_take_the_same_time() {
    let run = || {
        let mut memory = memory();
        memory.set_interference(THERE, 3000);
        (0..10_000u64)
            .map(|n| memory.access(n * 7, NodeId((n % 2) as u8), NodeId((n % 3 % 2) as u8)))
            .sum::<u64>()
    };
    assert_eq!(run(), run());
}

/// Intel's Memory Latency Checker on two Silver 4110 (community.intel.com,
/// MLC v3.5 test): GB/s of both sockets against ns. The profile is of the same
/// family, with the bandwidth of another machine of it; the shape must follow.
#[test]
fn loaded_latency_follows_a_measured_curve() {
    let profile = Profile::builtin("skylake-sp").unwrap();
    let measured = [(2.6, 84.2), (13.5, 88.8), (22.6, 90.9), (42.7, 94.6), (68.4, 98.9), (135.7, 130.3)];
    for (gb_s, ns) in measured {
        let mut memory = Memory::new(&profile.memory_spec(), &profile.layout(), 1000, 1);
        memory.set_interference(HERE, (gb_s * 1000.0 / 2.0) as u64);
        let modelled = memory.access(1 << 20, HERE, HERE) as f64;
        assert!((modelled / ns - 1.0).abs() < 0.2, "{gb_s} GB/s: {modelled} ns, measured {ns}");
    }
}
