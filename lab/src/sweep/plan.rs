//! From a sweep to its points.

use super::file::{Axis, Sweep, SweepError};
use super::input::{Digests, Input};
use super::key::Key;
use super::parameter::{self, Length, Part, Wrong};
use crate::experiment::{GENERATED, Member, Room};
use crate::system::System;
use machine::profile::Profile;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value as Json;
use std::sync::Arc;

/// One run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// What it is: its configuration, its input and the model.
    pub key: Key,
    /// Place in [`Plan::systems`].
    pub system: u32,
    /// Place in [`Plan::machines`].
    pub machine: u32,
    /// Place in [`Plan::inputs`].
    pub input: u32,
    length: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Which repetition of the seed that was asked for.
    pub repetition: u32,
    /// Its place among all combinations.
    combination: u32,
}

impl Point {
    /// What points that differ in the seed only have in common.
    pub fn group(&self) -> [u32; 4] {
        [self.system, self.machine, self.input, self.length]
    }
}

/// All points of a sweep.
#[derive(Debug)]
pub struct Plan {
    /// The sweep.
    pub sweep: Sweep,
    /// What runs, in the order of combinations; no two are the same.
    pub points: Vec<Point>,
    /// Systems, by name.
    pub systems: Vec<(String, System)>,
    /// Machines.
    pub machines: Vec<Arc<Profile>>,
    /// Inputs.
    pub inputs: Vec<Input>,
    lengths: Vec<Length>,
    /// Why points are refused, how many there are, and one of them.
    pub refused: Vec<Refused>,
    /// Points that exclusions leave out.
    pub excluded: u64,
    /// Points that are the same as another.
    pub same: u64,
}

/// Points that are refused for one reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub reason: String,
    /// How many.
    pub points: u64,
    /// The parameters of the first.
    pub first: String,
}

/// What each combination of the axes of one part gives: a place in a list, or a reason.
struct Table {
    /// Axes that matter, and how far their rows are apart.
    axes: Vec<(usize, usize)>,
    entries: Vec<Result<u32, u32>>,
}

impl Table {
    fn at(&self, rows: &[usize]) -> Result<u32, u32> {
        self.entries[self.axes.iter().map(|(axis, stride)| rows[*axis] * stride).sum::<usize>()]
    }
}

/// Reasons, each once.
#[derive(Default)]
struct Reasons {
    places: FxHashMap<String, u32>,
    all: Vec<Refused>,
}

impl Reasons {
    fn place(&mut self, reason: String) -> u32 {
        *self.places.entry(reason).or_insert_with_key(|reason| {
            self.all.push(Refused { reason: reason.clone(), points: 0, first: String::new() });
            self.all.len() as u32 - 1
        })
    }
}

/// Goes through all combinations of rows, the last axis fastest.
fn combinations(
    lengths: &[usize],
    mut each: impl FnMut(&[usize]) -> Result<(), String>,
) -> Result<(), String> {
    let mut rows = vec![0; lengths.len()];
    if lengths.contains(&0) {
        return Ok(());
    }
    loop {
        each(&rows)?;
        let Some(at) = (0..rows.len()).rev().find(|at| rows[*at] + 1 < lengths[*at]) else { return Ok(()) };
        rows[at] += 1;
        rows[at + 1..].fill(0);
    }
}

/// Resolves every combination of the parameters of `part`.
fn table(
    sweep: &Sweep,
    part: Part,
    reasons: &mut Reasons,
    mut resolve: impl FnMut(&[(&str, &Json)]) -> Result<u32, Wrong>,
) -> Result<Table, String> {
    let concerns = |axis: &Axis| axis.names.iter().any(|name| parameter::part(name) == Some(part));
    let mut axes: Vec<(usize, usize)> =
        (0..sweep.axes.len()).filter(|at| concerns(&sweep.axes[*at])).map(|at| (at, 1)).collect();
    for at in (1..axes.len()).rev() {
        axes[at - 1].1 = axes[at].1 * sweep.axes[axes[at].0].rows.len();
    }
    let lengths: Vec<usize> = axes.iter().map(|(axis, _)| sweep.axes[*axis].rows.len()).collect();
    let base: Vec<(&str, &Json)> = sweep
        .base
        .iter()
        .filter(|(name, _)| parameter::part(name) == Some(part))
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let mut entries = Vec::new();
    combinations(&lengths, |rows| {
        let varied = axes.iter().zip(rows).flat_map(|((axis, _), row)| {
            let axis = &sweep.axes[*axis];
            axis.names.iter().map(String::as_str).zip(&axis.rows[*row])
        });
        let varied: Vec<(&str, &Json)> =
            varied.filter(|(name, _)| parameter::part(name) == Some(part)).collect();
        let mut all: Vec<(&str, &Json)> =
            base.iter().filter(|(name, _)| varied.iter().all(|(v, _)| v != name)).copied().collect();
        all.extend(varied);
        all.sort_by_key(|(name, _)| *name);
        match resolve(&all) {
            Ok(place) => entries.push(Ok(place)),
            Err(Wrong::Choice(reason)) => entries.push(Err(reasons.place(reason))),
            Err(Wrong::File(reason)) => return Err(reason),
        }
        Ok(())
    })?;
    Ok(Table { axes, entries })
}

/// Parameters and their values.
type Changes<'a> = Vec<(&'a str, &'a Json)>;

/// The value of a part's own name, and changes in the part.
fn named<'a>(
    part: &str,
    otherwise: &'a str,
    all: &[(&'a str, &'a Json)],
) -> Result<(&'a str, Changes<'a>), Wrong> {
    let mut name = otherwise;
    let mut changes = Vec::new();
    for (key, value) in all {
        match key.strip_prefix(part).and_then(|rest| rest.strip_prefix('.')) {
            Some(path) => changes.push((path, *value)),
            None => {
                let wrong = || Wrong::File(format!("{part} = {value} is no name; it is text"));
                name = value.as_str().ok_or_else(wrong)?;
            }
        }
    }
    Ok((name, changes))
}

/// A list in which everything stands once.
struct Once<T> {
    places: FxHashMap<Key, u32>,
    keys: Vec<Key>,
    all: Vec<T>,
}

impl<T> Once<T> {
    fn new() -> Once<T> {
        Once { places: FxHashMap::default(), keys: Vec::new(), all: Vec::new() }
    }
    fn place(&mut self, key: Key, value: impl FnOnce() -> T) -> u32 {
        *self.places.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.all.push(value());
            self.all.len() as u32 - 1
        })
    }
}

impl Plan {
    /// The points of a sweep.
    ///
    /// # Errors
    /// If something that it names is not there, or nothing is left to run.
    pub fn new(sweep: Sweep, digests: &mut Digests) -> Result<Plan, SweepError> {
        let file = sweep.file.clone();
        Plan::build(sweep, digests).map_err(|reason| SweepError { file, reason })
    }

    fn build(sweep: Sweep, digests: &mut Digests) -> Result<Plan, String> {
        let mut reasons = Reasons::default();
        let mut systems = Once::new();
        let system_table = table(&sweep, Part::System, &mut reasons, |all| {
            let (name, changes) = named("system", "native", all)?;
            let (system, shown) = parameter::system(name, &changes)?;
            let text = serde_json::to_string(&system).map_err(|e| Wrong::File(e.to_string()))?;
            Ok(systems.place(Key::of(text.as_bytes()), || (shown, system)))
        })?;
        let mut machines = Once::new();
        let mut trees = FxHashMap::<String, Json>::default();
        let machine_table = table(&sweep, Part::Machine, &mut reasons, |all| {
            let (name, changes) = named("machine", "cascade-lake", all)?;
            if !trees.contains_key(name) {
                let tree = parameter::machine_tree(name, &sweep.directory).map_err(Wrong::File)?;
                trees.insert(name.to_string(), tree);
            }
            let (profile, tree) = parameter::machine(name, trees[name].clone(), &changes)?;
            Ok(machines.place(Key::of(tree.to_string().as_bytes()), || Arc::new(profile)))
        })?;
        let seeds = sweep.axes.last().expect("of seeds");
        let seed = |row: usize| {
            let number = |value: &Json| value.as_u64().expect("made of numbers");
            (number(&seeds.rows[row][0]), number(&seeds.rows[row][1]) as u32)
        };
        let mut inputs = Once::new();
        let input_table = table(&sweep, Part::Workload, &mut reasons, |all| {
            let (name, changes) = named("workload", "", all)?;
            if name.is_empty() {
                return Err(Wrong::File("nothing says `workload`: a generator or a trace".to_string()));
            }
            let is_generator =
                workloads::find(name.split([':', '+', ' ']).next().unwrap_or_default()).is_ok();
            let name = match is_generator || !changes.is_empty() {
                true => parameter::workload(name, &changes)?,
                false => name.to_string(),
            };
            let input = Input::look(&name, &sweep.directory, seed(0).0, digests)?;
            Ok(inputs.place(input.digest, || input))
        })?;
        let mut lengths = Once::new();
        let length_table = table(&sweep, Part::Run, &mut reasons, |all| {
            let length = parameter::length(all).map_err(Wrong::File)?;
            let text = format!("{length:?}");
            Ok(lengths.place(Key::of(text.as_bytes()), || length))
        })?;

        let rooms: Vec<Room> = machines.all.iter().map(|profile| Room::of(profile)).collect();
        let rules = Rules::new(&sweep);
        let model = crate::results::version();
        let mut checked = FxHashMap::<[u32; 3], Option<u32>>::default();
        let mut seen = FxHashSet::default();
        let (mut points, mut excluded, mut same) = (Vec::new(), 0, 0);
        let mut combination = 0u32;
        let axes: Vec<usize> = sweep.axes.iter().map(|axis| axis.rows.len()).collect();
        combinations(&axes, |rows| {
            let place = combination;
            combination += 1;
            if rules.exclude(rows) {
                excluded += 1;
                return Ok(());
            }
            let parts = (|| {
                let parts = [
                    system_table.at(rows)?,
                    machine_table.at(rows)?,
                    input_table.at(rows)?,
                    length_table.at(rows)?,
                ];
                let [system, machine, input, _] = parts;
                let refusal = *checked.entry([system, machine, input]).or_insert_with(|| {
                    let (name, system) = &systems.all[system as usize];
                    let input: &Input = &inputs.all[input as usize];
                    let fits = rooms[machine as usize].check(system, &input.title, input.filled);
                    let machine = &machines.all[machine as usize].name;
                    fits.err().map(|why| reasons.place(format!("{name} on {machine}: {why}")))
                });
                refusal.map_or(Ok(parts), Err)
            })();
            let [system, machine, input, length] = match parts {
                Ok(parts) => parts,
                Err(reason) => {
                    let refused = &mut reasons.all[reason as usize];
                    if refused.points == 0 {
                        refused.first = described(&sweep, rows);
                    }
                    refused.points += 1;
                    return Ok(());
                }
            };
            let (seed, repetition) = seed(*rows.last().expect("an axis of seeds"));
            let (warmup, accesses) = span(&lengths.all[length as usize], &inputs.all[input as usize]);
            let mut bytes = Vec::with_capacity(160);
            bytes.extend_from_slice(model.as_bytes());
            for key in
                [systems.keys[system as usize], machines.keys[machine as usize], inputs.keys[input as usize]]
            {
                bytes.extend_from_slice(&key.0.to_le_bytes());
            }
            for number in [
                warmup,
                accesses.map_or(u64::MAX, |n| n),
                seed,
                u64::from(lengths.all[length as usize].verify),
            ] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            let key = Key::of(&bytes);
            if seen.insert(key) {
                points.push(Point {
                    key,
                    system,
                    machine,
                    input,
                    length,
                    seed,
                    repetition,
                    combination: place,
                });
            } else {
                same += 1;
            }
            Ok(())
        })?;
        reasons.all.retain(|refused| refused.points > 0);
        if points.is_empty() {
            let reasons: Vec<String> =
                reasons.all.iter().map(|r| format!("\n  {} ({})", r.reason, r.first)).collect();
            return Err(format!(
                "nothing is left to run: {excluded} points are excluded, the others refused{}",
                reasons.concat()
            ));
        }
        Ok(Plan {
            points,
            systems: systems.all,
            machines: machines.all,
            inputs: inputs.all,
            lengths: lengths.all,
            refused: reasons.all,
            excluded,
            same,
            sweep,
        })
    }

    /// What tells this plan from others.
    pub fn digest(&self) -> Key {
        let bytes: Vec<u8> = self.points.iter().flat_map(|point| point.key.0.to_le_bytes()).collect();
        Key::of(&bytes)
    }

    /// Accesses before counting begins, and those counted; all that there are if `None`.
    pub fn span(&self, point: &Point) -> (u64, Option<u64>) {
        span(&self.lengths[point.length as usize], &self.inputs[point.input as usize])
    }

    /// Accesses that are simulated for a point, as far as that is known.
    pub fn accesses(&self, point: &Point) -> u64 {
        let (warmup, accesses) = self.span(point);
        match (accesses, self.inputs[point.input as usize].accesses) {
            (Some(n), all) => n.saturating_add(warmup).min(all.unwrap_or(u64::MAX)),
            // A trace that does not say how long it is: as long as a generator's run.
            (None, all) => all.unwrap_or(GENERATED.0),
        }
    }

    /// A point as an experiment's member.
    pub fn member(&self, point: &Point) -> Member {
        let (warmup, accesses) = self.span(point);
        Member {
            system: self.systems[point.system as usize].1,
            profile: Profile::clone(&self.machines[point.machine as usize]),
            warmup,
            accesses,
            seed: point.seed,
            verify: self.lengths[point.length as usize].verify,
        }
    }

    /// The values of the parameters that are varied, in the order of [`Plan::varied`].
    pub fn values<'a>(&'a self, point: &Point) -> impl Iterator<Item = &'a Json> {
        let mut rest = point.combination as usize;
        let mut rows = vec![0; self.sweep.axes.len()];
        for (at, axis) in self.sweep.axes.iter().enumerate().rev() {
            rows[at] = rest % axis.rows.len();
            rest /= axis.rows.len();
        }
        self.sweep.axes.iter().zip(rows).flat_map(|(axis, row)| &axis.rows[row])
    }

    /// Names of the parameters that are varied; the last two are `seed` and `repetition`.
    pub fn varied(&self) -> impl Iterator<Item = &str> {
        self.sweep.axes.iter().flat_map(|axis| &axis.names).map(String::as_str)
    }

    /// A point in words.
    pub fn describe(&self, point: &Point) -> String {
        let input = &self.inputs[point.input as usize].name;
        let machine = &self.machines[point.machine as usize].name;
        format!("{} on {machine}, {input}, seed {}", self.systems[point.system as usize].0, point.seed)
    }
}

/// Accesses before counting begins, and those counted, as `pagewalk run` has them.
fn span(length: &Length, input: &Input) -> (u64, Option<u64>) {
    if input.trace.is_some() {
        return (length.warmup.unwrap_or(input.accesses.unwrap_or(0) / 2), length.accesses);
    }
    let accesses = length.accesses.unwrap_or(GENERATED.0);
    (length.warmup.unwrap_or(GENERATED.1.min(accesses)), Some(accesses))
}

/// Parameters of a combination, as one writes them.
fn described(sweep: &Sweep, rows: &[usize]) -> String {
    let values = sweep.axes.iter().zip(rows).flat_map(|(axis, row)| axis.names.iter().zip(&axis.rows[*row]));
    let values = values.filter(|(name, _)| *name != "repetition");
    values.map(|(name, value)| format!("{name} = {}", parameter::shown(value))).collect::<Vec<_>>().join(", ")
}

/// Exclusions: for each rule and each axis, the rows that it means.
struct Rules(Vec<Vec<Option<Vec<bool>>>>);

impl Rules {
    fn new(sweep: &Sweep) -> Rules {
        let rule = |rule: &std::collections::BTreeMap<String, Vec<Json>>| {
            let of_axis = |axis: &Axis| {
                let columns: Vec<(usize, &Vec<Json>)> = axis
                    .names
                    .iter()
                    .enumerate()
                    .filter_map(|(at, name)| rule.get(name).map(|values| (at, values)))
                    .collect();
                let meant = |row: &Vec<Json>| columns.iter().all(|(at, values)| values.contains(&row[*at]));
                (!columns.is_empty()).then(|| axis.rows.iter().map(meant).collect())
            };
            sweep.axes.iter().map(of_axis).collect()
        };
        Rules(sweep.exclude.iter().map(rule).collect())
    }

    fn exclude(&self, rows: &[usize]) -> bool {
        let meant = |rule: &Vec<Option<Vec<bool>>>| {
            rule.iter().zip(rows).all(|(of_axis, row)| of_axis.as_ref().is_none_or(|meant| meant[*row]))
        };
        self.0.iter().any(meant)
    }
}
