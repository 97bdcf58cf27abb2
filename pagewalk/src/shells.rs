//! Completions and manual pages, from the same source as the command line itself.

use crate::cli::{Cli, Output};
use anyhow::{Context, Result};
use clap::CommandFactory;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is printed of a page.
#[derive(Serialize)]
struct Written {
    /// The file.
    path: PathBuf,
}

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pagewalk", &mut script);
    crate::print(&String::from_utf8_lossy(&script))
}

/// Writes a manual page for each command.
pub fn man(directory: &Path, output: Output) -> Result<()> {
    let what = || format!("cannot write manual pages to `{}`", directory.display());
    std::fs::create_dir_all(directory).with_context(what)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(what)?;
    if output.json {
        let mut command = Cli::command();
        command.build();
        let mut names = Vec::new();
        pages(&command, &mut names);
        let rows: Vec<Written> =
            names.into_iter().map(|name| Written { path: directory.join(name + ".1") }).collect();
        return crate::print_json_rows("man", &rows);
    }
    Ok(())
}

/// Names of pages: `pagewalk-sweep-plan`.
fn pages(command: &clap::Command, names: &mut Vec<String>) {
    names.push(command.get_display_name().unwrap_or_else(|| command.get_name()).to_string());
    let shown = |sub: &&clap::Command| !sub.is_hide_set() && sub.get_name() != "help";
    command.get_subcommands().filter(shown).for_each(|sub| pages(sub, names));
}

/// A word for a shell, as it is.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
