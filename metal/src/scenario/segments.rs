//! Direct segments: no processor has the registers. What can be shown is that their
//! software yields the mapping that the registers would compute: every page of a segment is faulted
//! in through the tables, and the MMU's answer is compared with the registers', page by page.

use super::bits;
use crate::guest::{self, Call};
use crate::machine::{BOOT, Machine, create, expect, fill, finish, with};
use crate::physical;
use crate::program::Series;
use crate::say;
use crate::vm::{Guest, Node};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use mechanisms::segments::{Answer, Registers};
use os::segment::{Contiguity, Reason};
use os::{MapRequest, ProcessId, ProcessSpec, Slot, SpaceKind, VmSpec};
use paging::frames::{CpuId, NodeId, PAGEBLOCK};
use paging::{Gfn, Gpa, Hfn, HostPhys, Va, Virt};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 1024;
/// The frames that fail, by page of the segment.
const FAULTY: [u64; 3] = [3, 500, 1023];

/// Runs it.
pub fn run(machine: &Machine) {
    native(machine);
    of_a_vm(machine);
}

fn native(machine: &Machine) {
    machine.start();
    let cpus: Vec<CpuId> = (0..machine.cpus.len() as u16).map(CpuId).collect();
    let at = |i: usize| cpus[i % cpus.len()];
    let pid = create(ProcessSpec::default());
    with(BOOT, |kernel, hw| {
        let request = MapRequest::anonymous(PAGES * 4096).at(Va::new(HEAP));
        kernel.mmap(hw, BOOT, pid, &request).expect("memory");
    });
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
    finish_with_faults();
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

/// As [`finish`], where frames were taken out of use.
fn finish_with_faults() {
    crate::machine::finish_but(FAULTY.len() as u64);
}

/// Where the memory goes that the guest gets for what it gave.
const PLUGGED: u64 = 256 << 20;

/// A VM whose guest balloons scattered frames and gets as much contiguous memory: the VMM's segment.
fn of_a_vm(machine: &Machine) {
    machine.start();
    // Small, so that the guest uses what it gets.
    let node = Node { memory: 0..32 << 20, cpus: alloc::vec![BOOT] };
    let guest = Guest::new(machine, VmSpec::default(), &[node], "scenario=self-balloon");
    guest.run(plug);
    guest.end();
    finish();
}

static BALLOONED: AtomicU64 = AtomicU64::new(0);

/// The guest gives the frames in the list at `list` (`count` numbers, below 2^32 the question;
/// all ones ask for the comparison).
fn plug(guest: &Guest, cpu: CpuId, list: u64, count: u64) -> u64 {
    if list == u64::MAX {
        return compare_vm(guest, cpu, count);
    }
    let gfns: Vec<Gfn> = (0..count)
        .map(|i| {
            let at = guest.host_address(list + i * 8);
            // SAFETY: the guest's memory is mapped, and the guest waits for the answer.
            Gfn::new(unsafe { physical::at::<u64>(at).read() })
        })
        .collect();
    with(cpu, |kernel, hw| {
        let freed = kernel.take_ballooned(hw, cpu, guest.vm, &gfns).expect("the balloon's frames");
        kernel.add_slot(hw, cpu, guest.vm, Slot::new(Gfn::new(PLUGGED >> 12), count)).expect("a slot");
        let range = PLUGGED..PLUGGED + count * 4096;
        kernel.begin_vm_segment(hw, cpu, guest.vm, range, Contiguity::Compacted).expect("the VMM's segment");
        say!(
            "the guest gave {count} scattered frames ({freed} were backed) and gets as many contiguous ones"
        );
    });
    BALLOONED.store(count, Ordering::Release);
    count
}

/// The nested leaves of the segment beside what its registers answer.
fn compare_vm(guest: &Guest, cpu: CpuId, touched: u64) -> u64 {
    let inside = with(cpu, |kernel, _| {
        let count = BALLOONED.load(Ordering::Acquire);
        let space = kernel.vm(guest.vm).expect("the VM").space();
        let registers = space.segment().expect("it has a segment").registers();
        let mut inside = 0;
        for page in 0..count {
            let gpa = PLUGGED + page * 4096;
            let Some(at) = bits::leaf(kernel.mem(), space.table().root(), 4, gpa) else { continue };
            let Answer::Inside(frame, _) = registers.answer(Gpa::new(gpa)) else { continue };
            assert_eq!(
                at.entry.frame::<HostPhys>(),
                frame,
                "the nested frame for {gpa:#x}, and the registers'"
            );
            inside += 1;
        }
        inside
    });
    assert!(inside >= touched, "{inside} pages of the segment are mapped, the guest touched {touched}");
    say!("{inside} nested leaves of the VMM's segment are where the registers say");
    inside
}

/// The guest: it gives scattered frames, and uses what it gets.
pub fn self_balloon(machine: &Machine) {
    machine.start();
    let node = NodeId(0);
    let pid = create(ProcessSpec::default());
    with(BOOT, |kernel, hw| {
        let pinned = kernel.inflate_balloon(node, 4 * PAGEBLOCK);
        let list: Vec<u64> = pinned.iter().map(|frame| frame.number()).collect();
        assert_eq!(list.len() as u64, 4 * PAGEBLOCK, "the guest can spare that much");
        // The host reads the list at its guest-physical address.
        let address = list.as_ptr() as u64 - physical::DIRECT;
        let got = guest::call(Call::Tell, address, list.len() as u64);
        kernel.add_memory(node, Hfn::new(PLUGGED >> 12), got).expect("memory is plugged in");
        let request = MapRequest::anonymous(8 * PAGEBLOCK * 4096).at(Va::new(HEAP));
        kernel.mmap(hw, BOOT, pid, &request).expect("memory");
    });
    // More than is left without it.
    fill(BOOT, pid, Series::pages(HEAP, 8 * PAGEBLOCK, 1));
    expect(BOOT, pid, Series::pages(HEAP, 8 * PAGEBLOCK, 1));
    guest::call(Call::Tell, u64::MAX, PAGEBLOCK);
    finish();
}
