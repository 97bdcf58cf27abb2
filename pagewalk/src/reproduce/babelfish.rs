//! `pagewalk reproduce babelfish`: the paper's numbers beside ours.

use crate::cli::{BabelfishArgs, Output};
use crate::progress::Bar;
use crate::report::thousands;
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use lab::Outcome;
use lab::containers::{RequestCounts, Shareable};
use lab::reproduce::babelfish::{self, Choice, Class, Report, Row, SYSTEMS, change, mpki, shared_hits};
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
        crate::html::babelfish(&report, &text(&report, &choice)).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json("reproduce babelfish", &report);
    }
    crate::print(&text(&report, &choice))
}

fn percent(share: f64) -> String {
    format!("{:+.1}%", 100.0 * share)
}

fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = Vec<String>>,
    left: usize,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string().lines().map(|line| line.trim_end().to_string() + "\n").collect()
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
    text += &table(
        ["", "babelfish", "TLB only", "tables only", "no mask", &larger],
        report.rows.iter().map(time),
        1,
    );
    text += "\nRequests and bring-up, in cycles of their own: without BabelFish, and the change with it\n";
    text += &table(
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
                thousands(start(&base) as u64),
                percent(change(start(&base), start(&with))),
            ])
        }),
        1,
    );
    text += "\nSTLB misses per thousand instructions, shared hits as a share of STLB hits, faults\n";
    text += &table(
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
        1,
    );
    text += "\nTranslations of the containers at the end (`native`): shareable ones, and active ones that are saved; what \
             sharing takes\n";
    text += &table(
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
        1,
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

/// The mean bring-up: of those counted, or if none began then, of all.
fn start(requests: &RequestCounts) -> f64 {
    if requests.starts > 0 { requests.mean_start } else { requests.mean_start_in_all }
}

fn beyond(rows: &[Row]) -> String {
    let pairs = [
        ("aslr=software", "native", "native+babelfish+aslr=software"),
        ("and L1", "native", "native+babelfish+aslr=software+share-l1"),
        ("thp", "native-thp", "native-thp+babelfish"),
        ("nested", "nested", "nested+babelfish"),
    ];
    let names = pairs.map(|(name, ..)| name);
    table(
        ["", names[0], names[1], names[2], names[3]],
        rows.iter().map(|row| {
            let of = |from: &str, to: &str| match (row.of(from), row.of(to)) {
                (Some(from), Some(to)) => percent(change(row.time(from), row.time(to))),
                _ => String::new(),
            };
            let cells = pairs.iter().map(|(_, from, to)| of(from, to));
            [row.workload.clone()].into_iter().chain(cells).collect()
        }),
        1,
    )
}

/// The mean over rows of a class of what `get` says.
fn mean(report: &Report, class: Class, get: impl Fn(&Row, &Outcome, &Outcome) -> Option<f64>) -> Option<f64> {
    let rows = report.rows.iter().filter(|row| row.class == class);
    let values: Vec<f64> =
        rows.filter_map(|row| get(row, row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The paper's numbers beside ours, with how far to trust them.
fn beside(report: &Report) -> String {
    let containers = |get: &dyn Fn(&Shareable) -> f64| {
        let rows = report.rows.iter().filter(|row| row.class != Class::Functions);
        let values: Vec<f64> =
            rows.filter_map(|row| row.of(SYSTEMS[0])?.shareable.as_ref().map(get)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let one = |name: &str, get: &dyn Fn(&Row, &Outcome, &Outcome) -> f64| {
        let row = report.rows.iter().find(|row| row.workload == name)?;
        Some(get(row, row.of(SYSTEMS[0])?, row.of(SYSTEMS[1])?))
    };
    let whole = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.0}%", 100.0 * share));
    let signed = |share: Option<f64>| share.map_or("-".to_string(), percent);
    let functions = |get: &dyn Fn(&Shareable) -> f64| {
        mean(report, Class::Functions, |_, base, _| base.shareable.as_ref().map(get))
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |what: &str, paper: &str, here: String, trust: &str| {
        rows.push([what, paper, &here, trust].map(str::to_string).to_vec());
    };
    row("shareable translations, containers", "53%", whole(containers(&|s| s.share())), "abstract");
    row("shareable translations, functions", "93%", whole(functions(&|s| s.share())), "abstract");
    row(
        "active translations saved, containers",
        "30%",
        whole(containers(&|s| s.active_saved())),
        "citing text; which is which: recalled",
    );
    row(
        "active translations saved, functions",
        "57%",
        whole(functions(&|s| s.active_saved())),
        "citing text; which is which: recalled",
    );
    let latency = |get: fn(&RequestCounts) -> f64| {
        mean(report, Class::Serving, move |_, base, with| {
            Some(change(get(&requests(base)), get(&requests(with))))
        })
    };
    row("data serving, mean latency", "-11%", signed(latency(|r| r.mean)), "abstract");
    row("data serving, tail latency", "-18%", signed(latency(|r| r.tail as f64)), "abstract");
    let time = |class| mean(report, class, |row, _, with| Some(row.change(with)));
    row("compute, execution time", "-11%", signed(time(Class::Compute)), "abstract");
    let bring_up = mean(report, Class::Functions, |_, base, with| {
        Some(change(start(&requests(base)), start(&requests(with))))
    });
    row("functions, bring-up", "-8%", signed(bring_up), "abstract");
    row(
        "functions, execution, dense",
        "-10%",
        signed(one("functions-dense", &|row, _, with| row.change(with))),
        "abstract; dense: recalled",
    );
    row(
        "functions, execution, sparse",
        "-55%",
        signed(one("functions-sparse", &|row, _, with| row.change(with))),
        "abstract; sparse: recalled",
    );
    row(
        "MongoDB, STLB misses of data",
        "-66%",
        signed(one("mongodb", &|_, base, with| change(mpki(base)[0], mpki(with)[0]))),
        "recalled, low trust",
    );
    row(
        "MongoDB, STLB misses of instructions",
        "-96%",
        signed(one("mongodb", &|_, base, with| change(mpki(base)[1], mpki(with)[1]))),
        "recalled, low trust",
    );
    let alone = |class| mean(report, class, |row, _, _| Some(row.change(row.of(SYSTEMS[2])?)));
    row(
        "serving, TLB entries alone",
        "0.6 of the gain",
        signed(alone(Class::Serving)),
        "recalled, low trust",
    );
    row(
        "compute, TLB entries alone",
        "0.2 of the gain",
        signed(alone(Class::Compute)),
        "recalled, low trust",
    );
    let larger = mean(report, Class::Serving, |row, _, _| Some(row.change(&row.larger)));
    row("serving, with the larger STLB instead", "about -2%", signed(larger), "recalled, low trust");
    let overhead = report
        .rows
        .iter()
        .filter_map(|row| row.of(SYSTEMS[1])?.sharing)
        .fold((0, 0), |(bytes, tables), s| (bytes + s.bytes, tables + 4096 * s.shared_tables));
    let overhead = (overhead.1 > 0).then(|| overhead.0 as f64 / overhead.1 as f64);
    row(
        "space overhead, of shared tables",
        "0.238%",
        overhead.map_or("-".into(), |x| format!("{:.3}%", 100.0 * x)),
        "citing text",
    );
    let mut text = String::from("The paper's numbers and ours\n");
    text += &table(["", "paper", "here", "source of the paper's value"], rows, 1);
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
