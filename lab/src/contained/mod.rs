//! Programs of an input as containers: processes that run the same program are of one image, so one group, and
//! lie where its first process lies.
//!
//! A trace says which programs ran, not which of them one user started from one image. Whoever recorded them knows.

mod place;

use machine::input::{Block, Event, More, Region, Setup, Source, SourceError};
use place::{Anchors, Place};

/// Groups that an input may have: as many as a container context identifier tells apart.
const MOST: usize = mechanisms::babelfish::Ccid::MAX.0 as usize;

/// A source whose processes are in a group with all others of the same program; groups that it has itself stay.
pub struct Contained<'a> {
    source: &'a mut dyn Source,
    /// Programs by number, and where the first process of each lies.
    programs: Vec<(String, Anchors)>,
    /// By number of the input.
    processes: Vec<Member>,
    /// The process of each thread.
    threads: Vec<u16>,
    /// Some lie elsewhere than their group.
    moved: bool,
}

/// A process.
#[derive(Clone, Debug, Default)]
struct Member {
    program: Option<usize>,
    anchors: Anchors,
    place: Place,
}

impl std::fmt::Debug for Contained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contained").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl<'a> Contained<'a> {
    /// The processes of `source` as containers.
    pub fn new(source: &'a mut dyn Source) -> Contained<'a> {
        Contained { source, programs: Vec::new(), processes: Vec::new(), threads: Vec::new(), moved: false }
    }

    /// A process begins with `regions`, which come to lie where the program's first process has them.
    fn begin(&mut self, name: &str, group: &mut Option<u16>, regions: &mut [Region]) -> Member {
        if group.is_some() {
            return Member::default();
        }
        let anchors = Anchors::of(regions);
        let known = self.programs.iter().position(|(known, _)| known == name);
        let program = known.or_else(|| {
            (self.programs.len() < MOST).then(|| {
                self.programs.push((name.to_string(), anchors.clone()));
                self.programs.len() - 1
            })
        });
        *group = program.and_then(|program| u16::try_from(program).ok());
        let place = program.map_or_else(Place::default, |at| Place::new(&anchors, &self.programs[at].1));
        self.moved |= !place.is_group();
        regions.iter_mut().for_each(|region| region.start = place.group(region.start));
        Member { program, anchors, place }
    }

    /// A process maps a region.
    fn map(&mut self, process: u16, region: &mut Region) {
        let Some(member) = self.processes.get_mut(usize::from(process)) else { return };
        if let Some(program) = member.program
            && member.anchors.learn(region)
        {
            // A heap: where the group has its own, or at the program's place if this is the first.
            let at = member.place.group(region.start);
            let group = &mut self.programs[program].1;
            group.learn(&Region { start: at, ..region.clone() });
            member.place = Place::new(&member.anchors, group);
            self.moved |= !member.place.is_group();
        }
        region.start = member.place.group(region.start);
    }

    fn event(&mut self, event: &mut Event) {
        match event {
            Event::Map { process, region } => self.map(*process, region),
            Event::Unmap { process, start, .. }
            | Event::Protect { process, start, .. }
            | Event::Discard { process, start, .. }
            | Event::Migrate { process, start, .. } => {
                if let Some(member) = self.processes.get(usize::from(*process)) {
                    *start = member.place.group(*start);
                }
            }
            Event::Fork { parent, .. } => {
                let child = self.processes.get(usize::from(*parent)).cloned().unwrap_or_default();
                self.processes.push(child);
            }
            Event::Exec { process, image } => {
                let member = self.begin(&image.name, &mut image.group, &mut image.regions);
                if let Some(before) = self.processes.get_mut(usize::from(*process)) {
                    *before = member;
                }
            }
            Event::Spawn { process, .. } => self.threads.push(*process),
            _ => {}
        }
    }
}

impl Source for Contained<'_> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let mut setup = self.source.setup()?;
        for process in &mut setup.processes {
            let member = self.begin(&process.name, &mut process.group, &mut process.regions);
            self.processes.push(member);
        }
        self.threads.extend(setup.threads.iter().map(|thread| thread.process));
        Ok(setup)
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        let more = self.source.fill(block)?;
        if self.moved {
            for access in &mut block.accesses {
                let process = self.threads.get(usize::from(access.thread));
                if let Some(member) = process.and_then(|process| self.processes.get(usize::from(*process))) {
                    access.va = member.place.group(access.va);
                }
            }
        }
        block.events.iter_mut().for_each(|event| self.event(event));
        Ok(more)
    }
}
