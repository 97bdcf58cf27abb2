//! `PTEMagnet` in the kernel: what becomes of reservations in each path, and what must
//! hold whatever happens.

mod common;

use common::{System, config, leaves};
use mechanisms::ptemagnet::{PteMagnet, Settings};
use os::{Advice, GroupId, KernelConfig, MapRequest, ProcessId, ProcessSpec, SingleTables, ThpMode};
use paging::frames::{CpuId, FrameState, Mobility, NodeId, NodeSet};
use paging::{
    Frame, FramePool, FrameRequest, FrameSource, HostPhys, Intent, NoFrame, PhysSpace, Unmapped, Va,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CPU: CpuId = CpuId(0);
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

fn system(frames: u64, settings: Settings, change: impl FnOnce(&mut KernelConfig)) -> System {
    let mut config = config();
    change(&mut config);
    System::of(frames, config, Box::new(PteMagnet::new(settings)), Box::new(SingleTables::default()))
}

fn process(s: &mut System, spec: ProcessSpec) -> ProcessId {
    s.kernel.create_process(&mut s.machine, CPU, spec).expect("a process")
}

fn area(s: &mut System, pid: ProcessId, len: u64) -> Va {
    let request = MapRequest::anonymous(len).at(Va::new(1 << 30));
    s.kernel.mmap(&mut s.machine, CPU, pid, &request).expect("room")
}

fn touch(s: &mut System, pid: ProcessId, va: Va, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        s.access(CPU, pid, va.offset(page * PAGE), Some(page)).expect("memory");
    }
}

fn kept(s: &System) -> u64 {
    s.kernel.source().reserved()
}

/// The frame of each page that a process maps.
fn frames(s: &System, pid: ProcessId) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    leaves(&s.kernel, pid, |va, entry, size| {
        let frame: Frame<HostPhys> = entry.leaf_frame(size);
        found.insert(va >> 12, frame.number());
    });
    found
}

/// Lines that the frames of pages `first..first + 8` would have host entries on.
fn lines(frames: &BTreeMap<u64, u64>, first: u64) -> usize {
    (first..first + 8)
        .filter_map(|page| frames.get(&page))
        .map(|frame| frame >> 3)
        .collect::<BTreeSet<_>>()
        .len()
}

#[test]
fn later_faults_of_a_region_need_no_allocator() {
    let mut s = system(4096, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, MIB);
    let calls = |s: &System| s.kernel.pool().stats().allocs.iter().sum::<u64>();
    touch(&mut s, pid, va, [3]);
    assert_eq!(kept(&s), 7);
    let before = calls(&s);
    touch(&mut s, pid, va, [7, 0, 5, 1, 2, 6, 4]);
    assert_eq!((calls(&s), kept(&s)), (before, 0));
    let frames = frames(&s, pid);
    let first = va.page();
    assert!((0..8).all(|page| frames[&(first + page)] == frames[&first] + page), "{frames:?}");
    s.shutdown();
}

#[test]
fn single_frames_where_no_block_is_free() {
    // Every second frame is somebody's: no two free ones are neighbours.
    let mut s = system(2048, Settings::default(), |_| {});
    let pool = s.kernel.pool_mut();
    let mut all = Vec::new();
    let request = paging::frames::AllocRequest::new(NodeId(0), FrameState::Pinned).strict().emergency();
    let request = request.mobility(Mobility::Movable);
    while let Ok(frame) = pool.alloc(request) {
        all.push(frame);
    }
    all.sort_unstable();
    let held: Vec<_> = all.iter().filter(|frame| frame.number() % 2 == 0).copied().collect();
    all.iter().filter(|frame| frame.number() % 2 == 1).for_each(|frame| pool.free(*frame, 0, None));
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, MIB);
    touch(&mut s, pid, va, 0..16);
    assert_eq!((kept(&s), frames(&s, pid).len()), (0, 16));
    held.into_iter().for_each(|frame| s.kernel.pool_mut().free(frame, 0, None));
    s.shutdown();
}

#[test]
fn a_child_takes_what_the_parent_reserved_and_nobody_gets_it_twice() {
    let mut s = system(8192, Settings::default(), |_| {});
    let parent = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, parent, MIB);
    touch(&mut s, parent, va, 0..4);
    let child = s.kernel.fork(&mut s.machine, CPU, parent).expect("a child");
    touch(&mut s, child, va, [4, 5]);
    touch(&mut s, parent, va, [5, 6]);
    let (of_parent, of_child) = (frames(&s, parent), frames(&s, child));
    let first = va.page();
    assert_eq!(of_child[&(first + 4)], of_parent[&first] + 4, "page 4 was reserved for it");
    assert_eq!(of_child[&(first + 5)], of_parent[&first] + 5);
    assert_ne!(of_parent[&(first + 5)], of_child[&(first + 5)]);
    assert_eq!(lines(&of_child, first), 1);
    // What the parent has given away it makes up for with a block of its own.
    assert_eq!(of_parent[&(first + 6)], of_parent[&(first + 5)] + 1);
    // A new region of the child's is the child's alone.
    touch(&mut s, child, va, [8]);
    touch(&mut s, parent, va, [9]);
    assert_ne!(frames(&s, child)[&(first + 8)] >> 3, frames(&s, parent)[&(first + 9)] >> 3);
    // The grandchild reaches its ancestors' after the child is gone.
    let grandchild = s.kernel.fork(&mut s.machine, CPU, child).expect("a child");
    s.kernel.exit(&mut s.machine, CPU, child).expect("an exit");
    touch(&mut s, grandchild, va, [7]);
    assert_eq!(frames(&s, grandchild)[&(first + 7)], frames(&s, parent)[&(first + 6)] + 1);
    s.kernel.exit(&mut s.machine, CPU, parent).expect("an exit");
    s.kernel.exit(&mut s.machine, CPU, grandchild).expect("an exit");
    assert_eq!(kept(&s), 0);
    s.shutdown();
}

#[test]
fn pages_copied_on_a_write_are_together_again() {
    let mut s = system(8192, Settings::default(), |_| {});
    let parent = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, parent, MIB);
    touch(&mut s, parent, va, 0..16);
    let child = s.kernel.fork(&mut s.machine, CPU, parent).expect("a child");
    let before = frames(&s, parent);
    touch(&mut s, child, va, (0..16).rev());
    assert_eq!(frames(&s, parent), before);
    let of_child = frames(&s, child);
    assert_eq!((lines(&of_child, va.page()), lines(&of_child, va.page() + 8)), (1, 1));
    // The last owner keeps its frames: no copy, no reservation.
    let calls = s.kernel.pool().stats().allocs.iter().sum::<u64>();
    s.kernel.exit(&mut s.machine, CPU, child).expect("an exit");
    touch(&mut s, parent, va, 0..16);
    assert_eq!(s.kernel.pool().stats().allocs.iter().sum::<u64>(), calls);
    assert_eq!(frames(&s, parent), before);
    s.shutdown();
}

#[test]
fn discarded_pages_come_back_where_they_were() {
    let mut s = system(4096, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, MIB);
    touch(&mut s, pid, va, 0..8);
    let before = frames(&s, pid);
    let discard = |s: &mut System, page: u64, pages: u64| {
        s.kernel
            .madvise(&mut s.machine, CPU, pid, va.offset(page * PAGE), pages * PAGE, Advice::DontNeed)
            .expect("it is mapped");
    };
    discard(&mut s, 2, 3);
    assert_eq!(kept(&s), 3);
    assert_eq!(s.access(CPU, pid, va.offset(3 * PAGE), None), Ok(0), "zeroes");
    touch(&mut s, pid, va, 2..5);
    assert_eq!((frames(&s, pid), kept(&s)), (before, 0));
    // With the last page the block goes back whole.
    discard(&mut s, 0, 4);
    discard(&mut s, 4, 4);
    assert_eq!(kept(&s), 0);
    s.shutdown();
}

#[test]
fn an_area_that_ends_gives_back_what_was_for_its_pages() {
    let mut s = system(4096, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, MIB);
    touch(&mut s, pid, va, [0]);
    let unmap = |s: &mut System, page: u64, pages: u64| {
        s.kernel.munmap(&mut s.machine, CPU, pid, va.offset(page * PAGE), pages * PAGE).expect("a range");
    };
    // Pages that were never touched.
    unmap(&mut s, 5, 3);
    assert_eq!(kept(&s), 4);
    // The rest of the region is served as before.
    touch(&mut s, pid, va, 1..5);
    assert_eq!((kept(&s), lines(&frames(&s, pid), va.page())), (0, 1));
    touch(&mut s, pid, va, [16, 17]);
    assert_eq!(kept(&s), 6);
    unmap(&mut s, 16, 1);
    assert_eq!(kept(&s), 6, "page 17 is still there");
    unmap(&mut s, 17, 1);
    assert_eq!(kept(&s), 0, "no page of the block is mapped");
    // Moved elsewhere: the frames for what comes later in the old place go.
    touch(&mut s, pid, va, [32]);
    let to = Va::new(1 << 31);
    s.kernel
        .mremap(&mut s.machine, CPU, pid, va.offset(32 * PAGE), 8 * PAGE, 8 * PAGE, Some(to))
        .expect("room");
    assert_eq!(kept(&s), 0);
    s.shutdown();
}

#[test]
fn huge_pages_pass_by_and_take_the_place_of_reservations() {
    let mut s = system(16384, Settings::default(), |c| c.thp = ThpMode::Always);
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, 4 * MIB);
    touch(&mut s, pid, va, [0]);
    assert_eq!(kept(&s), 0, "a huge page answers");
    s.kernel
        .madvise(&mut s.machine, CPU, pid, va.offset(2 * MIB), 2 * MIB, Advice::NoHugePage)
        .expect("it is mapped");
    touch(&mut s, pid, va, (512..1024).step_by(2));
    assert_eq!(kept(&s), 256);
    s.kernel
        .madvise(&mut s.machine, CPU, pid, va.offset(2 * MIB), 2 * MIB, Advice::HugePage)
        .expect("it is mapped");
    assert_eq!(s.kernel.khugepaged(&mut s.machine, CPU, pid, 8), Ok(1));
    assert_eq!(kept(&s), 0, "no small page of the block is left");
    for page in (512..1024).step_by(2) {
        assert_eq!(s.access(CPU, pid, va.offset(page * PAGE), None), Ok(page));
    }
    s.shutdown();
}

#[test]
fn the_limit_of_the_group_switches_it_on_and_off() {
    let mut s = system(8192, Settings::default().min_limit(1000), |_| {});
    let (small, large) = (GroupId(1), GroupId(2));
    s.kernel.set_limit(small, Some(999));
    s.kernel.set_limit(large, Some(1000));
    let one = process(&mut s, ProcessSpec { group: small, ..ProcessSpec::default() });
    let two = process(&mut s, ProcessSpec { group: large, ..ProcessSpec::default() });
    let (a, b) = (area(&mut s, one, MIB), area(&mut s, two, MIB));
    touch(&mut s, one, a, [0]);
    assert_eq!(kept(&s), 0);
    touch(&mut s, two, b, [0]);
    assert_eq!(kept(&s), 7);
    // What is reserved stays usable; nothing new is reserved.
    s.kernel.set_limit(large, Some(10));
    touch(&mut s, two, b, [1]);
    assert_eq!(kept(&s), 6);
    touch(&mut s, two, b, [8]);
    assert_eq!(kept(&s), 6);
    s.kernel.set_limit(small, None);
    touch(&mut s, one, a, [8]);
    assert_eq!(kept(&s), 13);
    s.shutdown();
}

#[test]
fn compaction_is_not_stopped_by_what_is_kept() {
    let mut s = system(4096, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, 8 * MIB);
    touch(&mut s, pid, va, (0..2048).step_by(64));
    assert!(kept(&s) > 0);
    s.kernel.compact(&mut s.machine, CPU, NodeId(0), 9).expect("a pass");
    assert_eq!(kept(&s), 0);
    s.shutdown();
}

/// Tells the machine what is kept on each node.
#[derive(Debug)]
struct Watched {
    inner: PteMagnet,
    kept: Arc<[AtomicU64; 2]>,
}

impl Watched {
    fn told<R>(&mut self, result: R) -> R {
        for (node, kept) in self.kept.iter().enumerate() {
            kept.store(self.inner.reserved_on(NodeId(node as u8)), Ordering::Relaxed);
        }
        result
    }
}

impl<S: PhysSpace> FrameSource<S> for Watched {
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame> {
        let result = self.inner.frame(pool, request);
        self.told(result)
    }
    fn limited(&mut self, space: u32, frames: Option<u64>) {
        FrameSource::<S>::limited(&mut self.inner, space, frames);
    }
    fn unmapped(&mut self, pool: &mut FramePool<S>, gone: &Unmapped<S>) -> bool {
        let result = self.inner.unmapped(pool, gone);
        self.told(result)
    }
    fn removed(&mut self, pool: &mut FramePool<S>, space: u32, page: u64, pages: u64) {
        self.inner.removed(pool, space, page, pages);
        self.told(());
    }
    fn forked(&mut self, pool: &mut FramePool<S>, parent: u32, child: u32) {
        self.inner.forked(pool, parent, child);
    }
    fn exited(&mut self, pool: &mut FramePool<S>, space: u32) {
        self.inner.exited(pool, space);
        self.told(());
    }
    fn reclaim(&mut self, pool: &mut FramePool<S>, nodes: NodeSet, want: u64) -> u64 {
        let result = self.inner.reclaim(pool, nodes, want);
        self.told(result)
    }
    fn reserved(&self) -> u64 {
        FrameSource::<S>::reserved(&self.inner)
    }
}

fn sizes() -> impl Strategy<Value = u32> {
    (1..7u32).prop_map(|order| 1 << order)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several processes fault in their regions' pages in any order, all mixed.
    #[test]
    fn a_region_that_was_touched_as_a_whole_is_on_one_line(
        seed in any::<u64>(),
        pages in (3..7u32).prop_map(|order| 1 << order),
    ) {
        // No reclaim in between.
        let settings = Settings::of(pages).expect("a power of two").threshold(u64::MAX);
        let mut s = system(16384, settings, |_| {});
        let pids: Vec<_> = (0..4).map(|_| process(&mut s, ProcessSpec::default())).collect();
        let areas: Vec<_> = pids.iter().map(|pid| area(&mut s, *pid, 2 * MIB)).collect();
        // A permutation of all pages of all processes: an odd multiplier, and an offset.
        for at in 0..2048u64 {
            let at = at.wrapping_mul(seed | 1).wrapping_add(seed >> 32) % 2048;
            let (who, page) = ((at % 4) as usize, at / 4);
            s.access(CpuId((at % 2) as u16), pids[who], areas[who].offset(page * PAGE), Some(at)).expect("memory");
        }
        for (pid, va) in pids.iter().zip(&areas) {
            let frames = frames(&s, *pid);
            for group in (0..512).step_by(8) {
                prop_assert_eq!(lines(&frames, va.page() + group), 1);
            }
        }
        prop_assert_eq!(kept(&s), 0);
        s.shutdown();
    }

    /// Programs want more memory than there is: what is kept goes before any page is
    /// swapped out (the machine checks that), and before anybody is refused.
    #[test]
    fn under_pressure_what_is_kept_goes_first(
        pages in sizes(),
        threshold in prop_oneof![Just(None), Just(Some(u64::MAX))],
        swap_slots in prop_oneof![Just(0u64), Just(4000)],
        touches in proptest::collection::vec((0..3usize, 0..4u16, 0..4000u64, 1..9u64), 50..400),
    ) {
        let mut settings = Settings::of(pages).expect("a power of two");
        settings.threshold = threshold;
        let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
        let source = Watched { inner: PteMagnet::new(settings), kept: Arc::clone(&counts) };
        let config = KernelConfig { swap_slots, ..config() };
        let mut s = System::of(500, config, Box::new(source), Box::new(SingleTables::default()));
        s.machine.kept = Some(counts);
        let pids: Vec<_> = (0..3).map(|_| process(&mut s, ProcessSpec::default())).collect();
        let areas: Vec<_> = pids.iter().map(|pid| area(&mut s, *pid, 16 * MIB)).collect();
        for (who, cpu, page, step) in touches {
            for at in 0..8 {
                let va = areas[who].offset((page + at * step) % 4096 * PAGE);
                if s.access(CpuId(cpu), pids[who], va, Some(page)).is_err() {
                    prop_assert_eq!(kept(&s), 0, "refused while frames are kept");
                }
            }
        }
        s.shutdown();
    }

    /// One page in each region, in each size, with any threshold.
    #[test]
    fn who_touches_one_page_in_each_region_is_bounded(pages in sizes(), threshold in 0..2000u64) {
        let settings = Settings::of(pages).expect("a power of two").threshold(threshold);
        let mut s = system(16384, settings, |_| {});
        let good = process(&mut s, ProcessSpec::default());
        let bad = process(&mut s, ProcessSpec::default());
        let (a, b) = (area(&mut s, good, 4 * MIB), area(&mut s, bad, 64 * MIB));
        let mut most = 0;
        for region in 0..64 * MIB / PAGE / u64::from(pages) {
            touch(&mut s, bad, b, [region * u64::from(pages)]);
            most = most.max(kept(&s));
            if region < 128 {
                touch(&mut s, good, a, region * 8..region * 8 + 8);
            }
        }
        prop_assert!(most <= threshold, "{} of {}", most, threshold);
        // Who wastes pays: the other one's pages lie as they should.
        if threshold >= 2 * u64::from(pages) && pages >= 8 {
            let frames = frames(&s, good);
            let whole = (0..128).filter(|region| lines(&frames, a.page() + region * 8) == 1).count();
            prop_assert_eq!(whole, 128);
        }
        s.shutdown();
    }
}

#[test]
fn pages_of_another_node_are_not_served_from_here() {
    let mut s = system(8192, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let va = area(&mut s, pid, MIB);
    touch(&mut s, pid, va, [0]);
    // CPU 2 is on node 1, and so is what it touches first.
    s.access(CpuId(2), pid, va.offset(PAGE), Some(1)).expect("memory");
    touch(&mut s, pid, va, [2]);
    let node = |page: u64| s.kernel.pool().node_of(Frame::new(frames(&s, pid)[&(va.page() + page)]));
    assert_eq!((node(0), node(1), node(2)), (NodeId(0), NodeId(1), NodeId(0)));
    s.shutdown();
}

#[test]
fn files_and_read_only_faults_reserve_nothing() {
    let mut s = system(4096, Settings::default(), |_| {});
    let pid = process(&mut s, ProcessSpec::default());
    let file = s.kernel.create_file(64).expect("a file");
    let request = MapRequest::private_file(file, 64 * PAGE, os::Prot::RW);
    let va = s.kernel.mmap(&mut s.machine, CPU, pid, &request.at(Va::new(2 << 30))).expect("room");
    s.kernel.fault(&mut s.machine, CPU, pid, va, Intent::READ).expect("a page");
    assert_eq!(kept(&s), 0, "the page cache has frames of its own");
    s.kernel.fault(&mut s.machine, CPU, pid, va, Intent::WRITE).expect("a page");
    assert_eq!(kept(&s), 7, "a private copy is anonymous memory");
    let anonymous = area(&mut s, pid, MIB);
    s.kernel.fault(&mut s.machine, CPU, pid, anonymous, Intent::READ).expect("a page");
    assert_eq!(kept(&s), 7, "zeroes for a load are the shared frame's");
    s.shutdown();
}
