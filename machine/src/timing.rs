//! When things happen in a core: a window of instructions, misses that
//! overlap, walkers that are busy.
//!
//! The core dispatches instructions in order at a sustained rate and retires
//! them in order. An access may be under way while later ones start, as long
//! as it is among the last `rob` instructions; at most `mshr` misses and
//! `walkers` page walks are under way at once; an access marked dependent
//! waits for the thread's previous one. So independent misses overlap and a
//! pointer chase does not, as on silicon.
//!
//! Not modelled: branch prediction, hardware prefetchers, ports, the memory
//! disambiguation of stores. A store retires when it is translated; its line
//! is fetched behind it.

/// Time in ticks: [`TICKS`] to a cycle, so that rates of several instructions
/// a cycle stay whole numbers.
pub type Ticks = u64;

/// Ticks to a cycle: divisible by every issue width up to 8 and by 10ths.
pub const TICKS: u64 = 840;

/// What bounds the overlap in a core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Instructions that retire per cycle when no access is slow, in hundredths.
    pub ipc_hundredths: u32,
    /// Instructions that may be under way.
    pub rob: u32,
    /// L1D misses that may be under way.
    pub mshr: u32,
    /// Page walks that may be under way.
    pub walkers: u32,
}

/// A slow instruction under way.
#[derive(Clone, Copy, Debug)]
struct Slow {
    /// Its number in program order.
    insn: u64,
    /// When it can retire: when it and all before it are done.
    retire: Ticks,
}

const SLOW_RING: usize = 1024;

/// An access that delivers later than this after its dispatch is watched: it
/// can hold up retirement. About the time that a window hides by itself.
const LAG: Ticks = 24 * TICKS;

/// Spans of time that are kept apart.
const SPANS: usize = 16;

/// When something is busy, from some time on: spans one after the other, apart.
#[derive(Clone, Debug, Default)]
struct Spans {
    at: [(Ticks, Ticks); SPANS],
    len: usize,
}

impl Spans {
    /// From when on, `ready` or later, it is free for `length`.
    #[inline(always)]
    fn room(&self, ready: Ticks, length: Ticks) -> Ticks {
        let mut start = ready;
        for &(begin, end) in &self.at[..self.len] {
            if start + length <= begin {
                break;
            }
            start = start.max(end);
        }
        start
    }

    /// It is busy from `start` to `end`: how much of that it was not before. What was over at `now` is forgotten.
    #[inline(always)]
    fn add(&mut self, now: Ticks, start: Ticks, end: Ticks) -> Ticks {
        let last = self.len.saturating_sub(1);
        if self.at[last].1 <= now {
            (self.at[0], self.len) = ((start, end), 1);
            return end - start;
        }
        if self.at[last].1 == start && self.at[0].1 > now {
            self.at[last].1 = end;
            return end - start;
        }
        self.add_apart(now, start, end)
    }

    #[inline(never)]
    fn add_apart(&mut self, now: Ticks, start: Ticks, end: Ticks) -> Ticks {
        let over = self.at[..self.len].iter().take_while(|span| span.1 <= now).count();
        self.at.copy_within(over..self.len, 0);
        self.len -= over;
        let spans = &self.at[..self.len];
        // Those that the new one touches.
        let first = spans.iter().take_while(|span| span.1 < start).count();
        let touched = spans[first..].iter().take_while(|span| span.0 <= end).count();
        let known = |span: &(Ticks, Ticks)| end.min(span.1) - start.max(span.0);
        let covered = end - start - spans[first..first + touched].iter().map(known).sum::<Ticks>();
        let mut whole = (start, end);
        for span in &spans[first..first + touched] {
            whole = (whole.0.min(span.0), whole.1.max(span.1));
        }
        if touched == 0 && self.len == SPANS {
            // What is between two is taken for busy: a core has not so many walks ahead that it would matter.
            let near = first.min(SPANS - 1);
            self.at[near] = (self.at[near].0.min(start), self.at[near].1.max(end));
            return covered;
        }
        self.at.copy_within(first + touched..self.len, first + 1);
        self.at[first] = whole;
        self.len = self.len + 1 - touched;
        covered
    }
}

/// The clock of one core.
#[derive(Clone, Debug)]
pub struct Timing {
    ticks_per_insn: u64,
    rob: u64,
    /// Dispatch time of the newest instruction.
    now: Ticks,
    /// Instructions dispatched.
    insns: u64,
    /// When the newest access delivered its data.
    last_done: Ticks,
    /// When everything so far is retired.
    retire: Ticks,
    /// The instruction at whose dispatch the oldest slow one must have retired.
    stall_at: u64,
    slow: Box<[Slow; SLOW_RING]>,
    slow_head: usize,
    slow_len: usize,
    /// When the misses under way end, in this order from `first_miss` on: a ring.
    misses: Vec<Ticks>,
    first_miss: usize,
    /// When each walker walks.
    walkers: Vec<Spans>,
    /// When any does.
    walking: Spans,
    /// How long the last walk took.
    walk_length: Ticks,
    /// Ticks with at least one walk in progress (Intel's `walk_duration` and `walk_active`).
    pub walk_active: Ticks,
    /// Ticks of all walks added up (Intel's `walk_pending`).
    pub walk_pending: Ticks,
}

impl Timing {
    /// A core at time 0. Counts below 1 are taken as 1.
    pub fn new(window: Window) -> Timing {
        Timing {
            ticks_per_insn: (TICKS * 100 / u64::from(window.ipc_hundredths.max(1))).max(1),
            rob: u64::from(window.rob.max(1)),
            now: 0,
            insns: 0,
            last_done: 0,
            retire: 0,
            stall_at: u64::MAX,
            slow: Box::new([Slow { insn: 0, retire: 0 }; SLOW_RING]),
            slow_head: 0,
            slow_len: 0,
            misses: vec![0; window.mshr.max(1) as usize],
            first_miss: 0,
            walkers: vec![Spans::default(); window.walkers.max(1) as usize],
            walking: Spans::default(),
            walk_length: 0,
            walk_active: 0,
            walk_pending: 0,
        }
    }

    /// Dispatches `insns` instructions, the last of which is an access; when it
    /// may start, its address known.
    #[inline(always)]
    pub fn dispatch(&mut self, insns: u16, dependent: bool) -> Ticks {
        self.insns = self.insns.wrapping_add(u64::from(insns));
        self.now = self.now.wrapping_add(u64::from(insns) * self.ticks_per_insn);
        if self.insns >= self.stall_at {
            self.stall();
        }
        if dependent { self.now.max(self.last_done) } else { self.now }
    }

    /// The last access faulted; the next, of `insns` instructions, is to be dispatched as if it had none. Only
    /// between the two may a sum be below 0.
    pub fn take_back(&mut self, insns: u16) {
        self.insns = self.insns.wrapping_sub(u64::from(insns));
        self.now = self.now.wrapping_sub(u64::from(insns) * self.ticks_per_insn);
    }

    /// The window is full: dispatch waits until enough has retired.
    #[cold]
    #[inline(never)]
    fn stall(&mut self) {
        while self.slow_len > 0 {
            let oldest = self.slow[self.slow_head];
            if oldest.insn + self.rob > self.insns {
                break;
            }
            self.now = self.now.max(oldest.retire);
            self.pop();
        }
        // What retired meanwhile needs no more watching.
        while self.slow_len > 0 && self.slow[self.slow_head].retire <= self.now {
            self.pop();
        }
        self.stall_at = if self.slow_len > 0 { self.slow[self.slow_head].insn + self.rob } else { u64::MAX };
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.slow_head = (self.slow_head + 1) % SLOW_RING;
        self.slow_len -= 1;
    }

    /// The access that hit everywhere delivers at `done`. It occupies the window
    /// only if a chain of such accesses has fallen behind the dispatch.
    #[inline(always)]
    pub fn fast(&mut self, done: Ticks) {
        self.last_done = done;
        // One that waits for an older one's line is not behind what is watched already.
        if done > (self.now + LAG).max(self.retire) {
            self.watch(done);
        }
    }

    /// A slow access delivers at `done` and lets later ones retire at `retire`
    /// (a store: when it is translated).
    #[inline(always)]
    pub fn slow(&mut self, done: Ticks, retire: Ticks) {
        self.last_done = done;
        if retire <= self.retire {
            // Done before one that is older: it retires with that one, which the
            // window waits for first.
            return;
        }
        self.watch(retire);
    }

    /// The newest access holds up retirement until `retire`, longer than all before it.
    #[inline(always)]
    fn watch(&mut self, retire: Ticks) {
        self.retire = retire;
        if retire > self.now {
            if self.slow_len == SLOW_RING {
                // More slow accesses than the ring holds cannot be in a window
                // that small; wait for the oldest.
                let oldest = self.slow[self.slow_head];
                self.now = self.now.max(oldest.retire);
                self.pop();
            }
            let place = (self.slow_head + self.slow_len) % SLOW_RING;
            self.slow[place] = Slow { insn: self.insns, retire };
            self.slow_len += 1;
            self.stall_at = self.slow[self.slow_head].insn + self.rob;
        }
    }

    /// What was dispatched last holds up all that comes after it until `done`: a slow fetch, a locked instruction.
    #[inline(always)]
    pub fn hold(&mut self, done: Ticks) {
        self.now = self.now.max(done);
    }

    /// What was dispatched last waits for all that came before it; until when.
    #[inline]
    pub fn drain(&mut self) -> Ticks {
        self.now = self.elapsed().max(self.last_done);
        self.now
    }

    /// A miss that wants to start at `ready` and then takes `latency`: when it is done.
    ///
    /// Of the buffers that are free by then it takes the one that was freed last: an access whose address is still
    /// on its way comes late, and those behind it find the others.
    #[inline(always)]
    pub fn miss(&mut self, ready: Ticks, latency: Ticks) -> Ticks {
        let last = self.misses.len() - 1;
        let newest = if self.first_miss == 0 { last } else { self.first_miss - 1 };
        if self.misses[newest] <= ready {
            self.misses[newest] = ready + latency;
            return ready + latency;
        }
        let mut place = self.first_miss;
        let done = ready.max(self.misses[place]) + latency;
        if self.misses[place] >= ready {
            // The ring turns: most end after all others, and are in place.
            self.first_miss = if place == last { 0 } else { place + 1 };
            while place != self.first_miss {
                let before = if place == 0 { last } else { place - 1 };
                if self.misses[before] <= done {
                    break;
                }
                self.misses[place] = self.misses[before];
                place = before;
            }
        } else {
            let after = |place| if place == last { 0 } else { place + 1 };
            while self.misses[after(place)] <= ready {
                place = after(place);
            }
            while place != newest && self.misses[after(place)] <= done {
                self.misses[place] = self.misses[after(place)];
                place = after(place);
            }
        }
        self.misses[place] = done;
        done
    }

    /// When a walk that is wanted at `ready` finds a walker; to be given to [`Timing::end_walk`].
    ///
    /// A walk whose address is still on its way comes late: a walker makes others before it, if they fit in, each
    /// taken to be as long as the last was.
    #[inline(always)]
    pub fn begin_walk(&mut self, ready: Ticks) -> (usize, Ticks) {
        let mut best = (0, self.walkers[0].room(ready, self.walk_length));
        if self.walkers.len() == 1 {
            return best;
        }
        for (number, walker) in self.walkers.iter().enumerate().skip(1) {
            let start = walker.room(ready, self.walk_length);
            if start < best.1 {
                best = (number, start);
            }
        }
        best
    }

    /// The walk that began at `start` would end at `end`; when it does.
    ///
    /// One that is longer than its gap ends as much later as the walker is busy with others meanwhile.
    #[inline(always)]
    pub fn end_walk(&mut self, walker: usize, start: Ticks, end: Ticks) -> Ticks {
        self.walk_length = end - start;
        self.walk_pending += end - start;
        let covered = self.walkers[walker].add(self.now, start, end);
        let end =
            if covered == end - start { end } else { self.interrupted(walker, end, end - start - covered) };
        let alone = self.walkers.len() == 1;
        self.walk_active += if alone { self.walk_length } else { self.walking.add(self.now, start, end) };
        end
    }

    /// What of a walk is `left` at `end`, when it would have been over, comes after that: when it is.
    #[cold]
    #[inline(never)]
    fn interrupted(&mut self, walker: usize, mut end: Ticks, mut left: Ticks) -> Ticks {
        while left > 0 {
            let until = end + left;
            left -= self.walkers[walker].add(self.now, end, until);
            end = until;
        }
        end
    }

    /// Software (a fault handler, a system call) runs for `ticks`: nothing overlaps it.
    pub fn serialize(&mut self, ticks: Ticks) {
        self.now = self.elapsed() + ticks;
        self.last_done = self.now;
        self.retire = self.now;
        self.slow_len = 0;
        self.stall_at = u64::MAX;
    }

    /// Waits until `time` if that is later: another core's turn, a lock.
    pub fn wait_until(&mut self, time: Ticks) {
        if time > self.elapsed() {
            self.serialize(time - self.elapsed());
        }
    }

    /// The time at which the newest instruction was dispatched.
    #[inline(always)]
    pub fn now(&self) -> Ticks {
        self.now
    }
    /// Instructions so far.
    pub fn instructions(&self) -> u64 {
        self.insns
    }
    /// The time at which everything so far is retired.
    #[inline(always)]
    pub fn elapsed(&self) -> Ticks {
        self.now.max(self.retire)
    }
    /// Forgets the walk counters, not the time: the end of a warm-up.
    pub fn reset_counters(&mut self) {
        self.walk_active = 0;
        self.walk_pending = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Window = Window { ipc_hundredths: 200, rob: 100, mshr: 4, walkers: 1 };
    const MISS: Ticks = 300 * TICKS;

    fn cycles(t: &Timing) -> u64 {
        t.elapsed() / TICKS
    }

    #[test]
    fn instructions_flow_at_the_stated_rate() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..1000 {
            let start = t.dispatch(10, false);
            t.fast(start + 4 * TICKS);
        }
        assert_eq!(cycles(&t), 5000);
    }

    #[test]
    fn dependent_misses_do_not_overlap() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..100 {
            let start = t.dispatch(1, true);
            let done = t.miss(start, MISS);
            t.slow(done, done);
        }
        assert!((30_000..30_200).contains(&cycles(&t)), "{}", cycles(&t));
    }

    #[test]
    fn locked_instructions_overlap_nothing() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..100 {
            let start = t.dispatch(1, false);
            let done = t.miss(start, MISS);
            t.slow(done, done);
            t.dispatch(1, false);
            let start = t.drain();
            assert_eq!(start, done);
            let done = t.miss(start, MISS);
            t.slow(done, done);
            t.hold(done);
        }
        assert!((60_000..60_200).contains(&cycles(&t)), "{}", cycles(&t));
    }

    #[test]
    fn a_chain_of_hits_takes_the_latency_of_each() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..10_000 {
            let start = t.dispatch(1, true);
            t.fast(start + 4 * TICKS);
        }
        assert!((39_900..40_100).contains(&cycles(&t)), "{}", cycles(&t));
    }

    #[test]
    fn independent_misses_overlap_up_to_the_mshrs() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..400 {
            let start = t.dispatch(1, false);
            let done = t.miss(start, MISS);
            t.slow(done, done);
        }
        // 400 misses, 4 at a time, 300 cycles each.
        assert!((30_000..30_400).contains(&cycles(&t)), "{}", cycles(&t));
    }

    #[test]
    fn short_misses_pass_long_ones() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..3 {
            assert_eq!(t.miss(0, MISS), MISS);
        }
        // The fourth of four buffers is free again after each.
        for number in 1..=20 {
            assert_eq!(t.miss(0, 10 * TICKS), number * 10 * TICKS);
        }
        // 200 cycles: the next ends with the long ones, and then all wait for those.
        assert_eq!(t.miss(0, 100 * TICKS), MISS);
        assert_eq!(t.miss(0, 10 * TICKS), MISS + 10 * TICKS);
    }

    proptest! {
        #[test]
        fn a_miss_takes_the_buffer_that_was_freed_last(misses in prop::collection::vec((0u64..600, 0u64..300), 1..200)) {
            let mut t = Timing::new(WINDOW);
            let mut buffers = [0; 4];
            for (number, (later, latency)) in misses.into_iter().enumerate() {
                let ready = number as u64 * 60 + later;
                buffers.sort_unstable();
                let free = buffers.iter().filter(|end| **end <= ready).count();
                let taken = &mut buffers[free.saturating_sub(1)];
                *taken = ready.max(*taken) + latency;
                prop_assert_eq!(t.miss(ready, latency), *taken);
            }
        }

        /// Against a walker that knows every tick.
        #[test]
        fn spans_are_what_was_added(walks in prop::collection::vec((0u64..80, 1u64..30), 1..100)) {
            let mut spans = Spans::default();
            let mut busy = vec![false; 2000];
            for (number, (later, length)) in walks.into_iter().enumerate() {
                let (now, ready) = (number as u64 * 10, number as u64 * 10 + later);
                let start = spans.room(ready, length);
                let free = |from: u64| !busy[from as usize..(from + length) as usize].contains(&true);
                prop_assert_eq!(start, (ready..).find(|from| free(*from)).expect("a time"));
                prop_assert_eq!(spans.add(now, start, start + length), length);
                busy[start as usize..(start + length) as usize].fill(true);
                let again = now + later / 2;
                let covered = spans.add(now, again, again + 5);
                let them = &mut busy[again as usize..again as usize + 5];
                prop_assert_eq!(covered, them.iter().filter(|tick| !**tick).count() as u64);
                them.fill(true);
            }
        }
    }

    proptest! {
        /// Whatever gaps are taken for: walks take no more time than there is.
        #[test]
        fn a_walker_walks_once_at_a_time(walks in prop::collection::vec((0u64..400, 1u64..90), 1..100)) {
            let mut t = Timing::new(WINDOW);
            let (mut first, mut last) = (u64::MAX, 0);
            for (later, length) in walks {
                let now = t.dispatch(1, false);
                let (walker, start) = t.begin_walk(now + later);
                let end = t.end_walk(walker, start, start + length);
                prop_assert!(start >= now + later && end >= start + length);
                (first, last) = (first.min(start), last.max(end));
            }
            prop_assert_eq!(t.walk_active, t.walk_pending);
            prop_assert!(last - first >= t.walk_pending);
        }
    }

    #[test]
    fn a_walk_that_does_not_fit_ends_later() {
        let mut t = Timing::new(WINDOW);
        t.end_walk(0, 100, 150);
        t.end_walk(0, 150, 160);
        // As long as the last, it would fit in; it is longer.
        assert_eq!(t.begin_walk(80), (0, 80));
        assert_eq!(t.end_walk(0, 80, 110), 170);
        assert_eq!(t.begin_walk(60), (0, 170));
    }

    #[test]
    fn a_walk_that_waits_for_its_address_does_not_keep_the_walker() {
        let mut t = Timing::new(WINDOW);
        t.end_walk(0, 0, 50);
        let (walker, late) = t.begin_walk(1000);
        t.end_walk(walker, late, late + 50);
        // Two before it, then one that does not fit in.
        for (ready, starts) in [(0, 50), (900, 900), (960, 1050)] {
            let (walker, start) = t.begin_walk(ready);
            assert_eq!((walker, start), (0, starts));
            assert_eq!(t.end_walk(walker, start, start + 50), start + 50);
        }
        assert_eq!((t.walk_active, t.walk_pending), (250, 250));
    }

    #[test]
    fn the_window_bounds_the_overlap_when_misses_are_far_apart() {
        let mut t = Timing::new(WINDOW);
        for _ in 0..100 {
            let start = t.dispatch(100, false);
            let done = t.miss(start, MISS);
            t.slow(done, done);
        }
        // Each miss is a whole window away from the next: no overlap but
        // the 50 cycles that the instructions between take.
        assert!((29_000..36_000).contains(&cycles(&t)), "{}", cycles(&t));
    }

    #[test]
    fn one_walker_serialises_walks_and_two_halve_the_time() {
        let run = |walkers| {
            let mut t = Timing::new(Window { walkers, ..WINDOW });
            for _ in 0..1000 {
                let start = t.dispatch(1, false);
                let (w, begin) = t.begin_walk(start);
                t.end_walk(w, begin, begin + 100 * TICKS);
                t.slow(begin + 100 * TICKS, begin + 100 * TICKS);
            }
            (cycles(&t), t.walk_active / TICKS, t.walk_pending / TICKS)
        };
        let (one, active, pending) = run(1);
        assert!((100_000..100_200).contains(&one) && active == 100_000 && pending == 100_000);
        let (two, active, pending) = run(2);
        assert!((50_000..50_300).contains(&two), "{two}");
        assert!(active < 50_300 && pending == 100_000, "{active} {pending}");
    }

    #[test]
    fn software_waits_for_everything_before_it() {
        let mut t = Timing::new(WINDOW);
        let start = t.dispatch(1, false);
        let done = t.miss(start, MISS);
        t.slow(done, done);
        t.serialize(1000 * TICKS);
        assert_eq!(cycles(&t), 1300);
    }
}
