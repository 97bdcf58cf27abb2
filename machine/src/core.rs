//! One core: the path of an access from its virtual address to its data.
//!
//! L1 TLB, second-level TLB, walk; then the data caches and memory. The common
//! case, the page and the line of the access before, is decided ahead of all
//! of it; that is exact, since what was used last is the most recent in every
//! structure. Misses leave the line of the loop through functions of their own.

use crate::cache::{Cache, LINE_SHIFT};
use crate::datapath::DataPath;
use crate::explain::Recorder;
use crate::input::{Access, Kind};
use crate::metrics::{Counters, Served};
use crate::port::WalkPort;
use crate::recent::Recent;
use crate::set::Avx2;
use crate::timing::{TICKS, Ticks, Timing};
use crate::tlb::{Hit, Tlb};
use crate::uncore::Uncore;
use crate::walkcache::WalkCaches;
use paging::frames::CpuId;
use paging::{Check, Direct, Fault, Hpa, Intent, Leaf, NodeId, TlbTag, Translation, Va};
use std::hint::select_unpredictable;

/// Latencies of a core's own parts, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latencies {
    /// A load that hits the L1 data cache, from its address to its data.
    pub l1: Ticks,
    /// One that is served by the L2.
    pub l2: Ticks,
    /// One that is served by the last-level cache.
    pub llc: Ticks,
    /// What a second-level TLB hit adds to an access.
    pub stlb: Ticks,
    /// What a look into the page-walk caches adds to a walk.
    pub walk_cache: Ticks,
    /// One base-limit check of a segment.
    pub check: Ticks,
}

/// What a core is told of each access as it completes; for the oracle and
/// other onlookers. The default does nothing and costs nothing.
pub trait Observer {
    /// Whether [`Observer::access`] wants to be called.
    const ACTIVE: bool;
    /// `access` reached `at`.
    fn access(&mut self, access: &Access, at: Hpa);
}

/// No onlooker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    const ACTIVE: bool = false;
    #[inline(always)]
    fn access(&mut self, _access: &Access, _at: Hpa) {}
}

/// Why a core stopped before the end of its accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Index of the access that faulted; all before it are complete.
    pub at: usize,
    /// What software must resolve before the access is tried again.
    pub fault: Fault,
}

/// Accesses whose loads are overlapped. All that 64 nested walks need is a tenth of the real
/// machine's second-level cache: 128 took 3 % longer, 256 took 10 %, and 32 took 4 %
/// (random updates).
const STAGED: usize = 64;

/// A core with its private structures.
#[derive(Clone, Debug)]
pub struct Core<T: TlbTag> {
    /// Its number.
    pub id: CpuId,
    /// Its clock.
    pub timing: Timing,
    /// What it counted.
    pub counters: Counters,
    /// Who sees its walks one by one.
    pub recorder: Option<Box<Recorder>>,
    pub(crate) context: T::Context,
    pub(crate) l1d_tlb: Tlb<T>,
    pub(crate) l1i_tlb: Tlb<T>,
    pub(crate) stlb: Tlb<T>,
    pub(crate) walk_caches: WalkCaches,
    pub(crate) path: DataPath,
    pub(crate) l1i: Cache,
    /// The last block walked on more than 1 in 8 of its accesses: prefetching pays.
    walk_heavy: bool,
    /// The access that faulted was already dispatched.
    resuming: bool,
    /// The line of the access before, and when it is here: what one call of [`Core::run`] leaves to the next, so that it
    /// does not matter how accesses are cut into calls.
    under_way: (u64, Ticks),
    /// When the late check of the walk for the access in hand is answered.
    checked: Ticks,
}

impl<T: TlbTag> Core<T> {
    #[expect(clippy::too_many_arguments, reason = "the parts of a core, put together in one place")]
    pub(crate) fn new(
        id: CpuId,
        node: NodeId,
        timing: Timing,
        tlbs: [Tlb<T>; 3],
        walk_caches: WalkCaches,
        caches: [Cache; 3],
        latencies: Latencies,
        walker_skips_l1: bool,
    ) -> Self {
        let [l1d_tlb, l1i_tlb, stlb] = tlbs;
        let [l1d, l1i, l2] = caches;
        Core {
            id,
            timing,
            counters: Counters::default(),
            recorder: None,
            context: T::Context::default(),
            l1d_tlb,
            l1i_tlb,
            stlb,
            walk_caches,
            path: DataPath {
                l1d,
                l2,
                latencies,
                // One node a socket.
                socket: node.index(),
                node,
                walker_skips_l1,
                avx2: Avx2::detect(),
            },
            l1i,
            walk_heavy: false,
            resuming: false,
            under_way: (u64::MAX, 0),
            checked: 0,
        }
    }

    /// The node it belongs to.
    pub fn node(&self) -> NodeId {
        self.path.node
    }

    /// Loads the registers that TLB tags compare: a context switch.
    pub fn load_context(&mut self, context: T::Context, space: u16, vm: u16) {
        self.context = context;
        self.walk_caches.set_vm(vm);
        self.walk_caches.set_space(space);
    }

    /// Runs accesses of one thread through `translation`, until one faults.
    ///
    /// # Errors
    /// With the access that faulted; call again from there once software has
    /// resolved it.
    #[inline(always)]
    pub fn run<X: Translation, O: Observer>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        accesses: &[Access],
        observer: &mut O,
    ) -> Result<(), Stop> {
        let staged = self.walk_heavy && accesses.len() > 16;
        let walks_before = self.counters.walks;
        // In registers meanwhile.
        let mut under_way = self.under_way;
        let mut result = Ok(());
        let mut done = 0;
        for part in accesses.chunks(if staged { STAGED } else { accesses.len().max(1) }) {
            if staged {
                self.stage(uncore, translation, part);
            }
            result = self.run_loop(uncore, translation, part, observer, &mut under_way);
            if let Err(stop) = &mut result {
                stop.at += done;
                break;
            }
            done += part.len();
        }
        self.under_way = under_way;
        if accesses.len() > 16 {
            self.walk_heavy = (self.counters.walks - walks_before) * 8 > accesses.len() as u64;
        }
        result
    }

    /// Overlaps the real machine's loads of what up to [`STAGED`] accesses will need, one
    /// dependent load after the other for all of them.
    #[inline(never)]
    fn stage<X: Translation>(&mut self, uncore: &Uncore, translation: &X, accesses: &[Access]) {
        let mut found: [Option<X::Located>; STAGED] = [None; STAGED];
        // The tags of the L2 fit the real machine's; those of the last level do not.
        let tags = uncore.llc(self.path.socket);
        let mut ask = |at: Hpa| tags.prefetch_set(at.raw() >> LINE_SHIFT);
        for (place, access) in found.iter_mut().zip(accesses) {
            let va = T::group_va(&self.context, access.va);
            *place = translation.locate(va, &mut ask);
        }
        for _ in 1..X::STAGES {
            for (place, access) in found.iter_mut().zip(accesses) {
                let va = T::group_va(&self.context, access.va);
                *place = place.and_then(|located| translation.relocate(va, located, &mut ask));
            }
        }
        for (place, access) in found.iter().zip(accesses) {
            let va = T::group_va(&self.context, access.va);
            if let Some(at) = place.and_then(|located| translation.arrive(va, located)) {
                ask(at);
            }
        }
    }

    #[inline(always)]
    fn run_loop<X: Translation, O: Observer>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        accesses: &[Access],
        observer: &mut O,
        under_way: &mut (u64, Ticks),
    ) -> Result<(), Stop> {
        let mut recent = Recent::new(self.l1d_tlb.sets_of_small());
        // The line of the access before. Between two calls it may have left the cache; when it delivers
        // stays known.
        let mut last_line = u64::MAX;
        if std::mem::take(&mut self.resuming)
            && let Some(first) = accesses.first()
        {
            self.timing.take_back(first.insns);
        }
        // What is counted for nearly every access is counted here, and at the end.
        let mut l1_hits = 0;
        let mut stopped = None;
        let mut rest = accesses.iter();
        for access in rest.by_ref() {
            let dependent = access.flags & Access::DEPENDENT != 0;
            let dispatched = self.timing.dispatch(access.insns, dependent);
            if access.kind == Kind::Fetch {
                match self.fetch(uncore, translation, access, dispatched) {
                    Ok(hpa) => {
                        if O::ACTIVE {
                            observer.access(access, hpa);
                        }
                    }
                    Err(fault) => {
                        stopped = Some(fault);
                        break;
                    }
                }
                // The walk of a fetch may have moved lines and pages.
                recent.interrupted();
                last_line = u64::MAX;
                *under_way = (u64::MAX, 0);
                continue;
            }
            let write = access.kind.writes();
            // A locked one need not be fast: it has the core to itself.
            let locked = access.flags & Access::LOCKED != 0;
            let near = if locked { None } else { recent.base(access.va, write) };
            let Some(base) = near else {
                let before = (last_line, *under_way);
                let found = if locked {
                    self.locked_access(uncore, translation, access, &mut recent, before)
                } else {
                    self.far_access(uncore, translation, access, dispatched, &mut recent, before)
                };
                match found {
                    Ok((hpa, done)) => {
                        last_line = hpa.raw() >> 6;
                        *under_way = (last_line, done);
                        if O::ACTIVE {
                            observer.access(access, hpa);
                        }
                    }
                    Err(fault) => {
                        stopped = Some(fault);
                        break;
                    }
                }
                continue;
            };
            let hpa = base | access.va.raw() & 4095;
            let line = hpa >> 6;
            if line == last_line || self.path.l1d.access(line) {
                l1_hits += 1;
                // A line that is still on its way delivers when it is here.
                let same = line == under_way.0;
                let done =
                    (dispatched + self.path.latencies.l1).max(select_unpredictable(same, under_way.1, 0));
                self.timing.fast(done);
                *under_way = (line, select_unpredictable(same, under_way.1, done));
            } else {
                let done = self.data_miss(uncore, line, dispatched);
                self.timing.slow(done, if access.kind == Kind::Write { dispatched } else { done });
                *under_way = (line, done);
            }
            last_line = line;
            if O::ACTIVE {
                observer.access(access, Hpa::new(hpa));
            }
        }
        let complete = accesses.len() - rest.len() - usize::from(stopped.is_some());
        let writes = accesses[..complete].iter().filter(|access| access.kind.writes()).count();
        self.counters.accesses += complete as u64;
        self.counters.writes += writes as u64;
        self.counters.data[Served::L1 as usize] += l1_hits;
        match stopped {
            None => Ok(()),
            Some(fault) => {
                self.resuming = true;
                Err(Stop { at: complete, fault })
            }
        }
    }

    /// An access whose page is not at hand, after one to the line that is under way in `before`: where it went, and when
    /// that line is here.
    #[inline(never)]
    fn far_access<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        access: &Access,
        dispatched: Ticks,
        recent: &mut Recent,
        (last_line, under_way): (u64, (u64, Ticks)),
    ) -> Result<(Hpa, Ticks), Fault> {
        let write = access.kind.writes();
        let (hit, mut ready) = self.translate(uncore, translation, access.va, write, dispatched)?;
        recent.remember(access.va, &hit, self.l1d_tlb.sets_of_small());
        let hpa = Hpa::new(hit.page_base(access.va) | access.va.raw() & 4095);
        let line = hpa.raw() >> 6;
        let (served, latency) = if line == last_line {
            (Served::L1, self.path.latencies.l1)
        } else {
            self.path.load(uncore, line, ready)
        };
        self.counters.data[served as usize] += 1;
        let near = served == Served::L1;
        let mut done = if near {
            (ready + latency).max(if line == under_way.0 { under_way.1 } else { 0 })
        } else {
            self.timing.miss(ready, latency)
        };
        if X::LATE_CHECKS {
            (ready, done) = self.after_check(ready, done);
        }
        if near && ready - dispatched <= self.path.latencies.llc {
            self.timing.fast(done);
        } else {
            self.timing.slow(done, if access.kind == Kind::Write { ready } else { done });
        }
        Ok((hpa, if near && line == under_way.0 { under_way.1 } else { done }))
    }

    /// The same for a locked instruction: after all that came before it, and ahead of all that comes.
    #[cold]
    #[inline(never)]
    fn locked_access<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        access: &Access,
        recent: &mut Recent,
        before: (u64, (u64, Ticks)),
    ) -> Result<(Hpa, Ticks), Fault> {
        let dispatched = self.timing.drain();
        let (hpa, done) = self.far_access(uncore, translation, access, dispatched, recent, before)?;
        self.timing.hold(done);
        Ok((hpa, done))
    }

    /// The L1 data cache does not have the line: when it delivers.
    #[inline(never)]
    fn data_miss(&mut self, uncore: &mut Uncore, line: u64, ready: Ticks) -> Ticks {
        let (served, latency) = self.path.beyond_l1(uncore, line, ready);
        self.counters.data[served as usize] += 1;
        self.timing.miss(ready, latency)
    }

    /// From a virtual address to a TLB entry: L1 TLB hit, or what lies behind it.
    #[inline(always)]
    fn translate<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        va: Va,
        write: bool,
        ready: Ticks,
    ) -> Result<(Hit, Ticks), Fault> {
        if let Some(hit) = self.l1d_tlb.lookup(va, &self.context) {
            if hit.allows(if write { Intent::WRITE } else { Intent::READ }) {
                return Ok((hit, ready));
            }
            // A store needs D set in the table, or will fault: the walker decides.
            self.counters.dirty_walks += u64::from(write && hit.rights.write());
            return self.walk(uncore, translation, va, Intent { write, fetch: false }, ready, false);
        }
        self.translate_miss(uncore, translation, va, Intent { write, fetch: false }, ready)
    }

    /// The first-level TLB does not have the page.
    #[inline(always)]
    fn translate_miss<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        va: Va,
        intent: Intent,
        ready: Ticks,
    ) -> Result<(Hit, Ticks), Fault> {
        if intent.fetch {
            self.counters.l1i_tlb_misses += 1;
        } else {
            self.counters.l1d_tlb_misses += 1;
        }
        let group = T::group_va(&self.context, va);
        if X::DIRECT
            && let Some(hit) = self.direct(translation, va, group, intent)
        {
            return Ok((hit, ready + self.path.latencies.check));
        }
        let ready = ready + self.path.latencies.stlb + Ticks::from(T::miss_cycles(&self.context)) * TICKS;
        if let Some((hit, tag)) = self.stlb.lookup_tagged(group, &self.context) {
            if hit.allows(intent) {
                let extra = Ticks::from(tag.extra_cycles()) * TICKS;
                self.counters.shared_hits += u64::from(tag.shared_hit(&self.context));
                self.counters.stlb_hit_cycles += (self.path.latencies.stlb + extra) / TICKS;
                let l1 = if intent.fetch { &mut self.l1i_tlb } else { &mut self.l1d_tlb };
                l1.fill_hit(va, &self.context, hit, tag.first_level(&self.context));
                return Ok((hit, ready + extra));
            }
            self.counters.dirty_walks += u64::from(intent.write && hit.rights.write());
            return self.walk(uncore, translation, va, intent, ready, false);
        }
        if intent.fetch {
            self.counters.stlb_fetch_misses += 1;
        } else {
            self.counters.stlb_misses += 1;
        }
        self.walk(uncore, translation, va, intent, ready, true)
    }

    /// What segments beside the second-level TLB answer. The registers are
    /// compared while that TLB is looked up: a miss of theirs takes no time.
    #[inline(always)]
    fn direct<X: Translation>(&mut self, translation: &X, va: Va, group: Va, intent: Intent) -> Option<Hit> {
        let leaf = match translation.direct(group) {
            Direct::Off => return None,
            Direct::Miss => None,
            Direct::Hit(leaf) => Some(leaf).filter(|leaf| leaf.rights.allow(intent)),
        };
        self.counters.checks[Check::Direct as usize] += 1;
        let leaf = leaf?;
        self.counters.direct_hits += 1;
        let tag = T::of(&self.context, group, &leaf).first_level(&self.context);
        let l1 = if intent.fetch { &mut self.l1i_tlb } else { &mut self.l1d_tlb };
        Some(l1.fill(va, &self.context, &leaf, tag, true))
    }

    /// The walker walks and fills both TLBs, which have just `missed` or hold
    /// an entry that does not allow the access.
    #[inline(never)]
    fn walk<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        va: Va,
        intent: Intent,
        ready: Ticks,
        missed: bool,
    ) -> Result<(Hit, Ticks), Fault> {
        let (walker, start) = self.timing.begin_walk(ready);
        if self.recorder.as_ref().is_some_and(|recorder| recorder.wants()) {
            return self.recorded_walk(uncore, translation, va, intent, (walker, start), missed);
        }
        let group = T::group_va(&self.context, va);
        let mut port = self.port(uncore, start);
        let result = translation.walk(&mut port, group, intent);
        let (end, checked) = (port.time, port.checked);
        self.end_walk::<X>(va, intent, (walker, start, end), checked, missed, result)
    }

    /// What the walk found goes into both TLBs.
    #[inline(always)]
    pub(crate) fn end_walk<X: Translation>(
        &mut self,
        va: Va,
        intent: Intent,
        (walker, start, end): (usize, Ticks, Ticks),
        checked: Ticks,
        missed: bool,
        result: Result<Leaf, Fault>,
    ) -> Result<(Hit, Ticks), Fault> {
        let over = self.timing.end_walk(walker, start, end);
        let group = T::group_va(&self.context, va);
        match result {
            Ok(leaf) => {
                if X::LATE_CHECKS {
                    self.checked = self.hand_over(over, checked + (over - end));
                }
                self.counters.walks += 1;
                self.counters.walk_cycles.count((end - start) / TICKS);
                let tag = T::of(&self.context, group, &leaf);
                let hit = self.stlb.fill(group, &self.context, &leaf, tag, missed);
                let l1 = if intent.fetch { &mut self.l1i_tlb } else { &mut self.l1d_tlb };
                l1.fill(va, &self.context, &leaf, tag.first_level(&self.context), missed);
                Ok((hit, over))
            }
            Err(fault) => {
                self.counters.faulting_walks += 1;
                Err(fault)
            }
        }
    }

    /// The walker's port for a walk that starts at `time`.
    #[inline(always)]
    pub(crate) fn port<'a>(&'a mut self, uncore: &'a mut Uncore, time: Ticks) -> WalkPort<'a> {
        WalkPort {
            path: &mut self.path,
            uncore,
            caches: &mut self.walk_caches,
            counters: &mut self.counters,
            time,
            checked: 0,
        }
    }

    /// An instruction fetch: its own first-level TLB and cache, and no overlap
    /// with what comes after it.
    #[inline(never)]
    fn fetch<X: Translation>(
        &mut self,
        uncore: &mut Uncore,
        translation: &X,
        access: &Access,
        dispatched: Ticks,
    ) -> Result<Hpa, Fault> {
        let hit = self.l1i_tlb.lookup(access.va, &self.context).filter(|hit| hit.allows(Intent::FETCH));
        let (hit, ready) = match hit {
            Some(hit) => (hit, dispatched),
            None => self.translate_miss(uncore, translation, access.va, Intent::FETCH, dispatched)?,
        };
        let hpa = hit.page_base(access.va) | access.va.raw() & 4095;
        let line = hpa >> 6;
        self.counters.fetches += 1;
        let mut done = ready;
        if self.l1i.access(line) {
            self.counters.data[Served::L1 as usize] += 1;
        } else {
            done = self.data_miss(uncore, line, ready);
        }
        if X::LATE_CHECKS {
            (_, done) = self.after_check(ready, done);
        }
        if done > dispatched {
            self.timing.hold(done);
        }
        Ok(Hpa::new(hpa))
    }

    /// The walk ended and its last check is still to be answered: the walker is free for the next, and what the
    /// check loads is one of the core's misses until then.
    fn hand_over(&mut self, end: Ticks, checked: Ticks) -> Ticks {
        let left = checked.saturating_sub(end);
        if left > self.path.latencies.l1 + self.path.latencies.check {
            self.timing.miss(end, left)
        } else {
            checked
        }
    }

    /// When an access may retire and when it delivers, once the late check of its walk, if it had one, is answered.
    #[inline(always)]
    fn after_check(&mut self, ready: Ticks, done: Ticks) -> (Ticks, Ticks) {
        let checked = std::mem::take(&mut self.checked);
        (ready.max(checked), done.max(checked))
    }

    /// Forgets what was counted, not what is cached: the end of a warm-up.
    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
        self.timing.reset_counters();
    }
}
