//! Which frame a request gets: what programs see of the allocator.

use super::*;
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use proptest::prelude::*;

#[test]
fn a_lone_process_gets_ascending_frames() {
    let mut pool = flat_pool(1 << 14, PoolConfig::default());
    let first = pool.alloc(anon().on_cpu(CpuId(0))).unwrap();
    for nth in 1..5000 {
        assert_eq!(pool.alloc(anon().on_cpu(CpuId(0))), Ok(first.offset(nth)));
    }
}

#[test]
fn two_cpus_that_fault_in_turn_interleave_by_batches() {
    for batch in [1, 8, 63] {
        let config = PoolConfig { pcp: PcpConfig { batch, high: 6 * batch }, ..PoolConfig::default() };
        let mut pool = flat_pool(1 << 14, config);
        let mut frames = [Vec::new(), Vec::new()];
        for _ in 0..2000 {
            for cpu in 0..2 {
                frames[cpu as usize].push(pool.alloc(anon().on_cpu(CpuId(cpu))).unwrap().number());
            }
        }
        for of_cpu in &frames {
            let runs = of_cpu.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() + 1;
            assert_eq!(runs, 2000_usize.div_ceil(batch.into()), "batch {batch}");
        }
    }
}

#[test]
fn the_frame_freed_last_is_used_first() {
    let mut pool = flat_pool(1 << 14, PoolConfig::default());
    let frames: Vec<_> = (0..40).map(|_| pool.alloc(anon().on_cpu(CpuId(0))).unwrap()).collect();
    for &frame in &frames {
        pool.free(frame, 0, Some(CpuId(0)));
    }
    for &frame in frames.iter().rev() {
        assert_eq!(pool.alloc(anon().on_cpu(CpuId(0))), Ok(frame));
    }
}

#[test]
fn a_long_list_gives_its_coldest_batch_back() {
    let config = PoolConfig { pcp: PcpConfig { batch: 10, high: 30 }, ..PoolConfig::default() };
    let mut pool = flat_pool(1 << 12, config);
    let frames: Vec<_> = (0..40).map(|_| pool.alloc(anon()).unwrap()).collect();
    for &frame in &frames[..30] {
        pool.free(frame, 0, Some(CpuId(0)));
    }
    assert_eq!((pool.pcp_frames(NodeId(0)), pool.stats().pcp_drains), (30, 0));
    pool.free(frames[30], 0, Some(CpuId(0)));
    assert_eq!((pool.pcp_frames(NodeId(0)), pool.stats().pcp_drains), (21, 1));
    assert_eq!(pool.state(frames[9]), FrameState::Free);
    assert_eq!(pool.state(frames[10]), FrameState::PerCpuFree);
}

#[test]
fn tables_keep_to_their_own_pageblocks() {
    let mut pool = flat_pool(64 * PAGEBLOCK, PoolConfig::default());
    let mut blocks = [BTreeSet::new(), BTreeSet::new()];
    for nth in 0..20 * PAGEBLOCK {
        let state = if nth % 16 == 0 { FrameState::Table } else { FrameState::Anon };
        let request = AllocRequest::new(NodeId(0), state).on_cpu(CpuId(nth as u16 % 4));
        let frame = pool.alloc(request).unwrap();
        blocks[usize::from(state == FrameState::Table)].insert(frame.number() >> PAGEBLOCK_ORDER);
        assert_eq!(pool.mobility(frame), state.mobility());
    }
    assert!(blocks[0].is_disjoint(&blocks[1]));
    // 640 tables and what four CPUs hold: no more than the two pageblocks of a largest block.
    assert_eq!(blocks[1].len(), 2);
    assert_eq!(pool.stats().mobility_fallbacks, 0);
}

#[test]
fn unmovable_requests_take_a_whole_pageblock_when_theirs_are_full() {
    let mut pool = flat_pool(8 * PAGEBLOCK, PoolConfig::default());
    let table = AllocRequest::new(NodeId(0), FrameState::Table).emergency();
    let all = exhaust(&mut pool, anon().emergency());
    assert_eq!(all.len() as u64, 8 * PAGEBLOCK);
    // A pageblock that is more than half free is claimed; one with a few free frames is not.
    for &frame in all.iter().filter(|frame| frame.number() & 511 < 300 && frame.number() >> 9 & 7 == 3) {
        pool.free(frame, 0, None);
    }
    let claimed = pool.alloc(table).unwrap();
    assert_eq!(pool.mobility(claimed), Mobility::Unmovable);
    assert_eq!(pool.stats().mobility_fallbacks, 1);
    for _ in 1..300 {
        let frame = pool.alloc(table).unwrap();
        assert_eq!(pool.mobility(frame), Mobility::Unmovable);
    }
    assert_eq!(pool.stats().mobility_fallbacks, 1);
    let borrowed = all.iter().find(|frame| frame.number() >> 9 & 7 == 6).unwrap();
    pool.free(*borrowed, 0, None);
    assert_eq!(pool.alloc(table), Ok(*borrowed));
    assert_eq!(pool.mobility(*borrowed), Mobility::Movable);
    pool.audit().unwrap();
}

#[test]
fn small_movable_requests_take_the_smallest_unmovable_block() {
    let mut pool = flat_pool(2 * PAGEBLOCK, PoolConfig::default());
    let table = AllocRequest::new(NodeId(0), FrameState::Table).emergency();
    let tables = exhaust(&mut pool, table);
    for &frame in &[&tables[8..12], &tables[20..21], &tables[32..40]].concat() {
        pool.free(frame, 0, None);
    }
    let fallback = anon().emergency();
    assert_eq!(pool.alloc(fallback), Ok(tables[20]));
    assert_eq!(pool.alloc(fallback), Ok(tables[8]));
    assert_eq!(pool.stats().mobility_fallbacks, 2);
    assert_eq!(pool.mobility(tables[8]), Mobility::Unmovable);
}

#[test]
fn a_block_that_will_merge_twice_is_used_last() {
    let mut pool = flat_pool(PAGEBLOCK, PoolConfig::default());
    let all = exhaust(&mut pool, anon().emergency());
    // 2 and 3 are one block: 0 would merge with 1 and then with them.
    for at in [2, 3, 100, 0] {
        pool.free(all[at], 0, None);
    }
    let next: Vec<_> = (0..2).map(|_| pool.alloc(anon().emergency()).unwrap()).collect();
    assert_eq!(next, [all[100], all[0]]);
}

#[test]
fn policies_choose_the_node() {
    let gib = 1 << 30;
    let mut layout = Layout::pc(&[8 * gib, gib, gib, gib]);
    // A ring: 0-1-2-3-0.
    for (from, to) in [(0, 2), (2, 0), (1, 3), (3, 1)] {
        layout.distances[from][to] = 30;
    }
    let mut pool = Pool::new(&layout, PoolConfig::default()).unwrap();
    let order = |pool: &Pool, node| pool.fallback_order(NodeId(node)).iter().map(|n| n.0).collect::<Vec<_>>();
    assert_eq!(order(&pool, 0), [0, 1, 3, 2]);
    assert_eq!(order(&pool, 2), [2, 3, 1, 0]);
    let on = |node| AllocRequest::new(NodeId(node), FrameState::Anon).order(9);
    for node in 0..4 {
        let frame = pool.alloc(on(node)).unwrap();
        assert_eq!(pool.node_of(frame), NodeId(node));
    }
    while pool.alloc(on(1).strict()).is_ok() {}
    assert_eq!(pool.stats().node_fallbacks, 0);
    let frame = pool.alloc(on(1)).unwrap();
    assert_eq!((pool.node_of(frame), pool.stats().node_fallbacks), (NodeId(2), 1));
    let far = NodeSet::default().with(NodeId(3)).with(NodeId(1));
    assert_eq!(pool.alloc(on(1).within(far)).map(|frame| pool.node_of(frame)), Ok(NodeId(3)));
    let no = pool.alloc(on(1).strict()).unwrap_err();
    assert_eq!((no.node, no.frames, no.policy), (1, 512, NodePolicy::Strict));
}

#[test]
fn marks_stop_each_kind_of_request() {
    let mut pool = flat_pool(1 << 16, PoolConfig::default());
    let marks = pool.marks(NodeId(0), ZoneKind::Normal);
    assert!(0 < marks.min && marks.min < marks.low && marks.low < marks.high);
    assert!(pool.above_high(NodeId(0)) && !pool.below_low(NodeId(0)));
    for (request, left) in [(anon().opportunistic(), marks.low), (anon(), marks.min), (anon().emergency(), 0)]
    {
        exhaust(&mut pool, request);
        assert_eq!(pool.free_frames(NodeId(0)), left);
    }
    assert!(pool.below_low(NodeId(0)) && !pool.above_high(NodeId(0)));
    let no = pool.alloc(anon()).unwrap_err();
    assert_eq!(
        no.to_string(),
        "no 1 contiguous frames for node 0 (Prefer, Normal): 0 of 0 free frames are there, \
         0 free blocks are large enough"
    );
}

#[test]
fn low_zones_are_kept_for_those_who_need_them() {
    let layout = Layout::pc(&[8 << 30]);
    let mut pool = Pool::new(&layout, PoolConfig::default()).unwrap();
    let normal = exhaust(&mut pool, anon().order(9));
    let lowest = normal.iter().map(|frame| frame.number()).min().unwrap();
    assert!((DMA_END..DMA32_END).contains(&lowest), "DMA32 is used, DMA is not: {lowest:#x}");
    let dma = AllocRequest::new(NodeId(0), FrameState::Kernel).zone(ZoneKind::Dma);
    assert!(pool.alloc(dma).unwrap().number() < DMA_END);
    assert!(pool.stats().zone_fallbacks > 0);
}

#[test]
fn a_huge_page_splits_and_goes_piecewise() {
    let mut pool = flat_pool(8 * PAGEBLOCK, PoolConfig::default());
    let before = buddyinfo(&pool, NodeId(0));
    let head = pool.alloc(anon().page(crate::PageSize::Size2M)).unwrap();
    assert_eq!(pool.compound(head.offset(77)), Some((head, 9)));
    assert_eq!(pool.get(head.offset(511)), 2);
    assert_eq!(pool.refs(head), 2);
    let busy = pool.try_free(head, 9, None).unwrap_err();
    assert_eq!(busy, BadFrame::Shared { frame: head, refs: 2 });
    assert!(!pool.put(head, None));
    let part = pool.try_free(head.offset(8), 0, None).unwrap_err();
    assert_eq!(part, BadFrame::Compound { frame: head.offset(8), head, order: 9 });
    // To 64 KiB units, one of them to singles, and each goes by itself.
    pool.split_compound(head, 4).unwrap();
    assert_eq!(pool.compound(head.offset(17)), Some((head.offset(16), 4)));
    pool.split_compound(head.offset(16), 0).unwrap();
    assert_eq!(pool.compound(head.offset(17)), None);
    for at in 0..16 {
        pool.free(head.offset(16 + (at * 7) % 16), 0, None);
    }
    for unit in (0..32).filter(|unit| *unit != 1) {
        assert!(pool.put(head.offset(unit * 16 + 5), None));
    }
    assert_eq!(buddyinfo(&pool, NodeId(0)), before);
}

#[test]
fn a_block_of_singles_goes_piecewise_in_any_order() {
    let mut pool = flat_pool(8 * PAGEBLOCK, PoolConfig::default());
    let before = buddyinfo(&pool, NodeId(0));
    let blocks: Vec<_> = (0..100).map(|_| pool.alloc(anon().order(3)).unwrap()).collect();
    for part in [3, 0, 7, 1, 6, 2, 4, 5] {
        for block in &blocks {
            pool.free(block.offset(part), 0, None);
        }
    }
    assert_eq!(buddyinfo(&pool, NodeId(0)), before);
}

#[test]
fn faulty_frames_never_come_back() {
    let mut pool = flat_pool(2 * PAGEBLOCK, PoolConfig::default());
    let bad = frame(DMA32_END + 100);
    pool.isolate(bad, FrameState::Faulty).unwrap();
    let mut used = exhaust(&mut pool, anon().emergency());
    assert_eq!(used.len() as u64, 2 * PAGEBLOCK - 1);
    assert!(!used.contains(&bad));
    // One that is in use leaves when its owner does.
    let second = used.pop().unwrap();
    pool.set_state(second, FrameState::Faulty);
    assert!(pool.put(second, Some(CpuId(0))));
    assert_eq!((pool.state(second), pool.refs(second)), (FrameState::Faulty, 0));
    assert!(pool.alloc(anon().emergency()).is_err());
    assert_eq!(pool.audit().unwrap().of(FrameState::Faulty), 2);
}

#[test]
#[should_panic(expected = "free of order 0: hPA frame(0x100000) is free already")]
fn a_double_free_panics() {
    let mut pool = flat_pool(PAGEBLOCK, PoolConfig::default());
    let frame = pool.alloc(anon()).unwrap();
    pool.free(frame, 0, Some(CpuId(0)));
    pool.free(frame, 0, Some(CpuId(0)));
}

#[test]
#[should_panic(expected = "frame not owned: hPA frame(0x0) is not memory")]
fn a_reference_to_a_hole_panics() {
    flat_pool(PAGEBLOCK, PoolConfig::default()).get(frame(0));
}

#[test]
fn memory_of_a_large_machine_follows_what_is_used() {
    let layout = Layout::pc(&[128 << 30; 4]);
    let mut pool = Pool::new(&layout, PoolConfig::default()).unwrap();
    assert_eq!(pool.frames(NodeId(3)), (128 << 30) / 4096);
    let mib = |pool: &Pool| pool.bytes() as f64 / f64::from(1 << 20);
    assert!(mib(&pool) < 5.0, "{} MiB unused", mib(&pool));
    let huge = anon().page(crate::PageSize::Size2M);
    for _ in 0..440 * 512 {
        pool.alloc(huge).unwrap();
    }
    assert!(mib(&pool) < 6.0, "{} MiB for 440 GiB of huge pages", mib(&pool));
    let small: Vec<_> = (0..1 << 20).map(|_| pool.alloc(anon().on_cpu(CpuId(0))).unwrap()).collect();
    assert!(mib(&pool) < 6.0 + 9.0, "{} MiB with 4 GiB of small ones", mib(&pool));
    for frame in small {
        pool.free(frame, 0, Some(CpuId(0)));
    }
    pool.drain(None);
    assert!(mib(&pool) < 7.0, "{} MiB after they are gone", mib(&pool));
}

#[test]
fn giant_pages_are_aligned_and_prefer_unused_memory() {
    let mut pool = Pool::new(&Layout::pc(&[16 << 30]), PoolConfig::default()).unwrap();
    let used = pool.alloc(anon().order(9)).unwrap();
    pool.free(used, 9, None);
    let giant = anon().page(crate::PageSize::Size1G);
    let pages: BTreeSet<_> = exhaust(&mut pool, giant).into_iter().collect();
    // 12 GiB above 4 GiB, of which the first was used, so that it comes last; 2 whole ones below.
    assert_eq!(pages.len(), 14, "{pages:?}");
    for page in &pages {
        assert!(page.is_aligned(crate::PageSize::Size1G));
        assert_eq!(pool.compound(page.offset(200_000)), Some((*page, 18)));
    }
    let page = *pages.first().unwrap();
    pool.split_compound(page, 9).unwrap();
    pool.free(page.offset(512), 9, None);
    assert_eq!(pool.alloc(giant).map_err(|no| no.frames), Err(1 << 18));
    pool.audit().unwrap();
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let error = |layout: &Layout| Pool::new(layout, PoolConfig::default()).unwrap_err();
    let none: &[core::ops::Range<u64>] = &[];
    assert_eq!(error(&Layout::of_ranges(none)), LayoutError::NodeCount(0));
    assert_eq!(error(&Layout::of_ranges(&alloc::vec![0..10; 9])), LayoutError::NodeCount(9));
    assert_eq!(error(&Layout::pc(&[0])), LayoutError::NoMemory);
    let shared = Layout::of_ranges(&[0..100, 200..300]);
    assert_eq!(error(&shared), LayoutError::SharedSection { first: 0, second: 1, section: 0 });
    let high = Layout::of_ranges(&[MAX_FRAMES - 1..MAX_FRAMES + 1, 0..1]);
    assert_eq!(error(&high), LayoutError::TooHigh { node: 0, end: MAX_FRAMES + 1 });
    let mut layout = Layout::pc(&[1 << 30]);
    layout.nodes[0].frames.reverse();
    layout.nodes[0].frames.push(5..6);
    assert_eq!(error(&layout), LayoutError::BadRange { node: 0, start: 5, end: 6 });
    let mut layout = Layout::pc(&[1 << 30, 1 << 30]);
    layout.distances[0][1] = 10;
    assert_eq!(error(&layout), LayoutError::Distances { nodes: 2 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A batch is what as many single allocations would be, and leaves the same lists.
    #[test]
    fn a_batch_equals_as_many_single_frames(
        orders in proptest::collection::vec(0..7u8, 0..60),
        keep in any::<u64>(),
        batch in 1..200u16,
        state in prop_oneof![Just(FrameState::Anon), Just(FrameState::Table)],
    ) {
        let config = PoolConfig { pcp: PcpConfig { batch, high: 1000 }, ..PoolConfig::default() };
        let mut pool = flat_pool(16 * PAGEBLOCK, config);
        let blocks: Vec<_> = orders.iter().map(|&order| (pool.alloc(anon().order(order)).unwrap(), order)).collect();
        for (nth, (frame, order)) in blocks.into_iter().enumerate() {
            if keep >> nth & 1 == 0 {
                pool.free(frame, order, None);
            }
        }
        let mut other = pool.clone();
        let request = AllocRequest::new(NodeId(0), state);
        for _ in 0..batch {
            prop_assert_eq!(pool.alloc(request.on_cpu(CpuId(0))).unwrap(), other.alloc(request).unwrap());
        }
        prop_assert_eq!(pool.pcp_frames(NodeId(0)), 0);
        prop_assert_eq!(buddyinfo(&pool, NodeId(0)), buddyinfo(&other, NodeId(0)));
        // The rest comes in the same order too.
        prop_assert_eq!(exhaust(&mut pool, request), exhaust(&mut other, request));
    }
}
