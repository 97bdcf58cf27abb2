//! `PTEMagnet` in a guest: two programs fault in turn, and the host entries of eight
//! neighbouring pages are counted on the real nested table: on how many cache lines are they?

use crate::guest::{self, Call};
use crate::machine::{BOOT, Machine, create, expect, fill, finish, map_memory, with};
use crate::program::Series;
use crate::say;
use crate::vm::view::GuestView;
use crate::vm::{Guest, Node};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use mechanisms::ptemagnet::{PteMagnet, Settings};
use os::{ProcessSpec, SingleTables, VmSpec};
use paging::frames::CpuId;
use paging::lines::{HostLines, Table, host_lines};
use paging::{FrameSource, FromBuddy, Gfn, HostPhys};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 2048;

/// Lines for each whole group, in thousandths, as the last guest told.
static LINES: AtomicU64 = AtomicU64::new(0);

/// The host: the same guest twice.
pub fn run(machine: &Machine) {
    let counted = ["buddy", "ptemagnet"].map(|frames| {
        machine.start();
        let node = Node { memory: 0..192 << 20, cpus: alloc::vec![BOOT] };
        let line = alloc::format!("scenario=two-programs frames={frames}");
        let guest = Guest::new(machine, VmSpec::default(), &[node], &line);
        guest.run(count);
        guest.end();
        finish();
        LINES.load(Ordering::Acquire)
    });
    say!(
        "host lines of eight guest pages, in thousandths: {} from the buddy, {} by PTEMagnet",
        counted[0],
        counted[1]
    );
    assert!(counted[0] >= 2000, "two programs that fault in turn scatter their pages");
    assert_eq!(counted[1], 1000, "with PTEMagnet, eight pages are on one line");
}

/// Counts for the guest's process at this root.
fn count(guest: &Guest, cpu: CpuId, root: u64, pages: u64) -> u64 {
    let lines: HostLines = with(cpu, |kernel, _| {
        let table = kernel.vm(guest.vm).expect("the VM").space().table();
        let view = GuestView::new(table.root(), table.levels(), kernel.mem().end());
        let guest = Table { mem: &view, root: Gfn::new(root >> 12), levels: 4 };
        host_lines(guest, Table { mem: kernel.mem(), root: table.root(), levels: table.levels() })
    });
    let whole: u64 = lines.whole.iter().sum();
    assert!(whole >= pages / 8, "every group of the heap is whole: {lines:?}");
    assert_eq!(lines.unbacked, 0, "every page of the guest's is backed: {lines:?}");
    LINES.store((lines.mean_whole() * 1000.0) as u64, Ordering::Release);
    0
}

/// The guest: two programs that fault in turn.
pub fn two_programs(machine: &Machine) {
    let magnet = machine.command_line.contains("frames=ptemagnet");
    let source: Box<dyn FrameSource<HostPhys>> =
        if magnet { Box::new(PteMagnet::new(Settings::default())) } else { Box::new(FromBuddy) };
    machine.start_with(machine.config(), source, Box::new(SingleTables::default()));
    let programs = [create(ProcessSpec::default()), create(ProcessSpec::default())];
    for &pid in &programs {
        map_memory(pid, HEAP, PAGES);
    }
    for page in 0..PAGES {
        for &pid in &programs {
            fill(BOOT, pid, Series::pages(HEAP + page * 4096, 1, page + u64::from(pid.0)));
        }
    }
    for &pid in &programs {
        expect(BOOT, pid, Series::pages(HEAP, PAGES, u64::from(pid.0)));
        let root = with(BOOT, |kernel, _| kernel.process(pid).expect("alive").space().table().root());
        guest::call(Call::Tell, root.base().raw(), PAGES);
    }
    finish();
}
