//! Contiguous ranges, particular frames, and memory that comes and goes.

use super::*;

#[test]
fn the_io_gap_is_closed_as_direct_segments_need_it() {
    // 3 GiB below the gap, 1 GiB above; all but 256 MiB of the low part moves above.
    let mut pool = Pool::new(&Layout::pc(&[4 << 30]), PoolConfig::default()).unwrap();
    let frames = pool.frames(NodeId(0));
    let keep = (256 << 20) / 4096;
    let moved = IO_GAP_START - keep;
    pool.remove_range(frame(keep), moved).unwrap();
    assert_eq!(pool.frames(NodeId(0)), frames - moved);
    assert_eq!(pool.state(frame(keep)), FrameState::Absent);
    let top = pool.ranges(NodeId(0)).last().unwrap().end;
    pool.add_range(NodeId(0), top, moved).unwrap();
    assert_eq!(pool.frames(NodeId(0)), frames);
    assert_eq!(pool.contiguous_free_max(NodeId(0)), frames - (keep - LEGACY_END));
    let reserved = AllocRequest::new(NodeId(0), FrameState::Reserved);
    let segment = pool.alloc_contiguous((3 << 30) / 4096, 1 << 18, reserved).unwrap();
    assert_eq!(segment, frame(DMA32_END));
    assert!(pool.bytes() < 1 << 20, "a segment costs words of pageblocks only: {}", pool.bytes());
    pool.audit().unwrap();
}

#[test]
fn self_ballooning_conserves_memory() {
    let mut pool = flat_pool(64 * PAGEBLOCK, PoolConfig::default());
    // Fragment by hand: a frame of each pageblock stays.
    let all = exhaust(&mut pool, anon().emergency());
    for &frame in all.iter().filter(|frame| frame.number() % PAGEBLOCK != 0) {
        pool.free(frame, 0, None);
    }
    assert_eq!(pool.contiguous_free_max(NodeId(0)), 0);
    let free = pool.free_frames(NodeId(0));
    let mut balloon = Vec::new();
    while (balloon.len() as u64) < 8 * PAGEBLOCK {
        balloon.push(pool.alloc(AllocRequest::new(NodeId(0), FrameState::Ballooned)).unwrap());
    }
    pool.add_range(NodeId(0), frame(DMA32_END + 64 * PAGEBLOCK), 8 * PAGEBLOCK).unwrap();
    assert_eq!(pool.free_frames(NodeId(0)), free);
    assert_eq!(pool.contiguous_free_max(NodeId(0)), 8 * PAGEBLOCK);
    assert_eq!(pool.audit().unwrap().of(FrameState::Ballooned), 8 * PAGEBLOCK);
}

#[test]
fn bad_plugs_are_refused_and_change_nothing() {
    let mut pool = small_pool();
    let before = (pool.audit().unwrap(), buddyinfo(&pool, NodeId(0)), pool.ranges(NodeId(0)));
    let normal = DMA32_END;
    let add = |pool: &mut Pool, node, start, frames| pool.add_range(NodeId(node), frame(start), frames);
    assert_eq!(add(&mut pool, 0, 8704, 100), Err(HotplugError::Misaligned { start: 8704, end: 8804 }));
    assert_eq!(add(&mut pool, 0, 6144 - 512, 1024), Err(HotplugError::Present(6144 - 512)));
    assert_eq!(add(&mut pool, 2, 8704, 512), Err(HotplugError::OutOfRange(8704)));
    assert_eq!(add(&mut pool, 0, MAX_FRAMES, 512), Err(HotplugError::OutOfRange(MAX_FRAMES)));
    let other = HotplugError::OtherNode { frame: normal, owner: 1 };
    assert_eq!(add(&mut pool, 0, normal + 7168, 512), Err(other));
    let remove = |pool: &mut Pool, start, frames| pool.remove_range(frame(start), frames);
    assert_eq!(remove(&mut pool, 0, 512), Err(HotplugError::Absent(0)));
    assert_eq!(remove(&mut pool, normal + 4096, 512), Err(HotplugError::Absent(normal + 4096)));
    let used = pool.alloc(AllocRequest::new(NodeId(1), FrameState::Kernel)).unwrap();
    let in_use = HotplugError::InUse { frame: used.number(), state: FrameState::Kernel };
    assert_eq!(remove(&mut pool, used.number() & !511, 1024), Err(in_use));
    pool.free(used, 0, Some(CpuId(0)));
    assert_eq!((pool.audit().unwrap().all(), pool.ranges(NodeId(0))), (before.0.all(), before.2));
    // A frame on a CPU's list is no obstacle.
    remove(&mut pool, used.number() & !511, 1024).unwrap();
    assert_eq!(buddyinfo(&pool, NodeId(0)), before.1);
    pool.audit().unwrap();
}

#[test]
fn a_section_without_memory_can_change_its_node() {
    let mut pool = small_pool();
    let start = DMA32_END + 5120;
    let away = [(DMA32_END, 4096), (start, 2048)];
    for (start, frames) in away {
        pool.remove_range(frame(start), frames).unwrap();
    }
    assert_eq!(pool.frames(NodeId(1)), 0);
    let no = pool.alloc(AllocRequest::new(NodeId(1), FrameState::Anon).strict()).unwrap_err();
    assert_eq!(no.free_on_node, 0);
    // Without memory of its own, a node is served by the next.
    assert!(pool.alloc(AllocRequest::new(NodeId(1), FrameState::Anon)).is_ok());
    pool.add_range(NodeId(0), frame(start), 2048).unwrap();
    assert_eq!(pool.node_of(frame(start)), NodeId(0));
    pool.audit().unwrap();
}

#[test]
fn particular_frames_are_taken_from_wherever_they_are() {
    let mut pool = small_pool();
    let before = [buddyinfo(&pool, NodeId(0)), buddyinfo(&pool, NodeId(1))];
    // From fresh memory, from a free block, from a CPU's list.
    let fresh = frame(DMA32_END + 1000);
    pool.isolate(fresh, FrameState::Ballooned).unwrap();
    pool.isolate(fresh.offset(1), FrameState::Ballooned).unwrap();
    let listed = pool.alloc(AllocRequest::new(NodeId(1), FrameState::Anon).on_cpu(CpuId(1))).unwrap();
    pool.free(listed, 0, Some(CpuId(1)));
    assert_eq!(pool.state(listed), FrameState::PerCpuFree);
    pool.isolate(listed, FrameState::Ballooned).unwrap();
    let in_use = BadFrame::InUse(listed, FrameState::Ballooned);
    assert_eq!(pool.isolate(listed, FrameState::Faulty), Err(in_use));
    assert_eq!(pool.isolate(frame(3001), FrameState::Faulty), Err(BadFrame::Absent(frame(3001))));
    // A range that ends in a hole is refused as a whole.
    let hole = pool.alloc_at(frame(2990), 20, FrameState::Reserved, Unit::Singles);
    assert_eq!(hole, Err(BadFrame::Absent(frame(3000))));
    assert_eq!(pool.state(frame(2990)), FrameState::Free);
    for taken in [fresh, fresh.offset(1), listed] {
        pool.free(taken, 0, None);
    }
    pool.drain(None);
    assert_eq!([buddyinfo(&pool, NodeId(0)), buddyinfo(&pool, NodeId(1))], before);
}

#[test]
fn contiguous_ranges_of_odd_sizes_come_and_go() {
    let mut pool = flat_pool(64 * PAGEBLOCK, PoolConfig::default());
    let before = buddyinfo(&pool, NodeId(0));
    let reserved = AllocRequest::new(NodeId(0), FrameState::Reserved);
    let mut held = Vec::new();
    for (frames, align) in [(1, 1), (3, 4), (700, 1), (1025, 2048), (5000, 1), (8, 4096)] {
        let start = pool.alloc_contiguous(frames, align, reserved).unwrap();
        assert_eq!(start.number() % align, 0);
        held.push((start, frames));
        pool.audit().unwrap();
    }
    assert_eq!(pool.stats().contiguous, 6);
    let total: u64 = held.iter().map(|(_, frames)| frames).sum();
    assert_eq!(pool.audit().unwrap().of(FrameState::Reserved), total);
    for (start, frames) in held {
        pool.free_contiguous(start, frames);
    }
    assert_eq!(buddyinfo(&pool, NodeId(0)), before);
    let no = pool.alloc_contiguous(65 * PAGEBLOCK, 1, reserved).unwrap_err();
    assert_eq!((no.frames, no.free), (65 * PAGEBLOCK, 64 * PAGEBLOCK));
}
