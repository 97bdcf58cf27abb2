//! Faults on purpose: each must end in a message that says what is wrong and
//! where, and in the verdict "failed"; never in a hang or a reset.

use super::bits;
use crate::machine::{BOOT, Machine, create, expect, fill, run, run_beside, with};
use crate::physical;
use crate::program::{Program, Series};
use crate::smp::{self, Request};
use os::{MapRequest, Policy, ProcessId, ProcessSpec};
use paging::frames::{CpuId, NodeSet};
use paging::{Entry, Flags, NodeId, TableMemory, Va};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 64;

fn process(machine: &Machine) -> ProcessId {
    machine.start();
    let pid = create(ProcessSpec::default());
    map(pid, PAGES, None);
    fill(BOOT, pid, Series::pages(HEAP, PAGES, 1));
    pid
}

fn map(pid: ProcessId, pages: u64, policy: Option<Policy>) {
    let request = MapRequest { policy, ..MapRequest::anonymous(pages * 4096).at(Va::new(HEAP)) };
    with(BOOT, |kernel, hw| kernel.mmap(hw, BOOT, pid, &request)).expect("memory");
}

/// Changes the entry of a page behind the kernel's back.
fn damage(pid: ProcessId, page: u64, change: impl FnOnce(Entry) -> Entry) {
    with(BOOT, |kernel, _| {
        let table = kernel.process(pid).expect("alive").space().table();
        let at = bits::leaf(kernel.mem(), table.root(), 4, HEAP + page * 4096).expect("it is mapped");
        kernel.mem().store(at.slot, change(at.entry));
    });
    smp::ask(BOOT, BOOT, Request::All);
}

/// An entry leads to another page's frame.
pub fn wrong_entry(machine: &Machine) {
    let pid = process(machine);
    damage(pid, 20, |entry| entry.with_frame(entry.frame::<paging::HostPhys>().offset(1)));
    expect(BOOT, pid, Series::pages(HEAP, PAGES, 1));
}

/// An entry has a bit set that must be zero: hardware refuses it, software sees nothing wrong.
pub fn reserved_bit(machine: &Machine) {
    let pid = process(machine);
    // The highest bit of a frame's address: beyond the physical addresses that this CPU has.
    damage(pid, 20, |entry| entry.with(Flags(1 << 51)));
    expect(BOOT, pid, Series::pages(HEAP, PAGES, 1));
}

/// A CPU keeps a translation that was taken away, as no shootdown reaches it.
pub fn missed_shootdown(machine: &Machine) {
    let pid = process(machine);
    let other = CpuId(machine.cpus.len() as u16 - 1);
    let child = with(BOOT, |kernel, hw| kernel.fork(hw, BOOT, pid)).expect("a child");
    let begun = HEAP + 63 * 4096;
    // It loads the page, which parent and child share now …
    let watch = run_beside(other, pid, Program::Watch(HEAP, 1, begun));
    while run(BOOT, pid, Program::Load(begun)).expect("a load").rax != 1 {}
    with(BOOT, |_, hw| hw.deaf = true);
    // … and then the parent's page becomes another frame.
    fill(BOOT, pid, Series::pages(HEAP, 1, 2));
    let began = crate::cpu::ticks();
    while crate::cpu::ticks() - began < 1 << 30 {
        core::hint::spin_loop();
    }
    let stale = with(BOOT, |kernel, _| {
        let table = kernel.process(child).expect("alive").space().table();
        bits::leaf(kernel.mem(), table.root(), 4, HEAP).expect("it is mapped").entry
    });
    let frame = stale.frame();
    let word = physical::read_word(frame, 0);
    // The watcher would have ended if it had seen the store.
    assert!(
        watch.is_done(),
        "CPU {} still reads {word} at {HEAP:#x} from frame {:#x}: no shootdown reached it; {}",
        other.0,
        frame.number(),
        crate::machine::walk_of(pid, HEAP)
    );
}

/// A process that may only use a node fills it.
pub fn exhausted_node(machine: &Machine) {
    machine.start();
    let pid = create(ProcessSpec::default());
    let node = NodeId(machine.layout.nodes.len() as u8 - 1);
    let pages = 1 << 18;
    map(pid, pages, Some(Policy::Bind(NodeSet::default().with(node))));
    fill(BOOT, pid, Series::pages(HEAP, pages, 1));
}

/// The kernel itself touches what is not mapped.
pub fn stray_kernel(_machine: &Machine) {
    let stray = 0x1234_5678_9000 as *const u64;
    // SAFETY: none: this is the fault that the message is wanted for, and nothing comes after it.
    let word = unsafe { stray.read_volatile() };
    panic!("the kernel read {word:#x} where nothing is mapped");
}
