//! What a first touch costs with frames from the buddy allocator and from reservations, in
//! the kernel's whole fault path: `cargo bench -p os --bench ptemagnet_fault`.
//!
//! Nanoseconds of real code for each page, the best of several runs, which alternate so that both
//! meet the same neighbours; frames have no content. (The paper, of a program that touches a large array: -0.5 %.)

use mechanisms::ptemagnet::{PteMagnet, Settings};
use os::{Kernel, KernelConfig, MapRequest, NoMachine, ProcessId, ProcessSpec, SingleTables};
use paging::frames::{CpuId, Layout, NodeId, PoolConfig};
use paging::{Arena, FramePool, FrameSource, FromBuddy, HostPhys, Intent, Va};
use std::time::Instant;

type Host = Kernel<Arena<HostPhys>>;

const CPU: CpuId = CpuId(0);
const GIB: u64 = 1 << 30;
/// 256 MiB.
const PAGES: u64 = 65_536;
const RUNS: u32 = 9;

fn kernel(source: Box<dyn FrameSource<HostPhys>>) -> Host {
    let layout = Layout::pc(&[16 * GIB]);
    let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
    let config = KernelConfig::new(vec![NodeId(0); 2]);
    let tables = Box::new(SingleTables::default());
    Kernel::new(config, pool, Arena::new(layout.end()), source, tables, &mut NoMachine).expect("a kernel")
}

fn process(kernel: &mut Host, len: u64) -> (ProcessId, Va) {
    let pid = kernel.create_process(&mut NoMachine, CPU, ProcessSpec::default()).expect("a process");
    let va = kernel.mmap(&mut NoMachine, CPU, pid, &MapRequest::anonymous(len)).expect("room");
    kernel.switch_to(&mut NoMachine, CPU, pid).expect("a process");
    (pid, va)
}

fn touch(kernel: &mut Host, pid: ProcessId, va: Va, page: u64) {
    kernel.fault(&mut NoMachine, CPU, pid, va.offset(page << 12), Intent::WRITE).expect("a page");
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / PAGES as f64
}

/// What is measured: takes a fresh kernel, returns nanoseconds a page.
type Case = (&'static str, fn(&mut Host) -> f64);

const CASES: [Case; 4] = [
    ("fault, in order", |host| {
        let (pid, va) = process(host, PAGES << 12);
        timed(|| (0..PAGES).for_each(|page| touch(host, pid, va, page)))
    }),
    ("fault, regions at random", |host| {
        let (pid, va) = process(host, 4 * GIB);
        let regions = 4 * GIB / 4096 / 8;
        timed(|| {
            for at in 0..PAGES / 8 {
                // An odd multiplier visits every region once.
                let region = at.wrapping_mul(0x9e37_79b1) % regions;
                (0..8).for_each(|page| touch(host, pid, va, region * 8 + page));
            }
        })
    }),
    ("fault, one page in 32 KiB", |host| {
        let (pid, va) = process(host, PAGES << 15);
        timed(|| (0..PAGES).for_each(|page| touch(host, pid, va, page * 8)))
    }),
    ("exit", |host| {
        let (pid, va) = process(host, PAGES << 12);
        (0..PAGES).for_each(|page| touch(host, pid, va, page));
        timed(|| host.exit(&mut NoMachine, CPU, pid).expect("an exit"))
    }),
];

fn main() {
    type Source = (String, Box<dyn Fn() -> Box<dyn FrameSource<HostPhys>>>);
    let mut sources: Vec<Source> = vec![("buddy".to_string(), Box::new(|| Box::new(FromBuddy)))];
    for pages in [2, 8, 64] {
        let settings = Settings::of(pages).expect("a power of two");
        sources
            .push((format!("reservations of {pages}"), Box::new(move || Box::new(PteMagnet::new(settings)))));
    }
    for (name, case) in CASES {
        let mut best = vec![f64::INFINITY; sources.len()];
        for _ in 0..RUNS {
            for (best, (_, source)) in best.iter_mut().zip(&sources) {
                *best = best.min(case(&mut kernel(source())));
            }
        }
        for (best, (source, _)) in best.iter().zip(&sources) {
            println!("{:<48} {best:>8.1} ns/page", format!("{name}, {source}"));
        }
    }
}
