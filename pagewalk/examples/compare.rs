//! Compares systems on one workload: what a VM costs a pointer chase, and what gets it back.
//!
//! `cargo run --release --example compare`

use pagewalk::machine::profile::Profile;
use pagewalk::{Experiment, Outcome, System, run, workload};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Systems are named as on the command line; each is a choice on every axis.
    let systems: Vec<System> = ["native", "nested", "nested-thp-thp", "shadow"]
        .into_iter()
        .map(System::parse)
        .collect::<Result<_, _>>()?;
    let profile = Profile::builtin("cascade-lake")?;
    let experiment =
        Experiment { warmup: 200_000, accesses: Some(200_000), ..Experiment::new(profile, systems) };
    // One decoded input feeds all systems, so they see the same accesses.
    let outcomes = run(&experiment, &mut *workload("chase:footprint=512MiB,granule=page", 1)?)?;

    let [native, nested, huge, shadow] = outcomes.as_slice() else { unreachable!("four systems") };
    println!("{}: {} accesses on {}\n", native.workload, native.accesses, experiment.profile.title);
    println!(
        "{:16}{:>15}{:>10}{:>18}{:>14}",
        "system", "cycles/access", "slower", "references/walk", "tables"
    );
    for outcome in &outcomes {
        println!(
            "{:16}{:>15.1}{:>9.2}x{:>18.2}{:>10} KiB",
            outcome.system,
            outcome.cycles_per_access(),
            outcome.slowdown(native),
            outcome.walks.references_per_walk,
            outcome.tables.total() >> 10
        );
    }

    // The TLB does not know what is behind it: it misses as often. What a miss takes differs.
    assert_eq!(native.tlb.stlb_misses, nested.tlb.stlb_misses);
    assert!(nested.walks.references_per_walk > native.walks.references_per_walk);
    // Huge pages shorten both dimensions and reach further; a shadow table has one dimension.
    assert!(huge.cycles_per_access() < nested.cycles_per_access());
    assert!((shadow.slowdown(native) - 1.0).abs() < 0.05);
    let share = |outcome: &Outcome| 100.0 * outcome.translation.share;
    println!(
        "\nIn the VM the walker is busy {:.0} % of the time, natively {:.0} %; huge pages in guest and host make that \
         {:.0} %.",
        share(nested),
        share(native),
        share(huge)
    );
    Ok(())
}
