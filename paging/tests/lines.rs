//! Lines counted on the tables' bits, against the formula on a plain map: pages of
//! one group of 8 whose guest frames differ above the lowest 3 bits (with 2 MiB host
//! pages: above the lowest 12) have their host entries on different lines.

mod common;

use common::World;
use paging::lines::{HostLines, Table, host_lines};
use paging::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn modelled(pages: &BTreeMap<u64, u64>, shift: u32) -> HostLines {
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (page, gfn) in pages {
        groups.entry(page / 8).or_default().push(gfn >> shift);
    }
    let mut expected = HostLines::default();
    for group in groups.values() {
        let lines = group.iter().collect::<BTreeSet<_>>().len();
        match group.len() {
            1 => expected.single += 1,
            8 => expected.whole[lines - 1] += 1,
            _ => expected.partial[lines - 1] += 1,
        }
    }
    expected
}

proptest! {
    #[test]
    fn counts_what_the_formula_says(
        // Few pages and frames in a row, so that groups are whole, partly mapped, and together.
        pages in proptest::collection::btree_map(0u64..200, 0u64..2000, 0..150),
        run in 0u64..40,
        host_size in prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M)],
        levels in 4u8..6,
    ) {
        let mut pages = pages;
        pages.extend((0..run).map(|at| (256 + at, 3000 + at)));
        let (mut guest, mut host) = (World::<GuestPhys>::new(), World::<HostPhys>::new());
        let mut gpt: PageTable<Virt, _> = guest.table(levels);
        let mut hpt: PageTable<GuestPhys, _> = host.table(levels);
        for (page, gfn) in &pages {
            guest.map(&mut gpt, (1 << 30) + page * 4096, *gfn, PageSize::Size4K);
        }
        let backed: BTreeSet<u64> = pages.values().map(|gfn| gfn & !(host_size.frames() - 1)).collect();
        for gfn in backed {
            host.map(&mut hpt, gfn << 12, (1 << 20) + gfn, host_size);
        }
        let found = host_lines(
            Table { mem: &guest.mem, root: gpt.root(), levels },
            Table { mem: &host.mem, root: hpt.root(), levels },
        );
        let shift = if host_size == PageSize::Size4K { 3 } else { 12 };
        prop_assert_eq!(found, modelled(&pages, shift));
    }
}

#[test]
fn huge_and_unbacked_pages_are_told_apart() {
    let (mut guest, mut host) = (World::<GuestPhys>::new(), World::<HostPhys>::new());
    let mut gpt: PageTable<Virt, _> = guest.table(4);
    let mut hpt: PageTable<GuestPhys, _> = host.table(4);
    guest.map(&mut gpt, 0, 512, PageSize::Size2M);
    (0..8).for_each(|page| guest.map(&mut gpt, (4 << 20) + page * 4096, 8 + page, PageSize::Size4K));
    (8..14).for_each(|gfn| host.map(&mut hpt, gfn << 12, gfn, PageSize::Size4K));
    let of = |guest: &World<_>, host: &World<_>| {
        host_lines(
            Table { mem: &guest.mem, root: gpt.root(), levels: 4 },
            Table { mem: &host.mem, root: hpt.root(), levels: 4 },
        )
    };
    let mut found = of(&guest, &host);
    assert_eq!((found.huge, found.unbacked, found.partial[0]), (1, 2, 1));
    assert_eq!((found.mean(), found.mean_whole()), (1.0, 0.0));
    found.add(&HostLines { whole: [0, 0, 1, 0, 0, 0, 0, 0], ..HostLines::default() });
    assert_eq!((found.mean(), found.mean_whole()), (2.0, 3.0));
}
