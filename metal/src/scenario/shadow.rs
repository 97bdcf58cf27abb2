//! Shadow paging with real exits: the life of processes in a guest whose tables the
//! hypervisor shadows, then the shadow tables compared with what guest and VM say.

use super::bits;
use crate::machine::{BOOT, Machine, finish, with};
use crate::say;
use crate::vm::shadow::report;
use crate::vm::view::GuestView;
use crate::vm::{Guest, Node};
use os::VmSpec;
use paging::frames::CpuId;
use paging::{Flags, Gfn, Hfn};

/// Runs it.
pub fn run(machine: &Machine) {
    machine.start();
    let node = Node { memory: 0..192 << 20, cpus: alloc::vec![BOOT] };
    let guest = Guest::new(machine, VmSpec::default(), &[node], "scenario=life tell=roots");
    let exits = guest.run_on_shadow(compare);
    report(&exits);
    assert!(exits.stores > 0 && exits.loads > 0 && exits.invalidations > 0, "all kinds of exits: {exits:?}");
    guest.end();
    finish();
}

/// The guest says that its processes at these roots are in a state to be compared.
fn compare(guest: &Guest, cpu: CpuId, root: u64, _: u64) -> u64 {
    let root = Gfn::new(root >> 12);
    let leaves = with(cpu, |kernel, hw| {
        // What was stored to the tables until now has taken effect then.
        kernel.shadow_sync(hw, cpu, guest.vm).expect("the VM has shadow tables");
        let table = kernel.vm(guest.vm).expect("the VM").space().table();
        let view = GuestView::new(table.root(), table.levels(), kernel.mem().end());
        let Some(shadow) = kernel.shadow(guest.vm).expect("the VM has shadow tables").table(root) else {
            return 0;
        };
        let all = bits::entries(kernel.mem(), shadow.table().root(), 4);
        let mut leaves = 0;
        for at in all.iter().filter(|at| at.entry.is_leaf(at.level)) {
            // Sign-extended: the guest's kernel is in the upper half.
            let va = at.va;
            let (gpa, user) = view
                .walk(root, va)
                .unwrap_or_else(|| panic!("the shadow table maps {va:#x}, and the guest's does not"));
            let behind = view.host_frame(Gfn::new(gpa >> 12)).expect("the VM has a frame there");
            let frame: Hfn = at.entry.frame();
            assert_eq!(frame, behind, "the shadow leaf for {va:#x} (guest-physical {gpa:#x})");
            assert_eq!(at.entry.has(Flags::USER), user, "ring 3's right to {va:#x}");
            leaves += 1;
        }
        leaves
    });
    if leaves > 0 {
        say!("{leaves} shadow leaves are what guest and VM say");
    }
    leaves
}
