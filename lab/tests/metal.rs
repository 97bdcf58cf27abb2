//! The kernel of `metal/`, booted on an emulated machine: one boot a scenario, and the story that
//! is told in the lab, too.
//!
//! It is built for release once, in a directory of its own, as its own workspace says.

extern crate alloc;

#[path = "../../metal/src/scenario/script.rs"]
#[allow(missing_docs, dead_code, reason = "the machine's half uses the rest")]
mod script;
mod story;

use lab::world::WorldError;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A boot that has ended.
struct Boot {
    /// What it said on the serial line, and `run.sh` after it.
    said: String,
    passed: bool,
}

/// The kernel, built; `None` where nothing can run it.
fn kernel() -> Option<&'static Path> {
    static KERNEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    KERNEL.get_or_init(build).as_deref()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../metal")
}

fn build() -> Option<PathBuf> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        // Past the capture of tests' output: whoever runs them must see it.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: the scenarios of metal/: no qemu-system-x86_64\n  hint: apt-get install qemu-system-x86"
        );
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metal");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(source());
    // What is set for this workspace is not meant for that one, whose flags are in its own configuration.
    for (name, _) in std::env::vars().filter(|(name, _)| {
        name.starts_with("CARGO_PROFILE")
            || name.starts_with("CARGO_BUILD")
            || name.starts_with("CARGO_ENCODED")
            || name == "RUSTFLAGS"
    }) {
        cargo.env_remove(name);
    }
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "the kernel of metal/ does not build");
    Some(target.join("x86_64-unknown-linux-gnu/release/metal"))
}

/// Boots into a scenario, on `nodes` nodes with `cpus` CPUs.
fn boot(scenario: &str, nodes: u32, cpus: u32) -> Option<Boot> {
    boot_with(scenario, nodes, cpus, &[])
}

/// The same, with `more` on the command line.
fn boot_with(scenario: &str, nodes: u32, cpus: u32, more: &[String]) -> Option<Boot> {
    let out = Command::new("sh")
        .arg(source().join("run.sh"))
        .arg(kernel()?)
        .args([scenario, &nodes.to_string(), &cpus.to_string()])
        .args(more)
        .output()
        .expect("a shell runs");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Some(Boot { said, passed: out.status.success() })
}

fn passes(scenario: &str, nodes: u32, cpus: u32) {
    let Some(boot) = boot(scenario, nodes, cpus) else { return };
    let verdict = format!("metal: {scenario}: PASSED");
    assert!(boot.passed && boot.said.contains(&verdict), "{scenario}:\n{}", boot.said);
}

/// A fault on purpose ends in the verdict, and in a message with all of `parts`.
fn fails(scenario: &str, parts: &[&str]) {
    let Some(boot) = boot(scenario, 2, 4) else { return };
    assert!(!boot.passed && boot.said.contains("metal: FAILED: "), "{scenario}:\n{}", boot.said);
    assert!(boot.said.contains("exit status is 3,"), "{scenario} must end by itself:\n{}", boot.said);
    for part in parts {
        assert!(boot.said.contains(part), "{scenario} must say {part:?}:\n{}", boot.said);
    }
}

#[test]
fn processes_live_and_die() {
    passes("life", 2, 4);
}

#[test]
fn mitosis_on_two_and_four_nodes() {
    passes("mitosis", 2, 4);
    passes("mitosis", 4, 4);
}

#[test]
fn babelfish_shares_tables() {
    passes("babelfish", 2, 4);
}

#[test]
fn a_wrong_entry_is_found() {
    fails("wrong-entry", &["reads 0x16 at 0x700000014000, must read 0x15", "walk from"]);
    fails("reserved-bit", &["faults at 0x700000014000 again and again", "the entry is wrong"]);
}

#[test]
fn a_missed_shootdown_is_found() {
    fails("missed-shootdown", &["still reads 1 at 0x700000000000", "no shootdown reached it", "walk from"]);
}

#[test]
fn an_exhausted_node_is_an_error() {
    fails("exhausted-node", &["out of memory", "node 1", "add memory or swap"]);
}

#[test]
fn a_fault_of_the_kernel_is_reported() {
    fails("stray-kernel", &["page fault in the kernel", "0x123456789000"]);
    fails("no-such-scenario", &["there is no scenario no-such-scenario; there are life"]);
}

#[test]
fn the_kernel_is_its_own_guest() {
    passes("guest", 2, 4);
}

#[test]
fn ptemagnet_on_real_nested_tables() {
    passes("ptemagnet", 2, 4);
}

#[test]
fn vmitosis_on_real_nested_tables() {
    passes("vmitosis", 2, 4);
}

#[test]
fn shadow_paging_with_real_exits() {
    passes("shadow", 2, 4);
}

#[test]
fn a_guest_maps_host_frames_itself() {
    passes("passthrough", 2, 4);
}

#[test]
fn segments_are_what_registers_would_compute() {
    passes("segments", 2, 4);
}

/// The same story in the lab and on the machine: every entry of every table is the same, accessed and dirty
/// bits that two different MMUs set included.
#[test]
fn the_same_story_twice() {
    for (profile, seed, steps) in
        [("haswell-ex", 1, 200), ("sandy-bridge-en", 2, 400), ("skylake-sp", 3, 400)]
    {
        let more = [format!("seed={seed}"), format!("steps={steps}")];
        let Some(boot) = boot_with("story", 2, 4, &more) else { return };
        assert!(boot.passed, "story {seed}:\n{}", story::without_entries(&boot.said));
        let lab = story::tell(profile, seed, steps).expect("the story in the lab");
        let leaves = lab.iter().filter(|entry| entry.level == 1).count();
        assert!(leaves > steps, "story {seed} has {leaves} leaves to compare");
        if let Some(difference) = story::difference(&lab, &story::parse(&boot.said)) {
            panic!("story {seed}: {difference}");
        }
    }
}

/// A bit that the machine has otherwise is found, and shown with the address and both walks.
#[test]
fn a_difference_is_shown() {
    let lab = story::tell("haswell-ex", 1, 100).expect("the story in the lab");
    assert_eq!(story::difference(&lab, &lab), None);
    assert!(story::difference(&lab, &lab[1..]).is_some());
    let more = ["seed=1".to_string(), "steps=100".to_string(), "differ".to_string()];
    let Some(boot) = boot_with("story", 2, 4, &more) else { return };
    let changed =
        boot.said.lines().find_map(|line| line.split_once("the entry for ")?.1.split_once(" is changed"));
    let (va, _) =
        changed.unwrap_or_else(|| panic!("an entry is changed:\n{}", story::without_entries(&boot.said)));
    let said = story::difference(&lab, &story::parse(&boot.said)).expect("a difference");
    assert!(
        said.contains(&format!("{va} differs")) && said.contains("lab: ") && said.contains("machine: "),
        "{said}"
    );
}

/// The lab's half of the story can fail, too: a lost shootdown leaves translations behind that lead to what
/// the oracle knows better, or caches of tables that are gone, through which an access faults for ever.
#[test]
fn a_lost_shootdown_in_the_lab_is_found() {
    let error = story::tell_deaf("haswell-ex", 2, 400).expect_err("a stale translation");
    assert!(matches!(error, WorldError::Mismatch(_) | WorldError::Stuck { .. }), "{error}");
}
