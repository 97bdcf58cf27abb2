//! Random systems under random programs, watched by the oracle; and what fails made small.
//!
//! A [`Case`] is a run that a command line can name. Everything of it follows from a seed and the case's
//! number, so that it does not matter how many threads draw cases, or which of them ends first.

use crate::experiment::{self, Experiment, ExperimentError};
use crate::matrix::axes;
use crate::system::{self, Pages, System};
use crate::world::WorldError;
use machine::input::Source;
use machine::profile::Profile;
use os::MmError;
use paging::PageSize;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A verified run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The system's name.
    pub system: String,
    /// The machine's.
    pub machine: String,
    /// The workload and its parameters.
    pub workload: String,
    /// Accesses.
    pub accesses: u64,
    /// Seed of everything random.
    pub seed: u64,
}

impl fmt::Display for Case {
    /// The command that runs it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { system, machine, workload, accesses, seed } = self;
        write!(
            f,
            "pagewalk run -s '{system}' -m {machine} -w '{workload}' -n {accesses} --warmup 0 --seed {seed} --verify"
        )
    }
}

/// What went wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A run ended with this.
    Error(String),
    /// Pagewalk itself did.
    Panic(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(what) => f.write_str(what),
            Failure::Panic(what) => write!(f, "a panic: {what}"),
        }
    }
}

impl Failure {
    /// Whether both are the same kind of failure: the same words up to the first number.
    fn is_like(&self, other: &Failure) -> bool {
        fn words(text: &str) -> &str {
            text.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default()
        }
        match (self, other) {
            (Failure::Error(a), Failure::Error(b)) | (Failure::Panic(a), Failure::Panic(b)) => {
                words(a) == words(b)
            }
            _ => false,
        }
    }
}

/// Draws: uniform and seeded.
struct Dice(Xoshiro256PlusPlus);

impl Dice {
    fn of(seed: u64, number: u64) -> Dice {
        Dice(Xoshiro256PlusPlus::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }
    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What a combination may have besides its axes.
const EXTRAS: &[&str] = &[
    "spread",
    "interference=0:10",
    "table-cache=8",
    "host-table-cache=8",
    "numa-balancing",
    "promote",
    "bad=3",
    "pcp=7",
    "aslr=software",
    "twin-free",
    "overlapped-check",
    "fast-entry",
    "live-migration",
    "enlightened=1",
];

impl Case {
    /// Case `number` of a soak of `seed`.
    pub fn draw(seed: u64, number: u64) -> Case {
        let mut dice = Dice::of(seed, number);
        let bases: Vec<(&str, system::Translation)> = system::bases().collect();
        let machines: Vec<&str> = Profile::list().map(|(name, _)| name).collect();
        // Most combinations make sense; those that do not are drawn anew.
        loop {
            let system = system_name(&mut dice, &bases);
            let machine = dice.one(&machines);
            let Some(profile) = Profile::builtin(machine).ok() else { continue };
            let topology = &profile.topology;
            // Pages of 1 GiB that forked processes copy: turmoil may want 24 of them at a time.
            let huge =
                |system: &System| [&system.kernel, &system.host].iter().any(|s| s.pages == Pages::Huge1G);
            let large = topology.gib_per_socket * u64::from(topology.sockets) >= 128;
            let fits = |system: &System| {
                system.check_on(topology.sockets as usize).is_ok() && (large || !huge(system))
            };
            let Some(system) = System::parse(&system).ok().filter(fits) else { continue };
            return Case {
                system: system.to_string(),
                machine: machine.to_string(),
                workload: workload(&mut dice, &system),
                accesses: 1000 << dice.below(9),
                seed: dice.below(1 << 32),
            };
        }
    }

    /// Runs it: accesses that the oracle checked.
    ///
    /// # Errors
    /// What went wrong.
    pub fn run(&self) -> Result<u64, Failure> {
        let result = catch_unwind(AssertUnwindSafe(|| self.verified()));
        match result {
            Ok(done) => done.map_err(Failure::Error),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(Failure::Panic(text.unwrap_or("without a message").to_string()))
            }
        }
    }

    fn verified(&self) -> Result<u64, String> {
        let system = System::parse(&self.system).map_err(|error| error.to_string())?;
        let profile = Profile::builtin(&self.machine).map_err(|error| error.to_string())?;
        let mut source: Box<dyn Source + Send> =
            workloads::build(&self.workload, self.seed).map_err(|error| error.to_string())?;
        let experiment = Experiment {
            warmup: 0,
            accesses: Some(self.accesses),
            seed: self.seed,
            verify: true,
            threads: 1,
            ..Experiment::new(profile, [system])
        };
        match experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())) {
            Ok(outcomes) => Ok(outcomes.iter().filter_map(|outcome| outcome.verified).sum()),
            // The workload and the machine do not go together: nothing was run.
            Err(ExperimentError::Refused { .. }) => Ok(0),
            Err(ExperimentError::World { error, .. }) => match *error {
                // Nobody reserved 1 GiB pages at boot, and small frames have spoilt what is free: so a machine runs out.
                WorldError::Kernel { error: MmError::NoHugePage { size: PageSize::Size1G, .. }, .. } => Ok(0),
                error => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    /// A smaller case that fails as this one does, in `failure`.
    pub fn shrink(self, failure: &Failure) -> Case {
        let mut best = self;
        loop {
            let fails = |case: &Case| case.run().is_err_and(|other| other.is_like(failure));
            let smaller = best.smaller().into_iter().find(fails);
            match smaller {
                Some(case) => best = case,
                None => return best,
            }
        }
    }

    /// Cases with something left out, the largest steps first.
    fn smaller(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for accesses in [self.accesses / 2, self.accesses / 4 * 3, self.accesses / 16 * 15] {
            if accesses > 0 && accesses < self.accesses {
                cases.push(Case { accesses, ..self.clone() });
            }
        }
        let parts: Vec<&str> = self.system.split('+').collect();
        for leave in 1..parts.len() {
            let kept: Vec<&str> =
                parts.iter().enumerate().filter(|(at, _)| *at != leave).map(|(_, part)| *part).collect();
            cases.push(Case { system: kept.join("+"), ..self.clone() });
        }
        if let Some((base, pages)) = self.system.split_once('-').filter(|_| parts[0].contains('-')) {
            // `vmm-direct-4k-thp` has a base of two words; what is no system is not tried.
            let features = pages.split_once('+').map(|(_, rest)| format!("+{rest}")).unwrap_or_default();
            cases.push(Case { system: format!("{base}{features}"), ..self.clone() });
        }
        if let Some((name, parameters)) = self.workload.split_once(':') {
            let parameters: Vec<&str> = parameters.split(',').collect();
            for leave in 0..parameters.len() {
                let kept: Vec<&str> = parameters
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at != leave)
                    .map(|(_, part)| *part)
                    .collect();
                let workload =
                    if kept.is_empty() { name.to_string() } else { format!("{name}:{}", kept.join(",")) };
                cases.push(Case { workload, ..self.clone() });
            }
        }
        cases.retain(|case| System::parse(&case.system).is_ok_and(|s| s.to_string() == case.system));
        cases
    }
}

fn system_name(dice: &mut Dice, bases: &[(&str, system::Translation)]) -> String {
    let (base, way) = bases[dice.below(bases.len() as u64) as usize];
    let in_vm = System { translation: way, ..System::default() }.is_virtual();
    let pages = ["4k", "thp", "2m", "1g"];
    let mut name = format!("{base}-{}", dice.one(&pages));
    if in_vm {
        name = format!("{name}-{}", dice.one(&pages));
    }
    for axis in axes().iter().filter(|axis| in_vm || !axis.of_vm) {
        let choice = dice.one(&axis.choices);
        if !choice.is_empty() {
            name = format!("{name}+{choice}");
        }
    }
    for _ in 0..dice.below(3) {
        name = format!("{name}+{}", dice.one(EXTRAS));
    }
    // Reclaim has nowhere to put pages without.
    if dice.below(4) > 0 {
        name += "+swap=64";
        if in_vm {
            name += "+host-swap=64";
        }
    }
    name
}

/// A random program for a system, of mappings up to `mib` MiB: it does not cut reserved huge pages.
pub fn turmoil(system: &System, mib: u64, rest: &str) -> String {
    let granule = match system.kernel.pages {
        Pages::Small | Pages::Thp => return format!("turmoil:footprint={mib}MiB{rest}"),
        Pages::Huge2M => "2MiB",
        Pages::Huge1G => return format!("turmoil:footprint=4GiB,granule=1GiB{rest}"),
    };
    format!("turmoil:footprint={}MiB,granule={granule}{rest}", mib.max(16))
}

fn workload(dice: &mut Dice, system: &System) -> String {
    if dice.below(4) > 0 {
        let (footprint, processes) = (4 << dice.below(5), 1 + dice.below(4));
        let (threads, period) = (1 + dice.below(3), 20 << dice.below(8));
        return turmoil(
            system,
            footprint,
            &format!(",processes={processes},threads={threads},period={period}"),
        );
    }
    let all = workloads::list();
    let name = all[dice.below(all.len() as u64) as usize].name;
    if name == "turmoil" {
        return turmoil(system, 64, "");
    }
    let small = format!("{name}:footprint=64MiB");
    if workloads::build(&small, 1).is_ok() { small } else { name.to_string() }
}

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Cases that passed.
    pub cases: u64,
    /// Accesses that the oracle checked in them.
    pub accesses: u64,
}

/// Runs the cases that `draw` gives for 0, 1, 2 …, until it gives none, until `deadline`, or until one fails;
/// which, and how.
/// `progress` is told what is done, now and then.
///
/// # Errors
/// The failed case of the lowest number among those that ran, as it was drawn.
pub fn run(
    draw: &(dyn Fn(u64) -> Option<Case> + Sync),
    threads: usize,
    deadline: Option<Instant>,
    progress: &(dyn Fn(Done) + Sync),
) -> Result<Done, Box<(Done, Case, Failure)>> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let done = Mutex::new(Done::default());
    let failed: Mutex<Option<(u64, Case, Failure)>> = Mutex::new(None);
    let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && !late() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = draw(number) else { break };
                    match case.run() {
                        Ok(accesses) => {
                            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                            done.cases += 1;
                            done.accesses += accesses;
                            progress(*done);
                        }
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|(first, _, _)| number < *first) {
                                *failed = Some((number, case, failure));
                            }
                        }
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(done),
        Some((_, case, failure)) => Err(Box::new((done, case, failure))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_the_same_whoever_draws_it() {
        assert_eq!(Case::draw(1, 5), Case::draw(1, 5));
        assert_ne!(Case::draw(1, 5), Case::draw(1, 6));
        for number in 0..200 {
            let case = Case::draw(3, number);
            assert_eq!(System::parse(&case.system).unwrap().to_string(), case.system);
        }
    }

    #[test]
    fn a_failing_case_becomes_small() {
        // Nothing fails here: what is not a workload stands for it.
        let case = Case {
            system: "nested-4k-thp+ptemagnet+swap=64".to_string(),
            machine: "broadwell".to_string(),
            workload: "nonsense:a=1,b=2".to_string(),
            accesses: 1000,
            seed: 1,
        };
        let failure = case.run().unwrap_err();
        let small = case.shrink(&failure);
        assert_eq!(
            (small.system.as_str(), small.workload.as_str(), small.accesses),
            ("nested", "nonsense", 1)
        );
    }

    #[test]
    fn some_cases_pass() {
        let done = run(
            &|number| (number < 6).then(|| Case { accesses: 2000, ..Case::draw(11, number) }),
            2,
            None,
            &|_| (),
        );
        assert_eq!(done.unwrap().cases, 6);
    }
}
