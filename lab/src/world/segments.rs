//! The axis of direct segments: who gets one, when, and with which frames bad.

use super::*;
use crate::numa::Replication;
use crate::segments::{SegmentOutcome, Step};
use mechanisms::segments::FilterGeometry;
use os::hypervisor::{GuestOnHost, KEPT_BELOW_GAP};
use os::segment::{Begun, Contiguity, Mode, Promote, Promoted};
use paging::Space;
use paging::frames::IO_GAP_START;
use paging::random::SplitMix64;

/// What was done about segments so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    steps: Vec<Step>,
    gap_closed: u64,
    /// Accesses that ran.
    accesses: u64,
}

/// The guest and the host of a world.
struct Both<'a> {
    guest: &'a mut Guest,
    host: &'a mut Kernel<Arena<HostPhys>>,
    shared: Shared<'a>,
}

impl GuestOnHost for Both<'_> {
    type Guest = GuestMem;
    type Host = Arena<HostPhys>;

    fn guest<R>(&mut self, f: impl FnOnce(&mut Kernel<Self::Guest>, &mut dyn Hardware<GuestPhys>) -> R) -> R {
        let Guest { kernel, vm, .. } = &mut *self.guest;
        let shared = self.shared.reborrow();
        f(kernel, &mut GuestHardware { shared, host: self.host, vm: *vm, index: 1, shadowed: None })
    }
    fn host<R>(&mut self, f: impl FnOnce(&mut Kernel<Self::Host>, &mut dyn Hardware<HostPhys>) -> R) -> R {
        f(self.host, &mut HostHardware(self.shared.reborrow()))
    }
    fn vm(&self) -> VmId {
        self.guest.vm
    }
    fn cpu(&self) -> CpuId {
        CpuId(0)
    }
}

/// The filter of a kernel's segments: which sizes of leaves the other dimension may make whole.
pub(super) fn filter(system: &System, other: &Side) -> (FilterGeometry, PageSize) {
    // A geometry that cannot be was refused with the system.
    (system.segments.filter().unwrap_or_default(), other.pages.largest())
}

/// Frames of the longest range of a machine's memory that a VM's segment may have: over all nodes,
/// but of one node alone if the host keeps table pages on each, which lie between.
pub(super) fn longest_range(layout: &Layout, host: &Side) -> u64 {
    let tables_between = host.table_cache > 0
        || host.replication != Replication::Off
        || host.tables_follow
        || host.tables_on.is_some_and(|node| node > 0)
        || host.placement != Placement::FirstTouch;
    if tables_between {
        let ranges = layout.nodes.iter().flat_map(|node| &node.frames);
        return ranges.map(|range| range.end - range.start).max().unwrap_or(0);
    }
    let mut ranges: Vec<_> = layout.nodes.iter().flat_map(|node| node.frames.iter().cloned()).collect();
    ranges.sort_by_key(|range| range.start);
    let (mut longest, mut run) = (0, 0..0);
    for range in ranges {
        run = if range.start == run.end { run.start..range.end } else { range };
        longest = longest.max(run.end - run.start);
    }
    longest
}

/// Cuts slots so that what lies between the memory that a guest keeps below the I/O gap
/// and the gap can be unplugged.
pub(super) fn cut_at_gap(slots: Vec<Slot>) -> Vec<Slot> {
    let cut = |slot: Slot| {
        let (start, end) = (slot.start.number(), slot.start.number() + slot.frames);
        if start < KEPT_BELOW_GAP && KEPT_BELOW_GAP < end && end <= IO_GAP_START {
            let kept = Slot { frames: KEPT_BELOW_GAP - start, ..slot };
            let rest = Slot { start: Frame::new(KEPT_BELOW_GAP), frames: end - KEPT_BELOW_GAP, ..slot };
            vec![kept, rest]
        } else {
            vec![slot]
        }
    };
    slots.into_iter().flat_map(cut).collect()
}

fn step(what: String, done: &Result<Promoted, MmError>) -> Step {
    let (refused, done) = match done {
        Ok(done) => (None, *done),
        Err(error) => (Some(error.to_string()), Promoted::default()),
    };
    let Begun { pages, copied, compacted, .. } = done.begun;
    let ballooned = done.ballooned;
    Step { accesses: 0, what, refused, pages, copied, compacted, ballooned, cycles: 0 }
}

/// A refusal is an answer; everything else is an error.
fn only_refused<T>(done: Result<T, MmError>, what: &str, must: bool) -> Result<(), WorldError> {
    match done {
        Err(MmError::NoSegment(_)) if !must => Ok(()),
        Err(error) => Err(WorldError::Kernel { what: what.to_string(), error }),
        Ok(_) => Ok(()),
    }
}

impl World {
    fn both(&mut self) -> Option<Both<'_>> {
        let shared = shared!(self, &self.host_files.names);
        Some(Both { guest: self.guest.as_mut()?, host: &mut self.host, shared })
    }

    fn note(&mut self, mut step: Step, spent_before: u64) {
        step.accesses = self.segment_log.accesses;
        step.cycles = self.spent.cycles - spent_before;
        self.segment_log.steps.push(step);
    }

    /// Before anything runs: the VM's memory gets its shape, and who is to have a
    /// segment from the start has it.
    pub(super) fn start_segments(&mut self) -> Result<(), WorldError> {
        let System { translation, segments, .. } = self.plan.system;
        if translation.has_vm_segment() {
            let closed = self.both().map_or(Ok(0), |mut both| both.close_io_gap(NodeId(0)));
            self.segment_log.gap_closed = closed
                .map_err(|error| WorldError::Kernel { what: "closing the I/O gap".to_string(), error })?;
        }
        if translation.is_segmented() && !segments.promote {
            self.begin_segments(true)?;
        }
        Ok(())
    }

    /// Some accesses ran: those who wait for a segment try again.
    pub(super) fn promote(&mut self, accesses: u64) -> Result<(), WorldError> {
        self.segment_log.accesses += accesses;
        let System { translation, segments, .. } = self.plan.system;
        if translation.is_segmented() && segments.promote { self.begin_segments(false) } else { Ok(()) }
    }

    /// Begins all segments that are wanted and that are not there.
    fn begin_segments(&mut self, must: bool) -> Result<(), WorldError> {
        let way = self.plan.system.translation;
        let had = self.segment_log.steps.iter().filter(|step| step.refused.is_none()).count();
        // A guest's segment first: ballooning changes which memory the VM's is to have.
        // But not if nothing has to be ballooned: guest memory is then made real at once.
        let fragmented = self.plan.system.kernel.fragmentation > 0.0;
        if way.has_vm_segment() && !fragmented {
            self.begin_vm_segment(must)?;
        }
        if way.has_process_segment() {
            for process in 0..self.processes.len() {
                self.begin_process_segment(process, must)?;
            }
        }
        if way.has_vm_segment() && fragmented {
            self.begin_vm_segment(must)?;
        }
        let has = self.segment_log.steps.iter().filter(|step| step.refused.is_none()).count();
        if has > had { self.spoil_frames() } else { Ok(()) }
    }

    fn begin_vm_segment(&mut self, must: bool) -> Result<(), WorldError> {
        let Some(guest) = &self.guest else { return Ok(()) };
        if self.host.vm(guest.vm).is_ok_and(|vm| vm.space().segment().is_some()) {
            return Ok(());
        }
        let before = self.spent.cycles;
        let Some(mut both) = self.both() else { return Ok(()) };
        let done = both.promote_vmm().map(|begun| Promoted { begun, ballooned: 0 });
        self.note(step("the VMM's segment".to_string(), &done), before);
        only_refused(done, "the VMM's segment", must)
    }

    fn begin_process_segment(&mut self, process: usize, must: bool) -> Result<(), WorldError> {
        let pid = self.processes[process].pid;
        let begun = on_kernel!(self, |kernel, _hw, _files| kernel
            .process(pid)
            .map_or(true, |process| process.space().segment().is_some()));
        let candidate = on_kernel!(self, |kernel, _hw, _files| kernel.primary_region(pid));
        // Without any memory of its kind there is nothing to wait for or to complain about.
        let (false, Ok(range)) = (begun, candidate) else { return Ok(()) };
        let before = self.spent.cycles;
        let done = match self.both() {
            Some(mut both) => both.promote_guest(pid),
            None => {
                let mut hardware = HostHardware(shared!(self, &self.host_files.names));
                self.host
                    .begin_segment(&mut hardware, CpuId(0), pid, range, Contiguity::Compacted)
                    .map(|begun| Promoted { begun, ballooned: 0 })
            }
        };
        let what = format!("the segment of process {process}");
        self.note(step(what.clone(), &done), before);
        only_refused(done, &what, must)
    }

    /// Marks the frames faulty that the system says are: in random places of the segments that end
    /// in host memory.
    fn spoil_frames(&mut self) -> Result<(), WorldError> {
        fn frames<I: Space>(segment: Option<&os::segment::SpaceSegment<I, HostPhys>>) -> Option<(u64, u64)> {
            let registers = segment?.registers();
            Some((registers.frame_of(registers.range().start).number(), registers.pages()))
        }
        let bad = u64::from(self.plan.system.segments.bad);
        let segment = match &self.guest {
            Some(guest) => self.host.vm(guest.vm).ok().and_then(|vm| frames(vm.space().segment())),
            None => self.host.processes().find_map(|process| frames(process.space().segment())),
        };
        let Some((first, pages)) = segment.filter(|_| bad > 0) else { return Ok(()) };
        let mut random = SplitMix64(self.plan.seed ^ 0x6661_756c_7479);
        for _ in 0..bad.min(pages) {
            let frame = Frame::new(first + random.next() % pages);
            if self.host.pool().state(frame) == paging::frames::FrameState::Faulty {
                continue;
            }
            let mut hardware = HostHardware(shared!(self, &self.host_files.names));
            self.host
                .mark_faulty(&mut hardware, CpuId(0), frame)
                .map_err(|error| WorldError::Kernel { what: "a faulty frame".to_string(), error })?;
        }
        Ok(())
    }

    /// The segments as they are now.
    pub fn segments(&self) -> Option<SegmentOutcome> {
        if !self.plan.system.translation.is_segmented() {
            return None;
        }
        let mut outcome = SegmentOutcome {
            gap_closed: self.segment_log.gap_closed,
            steps: self.segment_log.steps.clone(),
            ..SegmentOutcome::default()
        };
        let mut guest_on = false;
        let mut departures = Vec::new();
        match &self.guest {
            Some(guest) => {
                for process in guest.kernel.processes() {
                    guest_on |= outcome.add(process.space(), false, &mut departures);
                }
                let vm = self.host.vm(guest.vm).ok();
                let vmm_on = vm.is_some_and(|vm| outcome.add(vm.space(), true, &mut departures));
                outcome.mode = Mode::of(guest_on, vmm_on).name().to_string();
            }
            None => {
                for process in self.host.processes() {
                    guest_on |= outcome.add(process.space(), false, &mut departures);
                }
                outcome.mode = if guest_on { "direct segment" } else { "native" }.to_string();
            }
        }
        outcome.departures = departures.join("; ");
        Some(outcome)
    }
}

impl SegmentOutcome {
    /// Adds an address space; whether it has a segment.
    fn add<I: Space, M: TableMemory>(
        &mut self,
        space: &os::AddressSpace<I, M>,
        of_vm: bool,
        departures: &mut Vec<String>,
    ) -> bool {
        let text = space.departures().to_string();
        if !text.is_empty() {
            departures.push(text);
        }
        let Some(segment) = space.segment() else { return false };
        *(if of_vm { &mut self.vm_pages } else { &mut self.process_pages }) += segment.pages();
        self.escaped += segment.escaped().count() as u64;
        self.false_positives = self.false_positives.max(segment.registers().filter().false_positives());
        true
    }
}
