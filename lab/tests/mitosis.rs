//! Page tables on every node, in whole systems: under the oracle, and seen from
//! where walks are served.

use lab::experiment::{self, Experiment};
use lab::outcome::Outcome;
use lab::{System, SystemError};
use machine::profile::Profile;
use std::ops::ControlFlow;

fn outcomes(systems: &[&str], workload: &str, accesses: u64, verify: bool) -> Vec<Outcome> {
    let experiment = Experiment {
        systems: systems.iter().map(|s| System::parse(s)).collect::<Result<_, SystemError>>().unwrap(),
        profile: Profile::builtin("haswell-ex").unwrap(),
        warmup: accesses / 2,
        accesses: Some(accesses),
        seed: 3,
        verify,
        threads: 0,
        layout: None,
    };
    let mut source = workloads::build(workload, 3).unwrap();
    experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Leaf entries of the process's table that came from remote memory, of those that came from memory.
fn remote_leaves(o: &Outcome, guest: bool) -> f64 {
    let cells = o.walks.grid.iter().filter(|c| if guest { c.guest == 1 && c.host == 0 } else { c.host == 1 });
    let (local, remote) = cells.fold((0, 0), |(l, r), c| (l + c.served.local, r + c.served.remote));
    assert!(local + remote > 0, "{}: no leaf entry came from memory", o.system);
    remote as f64 / (local + remote) as f64
}

#[test]
fn replicas_make_remote_walks_local() {
    let o = outcomes(
        &["native", "native+pt-node=1", "native+pt-node=1+mitosis", "native+pt-node=1+vmitosis"],
        "gups:footprint=4GiB",
        1_500_000,
        false,
    );
    let remote: Vec<f64> = o.iter().map(|o| remote_leaves(o, true)).collect();
    assert_eq!(remote[0], 0.0);
    assert_eq!(remote[1], 1.0);
    assert_eq!(remote[2], 0.0, "a copy on the node that walks");
    assert!(remote[3] < 0.5, "tables moved to their data at the first tick: {remote:?}");
    let cycles: Vec<u64> = o.iter().map(|o| o.cycles).collect();
    assert!(cycles[1] > cycles[0] * 101 / 100 && cycles[2] < cycles[0] * 101 / 100, "{cycles:?}");
    assert_eq!(o[2].tables.processes, 4 * o[0].tables.processes, "four copies, not five");
}

const SYSTEMS: [&str; 12] = [
    "native+mitosis",
    "native+mitosis=0,2+spread",
    "native+mitosis=lazy+spread",
    "native-thp+mitosis+numa-balancing+spread",
    "native+pt-node=3+numa-balancing+vmitosis+spread",
    "native+mitosis=auto+interference=1+pt-node=1",
    "native+mitosis+table-cache=32+spread",
    "nested+vnuma+spread",
    "nested+vnuma+mitosis+host-mitosis+spread",
    "nested-thp-4k+vnuma+mitosis=lazy+host-mitosis=lazy+spread",
    "nested+vnuma+pt-node=1+vmitosis+host-pt-node=2+host-vmitosis+interference=1:10",
    "shadow+host-mitosis+spread",
];

#[test]
fn every_placement_passes_the_oracle() {
    for workload in ["gups:footprint=64MiB,threads=4", "churn:footprint=16MiB,threads=4,period=200"] {
        for o in outcomes(&SYSTEMS, workload, 60_000, true) {
            assert!(o.verified >= Some(90_000), "{workload} under {}", o.system);
        }
    }
}
