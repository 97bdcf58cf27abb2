//! What sweeps cost: `cargo bench -p lab --bench sweep [-- plan | points | collect | cores]`.
//!
//! * plan: a million points, and the memory for them
//! * points: overhead of a point, its file included, beside running the same in one experiment
//! * collect: 100 000 results, six a file, to one table
//! * cores: the same sweep by one worker and by two

use lab::experiment::{Member, run_each};
use lab::sweep::{Costs, Digests, Fate, Options, Plan, Store, Sweep, collect, units, work};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOC: lab::huge::HugePages = lab::huge::HugePages;

fn planned(text: &str) -> Plan {
    let sweep = Sweep::parse(text, Path::new("bench.toml"), Path::new(".")).expect("a sweep");
    Plan::new(sweep, &mut Digests::default()).expect("a plan")
}

fn scratch(name: &str) -> PathBuf {
    // Where a user's results would be: on a disk, not in memory.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sweep-{name}"));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("room for a directory");
    directory
}

fn mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) >> 10
}

fn plan() {
    let text = r#"
        seeds = { from = 1, to = 50 }
        [base]
        accesses = "1M"
        [cross]
        system = ["native", "native-thp", "nested", "nested-thp-4k", "nested-4k-thp", "nested-thp-thp", "shadow",
                  "nested+ptemagnet", "shadow-thp-thp", "native-2m"]
        workload = ["gups", "zipf", "chase", "btree", "kv"]
        "workload.footprint" = ["64MiB", "256MiB", "1GiB", "4GiB"]
        "machine.cache.llc.kib" = { from = 5632, to = 90112, times = 2 }
        "machine.topology.gib_per_socket" = [64, 96, 128, 192]
        "system.kernel.fragmentation" = { from = 0.0, to = 0.8, step = 0.2 }
        "#;
    let begun = Instant::now();
    let plan = planned(text);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "plan: {} points in {seconds:.2} s, {} MiB at most (at most 10 s and 1024 MiB for a million)",
        plan.points.len() + plan.refused.iter().map(|refused| refused.points as usize).sum::<usize>(),
        mib("VmHWM:"),
    );
    println!(
        "  {} systems, {} machines, {} inputs",
        plan.systems.len(),
        plan.machines.len(),
        plan.inputs.len()
    );
}

const TINY: &str = r#"
    seeds = { from = 1, to = 200 }
    [base]
    machine = "sandy-bridge-en"
    accesses = 256
    warmup = 0
    workload.footprint = "1MiB"
    [cross]
    system = ["native", "nested", "shadow"]
    workload = ["gups", "zipf"]
"#;

fn run(plan: &Plan, directory: &Path, workers: usize, seconds: f64) -> f64 {
    let store = Store::new(directory);
    store.prepare().expect("a directory to write to");
    let costs = Costs::new(plan);
    let begun = Instant::now();
    let units = units(plan, 0..plan.points.len(), |point| costs.of(point), 4 << 30, seconds);
    work(plan, units, directory, Options { workers, memory: 16 << 30 }, &|_| {})
        .expect("results can be written");
    begun.elapsed().as_secs_f64()
}

fn points() {
    let plan = planned(TINY);
    let count = plan.points.len() as f64;
    // The worlds themselves, without a sweep around them.
    let begun = Instant::now();
    for point in &plan.points {
        let members: Vec<Member> = vec![plan.member(point)];
        let mut source = plan.inputs[point.input as usize].open(point.seed).expect("a generator");
        let done = run_each(members, &mut *source, &mut |_| ControlFlow::Continue(()));
        assert!(done.is_ok_and(|all| all.is_some_and(|all| all.iter().all(Result::is_ok))));
    }
    let bare = begun.elapsed().as_secs_f64();
    let directory = scratch("points");
    // A file a point: the most that there can be.
    let swept = run(&plan, &directory, 1, 0.0);
    println!(
        "points: {:.2} ms a point by itself, {:.2} ms in a sweep: {:.2} ms over (at most 20 ms)",
        1e3 * bare / count,
        1e3 * swept / count,
        1e3 * (swept - bare) / count
    );
    let _ = std::fs::remove_dir_all(directory);
}

/// Points of a file: as if six systems shared a stream.
const FILE: usize = 6;

fn gather() {
    let plan = planned(&TINY.replace("to = 200", "to = 16667"));
    let directory = scratch("collect");
    let store = Store::new(&directory);
    store.prepare().expect("a directory to write to");
    let small = planned(&TINY.replace("to = 200", "to = 1"));
    run(&small, &directory.join("one"), 1, 1e9);
    let found = Store::new(&directory.join("one")).read(true).expect("results");
    let records: Vec<_> = small.points.iter().filter_map(|point| found.done[&point.key].record()).collect();
    let begun = Instant::now();
    for (at, unit) in plan.points.chunks(FILE).enumerate() {
        let fate = |at: usize| Fate::Done(records[at % records.len()].clone());
        let fates: Vec<_> = unit.iter().enumerate().map(|(i, point)| (point.key, fate(at + i))).collect();
        store.write(&fates).expect("room for results");
    }
    println!(
        "collect: {} results written in {:.1} s, {FILE} a file",
        plan.points.len(),
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let found = store.read(false).expect("results");
    let read = begun.elapsed().as_secs_f64();
    drop(found);
    let begun = Instant::now();
    let found = store.read(true).expect("results");
    let counts = collect(&plan, &found, &directory.join("all.parquet"), &|_, _| ()).expect("a table");
    println!(
        "collect: {} rows in {:.1} s (at most 60 s), {read:.1} s of it to see what is there; {} MiB, the table {} MiB",
        counts.rows,
        begun.elapsed().as_secs_f64(),
        mib("VmHWM:"),
        std::fs::metadata(directory.join("all.parquet")).map_or(0, |meta| meta.len()) >> 20
    );
    let _ = std::fs::remove_dir_all(directory);
}

/// Seconds of processor time of all threads.
fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Beside the time by the clock, which other work on the machine disturbs: if two workers take no more processor time in
/// all than one, they are twice as fast where two cores are free.
fn cores() {
    let plan =
        planned(&TINY.replace("to = 200", "to = 8").replace("256", "\"500k\"").replace("1MiB", "64MiB"));
    let total: f64 = plan.points.iter().map(|point| Costs::new(&plan).of(point).seconds).sum();
    let mut best = [(f64::MAX, f64::MAX); 2];
    for workers in [1, 2, 1, 2, 1, 2] {
        let directory = scratch("cores");
        let before = cpu_time();
        let clock = run(&plan, &directory, workers, total / (2 * workers) as f64);
        let (least, cpu) = &mut best[workers - 1];
        (*least, *cpu) = (least.min(clock), cpu.min(cpu_time() - before));
        let _ = std::fs::remove_dir_all(directory);
    }
    let [(one, one_cpu), (two, two_cpu)] = best;
    println!(
        "cores: {one:.2} s by one worker, {two:.2} s by two, {:.2} times as fast; of the processor {one_cpu:.2} s and {two_cpu:.2} s",
        one / two
    );
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, fn()); 4] =
        [("plan", plan), ("points", points), ("collect", gather), ("cores", cores)];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|want| want == name) {
            part();
        }
    }
}
