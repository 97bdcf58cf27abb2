//! The hardware of direct segments: exact counts, and the same answer as tables
//! alone for every address, in every mode and with any pages escaped.

use mechanisms::segments::{DirectSegment, EscapeFilter, FilterGeometry, Registers, Segmented, VmmStage};
use paging::frames::{NoFrame, NodeId};
use paging::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const PAGE: u64 = 4096;
/// The guest's region: where its segment may be.
const HEAP: u64 = 0x7f12_3440_0000;
/// Pages that the guest maps there.
const PAGES: u64 = 1024;
/// The guest frame of the first one.
const GFN: u64 = 1 << 18;
/// The host frame of guest frame 0.
const HFN: u64 = 1 << 22;
const FRAMES: u64 = 1 << 30;

#[derive(Debug)]
struct Counter(u64);

impl<S: PhysSpace> TableFrames<S> for Counter {
    fn alloc_table(&mut self, _node: NodeId, _strict: bool) -> Result<Frame<S>, NoFrame> {
        self.0 += 1;
        Ok(Frame::new(self.0))
    }
    fn free_table(&mut self, _frame: Frame<S>) {}
    fn node_of(&self, _frame: Frame<S>) -> NodeId {
        NodeId(0)
    }
}

#[derive(Debug)]
struct World<I: Space, S: PhysSpace> {
    mem: Arena<S>,
    frames: Counter,
    work: Work,
    table: Option<PageTable<I, Arena<S>>>,
}

impl<I: Space, S: PhysSpace> World<I, S> {
    fn new(first: u64) -> Self {
        let mut world =
            World { mem: Arena::new(1 << 24), frames: Counter(first), work: Work::default(), table: None };
        world.with(|_, env| {
            Some(PageTable::new(Box::new(OneCopy::default()), env, 4, NodeId(0)).expect("a frame"))
        });
        world
    }
    fn with(
        &mut self,
        f: impl FnOnce(
            Option<PageTable<I, Arena<S>>>,
            &mut TableEnv<'_, Arena<S>>,
        ) -> Option<PageTable<I, Arena<S>>>,
    ) {
        let table = self.table.take();
        let frames = &mut self.frames;
        let mut env = TableEnv { mem: &mut self.mem, frames, node: NodeId(0), work: &mut self.work };
        self.table = f(table, &mut env);
    }
    fn map(&mut self, addr: u64, frame: u64, size: PageSize) {
        self.with(|table, env| {
            let mut table = table?;
            let (flags, private) = (Flags::WRITABLE | Flags::USER, Visibility::Private);
            table
                .map(env, Addr::new(addr), Frame::new(frame), size, flags, NodeId(0), private)
                .expect("free");
            Some(table)
        });
    }
    fn root(&self) -> Frame<S> {
        self.table.as_ref().expect("a table").root()
    }
}

/// A VM whose tables say everything: the segments have to agree with them.
struct Vm {
    guest: World<Virt, GuestPhys>,
    host: World<GuestPhys, HostPhys>,
    guest_segment: Registers<Virt, GuestPhys>,
    vmm_segment: Registers<GuestPhys, HostPhys>,
}

type Walk<'a> = Segmented<'a, Arena<GuestPhys>, HostDim<'a, Arena<HostPhys>>>;

/// Where an escaped page is instead.
fn elsewhere(page: u64) -> u64 {
    page + (1 << 20)
}

impl Vm {
    /// `guest_out`: pages of the heap that are not where the guest's segment would have them.
    /// `host_out`: guest frames that are not where the VMM's segment would have them.
    fn new(guest_out: &BTreeSet<u64>, host_out: &BTreeSet<u64>, filter: FilterGeometry) -> Vm {
        let (mut guest, mut host) = (World::new(0), World::new(0));
        for page in 0..PAGES {
            let gfn = GFN + page;
            let gfn = if guest_out.contains(&page) { elsewhere(gfn) } else { gfn };
            guest.map(HEAP + page * PAGE, gfn, PageSize::Size4K);
        }
        let data = GFN..GFN + PAGES;
        for gfn in (0..64).chain(data.clone()).chain(elsewhere(data.start)..elsewhere(data.end)) {
            let hfn = if host_out.contains(&gfn) { HFN + elsewhere(elsewhere(gfn)) } else { HFN + gfn };
            host.map(gfn * PAGE, hfn, PageSize::Size4K);
        }
        let mut out = EscapeFilter::new(filter, PageSize::Size4K);
        guest_out.iter().for_each(|page| out.insert(HEAP / PAGE + page));
        let end = Va::new(HEAP + PAGES * PAGE);
        let guest_segment = Registers::new(Va::new(HEAP)..end, Gfn::new(GFN), out);
        let mut out = EscapeFilter::new(filter, PageSize::Size4K);
        host_out.iter().for_each(|&gfn| out.insert(gfn));
        let memory = Gpa::new(0)..Gpa::new((GFN + PAGES) * PAGE);
        let vmm_segment = Registers::new(memory, Hfn::new(HFN), out);
        Vm { guest, host, guest_segment, vmm_segment }
    }
    fn paging(&self) -> Nested<'_, Arena<GuestPhys>, HostDim<'_, Arena<HostPhys>>> {
        let host = HostDim { mem: &self.host.mem, root: self.host.root(), levels: 4, frames: FRAMES };
        Nested { guest: &self.guest.mem, root: self.guest.root(), levels: 4, frames: FRAMES, host }
    }
    /// The hardware, with the segments that are switched on.
    fn walk<R>(&self, guest: bool, vmm: bool, f: impl FnOnce(&Walk<'_>) -> R) -> R {
        let (mut segment, mut vmm_segment) = (self.guest_segment.clone(), self.vmm_segment.clone());
        if !guest {
            segment.switch_off();
        }
        if !vmm {
            vmm_segment.switch_off();
        }
        let Nested { guest, root, levels, frames, host } = self.paging();
        let host = VmmStage { segment: &vmm_segment, host };
        f(&Segmented { segment: &segment, walk: Nested { guest, root, levels, frames, host } })
    }
}

/// Steps, written down.
#[derive(Default, Debug)]
struct Steps {
    references: usize,
    checks: Vec<Check>,
}

impl Port for Steps {
    fn reference(&mut self, _cell: Cell, _at: Hpa) {
        self.references += 1;
    }
    fn check(&mut self, check: Check) {
        self.checks.push(check);
    }
    fn cached_table(&mut self, _dim: Dim, _addr: u64, _levels: u8, _row: u8) -> Option<CachedTable> {
        None
    }
    fn cache_table(&mut self, _dim: Dim, _addr: u64, _table: CachedTable) {}
    fn cached_host(&mut self, _gpa: Gpa, _write: bool, _row: u8, _levels: u8) -> Option<HostLeaf> {
        None
    }
    fn cache_host(&mut self, _gpa: Gpa, _leaf: HostLeaf) {}
}

fn none() -> BTreeSet<u64> {
    BTreeSet::new()
}

/// References and checks of a miss at `va`: as the core makes it, first beside the
/// second-level TLB, then by the walker.
fn miss(vm: &Vm, guest: bool, vmm: bool, va: u64) -> (usize, Vec<Check>) {
    vm.walk(guest, vmm, |walk| {
        let mut steps = Steps::default();
        match walk.direct(Va::new(va)) {
            Direct::Off => {}
            Direct::Hit(leaf) => {
                assert_eq!(Some(leaf.frame), walk.peek(Va::new(va)).map(Addr::frame));
                return (0, vec![Check::Direct]);
            }
            Direct::Miss => steps.check(Check::Direct),
        }
        walk.walk(&mut steps, Va::new(va), Intent::READ).expect("mapped");
        (steps.references, steps.checks)
    })
}

#[test]
fn the_modes_make_24_4_4_and_0_references_with_0_5_1_and_1_checks() {
    let vm = Vm::new(&none(), &none(), FilterGeometry::default());
    let va = HEAP + 77 * PAGE + 5;
    assert_eq!(miss(&vm, false, false, va), (24, vec![]));
    assert_eq!(miss(&vm, false, true, va), (4, vec![Check::VmmSegment; 5]));
    assert_eq!(miss(&vm, true, false, va), (4, vec![Check::GuestSegment]));
    assert_eq!(miss(&vm, true, true, va), (0, vec![Check::Direct]));
}

#[test]
fn outside_of_the_segments_a_miss_takes_the_full_24() {
    let mut vm = Vm::new(&none(), &none(), FilterGeometry::default());
    vm.guest_segment.set_bounds(Va::new(HEAP + 512 * PAGE)..Va::new(HEAP + PAGES * PAGE));
    vm.vmm_segment.set_bounds(Gpa::new((GFN + 512) * PAGE)..Gpa::new((GFN + PAGES) * PAGE));
    let (references, checks) = miss(&vm, true, true, HEAP);
    assert_eq!(references, 24);
    assert_eq!(checks, [[Check::Direct, Check::GuestSegment].as_slice(), &[Check::VmmSegment; 5]].concat());
    assert_eq!(miss(&vm, true, true, HEAP + 512 * PAGE).0, 0);
    // The guest's tables are outside of the VMM's segment, the data page is inside: a row less.
    let (references, checks) = miss(&vm, false, true, HEAP + 600 * PAGE);
    assert_eq!((references, checks), (20, vec![Check::VmmSegment; 5]));
}

#[test]
fn an_escaped_page_is_walked_for() {
    let out: BTreeSet<u64> = [77].into();
    let vm = Vm::new(&out, &none(), FilterGeometry::default());
    let va = HEAP + 77 * PAGE;
    let escaped = [Check::GuestSegment, Check::EscapeFilter];
    assert_eq!(miss(&vm, true, false, va), (24, escaped.to_vec()));
    let frame = |page: u64| vm.walk(true, false, |w| w.peek(Va::new(HEAP + page * PAGE)).map(Addr::frame));
    assert_eq!(frame(77), Some(Hfn::new(HFN + elsewhere(GFN + 77))));
    assert_eq!(frame(78), Some(Hfn::new(HFN + GFN + 78)));
    // A faulty host frame under the data page: its own host walk, and nothing else.
    let vm = Vm::new(&none(), &[GFN + 77].into(), FilterGeometry::default());
    let mut checks = vec![Check::VmmSegment; 5];
    checks.push(Check::EscapeFilter);
    assert_eq!(miss(&vm, false, true, va), (4 + 4, checks));
}

#[test]
fn stores_and_fetches_find_the_rights_of_a_segment() {
    let vm = Vm::new(&none(), &none(), FilterGeometry::default());
    vm.walk(true, true, |walk| {
        let Direct::Hit(leaf) = walk.direct(Va::new(HEAP)) else { panic!("a hit") };
        assert!(leaf.rights.allow(Intent::WRITE) && leaf.dirty && !leaf.rights.allow(Intent::FETCH));
        // The tables allow fetches: they are asked.
        let mut steps = Steps::default();
        let leaf = walk.walk(&mut steps, Va::new(HEAP), Intent::FETCH).expect("mapped");
        assert!(leaf.rights.allow(Intent::FETCH));
        assert_eq!(
            (leaf.frame, steps.references),
            (Hfn::new(HFN + GFN), 4),
            "the VMM's segment serves the walk"
        );
    });
}

#[test]
fn registers_are_saved_and_loaded_whole() {
    let vm = Vm::new(&[3, 900].into(), &none(), FilterGeometry::new(512, 2).expect("whole banks"));
    let image = vm.guest_segment.save();
    assert_eq!(image.words(), 3 + 8);
    let mut other = Registers::<Virt, GuestPhys>::default();
    assert!(!other.is_on());
    other.load(&image);
    assert_eq!(other, vm.guest_segment);
    other.switch_off();
    assert!(!other.is_on() && other.translate(Va::new(HEAP)).is_none());
    assert_eq!(other.save().base, other.save().limit);
}

#[test]
fn huge_leaves_are_whole_only_where_all_of_them_is_the_segments() {
    let size =
        |registers: &Registers<GuestPhys, HostPhys>, gfn: u64| match registers.answer(Gpa::new(gfn << 12)) {
            mechanisms::segments::Answer::Inside(_, size) => Some(size),
            _ => None,
        };
    let range = Gpa::new(1 << 30)..Gpa::new((3 << 30) + (3 << 20));
    let make = |first, keyed| {
        Registers::new(range.clone(), Hfn::new(first), EscapeFilter::new(FilterGeometry::default(), keyed))
    };
    let (one, two) = (1 << 18, 2 << 18);
    let mut registers = make(5 << 18, PageSize::Size1G);
    assert_eq!(size(&registers, one + 7), Some(PageSize::Size1G));
    assert_eq!(size(&registers, (3 << 18) + 7), Some(PageSize::Size2M), "a 1 GiB page would stick out");
    assert_eq!(size(&registers, (3 << 18) + 520), Some(PageSize::Size4K));
    registers.filter_mut().insert(one + 1000);
    assert_eq!(size(&registers, one + 1000), None);
    assert_eq!(size(&registers, one + 999), Some(PageSize::Size4K), "its neighbour in the 2 MiB page");
    assert_eq!(size(&registers, two + 1), Some(PageSize::Size1G), "another 1 GiB page");
    // Not aligned in the other space; or the filter does not know huge pages.
    assert_eq!(size(&make((5 << 18) + 512, PageSize::Size1G), one), Some(PageSize::Size2M));
    assert_eq!(size(&make((5 << 18) + 1, PageSize::Size1G), one), Some(PageSize::Size4K));
    let mut small = make(5 << 18, PageSize::Size4K);
    assert_eq!(size(&small, one), Some(PageSize::Size1G));
    small.filter_mut().insert(two);
    assert_eq!(size(&small, one), Some(PageSize::Size4K));
}

#[test]
fn a_native_segment_answers_beside_the_tlb() {
    let mut world = World::<Virt, HostPhys>::new(0);
    world.map(HEAP, HFN, PageSize::Size4K);
    world.map(HEAP + PAGE, 99, PageSize::Size4K);
    world.map(HEAP - PAGE, 98, PageSize::Size4K);
    let mut filter = EscapeFilter::default();
    filter.insert(HEAP / PAGE + 1);
    let segment = Registers::new(Va::new(HEAP)..Va::new(HEAP + 64 * PAGE), Hfn::new(HFN), filter);
    let walk = Native { mem: &world.mem, root: world.root(), levels: 4, frames: FRAMES };
    let walk = DirectSegment { segment: &segment, walk };
    let direct = |page: u64| match walk.direct(Va::new(HEAP.wrapping_add(page.wrapping_mul(PAGE)))) {
        Direct::Hit(leaf) => Some(leaf.frame.number()),
        _ => None,
    };
    assert_eq!((direct(0), direct(63), direct(64), direct(1)), (Some(HFN), Some(HFN + 63), None, None));
    let mut steps = Steps::default();
    let leaf = walk.walk(&mut steps, Va::new(HEAP + PAGE), Intent::READ).expect("mapped");
    assert_eq!((leaf.frame.number(), steps.references, steps.checks), (99, 4, vec![Check::EscapeFilter]));
    assert_eq!(walk.peek(Va::new(HEAP - PAGE)).map(|at| at.frame().number()), Some(98));
}

fn escapes() -> impl Strategy<Value = BTreeSet<u64>> {
    prop_oneof![Just(BTreeSet::new()), proptest::collection::btree_set(0..PAGES, 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_mode_answers_as_tables_alone(
        guest_out in escapes(),
        host_out in escapes(),
        bank in 1u32..8,
        functions in 1u32..5,
        pages in proptest::collection::vec(0..PAGES, 1..64),
    ) {
        let filter = FilterGeometry::new(functions << bank, functions).unwrap();
        let host_out = host_out.into_iter().map(|page| GFN + page).collect();
        let vm = Vm::new(&guest_out, &host_out, filter);
        for &page in &pages {
            let va = Va::new(HEAP + page * PAGE + page % PAGE);
            let expected = vm.paging().walk(&mut Steps::default(), va, Intent::WRITE).unwrap();
            for (guest, vmm) in [(false, false), (false, true), (true, false), (true, true)] {
                vm.walk(guest, vmm, |walk| -> Result<(), TestCaseError> {
                    let leaf = match walk.direct(va) {
                        Direct::Hit(leaf) => leaf,
                        Direct::Off | Direct::Miss => walk.walk(&mut Steps::default(), va, Intent::WRITE).unwrap(),
                    };
                    prop_assert_eq!(leaf.frame, expected.frame);
                    prop_assert_eq!(leaf.size, PageSize::Size4K);
                    prop_assert_eq!(walk.peek(va), Some(expected.frame.base().offset(va.raw() & 4095)));
                    // What the core prefetches is where the access will go.
                    let near = &mut |_| {};
                    let mut place = walk.locate(va, near);
                    for _ in 1..Walk::STAGES {
                        place = place.and_then(|place| walk.relocate(va, place, near));
                    }
                    let arrived = place.and_then(|place| walk.arrive(va, place));
                    prop_assert_eq!(arrived.map(Addr::frame), Some(expected.frame));
                    Ok(())
                })?;
            }
        }
    }
}
