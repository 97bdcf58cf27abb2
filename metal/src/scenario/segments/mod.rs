//! Direct segments: no processor has the registers. What can be shown is that their
//! software yields the mapping that the registers would compute: every page of a segment is faulted
//! in through the tables, and the MMU's answer is compared with the registers', page by page.

mod modes;

pub use modes::self_balloon;

use super::bits;
use crate::machine::{BOOT, Machine, create, expect, fill, finish_but, map_memory, with};
use crate::program::Series;
use crate::say;
use mechanisms::segments::{Answer, Registers};
use os::segment::{Contiguity, Reason};
use os::{ProcessId, ProcessSpec, SpaceKind};
use paging::frames::CpuId;
use paging::{HostPhys, Va, Virt};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 1024;
/// The frames that fail, by page of the segment.
const FAULTY: [u64; 3] = [3, 500, 1023];

/// Runs it.
pub fn run(machine: &Machine) {
    native(machine);
    modes::of_a_vm(machine);
}

fn native(machine: &Machine) {
    machine.start();
    let cpus = machine.all_cpus();
    let at = |i: usize| cpus[i % cpus.len()];
    let pid = create(ProcessSpec::default());
    map_memory(pid, HEAP, PAGES);
    // A part of it is in use, on scattered frames.
    fill(BOOT, pid, Series::pages(HEAP, PAGES / 2, 1));
    let begun = with(BOOT, |kernel, hw| {
        kernel
            .begin_segment(hw, BOOT, pid, HEAP..HEAP + PAGES * 4096, Contiguity::Compacted)
            .expect("a segment")
    });
    cpus.iter().for_each(|&cpu| expect(cpu, pid, Series::pages(HEAP, PAGES / 2, 1)));
    fill(at(1), pid, Series::pages(HEAP + PAGES / 2 * 4096, PAGES / 2, 1 + PAGES / 2));
    let inside = compare(pid, &cpus);
    assert_eq!(inside, PAGES, "all pages are where the registers say");
    say!(
        "a segment of {PAGES} pages, {} of them moved there: the MMU's frames are the registers'",
        begun.copied
    );

    // Frames fail: their pages escape, with their content.
    for page in FAULTY {
        with(BOOT, |kernel, hw| {
            let space = kernel.process(pid).expect("alive").space();
            let registers = space.segment().expect("it has a segment").registers();
            let frame = registers.translate(Va::new(HEAP + page * 4096)).expect("it is in place").frame();
            kernel.mark_faulty(hw, BOOT, frame).expect("its page moves");
        });
    }
    // A part becomes ordinary memory.
    with(BOOT, |kernel, hw| {
        let range = HEAP + 40 * 4096..HEAP + 48 * 4096;
        kernel.leave_segment(hw, BOOT, pid, range, Reason::Asked).expect("pages leave");
    });
    cpus.iter().for_each(|&cpu| expect(cpu, pid, Series::pages(HEAP, PAGES, 1)));
    let inside = compare(pid, &cpus);
    say!("{} pages escaped: they are elsewhere, with their content; {inside} are in place", PAGES - inside);

    // A child shares nothing that the registers would still give.
    let child = with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, pid)).expect("a child");
    fill(at(2), child, Series::pages(HEAP, 10, 5000));
    expect(at(3), pid, Series::pages(HEAP, PAGES, 1));
    expect(at(1), child, Series::pages(HEAP, 10, 5000));
    expect(at(1), child, Series::pages(HEAP + 10 * 4096, PAGES - 10, 11));
    with(BOOT, |kernel, hw| {
        kernel.exit(hw, BOOT, child).expect("an exit");
        let _ = kernel.end_segment(hw, BOOT, pid);
    });
    expect(BOOT, pid, Series::pages(HEAP, PAGES, 1));
    finish_but(FAULTY.len() as u64);
}

/// Every page's leaf beside what the registers answer. Returns how many are in place.
fn compare(pid: ProcessId, cpus: &[CpuId]) -> u64 {
    with(BOOT, |kernel, hw| {
        let space = kernel.process(pid).expect("alive").space();
        let segment = space.segment().expect("it has a segment");
        let image = segment.registers().save();
        for cpu in cpus {
            if hw.running[cpu.index()].is_some_and(|(running, _)| running == space.id()) {
                let loaded = hw.segments[cpu.index()][SpaceKind::Process as usize].as_ref();
                assert_eq!(loaded, Some(&image), "CPU {} has the registers loaded", cpu.0);
            }
        }
        // From what is saved: as a processor would have them.
        let mut registers = Registers::<Virt, HostPhys>::default();
        registers.load(&image);
        let mut inside = 0;
        for page in 0..PAGES {
            let va = HEAP + page * 4096;
            let at = bits::leaf(kernel.mem(), space.table().root(), 4, va)
                .unwrap_or_else(|| panic!("{va:#x} was touched and is not mapped"));
            if let Answer::Inside(frame, _) = registers.answer(Va::new(va)) {
                assert_eq!(
                    at.entry.frame::<HostPhys>(),
                    frame,
                    "the MMU's frame for {va:#x}, and the registers'"
                );
                inside += 1;
            }
        }
        let escaped = segment.escaped().count() as u64;
        assert!(inside + escaped <= PAGES, "no escaped page is in place");
        inside
    })
}
