//! Page-walk caches and the nested TLB against lists.

use machine::set::{Geometry, Replacement};
use machine::walkcache::{NestedTlbArray, WalkCacheArray, WalkCaches};
use paging::{CachedTable, Dim, Gpa, Hfn, HostLeaf, PageSize, Rights, Va};
use proptest::prelude::*;

fn array(levels: &[u8], sets: usize, ways: usize) -> WalkCacheArray {
    WalkCacheArray {
        levels: levels.to_vec(),
        geometry: Geometry { sets, ways },
        replacement: Replacement::Lru,
    }
}

fn shapes() -> Vec<Vec<WalkCacheArray>> {
    vec![
        vec![array(&[2], 8, 4), array(&[3], 1, 4), array(&[4], 1, 2), array(&[5], 1, 1)],
        vec![array(&[2, 3, 4, 5], 1, 64)],
        vec![array(&[2], 3, 5), array(&[3, 4], 2, 2)],
        vec![array(&[3], 1, 4)],
        vec![],
    ]
}

/// The table of `level` on the way to `addr`, in space or VM `tag`.
fn table(addr: u64, level: u8, tag: u16) -> CachedTable {
    let frame = (addr >> (12 + 9 * level)) * 5 + u64::from(level) + u64::from(tag) * 100_000;
    CachedTable { level, frame, host: Hfn::new(frame + 1), rights: Rights::ALL, link: level & 7 }
}

/// `(level, prefix, tag, VM, used)`.
type Known = (u8, u64, u16, u16, u64);

/// Levels, sets and ways of each array.
struct Model {
    arrays: Vec<(Vec<u8>, Vec<Vec<Known>>, usize)>,
    now: u64,
}

impl Model {
    fn new(arrays: &[WalkCacheArray]) -> Model {
        let of = |array: &WalkCacheArray| {
            (array.levels.clone(), vec![Vec::new(); array.geometry.sets], array.geometry.ways)
        };
        Model { arrays: arrays.iter().map(of).collect(), now: 0 }
    }
    /// The level of the deepest table known.
    fn deepest(&mut self, addr: u64, levels: u8, tag: u16) -> Option<u8> {
        self.now += 1;
        (1..levels).find(|level| {
            let prefix = addr >> (12 + 9 * level);
            let all = self.arrays.iter_mut().flat_map(|(_, sets, _)| sets.iter_mut().flatten());
            let mut found = all.filter(|e| (e.0, e.1, e.2) == (*level, prefix, tag));
            found.next().map(|entry| entry.4 = self.now).is_some()
        })
    }
    fn insert(&mut self, addr: u64, level: u8, tag: u16, vm: u16) {
        self.now += 1;
        let Some((_, sets, ways)) = self.arrays.iter_mut().find(|(levels, ..)| levels.contains(&(level + 1)))
        else {
            return;
        };
        let prefix = addr >> (12 + 9 * level);
        let set = (prefix % sets.len() as u64) as usize;
        let set = &mut sets[set];
        set.retain(|entry| (entry.0, entry.1, entry.2) != (level, prefix, tag));
        if set.len() == *ways {
            let oldest = (0..set.len()).min_by_key(|way| set[*way].4).unwrap();
            set.remove(oldest);
        }
        set.push((level, prefix, tag, vm, self.now));
    }
    fn remove(&mut self, which: impl Fn(u8, u64, u16, u16) -> bool) -> usize {
        let mut removed = 0;
        for set in self.arrays.iter_mut().flat_map(|(_, sets, _)| sets) {
            let before = set.len();
            set.retain(|entry| !which(entry.0, entry.1, entry.2, entry.3));
            removed += before - set.len();
        }
        removed
    }
}

#[derive(Clone, Debug)]
enum Step {
    Walk(Dim, u64),
    Switch(u16),
    Space(u16),
    Range(u16, u64, u64),
    Vm(u16),
    VmRange(u16, u64, u64),
    All,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let addr = prop_oneof![0u64..1 << 24, 0u64..1 << 33, 0u64..1 << 42, 0u64..1 << 50];
    let bytes = prop_oneof![Just(0u64), Just(4096), 1u64 << 21..1 << 32];
    let dim = prop_oneof![Just(Dim::Guest), Just(Dim::Host)];
    let step = prop_oneof![
        60 => (dim, addr.clone()).prop_map(|(dim, addr)| Step::Walk(dim, addr)),
        6 => (0u16..4).prop_map(Step::Switch),
        1 => (0u16..4).prop_map(Step::Space),
        1 => (0u16..4, addr.clone(), bytes.clone()).prop_map(|(space, addr, bytes)| Step::Range(space, addr, bytes)),
        1 => (0u16..2).prop_map(Step::Vm),
        1 => (0u16..2, addr, bytes).prop_map(|(vm, addr, bytes)| Step::VmRange(vm, addr, bytes)),
        1 => Just(Step::All),
    ];
    prop::collection::vec(step, 1..300)
}

/// Whether the table at `prefix` of `level` maps any of the bytes.
fn covers(level: u8, prefix: u64, addr: u64, bytes: u64) -> bool {
    let size = 1u64 << (12 + 9 * level);
    bytes > 0 && prefix * size < addr + bytes && addr < (prefix + 1) * size
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_deepest_known_table_is_found(
        shape in 0usize..5, levels in 4u8..=5, steps in steps(),
    ) {
        let arrays = shapes().swap_remove(shape);
        let mut caches = WalkCaches::new(&arrays, &arrays, None);
        let (mut guest, mut host) = (Model::new(&arrays), Model::new(&arrays));
        // Spaces 0 and 1 belong to VM 0, 2 and 3 to VM 1.
        let (mut space, mut vm) = (0u16, 0u16);
        for step in steps {
            match step {
                Step::Walk(dim, addr) => {
                    let (model, tag) = match dim { Dim::Guest => (&mut guest, space), Dim::Host => (&mut host, vm) };
                    let found = caches.table(dim, addr, levels);
                    let expected = model.deepest(addr, levels, tag).map(|level| table(addr, level, tag));
                    prop_assert_eq!(found, expected);
                    for level in (1..found.map_or(levels, |found| found.level)).rev() {
                        caches.insert_table(dim, addr, table(addr, level, tag));
                        model.insert(addr, level, tag, vm);
                    }
                }
                Step::Switch(to) => {
                    (space, vm) = (to, to / 2);
                    caches.set_space(space);
                    caches.set_vm(vm);
                }
                Step::Space(s) => {
                    prop_assert_eq!(caches.flush_space(s), guest.remove(|_, _, tag, _| tag == s));
                }
                Step::Range(s, addr, bytes) => {
                    let expected = guest.remove(|l, p, tag, _| tag == s && covers(l, p, addr, bytes));
                    prop_assert_eq!(caches.invalidate(s, Va::new(addr), bytes), expected);
                }
                Step::Vm(v) => {
                    let expected = guest.remove(|_, _, _, of| of == v) + host.remove(|_, _, tag, _| tag == v);
                    prop_assert_eq!(caches.flush_vm(v), expected);
                }
                Step::VmRange(v, addr, bytes) => {
                    let expected = guest.remove(|_, _, _, of| of == v)
                        + host.remove(|l, p, tag, _| tag == v && covers(l, p, addr, bytes));
                    prop_assert_eq!(caches.invalidate_host(v, Gpa::new(addr), bytes), expected);
                }
                Step::All => {
                    caches.flush_all();
                    guest.remove(|_, _, _, _| true);
                    host.remove(|_, _, _, _| true);
                }
            }
        }
    }
}

fn leaf(gpa: Gpa, vm: u16) -> HostLeaf {
    let size = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G][(gpa.raw() >> 30) as usize % 3];
    let first = ((gpa.raw() >> size.shift()) * 3 + u64::from(vm)) << 18;
    let frame = Hfn::new(first + (gpa.page() & (size.frames() - 1)));
    HostLeaf { frame, size, rights: Rights::ALL, dirty: gpa.page() & 1 == 0 }
}

#[test]
fn the_nested_tlb_knows_pages_of_all_sizes_by_vm() {
    let shape = NestedTlbArray { geometry: Geometry { sets: 1, ways: 40 }, replacement: Replacement::Lru };
    let mut caches = WalkCaches::new(&[], &[], Some(&shape));
    let pages: Vec<Gpa> =
        (0..6).flat_map(|gib| (0..3).map(move |n| Gpa::new((gib << 30) + (n << 21)))).collect();
    for vm in 0..2 {
        caches.set_vm(vm);
        for gpa in &pages {
            assert_eq!(
                caches.host(*gpa).is_some(),
                gpa.raw() >> 30 == 2 && gpa.raw() & 0x3fff_ffff != 0
                    || gpa.raw() >> 30 == 5 && gpa.raw() & 0x3fff_ffff != 0,
                "{gpa:?}"
            );
            caches.insert_host(*gpa, leaf(*gpa, vm));
        }
    }
    let known = |caches: &mut WalkCaches, vm| {
        caches.set_vm(vm);
        pages.iter().filter(|gpa| caches.host(**gpa).is_some()).count()
    };
    for vm in 0..2 {
        assert_eq!(known(&mut caches, vm), pages.len());
        let inside = Gpa::new((2 << 30) + 0x1234_5678);
        assert_eq!(caches.host(inside).unwrap().frame, leaf(inside, vm).frame);
        let inside = Gpa::new((1 << 30) + 0x12_3456);
        assert_eq!(caches.host(inside).unwrap().frame, leaf(inside, vm).frame);
    }
    // The page below a cached one is another.
    assert_eq!(caches.invalidate_host(1, Gpa::new((1 << 30) - 4096), 4096), 0);
    // One byte of a huge page takes the whole page; of its neighbours nothing.
    assert_eq!(caches.invalidate_host(1, Gpa::new((2 << 30) + 999), 1), 1);
    assert_eq!(caches.invalidate_host(1, Gpa::new(1 << 30), 3 << 21), 3);
    assert_eq!(known(&mut caches, 1), pages.len() - 6);
    assert_eq!(known(&mut caches, 0), pages.len());
    assert!(caches.flush_vm(0) > 0);
    assert_eq!(known(&mut caches, 0), 0);
    assert_eq!(known(&mut caches, 1), pages.len() - 6);
}
