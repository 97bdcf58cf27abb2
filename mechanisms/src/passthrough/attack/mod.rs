//! A hostile guest: what it may try, and what comes of it.
//!
//! [`Attack::run`] plays the attacks that one would think of, each on a machine of its own
//! with a victim whose memory is looked at after every access; [`play`] plays
//! anything that a string of bytes says, for a fuzzer. Used by the tests, by
//! `pagewalk attack passthrough`, and by the fuzz target.

mod acts;
mod prison;

pub use acts::play;
pub use prison::{BASE, Breach, Ended, FRAMES, GUEST_BLOCK, GUEST_FRAMES, Guest, PAGES, Prison};

use super::array::COLOURS;
use super::walk::Checks;
use alloc::vec::Vec;
use paging::{Entry, Fault, Flags, Gfn, Hfn, Intent, TableMemory, Va};

/// What came of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Accesses made.
    pub accesses: u64,
    /// Of these, faults that a tag's check raised.
    pub tag_faults: u64,
    /// Other faults: the guest's own.
    pub page_faults: u64,
    /// Accesses that reached a frame of the guest's own.
    pub own: u64,
    /// Accesses that reached a foreign frame.
    pub foreign_data: u64,
    /// Foreign words that the walker took for entries.
    pub foreign_entries: u64,
    /// Foreign words that the walker changed.
    pub foreign_changed: u64,
}

impl Tally {
    /// The guest reached nothing that is not its own.
    pub const fn is_clean(&self) -> bool {
        self.foreign_data == 0 && self.foreign_entries == 0 && self.foreign_changed == 0
    }

    fn add(&mut self, ended: &Ended) {
        self.accesses += 1;
        let mut reached = false;
        for breach in &ended.breaches {
            match breach {
                Breach::Data(_) => reached = true,
                Breach::TableRead(_) => self.foreign_entries += 1,
                Breach::TableWrite(_) => self.foreign_changed += 1,
            }
        }
        self.foreign_data += u64::from(reached);
        match (ended.fault, ended.frame) {
            (Some(Fault::Tag { .. }), _) => self.tag_faults += 1,
            (Some(_), _) => self.page_faults += 1,
            (None, Some(_)) if !reached => self.own += 1,
            _ => {}
        }
    }
}

/// An attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// What the guest does.
    pub what: &'static str,
    /// Whether it breaks out where tables are not checked.
    pub works_without_table_check: bool,
    play: fn(&mut Try<'_>),
}

/// An attack at work.
struct Try<'a> {
    prison: Prison,
    tally: Tally,
    random: &'a mut dyn FnMut() -> u64,
    rounds: u64,
}

impl Try<'_> {
    fn access(&mut self, root: Gfn, va: Va, intent: Intent) {
        let ended = self.prison.access(root, va, intent);
        self.tally.add(&ended);
    }
    /// Loads, stores and fetches `va` with the guest's own root, with nothing cached.
    fn all(&mut self, va: Va) {
        let root = self.prison.root();
        for intent in [Intent::READ, Intent::WRITE, Intent::FETCH] {
            self.prison.flush();
            self.access(root, va, intent);
        }
    }
    /// Writes `entry` into the twin of level `level` on the way to `va`.
    fn forge(&mut self, va: Va, level: u8, entry: Entry) {
        let table = self.prison.tables(va).into_iter().find(|t| t.0 == level);
        if let Some((_, table)) = table {
            self.prison.store(table, va.index(level), entry);
        }
    }
    fn victim(&self) -> Vec<(Hfn, u8)> {
        (0..GUEST_FRAMES).filter_map(|gfn| self.prison.given(1, Gfn::new(gfn))).collect()
    }
}

const HERE: Va = Va::new(BASE);
const HUGE: Va = Va::new(BASE + (1 << 30));

/// All attacks.
pub const ATTACKS: [Attack; 11] = [
    Attack {
        name: "foreign-data",
        what: "leaf entries for each of the victim's frames, under their real colours and under all others",
        works_without_table_check: false,
        play: |t| {
            for (frame, colour) in t.victim() {
                for guess in [colour, (t.random)() as u8 % COLOURS + 1] {
                    t.forge(HERE, 1, Prison::forged(frame, guess, Flags::NONE));
                    t.all(HERE);
                }
            }
            let (frame, _) = t.victim()[0];
            for colour in 0..=COLOURS {
                t.forge(HERE, 1, Prison::forged(frame, colour, Flags::NONE));
                t.all(HERE);
            }
        },
    },
    Attack {
        name: "foreign-table",
        what: "inner entries that point into the victim's memory: its tables and its data, on each level",
        works_without_table_check: true,
        play: |t| {
            for (frame, colour) in t.victim() {
                for level in 2..=4 {
                    let table = t.prison.tables(HERE).into_iter().find(|table| table.0 == level);
                    let Some((_, table)) = table else { continue };
                    let own = t.prison.guests[0].memory.load(paging::Slot::new(table, HERE.index(level)));
                    t.forge(HERE, level, Prison::forged(frame, colour, Flags::NONE));
                    let page = (t.random)() % 512;
                    t.all(HERE.offset(page * 4096));
                    t.forge(HERE, level, own);
                }
            }
        },
    },
    Attack {
        name: "host-table",
        what: "entries of all levels for frames that are the host's",
        works_without_table_check: true,
        play: |t| {
            for frame in (0..FRAMES).map(Hfn::new) {
                if t.prison.tags.get(frame).owner.is_some() {
                    continue;
                }
                let colour = t.prison.tags.get(frame).colour;
                for level in [2, 1] {
                    t.forge(HERE, level, Prison::forged(frame, colour, Flags::NONE));
                    let page = (t.random)() % 512;
                    t.all(HERE.offset(page * 4096));
                    t.prison.mend(HERE);
                }
            }
        },
    },
    Attack {
        name: "reserved-bits",
        what: "frames beyond memory, PS where no leaf can be, and every single bit of an entry",
        works_without_table_check: true,
        play: |t| {
            for level in 1..=4 {
                let table = t.prison.tables(HERE).into_iter().find(|table| table.0 == level);
                let Some((_, table)) = table else { continue };
                let own = t.prison.guests[0].memory.load(paging::Slot::new(table, HERE.index(level)));
                let mut forged: Vec<Entry> = (0..64).map(|bit| Entry(own.0 ^ 1 << bit)).collect();
                forged.push(Entry(u64::MAX));
                forged.push(own.with(Flags::PAGE_SIZE));
                forged.push(own.with_frame(Hfn::new(FRAMES)));
                forged.push(own.with_frame(Hfn::new((1 << 40) - 1)));
                for entry in forged {
                    t.forge(HERE, level, entry);
                    t.all(HERE);
                    t.forge(HERE, level, own);
                }
            }
        },
    },
    Attack {
        name: "loops",
        what: "tables that point to themselves and to each other",
        works_without_table_check: true,
        play: |t| {
            let tables = t.prison.tables(HERE);
            for &(_, from) in &tables {
                for &(_, to) in &tables {
                    let Some((frame, colour)) = t.prison.given(0, to) else { continue };
                    let entry = Prison::forged(frame, colour, Flags::NONE);
                    (0..512).for_each(|index| t.prison.store(from, index, entry));
                    for _ in 0..8 {
                        let va = Va::new((t.random)() & ((1 << 47) - 1));
                        t.all(va);
                    }
                }
            }
        },
    },
    Attack {
        name: "own-tables-writable",
        what: "its own tables mapped as data, so that its process forges entries without its kernel",
        works_without_table_check: false,
        play: |t| {
            for (level, table) in t.prison.tables(HERE) {
                let Some((frame, colour)) = t.prison.given(0, table) else { continue };
                t.forge(HERE, 1, Prison::forged(frame, colour, Flags::NONE));
                t.all(HERE);
                // What the process would write through that mapping.
                for (frame, colour) in t.victim().into_iter().take(64) {
                    t.prison.store(table, HERE.index(level) ^ 1, Prison::forged(frame, colour, Flags::NONE));
                    if level == 1 {
                        t.all(HERE.offset(4096));
                    }
                }
            }
        },
    },
    Attack {
        name: "stale-data",
        what: "an entry, and what TLBs hold of it, kept while the host takes the frame and gives it to the victim",
        works_without_table_check: false,
        play: |t| {
            for gfn in (0..PAGES).map(Gfn::new) {
                let va = HERE.offset(gfn.number() * 4096);
                let root = t.prison.root();
                t.access(root, va, Intent::WRITE);
                // Freed last, given first: the victim gets what was the attacker's.
                t.prison.revoke(1, gfn);
                t.prison.revoke(0, gfn);
                t.access(root, va, Intent::READ);
                t.prison.give(1, gfn);
                t.access(root, va, Intent::READ);
                t.access(root, va, Intent::WRITE);
                t.prison.give(0, gfn);
                t.prison.mend(va);
                t.access(root, va, Intent::READ);
            }
        },
    },
    Attack {
        name: "stale-table",
        what: "an inner entry and walk caches kept while the table's frame becomes the victim's",
        works_without_table_check: true,
        play: |t| {
            for _ in 0..64 {
                let root = t.prison.root();
                t.prison.mend(HERE);
                t.access(root, HERE, Intent::READ);
                let Some(&(_, table)) = t.prison.tables(HERE).last() else { return };
                let gfn = Gfn::new((t.random)() % 200);
                t.prison.revoke(1, gfn);
                t.prison.revoke(0, table);
                t.prison.give(1, gfn);
                // The victim fills its new page with its own words.
                let memory = &mut t.prison.guests[1].memory;
                memory.create(gfn);
                for index in 0..512 {
                    memory.store(paging::Slot::new(gfn, index), Prison::word_like_an_entry(t.random));
                }
                t.access(root, HERE, Intent::READ);
                t.access(root, HERE.offset(4096), Intent::WRITE);
                t.prison.give(0, table);
            }
        },
    },
    Attack {
        name: "huge-overlap",
        what: "2 MiB and 1 GiB entries over small frames of its own, the victim's and the host's",
        works_without_table_check: false,
        play: |t| {
            let root = t.prison.root();
            let tables = t.prison.tables(HUGE);
            for block in 0..FRAMES / 512 {
                // The colour of each frame of the block: one of them may be its own.
                for probe in [0, (t.random)() % 512, (t.random)() % 512] {
                    let colour = t.prison.tags.get(Hfn::new(block * 512 + probe)).colour;
                    let entry = Prison::forged(Hfn::new(block * 512), colour, Flags::PAGE_SIZE);
                    t.forge(HUGE, 2, entry);
                    t.prison.flush();
                    for page in 0..512 {
                        t.access(root, HUGE.offset(page * 4096), Intent::WRITE);
                    }
                    if let Some(&(_, table)) = tables.iter().find(|table| table.0 == 3) {
                        t.prison.store(table, 7, Prison::forged(Hfn::new(0), colour, Flags::PAGE_SIZE));
                        let gib = Va::new(HUGE.raw() & !((1 << 39) - 1) | 7 << 30);
                        for _ in 0..64 {
                            let page = (t.random)() % (FRAMES + 64);
                            t.access(root, gib.offset(page * 4096), Intent::READ);
                        }
                    }
                }
            }
        },
    },
    Attack {
        name: "foreign-root",
        what: "pages that are not backed, not its own or no tables, named as the root to enter with",
        works_without_table_check: true,
        play: |t| {
            for gfn in (0..GUEST_FRAMES + 64).map(Gfn::new) {
                t.prison.flush();
                t.access(gfn, HERE, Intent::READ);
                let va = Va::new((t.random)() & ((1 << 47) - 1));
                t.access(gfn, va, Intent::WRITE);
            }
        },
    },
    Attack {
        name: "anything",
        what: "random stores, accesses, roots and revocations",
        works_without_table_check: true,
        play: |t| {
            for _ in 0..t.rounds {
                let bytes: Vec<u8> = (0..256).map(|_| (t.random)() as u8).collect();
                let (breaches, accesses) = play(&mut t.prison, &bytes);
                t.tally.accesses += accesses;
                for breach in breaches {
                    match breach {
                        Breach::Data(_) => t.tally.foreign_data += 1,
                        Breach::TableRead(_) => t.tally.foreign_entries += 1,
                        Breach::TableWrite(_) => t.tally.foreign_changed += 1,
                    }
                }
            }
        },
    },
];

impl Attack {
    /// Plays it. `rounds`: how long what has no end of its own goes on.
    pub fn run(&self, checks: Checks, rounds: u64, random: &mut dyn FnMut() -> u64) -> Tally {
        let prison = Prison::new(checks, random);
        let mut attempt = Try { prison, tally: Tally::default(), random, rounds };
        (self.play)(&mut attempt);
        attempt.tally
    }
}
