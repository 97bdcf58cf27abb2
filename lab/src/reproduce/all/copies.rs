//! What copies of page tables cost: memory, and operations on areas; and where entries are without copies.

use super::super::sheet::{Row, Unit};
use super::super::{built, builtin, fresh_world};
use crate::experiment::ExperimentError;
use crate::figures::Load;
use machine::input::{Block, Event, Permissions, Populate, ProcessSetup, Region, Setup, ThreadSetup};
use machine::profile::Profile;
use paging::Va;

/// Where the areas are.
const START: u64 = 0x7000_0000_0000;

fn one_process(regions: Vec<Region>) -> Setup {
    let process = ProcessSetup { name: "operations".to_string(), regions, ..ProcessSetup::default() };
    Setup {
        more_threads: false,
        name: "operations on areas".to_string(),
        processes: vec![process],
        threads: vec![ThreadSetup { process: 0 }],
        accesses: None,
    }
}

/// Cycles of `mmap` with all pages filled, `mprotect` and `munmap` of so many bytes.
fn operations(
    profile: &Profile,
    system: &str,
    bytes: u64,
    shared: bool,
) -> Result<[f64; 3], ExperimentError> {
    // A neighbour keeps the upper tables, as in a process with other areas.
    let neighbour = Region::anonymous("neighbour", START + bytes, 1 << 21, Populate::By(0));
    let mut world = fresh_world(profile, system, &one_process(vec![neighbour]))?;
    let mut region = Region::anonymous("area", START, bytes, Populate::By(0));
    if shared {
        region.backing = machine::input::Backing::SharedAnonymous;
    }
    let (start, len) = (Va::new(START), bytes);
    let events = [
        Event::Map { process: 0, region },
        Event::Protect { process: 0, start, len, permissions: Permissions::READ },
        Event::Unmap { process: 0, start, len },
    ];
    let mut cycles = [0.0; 3];
    // Once before it counts: lists of free pages are filled.
    for _ in 0..2 {
        for (event, cycles) in events.iter().zip(&mut cycles) {
            let before = world.spent().cycles;
            let block = Block { accesses: Vec::new(), events: vec![event.clone()] };
            world.run(&block).map_err(|error| ExperimentError::input(system, error))?;
            *cycles = (world.spent().cycles - before) as f64;
        }
    }
    Ok(cycles)
}

/// Mitosis, table 5: four nodes against none, private and shared areas, by operation and size; and vMitosis's worst call.
const TABLE_5: [(&str, bool, [[f64; 3]; 3]); 2] = [
    ("private", false, [[1.07, 1.09, 1.05], [1.22, 4.27, 4.33], [1.07, 1.52, 1.58]]),
    ("shared", true, [[1.05, 1.38, 1.39], [1.20, 4.27, 4.33], [1.12, 2.07, 2.19]]),
];
const SIZES: [(&str, u64); 3] = [("4 KiB", 1 << 12), ("8 MiB", 8 << 20), ("4 GiB", 4 << 30)];
const OPERATIONS: [&str; 3] = ["mmap, filled", "mprotect", "munmap"];

/// What copies cost operations on areas.
///
/// # Errors
/// [`ExperimentError`].
pub fn costs() -> Result<Vec<Row>, ExperimentError> {
    let profile = builtin("haswell-ex")?;
    let mut rows = Vec::new();
    for (kind, shared, paper) in TABLE_5 {
        for (column, (size, bytes)) in SIZES.into_iter().enumerate() {
            let off = operations(&profile, "native", bytes, shared)?;
            let on = operations(&profile, "native+mitosis", bytes, shared)?;
            rows.extend((0..3).map(|op| {
                let what = format!("{} {size}, {kind}: cycles with four copies", OPERATIONS[op]);
                let group = format!("{size} {kind}");
                Row::new(group, what, Unit::Ratio, (paper[op][column], "F:AE-M"), on[op] / off[op])
            }));
        }
    }
    Ok(rows)
}

/// `mprotect` of 4 MiB in a VM with copies of both tables: throughput, as a share of that without.
///
/// # Errors
/// [`ExperimentError`].
pub fn costs_in_a_vm() -> Result<Vec<Row>, ExperimentError> {
    let profile = builtin("cascade-lake")?;
    let off = operations(&profile, "nested+vnuma", 4 << 20, false)?;
    let on = operations(&profile, "nested+vnuma+mitosis+host-mitosis", 4 << 20, false)?;
    let what = "mprotect 4 MiB, copies of both tables: calls a second";
    Ok(vec![Row::new("operations", what, Unit::Ratio, (0.28, "F:KW"), off[1] / on[1])])
}

/// Bytes of tables of a system over `bytes` of data.
fn tables(profile: &Profile, system: &str, bytes: u64) -> Result<f64, ExperimentError> {
    let region = Region::anonymous("data", START, bytes, Populate::By(0));
    Ok(fresh_world(profile, system, &one_process(vec![region]))?.table_bytes().total() as f64)
}

/// Mitosis, table 4: bytes with so many copies over bytes with one; and the talk's table pages.
const TABLE_4: [(&str, u64, [f64; 3]); 2] =
    [("1 MiB", 1 << 20, [1.015, 1.046, 1.108]), ("1 GiB", 1 << 30, [1.002, 1.006, 1.014])];
const COPIES: [(u64, &str); 3] =
    [(2, "native+mitosis=0-1"), (4, "native+mitosis=0-3"), (8, "native+mitosis=0-7")];
/// A large working set stands for the talk's 400 GB, as all is proportional to it.
const LARGE: u64 = 32 << 30;

/// What copies take of memory.
///
/// # Errors
/// [`ExperimentError`].
pub fn memory() -> Result<Vec<Row>, ExperimentError> {
    let mut eight = builtin("haswell-ex")?;
    eight.topology.sockets = 8;
    let mut rows = Vec::new();
    for (size, data, paper) in TABLE_4 {
        let one = tables(&eight, "native", data)?;
        for ((copies, system), paper) in COPIES.into_iter().zip(paper) {
            let with = (data as f64 + tables(&eight, system, data)?) / (data as f64 + one);
            let what = format!("{size} of data, {copies} copies: memory over that with one");
            rows.push(Row::new("memory", what, Unit::Mean, (paper, "M-m"), with));
        }
    }
    let four = builtin("haswell-ex")?;
    let one = tables(&four, "native", LARGE)?;
    let all = tables(&four, "native+mitosis", LARGE)?;
    let scale = 400e9 / LARGE as f64 / 1e6;
    rows.push(Row::new("talk", "400 GB, one copy", Unit::Megabytes, (806.0, "F:talk"), one * scale));
    rows.push(Row::new(
        "talk",
        "400 GB, three more",
        Unit::Megabytes,
        (2418.0, "F:talk"),
        (all - one) * scale,
    ));
    Ok(rows)
}

/// Copies of both tables of a VM, of the memory that they map.
///
/// # Errors
/// [`ExperimentError`].
pub fn memory_of_a_vm() -> Result<Vec<Row>, ExperimentError> {
    let profile = builtin("cascade-lake")?;
    let one = tables(&profile, "nested+vnuma", LARGE)?;
    let all = tables(&profile, "nested+vnuma+mitosis+host-mitosis", LARGE)?;
    let what = "three more copies of guest's and VM's table, of memory";
    Ok(vec![Row::new("memory", what, Unit::Memory, (0.012, "F:KW"), (all - one) / LARGE as f64)])
}

/// Mitosis, figure 4: leaf entries on other sockets, as each socket sees them; the talk's PageRank, entries that are local.
const REMOTE: [(&str, [f64; 4]); 3] = [
    ("canneal", [0.86, 0.68, 0.71, 0.75]),
    ("xsbench", [0.84, 0.92, 0.50, 0.73]),
    ("graph500", [0.92, 0.43, 0.82, 0.83]),
];
const PAGERANK: [f64; 4] = [0.62, 0.80, 0.81, 0.80];

/// Where leaf entries are after first touch, at a footprint divided by `divide`.
///
/// # Errors
/// [`ExperimentError`].
pub fn remote(loads: &[Load], divide: u64) -> Result<Vec<Row>, ExperimentError> {
    let profile = builtin("haswell-ex")?;
    let mut specs: Vec<(&str, String, [f64; 4], &'static str)> = Vec::new();
    for (name, paper) in REMOTE {
        let Some(load) = loads.iter().find(|load| load.name == name) else { continue };
        let mib = load.paper_gib * 1024 / divide;
        specs.push((name, format!("{},footprint={mib}MiB", load.spec), paper, "F:AE-M"));
    }
    let pagerank = format!("pagerank:threads=56,footprint={}MiB", 256 * 1024 / divide);
    specs.push(("pagerank", pagerank, PAGERANK, "F:talk"));
    let mut rows = Vec::new();
    for (name, spec, paper, trust) in specs {
        let mut world = fresh_world(&profile, "native+spread", &built(&spec)?.setup()?)?;
        let dumps = world.dump_tables(0);
        let seen = dumps.first().map(|dump| dump.walkers.clone()).unwrap_or_default();
        rows.extend(seen.iter().zip(paper).enumerate().map(|(socket, (seen, paper))| {
            let what = format!("{name}, socket {socket}: leaf entries on others");
            Row::new(name, what, Unit::Share, (paper, trust), seen.remote_share)
        }));
    }
    Ok(rows)
}
