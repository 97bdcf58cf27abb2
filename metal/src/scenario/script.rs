//! The same story, told twice: on the machine, and in the lab by a test of `lab`, which
//! includes this very file. What is told, and what every page must hold at each point.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The first area of each process; the others follow at this distance.
pub const AREAS: u64 = 0x7000_0000_0000;
/// From an area to the next.
pub const STRIDE: u64 = 1 << 30;
/// Where every process has the page with its programs.
pub const TEXT: u64 = 0x40_0000;
/// Pages of the story's file.
pub const FILE_PAGES: u64 = 64;
/// Processes that live at once.
const ALIVE: usize = 4;
const MAX_PAGES: u64 = 48;

/// What a page's first word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// This number.
    Is(u64),
    /// The first word of this page of the file.
    OfFile(u64),
}

/// One step. Processes are named by numbers that are not used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The first process begins; all others are its descendants.
    Create { process: u32 },
    /// A child begins.
    Fork { parent: u32, child: u32 },
    /// A process becomes a program that has only the page with the programs.
    Exec { process: u32 },
    /// A process ends.
    Exit { process: u32 },
    /// Private memory, of the file if it has a first page there.
    Map { process: u32, at: u64, pages: u64, file: Option<u64> },
    /// Memory goes.
    Unmap { process: u32, at: u64, pages: u64 },
    /// Stores are allowed from now on, or not.
    Protect { process: u32, at: u64, pages: u64, write: bool },
    /// The content goes, the memory stays.
    Discard { process: u32, at: u64, pages: u64 },
    /// The first word of each page: `first`, `first` + 1, ….
    Store { process: u32, cpu: u16, at: u64, pages: u64, first: u64 },
    /// Each page is loaded, and must hold what it must hold.
    Check { process: u32, cpu: u16, at: u64, pages: u64 },
    /// A store that must be refused.
    Refused { process: u32, cpu: u16, at: u64 },
    /// Pages go to a node.
    Migrate { process: u32, at: u64, pages: u64, node: u8 },
    /// A copy of the tables on each node, or one.
    Replicate { process: u32, on: bool },
    /// The balloon takes free frames of a node.
    Inflate { node: u8, frames: u64 },
    /// The balloon gives frames back.
    Deflate { frames: u64 },
    /// All tables are compared.
    Compare,
}

#[derive(Clone, Copy, Debug)]
struct Area {
    pages: u64,
    write: bool,
    file: Option<u64>,
}

/// What everybody must see.
#[derive(Clone, Debug, Default)]
pub struct Model {
    areas: BTreeMap<(u32, u64), Area>,
    words: BTreeMap<(u32, u64), u64>,
    alive: Vec<u32>,
}

impl Model {
    /// The processes alive, in the order in which they began.
    pub fn alive(&self) -> &[u32] {
        &self.alive
    }

    /// The first word of a page of a process.
    pub fn word(&self, process: u32, va: u64) -> Word {
        if let Some(&word) = self.words.get(&(process, va)) {
            return Word::Is(word);
        }
        let area = self.areas.range(..=(process, va)).next_back();
        match area {
            Some((&(_, start), Area { file: Some(first), .. })) => Word::OfFile(first + (va - start) / 4096),
            _ => Word::Is(0),
        }
    }

    /// What a step changes.
    pub fn apply(&mut self, step: &Step) {
        match *step {
            Step::Create { process } => self.alive.push(process),
            Step::Fork { parent, child } => {
                self.alive.push(child);
                let areas: Vec<_> =
                    of(&self.areas, parent).map(|((_, at), area)| ((child, *at), *area)).collect();
                let words: Vec<_> =
                    of(&self.words, parent).map(|((_, at), word)| ((child, *at), *word)).collect();
                self.areas.extend(areas);
                self.words.extend(words);
            }
            Step::Exec { process } => self.empty(process),
            Step::Exit { process } => {
                self.alive.retain(|&p| p != process);
                self.empty(process);
            }
            Step::Map { process, at, pages, file } => {
                self.areas.insert((process, at), Area { pages, write: true, file });
            }
            Step::Unmap { process, at, pages } => {
                self.areas.remove(&(process, at));
                self.forget(process, at, pages);
            }
            Step::Protect { process, at, write, .. } => {
                if let Some(area) = self.areas.get_mut(&(process, at)) {
                    area.write = write;
                }
            }
            Step::Discard { process, at, pages } => self.forget(process, at, pages),
            Step::Store { process, at, pages, first, .. } => {
                self.words.extend((0..pages).map(|page| ((process, at + page * 4096), first + page)));
            }
            _ => {}
        }
    }

    fn empty(&mut self, process: u32) {
        self.areas.retain(|&(p, _), _| p != process);
        self.words.retain(|&(p, _), _| p != process);
    }

    fn forget(&mut self, process: u32, at: u64, pages: u64) {
        (0..pages).for_each(|page| {
            self.words.remove(&(process, at + page * 4096));
        });
    }
}

fn of<T>(map: &BTreeMap<(u32, u64), T>, process: u32) -> impl Iterator<Item = (&(u32, u64), &T)> {
    map.range((process, 0)..(process + 1, 0))
}

/// Numbers that look random (Marsaglia's xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// A story of `length` steps and some checks, on `cpus` CPUs and `nodes` nodes.
pub fn story(seed: u64, length: usize, cpus: u16, nodes: u8) -> Vec<Step> {
    let mut dice = Dice(seed | 1);
    let mut model = Model::default();
    let mut steps = Vec::new();
    let mut next = 0;
    let mut ballooned = 0;
    while steps.len() < length {
        let step = choose(&mut dice, &model, &mut next, &mut ballooned, cpus, nodes);
        let Some(step) = step else { continue };
        model.apply(&step);
        steps.push(step);
        if steps.len() % (length / 4).max(1) == 0 {
            check_all(&mut steps, &model, cpus);
            steps.push(Step::Compare);
        }
    }
    check_all(&mut steps, &model, cpus);
    steps.push(Step::Compare);
    steps
}

/// Everybody looks at everything.
fn check_all(steps: &mut Vec<Step>, model: &Model, cpus: u16) {
    for (nth, (&(process, at), area)) in model.areas.iter().enumerate() {
        steps.push(Step::Check { process, cpu: nth as u16 % cpus, at, pages: area.pages });
    }
}

fn choose(
    dice: &mut Dice,
    model: &Model,
    next: &mut u32,
    ballooned: &mut u64,
    cpus: u16,
    nodes: u8,
) -> Option<Step> {
    let mut fresh = || {
        *next += 1;
        *next - 1
    };
    if model.alive.is_empty() {
        return Some(Step::Create { process: fresh() });
    }
    let process = model.alive[dice.below(model.alive.len() as u64) as usize];
    let cpu = dice.below(u64::from(cpus)) as u16;
    let node = dice.below(u64::from(nodes)) as u8;
    let areas: Vec<(u64, Area)> = of(&model.areas, process).map(|(&(_, at), &area)| (at, area)).collect();
    let kind = dice.below(100);
    match kind {
        0..=2 => return Some(Step::Exec { process }),
        3..=9 if model.alive.len() < ALIVE => return Some(Step::Fork { parent: process, child: fresh() }),
        10..=12 if model.alive.len() > 1 => return Some(Step::Exit { process }),
        13..=24 => {
            let at = AREAS + dice.below(4) * STRIDE;
            let pages = 1 + dice.below(MAX_PAGES);
            let file = (dice.below(3) == 0).then(|| dice.below(FILE_PAGES - pages));
            let taken = areas.iter().any(|&(there, _)| there == at);
            return (!taken).then_some(Step::Map { process, at, pages, file });
        }
        25..=27 => return Some(Step::Replicate { process, on: dice.below(2) == 0 }),
        28..=29 => {
            let frames = 1 + dice.below(200);
            *ballooned += frames;
            return Some(Step::Inflate { node, frames });
        }
        30 if *ballooned > 0 => {
            let frames = 1 + dice.below(*ballooned);
            *ballooned -= frames;
            return Some(Step::Deflate { frames });
        }
        _ => {}
    }
    if areas.is_empty() {
        return None;
    }
    let (at, area) = areas[dice.below(areas.len() as u64) as usize];
    let skip = dice.below(area.pages);
    let (part, pages) = (at + skip * 4096, 1 + dice.below(area.pages - skip));
    Some(match kind {
        31..=35 => Step::Unmap { process, at, pages: area.pages },
        36..=43 => Step::Protect { process, at, pages: area.pages, write: !area.write },
        44..=48 => Step::Discard { process, at: part, pages },
        49..=55 => Step::Migrate { process, at: part, pages, node },
        56..=69 => Step::Check { process, cpu, at: part, pages },
        _ if area.write => Step::Store { process, cpu, at: part, pages, first: dice.below(1 << 40) + 1 },
        _ => Step::Refused { process, cpu, at: part },
    })
}
