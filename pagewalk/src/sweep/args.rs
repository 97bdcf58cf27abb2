//! `pagewalk sweep`, as typed.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What to do with a sweep.
#[derive(Debug, Subcommand)]
pub enum Sweep {
    /// Show what would run: points, what is refused and why, time and memory.
    Plan {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limits: Limits,
        /// List every point.
        #[arg(long)]
        points: bool,
        /// No probes: time and memory from a rough model.
        #[arg(long)]
        no_probe: bool,
    },
    /// Run what has no result yet; after a kill, a crash or a change of the file, run it again.
    Run {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limits: Limits,
        /// Where.
        #[arg(long, value_enum, default_value = "local")]
        on: Where,
        /// Run points again that failed.
        #[arg(long)]
        retry: bool,
        /// Wait while another run works in the directory, instead of giving up.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        tasks: Tasks,
        /// At most so many tasks of the Slurm job at the same time; 0 for as many as the cluster lets.
        #[arg(long, default_value_t = 0)]
        at_once: u32,
        /// An option for sbatch, such as `--partition=long`; may be given several times, and goes before ours.
        #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
        sbatch: Vec<String>,
    },
    /// Show what is done, what is running, and what failed and why.
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Make one Parquet file of all results.
    Collect {
        #[command(flatten)]
        which: Which,
        /// The file; `results.parquet` in the sweep's directory if nothing is said.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Also while points are missing.
        #[arg(long)]
        partial: bool,
        /// Write a report to this file too: one HTML page that opens offline.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Print a command a task, for any scheduler; `pagewalk sweep collect` comes after them.
    Commands {
        #[command(flatten)]
        which: Which,
        /// Run points again that failed.
        #[arg(long)]
        retry: bool,
        #[command(flatten)]
        tasks: Tasks,
    },
    /// End what runs, here or on the cluster; what is done stays.
    Cancel {
        #[command(flatten)]
        which: Which,
    },
    /// Run one task of a job: what `commands` prints and jobs do.
    Work {
        /// The sweep's directory.
        directory: PathBuf,
        /// The job.
        job: String,
        /// The task, from 0.
        task: usize,
    },
}

/// Which sweep.
#[derive(Debug, Args, Clone)]
pub struct Which {
    /// The sweep's TOML file, or the directory of one that has begun.
    pub sweep: PathBuf,
    /// Where results are kept; beside the file if nothing is said: `walks.toml` has `walks.sweep/`.
    #[arg(short, long)]
    pub directory: Option<PathBuf>,
}

/// What may be used of this machine.
#[derive(Debug, Args, Clone, Copy)]
pub struct Limits {
    /// Points at the same time; one a core if nothing is said.
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// Memory, such as `8GiB`; three quarters of what is available if nothing is said.
    #[arg(long, value_parser = bytes)]
    pub memory: Option<u64>,
}

/// How points are put together to tasks.
#[derive(Debug, Args, Clone, Copy)]
pub struct Tasks {
    /// Minutes that a task of a job should take.
    #[arg(long, default_value_t = 10.0)]
    pub task_minutes: f64,
    /// Tasks of a job at most.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_tasks: u32,
}

/// Where a sweep runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// On this machine's cores.
    Local,
    /// As a job array of the Slurm cluster that `sbatch` knows.
    Slurm,
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no amount of memory; write 800MiB or 8GiB");
    lab::sweep::quantity(text).filter(|bytes| *bytes >= 1 << 20).ok_or_else(wrong)
}
