//! Programs of a trace: each thread that lives has a core, and those of one program may be containers of one image.

use lab::contained::Contained;
use lab::experiment::{self, Experiment};
use lab::{Outcome, System};
use machine::input::*;
use machine::profile::Profile;
use paging::Va;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::ops::ControlFlow;

const BASE: u64 = 0x5555_0000_0000;
const PAGES: u64 = 64;

/// A recorded shell that starts a server twice, after another program has come and gone.
struct Recording(VecDeque<Block>);

fn image(name: &str) -> ProcessSetup {
    let library = Backing::PrivateFile { file: format!("{name}.so"), offset: 0 };
    let mut text = Region::anonymous("text", BASE, PAGES * 4096, Populate::OnDemand);
    text.backing = library;
    ProcessSetup { name: name.to_string(), regions: vec![text], ..ProcessSetup::default() }
}

fn reads(thread: u16) -> impl Iterator<Item = Access> {
    (0..PAGES).map(move |page| Access::new(BASE + page * 4096, Kind::Read, thread, 1))
}

fn begin(process: u16, name: &str) -> Vec<Event> {
    vec![
        Event::Fork { parent: 0, child: process },
        Event::Exec { process, image: image(name) },
        Event::Spawn { thread: process, process },
    ]
}

impl Recording {
    fn new() -> Recording {
        let block = |accesses: Vec<Access>, events| Block { accesses, events };
        let mut blocks = vec![
            block(reads(0).collect(), begin(1, "true")),
            block(reads(1).collect(), vec![Event::Exit { process: 1 }]),
            block(reads(0).collect(), begin(2, "server")),
            block(reads(2).collect(), begin(3, "server")),
        ];
        // As side by side as a recording has it: a few accesses of one, a few of the other.
        for _ in 0..50 {
            blocks.extend([2, 3].map(|thread| block(reads(thread).collect(), vec![])));
        }
        Recording(blocks.into())
    }
}

impl Source for Recording {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(Setup {
            name: "recording".to_string(),
            processes: vec![image("shell")],
            threads: vec![ThreadSetup { process: 0 }],
            more_threads: true,
            accesses: None,
        })
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        *block = self.0.pop_front().expect("asked after the end");
        Ok(if self.0.is_empty() { More::No } else { More::Yes })
    }
}

fn run(system: &str, source: &mut dyn Source) -> Outcome {
    let experiment = Experiment {
        warmup: 0,
        accesses: None,
        verify: true,
        threads: 1,
        ..Experiment::new(Profile::builtin("babelfish-sim").unwrap(), [System::parse(system).unwrap()])
    };
    experiment::run(&experiment, source, &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
}

#[test]
fn threads_that_begin_later_have_cores_of_their_own() {
    let outcome = run("native", &mut Recording::new());
    // At most one for each process, when it first runs; 100 if all of it were on one core.
    let switches = outcome.software.cycles_by.other / 1000;
    assert!(switches <= 4 * 3, "{switches} thousand cycles");
    assert_eq!(outcome.verified, Some(104 * PAGES));
}

#[test]
fn processes_of_one_program_share_only_if_they_are_said_to_be_containers() {
    let apart = run("native+babelfish", &mut Recording::new());
    let mut recording = Recording::new();
    let together = run("native+babelfish", &mut Contained::new(&mut recording));
    let saved = |outcome: &Outcome| outcome.sharing.expect("groups").bytes_saved;
    assert_eq!(saved(&apart), 0);
    assert!(saved(&together) > 0, "{:?}", together.sharing);
    assert!(together.software.page_faults < apart.software.page_faults);
    assert_eq!(together.verified, apart.verified);
}

/// How far a process's segments lie from where they are without randomisation, in pages.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    program: u64,
    heap: u64,
    mappings: u64,
    stack: u64,
}

const PROGRAM: u64 = 0x5555_5555_4000;
const HEAP: u64 = 0x5555_5560_0000;
const LIBRARY: u64 = 0x7fff_f7c0_0000;
const DATA: u64 = 0x7fff_f700_0000;
const ARENA: u64 = 0x7fff_f6f0_0000;
const STACK: u64 = 0x7fff_fffb_f000;

impl Moved {
    /// Where the process has what lies at `va` without randomisation.
    fn own(&self, va: u64) -> u64 {
        let pages = match va {
            0..HEAP => self.program,
            HEAP..0x6000_0000_0000 => self.program + self.heap,
            0x6000_0000_0000..0x7fff_f800_0000 => return va - (self.mappings + self.stack) * 4096,
            _ => return va - self.stack * 4096,
        };
        va + pages * 4096
    }
    fn region(&self, name: &str, start: u64, file: Option<(&str, u64)>) -> Region {
        let mut region = Region::anonymous(name, self.own(start), PAGES * 4096, Populate::OnDemand);
        if let Some((file, offset)) = file {
            region.backing = Backing::PrivateFile { file: file.to_string(), offset };
        }
        region
    }
    fn image(&self) -> ProcessSetup {
        let regions = vec![
            self.region("text", PROGRAM, Some(("server", 0))),
            self.region("data", PROGRAM + PAGES * 4096, Some(("server", PAGES * 4096))),
            self.region("libc.so", LIBRARY, Some(("libc.so", 0))),
            self.region("libc.so", LIBRARY + PAGES * 4096, Some(("libc.so", PAGES * 4096))),
            self.region("[stack]", STACK, None),
        ];
        ProcessSetup { name: "server".to_string(), regions, ..ProcessSetup::default() }
    }
    /// What process `process` does, with thread `process`.
    fn life(&self, process: u16) -> Vec<Block> {
        let touch = |start: u64, kind| {
            (0..PAGES).map(move |page| Access::new(self.own(start) + page * 4096, kind, process, 1))
        };
        let map = |name: &str, start, file| Event::Map { process, region: self.region(name, start, file) };
        let start = Va::new(self.own(ARENA));
        vec![
            Block {
                accesses: touch(PROGRAM, Kind::Read).chain(touch(LIBRARY, Kind::Read)).collect(),
                events: vec![
                    map("[heap]", HEAP, None),
                    map("data", DATA, Some(("data", 0))),
                    map("", ARENA, None),
                ],
            },
            Block {
                accesses: [
                    (HEAP, Kind::Write),
                    (DATA, Kind::Read),
                    (ARENA, Kind::Write),
                    (STACK, Kind::Write),
                ]
                .into_iter()
                .flat_map(|(start, kind)| touch(start, kind))
                .collect(),
                events: vec![Event::Unmap { process, start, len: PAGES * 4096 }],
            },
        ]
    }
}

/// A shell that starts a server for each layout.
fn servers(layouts: &[Moved]) -> Recording {
    let mut blocks = vec![Block { accesses: reads(0).collect(), events: vec![] }];
    for (process, layout) in (1u16..).zip(layouts) {
        let events = vec![
            Event::Fork { parent: 0, child: process },
            Event::Exec { process, image: layout.image() },
            Event::Spawn { thread: process, process },
        ];
        blocks.push(Block { accesses: vec![], events });
        blocks.extend(layout.life(process));
    }
    Recording(blocks.into())
}

fn all(source: &mut dyn Source) -> Vec<(Vec<Access>, Vec<Event>)> {
    source.setup().unwrap();
    let mut blocks = Vec::new();
    loop {
        let mut block = Block::new();
        let more = source.fill(&mut block).unwrap();
        blocks.push((block.accesses, block.events));
        if more == More::No {
            return blocks;
        }
    }
}

fn moved() -> impl Strategy<Value = Moved> {
    // As far as Linux moves them.
    (0u64..1 << 28, 0u64..1 << 13, 0u64..1 << 28, 0u64..1 << 22)
        .prop_map(|(program, heap, mappings, stack)| Moved { program, heap, mappings, stack })
}

proptest! {
    /// Whatever layouts containers have, they come to lie where the first one does.
    #[test]
    fn containers_with_layouts_of_their_own_lie_at_one_place(
        first in moved(),
        others in prop::collection::vec(moved(), 1..4),
    ) {
        let count = others.len() + 1;
        let layouts: Vec<Moved> = [first].into_iter().chain(others).collect();
        let one = all(&mut Contained::new(&mut servers(&vec![first; count])));
        prop_assert_eq!(all(&mut Contained::new(&mut servers(&layouts))), one);
    }
}

#[test]
fn recorded_processes_with_layouts_of_their_own_share() {
    let layouts = [
        Moved { program: 77, heap: 13, mappings: 1 << 20, stack: 9 },
        Moved { program: 12345, heap: 1, mappings: 8, stack: 1 << 21 },
    ];
    for system in ["native+babelfish", "native+babelfish+aslr=software", "nested+babelfish"] {
        let apart = run(system, &mut servers(&layouts));
        let mut recording = servers(&layouts);
        let together = run(system, &mut Contained::new(&mut recording));
        let sharing = |outcome: &Outcome| outcome.sharing.expect("groups");
        // Text, library and data file, as far as the first had touched them.
        let (apart_has, has) = (sharing(&apart), sharing(&together));
        assert_eq!((apart_has.bytes_saved, apart_has.tables_linked), (0, apart_has.tables_adopted));
        assert!(has.leaves_given > apart_has.leaves_given + 2 * PAGES, "{system}: {has:?}, {apart_has:?}");
        assert!(together.software.page_faults_in_all < apart.software.page_faults_in_all);
        assert_eq!(together.verified, apart.verified);
    }
}
