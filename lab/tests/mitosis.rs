//! Page tables on every node, in whole systems: under the oracle, and seen from
//! where walks are served.

use lab::System;
use lab::experiment::{self, DumpTables, Experiment};
use lab::figures::{self, MITOSIS_FIGURES, Options, VMITOSIS_FIGURES};
use lab::outcome::Outcome;
use lab::world::TableDump;
use machine::profile::Profile;
use std::ops::ControlFlow;

fn experiment(systems: &[&str], accesses: u64, verify: bool) -> Experiment {
    Experiment {
        warmup: accesses / 2,
        accesses: Some(accesses),
        seed: 3,
        verify,
        ..Experiment::new(
            Profile::builtin("haswell-ex").unwrap(),
            systems.iter().map(|s| System::parse(s).unwrap()),
        )
    }
}

fn outcomes(systems: &[&str], workload: &str, accesses: u64, verify: bool) -> Vec<Outcome> {
    let experiment = experiment(systems, accesses, verify);
    let mut source = workloads::build(workload, 3).unwrap();
    experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_shadow_table_is_placed_copied_and_moved() {
    let systems = ["L", "R", "RIM"].map(|config| figures::shadow(config).unwrap().to_string());
    let systems: Vec<&str> =
        systems.iter().map(String::as_str).chain(["shadow+host-pt-node=1+host-mitosis"]).collect();
    let experiment = Experiment { warmup: 0, ..experiment(&systems, 1_400_000, false) };
    let mut source = workloads::build("gups:footprint=512MiB", 3).unwrap();
    let o = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap();
    // Each of the 16384 lines of entries misses the caches once; when tables moved, at the
    // first tick (2^20 accesses), once more.
    let remote: Vec<u64> = o.iter().map(|o| o.walks.total.remote).collect();
    assert_eq!((remote[0], remote[3]), (0, 0), "{remote:?}");
    assert!(remote[1] > 16_000 && remote[2].abs_diff(remote[1]) < 100, "{remote:?}");
    let local: Vec<u64> = o.iter().map(|o| o.walks.total.local).collect();
    assert!(local[1] == 0 && local[2] > 10_000, "{local:?}");
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

#[test]
fn an_oblivious_guest_keeps_tables_near_its_cpus() {
    let systems = [
        "nested+spread",
        "nested+mitosis=no-p+host-mitosis+spread",
        "nested+mitosis=no-f+host-mitosis+spread",
        "nested-4k-thp+mitosis=no-f+host-mitosis+spread",
        "nested+vnuma+mitosis+host-mitosis+spread",
    ];
    let mut experiment = experiment(&systems, 20_000, false);
    experiment.dump_tables = Some(DumpTables::default());
    // Two CPUs a socket: NO-F must find the pairs.
    let mut source = workloads::build("gups:footprint=64MiB,threads=8", 3).unwrap();
    let outcomes = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap();
    for o in &outcomes {
        let [guest, vm] = o.table_dumps.as_slice() else { panic!("{}: a process and a VM", o.system) };
        for dump in [guest, vm] {
            let remote: Vec<f64> = dump.walkers.iter().map(|w| w.remote_share).collect();
            if o.system == "nested+spread" {
                assert!(remote.iter().sum::<f64>() > 2.0, "four sockets share a table: {remote:?}");
            } else {
                assert_eq!(remote, [0.0; 4], "{}, {}", o.system, dump.of);
            }
        }
    }
}

#[test]
fn dumps_say_where_tables_are_and_what_changed() {
    let systems = ["native+pt-node=1+vmitosis", "nested+mitosis=no-f+host-mitosis+spread"];
    let mut experiment = experiment(&systems, 1_500_000, false);
    experiment.dump_tables = Some(DumpTables { every: Some(1_000_000) });
    let mut source = workloads::build("gups:footprint=64MiB,threads=4", 3).unwrap();
    let o = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap();
    let pages = |dump: &TableDump, level: usize| -> Vec<u64> {
        dump.tables[level - 1].sockets.iter().map(|s| s.pages).collect()
    };
    let native = &o[0].table_dumps;
    assert_eq!(native.iter().map(|d| d.after).collect::<Vec<_>>().len(), 3, "at 1 M, 2 M and the end");
    // 64 MiB and a page are 33 leaf tables, on node 1 until the first tick after 2^20 accesses.
    assert_eq!(pages(&native[0], 1)[0], 0);
    let moved = pages(&native[0], 1)[1];
    assert!(moved >= 32);
    assert_eq!(pages(&native[1], 1), [moved, 0, 0, 0]);
    let leaves = &native[1].tables[0].sockets;
    assert_eq!((leaves[0].added, leaves[1].removed), (moved, moved));
    assert!(native[0].walkers[0].remote_share == 1.0 && native[1].walkers[0].remote_share == 0.0);
    assert_eq!(native[0].tables[0].sockets[1].to[0], native[0].walkers[0].remote_local);
    let nested = &o[1].table_dumps;
    assert_eq!(nested.last().unwrap().of, "the VM");
    for dump in nested.iter() {
        let leaves = pages(dump, 1);
        assert!(leaves[0] > 0 && leaves.iter().all(|n| *n == leaves[0]), "{}: {leaves:?}", dump.of);
        assert!(dump.walkers.iter().all(|w| w.remote_share == 0.0), "{}", dump.text);
    }
    let json = serde_json::to_string(&o[0]).unwrap();
    assert!(json.contains("\"table_dumps\":[{\"of\":\"process 0\""));
}

#[test]
fn dumps_show_what_the_hardware_walks_under_shadow_paging_too() {
    for system in ["shadow+spread", "shadow+host-pt-node=1", "agile"] {
        let mut experiment = experiment(&[system], 20_000, false);
        experiment.dump_tables = Some(DumpTables::default());
        let mut source = workloads::build("gups:footprint=16MiB", 3).unwrap();
        let o = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap();
        let of: Vec<&str> = o[0].table_dumps.iter().map(|dump| dump.of.as_str()).collect();
        assert_eq!(of, ["process 0", "the shadow of process 0", "the VM"], "{system}");
        let shadow = &o[0].table_dumps[1];
        let pages: u64 = shadow.tables.iter().flat_map(|level| &level.sockets).map(|s| s.pages).sum();
        assert_eq!(pages * 4096, o[0].tables.shadow, "{system}");
        let leaves: u64 = shadow.data.iter().flat_map(|kind| &kind.pages).sum();
        assert!(leaves >= 4096 || system == "agile", "{system}: {leaves} of 4096 pages");
    }
}

#[test]
fn figures_run_at_small_footprints_under_the_oracle() {
    for figure in MITOSIS_FIGURES.iter().chain(&VMITOSIS_FIGURES) {
        let workloads = [figure.loads[0].name.to_string()];
        let options =
            Options { workloads: &workloads, divide: 1024, fewer: 200, verify: true, ..Options::default() };
        let cells = figures::run(figure, &options, &|_, _, _| {}).unwrap();
        let rows = figure.measured().filter(|row| row.workload == workloads[0]).count();
        assert_eq!(cells.len(), rows, "{}", figure.names[0]);
        assert!(cells.iter().all(|c| c.cycles_per_access > 0.0 && c.model.is_finite()));
    }
}

const SYSTEMS: [&str; 16] = [
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
    "shadow-thp-thp+host-mitosis=lazy+spread",
    "shadow+vnuma+host-pt-node=1+host-vmitosis+spread",
    "nested+mitosis=no-p+host-mitosis+spread",
    "nested-4k-thp+mitosis=no-f+host-mitosis=lazy+spread",
];

#[test]
fn every_placement_passes_the_oracle() {
    for workload in ["gups:footprint=64MiB,threads=4", "churn:footprint=16MiB,threads=4,period=200"] {
        for o in outcomes(&SYSTEMS, workload, 60_000, true) {
            assert!(o.verified >= Some(90_000), "{workload} under {}", o.system);
        }
    }
}
