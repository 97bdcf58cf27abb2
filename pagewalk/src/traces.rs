//! Traces: looked at, converted; and snapshots of processes.

use crate::cli::{Output, TraceCommand};
use crate::progress::Reading;
use crate::tracetext;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use trace::summary::{self, Extent};
use trace::{Format, Meter, OpenOptions, WriteOptions, capture};

/// What is printed of a trace that was written.
#[derive(Serialize)]
pub struct Written {
    /// The trace.
    pub path: PathBuf,
    /// Accesses in it.
    pub accesses: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl From<&trace::Written> for Written {
    fn from(written: &trace::Written) -> Written {
        Written { path: written.path.clone(), accesses: written.accesses, bytes: written.bytes }
    }
}

/// What is printed of a snapshot that went to a file.
#[derive(Serialize)]
struct Stored {
    /// The file.
    path: PathBuf,
    /// The process.
    pid: u32,
    /// Its mappings.
    mappings: usize,
    /// Its pages of 4 KiB that are in memory.
    pages: u64,
    /// What could not be seen, why, and what would help.
    unseen: Vec<String>,
}

/// How a file is opened, and a line that says how far it has been read.
fn reading(file: &Path, format: Option<&str>, output: Output) -> Result<(OpenOptions, Reading)> {
    let mut options = OpenOptions::default();
    options.format = format.map(str::parse::<Format>).transpose().map_err(anyhow::Error::msg)?;
    let meter = options.meter.insert(Meter::default()).clone();
    Ok((options, Reading::new(output.quiet, file, meter)))
}

/// `pagewalk trace …`.
pub fn trace(command: &TraceCommand, output: Output) -> Result<()> {
    match command {
        TraceCommand::Info { file, format, quick } => {
            let extent = if *quick { Extent::Beginning } else { Extent::All };
            let (options, busy) = reading(file, format.as_deref(), output)?;
            let info = summary::info(file, &options, extent)?;
            drop(busy);
            show("trace info", &info, tracetext::info, output)
        }
        TraceCommand::Stat { file, format } => {
            let (options, busy) = reading(file, format.as_deref(), output)?;
            let stat = summary::stat(file, &options)?;
            drop(busy);
            show("trace stat", &stat, tracetext::stat, output)
        }
        TraceCommand::Head { file, format, count } => {
            let (options, busy) = reading(file, format.as_deref(), output)?;
            let rows = summary::head(file, &options, *count)?;
            drop(busy);
            if output.json {
                return crate::print_json_rows("trace head", &rows);
            }
            let mut text =
                format!("{:>8} {:>6} {:>6} {:>18} {:>5}\n", "access", "thread", "kind", "address", "bytes");
            for row in rows {
                let _ = writeln!(
                    text,
                    "{:>8} {:>6} {:>6} {:>18} {:>5}",
                    row.index, row.thread, row.kind, row.va, row.size
                );
            }
            crate::show(&text)
        }
        TraceCommand::Convert { from, to, format, to_format, thread } => {
            convert(from, to, format.as_deref(), to_format.as_deref(), *thread, output)
        }
    }
}

fn convert(
    from: &Path,
    to: &Path,
    format: Option<&str>,
    to_format: Option<&str>,
    thread: Option<u16>,
    output: Output,
) -> Result<()> {
    let to_format = to_format.map(str::parse::<Format>).transpose().map_err(anyhow::Error::msg)?;
    let write = WriteOptions { format: to_format, thread, ..WriteOptions::default() };
    let (options, busy) = reading(from, format, output)?;
    let written = trace::convert(from, &options, to, &write)?;
    drop(busy);
    if !output.quiet {
        eprintln!("{}: {} accesses", to.display(), crate::report::thousands(written.accesses));
    }
    if output.json {
        return crate::print_json("trace convert", &Written::from(&written));
    }
    Ok(())
}

/// A value as JSON, or as a person reads it.
fn show<T: serde::Serialize>(
    kind: &str,
    value: &T,
    text: impl Fn(&T) -> String,
    output: Output,
) -> Result<()> {
    if output.json {
        return crate::print_json(kind, value);
    }
    crate::show(&text(value))
}

/// `pagewalk snapshot`.
pub fn snapshot(pid: u32, file: Option<&Path>, output: Output) -> Result<()> {
    let snapshot = capture::snapshot(pid)?;
    for unseen in &snapshot.unseen {
        eprintln!("not seen: {unseen}");
    }
    if let Some(file) = file {
        snapshot.save(file)?;
        let stored = Stored {
            path: file.to_path_buf(),
            pid,
            mappings: snapshot.mappings.len(),
            pages: snapshot.mappings.iter().map(|m| m.present()).sum(),
            unseen: snapshot.unseen,
        };
        if !output.quiet {
            eprintln!(
                "{}: process {pid}, {} mappings, {} pages of 4 KiB in memory",
                file.display(),
                stored.mappings,
                crate::report::thousands(stored.pages)
            );
        }
        return if output.json { crate::print_json("snapshot file", &stored) } else { Ok(()) };
    }
    if output.json {
        return crate::print_json("snapshot", &snapshot);
    }
    let text = serde_json::to_string_pretty(&snapshot).context("the snapshot as JSON")?;
    crate::print(&(text + "\n"))
}
