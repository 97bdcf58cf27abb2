//! `pagewalk reproduce babelfish`: the paper's numbers beside ours.

use crate::cli::{BabelfishArgs, Output};
use crate::progress::Bar;
use crate::report::{thousands, under};
use anyhow::Result;
use lab::Outcome;
use lab::containers::RequestCounts;
use lab::reproduce::babelfish::{self, Choice, Report, Row, SYSTEMS, mpki, shared_hits};
use lab::reproduce::sheet::change;
use std::fmt::Write;
use std::path::Path;

/// Runs it and prints it.
pub fn babelfish(args: &BabelfishArgs, html: Option<&Path>, output: Output) -> Result<()> {
    let choice = Choice {
        workloads: args.workloads.clone(),
        cores: args.cores,
        quantum: args.quantum,
        accesses: args.accesses,
        warmup: args.warmup,
        seed: args.seed,
        verify: args.verify,
        beyond: args.beyond,
    };
    let bar = Bar::new(output.quiet);
    let report = babelfish::run(&choice, &mut |p| bar.show(p))?;
    bar.end();
    if let Some(file) = html {
        crate::html::babelfish(&report, choice.seed, &text(&report, &choice)).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json("reproduce babelfish", &report);
    }
    crate::show(&text(&report, &choice))
}

fn percent(share: f64) -> String {
    format!("{:+.1}%", 100.0 * share)
}

fn requests(outcome: &Outcome) -> RequestCounts {
    outcome.requests.unwrap_or_default()
}

fn text(report: &Report, choice: &Choice) -> String {
    let mut text = format!(
        "BabelFish (ISCA 2020) on {}\n{} cores, two containers on each (functions: three); turns of {} instructions; {} accesses \
         counted after {}\n\nChange of time from `native`: of the mean request (serving, functions), of all cycles (compute)\n",
        report.machine,
        choice.cores,
        thousands(choice.quantum),
        thousands(choice.accesses),
        thousands(choice.warmup)
    );
    let time = |row: &Row| {
        let of = |system: &str| row.of(system).map_or(String::new(), |o| percent(row.change(o)));
        let parts = SYSTEMS[1..].iter().map(|system| of(system));
        [row.workload.clone()].into_iter().chain(parts).chain([percent(row.change(&row.larger))]).collect()
    };
    let larger = format!("STLB of {}", report.stlb[1]);
    text += &under(
        ["", "babelfish", "TLB only", "tables only", "no mask", &larger],
        report.rows.iter().map(time),
        1..,
    );
    text += "\nRequests and bring-up, in cycles of their own: without BabelFish, and the change with it\n";
    text += &under(
        ["", "requests", "mean", "", "95 of 100", "", "bring-up", ""],
        report.rows.iter().filter_map(|row| {
            let (base, with) = (requests(row.of(SYSTEMS[0])?), requests(row.of(SYSTEMS[1])?));
            let served = base.requests > 0;
            let of_requests = |text: String| if served { text } else { "-".to_string() };
            Some(vec![
                row.workload.clone(),
                thousands(base.requests),
                of_requests(thousands(base.mean as u64)),
                of_requests(percent(change(base.mean, with.mean))),
                of_requests(thousands(base.tail)),
                of_requests(percent(change(base.tail as f64, with.tail as f64))),
                thousands(babelfish::bring_up(&base) as u64),
                percent(change(babelfish::bring_up(&base), babelfish::bring_up(&with))),
            ])
        }),
        1..,
    );
    text += "\nSTLB misses per thousand instructions, shared hits as a share of STLB hits, faults\n";
    text += &under(
        ["", "data", "with", "", "instr", "with", "", "shared hits", "faults", "with"],
        report.rows.iter().filter_map(|row| {
            let (base, with) = (row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?);
            let ([data, fetch], [data_with, fetch_with]) = (mpki(base), mpki(with));
            Some(vec![
                row.workload.clone(),
                format!("{data:.2}"),
                format!("{data_with:.2}"),
                percent(change(data, data_with)),
                format!("{fetch:.2}"),
                format!("{fetch_with:.2}"),
                percent(change(fetch, fetch_with)),
                format!("{:.0}%", 100.0 * shared_hits(with)),
                thousands(base.software.page_faults_in_all),
                thousands(with.software.page_faults_in_all),
            ])
        }),
        1..,
    );
    text += "\nTranslations of the containers at the end (`native`): shareable ones, and active ones that are saved; what \
             sharing takes\n";
    text += &under(
        ["", "entries", "shareable", "active", "saved", "tables", "with", "MaskPages", "overhead"],
        report.rows.iter().filter_map(|row| {
            let (base, with) = (row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?);
            let (all, sharing) = (base.shareable?, with.sharing?);
            Some(vec![
                row.workload.clone(),
                thousands(all.entries),
                format!("{:.0}%", 100.0 * all.share()),
                thousands(all.active),
                format!("{:.0}%", 100.0 * all.active_saved()),
                crate::report::bytes(base.tables.total()),
                crate::report::bytes(with.tables.total()),
                sharing.mask_pages.to_string(),
                format!("{:.3}%", 100.0 * sharing.overhead),
            ])
        }),
        1..,
    );
    if choice.beyond {
        text += "\nBeyond the paper: change of time from the same system without BabelFish\n";
        text += &beyond(&report.rows);
    }
    text += "\n";
    text += &beside(report);
    if choice.verify {
        text += "\nThe oracle checked every access and found no mismatch.\n";
    }
    text
}

fn beyond(rows: &[Row]) -> String {
    let pairs = [
        ("aslr=software", "native", "native+babelfish+aslr=software"),
        ("and L1", "native", "native+babelfish+aslr=software+share-l1"),
        ("thp", "native-thp", "native-thp+babelfish"),
        ("nested", "nested", "nested+babelfish"),
    ];
    let names = pairs.map(|(name, ..)| name);
    under(
        ["", names[0], names[1], names[2], names[3]],
        rows.iter().map(|row| {
            let of = |from: &str, to: &str| match (row.of(from), row.of(to)) {
                (Some(from), Some(to)) => percent(change(row.time(from), row.time(to))),
                _ => String::new(),
            };
            let cells = pairs.iter().map(|(_, from, to)| of(from, to));
            [row.workload.clone()].into_iter().chain(cells).collect()
        }),
        1..,
    )
}

/// The paper's numbers beside ours, with how far to trust them.
fn beside(report: &Report) -> String {
    let mut text = String::from("The paper's numbers and ours\n");
    text += &super::beside(&report.published(), false);
    let _ = writeln!(
        text,
        "\nsilicon (22 nm, CACTI; citing text): the STLB grows from {:.3} to {:.3} mm2, its access from {:.0} to {:.0} ps; a core by {:.1} %, {:.2} % without masks",
        babelfish::cost::CONVENTIONAL.area_mm2,
        babelfish::cost::BABELFISH.area_mm2,
        babelfish::cost::CONVENTIONAL.access_ps,
        babelfish::cost::BABELFISH.access_ps,
        100.0 * babelfish::cost::CORE_AREA,
        100.0 * babelfish::cost::CORE_AREA_NO_MASK,
    );
    text
}
