//! A freestanding program: Pagewalk's `no_std` crates, linked without an
//! operating system and run on real memory, against a real MMU.
//!
//! It builds a page table with [`paging::PageTable`] over identity-mapped
//! memory, loads it into CR3, and checks that the MMU reads through it what
//! software wrote, and that the accessed and dirty bits that the MMU sets are
//! the ones that [`paging::Native`] would set.
#![no_std]
#![no_main]

extern crate alloc;
// Linked to hold the promise that they need no operating system.
extern crate mechanisms as _;
extern crate os as _;

mod boot;
mod direct;
mod support;

use alloc::boxed::Box;
use core::arch::asm;
use direct::{Bump, DirectMap};
use paging::{
    Entry, Flags, Hfn, Native, NodeId, OneCopy, PageSize, PageTable, TableEnv, Translation, Va, Virt,
    Visibility, Work,
};

unsafe extern "C" {
    static kernel_end: u8;
}

const MIB: usize = 1 << 20;
/// The heap, then frames for tables and data, follow the program.
const HEAP: usize = 16 * MIB;
const FRAMES: usize = 32 * MIB;
/// Where the test maps: far from the identity map of the first 4 GiB.
const AT: u64 = 0x7f00_0000_0000;
const PAGES: u64 = 1000;

#[unsafe(no_mangle)]
extern "C" fn metal_main(_start_info: u32) -> ! {
    let end = (&raw const kernel_end as usize).next_multiple_of(2 * MIB);
    // SAFETY: memory after the program is mapped by the boot code and unused.
    unsafe { support::init_heap(end, HEAP) };
    let mut frames = Bump::new((end + HEAP) as u64, (end + HEAP + FRAMES) as u64);
    say!("metal: long mode, heap at {end:#x}");

    let mut mem = DirectMap::default();
    let mut work = Work::default();
    let mut table: PageTable<Virt, DirectMap> = {
        let mut env = env(&mut mem, &mut frames, &mut work);
        let mut table = PageTable::new(Box::new(OneCopy::default()), &mut env, 4, NodeId(0)).expect("a root");
        // The program itself, identity-mapped.
        for block in 0..128 {
            let addr = Va::new(block << 21);
            let frame = Hfn::new(block << 9);
            map(&mut table, &mut env, addr, frame, PageSize::Size2M);
        }
        table
    };
    for page in 0..PAGES {
        let frame = frames.take().expect("a frame for data");
        direct::write_word(frame, page);
        let mut env = env(&mut mem, &mut frames, &mut work);
        map(&mut table, &mut env, Va::new(AT + page * 4096), frame, PageSize::Size4K);
    }
    // SAFETY: the table maps the running program where it is.
    unsafe { asm!("mov cr3, {}", in(reg) table.root().base().raw(), options(nostack)) };

    let walker = Native { mem: &mem, root: table.root(), levels: 4, frames: 1 << 20 };
    for page in 0..PAGES {
        let va = AT + page * 4096;
        // SAFETY: mapped above.
        let word = unsafe { (va as *const u64).read_volatile() };
        assert_eq!(word, page, "the MMU reads page {page} through the table");
        assert_eq!(walker.peek(Va::new(va)).map(|at| direct::read_word(at.frame())), Some(page));
        if page % 3 == 0 {
            // SAFETY: mapped writable above.
            unsafe { (va as *mut u64).add(1).write_volatile(page) };
        }
    }
    let mut env = env(&mut mem, &mut frames, &mut work);
    for page in 0..PAGES {
        let entry: Entry = table.lookup(&mut env, Va::new(AT + page * 4096)).entry;
        assert!(entry.has(Flags::ACCESSED), "the MMU set A of page {page}");
        assert_eq!(
            entry.has(Flags::DIRTY),
            page % 3 == 0,
            "the MMU set D of page {page} only if it was written"
        );
    }
    say!("metal: {PAGES} pages read and written through paging's table; accessed and dirty bits agree");
    say!("metal: PASSED");
    support::exit(true)
}

fn env<'a>(mem: &'a mut DirectMap, frames: &'a mut Bump, work: &'a mut Work) -> TableEnv<'a, DirectMap> {
    TableEnv { mem, frames, node: NodeId(0), work }
}

fn map(
    table: &mut PageTable<Virt, DirectMap>,
    env: &mut TableEnv<'_, DirectMap>,
    addr: Va,
    frame: Hfn,
    size: PageSize,
) {
    let flags = Flags::WRITABLE;
    table.map(env, addr, frame, size, flags, NodeId(0), Visibility::Private).expect("memory for tables");
}
