//! `pagewalk reproduce all`: one page of everything that we hold, beside ours.

use crate::cli::{AllArgs, Output};
use crate::progress::Parts;
use crate::report::under;
use anyhow::{Context, Result};
use lab::reproduce::all::{self, PAPERS, Page, Table};
use lab::reproduce::sheet::{TRUST, Verdict};
use std::fmt::Write;
use std::path::Path;

/// Runs all of it, and prints or writes the page.
pub fn all(args: &AllArgs, html: Option<&Path>, output: Output) -> Result<()> {
    for file in args.markdown.as_deref().into_iter().chain(html) {
        crate::writable(file)?;
    }
    let bar = Parts::new(output.quiet, "", "parts");
    let page = all::run(&args.paper, args.threads, &|step| {
        bar.show(step.done, step.of, format!("at {}", step.what))
    })?;
    bar.end();
    if let Some(file) = &args.markdown {
        crate::write_whole(file, markdown(&page).as_bytes())
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        crate::said(file, output);
    }
    if let Some(file) = html {
        crate::html::all(&page, &RULE).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json("reproduce all", &page);
    }
    if args.markdown.is_some() {
        return Ok(());
    }
    crate::show(&text(&page))
}

/// How verdicts come about.
const RULE: [&str; 4] = [
    "within 15 %: ours is within 15 % of the published number (shares: or 2 points; changes: or 1 point; bounds: not \
     above; counts: the same). If the published number differs from no effect by more than 5 % (changes: 1 point), at \
     least a fifth of that effect must be there, however near the numbers are.",
    "right order: not that near, but the effect is there, in the right direction, and among the rows of the same program \
     all that the published numbers tell apart by more than 5 % are in the published order.",
    "differs: neither.",
    "Differences are shares of the published number, or points where that is a share or a change itself.",
];

fn title(paper: &str) -> &'static str {
    PAPERS.iter().find(|(name, _)| *name == paper).map_or("", |(_, title)| title)
}

/// Rows by verdict: `12 of 20`, and so on.
fn counts(tables: &[&Table]) -> [usize; 4] {
    let count = |verdict| tables.iter().map(|table| table.count(verdict)).sum();
    let [near, order, differs] = Verdict::ALL.map(count);
    [near + order + differs, near, order, differs]
}

/// The papers that the page has, in its order.
fn papers(page: &Page) -> Vec<(&'static str, Vec<&Table>)> {
    let of = |name: &str| page.tables.iter().filter(|t| t.paper == name).collect::<Vec<_>>();
    PAPERS.iter().map(|(name, _)| (*name, of(name))).filter(|(_, tables)| !tables.is_empty()).collect()
}

fn text(page: &Page) -> String {
    let mut text = String::new();
    for (paper, tables) in papers(page) {
        let _ = writeln!(text, "{}", title(paper));
        for table in tables {
            let _ = writeln!(
                text,
                "\n  {}: {}\n  here: {}\n  more: {}\n  why it differs: docs/{}",
                table.figure, table.title, table.sizes, table.command, table.page
            );
            text += &super::beside(&table.rows, true);
        }
        text.push('\n');
    }
    text += &summary(page);
    text.push('\n');
    RULE.iter().for_each(|line| text += &format!("{line}\n"));
    text += "\nTrust:\n";
    TRUST.iter().for_each(|(tag, what)| text += &format!("  [{tag}] {what}\n"));
    text += "\nHeld, and not on this page:\n";
    page.left_out.iter().for_each(|(what, why)| text += &format!("  {what}: {why}\n"));
    text
}

fn summary(page: &Page) -> String {
    let line = |name: &str, tables: &[&Table]| {
        [name.to_string()].into_iter().chain(counts(tables).map(|n| n.to_string())).collect::<Vec<_>>()
    };
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for (paper, tables) in papers(page) {
        rows.push(line(title(paper), &tables));
        all.extend(tables);
    }
    rows.push(line("all", &all));
    let [near, order, differs] = Verdict::ALL.map(Verdict::says);
    under(["", "rows", near, order, differs], rows, 1..)
}

const MARKDOWN: &str = "\
# Every number that we hold, beside ours

Written by `pagewalk reproduce all --markdown docs/reproduced.md`, the same bytes on any number of threads.
Each table says what was run for it, most of it smaller than the paper's so that the page takes minutes on two cores, and names
the command that runs more. Nothing in a machine's profile was fitted to a row; where we differ, the page named under the table says why.

";

fn markdown(page: &Page) -> String {
    let mut text = MARKDOWN.to_string();
    text += "Verdicts are computed:\n\n";
    RULE.iter().for_each(|line| text += &format!("* {line}\n"));
    text += "\nTrust in the published number:\n\n";
    TRUST.iter().for_each(|(tag, what)| text += &format!("* `[{tag}]` {what}\n"));
    text += "\n## In short\n\n| | rows | within 15 % | right order | differs |\n|---|---|---|---|---|\n";
    let mut all = Vec::new();
    let mut line = |name: &str, tables: &[&Table]| {
        let [rows, near, order, differs] = counts(tables);
        let _ = writeln!(text, "| {name} | {rows} | {near} | {order} | {differs} |");
    };
    for (paper, tables) in papers(page) {
        line(title(paper), &tables);
        for table in &tables {
            line(&format!("&nbsp; {}: {}", table.figure, table.title), &[table]);
        }
        all.extend(tables);
    }
    line("**all**", &all);
    for (paper, tables) in papers(page) {
        let _ = writeln!(text, "\n## {}", title(paper));
        for table in tables {
            let _ = write!(
                text,
                "\n### {}: {}\n\nHere: {}. More: `{}`. Why it differs: [{}]({}).\n\n\
                 | | paper | here | off | trust | verdict |\n|---|---|---|---|---|---|\n",
                table.figure, table.title, table.sizes, table.command, table.page, table.page
            );
            for row in &table.rows {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | `[{}]` | {} |",
                    row.what,
                    super::published(row, "at most"),
                    row.text(row.ours),
                    row.difference_text(),
                    row.trust,
                    row.verdict.says()
                );
            }
        }
    }
    text += "\n## Held, and not on this page\n\n| what | why |\n|---|---|\n";
    for (what, why) in &page.left_out {
        let _ = writeln!(text, "| {what} | {why} |");
    }
    text
}
