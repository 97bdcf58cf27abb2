//! Programs of a trace: each thread that lives has a core, and those of one program may be containers of one image.

use lab::contained::Contained;
use lab::experiment::{self, Experiment};
use lab::{Outcome, System};
use machine::input::*;
use machine::profile::Profile;
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
