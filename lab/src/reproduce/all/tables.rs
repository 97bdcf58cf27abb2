//! What jobs found, as the tables of the page.

use super::super::sheet::{Row, Unit};
use super::super::{CurvePoint, babelfish, passthrough, ptemagnet, segments};
use super::{
    CURVE, DIVIDE_PLACES, Job, OF_BABELFISH, OF_PASSTHROUGH, OF_PTEMAGNET, OF_SEGMENTS, Part, Table, figures,
    of_passthrough_size,
};
use crate::figures::{Cell, Figure, Load, MITOSIS_FIGURES, VMITOSIS_FIGURES};

type Done = [(Job, Part)];

/// All tables, with those that have no rows.
pub(super) fn all(done: &Done) -> Vec<Table> {
    let mut tables = Vec::new();
    for (paper, of) in [("mitosis", &MITOSIS_FIGURES[..]), ("vmitosis", &VMITOSIS_FIGURES[..])] {
        tables.extend(of.iter().flat_map(|figure| of_figure(paper, figure, done)));
        tables.extend(beside_figures(paper, done));
    }
    tables.extend([of_ptemagnet(done), of_babelfish(done)]);
    tables.extend(of_segments(done));
    tables.extend(of_passthrough(done));
    tables.push(of_curve(done));
    tables
}

fn table(
    (paper, page): (&'static str, &'static str),
    figure: impl Into<String>,
    title: impl Into<String>,
    sizes: impl Into<String>,
    command: impl Into<String>,
    rows: Vec<Row>,
) -> Table {
    let (figure, title, sizes, command) = (figure.into(), title.into(), sizes.into(), command.into());
    Table { paper, figure, title, sizes, command, page, rows }
}

/// Rows of the job that `is` says.
fn rows(done: &Done, is: fn(&Job) -> bool) -> Vec<Row> {
    let of = done.iter().filter(|(job, _)| is(job)).filter_map(|(_, part)| match part {
        Part::Rows(rows) => Some(rows.clone()),
        _ => None,
    });
    of.flatten().collect()
}

const MITOSIS: &str = "mitosis.md";

fn of_figure(paper: &'static str, figure: &'static Figure, done: &Done) -> Vec<Table> {
    let of = done.iter().filter(|(job, _)| matches!(job, Job::Figure(f, _) if f.names == figure.names));
    let cells: Vec<Cell> = of
        .filter_map(|(_, part)| if let Part::Cells(cells) = part { Some(cells.clone()) } else { None })
        .flatten()
        .collect();
    let (divide, fewer) = super::scale(figure);
    let size = |load: &Load| {
        let (warmup, accesses) = load.accesses;
        let divided = match load.divided.max(divide) {
            1 => String::new(),
            by => format!(" / {by}"),
        };
        let (accesses, warmup) = (accesses / fewer / 1000, warmup / fewer / 1000);
        format!("{} {} GiB{divided}, {accesses} k accesses after {warmup} k", load.name, load.paper_gib)
    };
    let alike = match figure.loads.iter().any(|load| load.divided.max(divide) > 1) {
        true => "; where a footprint is divided, memory of nodes and last-level caches are as well",
        false => "",
    };
    let sizes = figure.loads.iter().map(size).collect::<Vec<_>>().join("; ");
    let sizes = format!("on {}: {sizes}{alike}", figure.machine);
    let command = format!("pagewalk reproduce {paper} --figure {}", figure.names[0]);
    let name = match figure.names {
        [name] => (*name).to_string(),
        [_, numbers @ ..] => format!("figure {}", numbers.join(" and ")),
        [] => String::new(),
    };
    let one = |what: &str, rows| {
        let title = format!("{what}: {}", figure.title);
        table((paper, MITOSIS), name.clone(), title, sizes.clone(), command.clone(), rows)
    };
    vec![
        one("speed-up by the mechanism", figures::gains(figure, &cells)),
        one("runtime against the first configuration", figures::runtimes(figure, &cells)),
        one("walker busy, share of the cycles", figures::walks(figure, &cells)),
    ]
}

/// What the papers of page-table placement have besides figures of runtimes.
fn beside_figures(paper: &'static str, done: &Done) -> Vec<Table> {
    let here = (paper, MITOSIS);
    let bench = "cargo bench -p mechanisms --bench mitosis_ops";
    let areas = "the kernel's cycles of the second call of its kind; nothing scaled";
    if paper == "vmitosis" {
        return vec![
            table(
                here,
                "text",
                "operations on areas with copies of both tables",
                areas,
                bench,
                rows(done, |job| matches!(job, Job::CostsInVm)),
            ),
            table(
                here,
                "text",
                "memory that copies of both tables take",
                "32 GiB of data on cascade-lake",
                "pagewalk run -s nested+vnuma+mitosis+host-mitosis -m cascade-lake -w gups:footprint=32GiB --json",
                rows(done, |job| matches!(job, Job::MemoryOfVm)),
            ),
        ];
    }
    vec![
        table(
            here,
            "figure 4, and the 2018 talk",
            "leaf entries that lie on other sockets, as each socket sees them, after first touch",
            format!("footprints / {DIVIDE_PLACES}, no accesses: placement does not depend on them"),
            "pagewalk run -s native+spread -m haswell-ex -w canneal:threads=56 --dump-tables -n 1",
            rows(done, |job| matches!(job, Job::Remote)),
        ),
        table(
            here,
            "table 4, and the 2018 talk",
            "memory that copies take",
            "1 MiB, 1 GiB; 32 GiB stand for the talk's 400 GB",
            bench,
            rows(done, |job| matches!(job, Job::Memory)),
        ),
        table(
            here,
            "table 5",
            "operations on areas with four copies against one",
            areas,
            bench,
            rows(done, |job| matches!(job, Job::Costs)),
        ),
        table(
            (paper, "model.md"),
            "figure 6, cycles",
            "GUPS of 64 GiB: cycles of an update, if the published ones are of 2^31",
            "the paper's size, 4 M accesses after 6 M",
            "pagewalk reproduce gups",
            rows(done, |job| matches!(job, Job::Gups)),
        ),
    ]
}

fn of_ptemagnet(done: &Done) -> Table {
    let pairs: Vec<ptemagnet::Pair> = done
        .iter()
        .filter_map(|(_, part)| if let Part::Pairs(pairs) = part { Some(pairs.clone()) } else { None })
        .flatten()
        .collect();
    let (footprint, warmup, accesses) = OF_PTEMAGNET;
    table(
        ("ptemagnet", "ptemagnet.md"),
        "abstract and motivation",
        "a benchmark in a VM alone, beside a heavy co-runner and in a mix",
        format!(
            "benchmarks of {footprint}, {} k accesses after {} k; the paper's graphs: the 16 GB class",
            accesses / 1000,
            warmup / 1000
        ),
        "pagewalk reproduce ptemagnet",
        if pairs.is_empty() { Vec::new() } else { ptemagnet::published(&pairs) },
    )
}

fn of_babelfish(done: &Done) -> Table {
    let reports = done.iter().filter_map(|(_, part)| match part {
        Part::Containers(report) => Some(report.clone()),
        _ => None,
    });
    let all = reports.reduce(|mut all, more| {
        all.rows.extend(more.rows);
        all
    });
    let (warmup, accesses, cores, quantum) = OF_BABELFISH;
    table(
        ("babelfish", "babelfish.md"),
        "abstract and evaluation",
        "containers of one image on shared cores",
        format!(
            "{cores} cores of 8, turns of {} k instructions, {} k accesses after {} k",
            quantum / 1000,
            accesses / 1000,
            warmup / 1000
        ),
        "pagewalk reproduce babelfish",
        all.map_or(Vec::new(), |report: babelfish::Report| report.published()),
    )
}

fn of_segments(done: &Done) -> Vec<Table> {
    let here = ("segments", "direct-segments.md");
    let classes: Vec<segments::ClassReport> = done
        .iter()
        .filter_map(|(_, part)| if let Part::Class(class) = part { Some(class.clone()) } else { None })
        .collect();
    let bad: Vec<segments::BadFrames> = done
        .iter()
        .filter_map(|(_, part)| if let Part::Bad(bad) = part { Some(bad.clone()) } else { None })
        .flatten()
        .collect();
    let (footprint, (warmup, accesses)) = OF_SEGMENTS;
    vec![
        table(
            here,
            "table of modes",
            "what a walk takes with empty walk caches",
            "one page",
            "pagewalk explain vmm-direct 0x7fffc0001000 -w gups",
            rows(done, |job| matches!(job, Job::Counts)),
        ),
        table(
            here,
            "evaluation",
            "overhead of translation, of time without it",
            format!(
                "big-memory programs of {footprint}, {} k accesses after {} k",
                accesses / 1000,
                warmup / 1000
            ),
            "pagewalk reproduce direct-segments",
            segments::published(&classes, &bad),
        ),
    ]
}

fn of_passthrough(done: &Done) -> Vec<Table> {
    let measured: Vec<passthrough::Measured> = done
        .iter()
        .filter_map(|(_, part)| if let Part::PassThrough(row) = part { Some((**row).clone()) } else { None })
        .collect();
    let mut sizes: Vec<String> = Vec::new();
    for row in &measured {
        let size = of_passthrough_size(row.case);
        let (counted, before) = (size.accesses / 1000, size.warmup / 1000);
        let said = format!("{counted} k accesses of {} after {before} k", size.footprint);
        let of = if size.footprint == OF_PASSTHROUGH.footprint { "programs" } else { row.case.name };
        let said = format!("{of}: {said}");
        if !sizes.contains(&said) {
            sizes.push(said);
        }
    }
    let sizes = sizes.join("; ");
    let command = "pagewalk reproduce passthrough";
    let (of_tpt, of_agile) = match measured.is_empty() {
        true => (Vec::new(), Vec::new()),
        false => (passthrough::published(&measured), passthrough::published_of_agile(&measured)),
    };
    vec![
        table(
            ("passthrough", "passthrough.md"),
            "design",
            "what a walk takes with empty walk caches",
            "one page",
            "pagewalk explain passthrough 0x7fffc0001000 -w gups",
            rows(done, |job| matches!(job, Job::TagCounts)),
        ),
        table(
            ("passthrough", "passthrough.md"),
            "abstract, and the artifact's notes",
            "time beside nested, shadow and native, and memory",
            sizes.clone(),
            command,
            of_tpt,
        ),
        table(
            ("agile", "passthrough.md"),
            "abstract",
            "time of agile paging over all programs of the table above, 4 KiB pages",
            sizes,
            command,
            of_agile,
        ),
    ]
}

fn of_curve(done: &Done) -> Table {
    let points = done
        .iter()
        .filter_map(|(_, part)| if let Part::Curve(points) = part { Some(points.clone()) } else { None })
        .flatten();
    let row = |point: CurvePoint| {
        let what = format!("{}, {} MiB: time of an access", point.column, point.kib >> 10);
        Row::new(point.column, what, Unit::Nanoseconds, (point.measured, "HW"), point.model)
    };
    let (footprints, most) = CURVE;
    table(
        ("hardware", "model.md"),
        "TLB curve",
        "time of an access by footprint and pattern, in a VM",
        format!("{} of 35 footprints, at most {} k accesses", footprints.len(), most / 1000),
        "pagewalk reproduce tlb-curve",
        points.map(row).collect(),
    )
}
