//! Whether a machine can be as its profile says.

use super::error::ProfileError;
use super::format::{CacheSpec, Policy, Profile, TlbSpec, Ways};
use super::parts::geometry;
use crate::cache::Cache;
use crate::set::{Geometry, SetIndex};
use paging::PageSize;
use paging::frames::{MAX_FRAMES, MAX_NODES};
use std::fmt::Display;

/// Entries of one array at most: a cache of 1 GiB, whose tags take 64 MiB.
const MAX_ENTRIES: u64 = 1 << 24;
/// Ways at most: what the list of a set can number.
const MAX_WAYS: usize = 1 << 15;

type Checked = Result<(), ProfileError>;

struct Checker<'a> {
    file: &'a str,
}

impl Checker<'_> {
    fn wrong<T>(
        &self,
        key: &str,
        value: impl Display,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Result<T, ProfileError> {
        Err(ProfileError::Value {
            file: self.file.into(),
            key: key.into(),
            value: value.to_string(),
            reason: reason.into(),
            remedy: remedy.into(),
        })
    }

    fn within<T: PartialOrd + Display>(&self, key: &str, value: T, low: T, high: T) -> Checked {
        // Also refuses what is not a number.
        if value >= low && value <= high {
            return Ok(());
        }
        self.wrong(key, value, "out of range", format!("write a number from {low} to {high}"))
    }

    fn sourced(&self, key: &str, source: &str) -> Checked {
        if source.trim().is_empty() {
            return self.wrong(
                &format!("{key}.source"),
                format!("{source:?}"),
                "every number has a source",
                "say where the numbers of this table are from, or how they were estimated (trust = \"estimate\")",
            );
        }
        Ok(())
    }

    fn array(&self, key: &str, entries: u64, ways: Ways, policy: Policy) -> Result<Geometry, ProfileError> {
        let shown = |ways| match ways {
            Ways::Number(ways) => ways.to_string(),
            Ways::Full => "\"full\"".into(),
            Ways::Unknown => "a word".to_string(),
        };
        let ways_key = format!("{key}.ways");
        self.within(&format!("{key}.entries"), entries, 1, MAX_ENTRIES)?;
        if ways == Ways::Unknown {
            return self.wrong(&ways_key, shown(ways), "not a number of ways", "write a number or \"full\"");
        }
        let Some(geometry) = geometry(entries, ways) else {
            let near = nearest_divisors(entries, if let Ways::Number(ways) = ways { ways } else { 1 });
            return self.wrong(
                &ways_key,
                shown(ways),
                format!("{entries} entries cannot be divided into sets of so many ways"),
                format!("write a divisor of {entries}: {near}"),
            );
        };
        if geometry.ways > MAX_WAYS {
            return self.wrong(
                &ways_key,
                geometry.ways,
                format!("more than {MAX_WAYS} ways"),
                "take fewer ways, or fewer entries",
            );
        }
        if policy == Policy::TreePlru && (!geometry.ways.is_power_of_two() || geometry.ways > 64) {
            return self.wrong(
                &format!("{key}.replacement"),
                "\"tree-plru\"",
                format!("a binary tree has a power of two of leaves, at most 64, not {}", geometry.ways),
                "take another number of ways, or \"lru\"",
            );
        }
        if !geometry.sets.is_power_of_two() && geometry.sets > SetIndex::MAX_SETS {
            return self.wrong(
                &ways_key,
                shown(ways),
                format!("{} sets", geometry.sets),
                format!("take a power of two, or at most {} sets", SetIndex::MAX_SETS),
            );
        }
        Ok(geometry)
    }

    fn tlb(&self, key: &str, specs: &[TlbSpec]) -> Checked {
        let mut seen: Vec<PageSize> = Vec::new();
        for (number, spec) in specs.iter().enumerate() {
            let key = format!("{key}[{number}]");
            if spec.sizes.is_empty() {
                let remedy = "name the page sizes that the array caches, or leave the array out";
                return self.wrong(&format!("{key}.sizes"), "[]", "no page size", remedy);
            }
            for size in &spec.sizes {
                if seen.contains(size) {
                    return self.wrong(
                        &format!("{key}.sizes"),
                        size,
                        "this size is already in another array of this level, or twice in this one",
                        "give each page size to one array",
                    );
                }
                seen.push(*size);
            }
            self.array(&key, spec.entries, spec.ways, spec.replacement)?;
            self.sourced(&key, &spec.source)?;
        }
        Ok(())
    }

    fn cache(&self, key: &str, spec: &CacheSpec) -> Checked {
        let kib = format!("{key}.kib");
        self.within(&kib, spec.kib, 1, MAX_ENTRIES / 16)?;
        let geometry = self.array(key, spec.kib * 16, spec.ways, spec.replacement)?;
        if geometry.sets < Cache::MIN_SETS {
            return self.wrong(
                &kib,
                spec.kib,
                format!(
                    "{} sets of {} ways: a cache has at least {}",
                    geometry.sets,
                    geometry.ways,
                    Cache::MIN_SETS
                ),
                "make it larger, or take fewer ways",
            );
        }
        self.within(&format!("{key}.cycles"), spec.cycles, 1, 10_000)?;
        self.sourced(key, &spec.source)
    }

    fn memory(&self, profile: &Profile) -> Checked {
        let sockets = profile.topology.sockets as usize;
        let latency = &profile.memory.latency;
        self.within("memory.latency.local_ns", latency.local_ns, 1.0, 10_000.0)?;
        self.sourced("memory.latency", &latency.source)?;
        match (&latency.matrix_ns, latency.remote_ns) {
            (Some(matrix), _) => {
                if matrix.len() != sockets || matrix.iter().any(|row| row.len() != sockets) {
                    return self.wrong(
                        "memory.latency.matrix_ns",
                        format!("{} rows", matrix.len()),
                        format!("not a row for each of {sockets} sockets with a column for each"),
                        format!("write {sockets} rows of {sockets} numbers"),
                    );
                }
                for (from, row) in matrix.iter().enumerate() {
                    for (to, ns) in row.iter().enumerate() {
                        let key = format!("memory.latency.matrix_ns[{from}][{to}]");
                        self.within(&key, *ns, 1.0, 10_000.0)?;
                        if *ns < row[from] {
                            return self.wrong(
                                &key,
                                ns,
                                format!("nearer than the socket's own memory, {} ns", row[from]),
                                "rows are the core's socket, columns the memory's; local is the smallest of a row",
                            );
                        }
                    }
                }
            }
            (None, Some(remote)) => {
                self.within("memory.latency.remote_ns", remote, latency.local_ns, 10_000.0)?;
            }
            (None, None) if sockets > 1 => {
                return self.wrong(
                    "memory.latency.remote_ns",
                    "nothing",
                    format!("{sockets} sockets have remote memory"),
                    "add remote_ns, or matrix_ns for sockets that are not equally far",
                );
            }
            (None, None) => {}
        }
        let bandwidth = &profile.memory.bandwidth;
        self.within("memory.bandwidth.node_gb_s", bandwidth.node_gb_s, 0.1, 10_000.0)?;
        self.sourced("memory.bandwidth", &bandwidth.source)?;
        match bandwidth.link_gb_s {
            Some(link) => self.within("memory.bandwidth.link_gb_s", link, 0.1, 10_000.0)?,
            None if sockets > 1 => {
                return self.wrong(
                    "memory.bandwidth.link_gb_s",
                    "nothing",
                    format!("{sockets} sockets have links"),
                    "add link_gb_s",
                );
            }
            None => {}
        }
        let loaded = &profile.memory.loaded;
        self.within("memory.loaded.bank_ns", loaded.bank_ns, 0.0, 1000.0)?;
        self.within("memory.loaded.lines_per_core", loaded.lines_per_core, 1, 1000)?;
        self.sourced("memory.loaded", &loaded.source)
    }

    fn walk_caches(&self, profile: &Profile) -> Checked {
        let mut seen = Vec::new();
        for (number, spec) in profile.walk_cache.iter().enumerate() {
            let key = format!("walk_cache[{number}]");
            if spec.levels.is_empty() || spec.dimensions.is_empty() {
                return self.wrong(
                    &key,
                    "no level or no dimension",
                    "it would hold nothing",
                    "write levels = [2] and dimensions = [\"guest\", \"host\"], for example",
                );
            }
            for level in &spec.levels {
                if !(2..=5).contains(level) {
                    return self.wrong(
                        &format!("{key}.levels"),
                        level,
                        "entries of level-1 tables are in TLBs, and no table is above level 5",
                        "write levels from 2 (PDEs) to 5",
                    );
                }
                for dimension in &spec.dimensions {
                    if seen.contains(&(*level, *dimension)) {
                        return self.wrong(
                            &format!("{key}.levels"),
                            level,
                            format!(
                                "entries of this level of the {dimension:?} dimension already have a cache"
                            ),
                            "give each level of each dimension to one cache",
                        );
                    }
                    seen.push((*level, *dimension));
                }
            }
            self.array(&key, spec.entries, spec.ways, spec.replacement)?;
            self.sourced(&key, &spec.source)?;
        }
        if let Some(nested) = &profile.nested_tlb {
            self.array("nested_tlb", nested.entries, nested.ways, nested.replacement)?;
            self.sourced("nested_tlb", &nested.source)?;
        }
        Ok(())
    }

    fn caches(&self, profile: &Profile) -> Checked {
        for (key, spec) in profile.caches() {
            self.cache(key, spec)?;
        }
        let cache = &profile.cache;
        let levels = [("cache.l1d", &cache.l1d), ("cache.l2", &cache.l2), ("cache.llc", &cache.llc)];
        for pair in levels.windows(2) {
            let [(small_key, small), (large_key, large)] = pair else { unreachable!("windows of two") };
            if large.kib < small.kib {
                return self.wrong(
                    &format!("{large_key}.kib"),
                    large.kib,
                    format!("smaller than {small_key}, {} KiB", small.kib),
                    "a level is at least as large as the one before it",
                );
            }
            if large.cycles <= small.cycles {
                return self.wrong(
                    &format!("{large_key}.cycles"),
                    large.cycles,
                    format!("not slower than {small_key}, {} cycles", small.cycles),
                    "latencies count from the load's address, so they grow from level to level",
                );
            }
        }
        let local_cycles = profile.memory.latency.local_ns * profile.clock.mhz as f64 / 1000.0;
        if local_cycles <= f64::from(cache.llc.cycles) {
            return self.wrong(
                "memory.latency.local_ns",
                profile.memory.latency.local_ns,
                format!("{local_cycles:.0} cycles, not slower than cache.llc, {} cycles", cache.llc.cycles),
                "write the whole latency of a load that misses all caches",
            );
        }
        Ok(())
    }
}

/// The divisors next below and above.
fn nearest_divisors(number: u64, near: u64) -> String {
    let divides = |ways: &u64| number.is_multiple_of(*ways);
    let below = (1..=near.clamp(1, 4096)).rev().find(divides).unwrap_or(1);
    let above = (near.max(1)..=number.min(near.saturating_add(4096))).find(divides);
    match above {
        Some(above) => format!("{below} or {above}"),
        None => below.to_string(),
    }
}

/// Refuses what cannot be.
pub(super) fn check(profile: &Profile, file: &str) -> Checked {
    let c = Checker { file };
    let fit = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if profile.name.is_empty() || !fit(&profile.name) {
        return c.wrong(
            "name",
            format!("{:?}", profile.name),
            "names stand in commands and file names",
            "use letters, digits, - . _",
        );
    }
    c.within("clock.mhz", profile.clock.mhz, 100, 10_000)?;
    c.sourced("clock", &profile.clock.source)?;
    let topology = &profile.topology;
    c.within("topology.sockets", topology.sockets, 1, MAX_NODES as u32)?;
    c.within("topology.cores_per_socket", topology.cores_per_socket, 1, 1024)?;
    c.within("topology.gib_per_socket", topology.gib_per_socket, 1, MAX_FRAMES >> 18)?;
    c.sourced("topology", &topology.source)?;
    let layout = profile_layout_end(profile);
    if layout > MAX_FRAMES {
        return c.wrong(
            "topology.gib_per_socket",
            topology.gib_per_socket,
            format!("{} sockets end at {} GiB of physical addresses", topology.sockets, layout >> 18),
            format!("a machine has at most {} GiB, the I/O gap included", MAX_FRAMES >> 18),
        );
    }
    let pipeline = &profile.pipeline;
    c.within("pipeline.ipc", pipeline.ipc, 0.1, 8.0)?;
    c.within("pipeline.rob", pipeline.rob, 1, 4096)?;
    c.within("pipeline.mshr", pipeline.mshr, 1, 1024)?;
    c.sourced("pipeline", &pipeline.source)?;
    let walker = &profile.walker;
    c.within("walker.walkers", walker.walkers, 1, 64)?;
    c.within("walker.walk_cache_cycles", walker.walk_cache_cycles, 0, 1000)?;
    c.within("walker.check_cycles", walker.check_cycles, 0, 1000)?;
    c.sourced("walker", &walker.source)?;
    for (key, specs) in [("tlb.l1d", &profile.tlb.l1d), ("tlb.l1i", &profile.tlb.l1i)] {
        c.tlb(key, specs)?;
        if !specs.iter().any(|spec| spec.sizes.contains(&PageSize::Size4K)) {
            return c.wrong(
                key,
                "no 4K",
                "every machine has 4 KiB pages",
                "add an array with sizes = [\"4K\"]",
            );
        }
    }
    c.tlb("tlb.stlb.array", &profile.tlb.stlb.array)?;
    c.within("tlb.stlb.cycles", profile.tlb.stlb.cycles, 0, 1000)?;
    c.sourced("tlb.stlb", &profile.tlb.stlb.source)?;
    c.walk_caches(profile)?;
    // Memory first: the caches are compared with its latency.
    c.memory(profile)?;
    c.caches(profile)?;
    for (key, cost) in profile.costs() {
        c.within(&format!("{key}.cycles"), cost.cycles, 0, 100_000_000)?;
        c.sourced(key, &cost.source)?;
    }
    Ok(())
}

/// The first frame above all memory; sockets begin on section boundaries.
fn profile_layout_end(profile: &Profile) -> u64 {
    let sizes = vec![profile.topology.gib_per_socket << 30; profile.topology.sockets as usize];
    paging::frames::Layout::pc(&sizes).end()
}
