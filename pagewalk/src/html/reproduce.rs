//! Reports of what others measured beside what the model says.

use super::{Chart, Document, Mark, Part, Table, rounded};
use lab::experiment::SEED;
use lab::figures::{Cell, Figure};
use lab::reproduce::babelfish;
use lab::reproduce::passthrough::{self, Judgement, LABELS};
use lab::reproduce::ptemagnet::{Company, Measured, Report};
use lab::reproduce::segments::ClassReport;
use lab::reproduce::together::{Met, Pair};
use lab::reproduce::{CurvePoint, Row};
use serde_json::{Value, json};

/// A quantity that somebody measured, and the model's.
#[derive(Debug, Clone)]
struct Beside {
    group: String,
    what: String,
    measured: Option<f64>,
    model: f64,
    /// Where the measured one is from.
    source: String,
}

const COLORS: [(&str, &str); 2] = [("measured", "#0072b2"), ("model", "#d55e00")];

/// A report with nothing in it yet, of runs of one seed.
pub(super) fn begin(title: &str, lead: &str, seed: u64) -> Document {
    let mut document = Document::new(title.to_string(), lead.to_string());
    document.about("seed", seed);
    document
}

/// Charts and a table of quantities, group by group; then what is printed without `--html`.
fn document(title: &str, lead: &str, unit: &str, rows: &[Beside], text: &str) -> Document {
    let mut document = begin(title, lead, SEED);
    // Of some, nobody has measured any.
    let measured = rows.iter().any(|r| r.measured.is_some());
    let what = if measured { "Measured and model" } else { "What comes out" };
    let mut chart =
        Chart::new(Mark::Dots, what, &["value", "what", "which", "group", "difference", "source"]);
    chart.labels = (unit.to_string(), String::new());
    chart.facet = rows.iter().any(|r| r.group != rows[0].group).then_some("group");
    if measured {
        chart.colors = COLORS.map(|(name, color)| (name.to_string(), color)).to_vec();
    }
    let columns: &[&str] = match measured {
        true => &["group", "what", "measured", "model", "difference", "source of the measured value"],
        false => &["group", "what", unit],
    };
    let mut table = Table {
        title: if measured { "Measured, model, and how far off" } else { "As a table" }.to_string(),
        columns: columns.iter().map(ToString::to_string).collect(),
        rows: Vec::new(),
    };
    for r in rows {
        let off = r.measured.filter(|m| *m != 0.0).map(|m| format!("{:+.1} %", 100.0 * (r.model / m - 1.0)));
        for (which, value) in [("measured", r.measured), ("model", Some(r.model))] {
            if let Some(value) = value {
                chart.row(vec![
                    rounded(value),
                    json!(r.what),
                    json!(which),
                    json!(r.group),
                    json!(off),
                    json!(r.source),
                ]);
            }
        }
        let mut row = vec![json!(r.group), json!(r.what), rounded(r.model)];
        if measured {
            row.insert(2, r.measured.map_or(Value::Null, rounded));
            row.extend([json!(off), json!(r.source)]);
        }
        table.rows.push(row);
    }
    document.section("compared", what, &[], vec![Part::Chart(chart), Part::Table(table)]);
    if !text.is_empty() {
        document.printed("As text", "All of it as text", text);
    }
    document
}

/// `reproduce gups`.
pub fn gups(rows: &[Row], text: &str) -> Document {
    let beside: Vec<Beside> = rows
        .iter()
        .map(|r| Beside {
            group: r.unit.to_string(),
            what: r.what.clone(),
            measured: Some(r.measured),
            model: r.model,
            source: r.source.to_string(),
        })
        .collect();
    document(
        "GUPS on Mitosis's machine",
        "Each quantity as measured and as the model has it.",
        "value",
        &beside,
        text,
    )
}

/// `reproduce together`: nobody measured these.
pub fn together(met: &[(&Pair, &Met)], text: &str) -> Document {
    let mut rows = Vec::new();
    for (pair, met) in met {
        rows.extend(pair.systems.iter().zip(met.cycles).map(|(system, cycles)| Beside {
            group: pair.name.to_string(),
            what: (*system).to_string(),
            measured: None,
            model: cycles / met.cycles[0],
            source: String::new(),
        }));
    }
    document(
        "Mechanisms alone and together",
        "Cycles of the same accesses as shares of those under neither mechanism. No paper has these.",
        "cycles, share of neither",
        &rows,
        text,
    )
}

/// `reproduce tlb-curve`.
pub fn curve(points: &[CurvePoint], text: &str) -> Document {
    let lead = "As measured on a Zen 4 in a VM, and as the model has them.";
    let mut document = begin("Nanoseconds per access by footprint", lead, SEED);
    let mut names: Vec<&str> = points.iter().map(|p| p.column).collect();
    names.dedup();
    let mut parts = Vec::new();
    for name in names {
        let mut chart = Chart::new(Mark::Points, name, &["footprint", "ns per access", "which"]);
        chart.log = (true, true);
        chart.bytes = true;
        chart.colors = COLORS.map(|(name, color)| (name.to_string(), color)).to_vec();
        for p in points.iter().filter(|p| p.column == name) {
            chart.row(vec![json!(p.kib << 10), rounded(p.measured), json!("measured")]);
            chart.row(vec![json!(p.kib << 10), rounded(p.model), json!("model")]);
        }
        parts.push(Part::Chart(chart));
    }
    document.section("curves", "Curves", &[], parts);
    document.printed("As text", "All of it as text", text);
    document
}

/// `reproduce mitosis` and `vmitosis`.
pub fn figures(figures: &[&Figure], cells: &[Vec<Cell>], text: &str) -> Document {
    let mut rows = Vec::new();
    for (figure, cells) in figures.iter().zip(cells) {
        rows.extend(cells.iter().map(|cell| Beside {
            group: format!("{}: {}", figure.names.join(", "), figure.title),
            what: format!("{} {}", cell.workload, cell.config),
            measured: Some(cell.measured),
            model: cell.model,
            source: figure.source.to_string(),
        }));
    }
    let lead =
        "Runtimes as shares of each figure's first configuration, as measured and as the model has them.";
    document(
        "Page tables on the wrong node, and copies of them",
        lead,
        "runtime, share of the first",
        &rows,
        text,
    )
}

/// `reproduce passthrough`.
pub fn passthrough(rows: &[passthrough::Measured], judged: &[Judgement], text: &str) -> Document {
    let lead = "Cycles of the same accesses against native, and what is published, judged.";
    let mut document = begin("Translation Pass-Through and the schemes beside it", lead, SEED);
    let columns = ["cycles, against native", "workload", "system", "setting", "exits per 1000 accesses"];
    let mut chart = Chart::new(Mark::Dots, "Time against native", &columns);
    chart.labels.1.clear();
    chart.facet = Some("setting");
    let mut table = Table {
        title: "Cycles per access".to_string(),
        columns: ["setting", "workload"].into_iter().chain(LABELS).map(str::to_string).collect(),
        rows: Vec::new(),
    };
    for row in rows {
        let (setting, workload) = (row.setting.name(), row.case.name);
        for (at, label) in LABELS.iter().enumerate() {
            let share = rounded(row.cycles[at] / row.cycles[0]);
            chart.row(vec![share, json!(workload), json!(label), json!(setting), rounded(row.exits[at])]);
        }
        let cycles = row.cycles.map(rounded);
        table.rows.push([json!(setting), json!(workload)].into_iter().chain(cycles).collect());
    }
    let note = "1 is native; the settings are 4 KiB pages, huge pages, and tables on another socket.";
    document.section("time", "Time", &[note], vec![Part::Chart(chart), Part::Table(table)]);
    let verdict = |holds: Option<bool>| match holds {
        Some(true) => "holds",
        Some(false) => "does not hold",
        None => "nothing that ran can tell",
    };
    let claim = |j: &Judgement| vec![json!(j.claim), json!(j.measured), json!(verdict(j.holds))];
    let claims = Table {
        title: "What is published, and what came out here".to_string(),
        columns: ["claim", "measured", "verdict"].map(str::to_string).to_vec(),
        rows: judged.iter().map(claim).collect(),
    };
    document.section("claims", "Claims", &[], vec![Part::Table(claims)]);
    document.printed("As text", "All of it as text", text);
    document
}

/// `reproduce ptemagnet`.
pub fn ptemagnet(report: &Report, seed: u64, text: &str) -> Document {
    type Get = (&'static str, fn(&Measured) -> f64);
    let gets: [Get; 4] = [
        ("time", |m| m.cycles as f64),
        ("walk cycles", |m| m.walk_cycles as f64),
        ("host cycles", |m| m.host_cycles as f64),
        ("host entries from memory", |m| m.host_from_memory as f64),
    ];
    let lead = "What reservations of 8 neighbouring guest frames change, alone and beside other programs.";
    let mut document = begin(&format!("PTEMagnet on {}", report.machine), lead, seed);
    let mut lines = Chart::new(
        Mark::Dots,
        "Host lines behind a guest line",
        &["lines", "benchmark", "frames", "company"],
    );
    let mut change =
        Chart::new(Mark::Dots, "Change by reservations", &["percent", "benchmark", "of", "company"]);
    change.labels = ("percent, with reservations against without".to_string(), String::new());
    (lines.facet, change.facet) = (Some("company"), Some("company"));
    lines.colors = vec![("buddy".to_string(), "#d55e00"), ("ptemagnet".to_string(), "#0072b2")];
    for pair in &report.pairs {
        let company = match pair.company {
            Company::Alone => "alone",
            Company::Heavy => "beside a heavy co-runner",
            Company::Mix => "beside a mix",
        };
        for (frames, m) in [("buddy", &pair.without), ("ptemagnet", &pair.with)] {
            lines.row(vec![rounded(m.lines.mean), json!(pair.benchmark), json!(frames), json!(company)]);
        }
        for (of, get) in gets {
            let (without, with) = (get(&pair.without), get(&pair.with));
            if without > 0.0 {
                let percent = 100.0 * (with / without - 1.0);
                change.row(vec![rounded(percent), json!(pair.benchmark), json!(of), json!(company)]);
            }
        }
    }
    document.section(
        "lines",
        "How guest and host entries lie",
        &["1: the host's entries for 8 neighbouring pages are on one line; 8: each is on its own."],
        vec![Part::Chart(lines)],
    );
    document.section("change", "What reservations change", &[], vec![Part::Chart(change)]);
    document.printed("Beside the paper", "All of it as text", text);
    document
}

/// `reproduce direct-segments`.
pub fn segments(classes: &[ClassReport], text: &str) -> Document {
    let mut rows = Vec::new();
    for class in classes {
        for row in &class.rows {
            rows.push(Beside {
                group: class.class.name.to_string(),
                what: row.label.to_string(),
                measured: row.paper.map(|(value, _)| 100.0 * value),
                model: 100.0 * row.overhead,
                source: row.paper.map(|(_, tag)| tag.to_string()).unwrap_or_default(),
            });
        }
    }
    let lead = "Cycles more than those of the fastest system, by mode and page size; the paper's where we know them.";
    let mut document = match rows.is_empty() {
        false => document("Direct segments for VMs", lead, "overhead, percent", &rows, text),
        true => {
            let mut only = begin("Direct segments for VMs", lead, SEED);
            only.printed("Faulty frames and ballooning", "As text", text);
            only
        }
    };
    document.about("source", "Efficient Memory Virtualization (Gandhi, Basu, Hill, Swift; MICRO 2014)");
    document
}

/// `reproduce babelfish`.
pub fn babelfish(report: &babelfish::Report, seed: u64, text: &str) -> Document {
    let lead = "What shared TLB entries and tables change for containers of one image.";
    let mut document = begin(&format!("BabelFish on {}", report.machine), lead, seed);
    let mut time = Chart::new(Mark::Dots, "Change of time", &["percent", "workload", "system"]);
    time.labels =
        ("percent, against no sharing: of the mean request, or of all cycles".to_string(), String::new());
    let mut misses =
        Chart::new(Mark::Dots, "STLB misses", &["per thousand instructions", "workload", "system", "of"]);
    misses.facet = Some("of");
    for row in &report.rows {
        let larger = (format!("native, STLB of {}", report.stlb[1]), &row.larger);
        let systems = row.outcomes.iter().map(|outcome| (outcome.system.clone(), outcome));
        for (system, outcome) in systems.chain([larger]) {
            time.row(vec![rounded(100.0 * row.change(outcome)), json!(row.workload), json!(system)]);
            for (of, misses_per) in ["data", "instructions"].into_iter().zip(babelfish::mpki(outcome)) {
                misses.row(vec![rounded(misses_per), json!(row.workload), json!(system), json!(of)]);
            }
        }
    }
    document.section("time", "What sharing changes", &[], vec![Part::Chart(time)]);
    document.section("misses", "What misses remain", &[], vec![Part::Chart(misses)]);
    document.printed("Beside the paper", "All of it as text", text);
    document.about("source", "BabelFish (Skarlatos, Darbaz, Gopireddy, Kim, Torrellas; ISCA 2020)");
    document
}
