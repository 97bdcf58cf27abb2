//! A key-value store that grows until it is flushed: new page tables all the time.
//!
//! Source: Redis 7.0 under YCSB's workload D (SoCC 2010: inserts, and reads of
//! the latest keys), with `dict.c`'s incremental rehash: when the table is full
//! a second one of twice the size is mapped, each request moves one bucket to
//! it, lookups try both, and at the end the old one is unmapped.
//!
//! Memory of each kind (entries, keys, objects, values; sizes in `kv.rs`) grows by
//! mappings of `grow` bytes, as jemalloc's arenas do. When the store has
//! reached its footprint it is flushed: everything but the first mappings is unmapped, and it starts again.
//!
//! Nothing is populated before the first access. One thread, as Redis.

use machine::input::{Access, Event, Region, Source};
use paging::Va;

use crate::chained::Chained;
use crate::emit::{Algorithm, Interleaved, lines, modify, read, write};
use crate::kv::{ENTRY, KEY, OBJECT, redis_sizes};
use crate::layout::{ADVICE_UNRESERVED, Layout};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "growkv",
    summary: "a growing key-value store: inserts, reads of the latest, rehashes, flushes",
    source: "Redis 7.0 dict.c and YCSB workload D",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 16 << 20, max: 1 << 42 },
            default: "1GiB",
            meaning: "size at which the store is flushed",
        },
        Parameter {
            name: "insert",
            unit: Unit::Real { min: 0.01, max: 1.0 },
            default: "0.5",
            meaning: "part of the requests that insert a new key",
        },
        Parameter {
            name: "value",
            unit: Unit::Bytes { min: 45, max: 1 << 18 },
            default: "1000B",
            meaning: "size of a value",
        },
        Parameter {
            name: "grow",
            unit: Unit::Bytes { min: 4096, max: 1 << 30 },
            default: "2MiB",
            meaning: "size of a new mapping, whole pages",
        },
        Parameter {
            name: "work",
            unit: Unit::Count { min: 50, max: 60000 },
            default: "2000",
            meaning: "instructions of a request besides its accesses (an estimate)",
        },
        ADVICE_UNRESERVED,
    ],
    build,
};

/// Entries, keys, objects, values.
const KINDS: usize = 4;
const NAMES: [&str; KINDS] = ["entries", "keys", "objects", "values"];
/// `DICT_HT_INITIAL_SIZE` is 4; a page's worth spares a few dozen tiny tables.
const FIRST_BUCKETS: u64 = 512;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let (key, object, value) = redis_sizes(p.bytes("value"));
    let sizes = [ENTRY, key, object, value];
    let grow = p.bytes("grow") & !4095;
    let per_item = sizes.iter().sum::<u64>() + 16;
    let most = p.bytes("footprint") / per_item;
    if p.bytes("footprint") < 2 * KINDS as u64 * grow {
        return Err(
            p.impossible("the footprint is less than two mappings of each kind; set a smaller `grow`")
        );
    }
    // Address space for the full store, of which only the first mappings exist yet.
    let mut layout = Layout::new(p);
    let ends = sizes.map(|s| (most * s).next_multiple_of(grow) + grow);
    let arenas: [Arena; KINDS] =
        std::array::from_fn(|i| Arena { start: layout.reserve(ends[i]), mapped: 0, size: sizes[i] });
    let tables = layout.reserve(most.next_power_of_two() * 8 * 4);
    let template = layout.template();
    let mut grow_kv = GrowKv {
        arenas,
        grow,
        template,
        most,
        items: 0,
        tables,
        table: table_at(tables, FIRST_BUCKETS, seed),
        old: None,
        moved: 0,
        insert: (p.real("insert") * u64::MAX as f64) as u64,
        law: Zipf::new(most, 0.99),
        value_len: p.bytes("value"),
        work: p.count("work") as u16,
        seed,
        random: generator(seed, 0),
    };
    let mut events = Vec::new();
    grow_kv.map_first(&mut events);
    for event in events {
        if let Event::Map { region, .. } = event {
            layout.push(region);
        }
    }
    Ok(Box::new(Interleaved::new(p, layout.process("redis-growing"), 1, grow_kv)))
}

/// Tables of different sizes lie one after the other: 2^n buckets at 8 * 2^n.
fn table_at(tables: u64, buckets: u64, seed: u64) -> Table {
    Table { at: tables + 8 * buckets, chains: Chained::new(buckets, buckets, seed) }
}

struct Table {
    at: u64,
    chains: Chained,
}

impl Table {
    fn region(&self, template: &Region) -> Region {
        let len = 8 * self.chains.buckets();
        Region { name: "dict table".to_string(), start: Va::new(self.at), len, ..template.clone() }
    }
}

struct Arena {
    start: u64,
    /// Bytes that are mapped.
    mapped: u64,
    /// Of an object.
    size: u64,
}

impl Arena {
    #[inline(always)]
    fn at(&self, item: u64) -> u64 {
        self.start + item * self.size
    }
}

struct GrowKv {
    arenas: [Arena; KINDS],
    grow: u64,
    template: Region,
    most: u64,
    items: u64,
    tables: u64,
    table: Table,
    /// The table that is being emptied, and how many of its buckets are.
    old: Option<Table>,
    moved: u64,
    insert: u64,
    law: Zipf,
    value_len: u64,
    work: u16,
    seed: u64,
    random: Generator,
}

impl GrowKv {
    /// Maps the next piece of an arena.
    fn extend(&mut self, kind: usize, events: &mut Vec<Event>) {
        let arena = &mut self.arenas[kind];
        let region = Region {
            name: NAMES[kind].to_string(),
            start: Va::new(arena.start + arena.mapped),
            len: self.grow,
            ..self.template.clone()
        };
        arena.mapped += self.grow;
        events.push(Event::Map { process: 0, region });
    }

    /// What exists when the store is empty.
    fn map_first(&mut self, events: &mut Vec<Event>) {
        for kind in 0..KINDS {
            self.extend(kind, events);
        }
        events.push(Event::Map { process: 0, region: self.table.region(&self.template) });
    }

    /// FLUSHALL: everything goes, an empty store comes.
    fn flush(&mut self, events: &mut Vec<Event>) {
        for arena in &mut self.arenas {
            events.push(Event::Unmap { process: 0, start: Va::new(arena.start), len: arena.mapped });
            arena.mapped = 0;
        }
        for table in self.old.take().iter().chain([&self.table]) {
            let len = 8 * table.chains.buckets();
            events.push(Event::Unmap { process: 0, start: Va::new(table.at), len });
        }
        self.table = table_at(self.tables, FIRST_BUCKETS, self.seed);
        self.items = 0;
        self.map_first(events);
    }

    /// Events that must come before the next request; whether there were any.
    fn make_room(&mut self, events: &mut Vec<Event>) -> bool {
        if self.items == self.most {
            self.flush(events);
            return true;
        }
        for kind in 0..KINDS {
            while (self.items + 1) * self.arenas[kind].size > self.arenas[kind].mapped {
                self.extend(kind, events);
            }
        }
        if let Some(old) = &self.old {
            if self.moved == old.chains.buckets() {
                let len = 8 * old.chains.buckets();
                events.push(Event::Unmap { process: 0, start: Va::new(old.at), len });
                self.old = None;
            }
        } else if self.items >= self.table.chains.buckets() {
            let new = table_at(self.tables, 2 * self.table.chains.buckets(), self.seed);
            events.push(Event::Map { process: 0, region: new.region(&self.template) });
            self.old = Some(std::mem::replace(&mut self.table, new));
            self.moved = 0;
        }
        !events.is_empty()
    }

    /// `dictRehashStep`: one bucket's entries go to the new table.
    fn rehash(&mut self, out: &mut Vec<Access>) {
        let Some(old) = &self.old else { return };
        out.push(read(old.at + 8 * self.moved, 3, 0, 12));
        // Who came after the rehash began is in the new table only.
        for &item in old.chains.chain(self.moved).keys() {
            let entry = self.arenas[0].at(item);
            out.push(read(entry + 16, 3, 0, 4).dependent());
            // The key is hashed again: 80 instructions of SipHash.
            lines(out, read(self.arenas[1].at(item), 3, 0, 4).dependent(), KEY + 4, 10);
            let to = self.table.at + 8 * self.table.chains.bucket(item);
            out.push(read(to, 3, 0, 80));
            out.push(write(entry + 16, 3, 0, 2));
            out.push(write(to, 3, 0, 1));
        }
        out.push(write(old.at + 8 * self.moved, 3, 0, 3));
        self.moved += 1;
    }

    /// Both tables' chains up to the item, if it is there.
    fn search(&self, item: u64, insns: u16, out: &mut Vec<Access>) {
        let mut insns = insns;
        for table in self.old.iter().chain([&self.table]) {
            let bucket = table.chains.bucket(item);
            // What was there before the rehash and is not moved yet is in the old table.
            let in_old = |o: &Table| item < o.chains.buckets() && o.chains.bucket(item) >= self.moved;
            let here = match &self.old {
                Some(old) => in_old(old) == (old.at == table.at),
                None => true,
            };
            out.push(read(table.at + 8 * bucket, 3, 0, insns));
            insns = 10;
            if here {
                for &other in table.chains.chain_of(bucket, self.items).search(item) {
                    out.push(read(self.arenas[0].at(other), 3, 0, 8).dependent());
                    lines(out, read(self.arenas[1].at(other), 3, 0, 12).dependent(), KEY + 4, 6);
                }
                break;
            }
        }
    }
}

impl Algorithm for GrowKv {
    fn step(&mut self, _: u16, out: &mut Vec<Access>, events: &mut Vec<Event>) {
        if self.make_room(events) {
            return;
        }
        self.rehash(out);
        if self.items == 0 || self.random.bits() <= self.insert {
            let item = self.items;
            self.search(item, self.work, out);
            let [entry, key, object, value] = [0, 1, 2, 3].map(|k| self.arenas[k].at(item));
            lines(out, write(value, 3, 0, 80), self.value_len + 4, 2);
            lines(out, write(object, 3, 0, 30), OBJECT, 2);
            lines(out, write(key, 3, 0, 60), KEY + 4, 4);
            let bucket = self.table.at + 8 * self.table.chains.bucket(item);
            out.push(read(bucket, 3, 0, 40));
            lines(out, write(entry, 3, 0, 4), ENTRY, 2);
            out.push(write(bucket, 3, 0, 2));
            self.items += 1;
        } else {
            // YCSB's "latest": the rank counts back from the newest.
            let rank = self.law.draw(&mut self.random);
            let item = if rank < self.items { self.items - 1 - rank } else { self.random.below(self.items) };
            self.search(item, self.work, out);
            out.push(read(self.arenas[0].at(item) + 8, 3, 0, 30));
            out.push(modify(self.arenas[2].at(item), 2, 0, 12).dependent());
            lines(out, read(self.arenas[3].at(item), 3, 0, 60).dependent(), self.value_len + 4, 2);
        }
        events.push(Event::Request { thread: 0 });
    }
}

#[cfg(test)]
mod tests {
    use machine::input::{Block, Event};

    #[test]
    fn it_grows_rehashes_and_is_flushed() {
        let mut source = crate::build("growkv:footprint=16MiB,grow=1MiB,insert=0.9", 1).unwrap();
        let setup = source.setup().unwrap();
        let mapped = |regions: &[machine::input::Region]| regions.iter().map(|r| r.len).sum::<u64>();
        let first = mapped(&setup.processes[0].regions);
        let (mut now, mut most, mut tables, mut flushes) = (first, first, 0, 0);
        let mut block = Block::new();
        for _ in 0..60_000 {
            source.fill(&mut block).unwrap();
            for e in &block.events {
                match e {
                    Event::Map { region, .. } => {
                        now += region.len;
                        tables += usize::from(region.name == "dict table");
                    }
                    Event::Unmap { len, .. } => now -= len,
                    _ => {}
                }
            }
            if now == first && most > 10 << 20 {
                flushes += 1;
                most = first;
            }
            most = most.max(now);
        }
        assert!(flushes >= 2, "{flushes}");
        // 16 MiB of 1119-byte items are 15000: 512, 1024, … 16384 buckets.
        assert!(tables >= flushes * 6, "{tables} {flushes}");
    }
}
