//! Results as a person reads them.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use lab::outcome::{Outcome, ServedCounts};
use std::ops::RangeBounds;

/// Several systems on the same accesses, one column each; where the terminal is too narrow, as many tables as it takes.
pub fn comparison(outcomes: &[Outcome], width: Option<usize>, colors: bool) -> String {
    let Some(base) = outcomes.first() else { return String::new() };
    for columns in (1..=outcomes.len()).rev() {
        let tables: Vec<Table> = outcomes.chunks(columns).map(|some| table(base, some, outcomes)).collect();
        let wide = |table: &Table| plain(table).lines().map(|line| line.chars().count()).max().unwrap_or(0);
        if columns == 1 || width.is_none_or(|width| tables.iter().all(|table| wide(table) <= width)) {
            let text = |mut table: Table| {
                if colors {
                    table.enforce_styling();
                    trimmed(&table)
                } else {
                    plain(&table)
                }
            };
            return tables.into_iter().map(text).collect::<Vec<_>>().join("\n\n");
        }
    }
    String::new()
}

/// Rows under a head, a line each; the columns at `numbers` to the right.
pub fn under<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = Vec<String>>,
    numbers: impl RangeBounds<usize>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    for (_, column) in table.column_iter_mut().enumerate().filter(|(at, _)| numbers.contains(at)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    trimmed(&table) + "\n"
}

fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn plain(table: &Table) -> String {
    let mut table = table.clone();
    table.force_no_tty();
    trimmed(&table)
}

/// The columns of `outcomes`; rows are those that any of `all` has something for.
fn table(base: &Outcome, outcomes: &[Outcome], all: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let bold = |text: &str| Cell::new(text).add_attribute(Attribute::Bold);
    let names = outcomes.iter().map(|o| bold(&o.system));
    table.add_row(std::iter::once(bold("")).chain(names).collect::<Vec<_>>());
    // Said by the number too: colour alone says nothing.
    let slowdown = |o: &Outcome| {
        let cell = bold(&format!("{:.2}x", o.slowdown(base)));
        match o.slowdown(base) {
            x if x < 0.995 => cell.fg(Color::Green),
            x if x > 1.005 => cell.fg(Color::Red),
            _ => cell,
        }
    };
    let cells = outcomes.iter().map(slowdown);
    table.add_row(std::iter::once(Cell::new("slow-down against the first")).chain(cells).collect::<Vec<_>>());
    let mut row = |name: &str, value: &dyn Fn(&Outcome) -> String| {
        let mut cells = vec![name.to_string()];
        cells.extend(outcomes.iter().map(value));
        table.add_row(cells);
    };
    row("cycles per access", &|o| format!("{:.1}", o.cycles_per_access()));
    row("translation, share of cycles", &|o| format!("{:.1} %", 100.0 * o.translation.share));
    row("kernel and hypervisor, share", &|o| {
        format!("{:.1} %", 100.0 * o.software.cycles as f64 / o.cycles.max(1) as f64)
    });
    row("cycles per walk", &|o| format!("{:.0}", o.translation.mean_walk));
    row("L1 TLB misses per 1000 accesses", &|o| format!("{:.1}", o.tlb.l1_per_thousand));
    row("STLB misses per 1000 accesses", &|o| format!("{:.2}", o.tlb.stlb_per_thousand));
    row("references per walk", &|o| format!("{:.2}", o.walks.references_per_walk));
    let levels = all.iter().flat_map(|o| o.walks.grid.iter()).map(|c| c.guest.max(c.host)).max().unwrap_or(4);
    for level in (1..=levels).rev() {
        row(&format!("  process's table, level {level}"), &|o| {
            per_walk(o, &|guest, host| guest == level && host == 0)
        });
    }
    if all.iter().any(|o| o.walks.grid.iter().any(|c| c.host > 0)) {
        for level in (1..=levels).rev() {
            row(&format!("  VM's table, level {level}"), &|o| per_walk(o, &|_, host| host == level));
        }
    }
    type Count = fn(&ServedCounts) -> u64;
    let served: [(&str, Count); 7] = [
        ("  skipped: page-walk cache", |s| s.pwc),
        ("  skipped: nested TLB", |s| s.ntlb),
        ("  served by L1", |s| s.l1),
        ("  served by L2", |s| s.l2),
        ("  served by LLC", |s| s.llc),
        ("  served by local memory", |s| s.local),
        ("  served by remote memory", |s| s.remote),
    ];
    for (name, get) in served {
        if all.iter().any(|o| get(&o.walks.total) > 0) {
            row(name, &|o| number(get(&o.walks.total) as f64 / o.walks.completed.max(1) as f64));
        }
    }
    if all.iter().any(|o| o.host_lines.is_some()) {
        // 1: the host's entries for 8 neighbouring pages are on one line; 8: each on its own.
        row("host lines per guest line of entries", &|o| {
            o.host_lines.map_or("-".to_string(), |lines| number(lines.mean))
        });
    }
    if all.iter().any(|o| o.segments.is_some()) {
        row("mode", &|o| o.segments.as_ref().map_or(String::from("-"), |s| s.mode.clone()));
        row("L1 TLB misses that segments answered", &|o| match o.tlb.l1_misses {
            0 => "-".to_string(),
            misses => format!("{:.1} %", 100.0 * o.walks.direct_hits as f64 / misses as f64),
        });
        row("base-limit checks per walk", &|o| {
            number((o.walks.checks[0] + o.walks.checks[1]) as f64 / o.walks.completed.max(1) as f64)
        });
        row("escapes found by filters", &|o| thousands(o.walks.checks[2]));
        row("pages that escaped", &|o| {
            o.segments.as_ref().map_or(String::from("-"), |s| thousands(s.escaped))
        });
    }
    if outcomes.iter().any(|o| o.passthrough.is_some()) {
        let passed = |get: &dyn Fn(&lab::passthrough::PassThroughOutcome) -> String, o: &Outcome| {
            o.passthrough.as_ref().map_or("-".to_string(), get)
        };
        row("tag checks per walk", &|o| number(o.walks.checks[3] as f64 / o.walks.completed.max(1) as f64));
        row("frames taken back, since the start", &|o| passed(&|p| thousands(p.revoked), o));
        if all.iter().any(|o| o.passthrough.is_some_and(|p| p.suspended > 0)) {
            row("falls back to nested paging", &|o| passed(&|p| thousands(p.suspended), o));
        }
        row("faults on tags, since the start", &|o| passed(&|p| thousands(p.tag_faults), o));
        row("paths of twins mended", &|o| passed(&|p| thousands(p.repairs), o));
        row("entries into the mode", &|o| passed(&|p| thousands(p.entered), o));
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        row("array of host frames", &|o| {
            passed(&|p| format!("{} ({:.3} %)", bytes(p.array_bytes), share(p.array_bytes, p.guest_bytes)), o)
        });
        row("twin tables", &|o| {
            let twins = |p: &lab::passthrough::PassThroughOutcome| p.twin_bytes + p.splinter_bytes;
            passed(&|p| format!("{} ({:.3} %)", bytes(twins(p)), share(twins(p), p.mapped_bytes)), o)
        });
        row("frame tags", &|o| {
            passed(&|p| format!("{} ({:.3} %)", bytes(p.tag_bytes), share(p.tag_bytes, p.host_bytes)), o)
        });
    }
    row("page faults, counted", &|o| thousands(o.software.page_faults));
    row("  since the start", &|o| thousands(o.software.page_faults_in_all));
    row("exits to the hypervisor, counted", &|o| thousands(o.software.exits));
    // Most VMs have one kind of them.
    let kinds = |o: &Outcome| o.software.exits_by.named().iter().filter(|(_, exits)| *exits > 0).count();
    if all.iter().any(|o| kinds(o) > 1) {
        for (at, (name, _)) in lab::outcome::ExitCounts::default().named().into_iter().enumerate() {
            if all.iter().any(|o| o.software.exits_by.named()[at].1 > 0) {
                row(&format!("  {name}"), &|o| thousands(o.software.exits_by.named()[at].1));
            }
        }
    }
    row("  since the start", &|o| thousands(o.software.exits_in_all));
    row("page tables", &|o| bytes(o.tables.total()));
    if all.iter().any(|o| o.layout.is_some()) {
        row("frames as in the layout", &|o| thousands(o.layout.unwrap_or_default().placed));
        row("  elsewhere", &|o| thousands(o.layout.unwrap_or_default().elsewhere));
    }
    row("calls of the frame allocator", &|o| thousands(o.software.allocations));
    if all.iter().any(|o| o.software.reserved > 0) {
        row("frames kept for later faults", &|o| thousands(o.software.reserved));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Dumps of page tables, in order.
pub fn table_dumps(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        for dump in &outcome.table_dumps {
            text += &format!(
                "tables of {} under {} after {} accesses\n{}\n",
                dump.of,
                outcome.system,
                thousands(dump.after),
                dump.text
            );
        }
    }
    text
}

/// References per walk at some places of the grid, and what share memory served.
fn per_walk(o: &Outcome, place: &dyn Fn(u8, u8) -> bool) -> String {
    let cells = o.walks.grid.iter().filter(|c| place(c.guest, c.host));
    let (made, memory) = cells.fold((0, 0), |(made, memory), c| {
        (made + c.served.references(), memory + c.served.local + c.served.remote)
    });
    if made == 0 {
        return "-".to_string();
    }
    let each = made as f64 / o.walks.completed.max(1) as f64;
    format!("{} ({:.0}% mem)", number(each), 100.0 * memory as f64 / made as f64)
}

/// One sentence that says what a comparison means.
pub fn meaning<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Option<String> {
    let outcomes: Vec<&Outcome> = outcomes.collect();
    let base = *outcomes.first()?;
    let worst = outcomes.iter().max_by(|a, b| a.slowdown(base).total_cmp(&b.slowdown(base)))?;
    let best = outcomes.iter().min_by(|a, b| a.slowdown(base).total_cmp(&b.slowdown(base)))?;
    let percent = |x: f64| format!("{:.0} %", 100.0 * (x - 1.0).abs());
    let share = 100.0 * base.translation.share;
    let mut text =
        format!("{}: under {} the walker is busy {:.0} % of the time", base.workload, base.system, share);
    if worst.system != base.system && worst.slowdown(base) > 1.005 {
        text +=
            &format!("; {} makes the same accesses {} slower", worst.system, percent(worst.slowdown(base)));
    }
    if best.system != base.system && best.slowdown(base) < 0.995 {
        text += &format!(
            "; {} is the fastest here, {} below {}",
            best.system,
            percent(best.slowdown(base)),
            base.system
        );
    }
    Some(text + ".")
}

/// `1234567` as `1 234 567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// Bytes with a binary unit.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.0} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// Two significant decimals for small numbers, none for large ones.
fn number(x: f64) -> String {
    if x == 0.0 {
        "-".to_string()
    } else if x < 0.005 {
        "<0.01".to_string()
    } else {
        format!("{x:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(thousands(12), "12");
        assert_eq!(bytes(135_266_304), "129.0 MiB");
        assert_eq!((number(0.0), number(0.001), number(3.456)), ("-".into(), "<0.01".into(), "3.46".into()));
    }
}
