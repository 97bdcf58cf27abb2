//! `attack passthrough` and `reproduce passthrough`.

use crate::cli::{AttackArgs, Output, PassThroughArgs};
use crate::progress::Bar;
use anyhow::{Result, bail};
use lab::reproduce::passthrough::{self as report, CASES, Judgement, LABELS, Measured, Setting, Size};
use mechanisms::passthrough::Checks;
use mechanisms::passthrough::attack::{ATTACKS, Attack, Tally};
use paging::random::SplitMix64;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// What is printed of an attack.
#[derive(Serialize)]
struct AttackRow {
    /// The attack's name.
    attack: &'static str,
    /// What the guest does.
    what: &'static str,
    /// With the table check, or with the data check alone.
    table_check: bool,
    /// Accesses made.
    accesses: u64,
    /// Of these, faults that a tag's check raised.
    tag_faults: u64,
    /// Other faults: the guest's own.
    page_faults: u64,
    /// Accesses that reached a frame of the guest's own.
    own: u64,
    /// Accesses that reached a foreign frame.
    foreign_data: u64,
    /// Foreign words that the walker took for entries.
    foreign_entries: u64,
    /// Foreign words that the walker changed.
    foreign_changed: u64,
}

/// What is printed of a comparison.
#[derive(Serialize)]
struct Report {
    /// Names of the systems, in the order of each row's numbers.
    systems: [&'static str; LABELS.len()],
    /// A workload in a setting each.
    rows: Vec<Measured>,
    /// The paper's claims.
    judged: Vec<Judgement>,
}

fn splitmix(seed: u64) -> impl FnMut() -> u64 {
    let mut random = SplitMix64(seed);
    move || random.next()
}

const ATTACKS_INTRODUCTION: &str = "\
A hostile guest on a machine with a victim and a host. It writes what it likes into memory of its own, enters with any
root it names, and accesses what it likes; the host takes frames from it and gives them to others meanwhile. After each
access all memory is looked at: did it reach a frame that is not its own, did the walker take foreign words for entries,
or change some?
";

/// Plays all attacks with both checks, and with the data check alone.
///
/// # Errors
/// If an attack gets out of both checks.
pub fn attack(args: &AttackArgs, output: Output) -> Result<()> {
    let known = ATTACKS.map(|attack| attack.name);
    if let Some(wrong) = args.attacks.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no attack `{wrong}`; there are {}", known.join(", "));
    }
    let wanted = |a: &&Attack| args.attacks.is_empty() || args.attacks.iter().any(|n| n == a.name);
    let mut rows: Vec<(&Attack, bool, Tally)> = Vec::new();
    for tables in [true, false] {
        for attack in ATTACKS.iter().filter(wanted) {
            let tally =
                attack.run(Checks { tables, overlapped: false }, args.rounds, &mut splitmix(args.seed));
            rows.push((attack, tables, tally));
        }
    }
    let escaped: Vec<&str> = rows.iter().filter(|r| r.1 && !r.2.is_clean()).map(|r| r.0.name).collect();
    if output.json {
        let row = |(attack, tables, t): &(&Attack, bool, Tally)| AttackRow {
            attack: attack.name,
            what: attack.what,
            table_check: *tables,
            accesses: t.accesses,
            tag_faults: t.tag_faults,
            page_faults: t.page_faults,
            own: t.own,
            foreign_data: t.foreign_data,
            foreign_entries: t.foreign_entries,
            foreign_changed: t.foreign_changed,
        };
        let rows: Vec<AttackRow> = rows.iter().map(row).collect();
        crate::print_json_rows("attack passthrough", &rows)?;
    } else {
        crate::show(&attacks_text(&rows, args.seed))?;
    }
    if escaped.is_empty() { Ok(()) } else { bail!("isolation is broken by {}", escaped.join(", ")) }
}

fn attacks_text(rows: &[(&Attack, bool, Tally)], seed: u64) -> String {
    let mut text = ATTACKS_INTRODUCTION.to_string();
    for (tables, title) in [(true, "data check and table check"), (false, "data check alone")] {
        let _ = write!(
            text,
            "\n{title} (seed {seed})\n{:22}{:>10}{:>12}{:>12}{:>10}{:>14}{:>14}{:>14}\n",
            "",
            "accesses",
            "tag faults",
            "own faults",
            "own data",
            "foreign data",
            "foreign words",
            "words changed"
        );
        for (attack, _, t) in rows.iter().filter(|row| row.1 == tables) {
            let _ = writeln!(
                text,
                "{:22}{:>10}{:>12}{:>12}{:>10}{:>14}{:>14}{:>14}",
                attack.name,
                t.accesses,
                t.tag_faults,
                t.page_faults,
                t.own,
                t.foreign_data,
                t.foreign_entries,
                t.foreign_changed
            );
        }
        let total = |f: &dyn Fn(&Tally) -> u64| -> u64 {
            rows.iter().filter(|row| row.1 == tables).map(|row| f(&row.2)).sum()
        };
        let (data, words, changed) =
            (total(&|t| t.foreign_data), total(&|t| t.foreign_entries), total(&|t| t.foreign_changed));
        text += &match (data, words) {
            (0, 0) => "Nothing foreign was reached.\n".to_string(),
            (0, _) => format!(
                "No foreign data was reached, but the walker took {words} foreign words for entries, which their faults \
                 tell of, and\nset bits in {changed} of them: without the table check a guest reads and changes foreign memory.\n"
            ),
            _ => format!("{data} accesses reached foreign data.\n"),
        };
    }
    text += "\nWhat they do:\n";
    for (attack, ..) in rows.iter().filter(|row| row.1) {
        let _ = writeln!(text, "  {:20}  {}", attack.name, attack.what);
    }
    text
}

/// Prints pass-through beside native, nested, shadow and agile paging, and what others say.
pub fn reproduce(args: &PassThroughArgs, html: Option<&Path>, output: Output) -> Result<()> {
    let known = CASES.map(|case| case.name);
    if let Some(wrong) = args.workloads.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no workload `{wrong}` here; there are {}", known.join(", "));
    }
    let settings = Setting::ALL.map(Setting::name);
    if let Some(wrong) = args.settings.iter().find(|name| !settings.contains(&name.as_str())) {
        bail!("there is no setting `{wrong}`; there are {}", settings.join(", "));
    }
    let bar = Bar::new(output.quiet);
    let size = Size { footprint: &args.footprint, warmup: args.warmup, accesses: args.accesses };
    let mut rows = Vec::new();
    let mut all = String::new();
    let mut say = |text: String| {
        all += &text;
        if output.json { Ok(()) } else { crate::show(&text) }
    };
    for setting in Setting::ALL {
        if !args.settings.is_empty() && !args.settings.iter().any(|name| name == setting.name()) {
            continue;
        }
        say(heading(setting))?;
        for case in CASES {
            if !args.workloads.is_empty() && !args.workloads.iter().any(|name| name == case.name) {
                continue;
            }
            bar.what(case.name);
            let row = report::measure(case, setting, size, &mut |p| bar.show(p))?;
            say(line(&row))?;
            rows.push(row);
        }
    }
    bar.end();
    let judged = report::judge(&rows);
    say(verdict(&rows, &judged))?;
    if let Some(file) = html {
        crate::html::passthrough(&rows, &judged, &all).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        let report = Report { systems: LABELS, rows, judged };
        return crate::print_json("reproduce passthrough", &report);
    }
    Ok(())
}

fn heading(setting: Setting) -> String {
    let systems = setting.systems();
    let mut text = format!(
        "\n{}: {} … {}\ncycles per access, and exits per 1000 accesses\n{:10}",
        setting.name(),
        systems[0],
        systems[systems.len() - 1],
        ""
    );
    LABELS.iter().for_each(|label| {
        let _ = write!(text, "{label:>17}");
    });
    text + &format!("{:>14}{:>14}\n", "TPT/nested", "TPT/shadow")
}

fn line(row: &Measured) -> String {
    let mut text = format!("{:10}", row.case.name);
    for at in 0..LABELS.len() {
        let cell = format!("{:.1} ({:.2})", row.cycles[at], row.exits[at]);
        let _ = write!(text, "{cell:>17}");
    }
    let faster = |a| format!("{:.2}x", row.speedup(a, 4));
    text + &format!("{:>14}{:>14}\n", faster(1), faster(2))
}

fn verdict(rows: &[Measured], judged: &[Judgement]) -> String {
    let mut text = format!("\n{:86}{:24}\n", "claim", "measured");
    for j in judged {
        let holds = match j.holds {
            Some(true) => "holds",
            Some(false) => "does not hold",
            None => "",
        };
        let _ = writeln!(text, "{:86}{:24}{holds}", j.claim, j.measured);
    }
    let largest = rows.iter().filter(|row| row.setting == Setting::Small).map(|row| &row.memory);
    if let Some(m) = largest.max_by_key(|m| m.mapped_bytes) {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let _ = write!(
            text,
            "\nmemory (4 KiB pages): array {} for {} of guest memory, {:.3} % (8 bytes a frame: 0.195 %)\n\
             {:23}twin tables {} for {} mapped, {:.3} % (about 0.2 %)\n\
             {:23}frame tags {} for {} of host memory, {:.3} % (16 bytes a frame: 0.39 %)\n",
            crate::report::bytes(m.array_bytes),
            crate::report::bytes(m.guest_bytes),
            percent(m.array_bytes, m.guest_bytes),
            "",
            crate::report::bytes(m.twin_bytes),
            crate::report::bytes(m.mapped_bytes),
            percent(m.twin_bytes, m.mapped_bytes),
            "",
            crate::report::bytes(m.tag_bytes),
            crate::report::bytes(m.host_bytes),
            percent(m.tag_bytes, m.host_bytes),
        );
    }
    text
}
