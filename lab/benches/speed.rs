//! Accesses per second and core, end to end: decoding or generating, TLBs,
//! walk caches, caches, walks, timing, counters and faults.
//!
//! `cargo bench -p lab --bench speed [-- NAME or WORKLOAD…]`. Prints the median and
//! the best of several rounds, in processor time of the thread that simulates, so
//! that other work on the machine counts less.

use lab::System;
use lab::experiment::{Experiment, plan};
use lab::world::World;
use machine::input::{Block, More, Setup, Source, SourceError};
use machine::profile::Profile;
use std::path::Path;

#[global_allocator]
static ALLOC: lab::huge::HugePages = lab::huge::HugePages;

/// What is asked of each: million accesses per second and core, native and nested.
const CASES: [(&str, &str, u64, f64, f64); 3] = [
    ("bfs", "../shared/samples/measured/bfs16.qemu16.xz", 2_000_000, 100.0, 90.0),
    ("gups", "gups:footprint=64GiB", 4_000_000, 8.0, 2.5),
    ("zipf", "zipf:footprint=16GiB", 4_000_000, 10.0, 4.0),
];

/// Rounds over the input that are timed.
const ROUNDS: usize = 9;

/// Blocks decoded beforehand, played again and again: the rate of the
/// simulation alone, as for one of many systems that one decoder feeds.
struct Replay {
    setup: Setup,
    blocks: Vec<Block>,
}

impl Replay {
    fn new(source: &mut dyn Source, accesses: u64) -> Result<Replay, SourceError> {
        let setup = source.setup()?;
        let (mut blocks, mut seen) = (Vec::new(), 0);
        while seen < accesses {
            let mut block = Block::new();
            let more = source.fill(&mut block)?;
            seen += block.accesses.len() as u64;
            blocks.push(block);
            if more == More::No {
                break;
            }
        }
        Ok(Replay { setup, blocks })
    }
}

fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn source(spec: &str) -> Option<Box<dyn Source>> {
    if spec.contains('/') {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(spec);
        if !path.exists() {
            println!("{spec}: SKIPPED: the measured samples are not here");
            return None;
        }
        return Some(trace::open(&path, &trace::OpenOptions::default()).expect("a readable sample"));
    }
    Some(workloads::build(spec, 1).expect("a known workload"))
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut cases = CASES.to_vec();
    if !only.is_empty() {
        cases.retain(|case| only.iter().any(|o| o == case.0));
        let others = only.iter().filter(|o| CASES.iter().all(|case| case.0 != o.as_str()));
        cases.extend(others.map(|spec| (spec.as_str(), spec.as_str(), 4_000_000, f64::NAN, f64::NAN)));
    }
    for (name, spec, accesses, native, nested) in cases {
        let Some(mut source) = source(spec) else { continue };
        let replay = Replay::new(&mut *source, accesses).expect("a readable input");
        for (system, wanted) in [("native", native), ("nested", nested)] {
            let system = System::parse(system).expect("a preset");
            let profile = Profile::builtin("haswell-ex").expect("a built-in profile");
            let plan =
                plan(&Experiment::new(profile, [system]), system, &replay.setup).expect("a system that fits");
            let start = cpu_time();
            let mut world = World::new(plan, &replay.setup).expect("enough memory");
            let setup = cpu_time() - start;
            let round = |world: &mut World| {
                let start = cpu_time();
                for block in &replay.blocks {
                    world.run(block).expect("a run without errors");
                }
                let n: usize = replay.blocks.iter().map(|b| b.accesses.len()).sum();
                n as f64 / (cpu_time() - start) / 1e6
            };
            round(&mut world);
            let mut rates: Vec<f64> = (0..ROUNDS).map(|_| round(&mut world)).collect();
            rates.sort_by(f64::total_cmp);
            let median = rates[ROUNDS / 2];
            println!(
                "{name:5} {system:7} median {median:6.1}, best {:6.1} M accesses/s ({:5.1} ns); asked for: {wanted:5.1}; set-up {setup:.2} s",
                rates[ROUNDS - 1],
                1000.0 / median,
            );
        }
    }
}
