//! The report of an advice: what would help a program, by how much, and what it needs.

use super::{Chart, Document, Mark, Part, Table, colors_of, compare, rounded};
use lab::Outcome;
use lab::advise::{Reach, Verdict};
use serde_json::json;

/// The report. Each of `places` has the system of today, and what would help there; `runs` are those of the first seed.
pub fn advise(places: &[(&str, &[Verdict])], runs: &[Outcome], seeds: u64, text: &str) -> Document {
    let workload = runs.first().map_or("", |o| o.workload.as_str());
    let mut document = Document::new(
        format!("What would help: {workload}"),
        "Each remedy on the same accesses as the system of today: what it saves, what it costs, and what it needs."
            .to_string(),
    );
    document.about("workload", workload);
    document.about("machine", runs.first().map_or("", |o| o.machine.as_str()));
    document.about("seeds", seeds);
    let columns = [
        "percent of the time saved",
        "system",
        "changed",
        "place",
        "least",
        "most",
        "needs",
        "helps under all seeds",
    ];
    let mut chart = Chart::new(Mark::Dots, "What each remedy saves", &columns);
    chart.facet = Some("place");
    chart.colors = colors_of(Reach::ALL.map(Reach::says));
    let names = [
        "place",
        "system",
        "saves, %",
        "least",
        "most",
        "walks left, %",
        "memory more, MiB",
        "tables more, KiB",
    ];
    let names = names.into_iter().chain(["kernel, cycles per access", "changed", "needs", "sure"]);
    let mut table = Table {
        title: "Remedies".to_string(),
        columns: names.map(str::to_string).collect(),
        rows: Vec::new(),
    };
    for (today, verdicts) in places {
        let place = if *today == "native" { "without a VM" } else { "in a VM" };
        for v in *verdicts {
            let sure = if v.sure { "yes" } else { "no" };
            let saved = |share: f64| rounded(100.0 * share);
            chart.row(vec![
                saved(v.saves.mean),
                json!(v.remedy.system),
                json!(v.remedy.reach.says()),
                json!(place),
                saved(v.saves.low),
                saved(v.saves.high),
                json!(v.remedy.needs),
                json!(sure),
            ]);
            // Of seeds, no more is known.
            let percent = |share: f64| rounded((1e4 * share).round() / 100.0);
            table.rows.push(vec![
                json!(place),
                json!(v.remedy.system),
                percent(v.saves.mean),
                percent(v.saves.low),
                percent(v.saves.high),
                percent(v.walks),
                rounded(v.frames as f64 / 256.0),
                rounded(v.table_bytes as f64 / 1024.0),
                rounded(v.software),
                json!(change(v.remedy.reach)),
                json!(v.remedy.needs),
                json!(sure),
            ]);
        }
    }
    document.section(
        "advice",
        "What would help",
        &["Right of 0 is saved, left of 0 is lost; a bar is the spread over seeds."],
        vec![Part::Chart(chart), Part::Table(table)],
    );
    let outcomes: Vec<&Outcome> = runs.iter().collect();
    document.section(
        "cycles",
        "Where the cycles go",
        &["Of the first seed's runs."],
        vec![Part::Chart(compare::stacked(&outcomes)), Part::Chart(compare::inside(&outcomes))],
    );
    document.printed("As text", "The same as text", text);
    document
}

/// What must be changed, in a word.
fn change(reach: Reach) -> &'static str {
    match reach {
        Reach::Today => "settings",
        Reach::Kernel => "kernel",
        Reach::Hardware => "hardware",
    }
}
