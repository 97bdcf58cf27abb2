//! What a fault costs in our own code, by the clock: the kernel's whole path for the
//! first touch of a page, with frames from the buddy allocator and from reservations.

use mechanisms::ptemagnet::{PteMagnet, Settings};
use os::{
    Cost, FileId, Hardware, Kernel, KernelConfig, MapRequest, ProcessSpec, RootLoad, Shootdown, SingleTables,
    SpaceId,
};
use paging::frames::{CpuId, Layout, NodeId, PoolConfig};
use paging::{Arena, FramePool, FrameSource, FromBuddy, Gfn, GuestPhys, Intent, Work};
use serde::Serialize;
use std::time::Instant;

/// Nanoseconds a page, the best of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FaultCost {
    /// From the buddy allocator.
    pub buddy: f64,
    /// From reservations of 8.
    pub ptemagnet: f64,
    /// The same, with 4 KiB really zeroed for each page, as a kernel does.
    pub buddy_zeroing: f64,
    /// The same.
    pub ptemagnet_zeroing: f64,
    /// Calls of the buddy allocator for 1000 pages.
    pub buddy_calls: f64,
    /// The same.
    pub ptemagnet_calls: f64,
}

/// A machine that does nothing but, if it has memory, zero it.
struct Bare {
    memory: Vec<[u8; 4096]>,
    next: usize,
}

impl Hardware<GuestPhys> for Bare {
    fn load_root(&mut self, _: CpuId, _: &RootLoad<GuestPhys>) {}
    fn shootdown(&mut self, _: CpuId, _: &Shootdown<'_>) {}
    fn flush_space(&mut self, _: CpuId, _: SpaceId) {}
    fn zero(&mut self, _: CpuId, _: Gfn, _: u8) {
        if let Some(page) = self.memory.get_mut(self.next) {
            page.fill(0);
            std::hint::black_box(&page);
            self.next = (self.next + 1) % self.memory.len();
        }
    }
    fn copy(&mut self, _: CpuId, _: Gfn, _: Gfn, _: u8) {}
    fn file_read(&mut self, _: CpuId, _: FileId, _: u64, _: Gfn) {}
    fn file_write(&mut self, _: CpuId, _: FileId, _: u64, _: Gfn) {}
    fn swap_out(&mut self, _: CpuId, _: Gfn, _: u64) {}
    fn swap_in(&mut self, _: CpuId, _: u64, _: Gfn) {}
    fn charge(&mut self, _: CpuId, _: Cost, _: &Work) {}
}

const CPU: CpuId = CpuId(0);
/// Pages of a run: 256 MiB.
const PAGES: u64 = 65_536;
/// Memory that is zeroed in turn: larger than caches of cores.
const ZEROED: usize = 4096;
const RUNS: usize = 7;

/// Seconds for a run, and calls of the allocator. Everything is made anew, so that
/// the allocator is as after boot each time.
fn run(source: Box<dyn FrameSource<GuestPhys>>, hw: &mut Bare) -> Option<(f64, u64)> {
    let layout = Layout::pc(&[4 << 30]);
    let pool = FramePool::new(&layout, PoolConfig::default()).ok()?;
    let config = KernelConfig::new(vec![NodeId(0)]);
    let tables = Box::new(SingleTables::default());
    let mut kernel = Kernel::new(config, pool, Arena::new(layout.end()), source, tables, hw).ok()?;
    let pid = kernel.create_process(hw, CPU, ProcessSpec::default()).ok()?;
    let va = kernel.mmap(hw, CPU, pid, &MapRequest::anonymous(PAGES << 12)).ok()?;
    kernel.switch_to(hw, CPU, pid).ok()?;
    let calls = |kernel: &Kernel<_>| -> u64 { kernel.pool().stats().allocs.iter().sum() };
    let before = calls(&kernel);
    let start = Instant::now();
    for page in 0..PAGES {
        kernel.fault(hw, CPU, pid, va.offset(page << 12), Intent::WRITE).ok()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let called = calls(&kernel) - before;
    kernel.shutdown(hw).ok()?;
    Some((seconds, called))
}

/// Measures. Runs of both alternate, so that both meet the same neighbours on this machine.
pub fn cost() -> FaultCost {
    let mut best = [f64::INFINITY; 4];
    let mut calls = [0; 2];
    for zeroing in 0..2 {
        let memory = vec![[0u8; 4096]; if zeroing == 1 { ZEROED } else { 0 }];
        let mut hw = Bare { memory, next: 0 };
        for _ in 0..RUNS {
            let sources: [Box<dyn FrameSource<GuestPhys>>; 2] =
                [Box::new(FromBuddy), Box::new(PteMagnet::new(Settings::default()))];
            for (at, source) in sources.into_iter().enumerate() {
                if let Some((seconds, called)) = run(source, &mut hw) {
                    let best = &mut best[2 * zeroing + at];
                    *best = best.min(seconds * 1e9 / PAGES as f64);
                    calls[at] = called;
                }
            }
        }
    }
    let thousand = |calls: u64| 1000.0 * calls as f64 / PAGES as f64;
    FaultCost {
        buddy: best[0],
        ptemagnet: best[1],
        buddy_zeroing: best[2],
        ptemagnet_zeroing: best[3],
        buddy_calls: thousand(calls[0]),
        ptemagnet_calls: thousand(calls[1]),
    }
}
