//! The command line, as typed.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// What address translation costs a program, and how to remove that cost.
///
/// Without a command, Pagewalk runs its main job: the accesses of a real
/// program under six systems, native and in a VM, and one table that says
/// where the time goes.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  pagewalk                                        the main job on the built-in trace
  pagewalk compare native nested -w gups:footprint=16GiB
  pagewalk run -s nested-thp-thp -w my.parquet --verify
  pagewalk compare native nested -- sqlite3 my.db 'select count(*) from t'
  pagewalk record -o t.parquet --limit 10M -- redis-server
  pagewalk explain nested 0x7fffc0001000 -w gups
  pagewalk list workloads                         names, parameters, sources")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub output: Output,
}

/// How results and progress are shown.
#[derive(Debug, Args, Clone, Copy)]
pub struct Output {
    /// Print results as JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one system on one workload and print what was counted.
    Run {
        /// The system: `pagewalk list systems` lists names and features.
        #[arg(short, long, default_value = "native")]
        system: String,
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        experiment: Experiment,
    },
    /// Run several systems on the same accesses, side by side.
    ///
    /// The first system is the one that the others' slow-down is measured against.
    Compare {
        /// Systems.
        #[arg(required = true, num_args = 1..)]
        systems: Vec<String>,
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        experiment: Experiment,
    },
    /// Draw the walk of one address, step by step.
    ///
    /// The workload runs first (`--warmup` accesses), so that tables and caches
    /// are as they would be; then the walk for the address is made, cold and
    /// warm, with every reference in its place in the grid, what was skipped
    /// and why, where each was served, and its cycles.
    Explain {
        /// The system, or several with commas between, side by side where the terminal is wide enough.
        system: String,
        /// The virtual address, decimal or 0x….
        address: String,
        /// Whose address: the number of the input's process.
        #[arg(long, default_value_t = 0)]
        process: u16,
        /// Write the walk explorer, open at this address, to this file too: one HTML page that opens offline.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        #[command(flatten)]
        experiment: Experiment,
    },
    /// Record the accesses of a real, unmodified program.
    ///
    /// The program runs under QEMU's user-mode emulation with our plugin (`apt install qemu-user`);
    /// its own output, input and exit status pass through.
    Record(RecordArgs),
    /// Look at traces, and convert them.
    Trace {
        /// What to do.
        #[command(subcommand)]
        command: TraceCommand,
    },
    /// Store a running process's mappings, page sizes and, as far as the kernel
    /// lets it be seen, frames and NUMA nodes.
    Snapshot {
        /// The process.
        pid: u32,
        /// Where to; standard output as JSON if nothing is said.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Print what others measured beside what the model says.
    Reproduce {
        /// What.
        #[command(subcommand)]
        what: Reproduced,
        /// Write a report to this file too: one HTML page that opens offline.
        #[arg(long, value_name = "FILE", global = true)]
        html: Option<PathBuf>,
    },
    /// What would help a program: remedies, alone and together, what each saves, costs and needs.
    ///
    /// First what can be done today, then what needs a kernel, then what needs hardware.
    Advise(AdviseArgs),
    /// List every combination of the axes: what runs, and why the others do not.
    Matrix(MatrixArgs),
    /// Draw random systems, programs, machines and events, and run them under the oracle.
    ///
    /// The first failure ends it: made small, and printed as a command that reproduces it.
    Soak(SoakArgs),
    /// Thousands of experiments from one file, on all cores or a cluster, with nothing lost.
    Sweep {
        /// What to do.
        #[command(subcommand)]
        command: crate::sweep::Sweep,
    },
    /// Attack the isolation that a mechanism claims, and report what was tried.
    Attack {
        /// Which mechanism.
        #[command(subcommand)]
        what: Attacked,
    },
    /// Look at running processes: how many of their translations are identical, how many could be shared, and why
    /// the others could not.
    Shareable {
        /// Their numbers; two or more of one program.
        #[arg(required = true, value_name = "PID")]
        pids: Vec<u32>,
    },
    /// List what there is to choose from.
    List {
        /// Of what.
        what: Listed,
    },
    /// Print a script that completes commands in a shell.
    ///
    /// For bash: `pagewalk completions bash > ~/.local/share/bash-completion/completions/pagewalk`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one a command, into a directory.
    Man {
        /// The directory; it is made if it is not there.
        directory: PathBuf,
    },
}

/// How closely a run is looked at.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Look")]
pub struct Look {
    /// Write a report to this file: one HTML page that opens offline, with charts, a walk explorer and maps of memory.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the results to this file as Parquet, a row a system (docs/results.md).
    #[arg(long, value_name = "FILE")]
    pub parquet: Option<PathBuf>,
    /// Watch the systems at work, in the style of `top`.
    #[arg(long)]
    pub watch: bool,
    /// Write a timeline of walks for Perfetto (ui.perfetto.dev) to this file.
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
    /// How many walks of each core the timeline has, from the end of the warm-up on.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = count, requires = "perfetto")]
    pub perfetto_walks: u64,
}

/// What is recorded, and where to.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The trace to write.
    #[arg(short, long)]
    pub output: PathBuf,
    /// End after this many recorded accesses (suffixes k, M, G); the program runs on.
    #[arg(long, value_parser = count)]
    pub limit: Option<u64>,
    /// Give the program the addresses of a real process (`pagewalk snapshot`).
    #[arg(long, value_name = "SNAPSHOT")]
    pub layout: Option<PathBuf>,
    #[command(flatten)]
    pub capture: Capture,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// How a program is captured, and from when on.
#[derive(Debug, Args, Clone, Default, PartialEq, Eq)]
#[command(next_help_heading = "Capture")]
pub struct Capture {
    /// By what means.
    #[arg(long, value_enum, requires = "command")]
    pub route: Option<Route>,
    /// Begin after this many accesses of the program (suffixes k, M, G).
    #[arg(long, value_name = "N", value_parser = count, requires = "command", group = "start")]
    pub start_after: Option<u64>,
    /// Begin when the program first reaches this function of its executable.
    #[arg(long, value_name = "NAME", requires = "command", group = "start")]
    pub start_symbol: Option<String>,
    /// Begin when pagewalk gets this signal.
    #[arg(long, value_enum, value_name = "SIGNAL", requires = "command", group = "start")]
    pub start_signal: Option<StartSignal>,
    /// Take instruction fetches too, one a cache line.
    #[arg(long, requires = "command")]
    pub fetches: bool,
    /// End the program (SIGTERM) when enough accesses have been taken; else it runs on, unobserved.
    #[arg(long, requires = "command")]
    pub terminate: bool,
}

/// By what means a program is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Route {
    /// QEMU's user-mode emulation with our plugin: fast, with threads, children and mappings (`apt install qemu-user`).
    #[default]
    Qemu,
    /// Valgrind's lackey: a hundred times slower, without threads and mappings (`apt install valgrind`).
    Lackey,
}

/// Signals that can begin a capture: those that programs leave to their users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StartSignal {
    /// SIGUSR1: `kill -USR1`.
    #[value(name = "USR1", alias = "SIGUSR1")]
    Usr1,
    /// SIGUSR2: `kill -USR2`.
    #[value(name = "USR2", alias = "SIGUSR2")]
    Usr2,
}

/// What can be done with a trace. `--format` names the format where the
/// content does not tell it.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// What it is: format, accesses, threads, pages.
    Info {
        /// The trace.
        file: PathBuf,
        /// Its format.
        #[arg(long)]
        format: Option<String>,
        /// Only what its beginning tells, without counting to its end.
        #[arg(long)]
        quick: bool,
    },
    /// Its first accesses.
    Head {
        /// The trace.
        file: PathBuf,
        /// Its format.
        #[arg(long)]
        format: Option<String>,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 10)]
        count: usize,
    },
    /// Its footprint over time, mix of accesses, and page reuse.
    Stat {
        /// The trace.
        file: PathBuf,
        /// Its format.
        #[arg(long)]
        format: Option<String>,
    },
    /// Write it in another format, told by the new name or `--to-format`.
    Convert {
        /// The trace.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
        /// The format of the old one.
        #[arg(long)]
        format: Option<String>,
        /// The format of the new one.
        #[arg(long)]
        to_format: Option<String>,
        /// Only this thread, for formats that hold one.
        #[arg(long)]
        thread: Option<u16>,
    },
}

/// For which program, and where it runs.
#[derive(Debug, Args)]
pub struct AdviseArgs {
    /// Only without a VM.
    #[arg(long)]
    pub native: bool,
    /// Only in a VM.
    #[arg(long)]
    pub vm: bool,
    /// Runs with different seeds, which say how sure the advice is. A live program runs once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: u64,
    /// Write a report to this file too: one HTML page that opens offline.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub experiment: Experiment,
}

/// What is done with the combinations of the axes.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Run each that makes sense, for so many accesses (suffixes k, M), with forks, unmaps, migration,
    /// ballooning and reclaim going on, and check every access.
    #[arg(long, value_name = "N", value_parser = nonzero, num_args = 0..=1, default_missing_value = "2k")]
    pub run: Option<u64>,
    /// Only one in N of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// The machine.
    #[arg(short, long, default_value = "broadwell")]
    pub machine: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs at once; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// How long a soak lasts, and what it draws.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Minutes; it ends after the runs that are under way then.
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// Cases at most.
    #[arg(long, value_parser = nonzero)]
    pub cases: Option<u64>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs at once; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// What of PTEMagnet's set-up is run, and how much of it.
#[derive(Debug, Args)]
pub struct PteMagnetArgs {
    /// Only these: `pagerank`, `bfs`, `cc`, `nibble`, `mcf`, `gcc`, `xz`, `omnetpp`.
    #[arg(long, value_delimiter = ',')]
    pub benchmarks: Vec<String>,
    /// Size of a graph; the paper's are of the 16 GB class.
    #[arg(long, default_value = "512MiB")]
    pub footprint: String,
    /// Accesses of a benchmark that are counted (suffixes k, M, G).
    #[arg(short = 'n', long, value_parser = count, default_value = "4M")]
    pub accesses: u64,
    /// Accesses before that, after its data is filled.
    #[arg(long, value_parser = count, default_value = "1M")]
    pub warmup: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check every access against the oracle.
    #[arg(long)]
    pub verify: bool,
}

/// What can be attacked.
#[derive(Debug, Subcommand)]
pub enum Attacked {
    /// Translation Pass-Through: a guest that writes anything into its tables, with the table check and without.
    Passthrough(AttackArgs),
}

/// Which attacks.
#[derive(Debug, Args)]
pub struct AttackArgs {
    /// Only these: `foreign-data`, `foreign-table`, `host-table`, `reserved-bits`, `loops`,
    /// `own-tables-writable`, `stale-data`, `stale-table`, `huge-overlap`, `foreign-root`, `anything`.
    #[arg(long, value_delimiter = ',')]
    pub attacks: Vec<String>,
    /// Rounds of random acts, 256 bytes each.
    #[arg(long, value_parser = count, default_value = "2k")]
    pub rounds: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How much of the comparison is run.
#[derive(Debug, Args)]
pub struct PassThroughArgs {
    /// Only these: `gups`, `btree`, `xsbench`, `redis`, `memcached`, `pagerank`, `growkv`, `fork`, `remap`, `protect`.
    #[arg(short, long = "workload", value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Only these: `4k`, `thp`, `numa`.
    #[arg(long = "setting", value_delimiter = ',')]
    pub settings: Vec<String>,
    /// Footprint of workloads that have no size of their own.
    #[arg(long, default_value = "8GiB")]
    pub footprint: String,
    /// Accesses that are counted (suffixes k, M, G).
    #[arg(short = 'n', long, value_parser = count, default_value = "2M")]
    pub accesses: u64,
    /// Accesses before that.
    #[arg(long, value_parser = count, default_value = "2M")]
    pub warmup: u64,
}

/// What of BabelFish is reproduced.
#[derive(Debug, Args)]
pub struct BabelfishArgs {
    /// Only these: `mongodb`, `arangodb`, `httpd`, `graphchi`, `fio`, `functions-dense`, `functions-sparse`.
    #[arg(short, long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Cores: two containers on each, or three of functions.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=8))]
    pub cores: u64,
    /// Instructions of a container's turn; the paper's 10 ms are about 20M.
    #[arg(long, value_parser = count, default_value = "2M")]
    pub quantum: u64,
    /// Accesses that are counted, of each workload (suffixes k, M, G).
    #[arg(short = 'n', long, value_parser = count, default_value = "8M")]
    pub accesses: u64,
    /// Accesses before that.
    #[arg(long, value_parser = count, default_value = "8M")]
    pub warmup: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check every access against the oracle.
    #[arg(long)]
    pub verify: bool,
    /// Also one layout a group, shared first-level TLBs, huge pages, and VMs.
    #[arg(long)]
    pub beyond: bool,
}

/// What can be reproduced.
#[derive(Debug, Subcommand)]
pub enum Reproduced {
    /// Everything: each table and figure that we hold, beside ours, with a verdict; on one page, in minutes.
    All(AllArgs),
    /// Cycles per update and walk share of GUPS, 64 GiB, on the Mitosis machine.
    Gups,
    /// PTEMagnet: benchmarks in a VM alone, with a heavy co-runner and with a mix, without
    /// reservations and with them.
    Ptemagnet(PteMagnetArgs),
    /// BabelFish: containers of one image on shared cores, with and without shared translations.
    Babelfish(BabelfishArgs),
    /// Mitosis: programs whose page tables are remote, and on four sockets, with copies and without.
    ///
    /// Figures: `migration` (6, 10a), `migration-thp` (10b), `sockets` (9).
    Mitosis(Figures),
    /// vMitosis: the same in a VM, for the guest's table and the VM's.
    ///
    /// Figures: `thin` (1, 3), `thin-thp` (3), `shadow`, `wide` (4), `oblivious` (5).
    Vmitosis(Figures),
    /// Nanoseconds per access by footprint, 256 KiB to 8 GiB, on a Zen 4 in a VM.
    TlbCurve {
        /// Only these columns: `page_4k`, `page_2m`, `line_4k`, `gups_4k`, `grp8_4k` and so on.
        #[arg(long, value_delimiter = ',')]
        columns: Vec<String>,
    },
    /// Translation Pass-Through (ATC 2023) beside native, nested, shadow and agile paging.
    Passthrough(PassThroughArgs),
    /// Pairs of mechanisms alone and together: what each saves, and whether they pay together.
    Together {
        /// Only these: `ptemagnet-mitosis`, `babelfish-mitosis`, `passthrough-mitosis`, `vmm-direct-ptemagnet`, `thp`.
        #[arg(long, value_delimiter = ',')]
        pairs: Vec<String>,
        /// Footprint of the programs.
        #[arg(long, default_value = "4GiB")]
        footprint: String,
        /// Accesses that are counted (suffixes k, M, G).
        #[arg(short = 'n', long, value_parser = count, default_value = "2M")]
        accesses: u64,
    },
    /// Direct segments for VMs (MICRO 2014): overheads by mode and page size, faulty frames, self-ballooning.
    DirectSegments {
        /// Only these: `graph500`, `memcached`, `npb-cg`, `gups`, `mcf`, `omnetpp`, `canneal`,
        /// `streamcluster`, `cactusADM`, `bad-frames`, `ballooning`.
        #[arg(long, value_delimiter = ',')]
        classes: Vec<String>,
        /// Footprint of the big-memory classes.
        #[arg(long, default_value = "8GiB")]
        footprint: String,
    },
}

/// What of the page.
#[derive(Debug, Args, Clone)]
pub struct AllArgs {
    /// Only these papers: `mitosis`, `vmitosis`, `ptemagnet`, `babelfish`, `segments`, `passthrough`, `agile`,
    /// `hardware`.
    #[arg(long, value_delimiter = ',')]
    pub paper: Vec<String>,
    /// Worker threads; 0 for one a core. The page does not depend on it.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Write the page to this file as Markdown, as docs/reproduced.md is.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Which cells of a paper's figures.
#[derive(Debug, Args, Clone, Default)]
pub struct Figures {
    /// Only these figures, by our name or the paper's number.
    #[arg(long, value_delimiter = ',')]
    pub figure: Vec<String>,
    /// Only these workloads.
    #[arg(short, long, value_delimiter = ',')]
    pub workload: Vec<String>,
    /// Only these configurations, by the paper's letters (and the one that they are compared with).
    #[arg(long, value_delimiter = ',')]
    pub config: Vec<String>,
    /// Divide footprints and each node's memory by this, for a quick look.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub divide: u64,
    /// Divide last-level caches by the same, so that as large a share of page-table entries fits into them.
    #[arg(long)]
    pub caches: bool,
    /// Divide the accesses of each cell by this.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub fewer: u64,
    /// Worlds that are simulated at once: each takes up to 24 MiB for each GiB of footprint; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// What runs where.
#[derive(Debug, Args, Clone)]
pub struct Experiment {
    /// A trace file, or a workload with its parameters (`gups:footprint=64GiB,threads=4`).
    /// The default is the built-in trace of a real program.
    #[arg(short, long)]
    pub workload: Option<String>,
    /// The machine: a name from `pagewalk list machines`, or a profile in TOML.
    #[arg(short, long, default_value = "cascade-lake")]
    pub machine: String,
    /// Accesses to count (suffixes k, M, G); the default is all of a trace, 10M of a generator.
    #[arg(short = 'n', long, value_parser = count)]
    pub accesses: Option<u64>,
    /// Accesses before counting begins, to warm TLBs and caches.
    #[arg(long, value_parser = count)]
    pub warmup: Option<u64>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Check every access against the oracle.
    #[arg(long)]
    pub verify: bool,
    /// Dump page tables at the end, and whenever EVERY accesses were made: for each
    /// level and socket, table pages, where their entries point, and what changed.
    #[arg(long, value_name = "EVERY", value_parser = nonzero, num_args = 0..=1, require_equals = true)]
    pub dump_tables: Option<Option<u64>>,
    /// Start from the layout of a real process (`pagewalk snapshot`): its addresses, page sizes, frames' contiguity
    /// and nodes, in place of the model's own choices.
    #[arg(long, value_name = "SNAPSHOT")]
    pub layout: Option<PathBuf>,
    /// Processes of the input that run the same program are containers of one image and one user: a group each program,
    /// whose members may share (`+babelfish`). Otherwise a group is a process and its forks.
    #[arg(long)]
    pub containers: bool,
    #[command(flatten)]
    pub capture: Capture,
    /// A program to run and to take the accesses from, live, with no trace on disk.
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

impl Experiment {
    /// What an experiment is when nothing was said but the machine.
    pub fn default_for(machine: &str) -> Experiment {
        Experiment {
            workload: None,
            machine: machine.to_string(),
            accesses: None,
            warmup: None,
            seed: 1,
            verify: false,
            dump_tables: None,
            layout: None,
            containers: false,
            capture: Capture::default(),
            command: Vec::new(),
        }
    }
}

/// What `list` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// Systems and the features that can be added to them.
    Systems,
    /// Machine profiles.
    Machines,
    /// Workloads and their parameters.
    Workloads,
}

/// A count with an optional suffix k, M or G (powers of ten).
pub fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']) {
        digits if digits.len() == text.len() => (digits, 1),
        digits if digits.len() + 1 == text.len() => {
            let factor = match text.as_bytes()[text.len() - 1].to_ascii_lowercase() {
                b'k' => 1_000,
                b'm' => 1_000_000,
                _ => 1_000_000_000,
            };
            (digits, factor)
        }
        _ => return Err(format!("`{text}` is no count; write 500000, 500k, 2M or 1G")),
    };
    let digits = digits.replace('_', "");
    let number: u64 =
        digits.parse().map_err(|_| format!("`{text}` is no count; write 500000, 500k, 2M or 1G"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` does not fit in 64 bits"))
}

/// A count that is not 0.
fn nonzero(text: &str) -> Result<u64, String> {
    count(text).and_then(|n| if n > 0 { Ok(n) } else { Err("at least 1".to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn counts_take_suffixes() {
        assert_eq!(count("2M"), Ok(2_000_000));
        assert_eq!(count("1_000"), Ok(1000));
        assert!(count("2MM").is_err() && count("x").is_err() && count("99999999999G").is_err());
    }
}
