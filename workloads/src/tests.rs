//! What must hold for every workload, and the helpers of the others' tests.

use std::hash::{DefaultHasher, Hash, Hasher};

use machine::input::{Access, BLOCK, Block, Event, Kind, More, Populate, Source};
use proptest::prelude::*;

use crate::*;

/// The next `n` accesses.
pub(crate) fn take(source: &mut (dyn Source + Send), n: usize) -> Vec<Access> {
    let mut block = Block::new();
    let mut all = Vec::with_capacity(n + BLOCK);
    while all.len() < n {
        assert_eq!(source.fill(&mut block).unwrap(), More::Yes);
        all.extend_from_slice(&block.accesses);
    }
    all.truncate(n);
    all
}

/// Where the first region of a workload starts.
pub(crate) fn start_of(spec: &str) -> u64 {
    build(spec, 0).unwrap().setup().unwrap().processes[0].regions[0].start.raw()
}

/// FNV-1a of all that the accesses say: stable, unlike the standard library's.
fn fingerprint(accesses: &[Access]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |v: u64| {
        for byte in v.to_le_bytes() {
            h = (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for a in accesses {
        eat(a.va.raw());
        eat(u64::from(a.insns) | u64::from(a.thread) << 16 | (a.kind as u64) << 32);
        eat(u64::from(a.size_log2) | u64::from(a.flags) << 8);
    }
    h
}

/// The first thousand accesses, and a thousand after the first million, with
/// the defaults and seed 1. A change here changes every published number: it
/// must be meant, and said.
const GOLDEN: &[(&str, u64, u64)] = &[
    ("gups", 0xab5006be055ede65, 0x1a7b3e725a20cc45),
    ("chase", 0xc01fddae846608f0, 0x9bc60757018e0fb1),
    ("stream", 0x66ed7ae590b906ad, 0xb57db6cfbe014e05),
    ("zipf", 0xfee02d0d16af0dc6, 0xbd9166c6c83f6e69),
    ("kv", 0xa6bfcbde047f6de7, 0xbbe593bc0e0ea833),
    ("xsbench", 0x957cce6c426c916e, 0x0d74d0d918518a2b),
    ("btree", 0x315a63a9911eac85, 0xa1fff3843c929d20),
    ("hashjoin", 0x57da136808b1902d, 0x08395ed46e7627fb),
    ("bfs", 0x3a4698aa5b4e36ed, 0x881c9579cfb24b5e),
    ("pagerank", 0xeaf8dd8d0cb1ea1b, 0x86949aa7302dc364),
    ("cc", 0x3c1b28b73ba83efa, 0x0c6cae60fc66166c),
    ("nibble", 0xacabb16aaca3514b, 0x06e6c3b9022dafae),
    ("liblinear", 0xe98271fdefc64e8e, 0x1c47bc9c74abb9ab),
    ("canneal", 0x717eca763552dfb9, 0x0d350f4d3d273f34),
    ("mcf", 0x0edf8754dac5d772, 0x8a87dfccacf7bc7a),
    ("gcc", 0x19e36274d81fe85c, 0xbdaf63ded1a49b97),
    ("omnetpp", 0xb38b929f69409bcf, 0x55866984643eb863),
    ("xz", 0x59f8986c3633df36, 0x2abec2902fed8025),
    ("growkv", 0x9a29131e8d346b3b, 0x798a8fe27f5e10f6),
    ("churn", 0x825b4b4a2205399e, 0x4637d7618d36214d),
    ("inference", 0x2c4786a281c1f699, 0x5141e70b78ec4dfe),
    ("turmoil", 0xdaf1230b95f54a6f, 0xf7e7b78ec613a844),
    ("mongodb", 0xb615acdde56d873a, 0x7aeb136cd932e0a5),
    ("arangodb", 0xb615acdde56d873a, 0xaa6e46c523077368),
    ("httpd", 0xb615acdde56d873a, 0x619d93c5336180fd),
    ("graphchi", 0xb615acdde56d873a, 0x5675d3dd267c9cab),
    ("fio", 0xb615acdde56d873a, 0xa9e1679b31c82f75),
    ("functions", 0xb615acdde56d873a, 0xfbaa83d0c5ea1f86),
];

#[test]
fn golden() {
    let mut got = Vec::new();
    for w in list() {
        let accesses = take(build(w.name, 1).unwrap().as_mut(), 1_001_000);
        got.push((w.name, fingerprint(&accesses[..1000]), fingerprint(&accesses[1_000_000..])));
    }
    let text: String =
        got.iter().map(|(n, h, l)| format!("    (\"{n}\", {h:#018x}, {l:#018x}),\n")).collect();
    assert!(got == GOLDEN, "the accesses of a workload changed; now:\n{text}");
}

/// Checks that each access is inside its process's regions as events change them.
fn check_world(spec: &str, seed: u64, accesses: usize) {
    let mut source = build(spec, seed).unwrap();
    let setup = source.setup().unwrap();
    assert!(!setup.threads.is_empty(), "{spec}");
    let mut worlds: Vec<Vec<(u64, u64, bool)>> = Vec::new();
    for process in &setup.processes {
        let mut regions: Vec<_> = process
            .regions
            .iter()
            .map(|r| (r.start.raw(), r.start.raw() + r.len, r.permissions.write))
            .collect();
        for r in &process.regions {
            assert!(r.start.raw() % 4096 == 0 && r.len % 4096 == 0 && r.len > 0, "{spec}: {r:?}");
            assert!(r.start.is_canonical(4) && r.start.raw() + r.len < 1 << 47, "{spec}: {r:?}");
            if let Populate::By(t) = r.populate {
                assert!(usize::from(t) < setup.threads.len());
            }
        }
        regions.sort();
        assert!(regions.windows(2).all(|w| w[0].1 <= w[1].0), "{spec}: regions overlap {regions:x?}");
        worlds.push(regions);
    }
    let mut threads: Vec<u16> = setup.threads.iter().map(|t| t.process).collect();
    let mut block = Block::new();
    let mut seen = 0;
    let mut used = vec![0u64; threads.len()];
    while seen < accesses {
        assert_eq!(source.fill(&mut block).unwrap(), More::Yes, "{spec}");
        assert!(block.accesses.len() <= BLOCK);
        assert!(!block.accesses.is_empty() || !block.events.is_empty(), "{spec}: nothing happens");
        seen += block.accesses.len();
        for a in &block.accesses {
            let (first, last) = (a.va.raw(), a.va.raw() + (1 << a.size_log2) - 1);
            let process = threads[usize::from(a.thread)];
            used[usize::from(a.thread)] += 1;
            let regions = &worlds[usize::from(process)];
            let at = regions.partition_point(|r| r.1 <= first);
            let inside = regions.get(at).is_some_and(|r| r.0 <= first && last < r.1);
            assert!(inside, "{spec}: {first:#x}..={last:#x} is outside {regions:x?}");
            assert!(regions[at].2 || !a.kind.writes(), "{spec}: writes to read-only {first:#x}");
            assert!(a.kind != Kind::Fetch || !regions[at].2, "{spec}: fetches from data");
            assert!(a.reserved == 0 && a.flags <= (Access::DEPENDENT | Access::LOCKED));
        }
        for e in &block.events {
            follow(e, &mut worlds, &mut threads, &mut used, spec);
        }
    }
    let live = threads.iter().zip(&used).filter(|(p, _)| !worlds[usize::from(**p)].is_empty());
    for (i, (_, used)) in live.enumerate() {
        assert!(*used > 0, "{spec}: thread {i} does nothing");
    }
}

/// What an event does to the regions.
fn follow(
    event: &Event,
    worlds: &mut Vec<Vec<(u64, u64, bool)>>,
    threads: &mut Vec<u16>,
    used: &mut Vec<u64>,
    spec: &str,
) {
    let cut = |regions: &mut Vec<(u64, u64, bool)>, start: u64, end: u64| {
        let mut kept = Vec::new();
        for &(s, e, w) in regions.iter() {
            if s < start.min(e) {
                kept.push((s, start.min(e), w));
            }
            if end.max(s) < e {
                kept.push((end.max(s), e, w));
            }
        }
        *regions = kept;
    };
    match event {
        Event::Request { thread } => assert!(usize::from(*thread) < threads.len()),
        Event::Map { process, region } => {
            let regions = &mut worlds[usize::from(*process)];
            let (start, end) = (region.start.raw(), region.start.raw() + region.len);
            assert!(start % 4096 == 0 && region.len % 4096 == 0);
            cut(regions, start, end);
            regions.push((start, end, region.permissions.write));
            regions.sort();
        }
        Event::Unmap { process, start, len } => {
            assert!(start.raw() % 4096 == 0 && len % 4096 == 0);
            cut(&mut worlds[usize::from(*process)], start.raw(), start.raw() + len);
        }
        Event::Protect { process, start, len, permissions } => {
            let regions = &mut worlds[usize::from(*process)];
            cut(regions, start.raw(), start.raw() + len);
            regions.push((start.raw(), start.raw() + len, permissions.write));
            regions.sort();
        }
        Event::Discard { start, len, .. } => assert!(start.raw() % 4096 == 0 && len % 4096 == 0),
        Event::Fork { parent, child } => {
            assert_eq!(usize::from(*child), worlds.len(), "{spec}");
            worlds.push(worlds[usize::from(*parent)].clone());
        }
        Event::Spawn { thread, process } => {
            assert_eq!(usize::from(*thread), threads.len(), "{spec}");
            threads.push(*process);
            used.push(1);
        }
        Event::Exit { process } => worlds[usize::from(*process)].clear(),
        Event::Exec { process, image } => {
            let mut regions: Vec<_> = image
                .regions
                .iter()
                .map(|r| (r.start.raw(), r.start.raw() + r.len, r.permissions.write))
                .collect();
            regions.sort();
            assert!(regions.windows(2).all(|w| w[0].1 <= w[1].0), "{spec}: regions overlap {regions:x?}");
            worlds[usize::from(*process)] = regions;
        }
        // These change no address.
        Event::MoveThread { .. }
        | Event::Migrate { .. }
        | Event::MigrateVm { .. }
        | Event::Inflate { .. }
        | Event::Deflate { .. }
        | Event::Reclaim { .. } => {}
        other => panic!("{spec}: unexpected {other:?}"),
    }
}

#[test]
fn every_access_is_inside_a_region() {
    for w in list() {
        check_world(w.name, 1, 200_000);
    }
    check_world("functions:start=fork,state=4MiB", 1, 200_000);
}

#[test]
fn with_threads_and_on_demand() {
    for w in list() {
        let has = |key: &str| w.parameters.iter().any(|p| p.name == key);
        let Some(advice) = w.parameters.iter().find(|p| p.name == "advice") else { continue };
        let Unit::Choice(words) = advice.unit else { panic!("advice is a choice") };
        for advice in words {
            let mut spec = format!("{}:advice={advice}", w.name);
            if has("threads") {
                spec += ",threads=3";
            }
            if has("populate") {
                spec += ",populate=demand";
                let setup = build(&spec, 1).unwrap().setup().unwrap();
                let regions = setup.processes.iter().flat_map(|p| &p.regions);
                assert!(regions.into_iter().all(|r| r.populate == Populate::OnDemand), "{spec}");
            }
            check_world(&spec, 2, 100_000);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Any footprint, from the smallest on, up to the papers' terabyte class.
    #[test]
    fn any_footprint(which in 0usize..64, exponent in 12u32..42, odd in 0u64..4096, threads in 1u64..9, seed: u64) {
        let w = &list()[which % list().len()];
        // Its footprint is of all processes, and not all mapped at once.
        prop_assume!(w.name != "turmoil");
        let mut p = Parameters::new(w);
        let footprint = (1u64 << exponent) + odd * (1 << exponent.saturating_sub(12));
        let threads_known = w.parameters.iter().any(|q| q.name == "threads");
        if threads_known {
            p.set("threads", &threads.to_string()).unwrap();
        }
        match p.set("footprint", &footprint.to_string()) {
            Ok(()) => match build_with(&p, seed) {
                Ok(mut source) => {
                    let total: u64 = source.setup().unwrap().processes.iter()
                        .flat_map(|p| &p.regions).map(|r| r.len).sum();
                    // Page rounding of each region, and sizes that must be powers of two.
                    prop_assert!(total <= footprint + footprint / 8 + (1 << 20), "{}: {total}", p.spec());
                    // A growing store starts small.
                    if footprint >= 16 << 20 && w.name != "growkv" {
                        prop_assert!(total >= footprint / 5 * 2, "{}: only {total} of {footprint}", p.spec());
                    }
                    check_world(&p.spec(), seed, 5_000);
                }
                Err(WorkloadError::Impossible { .. }) => {
 // Or too many mappings for one process.
 prop_assert!(footprint < 64 << 20 || w.name == "churn", "{}", p.spec());
 }
Err(other) => prop_assert!(false, "{other}"),
            },
            Err(WorkloadError::OutOfRange { .. } | WorkloadError::UnknownParameter { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn same_seed_same_accesses() {
    for w in list() {
        let hash = |seed| {
            let mut h = DefaultHasher::new();
            for a in take(build(w.name, seed).unwrap().as_mut(), 50_000) {
                (a.va, a.insns, a.thread, a.kind, a.flags).hash(&mut h);
            }
            h.finish()
        };
        assert_eq!(hash(1), hash(1), "{}", w.name);
        if w.name != "stream" {
            assert_ne!(hash(1), hash(2), "{}: the seed has no effect", w.name);
        }
    }
}

#[test]
fn names_are_distinct_and_described() {
    let mut names: Vec<_> = list().iter().map(|w| w.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), list().len());
    for w in list() {
        assert!(!w.summary.is_empty() && !w.source.is_empty());
        for p in w.parameters {
            assert!(!p.meaning.is_empty(), "{}: {}", w.name, p.name);
        }
        Parameters::new(w);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let err = |spec: &str| build(spec, 0).map(|_| ()).unwrap_err().to_string();
    assert_eq!(err("gupps").split(',').next().unwrap(), "there is no workload `gupps`; nearest: gups");
    assert!(err("gups:footprnt=1GiB").contains("no parameter `footprnt`; nearest: footprint"));
    assert!(err("gups:footprint=64G").contains("not a size such as"));
    assert_eq!(
        err("gups:footprint=1B"),
        "workload `gups`: footprint=1B is out of range; allowed: 4KiB to 16TiB"
    );
    assert!(err("chase:pattern=zigzag").contains("allowed: rand | grp8 | grp512 | seq"));
    assert!(err("gups:footprint").contains("`footprint` is not key=value"));
    assert!(err("gups:threads=1,threads=2").contains("threads is set twice"));
    assert!(err("chase:footprint=8KiB,pattern=grp8").contains("at least 8 pages"));
}

#[test]
fn a_spec_is_what_it_was_built_from() {
    for spec in ["gups", "gups:footprint=64GiB,updates=1", "zipf:theta=0.5", "chase:pattern=seq,threads=2"] {
        assert_eq!(parse(spec).unwrap().spec(), spec);
        assert_eq!(build(spec, 0).unwrap().setup().unwrap().name, spec);
    }
}
