//! `pagewalk advise`: what would help a program, and what it costs.

use crate::cli::{AdviseArgs, Output};
use crate::inputs::{self, Input};
use crate::report::{bytes, under};
use crate::{print_json, progress, show};
use anyhow::Result;
use lab::Outcome;
use lab::advise::{self, Reach, Remedy, Situation, Verdict};
use lab::experiment::{self, Experiment, ExperimentError};
use machine::input::Source;
use serde::Serialize;

/// What is printed.
#[derive(Serialize)]
struct Printed {
    /// The workload or trace.
    workload: String,
    /// The machine profile's name.
    machine: String,
    /// Seeds that it ran with.
    seeds: u64,
    /// Where the program may run.
    advice: Vec<Advice>,
}

/// What is said of one place that the program may run in.
#[derive(Serialize)]
struct Advice {
    /// `native` or `nested`.
    today: &'static str,
    /// Remedies; the first is today's system.
    verdicts: Vec<Verdict>,
    /// Systems that could not run, and why.
    left_out: Vec<(String, String)>,
}

/// Runs the remedies and says what they do.
pub fn advise(args: &AdviseArgs, output: Output) -> Result<()> {
    let (mut experiment, input) = inputs::experiment(&["native".to_string()], &args.experiment, output)?;
    let live = matches!(input, Input::Live(_));
    let seeds = if live { 1 } else { args.seeds };
    let setup = if live { None } else { Some(input.open(experiment.seed)?.setup()?) };
    let situation = Situation {
        nodes: experiment.profile.layout().nodes.len(),
        processes: setup.as_ref().map_or(1, |setup| setup.processes.len()),
        real_layout: experiment.layout.is_some(),
    };
    let places: Vec<Vec<Remedy>> = match (args.native, args.vm) {
        (true, false) => vec![advise::native()],
        (false, true) => vec![advise::in_vm()],
        _ => vec![advise::native(), advise::in_vm()],
    };
    // All places at once: one decoded input feeds them.
    let mut chosen: Vec<Vec<Remedy>> = Vec::new();
    experiment.systems.clear();
    for remedies in &places {
        let systems = situation.systems(remedies);
        chosen.push(systems.iter().map(|(remedy, _)| *remedy).collect());
        experiment.systems.extend(systems.into_iter().map(|(_, system)| system));
    }
    let mut left_out = Vec::new();
    let mut runs: Vec<Vec<Outcome>> = Vec::new();
    let first = experiment.seed;
    for seed in first..first + seeds {
        experiment.seed = seed;
        runs.push(outcomes(&mut experiment, &input, &mut left_out, output)?);
    }
    // What could not run under one seed is judged under none.
    let of = |remedies: &[Remedy]| -> Advice {
        let kept: Vec<Remedy> = remedies
            .iter()
            .filter(|remedy| runs.iter().all(|run| run.iter().any(|o| o.system == remedy.system)))
            .copied()
            .collect();
        let picked: Vec<Vec<Outcome>> = runs
            .iter()
            .map(|run| {
                kept.iter().filter_map(|r| run.iter().find(|o| o.system == r.system)).cloned().collect()
            })
            .collect();
        let mine = |(name, _): &&(String, String)| remedies.iter().any(|r| r.system == name.as_str());
        Advice {
            today: remedies.first().map_or("", |r| r.system),
            verdicts: advise::verdicts(&kept, &picked),
            left_out: left_out.iter().filter(mine).cloned().collect(),
        }
    };
    let advice: Vec<Advice> = chosen.iter().map(|remedies| of(remedies)).collect();
    if let Some(file) = &args.html {
        let places: Vec<_> = advice.iter().map(|a| (a.today, a.verdicts.as_slice())).collect();
        let first = runs.first().map_or(&[][..], Vec::as_slice);
        crate::html::advise(&places, first, seeds, &text(&advice, &runs, seeds, live)).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        let workload =
            runs.first().and_then(|run| run.first()).map_or_else(String::new, |o| o.workload.clone());
        let printed = Printed { workload, machine: experiment.profile.name, seeds, advice };
        return print_json("advice", &printed);
    }
    show(&text(&advice, &runs, seeds, live))
}

/// Runs all systems; one that cannot be built for this input is left out, with the reason.
fn outcomes(
    experiment: &mut Experiment,
    input: &Input,
    left_out: &mut Vec<(String, String)>,
    output: Output,
) -> Result<Vec<Outcome>> {
    loop {
        let mut source: Box<dyn Source> = input.open(experiment.seed)?;
        let bar = progress::Bar::new(output.quiet);
        let result = experiment::run(experiment, &mut *source, &mut |p| bar.show(p));
        bar.end();
        let (system, reason) = match result {
            Ok(outcomes) => return Ok(outcomes),
            Err(ExperimentError::Refused { system, reason, .. }) => (system, reason),
            Err(ExperimentError::World { system, error }) => (system, error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let before = experiment.systems.len();
        experiment.systems.retain(|s| s.to_string() != system);
        if experiment.systems.len() == before || matches!(input, Input::Live(_)) {
            anyhow::bail!("{system}: {reason}");
        }
        left_out.push((system, reason));
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn signed(bytes_more: i64) -> String {
    let sign = if bytes_more < 0 { "-" } else { "+" };
    format!("{sign}{}", bytes(bytes_more.unsigned_abs()))
}

fn text(advice: &[Advice], runs: &[Vec<Outcome>], seeds: u64, live: bool) -> String {
    let mut text = String::new();
    if let Some(o) = runs.first().and_then(|run| run.first()) {
        text += &format!("{}\non {}\n", o.workload, o.machine);
    }
    for place in advice {
        let Some(today) = place.verdicts.first() else { continue };
        let in_vm = place.today != "native";
        text += &format!(
            "\n{}: under {} the walker is busy {} of the time.\nMemory, tables and the kernel's cycles per access are those beyond today's.\n\n",
            if in_vm { "In a VM" } else { "Without a VM" },
            today.remedy.system,
            percent(today.walks)
        );
        let head = ["", "saves", "from .. to", "walks left", "memory", "tables", "kernel", "needs"];
        let mut rows = Vec::new();
        for reach in Reach::ALL {
            let mut of: Vec<&Verdict> =
                place.verdicts.iter().skip(1).filter(|v| v.remedy.reach == reach).collect();
            of.sort_by(|a, b| b.saves.mean.total_cmp(&a.saves.mean));
            if !of.is_empty() {
                rows.push(vec![reach.says().to_string()]);
            }
            for v in of {
                rows.push(vec![
                    format!("  {}", v.remedy.system),
                    percent(v.saves.mean),
                    format!("{} .. {}", percent(v.saves.low), percent(v.saves.high)),
                    percent(v.walks),
                    signed(v.frames * 4096),
                    signed(v.table_bytes),
                    format!("{:+.1}", v.software),
                    v.remedy.needs.to_string(),
                ]);
            }
        }
        text += &under(head, rows, 1..7);
        text.push('\n');
        for (system, reason) in &place.left_out {
            text += &format!("{system} was left out: {reason}\n");
        }
        text += &sentences(&place.verdicts);
    }
    let same = advice.iter().flat_map(|place| &place.verdicts).all(|v| v.saves.low == v.saves.high);
    text += &match (live, seeds, same) {
        (true, _, _) => "\nOne run of the program: how much these numbers vary is not known.\n".to_string(),
        (false, 1, _) => {
            "\nOne seed: how much these numbers vary is not known; --seeds 3 tells.\n".to_string()
        }
        (false, seeds, true) => {
            format!(
                "\nNothing of this input is random: {seeds} seeds gave the same. Another input would tell more.\n"
            )
        }
        (false, seeds, false) => {
            format!("\nEach number is the mean over {seeds} seeds; what is said to help does so under all.\n")
        }
    };
    text
}

/// What to do: nearest first, and what lies further only if it saves more.
fn sentences(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let mut saved = advise::WORTH;
    for reach in Reach::ALL {
        match advise::best(verdicts, reach) {
            Some(v) if v.saves.mean > saved + advise::WORTH => {
                saved = v.saves.mean;
                text += &format!(
                    "{}: {} saves {} of the cycles ({}).\n",
                    capital(reach.says()),
                    v.remedy.system,
                    percent(v.saves.mean),
                    v.remedy.needs
                );
            }
            _ => {
                text += &format!(
                    "{}: nothing {}saves more than half a percent.\n",
                    capital(reach.says()),
                    if saved > advise::WORTH { "more than that " } else { "" }
                )
            }
        }
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
