//! The direct modes of a VM, as contiguous memory appears: Guest Direct (the guest's segment replaces its
//! dimension), Dual Direct (the VMM's replaces the other too), VMM Direct (the guest's has ended). Tables map
//! every page all the while: what the MMU walks on them is compared with what the registers compute,
//! page by page, and the guest's words must be in the frames so found.

use super::{HEAP, PAGES, compare};
use crate::guest::{self, Call};
use crate::machine::{BOOT, Machine, create, expect, fill, finish_but, map_memory, with};
use crate::physical;
use crate::program::Series;
use crate::say;
use crate::vm::view::GuestView;
use crate::vm::{Guest, Node};
use alloc::vec;
use alloc::vec::Vec;
use mechanisms::segments::{Answer, Image, Registers};
use os::segment::{Contiguity, Mode, NoSegment};
use os::{Advice, MmError, ProcessId, ProcessSpec, Slot, VmSpec};
use paging::frames::{CpuId, NodeId, PAGEBLOCK};
use paging::{Gfn, Gpa, GuestPhys, Hfn, HostPhys, Va, Virt};

/// Where the memory goes that the guest gets for what it gave.
const PLUGGED: u64 = 256 << 20;
/// Pageblocks of it: twice the guest's segment.
const BLOCKS: u64 = 4;
/// Where the guest's other process has its memory.
const HOLES: u64 = 0x6000_0000_0000;
/// The guest's frames that fail, by page of its segment.
const FAULTY: [u64; 2] = [3, 500];
/// The host's.
const FAULTY_BEHIND: [u64; 3] = [3, 77, 1023];

/// What the guest asks for, first in a list of words.
mod ask {
    /// Take these frames, and plug in as many contiguous ones.
    pub const SWAP: u64 = 1;
    /// Begin the VMM's segment.
    pub const BEGIN: u64 = 2;
    /// The host frames behind these addresses, on the table at the first word, fail.
    pub const FAIL: u64 = 3;
    /// Compare: the mode's name is for the host to find out. Root, base, limit, offset, filter.
    pub const COMPARE: u64 = 4;
}

/// The host.
pub fn of_a_vm(machine: &Machine) {
    machine.start();
    // Small, so that the guest can fill it.
    let node = Node { memory: 0..32 << 20, cpus: vec![BOOT] };
    let guest = Guest::new(machine, VmSpec::default(), &[node], "scenario=self-balloon");
    guest.run(asked);
    guest.end();
    finish_but(FAULTY_BEHIND.len() as u64);
}

/// The guest asks, with `count` words at `list`.
fn asked(guest: &Guest, cpu: CpuId, list: u64, count: u64) -> u64 {
    let words: Vec<u64> = (0..count)
        .map(|i| {
            let at = guest.host_address(list + i * 8);
            // SAFETY: the guest's memory is mapped, and the guest waits for the answer.
            unsafe { physical::at::<u64>(at).read() }
        })
        .collect();
    match words.as_slice() {
        [ask::SWAP, frames @ ..] => swap(guest, cpu, frames),
        [ask::BEGIN] => begin(guest, cpu),
        [ask::FAIL, root, addresses @ ..] => fail(guest, cpu, Gfn::new(root >> 12), addresses),
        [ask::COMPARE, root, base, limit, offset, filter @ ..] => {
            compare_both(guest, cpu, Gfn::new(root >> 12), [*base, *limit, *offset], filter)
        }
        other => panic!("the guest asks {other:x?}"),
    }
}

/// Scattered frames of the guest's for as many that are contiguous in its memory.
fn swap(guest: &Guest, cpu: CpuId, frames: &[u64]) -> u64 {
    let count = frames.len() as u64;
    let gfns: Vec<Gfn> = frames.iter().map(|&frame| Gfn::new(frame)).collect();
    let runs = frames.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count() + 1;
    let freed = with(cpu, |kernel, hw| {
        let freed = kernel.take_ballooned(hw, cpu, guest.vm, &gfns).expect("the balloon's frames");
        kernel.add_slot(hw, cpu, guest.vm, Slot::new(Gfn::new(PLUGGED >> 12), count)).expect("a slot");
        freed
    });
    say!(
        "the guest gives {count} frames in {runs} runs ({freed} were backed) and gets as many contiguous ones"
    );
    count
}

fn begin(guest: &Guest, cpu: CpuId) -> u64 {
    let range = PLUGGED..PLUGGED + BLOCKS * PAGEBLOCK * 4096;
    let from = Contiguity::Compacted;
    with(cpu, |kernel, hw| kernel.begin_vm_segment(hw, cpu, guest.vm, range, from))
        .expect("the VMM's segment")
        .pages
}

fn fail(guest: &Guest, cpu: CpuId, root: Gfn, addresses: &[u64]) -> u64 {
    for &va in addresses {
        with(cpu, |kernel, hw| {
            let frame = {
                let view = view(guest, kernel);
                let (gpa, _) = view.walk(root, va).expect("the guest maps it");
                view.host_frame(Gfn::new(gpa >> 12)).expect("it is backed")
            };
            kernel.mark_faulty(hw, cpu, frame).expect("its page moves");
        });
    }
    addresses.len() as u64
}

fn view(guest: &Guest, kernel: &os::Kernel<physical::DirectMap>) -> GuestView {
    let table = kernel.vm(guest.vm).expect("the VM").space().table();
    GuestView::new(table.root(), table.levels(), kernel.mem().end())
}

/// Every page of the guest's: the two tables beside the registers that there are. Returns how many pages need
/// no table at all.
fn compare_both(
    guest: &Guest,
    cpu: CpuId,
    root: Gfn,
    [base, limit, offset]: [u64; 3],
    filter: &[u64],
) -> u64 {
    let (mode, counts) = with(cpu, |kernel, _| {
        let mut of_guest = Registers::<Virt, GuestPhys>::default();
        if base != limit {
            let (geometry, keyed) = (kernel.config().filter, kernel.config().filter_pages);
            of_guest.load(&Image { base, limit, offset, geometry, keyed, filter: filter.to_vec() });
        }
        let mut of_vmm = Registers::<GuestPhys, HostPhys>::default();
        if let Some(segment) = kernel.vm(guest.vm).expect("the VM").space().segment() {
            of_vmm.load(&segment.registers().save());
        }
        let view = view(guest, kernel);
        let mut counts = [0; 3];
        for page in 0..PAGES {
            let va = HEAP + page * 4096;
            let (gpa, _) = view.walk(root, va).unwrap_or_else(|| panic!("the guest does not map {va:#x}"));
            let gfn = Gfn::new(gpa >> 12);
            let frame = view.host_frame(gfn).unwrap_or_else(|| panic!("nothing backs {gpa:#x}"));
            let first = match of_guest.answer(Va::new(va)) {
                Answer::Inside(at, _) => {
                    assert_eq!(at, gfn, "the guest's frame for {va:#x}: its registers', and its table's");
                    true
                }
                _ => false,
            };
            let second = match of_vmm.answer(Gpa::new(gpa)) {
                Answer::Inside(at, _) => {
                    assert_eq!(at, frame, "the frame behind {gpa:#x}: the VMM's registers', and its table's");
                    true
                }
                _ => false,
            };
            assert_eq!(physical::read_word(frame, 0), 1 + page, "what the guest stored at {va:#x}");
            [first, second, first && second].iter().zip(&mut counts).for_each(|(is, n)| *n += u64::from(*is));
        }
        (Mode::of(of_guest.is_on(), of_vmm.is_on()), counts)
    });
    let [guests, vmms, both] = counts;
    say!(
        "{}: {PAGES} pages, {guests} where the guest's registers say, {vmms} where the VMM's, {both} where both",
        mode.name()
    );
    // Few escape, and some are taken for them.
    let most = PAGES * 9 / 10..PAGES;
    let least = |on: bool, count: u64| if on { most.contains(&count) } else { count == 0 };
    let dual = mode == Mode::DualDirect;
    assert!(least(dual || mode == Mode::GuestDirect, guests), "{mode:?}: the guest's segment");
    assert!(vmms == PAGES || least(dual || mode == Mode::VmmDirect, vmms), "{mode:?}: the VMM's segment");
    assert!(least(dual, both), "{mode:?}: both");
    both
}

/// On the heap, which the host can read at its guest-physical address.
fn tell(words: Vec<u64>) -> u64 {
    guest::call(Call::Tell, words.as_ptr() as u64 - physical::DIRECT, words.len() as u64)
}

/// The guest: without contiguous memory at first.
pub fn self_balloon(machine: &Machine) {
    machine.start();
    let node = NodeId(0);
    leave_holes(node);
    let pid = create(ProcessSpec::default());
    map_memory(pid, HEAP, PAGES);
    fill(BOOT, pid, Series::pages(HEAP, PAGES / 2, 1));
    let begin = || {
        let range = HEAP..HEAP + PAGES * 4096;
        with(BOOT, |kernel, hw| kernel.begin_segment(hw, BOOT, pid, range, Contiguity::Free))
    };
    let none = begin();
    assert!(
        matches!(none, Err(MmError::NoSegment(NoSegment::NoContiguity { .. }))),
        "there is no contiguous memory: {none:?}"
    );

    with(BOOT, |kernel, _| {
        let mut words = vec![ask::SWAP];
        words.extend(kernel.inflate_balloon(node, BLOCKS * PAGEBLOCK).iter().map(|frame| frame.number()));
        assert_eq!(words.len() as u64, 1 + BLOCKS * PAGEBLOCK, "the guest can spare that much");
        let got = tell(words);
        kernel.add_memory(node, Hfn::new(PLUGGED >> 12), got).expect("memory is plugged in");
    });
    let begun = begin().expect("a segment in the memory that was plugged in");
    say!("a segment of {} pages, {} of them moved there", begun.pages, begun.copied);
    fill(BOOT, pid, Series::pages(HEAP + PAGES / 2 * 4096, PAGES / 2, 1 + PAGES / 2));
    for page in FAULTY {
        with(BOOT, |kernel, hw| {
            let registers =
                kernel.process(pid).expect("alive").space().segment().expect("it is on").registers();
            let frame = registers.translate(Va::new(HEAP + page * 4096)).expect("it is in place").frame();
            kernel.mark_faulty(hw, BOOT, frame).expect("its page moves");
        });
    }
    // Guest Direct.
    look(pid);
    compare(pid, &[BOOT]);
    // Dual Direct, then with frames that fail behind the guest's back.
    tell(vec![ask::BEGIN]);
    look(pid);
    let mut words = vec![ask::FAIL, root(pid)];
    words.extend(FAULTY_BEHIND.map(|page| HEAP + page * 4096));
    tell(words);
    look(pid);
    // VMM Direct.
    with(BOOT, |kernel, hw| kernel.end_segment(hw, BOOT, pid)).expect("the segment ends");
    look(pid);
    finish_but(FAULTY.len() as u64);
}

/// The guest's memory is used up, and then given back but for a page here and there.
fn leave_holes(node: NodeId) {
    let pid = create(ProcessSpec::default());
    // Fewer are left than the segment wants.
    let pages = with(BOOT, |kernel, _| kernel.pool().free_frames(node)) - PAGES * 7 / 8;
    map_memory(pid, HOLES, pages);
    fill(BOOT, pid, Series { step: 0, ..Series::pages(HOLES, pages, 7) });
    let each = PAGEBLOCK / 4;
    for page in (0..pages).step_by(each as usize) {
        let (start, len) = (Va::new(HOLES + (page + 1) * 4096), (each - 1).min(pages - page - 1) * 4096);
        if len > 0 {
            with(BOOT, |kernel, hw| kernel.madvise(hw, BOOT, pid, start, len, Advice::DontNeed))
                .expect("memory is given back");
        }
    }
}

fn root(pid: ProcessId) -> u64 {
    with(BOOT, |kernel, _| kernel.process(pid).expect("alive").space().table().root().base().raw())
}

/// The program loads every page, and the host compares.
fn look(pid: ProcessId) {
    expect(BOOT, pid, Series::pages(HEAP, PAGES, 1));
    let mut words = vec![ask::COMPARE, root(pid)];
    let image = with(BOOT, |kernel, _| {
        let segment = kernel.process(pid).expect("alive").space().segment();
        segment.map(|segment| segment.registers().save())
    });
    match image {
        Some(image) => {
            words.extend([image.base, image.limit, image.offset]);
            words.extend(image.filter);
        }
        None => words.extend([0; 3]),
    }
    tell(words);
}
