//! From an algorithm's steps to blocks of accesses.

use machine::input::{
    Access, BLOCK, Block, Event, Kind, More, ProcessSetup, Setup, Source, SourceError, ThreadSetup,
};

use crate::parameters::Parameters;

/// An algorithm, thread by thread.
pub(crate) trait Algorithm: Send {
    /// Appends the accesses of one step of `thread` (a lookup, a request, some
    /// iterations of a loop: at most a few thousand accesses), then what
    /// happens after them. Appends at least one or the other.
    fn step(&mut self, thread: u16, accesses: &mut Vec<Access>, events: &mut Vec<Event>);
}

/// What of a thread's last step did not fit into its block.
#[derive(Debug, Default)]
struct Rest {
    accesses: Vec<Access>,
    taken: usize,
    events: Vec<Event>,
}

/// The threads of one process in turn, a block each.
#[derive(Debug)]
pub(crate) struct Interleaved<A> {
    setup: Option<Setup>,
    name: String,
    algorithm: A,
    rest: Vec<Rest>,
    turn: usize,
}

impl<A: Algorithm> Interleaved<A> {
    pub(crate) fn new(parameters: &Parameters, process: ProcessSetup, threads: u64, algorithm: A) -> Self {
        let name = parameters.spec();
        let setup = Setup {
            more_threads: false,
            name: name.clone(),
            processes: vec![process],
            threads: vec![ThreadSetup { process: 0 }; threads as usize],
            accesses: None,
        };
        let rest = (0..threads).map(|_| Rest::default()).collect();
        Interleaved { setup: Some(setup), name, algorithm, rest, turn: 0 }
    }
}

/// The world before the first access of the workload `name`, which is taken once.
pub(crate) fn once(setup: &mut Option<Setup>, name: &str) -> Result<Setup, SourceError> {
    setup.take().ok_or_else(|| SourceError {
        what: name.to_string(),
        reason: "the world before the first access was already taken".to_string(),
        hint: Some("call setup once".to_string()),
    })
}

impl<A: Algorithm> Source for Interleaved<A> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        once(&mut self.setup, &self.name)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        let thread = self.turn;
        self.turn = if thread + 1 == self.rest.len() { 0 } else { thread + 1 };
        let rest = &mut self.rest[thread];

        let ready = &rest.accesses[rest.taken..];
        let take = ready.len().min(BLOCK);
        block.accesses.extend_from_slice(&ready[..take]);
        rest.taken += take;
        if rest.taken < rest.accesses.len() {
            return Ok(More::Yes);
        }
        rest.accesses.clear();
        rest.taken = 0;

        // An event ends the block: it happens before the thread's next step.
        while block.accesses.len() < BLOCK && rest.events.is_empty() {
            self.algorithm.step(thread as u16, &mut block.accesses, &mut rest.events);
        }
        if block.accesses.len() > BLOCK {
            rest.accesses.extend_from_slice(&block.accesses[BLOCK..]);
            block.accesses.truncate(BLOCK);
        } else {
            block.events.append(&mut rest.events);
        }
        Ok(More::Yes)
    }
}

/// A load of 2^`log2` bytes.
#[inline(always)]
pub(crate) fn read(va: u64, log2: u8, thread: u16, insns: u16) -> Access {
    Access { size_log2: log2, ..Access::new(va, Kind::Read, thread, insns) }
}

/// A store of 2^`log2` bytes.
#[inline(always)]
pub(crate) fn write(va: u64, log2: u8, thread: u16, insns: u16) -> Access {
    Access { size_log2: log2, ..Access::new(va, Kind::Write, thread, insns) }
}

/// A load and store of 2^`log2` bytes by one instruction.
#[inline(always)]
pub(crate) fn modify(va: u64, log2: u8, thread: u16, insns: u16) -> Access {
    Access { size_log2: log2, ..Access::new(va, Kind::Modify, thread, insns) }
}

/// One access of `kind` for each cache line that `len` bytes at `va` touch, as
/// `memcpy` and `memcmp` do it: the first at `va`, the others at their line's start.
#[inline(always)]
pub(crate) fn lines(out: &mut Vec<Access>, first: Access, len: u64, insns: u16) {
    let va = first.va.raw();
    out.push(first);
    let mut line = (va & !63) + 64;
    while line < va + len {
        out.push(Access {
            va: paging::Va::new(line),
            insns,
            size_log2: 3,
            flags: first.flags & !Access::DEPENDENT,
            ..first
        });
        line += 64;
    }
}
