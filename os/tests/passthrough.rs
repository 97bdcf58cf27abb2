//! The host's side of Translation Pass-Through: tags and array are what the VM's table
//! says, whatever happens to it.

mod common;

use common::{System, config};
use mechanisms::passthrough::{FrameTags, HostArray, TagPlaces};
use os::passthrough::PassThroughFlaw;
use os::{Cost, ExitKind, KernelConfig, MmError, Slot, ThpMode, VmId, VmSpec};
use paging::frames::{CpuId, NodeId};
use paging::{Gfn, Gpa, Intent, PageSize};
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

const CPU: CpuId = CpuId(0);
const PAGE: u64 = 4096;
const GUEST: u64 = 2048;

fn system(thp: ThpMode) -> (System, Arc<FrameTags>) {
    let s = System::new(16384, KernelConfig { thp, swap_slots: 10_000, ..config() });
    (s, Arc::new(FrameTags::new(1 << 20, TagPlaces::default())))
}

fn vm(s: &mut System, tags: &Arc<FrameTags>) -> (VmId, Arc<HostArray>) {
    let slots = [Slot::new(Gfn::new(0), GUEST)];
    let vm = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), &slots).expect("a VM");
    s.kernel.enter_vm(&mut s.machine, CPU, vm).expect("a VM");
    let array = Arc::new(HostArray::new(GUEST));
    s.kernel
        .enable_passthrough(&mut s.machine, CPU, vm, Arc::clone(&array), Arc::clone(tags))
        .expect("nothing is in the way");
    (vm, array)
}

fn touch(s: &mut System, vm: VmId, page: u64, intent: Intent) {
    s.kernel.vm_fault(&mut s.machine, CPU, vm, Gpa::new(page * PAGE), intent).expect("memory");
}

fn check(s: &mut System, vm: VmId) {
    assert_eq!(s.kernel.check_passthrough(vm), Ok(()));
}

#[test]
fn every_way_in_which_a_page_goes_takes_its_tag() {
    let (mut s, tags) = system(ThpMode::Never);
    let (id, array) = vm(&mut s, &tags);
    (0..600).for_each(|page| touch(&mut s, id, page, Intent::WRITE));
    check(&mut s, id);
    assert_eq!(array.range(0..GUEST).count(), 600);
    let was = |page| array.get(Gfn::new(page)).expect("backed").frame();
    let owner = s.kernel.passthrough(id).expect("enabled").owner();
    let colour = |page| array.get(Gfn::new(page)).expect("backed").colour();

    let (ballooned, named) = (was(7), colour(7));
    s.kernel.take_ballooned(&mut s.machine, CPU, id, &[Gfn::new(7)]).expect("a VM");
    assert_eq!((array.get(Gfn::new(7)), tags.admits(owner, ballooned, named)), (None, None));
    check(&mut s, id);

    let (moved, named) = (was(8), colour(8));
    s.kernel.migrate_vm(&mut s.machine, CPU, id, 8 * PAGE..9 * PAGE, NodeId(1), 100).expect("room");
    assert_eq!(tags.admits(owner, moved, named), None);
    assert_eq!(s.kernel.pool().node_of(was(8)), NodeId(1));
    check(&mut s, id);

    // A page that is merged is nobody's to store to; a touch makes it the guest's own.
    assert_eq!(
        s.kernel.merge_vm_pages(&mut s.machine, CPU, (id, Gfn::new(20)), (id, Gfn::new(21))),
        Ok(true)
    );
    assert_eq!((array.get(Gfn::new(20)), array.get(Gfn::new(21))), (None, None));
    check(&mut s, id);
    s.kernel.expose_to_vm(&mut s.machine, CPU, id, Gfn::new(21)).expect("memory");
    assert!(array.get(Gfn::new(21)).is_some() && array.get(Gfn::new(20)).is_none());
    s.kernel.expose_to_vm(&mut s.machine, CPU, id, Gfn::new(20)).expect("memory");
    assert!(was(20) != was(21));
    check(&mut s, id);

    // Swap: the first round clears accessed bits, which takes nothing.
    let before = array.range(0..GUEST).count();
    s.kernel.take_dirty_bits(&mut s.machine, CPU, id).expect("a VM");
    assert_eq!(array.range(0..GUEST).count(), before);
    s.kernel.reclaim(&mut s.machine, CPU, 200).expect("swap");
    assert!(array.range(0..GUEST).count() <= before - 150, "pages were swapped out");
    check(&mut s, id);

    // Outside of memory there is nothing to give.
    let nowhere = s.kernel.expose_to_vm(&mut s.machine, CPU, id, Gfn::new(GUEST + 5));
    assert!(matches!(nowhere, Err(MmError::Segv(_))), "{nowhere:?}");
    assert!(s.kernel.passthrough(id).expect("enabled").stats().revoked > 150);
    s.kernel.destroy_vm(&mut s.machine, CPU, id).expect("a VM");
    assert_eq!(tags.owned(owner).count(), 0, "no tag survives its VM");
    s.shutdown();
}

#[test]
fn huge_pages_are_given_whole_and_split_in_place() {
    let (mut s, tags) = system(ThpMode::Always);
    let (id, array) = vm(&mut s, &tags);
    touch(&mut s, id, 700, Intent::WRITE);
    let given = array.get(Gfn::new(700)).expect("backed");
    assert_eq!((given.size(), array.range(512..1024).count()), (PageSize::Size2M, 512));
    check(&mut s, id);
    // One page of it goes: the others stay under their names, as small pages.
    s.kernel.take_ballooned(&mut s.machine, CPU, id, &[Gfn::new(512)]).expect("a VM");
    let after = array.get(Gfn::new(700)).expect("backed");
    assert_eq!(
        (after.frame(), after.colour(), after.size()),
        (given.frame(), given.colour(), PageSize::Size4K)
    );
    check(&mut s, id);
    // khugepaged makes it whole again, elsewhere.
    touch(&mut s, id, 512, Intent::WRITE);
    for _ in 0..8 {
        s.kernel.khugepaged_vm(&mut s.machine, CPU, id, u64::MAX).expect("a VM");
    }
    let whole = array.get(Gfn::new(700)).expect("backed");
    assert_eq!(whole.size(), PageSize::Size2M);
    assert!(whole.frame() != given.frame());
    check(&mut s, id);
    s.shutdown();
}

#[test]
fn reserved_pages_are_given_at_their_size_and_taken_whole() {
    for size in [PageSize::Size2M, PageSize::Size1G] {
        let mut s = System::new(3 << 18, config());
        let tags = Arc::new(FrameTags::new(1 << 21, TagPlaces::default()));
        let frames = 1 << 18;
        let slots = [Slot { page: size, ..Slot::new(Gfn::new(0), frames) }];
        let id = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), &slots).expect("a VM");
        let array = Arc::new(HostArray::new(frames));
        let (hw, given) = (&mut s.machine, Arc::clone(&array));
        s.kernel.enable_passthrough(hw, CPU, id, given, Arc::clone(&tags)).expect("nothing is in the way");
        touch(&mut s, id, 700, Intent::WRITE);
        check(&mut s, id);
        let first = Gfn::new(700 & !(size.frames() - 1));
        let slot = |page: u64| array.get(first.offset(page)).expect("backed");
        let (begin, last) = (slot(0), size.frames() - 1);
        assert_eq!((begin.size(), slot(last).size()), (size, size));
        assert_eq!(
            (begin.frame().number() % size.frames(), slot(last).frame()),
            (0, begin.frame().offset(last))
        );
        let owner = s.kernel.passthrough(id).expect("enabled").owner();
        assert_eq!(
            (array.range(0..frames).count() as u64, tags.owned(owner).count() as u64),
            (last + 1, last + 1)
        );
        // The balloon cannot have a part of it; moved, it is given under other names.
        s.kernel.take_ballooned(&mut s.machine, CPU, id, &[first.offset(3)]).expect("a VM");
        check(&mut s, id);
        assert_eq!(array.range(0..frames).count() as u64, last + 1);
        s.kernel.migrate_vm(&mut s.machine, CPU, id, 0..u64::MAX, NodeId(1), u64::MAX).expect("room");
        check(&mut s, id);
        assert_eq!(tags.admits(owner, begin.frame(), begin.colour()), None);
        assert_eq!((slot(0).size(), s.kernel.pool().node_of(slot(last).frame())), (size, NodeId(1)));
        s.kernel.destroy_vm(&mut s.machine, CPU, id).expect("a VM");
        assert_eq!(tags.owned(owner).count(), 0);
        s.shutdown();
    }
}

#[test]
fn a_vm_falls_back_to_nested_paging_and_returns() {
    let (mut s, tags) = system(ThpMode::Never);
    let (id, array) = vm(&mut s, &tags);
    (0..64).for_each(|page| touch(&mut s, id, page, Intent::WRITE));
    let root = Gfn::new(3);
    assert_eq!(s.kernel.enter_passthrough(&mut s.machine, CPU, id, root, true), Ok(true));
    assert_eq!(s.kernel.enter_passthrough(&mut s.machine, CPU, id, root, true), Ok(true));
    assert_eq!(s.kernel.passthrough(id).expect("enabled").stats().entered, 1, "it was in it");
    s.kernel.leave_passthrough(&mut s.machine, CPU, id, true).expect("enabled");
    let calls = s.machine.costs.iter().filter(|c| **c == Cost::Exit(ExitKind::Hypercall)).count();
    assert_eq!(calls, 3, "enabling it, in, and out");

    // Live migration: pre-copy under the log, as often as wanted, then all of it moves.
    let names: Vec<_> = (0..64).map(|page| array.get(Gfn::new(page)).expect("backed")).collect();
    s.kernel.suspend_passthrough(&mut s.machine, CPU, id).expect("enabled");
    assert_eq!(array.range(0..GUEST).count(), 0);
    assert_eq!(s.kernel.enter_passthrough(&mut s.machine, CPU, id, root, true), Ok(false));
    assert!(s.kernel.passthrough_registers(id, root, 4).is_err());
    s.kernel.start_dirty_log(&mut s.machine, CPU, id).expect("a VM");
    touch(&mut s, id, 5, Intent::WRITE);
    assert!(s.kernel.resume_passthrough(&mut s.machine, CPU, id).is_err(), "stores are logged");
    let log = s.kernel.take_dirty_log(&mut s.machine, CPU, id).expect("a VM");
    assert_eq!(log.iter().collect::<Vec<_>>(), [5]);
    s.kernel.migrate_vm(&mut s.machine, CPU, id, 0..u64::MAX, NodeId(1), u64::MAX).expect("room");
    s.kernel.stop_dirty_log(&mut s.machine, CPU, id).expect("a VM");
    check(&mut s, id);
    s.kernel.resume_passthrough(&mut s.machine, CPU, id).expect("no log");
    check(&mut s, id);
    assert_eq!(array.range(0..GUEST).count(), 64);
    for (page, old) in names.into_iter().enumerate() {
        let new = array.get(Gfn::new(page as u64)).expect("backed");
        assert!(new.frame() != old.frame(), "it moved");
        let owner = s.kernel.passthrough(id).expect("enabled").owner();
        assert_eq!(tags.admits(owner, old.frame(), old.colour()), None);
    }
    s.shutdown();
}

#[test]
fn followers_exclude_each_other() {
    let (mut s, tags) = system(ThpMode::Never);
    let (id, _) = vm(&mut s, &tags);
    let again = Arc::new(HostArray::new(GUEST));
    let twice = s.kernel.enable_passthrough(&mut s.machine, CPU, id, again, tags);
    assert!(
        matches!(&twice, Err(MmError::NoPassThrough { why, .. }) if why.contains("follower")),
        "{twice:?}"
    );
    let other = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), &[]).expect("a VM");
    assert_eq!(s.kernel.check_passthrough(other), Err(PassThroughFlaw::NotEnabled));
    s.kernel.disable_passthrough(&mut s.machine, CPU, id).expect("enabled");
    assert!(s.kernel.passthrough(id).is_err());
    s.shutdown();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tags_and_array_follow_the_table(
        huge in any::<bool>(),
        ops in proptest::collection::vec((0..12u8, 0..3usize, 0..GUEST, 1..600u64), 1..60),
    ) {
        let (mut s, tags) = system(if huge { ThpMode::Always } else { ThpMode::Never });
        let slots = [Slot::new(Gfn::new(0), GUEST)];
        let ordinary = s.kernel.create_vm(&mut s.machine, CPU, VmSpec::default(), &slots).expect("a VM");
        let passed = [vm(&mut s, &tags).0, vm(&mut s, &tags).0];
        let vms = [passed[0], passed[1], ordinary];
        for (op, which, page, count) in ops {
            let (id, hw) = (vms[which], &mut s.machine);
            let end = (page + count).min(GUEST);
            match op {
                0..=2 => {
                    let intent = if op == 0 { Intent::READ } else { Intent::WRITE };
                    s.kernel.vm_fault(hw, CPU, id, Gpa::new(page * PAGE), intent).expect("memory");
                }
                3 => {
                    let len = (end - page) * PAGE;
                    s.kernel.populate_vm(hw, CPU, id, Gpa::new(page * PAGE), len, Intent::WRITE).expect("memory");
                }
                4 => {
                    let gfns: Vec<_> = (page..end).map(Gfn::new).collect();
                    s.kernel.take_ballooned(hw, CPU, id, &gfns).expect("a VM");
                }
                5 => {
                    let node = NodeId((count & 1) as u8);
                    s.kernel.migrate_vm(hw, CPU, id, page * PAGE..end * PAGE, node, 300).expect("room");
                }
                6 => {
                    s.kernel.reclaim(hw, CPU, count).expect("swap");
                }
                7 => {
                    s.kernel.khugepaged_vm(hw, CPU, id, 2048).expect("a VM");
                }
                8 => {
                    let other = (vms[(count & 1) as usize], Gfn::new(count));
                    s.kernel.merge_vm_pages(hw, CPU, (id, Gfn::new(page)), other).expect("memory");
                }
                9 => {
                    s.kernel.numa_scan_vm(hw, CPU, id).expect("a VM");
                }
                10.. if id == ordinary => {}
                10 => {
                    s.kernel.expose_to_vm(hw, CPU, id, Gfn::new(page)).expect("memory");
                    let passed = s.kernel.passthrough(id).expect("enabled");
                    prop_assert!(passed.is_suspended() || passed.array().get(Gfn::new(page)).is_some());
                }
                _ if s.kernel.passthrough(id).expect("enabled").is_suspended() => {
                    s.kernel.stop_dirty_log(hw, CPU, id).expect("a VM");
                    s.kernel.resume_passthrough(hw, CPU, id).expect("no log");
                }
                _ => {
                    s.kernel.suspend_passthrough(hw, CPU, id).expect("enabled");
                    s.kernel.start_dirty_log(hw, CPU, id).expect("a VM");
                }
            }
            for id in passed {
                prop_assert_eq!(s.kernel.check_passthrough(id), Ok(()), "after {:?}", (op, which, page, count));
            }
        }
        // The other VM's frames were never tagged.
        let owners = passed.map(|id| s.kernel.passthrough(id).expect("enabled").owner());
        let given: HashSet<_> = owners.into_iter().flat_map(|owner| tags.owned(owner)).map(|(frame, _)| frame).collect();
        for page in 0..GUEST {
            let frame = s.kernel.host_frame(ordinary, Gfn::new(page)).expect("a VM");
            prop_assert!(frame.is_none_or(|frame| !given.contains(&frame)), "page {}", page);
        }
        s.shutdown();
        prop_assert_eq!(tags.owned(mechanisms::passthrough::Owner::vm(0).expect("few")).count(), 0);
    }
}
