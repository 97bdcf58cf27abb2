//! `pagewalk shareable`: what running processes could share.

use crate::cli::Output;
use crate::report::under;
use anyhow::{Context, Result, bail};
use lab::shareable::{Counts, Group, Kind, Look, Report, Verdict, compare};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

/// Looks at processes and prints what they have the same.
pub fn shareable(pids: &[u32], output: Output) -> Result<()> {
    let mut looks: Vec<Look> = Vec::new();
    for pid in pids {
        if looks.iter().any(|look| look.snapshot.pid == *pid) {
            bail!("process {pid} is named twice");
        }
        let owner = std::fs::metadata(format!("/proc/{pid}")).with_context(|| format!("no process {pid}"))?;
        looks.push(Look { user: owner.uid(), snapshot: trace::capture::snapshot(*pid)? });
    }
    let report = compare(&looks);
    if output.json {
        return crate::print_json("shareable", &report);
    }
    crate::show(&text(&report))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_string() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Code => "code",
        Kind::Constants => "constants of files",
        Kind::Data => "data of files, writable",
        Kind::Shared => "shared memory and files",
        Kind::Anonymous => "anonymous (heap, stack)",
    }
}

const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Identical => "identical: another process has the same page, frame and rights",
        Verdict::OtherAddress => {
            "same frame at another address: sharable once layouts are one (ASLR by group, or BabelFish's in hardware)"
        }
        Verdict::OtherRights => "same frame, other rights",
        Verdict::Untouched => {
            "others map the page there and have not touched it: a shared table would have it for them"
        }
        Verdict::Copied => "page of a file that was written: a private copy",
        Verdict::Private => "anonymous memory of its own",
        Verdict::Alone => "nobody else maps it there",
        Verdict::Unknown => "unknown: frames are not shown",
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.groups.len() > 1 {
        text += "Different users or programs: these must not share translations, so each is compared with its own.\n\n";
    }
    for group in &report.groups {
        text += &group_text(group);
        text.push('\n');
    }
    for sentence in &report.unseen {
        let _ = writeln!(text, "not seen: {sentence}");
    }
    text
}

fn group_text(group: &Group) -> String {
    let all = &group.all;
    let pids: Vec<String> = group.pids.iter().map(u32::to_string).collect();
    let mut text = format!(
        "{} of user {}: {} ({} translations, {} of huge pages)\n",
        group.program,
        group.user,
        pids.join(", "),
        all.entries,
        group.huge
    );
    if group.pids.len() == 1 {
        text += "one process: there is nobody to share with\n";
        return text;
    }
    for verdict in Verdict::ALL.into_iter().filter(|verdict| all.get(*verdict) > 0) {
        let n = all.get(verdict);
        let _ = writeln!(text, "{n:>10} {:>6}  {}", percent(n, all.entries), meaning(verdict));
    }
    let _ = writeln!(
        text,
        "{:>10} {:>6}  shareable in all; equal ones as one leave {} translations ({} fewer)\n",
        all.shareable(),
        percent(all.shareable(), all.entries),
        group.distinct,
        percent(all.entries - group.distinct, all.entries)
    );
    let head =
        ["", "entries", "identical", "moved", "rights", "untouched", "copied", "private", "alone", "unknown"];
    let row = |name: &str, counts: &Counts| {
        let cells = Verdict::ALL.map(|verdict| percent(counts.get(verdict), counts.entries));
        [vec![name.to_string(), counts.entries.to_string()], cells.to_vec()].concat()
    };
    let rows = group.kinds.iter().map(|(of, counts)| row(kind(*of), counts)).chain([row("all", all)]);
    text + &under(head, rows, 1..)
}
