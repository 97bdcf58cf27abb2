//! Injected fragmentation: stated equals measured, before use and after.

use super::*;
use proptest::prelude::*;

fn fragmented(frames: u64, fragmentation: Fragmentation) -> Pool {
    flat_pool(frames, PoolConfig { fragmentation: Some(fragmentation), ..PoolConfig::default() })
}

/// Uses every frame once, so that nothing is fresh any more.
fn touch_all(pool: &mut Pool) {
    let all = exhaust(pool, anon().emergency());
    for frame in all {
        pool.free(frame, 0, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stated_level_is_the_measured_one(
        level in 0.0..=1.0f64,
        seed in any::<u64>(),
        pins_per_block in 1..=256u16,
        blocks in 20..200u64,
    ) {
        let fragmentation = Fragmentation { level, seed, pin: Mobility::Movable, pins_per_block };
        let mut pool = fragmented(blocks * PAGEBLOCK, fragmentation);
        let (unused, free) = (pool.unusable_index(NodeId(0), 9), pool.free_frames(NodeId(0)));
        prop_assert!((unused - level).abs() <= 1.0 / blocks as f64, "{level} became {unused}");
        let before = buddyinfo(&pool, NodeId(0));
        // What was told of unused memory is what comes out of it.
        touch_all(&mut pool);
        prop_assert_eq!(buddyinfo(&pool, NodeId(0)), before);
        prop_assert_eq!(pool.free_frames(NodeId(0)), free);
        prop_assert_eq!(pool.audit().unwrap().of(FrameState::Filler), blocks * PAGEBLOCK - free);
        let huge = exhaust(&mut pool, anon().order(9).emergency()).len() as u64;
        prop_assert_eq!(huge * PAGEBLOCK, ((1.0 - unused) * free as f64).round() as u64);
    }
}

#[test]
fn unused_memory_costs_nothing() {
    let layout = Layout::pc(&[128 << 30; 4]);
    let fragmentation = Some(Fragmentation::new(0.9, 3));
    let mut pool = Pool::new(&layout, PoolConfig { fragmentation, ..PoolConfig::default() }).unwrap();
    for node in 0..4 {
        assert!((pool.unusable_index(NodeId(node), 9) - 0.9).abs() < 1e-4);
    }
    // Even a search for all huge pages does not look into the pageblocks that it passes over.
    let pages = exhaust(&mut pool, anon().page(crate::PageSize::Size2M)).len();
    assert!(pages > 25_000, "{pages}");
    assert!(pool.bytes() < 5 << 20, "{} bytes", pool.bytes());
}

#[test]
fn small_pages_use_up_fragments_before_they_break_huge_ones() {
    let mut pool = fragmented(64 * PAGEBLOCK, Fragmentation::new(0.5, 9));
    let huge = pool.free_blocks(NodeId(0), 9) + 2 * pool.free_blocks(NodeId(0), 10);
    let fragments = pool.free_frames(NodeId(0)) - huge * PAGEBLOCK;
    for _ in 0..fragments {
        pool.alloc(anon().on_cpu(CpuId(0)).emergency()).unwrap();
    }
    pool.drain(None);
    assert_eq!(pool.free_blocks(NodeId(0), 9) + 2 * pool.free_blocks(NodeId(0), 10), huge);
    // Tables begin with a whole one.
    pool.alloc(AllocRequest::new(NodeId(0), FrameState::Table).emergency()).unwrap();
    assert_eq!(pool.free_blocks(NodeId(0), 9) + 2 * pool.free_blocks(NodeId(0), 10), huge - 1);
}

#[test]
fn fillers_are_owned_before_and_after_they_are_looked_at() {
    let mut pool = fragmented(4 * PAGEBLOCK, Fragmentation::new(1.0, 1));
    let fillers: Vec<Hfn> = (DMA32_END..DMA32_END + 4 * PAGEBLOCK)
        .map(frame)
        .filter(|&frame| pool.state(frame) == FrameState::Filler)
        .collect();
    assert_eq!(fillers.len(), 4);
    assert_eq!(pool.refs(fillers[0]), 1);
    assert_eq!(
        pool.isolate(fillers[0], FrameState::Faulty),
        Err(BadFrame::InUse(fillers[0], FrameState::Filler))
    );
    // A filler can be freed by whoever wants to undo the fragmentation.
    for &filler in &fillers {
        pool.free(filler, 0, None);
    }
    assert_eq!(pool.unusable_index(NodeId(0), 9), 0.0);
    assert_eq!(pool.free_blocks(NodeId(0), 10), 2);
    pool.audit().unwrap();
}
