//! The life of processes on several CPUs and nodes: created, faulting, forked, writing
//! copy-on-write pages, unmapping, dying. Every content is checked.

use crate::hardware::pattern;
use crate::machine::{
    BOOT, Killed, Machine, create, expect, fill, finish, map_memory, run as run_program, run_beside, with,
};
use crate::program::{Program, Series};
use crate::say;
use os::{Advice, MapRequest, MmError, ProcessSpec, Prot};
use paging::frames::CpuId;
use paging::{PageSize, Translation, Va};

const HEAP: u64 = 0x7000_0000_0000;
const FILE: u64 = 0x6000_0000_0000;
const PAGES: u64 = 300;

/// Runs it.
pub fn run(machine: &Machine) {
    machine.start();
    let cpus = machine.all_cpus();
    let last = *cpus.last().expect("a CPU");
    let parent = create(ProcessSpec::default());
    let heap = Series::pages(HEAP, PAGES, 1000);
    map_memory(parent, HEAP, PAGES);

    // Loads see zeroes, stores stay, from every CPU; frames come from the storing CPU's node.
    expect(BOOT, parent, Series { step: 0, ..Series::pages(HEAP, PAGES, 0) });
    let part = PAGES / cpus.len() as u64;
    for &cpu in &cpus {
        let first = u64::from(cpu.0) * part;
        fill(cpu, parent, Series::pages(HEAP + first * 4096, part, 1000 + first));
    }
    let rest = part * cpus.len() as u64;
    fill(BOOT, parent, Series::pages(HEAP + rest * 4096, PAGES - rest, 1000 + rest));
    cpus.iter().for_each(|&cpu| expect(cpu, parent, heap));
    with(BOOT, |kernel, _| {
        let table = kernel.process(parent).expect("alive").space().table();
        for &cpu in &cpus {
            let va = Va::new(HEAP + u64::from(cpu.0) * part * 4096);
            let walk = paging::Native {
                mem: kernel.mem(),
                root: table.root(),
                levels: table.levels(),
                frames: u64::MAX,
            };
            let at = walk.peek(va).expect("it was stored to").frame();
            let node = machine.cpus[cpu.index()];
            assert_eq!(kernel.pool().node_of(at), node, "CPU {}'s first touch of {va:?}", cpu.0);
        }
    });
    say!("{} CPUs on {} nodes fault in and share {PAGES} pages", cpus.len(), machine.layout.nodes.len());

    // All CPUs at once on the same pages: no addition is lost.
    let add = Program::Add(Series { stride: 4096, ..Series::pages(HEAP + 8, PAGES, 1) });
    let others: alloc::vec::Vec<_> = cpus[1..].iter().map(|&cpu| run_beside(cpu, parent, add)).collect();
    run_or_die(BOOT, parent, add);
    others.into_iter().for_each(|task| {
        task.join(BOOT).unwrap_or_else(|killed| panic!("an addition: {killed}"));
    });
    expect(BOOT, parent, Series { first: cpus.len() as u64, step: 0, ..Series::pages(HEAP + 8, PAGES, 0) });

    // A child sees what the parent had, and neither sees what the other stores then.
    let child = with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, parent)).expect("a child");
    expect(last, child, heap);
    fill(last, child, Series::pages(HEAP, PAGES / 2, 5000));
    fill(BOOT, parent, Series::pages(HEAP + PAGES / 4 * 4096, PAGES / 4, 9000));
    expect(BOOT, child, Series::pages(HEAP, PAGES / 2, 5000));
    expect(BOOT, child, Series::pages(HEAP + PAGES / 2 * 4096, PAGES / 2, 1000 + PAGES / 2));
    expect(last, parent, Series::pages(HEAP, PAGES / 4, 1000));
    expect(last, parent, Series::pages(HEAP + PAGES / 4 * 4096, PAGES / 4, 9000));
    expect(last, parent, Series::pages(HEAP + PAGES / 2 * 4096, PAGES / 2, 1000 + PAGES / 2));
    say!("after a fork, parent and child each see their own stores");

    // A file's pages are the device's; a private store stays private.
    let file = with(BOOT, |kernel, hw| {
        let file = kernel.create_file(16).expect("a file");
        for pid in [parent, child] {
            let request = MapRequest::private_file(file, 16 * 4096, Prot::RW).at(Va::new(FILE));
            kernel.mmap(hw, BOOT, pid, &request).expect("a mapping of a file");
        }
        file
    });
    run_or_die(BOOT, parent, Program::Store(FILE, 77));
    expect(BOOT, parent, Series { count: 1, ..Series::pages(FILE, 1, 77) });
    for page in 0..16 {
        let word = Series { count: 1, ..Series::pages(FILE + page * 4096, 1, pattern(file, page, 0)) };
        expect(last, child, word);
    }

    tell_roots(machine, &[parent, child]);
    if cpus.len() > 1 {
        change_under_watch(child, last);
    } else {
        run_or_die(BOOT, child, Program::Store(HEAP, 5001));
    }

    // What is taken away is gone on every CPU.
    with(BOOT, |kernel, hw| {
        let (va, len) = (Va::new(HEAP), 8 * 4096);
        kernel.mprotect(hw, BOOT, parent, va, len, Prot::R).expect("mprotect");
        kernel.munmap(hw, BOOT, parent, Va::new(HEAP + 8 * 4096), len).expect("munmap");
        kernel.madvise(hw, BOOT, parent, Va::new(HEAP + 16 * 4096), len, Advice::DontNeed).expect("madvise");
    });
    for &cpu in &cpus {
        expect(cpu, parent, Series::pages(HEAP, 8, 1000));
        refused(cpu, parent, Program::Store(HEAP, 1));
        refused(cpu, parent, Program::Load(HEAP + 8 * 4096));
        expect(cpu, parent, Series { step: 0, ..Series::pages(HEAP + 16 * 4096, 8, 0) });
    }
    // Programs and data are not the other: nothing may be fetched from the heap, nor stored to the programs.
    refused(BOOT, parent, Program::Store(crate::program::TEXT, 1));
    // The kernel's half is nobody's.
    refused(last, parent, Program::Load(crate::physical::IMAGE));

    tell_roots(machine, &[parent, child]);

    // Huge pages: a store to a forked one splits it.
    let huge = Va::new(HEAP).offset(PageSize::Size1G.bytes());
    with(BOOT, |kernel, hw| {
        kernel.mmap(hw, BOOT, parent, &MapRequest::anonymous(4 << 20).at(huge)).expect("memory");
        kernel.madvise(hw, BOOT, parent, huge, 4 << 20, Advice::HugePage).expect("advice");
    });
    fill(last, parent, Series::pages(huge.raw(), 1024, 1));
    let second = with(BOOT, |kernel, hw| {
        assert!(kernel.stats().huge_faults >= 2, "two huge pages: {:?}", kernel.stats());
        kernel.fork(hw, BOOT, parent).expect("another child")
    });
    fill(BOOT, second, Series::pages(huge.raw(), 10, 100));
    expect(last, parent, Series::pages(huge.raw(), 1024, 1));
    expect(last, second, Series::pages(huge.raw() + 10 * 4096, 1014, 11));

    let counts = with(BOOT, |kernel, hw| {
        kernel.exit(hw, BOOT, parent).expect("an exit");
        kernel.stats()
    });
    expect(last, child, Series::pages(HEAP + 4096, PAGES / 2 - 1, 5001));
    let hw = finish();
    say!(
        "{} faults ({} copies), {} shootdowns, {} interrupts, {} roots loaded; all frames came back",
        hw.counts.faults,
        counts.cow_copies,
        hw.counts.shootdowns,
        hw.counts.interrupts,
        hw.counts.loads
    );
    assert!(cpus.len() == 1 || hw.counts.interrupts > 0, "CPUs were interrupted");
}

/// A guest's host may want to compare the tables of these processes.
fn tell_roots(machine: &Machine, pids: &[os::ProcessId]) {
    if machine.command_line.contains("tell=roots") {
        for &pid in pids {
            let root = with(BOOT, |kernel, _| kernel.process(pid).expect("alive").space().table().root());
            crate::guest::call(crate::guest::Call::Tell, root.base().raw(), 0);
        }
    }
}

/// A CPU that watches a page sees it change hands: its old translation is shot down.
fn change_under_watch(child: os::ProcessId, last: CpuId) {
    let flag = HEAP + 16;
    with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, child)).expect("a grandchild");
    let watch = run_beside(last, child, Program::Watch(HEAP, 5000, flag));
    while load(child, flag) != 1 {}
    run_or_die(BOOT, child, Program::Store(HEAP, 5001));
    assert_eq!(watch.join(BOOT).map(|c| c.rax), Ok(5001), "CPU {} still uses the old frame", last.0);
}

fn run_or_die(cpu: CpuId, pid: os::ProcessId, program: Program) -> crate::traps::Context {
    run_program(cpu, pid, program).unwrap_or_else(|killed| panic!("{program:x?} on CPU {}: {killed}", cpu.0))
}

fn load(pid: os::ProcessId, va: u64) -> u64 {
    run_or_die(BOOT, pid, Program::Load(va)).rax
}

fn refused(cpu: CpuId, pid: os::ProcessId, program: Program) {
    match run_program(cpu, pid, program) {
        Err(Killed::Refused(MmError::Segv(_))) => {}
        other => panic!("{program:x?} on CPU {} must be refused: {other:x?}", cpu.0),
    }
}
