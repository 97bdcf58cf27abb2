//! Nanoseconds a look-up of each structure costs the host, hits and misses.
//!
//! `cargo bench -p machine --bench structures [-- FILTER]`. Each line is the
//! fast decile of parts of a random stream: hits are over half as many keys as
//! fit, misses over eight times as many.

use machine::cache::Cache;
use machine::numa::Memory;
use machine::profile::{Dimension, Profile};
use machine::set::{Geometry, Replacement};
use machine::tlb::{Tlb, TlbArray};
use machine::walkcache::WalkCaches;
use paging::{AsidVmid, CachedTable, Dim, Hfn, Leaf, NodeId, PageSize, Rights, Va};
use std::hint::black_box;
use std::time::Instant;

const ACCESSES: usize = 1 << 20;
const LAPS: usize = 4;
const PART: usize = 1 << 14;

/// Numbers below `span`, in no order.
fn random(span: u64) -> Vec<u64> {
    let mut state = 0x853c_49e6_748f_ea9b_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * u128::from(span)) >> 64) as u64
    };
    (0..ACCESSES).map(next).collect()
}

struct Bench {
    filter: Option<String>,
}

impl Bench {
    fn run(&self, name: &str, stream: &[u64], mut lap: impl FnMut(&[u64]) -> u64) {
        if self.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            return;
        }
        lap(stream);
        let mut hits = 0;
        let mut times = Vec::new();
        for _ in 0..LAPS {
            hits = 0;
            for part in stream.chunks(PART) {
                let start = Instant::now();
                hits += black_box(lap(black_box(part)));
                times.push(start.elapsed().as_secs_f64());
            }
        }
        // Parts are short, so that on a busy machine most are not interrupted.
        times.sort_by(f64::total_cmp);
        let ns = times[times.len() / 10] * 1e9 / PART as f64;
        println!("{name:44} {ns:7.2} ns   {:5.1} % hits", hits as f64 * 100.0 / stream.len() as f64);
    }

    fn tlb(&self, name: &str, entries: usize, ways: usize, replacement: Replacement) {
        let geometry = Geometry::of(entries, ways).expect("a geometry");
        let array = TlbArray { sizes: PageSize::ALL.to_vec(), geometry, replacement };
        for (kind, pages) in [("hits", entries as u64 / 2), ("misses", entries as u64 * 8)] {
            let mut tlb = Tlb::<AsidVmid>::new(std::slice::from_ref(&array), false);
            self.run(&format!("TLB {name} {kind}"), &random(pages), |stream| {
                let mut hits = 0;
                for page in stream {
                    let va = Va::new(page << 12);
                    match tlb.lookup(va, &1) {
                        Some(hit) => hits += u64::from(hit.page_base(va) == page << 12),
                        None => {
                            let leaf = Leaf {
                                frame: Hfn::new(*page),
                                size: PageSize::Size4K,
                                rights: Rights::ALL,
                                dirty: true,
                                link: 0,
                                tag: 0,
                            };
                            tlb.fill(va, &1, &leaf, AsidVmid, true);
                        }
                    }
                }
                hits
            });
        }
    }

    fn cache(&self, name: &str, kib: usize, ways: usize, replacement: Replacement) {
        let geometry = Geometry::of(kib * 16, ways).expect("a geometry");
        let lines = geometry.entries() as u64;
        for (kind, span) in [("hits", lines / 2), ("misses", lines * 8)] {
            let mut cache = Cache::new(geometry, replacement);
            self.run(&format!("cache {name} {kind}"), &random(span), |stream| {
                stream.iter().map(|line| u64::from(cache.access(*line))).sum()
            });
        }
        let mut cache = Cache::new(geometry, replacement);
        self.run(&format!("cache {name} misses, prefetched"), &random(lines * 8), |stream| {
            let mut hits = 0;
            for block in stream.chunks(256) {
                block.iter().for_each(|line| cache.prefetch_set(*line));
                hits += block.iter().map(|line| u64::from(cache.access(*line))).sum::<u64>();
            }
            hits
        });
    }

    fn walk_caches(&self) {
        let profile = Profile::builtin("haswell-ex").expect("a built-in profile");
        for (kind, tables) in [("hits", 16), ("misses", 4096)] {
            let mut caches = WalkCaches::new(
                &profile.walk_caches(Dimension::Guest),
                &profile.walk_caches(Dimension::Host),
                None,
            );
            self.run(&format!("PWC haswell-ex {kind}"), &random(tables), |stream| {
                let mut hits = 0;
                for number in stream {
                    let addr = number << 21;
                    match caches.table(Dim::Guest, addr, 4) {
                        Some(found) if found.level == 1 => hits += 1,
                        _ => {
                            let (frame, host) = (*number, Hfn::new(*number));
                            let table = CachedTable { level: 1, frame, host, rights: Rights::ALL, link: 0 };
                            caches.insert_table(Dim::Guest, addr, table);
                        }
                    }
                }
                hits
            });
        }
    }

    fn memory(&self) {
        let profile = Profile::builtin("haswell-ex").expect("a built-in profile");
        for (kind, to) in [("local", 0), ("remote", 1)] {
            let mut memory = Memory::new(&profile.memory_spec(), &profile.layout(), profile.clock.mhz, 840);
            let mut now = 0;
            self.run(&format!("memory {kind}"), &random(1), |stream| {
                for _ in stream {
                    now += memory.access(now, NodeId(0), NodeId(to)) / 8;
                }
                0
            });
            black_box(now);
        }
    }
}

fn main() {
    // Cargo passes `--bench` itself.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let bench = Bench { filter };
    bench.tlb("64x4", 64, 4, Replacement::Lru);
    bench.tlb("128x8", 128, 8, Replacement::Lru);
    bench.tlb("72 full", 72, 72, Replacement::Lru);
    bench.tlb("512x4", 512, 4, Replacement::Lru);
    bench.tlb("1024x8", 1024, 8, Replacement::Lru);
    bench.tlb("1536x12", 1536, 12, Replacement::Lru);
    bench.tlb("1536x6", 1536, 6, Replacement::Lru);
    bench.tlb("3072x24", 3072, 24, Replacement::Lru);
    bench.tlb("2048 full", 2048, 2048, Replacement::Lru);
    bench.tlb("1024x8 tree-plru", 1024, 8, Replacement::TreePlru);
    bench.tlb("1536x12 random", 1536, 12, Replacement::Random { seed: 1 });
    bench.cache("L1 32 KiB 8-way", 32, 8, Replacement::Lru);
    bench.cache("L2 256 KiB 8-way", 256, 8, Replacement::Lru);
    bench.cache("L2 1 MiB 16-way", 1024, 16, Replacement::Lru);
    bench.cache("L2 1 MiB 16-way tree-plru", 1024, 16, Replacement::TreePlru);
    bench.cache("LLC 22 MiB 11-way", 22 * 1024, 11, Replacement::Lru);
    bench.cache("LLC 32 MiB 16-way", 32 * 1024, 16, Replacement::Lru);
    bench.cache("LLC 35 MiB 20-way", 35 * 1024, 20, Replacement::Lru);
    bench.walk_caches();
    bench.memory();
}
