//! What the kernel's paths cost: `cargo bench -p os --bench kernel [-- part of a name]`.
//!
//! Nanoseconds of real code for each page, the best of several short runs, on a
//! machine whose frames have no content and whose TLBs need no interrupts.

use os::{
    Kernel, KernelConfig, MapRequest, NoMachine, ProcessId, ProcessSpec, Prot, SingleTables, Slot, ThpMode,
    VmSpec,
};
use paging::frames::{CpuId, Layout, NodeId, PoolConfig};
use paging::{Arena, FramePool, FromBuddy, Gfn, Gpa, HostPhys, Intent, Va};
use std::time::Instant;

const CPU: CpuId = CpuId(0);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Host = Kernel<Arena<HostPhys>>;

fn kernel(thp: ThpMode) -> Host {
    let layout = Layout::pc(&[128 * GIB]);
    let pool = FramePool::new(&layout, PoolConfig::default()).expect("a layout");
    let config = KernelConfig { thp, ..KernelConfig::new(vec![NodeId(0); 2]) };
    let mem = Arena::new(layout.end());
    Kernel::new(config, pool, mem, Box::new(FromBuddy), Box::new(SingleTables::default()), &mut NoMachine)
        .expect("a kernel")
}

fn process(kernel: &mut Host, len: u64) -> (ProcessId, Va) {
    let pid = kernel.create_process(&mut NoMachine, CPU, ProcessSpec::default()).expect("a process");
    let va = kernel.mmap(&mut NoMachine, CPU, pid, &MapRequest::anonymous(len)).expect("room");
    kernel.switch_to(&mut NoMachine, CPU, pid).expect("a process");
    (pid, va)
}

fn report(name: &str, pages: u64, runs: u32, mut run: impl FnMut() -> f64) {
    // Cargo itself passes `--bench`.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if filter.is_some_and(|filter| !name.contains(&filter)) {
        return;
    }
    let best = (0..runs).map(|_| run()).fold(f64::INFINITY, f64::min);
    println!("{name:<48} {:>8.1} ns/page", best * 1e9 / pages as f64);
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn main() {
    let (len, pages) = (64 * MIB, 64 * MIB / 4096);
    let mut host = kernel(ThpMode::Never);
    report("fault, 4 KiB, in order", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        let seconds = timed(|| {
            for page in 0..pages {
                host.fault(&mut NoMachine, CPU, pid, va.offset(page << 12), Intent::WRITE).expect("a page");
            }
        });
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("fault, 4 KiB, at random over 4 GiB", pages, 20, || {
        let (pid, va) = process(&mut host, 4 * GIB);
        let seconds = timed(|| {
            // An odd multiplier visits every page once.
            for page in (0..pages).map(|i| i.wrapping_mul(0x9e37_79b1) % (4 * GIB / 4096)) {
                host.fault(&mut NoMachine, CPU, pid, va.offset(page << 12), Intent::WRITE).expect("a page");
            }
        });
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("populate, 4 KiB", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        let seconds = timed(|| {
            host.populate(&mut NoMachine, CPU, pid, va, len, Intent::WRITE).expect("pages");
        });
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("populate, 4 KiB, 64 GiB", 64 * GIB / 4096, 1, || {
        let (pid, va) = process(&mut host, 64 * GIB);
        let seconds = timed(|| {
            host.populate(&mut NoMachine, CPU, pid, va, 64 * GIB, Intent::WRITE).expect("pages");
        });
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("exit", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        host.populate(&mut NoMachine, CPU, pid, va, len, Intent::WRITE).expect("pages");
        timed(|| host.exit(&mut NoMachine, CPU, pid).expect("an exit"))
    });
    report("fork", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        host.populate(&mut NoMachine, CPU, pid, va, len, Intent::WRITE).expect("pages");
        let mut child = pid;
        let seconds = timed(|| child = host.fork(&mut NoMachine, CPU, pid).expect("a child"));
        host.exit(&mut NoMachine, CPU, child).expect("an exit");
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("copy on write", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        host.populate(&mut NoMachine, CPU, pid, va, len, Intent::WRITE).expect("pages");
        let child = host.fork(&mut NoMachine, CPU, pid).expect("a child");
        let seconds = timed(|| {
            for page in 0..pages {
                host.fault(&mut NoMachine, CPU, child, va.offset(page << 12), Intent::WRITE).expect("a page");
            }
        });
        host.exit(&mut NoMachine, CPU, child).expect("an exit");
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    report("mprotect", pages, 20, || {
        let (pid, va) = process(&mut host, len);
        host.populate(&mut NoMachine, CPU, pid, va, len, Intent::WRITE).expect("pages");
        let seconds = timed(|| host.mprotect(&mut NoMachine, CPU, pid, va, len, Prot::R).expect("a mapping"));
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    let mut host = kernel(ThpMode::Always);
    report("fault, 2 MiB (per huge page)", 512, 20, || {
        let (pid, va) = process(&mut host, GIB);
        let seconds = timed(|| {
            for block in 0..512 {
                host.fault(&mut NoMachine, CPU, pid, va.offset(block << 21), Intent::WRITE).expect("a page");
            }
        });
        host.exit(&mut NoMachine, CPU, pid).expect("an exit");
        seconds
    });
    let mut host = kernel(ThpMode::Never);
    report("vm_fault, 4 KiB", pages, 20, || {
        let slots = [Slot::new(Gfn::new(0), pages)];
        let vm = host.create_vm(&mut NoMachine, CPU, VmSpec::default(), &slots).expect("a VM");
        host.enter_vm(&mut NoMachine, CPU, vm).expect("a VM");
        let seconds = timed(|| {
            for page in 0..pages {
                host.vm_fault(&mut NoMachine, CPU, vm, Gpa::new(page << 12), Intent::WRITE).expect("a page");
            }
        });
        host.destroy_vm(&mut NoMachine, CPU, vm).expect("an end");
        seconds
    });
}
