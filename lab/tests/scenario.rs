//! Programs side by side in time, under the oracle.

use lab::System;
use lab::experiment::{self, Experiment};
use lab::scenario::{Scenario, ScenarioError};
use lab::world::World;
use machine::profile::Profile;
use paging::frames::CpuId;
use workloads::Together;

fn begin(system: &str, spec: &str) -> (Scenario, World) {
    let (scenario, setup) = Scenario::new(Together::parse(spec, 3).unwrap()).unwrap();
    let (profile, system) = (Profile::builtin("broadwell").unwrap(), System::parse(system).unwrap());
    let experiment = Experiment { seed: 3, verify: true, ..Experiment::new(profile, [system]) };
    (scenario, experiment::world(&experiment, system, &setup).unwrap())
}

const SPEC: &str = "pagerank:footprint=8MiB,threads=2 + inference:tensor=256KiB,weights=1MiB,threads=2 + \
                    churn:operation=discard,footprint=1MiB,mapping=64KiB,period=50";

#[test]
fn clocks_stay_together_and_every_access_is_checked() {
    for system in ["nested", "nested+ptemagnet", "native+ptemagnet=32"] {
        let (mut scenario, mut world) = begin(system, SPEC);
        let mut made = 0;
        while made < 40_000 {
            let (_, accesses) = scenario.turn(&mut world, 0..3).unwrap().unwrap();
            made += accesses;
        }
        assert!(world.verified() >= Some(made), "{system}");
        let clocks: Vec<u64> = (0..5).map(|cpu| world.clock(CpuId(cpu))).collect();
        let (least, most) = (clocks.iter().min().unwrap(), clocks.iter().max().unwrap());
        // A turn of faults and a system call is what they may be apart.
        assert!(most - least < 400_000, "{system}: {clocks:?}");
    }
}

#[test]
fn reservations_keep_lines_together_where_neighbours_scatter_them() {
    let lines = |system: &str| {
        let (mut scenario, mut world) = begin(system, SPEC);
        // The others go ahead; then the benchmark fills its pages.
        while world.clock(CpuId(2)) < 20_000_000 {
            scenario.turn(&mut world, 1..3).unwrap().unwrap();
        }
        (0..2).for_each(|cpu| world.idle_until(CpuId(cpu), 20_000_000));
        let mut left = scenario.filling()[0] as i64 + 2048;
        while left > 0 {
            let (thread, accesses) = scenario.turn(&mut world, 0..3).unwrap().unwrap();
            left -= if thread < 2 { accesses as i64 } else { 0 };
        }
        world.host_lines_of(0).unwrap().unwrap()
    };
    let (without, with) = (lines("nested"), lines("nested+ptemagnet"));
    assert!(without.mean_whole() > 1.5, "{without:?}");
    assert!(with.mean_whole() < 1.01, "{with:?}");
}

#[test]
fn a_program_that_forks_is_refused() {
    let (mut scenario, mut world) =
        begin("nested", "churn:operation=fork,footprint=1MiB,mapping=64KiB,period=10");
    let error = loop {
        match scenario.turn(&mut world, 0..1) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ScenarioError::Source(e) if e.reason.contains("core of its own")));
}
