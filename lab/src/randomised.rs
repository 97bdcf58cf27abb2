//! Layouts of processes' own, as Linux randomises them (`aslr=hardware`).
//!
//! The input's addresses are a group's: tables and the second-level TLB know no others. Each process has its segments
//! elsewhere, and the core adds the difference on a miss of a first-level TLB ([`mechanisms::babelfish::Aslr`]).
//!
//! Of the seven segments that Linux randomises on x86-64, these are moved: the program, its heap, mappings and stack (data lie with
//! the code since binaries are position-independent, and the kernels here map no vDSO). What lies at a fixed place stays there.

use machine::input::Region;
use mechanisms::babelfish::{Aslr, SEGMENTS, Segment};
use paging::PageSize;
use paging::random::SplitMix64;
use std::ops::Range;

/// Where position-independent binaries and their heap lie: from two thirds of 47 bits on (`ELF_ET_DYN_BASE`).
const PROGRAM: Range<u64> = 0x5500_0000_0000..0x5e00_0000_0000;
/// Where `mmap` places.
const MAPPINGS: Range<u64> = 0x6200_0000_0000..0x7fff_f800_0000;
/// The stack's last 128 MiB of 47 bits (`MIN_GAP` in `arch/x86/mm/mmap.c`).
const STACK: Range<u64> = MAPPINGS.end..1 << 47;

/// Pages by which programs and mappings are moved at most (`ARCH_MMAP_RND_BITS`, 28 by default).
const MMAP_PAGES: u64 = 1 << 28;
/// The same of stacks (`STACK_RND_MASK`): mappings stay that far below.
const STACK_PAGES: u64 = 1 << 22;
/// The same of a heap, from its program (`arch_randomize_brk`: 32 MiB).
const HEAP_PAGES: u64 = 1 << 13;

/// Whether some of `len` bytes from `start` lie between programs and mappings, where segments that are moved may come to lie.
pub(crate) fn in_the_way(start: u64, len: u64) -> bool {
    start < MAPPINGS.start && PROGRAM.end < start.saturating_add(len)
}

/// The layout of a process that begins with `regions` of the group's. Pages of up to `page` are whole in it.
pub(crate) fn layout(regions: &[Region], page: PageSize, random: &mut SplitMix64) -> Aslr {
    let mut bytes = |pages: u64| (random.below(pages) << 12) & !(page.bytes() - 1);
    let (program, heap) = (bytes(MMAP_PAGES), bytes(HEAP_PAGES));
    let (mappings, stack) = (bytes(MMAP_PAGES) + (STACK_PAGES << 12), bytes(STACK_PAGES));
    let is_heap = |region: &&Region| region.is_heap() && PROGRAM.contains(&region.start.raw());
    let brk = regions.iter().find(is_heap).map_or(PROGRAM.end, |region| region.start.raw());
    let up =
        |range: Range<u64>, by: u64| Segment::new(range.start + by, range.end - range.start, range.start);
    let down =
        |range: Range<u64>, by: u64| Segment::new(range.start - by, range.end - range.start, range.start);
    let mut segments = [Segment::default(); SEGMENTS];
    segments[0] = up(PROGRAM.start..brk, program);
    segments[1] = up(brk..PROGRAM.end, program + heap);
    segments[2] = down(MAPPINGS, mappings);
    segments[3] = down(STACK, stack);
    Aslr::hardware(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::input::Populate;
    use paging::Va;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn address() -> impl Strategy<Value = u64> {
        let within = |range: Range<u64>| range;
        prop_oneof![
            within(0..PROGRAM.start),
            within(PROGRAM),
            within(0x5555_5000_0000..0x5555_5800_0000),
            within(MAPPINGS),
            within(0x7fff_0000_0000..MAPPINGS.end),
            within(STACK),
        ]
    }

    proptest! {
        /// The hardware finds the group's address, and no two of a process's pages meet.
        #[test]
        fn own_addresses_lead_back_and_are_one_to_one(
            seed: u64,
            size in prop::sample::select(&PageSize::ALL[..]),
            heap in prop::option::of(0x5555_5555_4000u64..0x5555_6000_0000),
            addresses in prop::collection::vec(address(), 1..200),
        ) {
            let region = |start: u64| Region::anonymous("[heap]", start & !4095, 4096, Populate::OnDemand);
            let regions: Vec<Region> = heap.into_iter().map(region).collect();
            let aslr = layout(&regions, size, &mut SplitMix64(seed));
            let mut seen = HashMap::new();
            for va in addresses {
                let own = aslr.own(Va::new(va));
                prop_assert_eq!(aslr.group(own), Va::new(va));
                prop_assert_eq!(own.raw() & (size.bytes() - 1), va & (size.bytes() - 1), "pages stay whole");
                prop_assert_eq!(*seen.entry(own.page()).or_insert(va >> 12), va >> 12);
                prop_assert!(own.raw() >> 47 == va >> 47);
            }
        }
    }

    #[test]
    fn each_segment_has_an_offset_of_its_own() {
        let heap = Region::anonymous("heap", 0x5555_5560_0000, 1 << 20, Populate::OnDemand);
        let group = [0x40_0000u64, 0x5555_5555_4000, 0x5555_5560_0000, 0x7fff_f7e0_0000, 0x7fff_ffff_e000];
        let own = |seed| {
            let aslr = layout(std::slice::from_ref(&heap), PageSize::Size4K, &mut SplitMix64(seed));
            group.map(|va| aslr.own(Va::new(va)).raw().wrapping_sub(va))
        };
        let (one, two) = (own(1), own(2));
        assert_eq!((one[0], two[0]), (0, 0), "what is not position-independent stays");
        for of in [one, two] {
            for (at, offset) in of.iter().enumerate() {
                assert!(!of[at + 1..].contains(offset), "{of:x?}");
            }
        }
        assert!((1..5).all(|at| one[at] != two[at]));
        assert!(in_the_way(0x5fff_0000_0000, 4096) && !in_the_way(group[1], 1 << 30));
    }
}
