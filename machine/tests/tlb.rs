//! TLBs of arrays, page sizes, spaces and tags against a list of entries.

use machine::set::{Geometry, Replacement};
use machine::tlb::{Tlb, TlbArray};
use paging::{Hfn, Intent, Leaf, PageSize, Rights, TlbTag, Va};
use proptest::prelude::*;

/// Shared entries, and entries that one process owns, under one key.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Owned(Option<u8>);

#[derive(Clone, Copy, Debug, Default)]
struct Who {
    group: u16,
    process: u8,
}

impl TlbTag for Owned {
    type Context = Who;
    const CONDITIONAL: bool = true;
    fn key(context: &Who) -> u16 {
        context.group
    }
    fn admits(&self, context: &Who) -> bool {
        self.0.is_none_or(|owner| owner == context.process)
    }
    fn of(context: &Who, _va: Va, leaf: &Leaf) -> Self {
        Owned((leaf.tag != 0).then_some(context.process))
    }
}

/// What is mapped where: the size by GiB, the frame by page, and every seventh
/// 2 MiB private to each process.
fn walk(who: Who, va: Va) -> Leaf {
    let size = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G][(va.raw() >> 30) as usize % 3];
    let private = (va.raw() >> size.shift().max(21)).is_multiple_of(7);
    let owner = if private { u64::from(who.process) + 1 } else { 0 };
    let page = va.raw() >> size.shift();
    let first = ((page * 1009 + u64::from(who.group) * 31 + owner * 7) % 900) << 18;
    let frame = Hfn::new(first + (va.page() & (size.frames() - 1)));
    let tag = u64::from(private);
    Leaf { frame, size, rights: Rights::ALL, dirty: va.page().is_multiple_of(2), link: 0, tag }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: PageSize,
    page: u64,
    who: Who,
    tag: Owned,
    leaf: Leaf,
    at: Va,
    used: u64,
}

/// Arrays of sets of entries with the time of their last use.
struct Model {
    arrays: Vec<(Vec<PageSize>, Vec<Vec<Entry>>, usize)>,
    fracture: bool,
    now: u64,
}

impl Model {
    fn new(arrays: &[TlbArray], fracture: bool) -> Model {
        let of = |array: &TlbArray| {
            (array.sizes.clone(), vec![Vec::new(); array.geometry.sets], array.geometry.ways)
        };
        Model { arrays: arrays.iter().map(of).collect(), fracture, now: 0 }
    }

    fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.arrays.iter_mut().flat_map(|(_, sets, _)| sets.iter_mut().flatten())
    }

    /// Host-physical address, if it hits.
    fn lookup(&mut self, who: Who, va: Va) -> Option<u64> {
        self.now += 1;
        let now = self.now;
        let found = self.entries().find(|entry| {
            entry.page == va.raw() >> entry.size.shift()
                && entry.who.group == who.group
                && entry.tag.admits(&who)
        })?;
        found.used = now;
        let first = found.leaf.frame.number() - (found.at.page() & (found.size.frames() - 1));
        Some(((first + (va.page() & (found.size.frames() - 1))) << 12) | va.raw() & 4095)
    }

    fn fill(&mut self, who: Who, va: Va, leaf: Leaf) {
        let smaller = PageSize::ALL.into_iter().rev().filter(|size| *size <= leaf.size);
        let takes = |size: &PageSize| self.arrays.iter().any(|(sizes, ..)| sizes.contains(size));
        let sizes: Vec<_> = smaller.filter(takes).collect();
        let Some(size) = sizes.first().copied().filter(|size| self.fracture || *size == leaf.size) else {
            return;
        };
        let (_, sets, ways) = self.arrays.iter_mut().find(|(sizes, ..)| sizes.contains(&size)).unwrap();
        let page = va.raw() >> size.shift();
        let set = (page % sets.len() as u64) as usize;
        let set = &mut sets[set];
        self.now += 1;
        if set.len() == *ways {
            let oldest = (0..set.len()).min_by_key(|way| set[*way].used).unwrap();
            set.remove(oldest);
        }
        set.push(Entry { size, page, who, tag: Owned::of(&who, va, &leaf), leaf, at: va, used: self.now });
    }

    fn remove(&mut self, which: impl Fn(&Entry) -> bool) -> usize {
        let before = self.entries().count();
        for (_, sets, _) in &mut self.arrays {
            sets.iter_mut().for_each(|set| set.retain(|entry| !which(entry)));
        }
        before - self.entries().count()
    }
}

fn array(sizes: &[PageSize], sets: usize, ways: usize) -> TlbArray {
    TlbArray { sizes: sizes.to_vec(), geometry: Geometry { sets, ways }, replacement: Replacement::Lru }
}

fn levels() -> Vec<(Vec<TlbArray>, bool)> {
    use PageSize::{Size1G, Size2M, Size4K};
    vec![
        (vec![array(&[Size4K], 16, 4), array(&[Size2M], 8, 4), array(&[Size1G], 1, 4)], false),
        (vec![array(&[Size4K, Size2M, Size1G], 1, 72)], false),
        (vec![array(&[Size4K, Size2M], 12, 6), array(&[Size1G], 4, 4)], false),
        (vec![array(&[Size4K, Size2M], 3, 24)], true),
        (vec![array(&[Size4K], 10, 3)], false),
        (vec![array(&[Size4K], 10, 3)], true),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Access(Who, Va, bool),
    Invalidate(u16, Va, u64, bool),
    FlushSpace(u16),
    FlushAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = (0u16..2, 0u8..3).prop_map(|(group, process)| Who { group, process });
    let va = (0u64..6, prop_oneof![0u64..40, 0u64..1 << 18], 0u64..4096)
        .prop_map(|(gib, page, byte)| Va::new((gib << 30) + (page << 12) + byte));
    let bytes = prop_oneof![Just(1u64), 4096u64..1 << 16, 1u64 << 20..1 << 32, Just(u64::MAX)];
    let step = prop_oneof![
        60 => (who, va.clone(), any::<bool>()).prop_map(|(who, va, write)| Step::Access(who, va, write)),
        3 => (0u16..2, va, bytes, any::<bool>()).prop_map(|(g, va, n, shared)| Step::Invalidate(g, va, n, shared)),
        1 => (0u16..2).prop_map(Step::FlushSpace),
        1 => Just(Step::FlushAll),
    ];
    prop::collection::vec(step, 1..500)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn hits_translations_and_invalidations_equal_a_list(level in 0usize..6, steps in steps()) {
        let (arrays, fracture) = levels().swap_remove(level);
        let mut tlb = Tlb::<Owned>::new(&arrays, fracture);
        let mut model = Model::new(&arrays, fracture);
        for step in steps {
            match step {
                Step::Access(who, va, write) => {
                    let hit = tlb.lookup(va, &who);
                    let address = hit.map(|hit| hit.page_base(va) | va.raw() & 4095);
                    prop_assert_eq!(address, model.lookup(who, va), "{:?} {:?}", who, va);
                    let leaf = walk(who, va);
                    let expected = leaf.frame.number() << 12 | va.raw() & 4095;
                    match hit {
                        Some(hit) => {
                            prop_assert_eq!(address, Some(expected));
                            prop_assert_eq!(hit.allows(Intent { write, fetch: false }), !write || hit.dirty);
                        }
                        None => {
                            let tag = Owned::of(&who, va, &leaf);
                            let hit = tlb.fill(va, &who, &leaf, tag, false);
                            prop_assert_eq!(hit.page_base(va) | va.raw() & 4095, expected);
                            prop_assert_eq!(hit.dirty, leaf.dirty);
                            model.fill(who, va, leaf);
                        }
                    }
                }
                Step::Invalidate(group, start, bytes, shared_only) => {
                    let which = |tag: &Owned| !shared_only || tag.0.is_none();
                    let removed = tlb.invalidate(group, start, bytes, which);
                    let last = start.raw().saturating_add(bytes - 1);
                    let expected = model.remove(|entry| {
                        let first = entry.page << entry.size.shift();
                        entry.who.group == group
                            && first <= last
                            && start.raw() < first + entry.size.bytes()
                            && which(&entry.tag)
                    });
                    prop_assert_eq!(removed, expected);
                }
                Step::FlushSpace(group) => {
                    prop_assert_eq!(tlb.flush_space(group), model.remove(|entry| entry.who.group == group));
                }
                Step::FlushAll => {
                    tlb.flush_all();
                    model.remove(|_| true);
                    prop_assert!(tlb.is_empty());
                }
            }
            prop_assert_eq!(tlb.len(), model.entries().count());
        }
    }
}

#[test]
fn a_fill_takes_the_place_of_the_entry_that_would_have_served() {
    let (arrays, _) = levels().swap_remove(0);
    let mut tlb = Tlb::<Owned>::new(&arrays, false);
    let (who, va) = (Who::default(), Va::new(0x20_1000));
    let clean = Leaf { dirty: false, tag: 0, ..walk(who, va) };
    assert!(!tlb.fill(va, &who, &clean, Owned(None), false).may_store());
    assert!(!tlb.lookup(va, &who).unwrap().may_store());
    tlb.fill(va, &who, &Leaf { dirty: true, ..clean }, Owned(None), false);
    assert!(tlb.lookup(va, &who).unwrap().may_store());
    assert_eq!(tlb.len(), 1);
}

#[test]
fn an_entry_of_the_second_level_serves_the_first_at_its_own_size_or_smaller() {
    use PageSize::{Size1G, Size2M, Size4K};
    let mut first = Tlb::<Owned>::new(&[array(&[Size4K], 16, 4)], true);
    let mut exact = Tlb::<Owned>::new(&[array(&[Size4K], 16, 4), array(&[Size2M], 8, 4)], false);
    let mut second = Tlb::<Owned>::new(&[array(&[Size2M, Size1G], 4, 4)], false);
    let who = Who::default();
    let va = Va::new((1 << 30) + (5 << 21) + (77 << 12));
    let leaf = walk(who, va);
    assert_eq!(leaf.size, Size2M);
    second.fill(va, &who, &leaf, Owned(None), false);
    let (hit, tag) = second.lookup_tagged(va.offset(4096), &who).unwrap();
    first.fill_hit(va, &who, hit, tag);
    exact.fill_hit(va, &who, hit, tag);
    assert_eq!(first.lookup(va, &who).unwrap().page_base(va), leaf.frame.number() << 12);
    assert!(first.lookup(va.offset(4096), &who).is_none());
    let beside = exact.lookup(va.offset(4096), &who).unwrap();
    assert_eq!(beside.page_base(va.offset(4096)), (leaf.frame.number() + 1) << 12);
}
