//! The report of one address: the explorer, open at its page.

use super::{Document, Part, compare, maps};
use lab::experiment::Experiment;
use lab::look::View;

/// Where a walk was made.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The workload.
    pub workload: &'a str,
    /// Accesses before it.
    pub accesses: u64,
    /// The process.
    pub process: u16,
    /// The address.
    pub va: u64,
}

/// The report of walks for an address under each system.
pub fn explain(experiment: &Experiment, views: &[(String, View)], asked: &Asked<'_>) -> Document {
    let Asked { workload, accesses, process, va } = *asked;
    let names: Vec<&str> = views.iter().map(|(name, _)| name.as_str()).collect();
    let mut document =
        Document::new(format!("The walk for {va:#x} of {workload}"), format!("Under {}.", names.join(", ")));
    document.about("workload", workload);
    document.about("machine", format!("{} ({})", experiment.profile.name, experiment.profile.title));
    document.about("accesses", format!("{accesses} before the walk"));
    document.about("seed", experiment.seed);
    let views: Vec<(&str, &View)> = views.iter().map(|(name, view)| (name.as_str(), view)).collect();
    let explorer = maps::explorer(&views, Some((process, va & !4095)));
    document.section(
        "explorer",
        "Follow a walk",
        &[
            "The page that was asked for is shown; other pages of the run are beside it, with the walks that the machine \
             would make for them now.",
        ],
        explorer.map(Part::Explorer).into_iter().collect(),
    );
    document.section(
        "configuration",
        "Configuration",
        &["What ran, exactly. Every number of the machine has its source beside it."],
        compare::configuration(experiment),
    );
    document
}
