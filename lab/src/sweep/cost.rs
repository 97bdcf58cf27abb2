//! What points take: a simple model, corrected by short probes.

use super::plan::{Plan, Point};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// What a point takes.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Cost {
    /// Seconds of one core.
    pub seconds: f64,
    /// Bytes of memory.
    pub bytes: u64,
}

/// What a probe of a point found.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Seconds until the world stood.
    pub build_seconds: f64,
    /// Accesses after that.
    pub accesses: u64,
    /// Seconds that they took.
    pub run_seconds: f64,
    /// Bytes of memory at most.
    pub bytes: u64,
}

/// The parts of a cost, to be corrected one by one.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Parts {
    build: f64,
    access: f64,
    bytes: f64,
}

/// Estimates of a plan's points.
#[derive(Debug)]
pub struct Costs<'a> {
    plan: &'a Plan,
    probes: Vec<(Point, Parts)>,
    /// The probe that is most like a cell (system, machine, input).
    nearest: std::cell::RefCell<FxHashMap<[u32; 3], Parts>>,
}

// The model without probes, native and in a VM. Memory as measured with `/usr/bin/time -f %M pagewalk run -n 10k -w
// gups:footprint=F -m M`, F of 64 MiB, 1 and 4 GiB, M sandy-bridge-en and haswell-ex: 16 bytes a page native, 32 nested, 48
// under shadow paging, 8 more for each further copy of the tables; here what four copies or shadow tables need. Time
// for random accesses, which are the slowest, on the machine that the project was made on. Probes correct all of it.
const WORLD_BYTES: [f64; 2] = [11e6, 16e6];
const BYTES_PER_CACHE_KIB: [f64; 2] = [245.0, 440.0];
const PAGE_BYTES: [f64; 2] = [40.0, 64.0];
const WORLD_SECONDS: f64 = 0.002;
const FILL_SECONDS: [f64; 2] = [60e-9, 400e-9];
const ACCESS_SECONDS: [f64; 2] = [120e-9, 350e-9];

impl<'a> Costs<'a> {
    /// Estimates without probes.
    pub fn new(plan: &'a Plan) -> Costs<'a> {
        Costs { plan, probes: Vec::new(), nearest: Default::default() }
    }

    /// Points to probe, at most so many: each system and each input as far as that goes, in an order in which the first few
    /// say most.
    pub fn worth_probing(&self, most: usize) -> Vec<Point> {
        let mut cells = FxHashMap::default();
        for point in &self.plan.points {
            cells.entry([point.system, point.input]).or_insert(*point);
        }
        let mut all: Vec<Point> = cells.into_values().collect();
        all.sort_by_key(|point| (point.input, point.system));
        let (mut systems, mut inputs) = (FxHashMap::<u32, u32>::default(), FxHashMap::<u32, u32>::default());
        let mut chosen = Vec::new();
        while chosen.len() < most && !all.is_empty() {
            // What was seen least comes next; where all is new, spread over the list.
            let seen = |point: &Point| {
                systems.get(&point.system).unwrap_or(&0) + inputs.get(&point.input).unwrap_or(&0)
            };
            let least = all.iter().map(seen).min().unwrap_or(0);
            let candidates: Vec<usize> = (0..all.len()).filter(|at| seen(&all[*at]) == least).collect();
            let at = candidates[(chosen.len() * 7919) % candidates.len()];
            let point = all.swap_remove(at);
            *systems.entry(point.system).or_default() += 1;
            *inputs.entry(point.input).or_default() += 1;
            chosen.push(point);
        }
        chosen
    }

    /// Takes what a probe of a point found.
    pub fn correct(&mut self, point: &Point, probe: &Probe) {
        let model = self.model(point, probe.accesses);
        let share = |found: f64, model: f64| if model > 0.0 && found > 0.0 { found / model } else { 1.0 };
        let parts = Parts {
            build: share(probe.build_seconds, model.build),
            access: share(probe.run_seconds, model.access),
            bytes: share(probe.bytes as f64, model.bytes),
        };
        self.probes.push((*point, parts));
        self.nearest.borrow_mut().clear();
    }

    /// The estimate for a point.
    pub fn of(&self, point: &Point) -> Cost {
        let model = self.model(point, self.plan.accesses(point));
        let cell = [point.system, point.machine, point.input];
        let mut nearest = self.nearest.borrow_mut();
        let by = nearest.entry(cell).or_insert_with(|| self.correction(point));
        Cost {
            seconds: model.build * by.build + model.access * by.access,
            bytes: (model.bytes * by.bytes) as u64,
        }
    }

    /// The model's own estimate for so many accesses of a point.
    pub fn of_first(&self, point: &Point, accesses: u64) -> Cost {
        let model = self.model(point, accesses.min(self.plan.accesses(point)));
        Cost { seconds: model.build + model.access, bytes: model.bytes as u64 }
    }

    fn correction(&self, point: &Point) -> Parts {
        let like = |other: &Point| {
            let head = |point: &Point| {
                let name = &self.plan.inputs[point.input as usize].name;
                name.split(':').next().unwrap_or_default().to_string()
            };
            let virtual_ = |point: &Point| self.plan.systems[point.system as usize].1.is_virtual();
            u32::from(point.input == other.input) * 4
                + u32::from(head(point) == head(other)) * 4
                + u32::from(point.system == other.system) * 3
                + u32::from(virtual_(point) == virtual_(other)) * 3
                + u32::from(point.machine == other.machine)
        };
        let nearest = self.probes.iter().rev().max_by_key(|(other, _)| like(other));
        nearest.map_or(Parts { build: 1.0, access: 1.0, bytes: 1.0 }, |(_, parts)| *parts)
    }

    fn model(&self, point: &Point, accesses: u64) -> Parts {
        let input = &self.plan.inputs[point.input as usize];
        let profile = &self.plan.machines[point.machine as usize];
        let kind = usize::from(self.plan.systems[point.system as usize].1.is_virtual());
        let filled = (input.filled / 4096) as f64;
        let pages = filled + (input.on_demand / 4096).min(accesses) as f64;
        let llc = (profile.cache.llc.kib * u64::from(profile.topology.sockets)) as f64;
        Parts {
            build: WORLD_SECONDS + filled * FILL_SECONDS[kind],
            access: accesses as f64 * ACCESS_SECONDS[kind],
            bytes: WORLD_BYTES[kind] + llc * BYTES_PER_CACHE_KIB[kind] + pages * PAGE_BYTES[kind],
        }
    }
}
