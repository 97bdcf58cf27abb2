//! `pagewalk sweep`: the command around [`lab::sweep`].

mod args;
mod job;
mod place;
mod probe;
mod show;
mod slurm;
mod told;

use crate::cli::Output;
use crate::progress::{Parts, Points};
use crate::shells::quoted;
use crate::{html, print, report};
use anyhow::{Context, Result, bail};
use args::{Limits, Tasks, Where};
pub use args::{Sweep, Which};
use lab::sweep::{
    Busy, Collected, Costs, Event, Found, Lock, Options, Plan, Store, Unit, collect, forget_dead, under_way,
    units, work,
};
use place::Place;
use std::collections::BTreeMap;
use std::path::Path;

/// Does what was asked for; the exit status.
pub fn sweep(command: Sweep, output: Output) -> Result<u8> {
    match command {
        Sweep::Plan { which, limits, points, no_probe } => plan(&which, limits, points, no_probe, output),
        Sweep::Run { which, limits, on: Where::Local, retry, wait, .. } => {
            run(&which, limits, retry, wait, output)
        }
        Sweep::Run { which, on: Where::Slurm, retry, tasks, at_once, sbatch, .. } => {
            submit(&which, retry, tasks, at_once, &sbatch, output)
        }
        Sweep::Status { which } => status(&which, output),
        Sweep::Collect { which, output: file, partial, html } => {
            gather(&which, file.as_deref(), partial, html.as_deref(), output)
        }
        Sweep::Commands { which, retry, tasks } => commands(&which, retry, tasks, output),
        Sweep::Cancel { which } => cancel(&which, output),
        Sweep::Work { directory, job, task } => task_of(&directory, &job, task, output),
    }
}

/// Prints for programs, or for people.
fn tell(text: &str, output: Output) -> Result<()> {
    if output.json { print(text) } else { crate::show(text) }
}

/// Points at the same time, and bytes of memory.
fn limits(limits: Limits) -> Options {
    Options {
        workers: lab::workers(limits.jobs.map_or(0, |jobs| jobs as usize)),
        memory: limits.memory.unwrap_or_else(|| available_memory() / 4 * 3),
    }
}

/// What the system and the group of processes that we are in let us have.
fn available_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    let group = group.trim().parse().unwrap_or(u64::MAX);
    kib.map_or(4 << 30, |kib| kib << 10).min(group)
}

fn read(place: &Place, values: bool) -> Result<Found> {
    Store::new(&place.directory)
        .read(values)
        .with_context(|| format!("cannot read results in {}", place.directory.display()))
}

/// Places of points that are to run.
fn pending(place: &Place, found: &Found, retry: bool) -> Vec<usize> {
    let open = |key| !found.done.contains_key(key) && (retry || !found.failed.contains_key(key));
    (0..place.plan.points.len()).filter(|at| open(&place.plan.points[*at].key)).collect()
}

fn plan(which: &Which, given: Limits, points: bool, no_probe: bool, output: Output) -> Result<u8> {
    let place = Place::open(which)?;
    let options = limits(given);
    let (costs, probed) =
        if no_probe { (Costs::new(&place.plan), 0) } else { probe::costs(&place.plan, options.memory) };
    let found = read(&place, false)?;
    let (units, _) = local_units(&place, &costs, (0..place.plan.points.len()).collect(), options);
    let mut bytes: Vec<u64> = units.iter().map(|unit| unit.cost.bytes).collect();
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    let together: u64 = bytes.iter().take(options.workers).sum();
    tell(&show::plan(&place, &costs, (probed, together), &found, options, points, output.json)?, output)?;
    Ok(0)
}

/// Units of what is to run locally, and points that do not fit in memory.
fn local_units(
    place: &Place,
    costs: &Costs<'_>,
    points: Vec<usize>,
    options: Options,
) -> (Vec<Unit>, Vec<usize>) {
    let cost = |at: &usize| costs.of(&place.plan.points[*at]);
    let (fit, large): (Vec<usize>, Vec<usize>) =
        points.into_iter().partition(|at| cost(at).bytes <= options.memory);
    let total: f64 = fit.iter().map(|at| cost(at).seconds).sum();
    // Two units for each worker, so that all end at about the same time; where there are more streams than that, each
    // is decoded once.
    let seconds = total / (2 * options.workers) as f64;
    let memory = options.memory / options.workers as u64;
    let mut units = units(&place.plan, fit, |point| costs.of(point), memory, seconds);
    // What takes longest begins first.
    units.sort_by(|a, b| b.cost.seconds.total_cmp(&a.cost.seconds));
    (units, large)
}

fn alone(place: &Place, wait: bool) -> Result<Lock> {
    match Lock::alone(&place.directory, wait) {
        Ok(lock) => Ok(lock),
        Err(Busy::Other(who)) => bail!(
            "{who} works in {}; wait for it (--wait), or end it with `pagewalk sweep cancel`",
            place.directory.display()
        ),
        Err(Busy::Io(e)) => Err(e).with_context(|| format!("cannot lock {}", place.directory.display())),
    }
}

/// Refuses to do what a job of the cluster will do anyway.
fn no_job(place: &Place) -> Result<()> {
    for job in slurm::submitted(&place.directory) {
        let active = slurm::states(&job).is_ok_and(|states| !states.is_empty());
        if active {
            bail!(
                "Slurm job {} works on this sweep; see `pagewalk sweep status`, or end it with `pagewalk sweep cancel`",
                job.array
            );
        }
    }
    Ok(())
}

fn run(which: &Which, given: Limits, retry: bool, wait: bool, output: Output) -> Result<u8> {
    let place = Place::open(which)?;
    place.prepare()?;
    let _lock = alone(&place, wait)?;
    no_job(&place)?;
    let store = Store::new(&place.directory);
    let found = read(&place, false)?;
    let broken = || format!("cannot mend {}", place.directory.display());
    store.mend(&found).and_then(|()| forget_dead(&place.directory)).with_context(broken)?;
    let options = limits(given);
    let costs = Costs::new(&place.plan);
    let pending = pending(&place, &found, retry);
    let bar = Points::new(output.quiet, pending.len() as u64);
    let (units, large) = local_units(&place, &costs, pending, options);
    let observe = |event: Event| match event {
        Event::Accesses(n) => bar.accesses(n),
        Event::Ended(tally) => bar.points(tally.done + tally.failed),
    };
    work(&place.plan, units, &place.directory, options, &observe)?;
    bar.end();
    let found = read(&place, false)?;
    let counts = Collected::count(&place.plan, &found);
    tell(&show::ran(&place, &found, &counts, &large, options, output.json)?, output)?;
    Ok(u8::from(counts.failed + counts.missing > 0))
}

fn status(which: &Which, output: Output) -> Result<u8> {
    let place = Place::open(which)?;
    let found = read(&place, false)?;
    let running = under_way(&place.directory)?;
    let jobs: Vec<_> = slurm::submitted(&place.directory)
        .into_iter()
        .map(|job| {
            let states = slurm::states(&job);
            (job, states)
        })
        .collect();
    let holder = Lock::holder(&place.directory);
    tell(&show::status(&place, &found, &running, holder, &jobs, output.json)?, output)?;
    Ok(0)
}

fn gather(
    which: &Which,
    file: Option<&Path>,
    partial: bool,
    html: Option<&Path>,
    output: Output,
) -> Result<u8> {
    let place = Place::open(which)?;
    let all = place.plan.points.len();
    let bar = Parts::new(output.quiet, "", "points");
    bar.show(0, all, "reading results");
    let found = read(&place, true)?;
    let missing = Collected::count(&place.plan, &found).missing;
    if let Some(key) = found.different.first() {
        bail!(
            "{} points have two results that differ, point {key} among them: the same inputs must give the same; report \
             this, and run it again in another directory",
            found.different.len()
        );
    }
    if missing > 0 && !partial {
        bail!(
            "{missing} of {} points have no result yet: `pagewalk sweep run` goes on with them; --partial takes what there is",
            report::thousands(all as u64)
        );
    }
    let default = place.directory.join("results.parquet");
    let file = file.unwrap_or(&default);
    let counts = collect(&place.plan, &found, file, &|what, done| bar.show(done, all, what))?;
    if let Some(file) = html {
        bar.show(all, all, "page");
        shown_as_page(&place.plan, &found).write(file)?;
    }
    bar.end();
    if let Some(file) = html {
        crate::said(file, output);
    }
    tell(&show::collected(file, &counts, output.json)?, output)?;
    Ok(0)
}

/// The report of the results that there are.
fn shown_as_page(plan: &Plan, found: &Found) -> html::Document {
    let parameters: Vec<String> = plan.varied().map(str::to_string).collect();
    let mut groups = BTreeMap::new();
    let rows = plan.points.iter().filter_map(|point| {
        let record = found.done.get(&point.key)?.record()?;
        let next = groups.len() as u64;
        let group = *groups.entry(point.group()).or_insert(next);
        Some(html::SweepRow { parameters: plan.values(point).cloned().collect(), group, record })
    });
    let rows: Vec<_> = rows.collect();
    html::sweep(&plan.sweep.name, &parameters, &rows)
}

/// Makes a job of what is to run; `None` if there is nothing.
fn job(place: &Place, retry: bool, tasks: Tasks, most: usize) -> Result<Option<job::Job>> {
    let found = read(place, false)?;
    let pending = pending(place, &found, retry);
    if pending.is_empty() {
        return Ok(None);
    }
    let (costs, _) = probe::costs(&place.plan, available_memory() / 2);
    let seconds = (tasks.task_minutes * 60.0).max(1.0);
    let most = most.min(tasks.max_tasks as usize);
    // Units are what is lost together, and what one core does: small beside a task.
    let memory = available_memory() / 4;
    let units = units(&place.plan, pending, |point| costs.of(point), memory, seconds / 4.0);
    job::create(&place.directory, &place.plan, &units, seconds, most).map(Some)
}

fn submit(
    which: &Which,
    retry: bool,
    tasks: Tasks,
    at_once: u32,
    sbatch: &[String],
    output: Output,
) -> Result<u8> {
    let most = slurm::largest_array()?;
    let place = Place::open(which)?;
    place.prepare()?;
    let lock = alone(&place, false)?;
    no_job(&place)?;
    let Some(job) = job(&place, retry, tasks, most)? else {
        tell(&show::submitted(None, &place, output.json)?, output)?;
        return Ok(0);
    };
    // The first tasks may begin before `sbatch` has returned.
    drop(lock);
    let submitted = slurm::submit(&place.directory, &place.plan.sweep.name, &job, at_once, sbatch)?;
    tell(&show::submitted(Some((&submitted, &job)), &place, output.json)?, output)?;
    Ok(0)
}

fn commands(which: &Which, retry: bool, tasks: Tasks, output: Output) -> Result<u8> {
    let place = Place::open(which)?;
    place.prepare()?;
    let mut lines = Vec::new();
    if let Some(job) = job(&place, retry, tasks, usize::MAX)? {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let program = quoted(&program.to_string_lossy());
        let directory = quoted(&std::path::absolute(&place.directory)?.to_string_lossy());
        let line = |task| format!("{program} -q sweep work {directory} {} {task}", job.name);
        lines.extend((0..job.tasks).map(line));
    }
    print(&show::commands(lines, output.json)?)?;
    Ok(0)
}

fn task_of(directory: &Path, name: &str, task: usize, output: Output) -> Result<u8> {
    let place = Place::open(&Which { sweep: directory.to_path_buf(), directory: None })?;
    let _lock = match Lock::shared(directory) {
        Ok(lock) => lock,
        Err(Busy::Other(who)) => bail!("{who} runs all of {}; this task is not needed", directory.display()),
        Err(Busy::Io(e)) => return Err(e).with_context(|| format!("cannot lock {}", directory.display())),
    };
    let store = Store::new(directory);
    let costs = Costs::new(&place.plan);
    let mut left = Vec::new();
    for points in job::task(directory, name, task, &place.plan)? {
        let keys: Vec<_> = points.iter().map(|at| place.plan.points[*at].key).collect();
        // Requeued, or run before: what is there is not done again.
        if !store.has_unit(&keys) {
            let cost = costs.of(&place.plan.points[points[0]]);
            left.push(Unit { points, cost });
        }
    }
    let points = left.iter().map(|unit| unit.points.len() as u64).sum();
    let bar = Points::new(output.quiet, points);
    let observe = |event: Event| match event {
        Event::Accesses(n) => bar.accesses(n),
        Event::Ended(tally) => bar.points(tally.done + tally.failed),
    };
    let options = Options { workers: 1, memory: u64::MAX };
    let tally = work(&place.plan, left, directory, options, &observe)?;
    bar.end();
    tell(&show::worked(name, task, tally, output.json)?, output)?;
    Ok(u8::from(tally.failed > 0))
}

fn cancel(which: &Which, output: Output) -> Result<u8> {
    let place = Place::open(which)?;
    let mut ended = Vec::new();
    for job in slurm::submitted(&place.directory) {
        if !slurm::states(&job)?.is_empty() {
            slurm::cancel(&job)?;
            ended.push(format!("Slurm job {}", job.array));
        }
    }
    if let Some(holder) = Lock::holder(&place.directory) {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let process = holder.strip_prefix("process ").and_then(|rest| rest.split_once(" on "));
        match process {
            Some((id, on)) if on == host => {
                let id = id.parse().ok().and_then(rustix::process::Pid::from_raw);
                let id = id.with_context(|| format!("{holder}: no process"))?;
                rustix::process::kill_process(id, rustix::process::Signal::TERM)
                    .with_context(|| format!("cannot end {holder}"))?;
                ended.push(holder);
            }
            _ => bail!("{holder} works on this sweep; end it there"),
        }
    }
    tell(&show::cancelled(ended, output.json)?, output)?;
    Ok(0)
}
