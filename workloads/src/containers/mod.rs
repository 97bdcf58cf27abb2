//! Containers of one image, co-located on a few cores: the world that BabelFish lives in.
//!
//! Docker's daemon runs first (process 0, a thread on each core), or with `start=fork` a zygote, a process of the
//! image that has started up. Then containers begin, dealt out over the cores: the daemon forks and the child execs
//! the image, or the zygote forks. Each loads its libraries (or not, after a fork), starts up, and serves requests.
//! All are the same user's and application's, so they are one group.
//!
//! The containers of a core take turns ([`os::RunQueues`]) of a quantum of instructions. Instructions and
//! not cycles, so that all systems run the same accesses. (The paper's quantum, 10 ms, is about 20 million
//! instructions of its machine; the default here is a tenth, so that a short run has several.)
//!
//! A container's [`Event::Request`]s mark its requests: the first one, the end of its start-up.
//!
//! Sizes of binaries and libraries are those of Debian's packages, rounded; the instruction stream is
//! drawn as `code.rs` says. Data accesses are each program's own.

mod arangodb;
mod code;
mod fio;
mod functions;
mod graphchi;
mod httpd;
mod image;
mod mongodb;

use machine::input::{
    Access, BLOCK, Block, Event, Kind, More, ProcessSetup, Setup, Source, SourceError, ThreadSetup,
};
use os::RunQueues;
use paging::frames::CpuId;

pub(crate) use self::arangodb::WORKLOAD as ARANGODB;
pub(crate) use self::fio::WORKLOAD as FIO;
pub(crate) use self::functions::WORKLOAD as FUNCTIONS;
pub(crate) use self::graphchi::WORKLOAD as GRAPHCHI;
pub(crate) use self::httpd::WORKLOAD as HTTPD;
pub(crate) use self::mongodb::WORKLOAD as MONGODB;

use self::code::Code;
use self::image::{Image, Part};
use crate::emit::once;
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator, hash};

/// How many containers run at once.
const CONTAINERS: Parameter = Parameter {
    name: "containers",
    unit: Unit::Count { min: 1, max: 1024 },
    default: "16",
    meaning: "containers that run at once; the paper has 2 a core (functions: 3)",
};
const CORES: Parameter = Parameter {
    name: "cores",
    unit: Unit::Count { min: 1, max: 64 },
    default: "8",
    meaning: "cores that they share",
};
const QUANTUM: Parameter = Parameter {
    name: "quantum",
    unit: Unit::Count { min: 1000, max: 1 << 40 },
    default: "2000000",
    meaning: "instructions of a turn; the paper's 10 ms are about 20 million",
};
const START: Parameter = Parameter {
    name: "start",
    unit: Unit::Choice(&["exec", "fork"]),
    default: "exec",
    meaning: "exec: each container loads the image; fork: all are forked from a zygote that has started up",
};
/// The data set of a server, as in the paper.
const DATASET: Parameter = Parameter {
    name: "dataset",
    unit: Unit::Bytes { min: 1 << 20, max: 1 << 38 },
    default: "500MB",
    meaning: "data files, mapped by all containers",
};

/// Processes that were started, after which no container ends any more: numbers are not used again.
const MOST_PROCESSES: u16 = 60000;

/// What ended with a piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    /// Nothing: more of the same request comes.
    Part,
    /// A request.
    Request,
}

/// The program in the containers.
trait Application: Send {
    /// Its memory.
    fn image(&self) -> &Image;
    /// What it does once its libraries are loaded, before the first request.
    fn boot(&mut self, worker: &mut Worker<'_>);
    /// What it fills before that, and forks of a zygote find filled.
    fn prepare(&mut self, _worker: &mut Worker<'_>) {}
    /// Some of what container `member` does.
    fn serve(&mut self, member: usize, worker: &mut Worker<'_>) -> Piece;
}

/// Where a container's thread writes what it does.
struct Worker<'a> {
    thread: u16,
    random: &'a mut Generator,
    out: &'a mut Vec<Access>,
    code: &'a Code,
    stack: Part,
    heap: Part,
}

impl Worker<'_> {
    /// Instructions from the access before to a data access of a function's body.
    const INSNS: u16 = 3;

    fn read(&mut self, va: u64) {
        self.out.push(Access::new(va, Kind::Read, self.thread, Self::INSNS));
    }
    /// A load whose address the load before delivered.
    fn follow(&mut self, va: u64) {
        self.out.push(Access::new(va, Kind::Read, self.thread, Self::INSNS).dependent());
    }
    fn write(&mut self, va: u64) {
        self.out.push(Access::new(va, Kind::Write, self.thread, Self::INSNS));
    }
    /// Reads or writes the lines of `len` bytes.
    fn lines(&mut self, kind: Kind, va: u64, len: u64) {
        let thread = self.thread;
        let lines = (va & !63..va + len.max(1)).step_by(64);
        self.out.extend(lines.map(|line| Access::new(line.max(va) & !7, kind, thread, 8)));
    }
    /// A stage of the work: calls of functions, each with a frame on the stack and something of the heap.
    fn calls(&mut self, stage: u64, calls: u64) {
        for call in 0..calls {
            self.code.call(stage, call, self.random, self.thread, self.out);
            // Frames of the innermost two pages.
            let frame = self.stack.start + self.stack.len - 4096 - self.random.below(64) * 128;
            self.write(frame & !7);
            if call % 2 == 0 {
                self.heap();
            }
        }
    }
    /// Touches the first `bytes` of the heap, as a program does that builds its tables when it starts.
    fn fill_heap(&mut self, bytes: u64) {
        for page in 0..(bytes / 4096).min(self.heap.pages()) {
            self.lines(Kind::Write, self.heap.start + page * 4096, 256);
        }
    }
    /// An object of the heap: most of them young, in few pages that are used again and again.
    fn heap(&mut self) {
        let pages = self.heap.pages();
        let page = match self.random.below(64) {
            0 => self.random.below(pages),
            _ => self.random.below(pages.min(64)),
        };
        let va = self.heap.start + page * 4096 + self.random.below(512) * 8;
        if Code::chance(self.random, 96) { self.write(va) } else { self.read(va) }
    }
}

/// A container that runs.
struct Member {
    process: u16,
    thread: u16,
    /// Modules that are loaded.
    loaded: usize,
    booted: bool,
    out: Vec<Access>,
    taken: usize,
    events: Vec<Event>,
    ends: bool,
    random: Generator,
    done: u64,
}

impl Member {
    fn new(process: u16, thread: u16, loaded: usize, booted: bool, seed: u64) -> Member {
        Member {
            process,
            thread,
            loaded,
            booted,
            out: Vec::new(),
            taken: 0,
            events: Vec::new(),
            ends: false,
            random: generator(seed, u64::from(thread)),
            done: 0,
        }
    }
}

/// All of them.
struct Containers<A> {
    name: String,
    setup: Option<Setup>,
    application: A,
    code: Code,
    daemon_code: Code,
    fork: bool,
    /// Requests after which a container ends and another begins; none: never.
    life: Option<u64>,
    /// The daemon's or zygote's threads, then the containers. By thread number, but that of ended ones.
    members: Vec<Member>,
    queues: RunQueues<usize>,
    core: usize,
    cores: usize,
    containers: usize,
    /// Threads of the first process that still start up.
    starting: usize,
    processes: u16,
    threads: u16,
    /// Events before the next block.
    pending: Vec<Event>,
    seed: u64,
    group: u16,
}

/// Docker's daemon: a Go program.
fn daemon() -> Image {
    Image::new("dockerd", 48 << 10, 2 << 10, 32 << 20)
}

impl<A: Application> Containers<A> {
    fn new(p: &Parameters, seed: u64, life: Option<u64>, application: A) -> Self {
        let (containers, cores) = (p.count("containers") as usize, p.count("cores") as usize);
        let fork = p.choice("start") == "fork";
        let image = application.image();
        let code = Code::new(&image.modules, hash(seed, 11));
        let daemon = daemon();
        let daemon_code = Code::new(&daemon.modules, hash(seed, 12));
        // One group for each program, whatever runs beside it.
        let group =
            p.workload().name.bytes().fold(7u16, |h, b| h.wrapping_mul(31).wrapping_add(u16::from(b)));
        let first =
            if fork { image.process(group) } else { ProcessSetup { group: None, ..daemon.process(0) } };
        let setup = Setup {
            more_threads: false,
            name: p.spec(),
            processes: vec![first],
            threads: vec![ThreadSetup { process: 0 }; cores],
            accesses: None,
        };
        let mut queues = RunQueues::new(cores, p.count("quantum"));
        let loaded = if fork { 0 } else { usize::MAX };
        let members: Vec<Member> =
            (0..cores as u16).map(|thread| Member::new(0, thread, loaded, false, seed)).collect();
        (0..cores).for_each(|core| queues.start(CpuId(core as u16), core));
        Containers {
            name: p.spec(),
            setup: Some(setup),
            application,
            code,
            daemon_code,
            fork,
            life,
            members,
            queues,
            core: 0,
            cores,
            containers,
            starting: cores,
            processes: 1,
            threads: cores as u16,
            pending: Vec::new(),
            seed,
            group,
        }
    }

    /// Begins a container.
    fn begin(&mut self) {
        let (process, thread) = (self.processes, self.threads);
        (self.processes, self.threads) = (process + 1, thread + 1);
        self.pending.push(Event::Fork { parent: 0, child: process });
        if !self.fork {
            let image = self.application.image().process(self.group);
            self.pending.push(Event::Exec { process, image });
        }
        self.pending.push(Event::Spawn { thread, process });
        let loaded = if self.fork { usize::MAX } else { 0 };
        let member = Member::new(process, thread, loaded, false, self.seed);
        // A thread's core is its number modulo theirs.
        let core = CpuId((usize::from(thread) % self.cores) as u16);
        self.members.push(member);
        self.queues.start(core, self.members.len() - 1);
    }

    /// What a member does next.
    fn step(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.out.clear();
        member.taken = 0;
        let first = at < self.cores;
        let image = self.application.image();
        let (stack, heap, modules) = (image.stack, image.heap, image.modules.len());
        let code = if first && !self.fork { &self.daemon_code } else { &self.code };
        let Member { thread, random, out, .. } = member;
        let mut worker = Worker { thread: *thread, random, out, code, stack, heap };
        if first && !self.fork {
            // The daemon gets the request to start something.
            let daemon = daemon();
            (worker.stack, worker.heap) = (daemon.stack, daemon.heap);
            worker.calls(1, 200);
            member.booted = true;
        } else if member.loaded < modules {
            // The zygote's threads load a share of the modules each.
            let share = if first { self.cores } else { 1 };
            let mine = if first { at } else { 0 };
            let module = image.modules[member.loaded];
            if member.loaded % share == mine {
                load(module, &mut worker);
            }
            member.loaded += 1;
            worker.calls(2, 2);
        } else if !member.booted {
            if at == 0 || !first && !self.fork {
                self.application.prepare(&mut worker);
            }
            if at == 0 || !first {
                self.application.boot(&mut worker);
            }
            worker.calls(3, 4);
            member.booted = true;
            if !first {
                member.events.push(Event::Request { thread: member.thread });
            }
        } else if self.application.serve(at - self.cores, &mut worker) == Piece::Request {
            member.done += 1;
            member.ends =
                self.life.is_some_and(|life| member.done >= life) && self.processes < MOST_PROCESSES;
            member.events.push(match member.ends {
                true => Event::Exit { process: member.process },
                false => Event::Request { thread: member.thread },
            });
        }
    }

    /// After a member's piece of work: whether it ends, and what follows.
    fn after(&mut self, at: usize) {
        if at < self.cores && self.members[at].booted {
            // Daemon and zygote wait from then on.
            self.queues.stop(at);
            self.starting -= 1;
            if self.starting == 0 {
                (0..self.containers).for_each(|_| self.begin());
            }
        } else if self.members[at].ends {
            self.queues.stop(at);
            (self.members[at].out, self.members[at].events) = (Vec::new(), Vec::new());
            self.begin();
        }
    }
}

/// The loader maps a module and relocates it: it reads its symbols and relocations, an eighth of its text and
/// constants (`readelf -S` of Debian's libraries shows a tenth to a fifth), and writes half of its data.
fn load(module: image::Module, worker: &mut Worker<'_>) {
    for page in 0..module.text.pages().div_ceil(8) {
        worker.lines(Kind::Read, module.text.start + page * 4096, 4096);
    }
    for page in 0..module.data.pages().div_ceil(2) {
        worker.lines(Kind::Write, module.data.start + page * 4096, 1024);
    }
}

impl<A: Application> Source for Containers<A> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        once(&mut self.setup, &self.name)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        if !self.pending.is_empty() {
            block.events.append(&mut self.pending);
            return Ok(More::Yes);
        }
        let running = (0..self.cores).find_map(|_| {
            let cpu = CpuId(self.core as u16);
            self.core = (self.core + 1) % self.cores;
            Some((cpu, self.queues.running(cpu)?))
        });
        let Some((cpu, at)) = running else { return Ok(More::No) };
        if self.members[at].taken == self.members[at].out.len() {
            self.step(at);
        }
        let member = &mut self.members[at];
        let rest = &member.out[member.taken..];
        let take = rest.len().min(BLOCK);
        block.accesses.extend_from_slice(&rest[..take]);
        member.taken += take;
        let done = member.taken == member.out.len();
        if done {
            block.events.append(&mut member.events);
        }
        self.queues.ran(cpu, block.accesses.iter().map(|access| u64::from(access.insns)).sum());
        if done {
            self.after(at);
        }
        Ok(More::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Which threads run on each core, in the order of their turns.
    fn turns(spec: &str, cores: usize, blocks: usize) -> Vec<Vec<u16>> {
        let mut source = crate::build(spec, 3).unwrap();
        source.setup().unwrap();
        let (mut block, mut turns) = (Block::new(), vec![Vec::new(); cores]);
        for _ in 0..blocks {
            assert_eq!(source.fill(&mut block).unwrap(), More::Yes);
            if let Some(access) = block.accesses.first() {
                assert!(block.accesses.iter().all(|a| a.thread == access.thread));
                let core = &mut turns[usize::from(access.thread) % cores];
                if core.last() != Some(&access.thread) {
                    core.push(access.thread);
                }
            }
        }
        turns
    }

    #[test]
    fn containers_of_a_core_take_turns() {
        let turns = turns("mongodb:containers=4,cores=2,quantum=20000,dataset=8MiB", 2, 20_000);
        assert_eq!((turns[0][0], turns[1][0]), (0, 1), "the daemon first");
        assert!(turns[0].len() > 20);
        assert!(turns[0][1..].chunks(2).all(|pair| pair[0] == 2 && pair.get(1).is_none_or(|t| *t == 4)));
        assert!(turns[1][1..].chunks(2).all(|pair| pair[0] == 3 && pair.get(1).is_none_or(|t| *t == 5)));
    }

    #[test]
    fn functions_end_and_others_begin() {
        for start in ["exec", "fork"] {
            let spec = format!("functions:containers=3,cores=1,input=64KiB,start={start}");
            let mut source = crate::build(&spec, 3).unwrap();
            let setup = source.setup().unwrap();
            assert_eq!(setup.processes[0].group.is_some(), start == "fork");
            let (mut block, mut count) = (Block::new(), HashMap::new());
            for _ in 0..20_000 {
                source.fill(&mut block).unwrap();
                for event in &block.events {
                    let name = format!("{event:?}").split(' ').next().unwrap_or_default().to_string();
                    *count.entry(name).or_insert(0) += 1;
                }
            }
            let get = |name: &str| count.get(name).copied().unwrap_or(0);
            assert!(get("Exit") > 5, "{count:?}");
            assert_eq!(get("Fork"), get("Exit") + 3, "{count:?}");
            assert_eq!(get("Exec"), if start == "exec" { get("Fork") } else { 0 });
            assert!(get("Request") >= get("Exit"), "a request for each life");
        }
    }
}
