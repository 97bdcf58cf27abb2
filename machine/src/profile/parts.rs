//! From a checked profile to what the structures are built from.

use super::format::{
    CacheSpec, Cost, Dimension, NestedTlb, Policy, Profile, TlbSpec, Trust, WalkCacheSpec, Ways,
};
use crate::numa::MemorySpec;
use crate::set::{Geometry, Replacement};
use crate::tlb::TlbArray;
use crate::walkcache::{NestedTlbArray, WalkCacheArray};
use paging::frames::Layout;

/// Seed of structures whose replacement is random: profiles are deterministic.
const SEED: u64 = 0x70_61_67_65;

/// A table of a profile and where its numbers are from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact<'a> {
    /// Where in the profile.
    pub key: String,
    /// Its numbers, as text.
    pub numbers: String,
    /// Where they are from.
    pub source: &'a str,
    /// How far to trust them.
    pub trust: Trust,
}

/// Entries and ways as sets and ways; `None` if they do not fit each other.
pub(super) fn geometry(entries: u64, ways: Ways) -> Option<Geometry> {
    let entries = usize::try_from(entries).ok()?;
    let ways = match ways {
        Ways::Number(ways) => usize::try_from(ways).ok()?,
        Ways::Full => entries,
        Ways::Unknown => return None,
    };
    Geometry::of(entries, ways)
}

/// Of a checked profile.
fn checked(entries: u64, ways: Ways) -> Geometry {
    geometry(entries, ways).expect("a checked profile")
}

impl Policy {
    /// As the structures know it.
    pub fn replacement(self) -> Replacement {
        match self {
            Policy::Lru => Replacement::Lru,
            Policy::TreePlru => Replacement::TreePlru,
            Policy::Random => Replacement::Random { seed: SEED },
        }
    }
}

impl TlbSpec {
    /// As the structures know it.
    pub fn array(&self) -> TlbArray {
        TlbArray {
            sizes: self.sizes.clone(),
            geometry: checked(self.entries, self.ways),
            replacement: self.replacement.replacement(),
        }
    }
}

impl WalkCacheSpec {
    /// As the structures know it.
    pub fn array(&self) -> WalkCacheArray {
        WalkCacheArray {
            levels: self.levels.clone(),
            geometry: checked(self.entries, self.ways),
            replacement: self.replacement.replacement(),
        }
    }
}

impl NestedTlb {
    /// As the structures know it.
    pub fn array(&self) -> NestedTlbArray {
        NestedTlbArray {
            geometry: checked(self.entries, self.ways),
            replacement: self.replacement.replacement(),
        }
    }
}

impl CacheSpec {
    /// Sets and ways.
    pub fn geometry(&self) -> Geometry {
        checked(self.kib * 16, self.ways)
    }
}

fn arrays(specs: &[TlbSpec]) -> Vec<TlbArray> {
    specs.iter().map(TlbSpec::array).collect()
}

impl Profile {
    /// Arrays of the first-level data TLB.
    pub fn l1d_tlb(&self) -> Vec<TlbArray> {
        arrays(&self.tlb.l1d)
    }
    /// Arrays of the first-level instruction TLB.
    pub fn l1i_tlb(&self) -> Vec<TlbArray> {
        arrays(&self.tlb.l1i)
    }
    /// Arrays of the second-level TLB.
    pub fn stlb(&self) -> Vec<TlbArray> {
        arrays(&self.tlb.stlb.array)
    }
    /// Page-walk caches of one dimension.
    pub fn walk_caches(&self, dimension: Dimension) -> Vec<WalkCacheArray> {
        let of = |spec: &&WalkCacheSpec| spec.dimensions.contains(&dimension);
        self.walk_cache.iter().filter(of).map(WalkCacheSpec::array).collect()
    }

    /// Cores of all sockets.
    pub fn cores(&self) -> u32 {
        self.topology.sockets * self.topology.cores_per_socket
    }

    /// Instructions per hundred cycles while no access is slow.
    pub fn ipc_hundredths(&self) -> u32 {
        (self.pipeline.ipc * 100.0).round() as u32
    }

    /// Picoseconds between each pair of sockets, `[from][to]`.
    fn latency_ps(&self) -> Vec<Vec<u64>> {
        let latency = &self.memory.latency;
        let sockets = self.topology.sockets as usize;
        let picoseconds = |ns: f64| (ns * 1000.0).round() as u64;
        match &latency.matrix_ns {
            Some(matrix) => {
                matrix.iter().map(|row| row.iter().map(|ns| picoseconds(*ns)).collect()).collect()
            }
            None => (0..sockets)
                .map(|from| {
                    let of = |to| {
                        if from == to { latency.local_ns } else { latency.remote_ns.unwrap_or_default() }
                    };
                    (0..sockets).map(|to| picoseconds(of(to))).collect()
                })
                .collect(),
        }
    }

    /// What its memory is made of.
    pub fn memory_spec(&self) -> MemorySpec {
        let mb_s = |gb_s: f64| (gb_s * 1000.0).round() as u64;
        let bandwidth = &self.memory.bandwidth;
        MemorySpec {
            latency_ps: self.latency_ps(),
            node_mb_s: mb_s(bandwidth.node_gb_s),
            link_mb_s: mb_s(bandwidth.link_gb_s.unwrap_or(bandwidth.node_gb_s)),
            bank_ps: (self.memory.loaded.bank_ns * 1000.0).round() as u64,
            lines_under_way: self.memory.loaded.lines_per_core * u64::from(self.topology.cores_per_socket),
        }
    }

    /// Where its physical memory lies, with the distances that a firmware would
    /// state: latencies relative to local, in tenths.
    pub fn layout(&self) -> Layout {
        let sockets = self.topology.sockets as usize;
        let mut layout = Layout::pc(&vec![self.topology.gib_per_socket << 30; sockets]);
        let latency = self.latency_ps();
        for (from, row) in layout.distances.iter_mut().enumerate() {
            for (to, distance) in row.iter_mut().enumerate() {
                let tenths = (latency[from][to] * 10 + latency[from][from] / 2) / latency[from][from];
                *distance = if from == to { 10 } else { tenths.clamp(11, 254) as u8 };
            }
        }
        layout
    }

    /// Every table of the profile with its source, in the order of the file.
    pub fn facts(&self) -> Vec<Fact<'_>> {
        let mut facts = Vec::new();
        let mut add = |key: &str, numbers: String, source, trust| {
            facts.push(Fact { key: key.into(), numbers, source, trust });
        };
        let Profile { clock, topology, pipeline, walker, tlb, memory, .. } = self;
        add("clock", format!("{} MHz", clock.mhz), &clock.source, clock.trust);
        let numbers = format!(
            "{} sockets, {} cores and {} GiB each",
            topology.sockets, topology.cores_per_socket, topology.gib_per_socket
        );
        add("topology", numbers, &topology.source, topology.trust);
        let numbers = format!("IPC {}, ROB {}, {} L1D misses", pipeline.ipc, pipeline.rob, pipeline.mshr);
        add("pipeline", numbers, &pipeline.source, pipeline.trust);
        let numbers = format!(
            "{} walkers, loads enter at {:?}, walk caches {} cycles, checks {} cycles",
            walker.walkers, walker.enters, walker.walk_cache_cycles, walker.check_cycles
        );
        add("walker", numbers, &walker.source, walker.trust);
        for (key, specs) in
            [("tlb.l1d", &tlb.l1d), ("tlb.l1i", &tlb.l1i), ("tlb.stlb.array", &tlb.stlb.array)]
        {
            for spec in specs {
                let sizes: Vec<_> = spec.sizes.iter().map(ToString::to_string).collect();
                let numbers = format!("{}: {}", sizes.join(", "), entries(spec.entries, spec.ways));
                add(key, numbers, &spec.source, spec.trust);
            }
        }
        add("tlb.stlb", format!("{} cycles", tlb.stlb.cycles), &tlb.stlb.source, tlb.stlb.trust);
        for spec in &self.walk_cache {
            let numbers = format!(
                "levels {:?} of {:?}: {}",
                spec.levels,
                spec.dimensions,
                entries(spec.entries, spec.ways)
            );
            add("walk_cache", numbers, &spec.source, spec.trust);
        }
        if let Some(nested) = &self.nested_tlb {
            add("nested_tlb", entries(nested.entries, nested.ways), &nested.source, nested.trust);
        }
        for (key, spec) in self.caches() {
            let numbers = format!("{} KiB, {} ways, {} cycles", spec.kib, spec.geometry().ways, spec.cycles);
            add(key, numbers, &spec.source, spec.trust);
        }
        let latency = &memory.latency;
        let numbers = format!("{:?} ps", self.latency_ps());
        add("memory.latency", numbers, &latency.source, latency.trust);
        let bandwidth = &memory.bandwidth;
        let link = bandwidth.link_gb_s.map(|link| format!(", link {link} GB/s")).unwrap_or_default();
        let numbers = format!("node {} GB/s{link}", bandwidth.node_gb_s);
        add("memory.bandwidth", numbers, &bandwidth.source, bandwidth.trust);
        let loaded = &memory.loaded;
        let numbers = format!("bank {} ns, {} lines a core", loaded.bank_ns, loaded.lines_per_core);
        add("memory.loaded", numbers, &loaded.source, loaded.trust);
        for (key, cost) in self.costs() {
            add(key, format!("{} cycles", cost.cycles), &cost.source, cost.trust);
        }
        facts
    }

    /// The caches by key.
    pub(super) fn caches(&self) -> [(&'static str, &CacheSpec); 4] {
        let cache = &self.cache;
        [
            ("cache.l1d", &cache.l1d),
            ("cache.l1i", &cache.l1i),
            ("cache.l2", &cache.l2),
            ("cache.llc", &cache.llc),
        ]
    }

    /// The costs by key.
    pub(super) fn costs(&self) -> [(&'static str, &Cost); 11] {
        let cost = &self.cost;
        [
            ("cost.syscall", &cost.syscall),
            ("cost.page_fault", &cost.page_fault),
            ("cost.vm_exit", &cost.vm_exit),
            ("cost.hypercall", &cost.hypercall),
            ("cost.context_switch", &cost.context_switch),
            ("cost.shootdown", &cost.shootdown),
            ("cost.shootdown_core", &cost.shootdown_core),
            ("cost.shootdown_target", &cost.shootdown_target),
            ("cost.invalidate_page", &cost.invalidate_page),
            ("cost.zero_page", &cost.zero_page),
            ("cost.copy_page", &cost.copy_page),
        ]
    }
}

fn entries(entries: u64, ways: Ways) -> String {
    match ways {
        Ways::Full => format!("{entries} entries, fully associative"),
        _ => format!("{entries} entries, {} ways", checked(entries, ways).ways),
    }
}
