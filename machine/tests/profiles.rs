//! Shipped profiles load and make machines; broken ones are refused with the
//! file, the key, the value and what to write instead.

use machine::numa::Memory;
use machine::profile::{Dimension, Profile, ProfileError};
use machine::tlb::Tlb;
use machine::walkcache::WalkCaches;
use paging::{AsidVmid, NodeId};

#[test]
fn every_shipped_profile_makes_a_machine() {
    let names: Vec<_> = Profile::list().map(|(name, _)| name).collect();
    for expected in ["sandy-bridge-en", "haswell-ex", "broadwell", "skylake-sp", "cascade-lake", "zen4"] {
        assert!(names.contains(&expected), "{expected}");
    }
    for (name, text) in Profile::list() {
        let profile = Profile::builtin(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, name);
        assert_eq!(Profile::from_toml(text, name).unwrap(), profile);
        let layout = profile.layout();
        layout.check().unwrap();
        assert_eq!(layout.nodes.len(), profile.topology.sockets as usize);
        let gib = profile.topology.gib_per_socket * u64::from(profile.topology.sockets);
        // The first MiB is the firmware's.
        assert_eq!(layout.frames(), (gib << 18) - 256);
        for arrays in [profile.l1d_tlb(), profile.l1i_tlb(), profile.stlb()] {
            assert!(Tlb::<AsidVmid>::new(&arrays, profile.tlb.stlb.fracture).is_empty());
        }
        let of = |dimension| profile.walk_caches(dimension);
        let nested = profile.nested_tlb.as_ref().map(|nested| nested.array());
        WalkCaches::new(&of(Dimension::Guest), &of(Dimension::Host), nested.as_ref());
        let memory = Memory::new(&profile.memory_spec(), &layout, profile.clock.mhz, 1);
        let local = memory.unloaded(NodeId(0), NodeId(0));
        assert!(local > u64::from(profile.cache.llc.cycles));
        for node in 1..memory.nodes() as u8 {
            assert!(memory.unloaded(NodeId(0), NodeId(node)) > local);
        }
        for fact in profile.facts() {
            assert!(fact.source.len() > 8, "{name}: {}: {:?}", fact.key, fact.source);
        }
    }
}

#[test]
fn the_machines_of_the_papers_are_as_described() {
    let haswell = Profile::builtin("haswell-ex").unwrap();
    let memory = Memory::new(&haswell.memory_spec(), &haswell.layout(), haswell.clock.mhz, 1);
    assert_eq!((memory.unloaded(NodeId(0), NodeId(0)), memory.unloaded(NodeId(0), NodeId(3))), (280, 579));
    assert_eq!(haswell.cores(), 56);
    assert_eq!(haswell.cache.llc.geometry().sets, 28_672);
    assert_eq!(haswell.layout().distances[0], [10, 21, 21, 21]);
    let zen = Profile::builtin("zen4").unwrap();
    assert_eq!(zen.l1d_tlb()[0].geometry.ways, 72);
    assert!(zen.walk_caches(Dimension::Guest).len() == 2);
}

/// A profile with one line changed.
fn changed(from: &str, to: &str) -> Result<Profile, ProfileError> {
    let (_, text) = Profile::list().find(|(name, _)| *name == "haswell-ex").unwrap();
    assert!(text.contains(from), "{from}");
    Profile::from_toml(&text.replacen(from, to, 1), "mine.toml")
}

#[track_caller]
fn refused(from: &str, to: &str, needles: &[&str]) {
    let error = changed(from, to).expect_err("it cannot be").to_string();
    for needle in needles {
        assert!(error.contains(needle), "{needle:?} is not in:\n{error}");
    }
    assert!(error.contains("mine.toml"), "{error}");
}

#[test]
fn impossible_machines_are_refused() {
    refused(
        "entries = 1024\nways = 8",
        "entries = 1024\nways = 7",
        &["tlb.stlb.array[0].ways = 7", "1024 entries cannot be divided", "write a divisor of 1024: 4 or 8"],
    );
    refused("entries = 64\nways = 4", "entries = 0\nways = 4", &["tlb.l1d[0].entries = 0", "from 1 to"]);
    refused("entries = 64\nways = 4", "entries = 64\nways = 0", &["tlb.l1d[0].ways = 0", "1 or 1"]);
    refused("entries = 64\nways = 4", "entries = 64\nways = \"all\"", &["tlb.l1d[0].ways", "\"full\""]);
    refused(
        "entries = 1024\nways = 8",
        "entries = 1024\nways = 8\nreplacement = \"plru\"",
        &["plru", "tree-plru"],
    );
    refused(
        "kib = 35840\nways = 20",
        "kib = 35840\nways = 20\nreplacement = \"tree-plru\"",
        &["cache.llc.replacement", "power of two", "20"],
    );
    refused(
        "kib = 35840\nways = 20",
        "kib = 128\nways = 8",
        &["cache.llc.kib = 128", "smaller than cache.l2, 256 KiB"],
    );
    refused("cycles = 55", "cycles = 9", &["cache.llc.cycles = 9", "not slower than cache.l2"]);
    refused(
        "local_ns = 127.3",
        "local_ns = 12.3",
        &["memory.latency.local_ns = 12.3", "27 cycles", "whole latency"],
    );
    refused("remote_ns = 263.6", "remote_ns = 63.6", &["memory.latency.remote_ns = 63.6", "from 127.3"]);
    refused("remote_ns = 263.6\n", "", &["memory.latency.remote_ns", "4 sockets", "matrix_ns"]);
    refused("remote_ns = 263.6", "matrix_ns = [[127.3]]", &["memory.latency.matrix_ns", "4 rows of 4"]);
    refused("link_gb_s = 11.0\n", "", &["memory.bandwidth.link_gb_s", "add link_gb_s"]);
    refused("node_gb_s = 28.0", "node_gb_s = nan", &["memory.bandwidth.node_gb_s = NaN"]);
    refused("sockets = 4", "sockets = 9", &["topology.sockets = 9", "from 1 to 8"]);
    refused("gib_per_socket = 128", "gib_per_socket = 1024", &["topology.gib_per_socket = 1024", "4097 GiB"]);
    refused("levels = [2]", "levels = [1]", &["walk_cache[0].levels = 1", "level-1 tables are in TLBs"]);
    refused("levels = [3]", "levels = [2]", &["walk_cache[1].levels = 2", "already have a cache"]);
    refused("sizes = [\"2M\"]", "sizes = [\"4K\"]", &["tlb.l1d[1].sizes = 4K", "one array"]);
    refused("sizes = [\"4K\"]", "sizes = [\"64K\"]", &["64K", "4K, 2M or 1G"]);
    refused("sizes = [\"4K\"]", "sizes = []", &["tlb.l1d[0].sizes"]);
    refused("walkers = 1", "walkers = 0", &["walker.walkers = 0"]);
    refused("name = \"haswell-ex\"", "name = \"my machine\"", &["name = \"my machine\"", "letters"]);
}

#[test]
fn what_is_not_of_the_format_is_refused_with_its_place() {
    refused("mhz = 2200", "mhz = 2200\nturbo = 3000", &["unknown field `turbo`", "line"]);
    refused("walkers = 1", "walkers = -1", &["line"]);
    refused("mhz = 2200\n", "", &["missing field `mhz`"]);
    refused("[clock]", "[clock", &["line"]);
    refused("trust = \"recalled\"", "trust = \"certain\"", &["certain", "estimate"]);
}

#[test]
fn every_number_has_a_source() {
    let (_, text) = Profile::list().find(|(name, _)| *name == "haswell-ex").unwrap();
    for (start, _) in text.match_indices("source = ") {
        let end = start + text[start..].find('\n').unwrap();
        let without = format!("{}{}", &text[..start], &text[end..]);
        assert!(Profile::from_toml(&without, "mine.toml").unwrap_err().to_string().contains("source"));
        let empty = format!("{}source = \" \"{}", &text[..start], &text[end..]);
        let error = Profile::from_toml(&empty, "mine.toml").unwrap_err().to_string();
        assert!(error.contains("every number has a source"), "{error}");
    }
}

#[test]
fn an_unknown_machine_is_answered_with_the_nearest_names() {
    let error = Profile::builtin("haswel").unwrap_err().to_string();
    assert!(error.contains("\"haswel\"") && error.contains("did you mean haswell-ex"), "{error}");
    let error = Profile::builtin("q").unwrap_err().to_string();
    assert!(!error.contains("did you mean") && error.contains("pagewalk list machines"), "{error}");
}
