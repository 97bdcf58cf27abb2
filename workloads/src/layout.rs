//! Where a program's memory is: a process of Linux on x86-64, without
//! randomisation of its layout.
//!
//! A position-independent program is at `0x5555_5555_4000`, its data after it,
//! then the `brk` heap that grows up; mappings grow down from below the
//! libraries. glibc's `malloc` maps what is larger than 128 KiB by itself and
//! keeps 16 bytes in front (glibc malloc.c, `sysmalloc_mmap`), so a large
//! array starts 16 bytes into a page.

use machine::input::{HugeAdvice, Populate, ProcessSetup, Region};
use paging::PageSize;

use crate::parameters::{Parameter, Parameters, Unit};

/// `populate=`, for every workload that initialises its data.
pub(crate) const POPULATE: Parameter = Parameter {
    name: "populate",
    unit: Unit::Choice(&["init", "demand"]),
    default: "init",
    meaning: "init: filled before the first access, by the threads that really do it; demand: pages appear as they are touched",
};

/// `advice=`, for every workload.
pub(crate) const ADVICE: Parameter = Parameter {
    name: "advice",
    unit: Unit::Choice(&["none", "huge", "nohuge", "2m", "1g"]),
    default: "none",
    meaning: "huge pages: madvise(MADV_HUGEPAGE or MADV_NOHUGEPAGE), or reserved pages (hugetlbfs) of 2 MiB or 1 GiB",
};

/// `advice=`, for workloads whose mappings are too small for reserved pages.
pub(crate) const ADVICE_UNRESERVED: Parameter = Parameter {
    unit: Unit::Choice(&["none", "huge", "nohuge"]),
    meaning: "huge pages: madvise(MADV_HUGEPAGE or MADV_NOHUGEPAGE)",
    ..ADVICE
};

/// `threads=`, for every workload that can be parallel.
pub(crate) const THREADS: Parameter = Parameter {
    name: "threads",
    unit: Unit::Count { min: 1, max: 1024 },
    default: "1",
    meaning: "threads of the one process",
};

/// `malloc=`, for workloads that have both large blocks and a heap.
pub(crate) const MALLOC: Parameter = Parameter {
    name: "malloc",
    unit: Unit::Choice(&["mapped", "heap"]),
    default: "mapped",
    meaning: "large blocks: mapped each by itself as glibc does, or all in the heap (`MALLOC_MMAP_THRESHOLD_`), one range as a primary region needs",
};

const PAGE: u64 = 4096;
/// The first byte after a small program's data: where `brk` starts.
const HEAP: u64 = 0x5555_5557_9000;
/// `.bss` of a small program.
const BSS: u64 = 0x5555_5555_8000;
/// Below the C library and the loader of a process whose stack limit is 8 MiB.
const MAPPINGS_END: u64 = 0x7fff_f7d8_0000;
/// What glibc's `malloc` keeps in front of a block.
const HEADER: u64 = 16;

/// Places the mappings of a process.
#[derive(Debug)]
pub(crate) struct Layout {
    bss: u64,
    heap: u64,
    mappings: u64,
    demand: bool,
    all_in_heap: bool,
    advice: HugeAdvice,
    regions: Vec<Region>,
}

impl Layout {
    /// An empty process that follows `populate`, `malloc` and `advice` of the parameters, where there are such.
    pub(crate) fn new(parameters: &Parameters) -> Layout {
        let is = |key: &str, value: &str| parameters.get(key).is_some_and(|v| v.to_string() == value);
        let advice = match parameters.choice("advice") {
            "huge" => HugeAdvice::Huge,
            "nohuge" => HugeAdvice::NoHuge,
            "2m" => HugeAdvice::Reserved(PageSize::Size2M),
            "1g" => HugeAdvice::Reserved(PageSize::Size1G),
            _ => HugeAdvice::None,
        };
        Layout {
            bss: BSS,
            heap: HEAP,
            mappings: MAPPINGS_END,
            demand: is("populate", "demand"),
            all_in_heap: is("malloc", "heap"),
            advice,
            regions: Vec::new(),
        }
    }

    /// What reserved pages are aligned to and come in; 4 KiB otherwise.
    fn granule(&self) -> u64 {
        match self.advice {
            HugeAdvice::Reserved(size) => size.bytes(),
            _ => PAGE,
        }
    }

    fn add(&mut self, name: &str, start: u64, len: u64, populate: Populate) -> u64 {
        let populate = if self.demand { Populate::OnDemand } else { populate };
        let mut region = Region::anonymous(name, start, len, populate);
        region.advice = self.advice;
        self.regions.push(region);
        start
    }

    /// A mapping of its own, aligned to `align` (`posix_memalign`, or `mmap` with a page).
    pub(crate) fn map_aligned(&mut self, name: &str, len: u64, align: u64, populate: Populate) -> u64 {
        let align = align.max(self.granule());
        let len = len.next_multiple_of(self.granule());
        self.mappings = (self.mappings - len) & !(align - 1);
        self.add(name, self.mappings, len, populate)
    }

    /// An anonymous mapping.
    pub(crate) fn map(&mut self, name: &str, len: u64, populate: Populate) -> u64 {
        self.map_aligned(name, len, PAGE, populate)
    }

    /// A large block of `malloc`; the address that it returns.
    pub(crate) fn malloc(&mut self, name: &str, len: u64, populate: Populate) -> u64 {
        match self.all_in_heap {
            true => self.heap(name, len, populate),
            false => self.map(name, len + HEADER, populate) + HEADER,
        }
    }

    /// A part of the `brk` heap that small blocks fill one after the other; the first block's address.
    pub(crate) fn heap(&mut self, name: &str, len: u64, populate: Populate) -> u64 {
        // After large static data, the heap comes after it.
        let start = self.heap.max(self.bss).next_multiple_of(self.granule());
        let len = (len + HEADER).next_multiple_of(self.granule());
        self.heap = start + len;
        self.add(name, start, len, populate) + HEADER
    }

    /// Static, zero-initialised data.
    pub(crate) fn bss(&mut self, name: &str, len: u64, populate: Populate) -> u64 {
        let start = self.bss.next_multiple_of(self.granule());
        let len = len.next_multiple_of(self.granule());
        self.bss = start + len;
        self.add(name, start, len, populate)
    }

    /// Address space that is mapped later; its first byte.
    pub(crate) fn reserve(&mut self, len: u64) -> u64 {
        let granule = self.granule();
        self.mappings = (self.mappings - len.next_multiple_of(granule)) & !(granule - 1);
        self.mappings
    }

    /// A region as events map it later: no name, no place, not populated.
    pub(crate) fn template(&self) -> Region {
        let mut region = Region::anonymous("", 0, 0, Populate::OnDemand);
        region.advice = self.advice;
        region
    }

    /// A region that was placed elsewhere.
    pub(crate) fn push(&mut self, region: Region) {
        self.regions.push(region);
    }

    /// The finished process.
    pub(crate) fn process(self, name: &str) -> ProcessSetup {
        ProcessSetup { name: name.to_string(), regions: self.regions, group: None, implicit_regions: false }
    }
}
