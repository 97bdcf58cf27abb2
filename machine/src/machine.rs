//! A whole machine: cores, what they share, and what software can ask of it.

use crate::cache::Cache;
use crate::core::{Core, Latencies};
use crate::metrics::Counters;
use crate::numa::Memory;
use crate::profile::{CacheSpec, Dimension, NestedTlb, Profile, WalkerEntry};
use crate::timing::{TICKS, Ticks, Timing, Window};
use crate::tlb::Tlb;
use crate::uncore::Uncore;
use crate::walkcache::WalkCaches;
use paging::frames::CpuId;
use paging::{Gpa, NodeId, Reach, TlbTag, Va};

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine<T: TlbTag> {
    /// Its cores.
    pub cores: Vec<Core<T>>,
    /// What they share.
    pub uncore: Uncore,
}

/// What the walks of one core can change, set aside.
#[derive(Debug)]
pub struct Saved<T: TlbTag> {
    core: Core<T>,
    llc: Cache,
    memory: Memory,
}

/// Which addresses something concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope<'a> {
    /// All of a space.
    All,
    /// These runs of (first address, bytes).
    Ranges(&'a [(u64, u64)]),
}

/// Whose cached translations something concerns.
#[derive(Debug)]
pub struct Whose<'a, T: TlbTag> {
    /// The registers of the space.
    pub context: &'a T::Context,
    /// Those of every space concerned: each knows its pages by addresses of its own.
    pub contexts: &'a [T::Context],
    /// Whose besides, of those that have the same TLB key.
    pub reach: Reach,
    /// What walk caches call the spaces concerned.
    pub spaces: &'a [u16],
}

impl<T: TlbTag> Machine<T> {
    /// A machine at rest: the profile's memory, and one core for each of `cores`,
    /// on that node.
    pub fn new(profile: &Profile, cores: &[NodeId]) -> Machine<T> {
        let layout = profile.layout();
        let cycles = |cycles: u32| u64::from(cycles) * TICKS;
        let latencies = Latencies {
            l1: cycles(profile.cache.l1d.cycles),
            l2: cycles(profile.cache.l2.cycles),
            llc: cycles(profile.cache.llc.cycles),
            stlb: cycles(profile.tlb.stlb.cycles),
            walk_cache: cycles(profile.walker.walk_cache_cycles),
            check: cycles(profile.walker.check_cycles),
        };
        let window = Window {
            ipc_hundredths: profile.ipc_hundredths(),
            rob: profile.pipeline.rob,
            mshr: profile.pipeline.mshr,
            walkers: profile.walker.walkers,
        };
        let cache = |spec: &CacheSpec| Cache::new(spec.geometry(), spec.replacement.replacement());
        let nested = profile.nested_tlb.as_ref().map(NestedTlb::array);
        let skips_l1 = profile.walker.enters == WalkerEntry::L2;
        let core = |(number, node): (usize, &NodeId)| {
            Core::new(
                CpuId(number as u16),
                *node,
                Timing::new(window),
                [
                    Tlb::new(&profile.l1d_tlb(), false),
                    Tlb::new(&profile.l1i_tlb(), false),
                    Tlb::new(&profile.stlb(), profile.tlb.stlb.fracture),
                ],
                WalkCaches::new(
                    &profile.walk_caches(Dimension::Guest),
                    &profile.walk_caches(Dimension::Host),
                    nested.as_ref(),
                ),
                [cache(&profile.cache.l1d), cache(&profile.cache.l1i), cache(&profile.cache.l2)],
                latencies,
                skips_l1,
            )
        };
        let cores = cores.iter().enumerate().map(core).collect();
        // One node a socket, and one last-level cache.
        let llc = (0..profile.topology.sockets).map(|_| cache(&profile.cache.llc)).collect();
        let memory = Memory::new(&profile.memory_spec(), &layout, profile.clock.mhz, TICKS);
        Machine { cores, uncore: Uncore { llc, memory } }
    }

    /// Pages of a process are no longer to be translated as before, on one core.
    /// `tables`: table pages went too.
    pub fn invalidate(&mut self, cpu: CpuId, whose: &Whose<'_, T>, scope: Scope<'_>, tables: bool) {
        let core = &mut self.cores[cpu.index()];
        let Scope::Ranges(ranges) = scope else {
            core.forget(whose);
            return;
        };
        let key = T::key(whose.context);
        let which = |tag: &T| tag.invalidated(whose.context, whose.reach);
        for &(start, len) in ranges {
            core.stlb.invalidate(key, Va::new(start), len, which);
            // The first level knows pages by the addresses of the processes themselves.
            for context in whose.contexts {
                T::own_ranges(context, start, len, &mut |start, len| {
                    for tlb in [&mut core.l1d_tlb, &mut core.l1i_tlb] {
                        tlb.invalidate(key, Va::new(start), len, which);
                    }
                });
            }
            if tables {
                for space in whose.spaces {
                    core.walk_caches.invalidate(*space, Va::new(start), len);
                }
            }
        }
    }

    /// A VM's table changed, on one core: everything derived from it goes.
    /// TLBs hold no guest-physical address to choose by, so every entry of the
    /// VM's spaces goes from them, as with a single-context INVEPT.
    pub fn invalidate_vm(&mut self, cpu: CpuId, vm: u16, scope: Scope<'_>, of_vm: impl Fn(u16) -> bool) {
        let core = &mut self.cores[cpu.index()];
        for tlb in [&mut core.l1d_tlb, &mut core.l1i_tlb, &mut core.stlb] {
            tlb.flush_where(|space, _| of_vm(space));
        }
        match scope {
            Scope::All => {
                core.walk_caches.flush_vm(vm);
            }
            Scope::Ranges(ranges) => {
                for &(start, len) in ranges {
                    core.walk_caches.invalidate_host(vm, Gpa::new(start), len);
                }
            }
        }
    }

    /// Sets aside what walks of one core can change.
    pub fn save(&self, cpu: CpuId) -> Saved<T> {
        let core = self.cores[cpu.index()].clone();
        let llc = self.uncore.llc[core.path.socket].clone();
        Saved { core, llc, memory: self.uncore.memory.clone() }
    }

    /// Makes it as it was.
    pub fn restore(&mut self, cpu: CpuId, saved: &Saved<T>) {
        let core = &mut self.cores[cpu.index()];
        core.clone_from(&saved.core);
        self.uncore.llc[core.path.socket].clone_from(&saved.llc);
        self.uncore.memory.clone_from(&saved.memory);
    }

    /// Cores' counters added up.
    pub fn counters(&self) -> Counters {
        self.cores.iter().fold(Counters::default(), |mut sum, core| {
            sum.add(&core.counters);
            sum
        })
    }

    /// How long a cache line takes from one core to another: from the last-level
    /// cache that they share, or over the link between their sockets.
    pub fn line_transfer(&self, from: CpuId, to: CpuId) -> Ticks {
        let (from, to) = (&self.cores[from.index()], &self.cores[to.index()]);
        let shared = to.path.latencies.llc;
        if from.path.socket == to.path.socket {
            shared
        } else {
            self.uncore.memory.unloaded(from.path.node, to.path.node).max(shared)
        }
    }

    /// Software runs on a core for `ticks`.
    pub fn spend(&mut self, cpu: CpuId, ticks: Ticks) {
        self.cores[cpu.index()].timing.serialize(ticks);
    }
}

impl<T: TlbTag> Core<T> {
    /// Forgets what the TLBs and the walk caches hold of an address space.
    pub fn forget(&mut self, whose: &Whose<'_, T>) {
        let space = T::key(whose.context);
        for tlb in [&mut self.l1d_tlb, &mut self.l1i_tlb, &mut self.stlb] {
            tlb.flush_where(|key, tag| key == space && tag.invalidated(whose.context, whose.reach));
        }
        for space in whose.spaces {
            self.walk_caches.flush_space(*space);
        }
    }
}
