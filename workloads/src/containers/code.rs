//! Where a program's instructions are: fetches, a cache line each, of functions that call each other.
//!
//! A request of a kind takes nearly the same way through a program each time: hundreds of kilobytes to megabytes of
//! code in servers (Ferdman et al., "Clearing the Clouds", ASPLOS 2012; Kanev et al., "Profiling a Warehouse-Scale
//! Computer", ISCA 2015), little of it in loops. So a stage of the work calls a fixed sequence of functions that are
//! scattered over the text, and one call in 32 goes to another one, drawn from Zipf's law over all.
//! How many calls a stage has, how long a function's run is (1 to 6 lines) and how often its lines are run
//! (four times, so 40 instructions for each line) are estimates, the same for all programs.

use machine::input::{Access, Kind};

use super::image::Module;
use crate::random::{Draw, Generator, Permutation, hash};
use crate::skew::Zipf;

/// Bytes of text for a function, its constants included.
const FUNCTION: u64 = 1024;
/// Instructions in a line of 64 bytes that are run, of about 16, and run four times.
const PER_LINE: u16 = 40;
/// Of so many calls, one leaves the way.
const ELSEWHERE: u64 = 32;

/// The code of an image.
#[derive(Debug)]
pub(crate) struct Code {
    /// First function, and where it is, of each module.
    modules: Vec<(u64, u64)>,
    functions: u64,
    law: Zipf,
    places: Permutation,
    seed: u64,
}

impl Code {
    /// Of these modules. All containers of an image run the same functions most.
    pub(crate) fn new(modules: &[Module], seed: u64) -> Code {
        let mut functions = 0;
        let mut starts = Vec::new();
        for module in modules {
            starts.push((functions, module.text.start));
            functions += (module.text.len / FUNCTION).max(1);
        }
        Code {
            modules: starts,
            functions,
            law: Zipf::new(functions, 0.9),
            places: Permutation::new(functions, seed),
            seed,
        }
    }

    fn start(&self, function: u64) -> u64 {
        let at = self.modules.partition_point(|(first, _)| *first <= function) - 1;
        let (first, start) = self.modules[at];
        start + (function - first) * FUNCTION
    }

    /// Fetches a function's lines.
    fn run(&self, function: u64, thread: u16, out: &mut Vec<Access>) {
        let lines = 1 + hash(self.seed, function) % 6;
        let start = self.start(function);
        out.extend((0..lines).map(|line| Access::new(start + line * 64, Kind::Fetch, thread, PER_LINE)));
    }

    /// Call `number` of a stage of the work.
    pub(crate) fn call(
        &self,
        stage: u64,
        number: u64,
        random: &mut Generator,
        thread: u16,
        out: &mut Vec<Access>,
    ) {
        let function = match random.below(ELSEWHERE) {
            0 => self.law.draw(random),
            _ => hash(self.seed ^ stage << 32, number) % self.functions,
        };
        self.run(self.places.at(function), thread, out);
    }

    /// Calls a function of one module, for work that has one small loop (`number` chooses which).
    pub(crate) fn call_in(&self, module: usize, number: u64, thread: u16, out: &mut Vec<Access>) {
        let first = self.modules[module].0;
        let end = self.modules.get(module + 1).map_or(self.functions, |next| next.0);
        self.run(first + hash(self.seed, number) % (end - first), thread, out);
    }

    /// Whether `bits` say yes with this chance in 256.
    pub(crate) fn chance(random: &mut Generator, of_256: u64) -> bool {
        random.below(256) < of_256
    }
}
