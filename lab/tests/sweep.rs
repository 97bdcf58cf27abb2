//! Sweeps from file to table, and what can go wrong on the way.

use lab::sweep::{
    Collected, Costs, Digests, Event, Fate, Key, Options, Plan, Store, Sweep, SweepError, collect, units,
    work,
};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

fn plan_in(text: &str, directory: &Path) -> Result<Plan, SweepError> {
    Plan::new(Sweep::parse(text, Path::new("test.toml"), directory)?, &mut Digests::default())
}

fn plan(text: &str) -> Result<Plan, SweepError> {
    plan_in(text, Path::new("."))
}

fn why(text: &str) -> String {
    plan(text).unwrap_err().to_string()
}

fn scratch(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("pagewalk-sweep-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

const SMALL: &str = r#"
    seeds = [1, 2]
    [base]
    accesses = 3000
    warmup = "1k"
    workload.footprint = "1MiB"
    machine = "sandy-bridge-en"
    [cross]
    system = ["native", "nested", "shadow"]
    workload = ["gups", "zipf"]
"#;

/// Runs everything that has no result, by so many workers; returns how many points ran.
fn run(plan: &Plan, directory: &Path, workers: usize, seconds: f64) -> u64 {
    let store = Store::new(directory);
    store.prepare().unwrap();
    let found = store.read(false).unwrap();
    let pending = (0..plan.points.len()).filter(|at| !found.done.contains_key(&plan.points[*at].key));
    let costs = Costs::new(plan);
    let units = units(plan, pending, |point| costs.of(point), 4 << 30, seconds);
    let tally = work(plan, units, directory, Options { workers, memory: 8 << 30 }, &|_: Event| {}).unwrap();
    tally.done + tally.failed
}

fn table(plan: &Plan, directory: &Path) -> Vec<u8> {
    let file = directory.join("results.parquet");
    let found = Store::new(directory).read(true).unwrap();
    let counts = collect(plan, &found, &file, &|_, _| ()).unwrap();
    assert_eq!(counts, Collected { rows: plan.points.len() as u64, failed: 0, missing: 0 });
    std::fs::read(file).unwrap()
}

#[test]
fn points_are_what_the_file_says() {
    let plan = plan(
        r#"
        seeds = { from = 1, to = 3 }
        repetitions = 2
        [base]
        workload = "gups"
        accesses = "10k"
        [cross]
        system = ["native", "nested"]
        "machine.cache.llc.kib" = { from = 10240, to = 40960, times = 2 }
        [[zip]]
        machine = ["broadwell", "sandy-bridge-en"]
        workload.footprint = ["1MiB", "2MiB"]
        [[exclude]]
        system = "nested"
        machine = "broadwell"
        "#,
    );
    let plan = plan.unwrap();
    // Against an obvious model: four nested loops.
    let mut expect = HashSet::new();
    for system in ["native", "nested"] {
        for (machine, footprint) in
            [("broadwell", "gups:footprint=1MiB"), ("sandy-bridge-en", "gups:footprint=2MiB")]
        {
            for llc in [10240, 20480, 40960] {
                for number in 0..6 {
                    if (system, machine) != ("nested", "broadwell") {
                        expect.insert((
                            system.to_string(),
                            format!("{machine}{{cache.llc.kib={llc}}}"),
                            footprint.to_string(),
                            number,
                        ));
                    }
                }
            }
        }
    }
    let mut numbers = BTreeMap::new();
    let points = plan.points.iter().map(|point| {
        let number = numbers.entry(point.group()).or_insert(0);
        *number += 1;
        let machine = &plan.machines[point.machine as usize];
        let values: Vec<_> = plan.varied().zip(plan.values(point)).collect();
        let llc = values.iter().find(|(name, _)| *name == "machine.cache.llc.kib").unwrap().1;
        assert_eq!(Some(machine.cache.llc.kib), llc.as_u64());
        assert_eq!(plan.span(point), (10_000, Some(10_000)));
        let system = plan.systems[point.system as usize].0.clone();
        (system, machine.name.clone(), plan.inputs[point.input as usize].name.clone(), *number - 1)
    });
    let points: Vec<_> = points.collect();
    assert_eq!(points.len(), expect.len());
    assert_eq!(points.into_iter().collect::<HashSet<_>>(), expect);
    assert_eq!(plan.excluded, 18);
    let seeds: HashSet<_> = plan.points.iter().map(|point| point.seed).collect();
    assert!(seeds.len() == 6 && [1, 2, 3].iter().all(|seed| seeds.contains(seed)), "{seeds:?}");
    let keys: HashSet<_> = plan.points.iter().map(|point| point.key).collect();
    assert_eq!(keys.len(), plan.points.len());
}

#[test]
fn a_key_is_of_what_decides_the_result_and_of_nothing_else() {
    let key = |base: &str| {
        let plan =
            plan(&format!("[base]\nworkload = \"gups:footprint=1MiB\"\naccesses = 1000\n{base}")).unwrap();
        assert_eq!(plan.points.len(), 1);
        plan.points[0].key
    };
    let base = key("");
    assert_eq!(base, key("system = \"native\"\nmachine = \"cascade-lake\"\nverify = false"));
    assert_eq!(base, key("warmup = \"1k\""), "the default is written out");
    assert_eq!(base, key("\"machine.clock.source\" = \"somebody else\""));
    assert_eq!(base, key("\"system.kernel.levels\" = 4"));
    let others = [
        "system = \"native-thp\"",
        "machine = \"zen4\"",
        "\"machine.clock.mhz\" = 1234",
        "\"machine.tlb.stlb.array.0.entries\" = 768",
        "\"system.kernel.levels\" = 5",
        "\"system.kernel.pages\" = \"thp\"",
        "\"workload.threads\" = 2",
        "warmup = 1",
        "verify = true",
    ];
    let keys: HashSet<Key> = others.iter().map(|other| key(other)).chain([base]).collect();
    // One is another way to write `native-thp`.
    assert_eq!(keys.len(), others.len());
    let seeded = plan("seeds = [9]\n[base]\nworkload = \"gups:footprint=1MiB\"\naccesses = 1000").unwrap();
    assert!(!keys.contains(&seeded.points[0].key));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let both = plan(
        "[base]\nworkload = \"gups:footprint=1MiB\"\n[cross]\nsystem = [\"native\", \"nested\"]\n\
         \"system.host.pages\" = [\"4k\", \"thp\"]",
    )
    .unwrap();
    assert_eq!(both.points.len(), 3);
    assert_eq!(both.refused.len(), 1);
    assert_eq!(both.refused[0].points, 1);
    assert!(both.refused[0].reason.contains("no host under it"), "{:?}", both.refused);
    assert!(both.refused[0].first.contains("system.host.pages = thp"), "{:?}", both.refused);
    let large = plan(
        "[base]\nsystem = \"nested\"\n[cross]\nworkload = [\"gups:footprint=1GiB\", \"gups:footprint=16TiB\"]",
    );
    assert!(large.unwrap().refused[0].reason.contains("larger machine"));
    // Written twice in two ways, run once.
    let twice = plan("[cross]\nworkload = [\"gups:footprint=1GiB\", \"gups:footprint=1024MiB\"]").unwrap();
    assert_eq!((twice.points.len(), twice.same), (1, 1));
}

#[test]
fn a_mistake_is_named_with_its_place() {
    for (text, words) in [
        ("[base]\nworkload = \"gusp\"", "nearest: gups"),
        ("[base]\nworkload = \"gups\"\nsystem = \"nativ\"", "did you mean `native`"),
        ("[base]\nworkload = \"gups\"\nmachine = \"zen5\"", "zen4"),
        ("[base]\nworkload = \"gups\"\nacesses = 3", "did you mean `accesses`"),
        ("[base]\nworkload = \"gups\"\n\"machine.cache.l9.kib\" = 3", "there is no `l9`"),
        ("[base]\nworkload = \"gups\"\n\"machine.cache.llc.kibi\" = 3", "kibi"),
        ("[base]\nworkload = \"gups\"\n\"machine.tlb.stlb.array.7.entries\" = 3", "no place of a list"),
        ("[base]\nworkload = \"gups\"\n\"system.kernel.pagez\" = \"4k\"", "pagez"),
        ("[base]\nworkload = \"missing.parquet\"", "missing.parquet"),
        ("[base]\nworkload = \"gups\"\nseed = 3", "seeds = [1, 2, 3]"),
        ("[base]\nworkload = [\"gups\"]", "under [cross]"),
        ("[base]\nworkload = \"gups\"\naccesses = \"many\"", "no count"),
        ("[cross]\nworkload = \"gups\"", "write a list"),
        ("[cross]\nworkload = [\"gups\"]\n[[zip]]\nworkload = [\"zipf\"]", "varied twice"),
        ("[[zip]]\nworkload = [\"gups\"]\nsystem = [\"native\", \"nested\"]", "equally long"),
        ("[base]\nworkload = \"gups\"\n[[exclude]]\nsystem = \"native\"", "not varied"),
        ("[cross]\nworkload = [\"gups\"]\n[[exclude]]\nworkload = \"zipf\"", "no point has"),
        ("[cross]\nworkload = [\"gups\"]\n[[exclude]]\nworkload = \"gups\"", "nothing is left"),
        ("[base]\nworkload = \"gups\"\n[cros]\n", "cros"),
        ("[base]\nsystem = \"native\"", "nothing says `workload`"),
        ("repetitions = 0\n[base]\nworkload = \"gups\"", "at least 1"),
        ("[base]\nworkload = \"gups + zipf\"\n\"workload.footprint\" = \"1MiB\"", "several programs"),
        (
            "seeds = { from = 1, to = 9000 }\n[base]\nworkload = \"gups\"\n[cross]\naccesses = { from = 1, to = 9000 }",
            "combinations",
        ),
    ] {
        let why = why(text);
        assert!(why.contains(words) && why.contains("test.toml"), "{text}\n{why}");
    }
}

#[test]
fn workers_units_and_kills_do_not_change_the_table() {
    let plan = plan(SMALL).unwrap();
    let (a, b, c) = (scratch("a"), scratch("b"), scratch("c"));
    assert_eq!(run(&plan, &a, 1, 1e9), 12);
    assert_eq!(run(&plan, &a, 1, 1e9), 0, "nothing runs twice");
    assert_eq!(run(&plan, &b, 4, 0.0), 12);
    let expect = table(&plan, &a);
    assert_eq!(table(&plan, &b), expect);
    // Half of it is lost, in each way that a file can be lost.
    let results: Vec<PathBuf> = walk(&b.join("results"));
    assert_eq!(results.len(), 12, "a file a point");
    for (at, path) in results.iter().enumerate() {
        let bytes = std::fs::read(path).unwrap();
        match at % 4 {
            0 => std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
            1 => std::fs::write(path, b"").unwrap(),
            2 => std::fs::remove_file(path).unwrap(),
            _ => {}
        }
    }
    let store = Store::new(&b);
    store.mend(&store.read(false).unwrap()).unwrap();
    assert_eq!(run(&plan, &b, 2, 0.0), 9);
    assert_eq!(table(&plan, &b), expect);
    // More points in the file later: those that are there stay.
    let more = plan_in(&SMALL.replace("[1, 2]", "[1, 2, 3]"), Path::new(".")).unwrap();
    std::fs::rename(a.join("results"), c.join("results")).unwrap();
    assert_eq!(run(&more, &c, 2, 1e9), 6);
    for directory in [a, b, c] {
        std::fs::remove_dir_all(directory).unwrap();
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn a_point_that_fails_does_not_stop_the_others() {
    // A VM's host needs more than the half gigabyte that is left of this machine, which shows when its world is built.
    let plan = plan(
        r#"
        [base]
        machine = "sandy-bridge-en"
        "machine.topology.gib_per_socket" = 1
        "machine.topology.sockets" = 1
        accesses = 1000
        workload = "gups:footprint=1MiB"
        [cross]
        system = ["native", "nested", "native-thp"]
        "#,
    )
    .unwrap();
    let directory = scratch("fail");
    let costs = Costs::new(&plan);
    assert_eq!(
        units(&plan, 0..3, |point| costs.of(point), u64::MAX, 1e9).len(),
        1,
        "one stream feeds all three"
    );
    assert_eq!(run(&plan, &directory, 1, 1e9), 3);
    let found = Store::new(&directory).read(true).unwrap();
    for point in &plan.points {
        match plan.systems[point.system as usize].0.as_str() {
            "nested" => assert!(found.failed[&point.key].contains("memory"), "{:?}", found.failed),
            _ => assert!(found.done.contains_key(&point.key), "{:?}", found.failed),
        }
    }
    assert_eq!(Collected::count(&plan, &found), Collected { rows: 2, failed: 1, missing: 0 });
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_trace_is_known_by_its_content_and_read_once_for_all_seeds() {
    let directory = scratch("trace");
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/redis-mget.parquet");
    std::fs::copy(&trace, directory.join("a.parquet")).unwrap();
    std::fs::copy(&trace, directory.join("b.parquet")).unwrap();
    let text = "seeds = [1, 2]\n[base]\naccesses = 1000\nwarmup = 0\n[cross]\nworkload = [\"a.parquet\", \"b.parquet\"]\nsystem = [\"native\", \"nested\"]";
    let plan = plan_in(text, &directory).unwrap();
    assert_eq!((plan.points.len(), plan.same), (4, 4), "the same content under two names");
    let costs = Costs::new(&plan);
    let units = units(&plan, 0..4, |point| costs.of(point), u64::MAX, 1e9);
    assert_eq!(units.len(), 1, "one stream for all systems and seeds");
    let first = plan.points[0].key;
    // Another content, another key.
    std::fs::write(directory.join("c.lackey"), " L 1000,8\n S 2000,8\n").unwrap();
    let other = plan_in(&text.replace("a.parquet", "c.lackey"), &directory).unwrap();
    assert!(other.points.len() == 8 && other.points.iter().any(|point| point.key == first));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let plan = plan(SMALL).unwrap();
    let directory = scratch("full");
    let store = Store::new(&directory);
    store.prepare().unwrap();
    let record = |n: usize| Fate::Failed(format!("point {n}"));
    store.write(&[(plan.points[0].key, record(0))]).unwrap();
    // In place of the directory of a result there is a file: it cannot be written, as on a disk that is full.
    let keys: Vec<Key> = plan.points.iter().map(|point| point.key).collect();
    for first in 0..=255u8 {
        let part = directory.join("results").join(format!("{first:02x}"));
        if !part.exists() {
            std::fs::write(part, b"").unwrap();
        }
    }
    let costs = Costs::new(&plan);
    let units = units(&plan, 0..keys.len(), |point| costs.of(point), 4 << 30, 1e9);
    let error = work(&plan, units, &directory, Options { workers: 2, memory: 8 << 30 }, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("make room and run again"), "{error}");
    assert_eq!(store.read(true).unwrap().failed[&keys[0]], "point 0");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_documented_example_is_the_one_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let example = std::fs::read_to_string(root.join("examples/walks.toml")).unwrap();
    assert!(std::fs::read_to_string(root.join("docs/sweeps.md")).unwrap().contains(&example));
    let plan = plan(&example).unwrap();
    assert_eq!((plan.points.len(), plan.excluded, plan.refused.len()), (80, 16, 0));
}
