//! What is printed as JSON is documented, and has a version.
//!
//! `docs/json.md` lists every field with its meaning, as the sources have them. After a change:
//! `UPDATE_DOCS=1 cargo test -p pagewalk --test json`.

mod fields;

use fields::{fields, types};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a command prints: title, with the command; the type; files of the type and of those in it.
type Printed = (&'static str, &'static str, &'static [&'static str]);

const OUTCOMES: &str = "`run`, `compare`: a list, an element a system";
const WALKS: &str = "`explain`: a list, an element a system";
const SUBMITTED: &str = "`sweep run --on slurm`";
const STORED: &str = "`snapshot`, to a file";

const PRINTED: [Printed; 33] = [
    (
        OUTCOMES,
        "Outcome",
        &[
            "lab/src/outcome.rs",
            "lab/src/segments.rs",
            "lab/src/passthrough.rs",
            "lab/src/containers.rs",
            "lab/src/world/dump.rs",
        ],
    ),
    (WALKS, "Walks", &["pagewalk/src/explain.rs", "lab/src/look/view.rs"]),
    ("`record`", "Recording", &["pagewalk/src/live.rs", "pagewalk/src/traces.rs"]),
    ("`trace info`", "Info", &["trace/src/summary/mod.rs", "trace/src/source.rs"]),
    (
        "`trace stat`",
        "Stat",
        &[
            "trace/src/summary/stat.rs",
            "trace/src/summary/mod.rs",
            "trace/src/summary/reuse.rs",
            "trace/src/source.rs",
        ],
    ),
    ("`trace head`: `rows`", "Row", &["trace/src/summary/mod.rs"]),
    ("`trace convert`", "Written", &["pagewalk/src/traces.rs"]),
    ("`snapshot`", "Snapshot", &["trace/src/capture/snapshot/mod.rs", "trace/src/capture/maps.rs"]),
    (STORED, "Stored", &["pagewalk/src/traces.rs"]),
    ("`reproduce all`", "Page", &["lab/src/reproduce/all.rs", "lab/src/reproduce/sheet.rs"]),
    ("`reproduce gups`: `rows`", "Row", &["lab/src/reproduce.rs"]),
    ("`reproduce tlb-curve`: `rows`", "CurvePoint", &["lab/src/reproduce.rs"]),
    ("`reproduce mitosis`, `reproduce vmitosis`: `rows`", "Cell", &["lab/src/figures/run.rs"]),
    (
        "`reproduce ptemagnet`",
        "Report",
        &["lab/src/reproduce/ptemagnet.rs", "lab/src/reproduce/ptemagnet/fault.rs", "lab/src/outcome.rs"],
    ),
    (
        "`reproduce babelfish`: `outcomes` and `larger` are outcomes as of `run`",
        "Report",
        &["lab/src/reproduce/babelfish.rs"],
    ),
    (
        "`reproduce passthrough`",
        "Report",
        &["pagewalk/src/passthrough.rs", "lab/src/reproduce/passthrough.rs", "lab/src/passthrough.rs"],
    ),
    (
        "`reproduce together`: `rows`",
        "Row",
        &["pagewalk/src/reproduce/together.rs", "lab/src/reproduce/together.rs"],
    ),
    ("`reproduce direct-segments`", "Report", &["pagewalk/src/segments.rs", "lab/src/reproduce/segments.rs"]),
    ("`advise`", "Printed", &["pagewalk/src/advise.rs", "lab/src/advise.rs"]),
    ("`matrix`", "Matrix", &["pagewalk/src/soak.rs"]),
    ("`soak`", "Soaked", &["pagewalk/src/soak.rs"]),
    ("`sweep plan`", "Planned", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep run`", "Ran", &["pagewalk/src/sweep/told.rs"]),
    (SUBMITTED, "Submission", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep status`", "Status", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep collect`", "Gathered", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep commands`", "Commands", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep work`", "Worked", &["pagewalk/src/sweep/told.rs"]),
    ("`sweep cancel`", "Cancelled", &["pagewalk/src/sweep/told.rs"]),
    ("`attack passthrough`: `rows`", "AttackRow", &["pagewalk/src/passthrough.rs"]),
    ("`shareable`", "Report", &["lab/src/shareable.rs"]),
    ("`list`", "Listing", &["pagewalk/src/list.rs"]),
    ("`man`: `rows`", "Written", &["pagewalk/src/shells.rs"]),
];

/// Commands without JSON: what they print is a program itself.
const WITHOUT: [&str; 1] = ["completions"];

/// What takes minutes even when it is small: only that the page has the sources' fields is checked.
const LONG: [&str; 5] = [
    "`reproduce all`",
    "`reproduce gups`: `rows`",
    "`reproduce tlb-curve`: `rows`",
    "`reproduce ptemagnet`",
    "`reproduce passthrough`",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documented() -> String {
    let mut text = String::new();
    for (title, of, files) in PRINTED {
        let mut all = BTreeMap::new();
        for file in files.iter().rev() {
            let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            all.append(&mut types(&source));
        }
        let mut found = Vec::new();
        fields(of, "", &all, &mut found);
        assert!(!found.is_empty(), "{title}");
        text += &format!("### {title}\n\n| field | type | what it is |\n|---|---|---|\n");
        for [path, kind, doc] in found {
            text += &format!("| `{path}` | {kind} | {} |\n", doc.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_documentation_lists_every_field() {
    let page = root().join("docs/json.md");
    let text = std::fs::read_to_string(&page).expect("docs/json.md");
    let (before, rest) = text.split_once("<!-- fields -->\n").expect("where fields begin");
    let (listed, after) = rest.split_once("<!-- end -->").expect("where fields end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{before}<!-- fields -->\n{}<!-- end -->{after}", documented());
        return std::fs::write(&page, text).expect("to write docs/json.md");
    }
    assert_eq!(listed, documented(), "run `UPDATE_DOCS=1 cargo test -p pagewalk --test json`");
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let directory = std::env::temp_dir().join(format!("pagewalk-json-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        Scratch(directory)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a name").to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_command_is_forgotten() {
    // Manual pages come from the command line itself, one a command.
    let scratch = Scratch::new("man");
    let pages = printed(&["man", &scratch.file("pages")]);
    let mut names: Vec<String> = pages["rows"].as_array().expect("rows").iter().map(name_of_page).collect();
    names.sort_unstable();
    let written = std::fs::read_dir(scratch.file("pages")).expect("pages");
    let mut written: Vec<String> = written.map(|page| name_of(&page.expect("a page").path())).collect();
    written.sort_unstable();
    assert_eq!(names, written);
    assert!(names.len() > 30, "{names:?}");
    // Without a command it is `compare`.
    let leaf = |name: &&String| {
        !name.is_empty() && !names.iter().any(|other| other.starts_with(&format!("{name}-")))
    };
    let on_page: BTreeSet<String> = PRINTED
        .iter()
        .flat_map(|(title, ..)| title.split('`').skip(1).step_by(2))
        .map(|command| command.replace(' ', "-"))
        .chain(WITHOUT.map(String::from))
        .collect();
    let forgotten: Vec<_> = names.iter().filter(leaf).filter(|name| !on_page.contains(*name)).collect();
    assert!(forgotten.is_empty(), "docs/json.md does not say what these print: {forgotten:?}");
    for without in WITHOUT {
        assert!(names.iter().any(|name| name == without), "there is no command `{without}`");
    }
}

fn name_of_page(row: &Value) -> String {
    name_of(Path::new(row["path"].as_str().expect("a path")))
}

/// `…/pagewalk-sweep-plan.1` is of `sweep-plan`.
fn name_of(page: &Path) -> String {
    let name = page.file_stem().expect("a name").to_str().expect("text");
    name.trim_start_matches("pagewalk").trim_start_matches('-').to_string()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagewalk"));
    // What a program after `--` gets is its own.
    let own = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
    command.args(&args[..own]).args(["--json", "--quiet"]).args(&args[own..]).current_dir(root());
    command
}

fn printed_by(mut command: Command) -> Value {
    let out = command.output().expect("pagewalk");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{command:?}: {e}: {}", String::from_utf8_lossy(&out.stdout)))
}

fn printed(args: &[&str]) -> Value {
    printed_by(command(args))
}

fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let path = if value.is_array() { path + "[]" } else { path };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| paths(value, at, found)),
        _ => {}
    }
}

/// The part of the page about one command.
fn section(title: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/json.md")).expect("docs/json.md");
    let (_, rest) = text.split_once(&format!("### {title}\n")).expect(title);
    let rows =
        rest.lines().skip(1).skip_while(|line| !line.starts_with('|')).take_while(|l| l.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1).map(str::to_string)).collect()
}

/// Titles of what was checked.
#[derive(Default)]
struct Checked(RefCell<BTreeSet<String>>);

impl Checked {
    /// Every field is on the page.
    fn fields(&self, title: &str, value: &Value) {
        let mut found = BTreeSet::new();
        paths(value, "", &mut found);
        let known = section(title);
        // Names below `*` are whatever they are.
        let any: Vec<&str> = known.iter().filter_map(|path| Some(path.split_once(".*")?.0)).collect();
        let below = |path: &String| {
            any.iter()
                .any(|of| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        };
        let envelope = ["schema", "kind"];
        let unknown: Vec<_> = found
            .iter()
            .filter(|path| !known.contains(*path) && !envelope.contains(&path.as_str()) && !below(path))
            .collect();
        assert!(unknown.is_empty(), "{title}: not documented: {unknown:?}");
        assert!(found.iter().any(|path| known.contains(path)), "{title}: {found:?}");
        self.0.borrow_mut().insert(title.to_string());
    }

    /// A version, what it is, and fields.
    fn whole(&self, title: &str, value: &Value) {
        assert!(value["schema"].is_u64() && value["kind"].is_string(), "{title}: {value}");
        if title.ends_with(": `rows`") {
            let rows = value["rows"].as_array().expect("rows");
            assert!(!rows.is_empty(), "{title}");
            rows.iter().for_each(|row| self.fields(title, row));
        } else {
            self.fields(title, value);
        }
    }

    /// A list, each element with its version.
    fn list(&self, title: &str, value: &Value) {
        for element in value.as_array().expect("a list") {
            assert!(element["schema"].is_u64());
            self.fields(title, element);
        }
    }
}

#[test]
fn what_is_printed_is_documented_and_versioned() {
    let checked = Checked::default();
    // Two at a time: most of it is waiting for commands.
    std::thread::scope(|threads| {
        let others = threads.spawn(|| {
            let checked = Checked::default();
            papers(&checked);
            checked.0.into_inner()
        });
        runs(&checked);
        traces(&checked);
        sweeps(&checked);
        let others = others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        checked.0.borrow_mut().extend(others);
    });
    let left: Vec<&str> = PRINTED
        .iter()
        .map(|(title, ..)| *title)
        .filter(|title| !checked.0.borrow().contains(*title) && !LONG.contains(title))
        .collect();
    assert!(left.is_empty(), "nothing was printed of {left:?}");
}

fn runs(checked: &Checked) {
    let some = ["-w", "gups:footprint=16MiB", "-n", "5k", "--warmup", "1k"];
    let with = |args: &[&'static str]| printed(&[args, &some[..]].concat());
    let compared = with(&["compare", "native", "nested", "dual-direct", "passthrough", "--dump-tables"]);
    checked.list(OUTCOMES, &compared);
    checked.list(WALKS, &with(&["explain", "native,nested", "0x7ffff6e00000"]));
    checked.whole("`matrix`", &printed(&["matrix", "--run", "200", "--every", "20000", "--threads", "1"]));
    checked.whole("`soak`", &printed(&["soak", "--cases", "1", "--threads", "1"]));
    for what in ["systems", "machines", "workloads"] {
        checked.whole("`list`", &printed(&["list", what]));
    }
    let scratch = Scratch::new("pages");
    checked.whole("`man`: `rows`", &printed(&["man", &scratch.file("man")]));
}

fn traces(checked: &Checked) {
    let trace = "data/redis-mget.parquet";
    let scratch = Scratch::new("traces");
    for (args, title) in [
        (&["trace", "info", trace][..], "`trace info`"),
        (&["trace", "stat", trace], "`trace stat`"),
        (&["trace", "head", trace, "-n", "3"], "`trace head`: `rows`"),
        (&["trace", "convert", trace, &scratch.file("out.parquet")], "`trace convert`"),
    ] {
        let value = printed(args);
        assert_eq!(value["kind"], args[..2].join(" "));
        checked.whole(title, &value);
    }
    let me = std::process::id().to_string();
    checked.whole("`shareable`", &printed(&["shareable", &me]));
    checked.whole("`snapshot`", &printed(&["snapshot", &me]));
    checked.whole(STORED, &printed(&["snapshot", &me, "-o", &scratch.file("me.snapshot")]));
    if Command::new("qemu-x86_64").arg("--version").output().is_err() {
        // Past the test harness, which would swallow it.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED the JSON of record: no qemu-x86_64 (apt install qemu-user)");
        checked.0.borrow_mut().insert("`record`".to_string());
        return;
    }
    // The program's own output is not in the way.
    let chatty = ["sh", "-c", "echo aside"];
    let file = scratch.file("sh.parquet");
    let record = [&["record", "-o", &file, "--limit", "1k", "--"][..], &chatty].concat();
    checked.whole("`record`", &printed(&record));
    let live = [&["compare", "native", "-n", "1k", "--"][..], &chatty].concat();
    checked.list(OUTCOMES, &printed(&live));
}

/// A cluster whose jobs run until they are cancelled.
fn cluster(scratch: &Scratch) {
    let running = scratch.file("running");
    for (name, script) in [
        ("scontrol", "echo 'MaxArraySize = 1001'".to_string()),
        ("sbatch", format!("touch '{running}'; echo 41")),
        ("squeue", format!("test -e '{running}' && echo RUNNING; true")),
        ("scancel", format!("rm -f '{running}'")),
    ] {
        let file = scratch.file(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).expect("a program");
    }
}

fn sweeps(checked: &Checked) {
    let scratch = Scratch::new("sweeps");
    cluster(&scratch);
    let path = format!("{}:{}", scratch.0.display(), std::env::var("PATH").unwrap_or_default());
    let file = scratch.file("small.toml");
    let text = "name = \"small\"\n[base]\nmachine = \"broadwell\"\naccesses = \"2k\"\nwarmup = \"1k\"\n\
                workload = \"gups\"\n[cross]\nsystem = [\"native\", \"nested\"]\n\
                \"workload.footprint\" = [\"16MiB\", \"100TiB\"]\n";
    std::fs::write(&file, text).expect("a sweep");
    let directory = scratch.file("results");
    let sweep = |args: &[&str]| {
        let mut command = command(&[&["sweep"], args].concat());
        command.env("PATH", &path);
        printed_by(command)
    };
    let of = ["--directory", &directory];
    let planned = sweep(&[&["plan", &file, "--points", "--no-probe"][..], &of].concat());
    assert_eq!(planned["points"], 2);
    assert!(!planned["refused"].as_array().expect("a list").is_empty());
    checked.whole("`sweep plan`", &planned);
    checked.whole(SUBMITTED, &sweep(&[&["run", &file, "--on", "slurm"][..], &of].concat()));
    let status = sweep(&["status", &directory]);
    assert_eq!(status["slurm"][0]["states"]["running"], 1);
    checked.whole("`sweep status`", &status);
    checked.whole("`sweep cancel`", &sweep(&["cancel", &directory]));
    let commands = sweep(&["commands", &directory]);
    checked.whole("`sweep commands`", &commands);
    let task = commands["rows"][0]["command"].as_str().expect("a command");
    let words: Vec<&str> = task.split(' ').collect();
    let worked = sweep(&["work", &directory, words[words.len() - 2], "0"]);
    assert_eq!(worked["done"], 2);
    checked.whole("`sweep work`", &worked);
    checked.whole("`sweep run`", &sweep(&["run", &directory]));
    checked.whole(SUBMITTED, &sweep(&["run", &directory, "--on", "slurm"]));
    let gathered = sweep(&["collect", &directory]);
    assert_eq!(gathered["rows"], 2);
    checked.whole("`sweep collect`", &gathered);
}

fn papers(checked: &Checked) {
    let small = ["-w", "gups:footprint=16MiB", "-n", "1k", "--warmup", "1k"];
    let advised = printed(&[&["advise", "--native", "--seeds", "1"][..], &small].concat());
    checked.whole("`advise`", &advised);
    checked.whole("`attack passthrough`: `rows`", &printed(&["attack", "passthrough", "--rounds", "3"]));
    let figure = ["--workload", "gups", "--divide", "1024", "--fewer", "1024"];
    for (paper, figures) in [("mitosis", "migration"), ("vmitosis", "thin")] {
        let value = printed(&[&["reproduce", paper, "--figure", figures][..], &figure].concat());
        checked.whole("`reproduce mitosis`, `reproduce vmitosis`: `rows`", &value);
    }
    let size = ["-n", "2k", "--warmup", "2k"];
    let babelfish =
        printed(&[&["reproduce", "babelfish", "-w", "httpd", "--cores", "1"][..], &size].concat());
    let title = "`reproduce babelfish`: `outcomes` and `larger` are outcomes as of `run`";
    let mut row = babelfish["rows"][0].clone();
    checked.list(OUTCOMES, &row["outcomes"]);
    checked.list(OUTCOMES, &Value::Array(vec![row["larger"].take()]));
    row["outcomes"] = Value::Array(Vec::new());
    let mut rest = babelfish.clone();
    rest["rows"] = Value::Array(vec![row]);
    checked.whole(title, &rest);
    let pairs = ["reproduce", "together", "--pairs", "thp", "--footprint", "16MiB", "-n", "1k"];
    checked.whole("`reproduce together`: `rows`", &printed(&pairs));
    let segments = ["reproduce", "direct-segments", "--classes", "ballooning", "--footprint", "16MiB"];
    checked.whole("`reproduce direct-segments`", &printed(&segments));
}
