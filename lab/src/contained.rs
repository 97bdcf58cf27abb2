//! Programs of an input as containers: processes that run the same program are of one image, so one group.
//!
//! A trace says which programs ran, not which of them one user started from one image. Whoever recorded them knows.

use machine::input::{Block, Event, More, Setup, Source, SourceError};

/// Groups that an input may have: as many as a container context identifier tells apart.
const MOST: usize = mechanisms::babelfish::Ccid::MAX.0 as usize;

/// A source whose processes are in a group with all others of the same program; groups that it has itself stay.
pub struct Contained<'a> {
    source: &'a mut dyn Source,
    /// Programs by number.
    programs: Vec<String>,
}

impl std::fmt::Debug for Contained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contained").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl<'a> Contained<'a> {
    /// The processes of `source` as containers.
    pub fn new(source: &'a mut dyn Source) -> Contained<'a> {
        Contained { source, programs: Vec::new() }
    }

    fn group(&mut self, program: &str) -> Option<u16> {
        let known = self.programs.iter().position(|known| known == program);
        let at = known.or_else(|| {
            (self.programs.len() < MOST).then(|| {
                self.programs.push(program.to_string());
                self.programs.len() - 1
            })
        });
        at.and_then(|at| u16::try_from(at).ok())
    }
}

impl Source for Contained<'_> {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let mut setup = self.source.setup()?;
        for process in setup.processes.iter_mut().filter(|process| process.group.is_none()) {
            process.group = self.group(&process.name);
        }
        Ok(setup)
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        let more = self.source.fill(block)?;
        for event in &mut block.events {
            if let Event::Exec { image, .. } = event
                && image.group.is_none()
            {
                image.group = self.group(&image.name);
            }
        }
        Ok(more)
    }
}
