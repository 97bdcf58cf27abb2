//! An input whose first process gets the addresses of a snapshot.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use machine::input::{Backing, Block, Event, More, ProcessSetup, Region, Setup, Source, SourceError};
use paging::Va;

use super::rebase::{Lookup, Rebase};
use super::snapshot::Snapshot;

/// Moves what one process of an input has mapped to where a process that ran natively had it, as
/// [`Layout::Snapshot`](super::Layout::Snapshot) does for a program that is captured: parts of files by file and
/// offset, heap and stack by name, anonymous memory to the tightest mapping that holds it. What already
/// is where the snapshot has it stays. Accesses outside of all regions keep their addresses.
pub struct Relaid {
    source: Box<dyn Source>,
    snapshot: Arc<Snapshot>,
    target: u16,
    /// Processes that are moved: the target and its children.
    moved: HashMap<u16, Addresses>,
    /// The process of each thread.
    threads: Vec<u16>,
}

/// One process's.
#[derive(Clone, Debug)]
struct Addresses {
    rebase: Rebase,
    lookup: Lookup,
}

impl std::fmt::Debug for Relaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relaid").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Relaid {
    /// Moves the process that has the name of the snapshot's program, else the first.
    pub fn new(source: Box<dyn Source>, snapshot: Arc<Snapshot>) -> Relaid {
        Relaid { source, snapshot, target: 0, moved: HashMap::new(), threads: Vec::new() }
    }

    /// A process with this image.
    fn begin(&self, image: &mut ProcessSetup) -> Addresses {
        let mut addresses =
            Addresses { rebase: Rebase::preferring(self.snapshot.anonymous()), lookup: Lookup::default() };
        let regions = std::mem::take(&mut image.regions);
        // What has its place first, so that nothing else takes it.
        let (found, others): (Vec<_>, Vec<_>) =
            regions.into_iter().partition(|r| self.snapshot.home(r).is_some());
        for region in found.into_iter().chain(others) {
            image.regions.extend(self.map(&mut addresses, region));
        }
        image.regions.sort_by_key(|r| r.start.raw());
        addresses
    }

    /// Gives a region its place; the parts that it has then.
    fn map(&self, addresses: &mut Addresses, region: Region) -> Vec<Region> {
        let (start, len) = (region.start.raw(), region.len);
        let rebase = &mut addresses.rebase;
        match self.snapshot.home(&region) {
            Some(home) if rebase.around(start).is_none() && rebase.is_free(home, home + len) => {
                rebase.place(start, len, home);
            }
            // A heap that grows, the zeroed memory behind a file.
            _ => rebase.map(start, len, rebase.is_beside(start)),
        }
        addresses.lookup.clear();
        let part = |(at, len, native): (u64, u64, u64)| Region {
            start: Va::new(native),
            len,
            backing: region.backing.further(at - start),
            ..region.clone()
        };
        addresses.rebase.range(start, len).into_iter().map(part).collect()
    }

    /// An event with the addresses that it has now: none or several, if what it is about lies apart.
    fn event(&mut self, event: Event, out: &mut Vec<Event>) {
        match event {
            Event::Map { process, region } => {
                let Some(mut addresses) = self.moved.remove(&process) else {
                    return out.push(Event::Map { process, region });
                };
                let regions = self.map(&mut addresses, region);
                self.moved.insert(process, addresses);
                out.extend(regions.into_iter().map(|region| Event::Map { process, region }));
            }
            Event::Unmap { process, start, len } => {
                let ranges = self.ranges(process, start, len);
                out.extend(ranges.into_iter().map(|(start, len)| Event::Unmap { process, start, len }));
                if let Some(addresses) = self.moved.get_mut(&process) {
                    addresses.rebase.unmap(start.raw(), len);
                    addresses.lookup.clear();
                }
            }
            Event::Protect { process, start, len, permissions } => {
                let ranges = self.ranges(process, start, len);
                let protect = |(start, len)| Event::Protect { process, start, len, permissions };
                out.extend(ranges.into_iter().map(protect));
            }
            Event::Discard { process, start, len } => {
                let ranges = self.ranges(process, start, len);
                out.extend(ranges.into_iter().map(|(start, len)| Event::Discard { process, start, len }));
            }
            Event::Fork { parent, child } => {
                if let Some(addresses) = self.moved.get(&parent).cloned() {
                    self.moved.insert(child, addresses);
                }
                out.push(Event::Fork { parent, child });
            }
            Event::Exec { process, mut image } => {
                self.moved.remove(&process);
                if process == self.target {
                    let addresses = self.begin(&mut image);
                    self.moved.insert(process, addresses);
                }
                out.push(Event::Exec { process, image });
            }
            Event::Spawn { thread, process } => {
                self.threads.push(process);
                out.push(Event::Spawn { thread, process });
            }
            other => out.push(other),
        }
    }

    fn ranges(&self, process: u16, start: Va, len: u64) -> Vec<(Va, u64)> {
        match self.moved.get(&process) {
            None => vec![(start, len)],
            Some(a) => {
                a.rebase.range(start.raw(), len).into_iter().map(|(_, len, at)| (Va::new(at), len)).collect()
            }
        }
    }
}

impl Source for Relaid {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let mut setup = self.source.setup()?;
        self.threads = setup.threads.iter().map(|t| t.process).collect();
        self.target = self.snapshot.process_of(&setup) as u16;
        // An input without regions has native addresses already, as far as anybody knows.
        if let Some(process) =
            setup.processes.get_mut(usize::from(self.target)).filter(|p| !p.regions.is_empty())
        {
            let addresses = self.begin(process);
            self.moved.insert(self.target, addresses);
        }
        Ok(setup)
    }

    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        let more = self.source.fill(block)?;
        if !self.moved.is_empty() {
            let (mut last, mut addresses) = (None, None);
            for access in &mut block.accesses {
                if last != Some(access.thread) {
                    last = Some(access.thread);
                    let process = self.threads.get(usize::from(access.thread)).copied().unwrap_or(0);
                    addresses = self.moved.get_mut(&process);
                }
                if let Some(Addresses { rebase, lookup }) = addresses.as_deref_mut() {
                    let va = lookup.address(rebase, access.va.raw());
                    access.va = va.map_or(access.va, Va::new);
                }
            }
        }
        let mut events = Vec::with_capacity(block.events.len());
        for event in std::mem::take(&mut block.events) {
            self.event(event, &mut events);
        }
        block.events = events;
        Ok(more)
    }
}

impl Snapshot {
    /// The process of an input that is the snapshot's: the first of its name, else the first.
    pub fn process_of(&self, setup: &Setup) -> usize {
        let name = Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy();
        setup.processes.iter().position(|p| p.name == name).unwrap_or(0)
    }

    /// Where the snapshot has a region.
    fn home(&self, region: &Region) -> Option<u64> {
        let (start, end) = (region.start.raw(), region.start.raw() + region.len);
        match &region.backing {
            Backing::PrivateFile { file, offset } | Backing::SharedFile { file, offset } => {
                self.place(file, *offset)
            }
            _ if region.name == "[stack]" => self.stack_top()?.checked_sub(region.len),
            _ if region.name == "[heap]" => self.heap(),
            _ => {
                let holds = |(from, to): &(u64, u64)| *from <= start && end <= *to;
                self.anonymous().iter().any(holds).then_some(start)
            }
        }
    }
}
