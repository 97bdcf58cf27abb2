//! A key-value server's requests: memcached or Redis.
//!
//! Sources: memcached 1.6 (`assoc.c`, `items.c`, `slabs.c`, `memcached.h`:
//! item header of 48 bytes and 8 of CAS, slab classes growing by 1.25 in pages
//! of 1 MiB, hash table doubled above 1.5 items a bucket, striped item locks);
//! Redis 7.0 (`dict.c`, `object.c`, `sds.h`: entries of 24 bytes, objects of 16,
//! one string for the key and one for the value, table doubled above 1 entry a
//! bucket) on jemalloc's size classes. Requests: YCSB (SoCC 2010): Zipf 0.99
//! scattered over the keys, or uniform; 24-byte keys (`user` and 20 digits), 1000-byte values.
//!
//! A get: the item's lock (memcached), its bucket, along the chain comparing
//! keys, the object's reference count and clock, the value's lines. A set
//! writes header, key and value, and links the item into its chain and list.
//! A set here reuses the key's own slot; the neighbours in memcached's LRU list
//! are random items, as after long use. The socket, its buffers and the kernel are not emitted:
//! their instructions are in `work`.
//!
//! Footprint: per item the slab chunk (memcached), or entry, key, object and
//! value (Redis), and the buckets. The papers: Memcached 350 GB, Redis 75 GB.
//! The store is loaded before the first access: memcached's slabs by all
//! threads in turn, the rest by one.
//!
//! Every request begins with an [`Event::Request`], so blocks are short; `requests=unmarked` leaves it out.

use machine::input::{Access, Event, Populate, Source};

use crate::chained::Chained;
use crate::emit::{Algorithm, Interleaved, lines, modify, read, write};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, Permutation, generator, hash};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "kv",
    summary: "key-value server: bucket, chain, item, value for each request",
    source: "memcached 1.6 and Redis 7.0 data structures; YCSB request distribution",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 4 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "items and hash table; the papers use 350GB (Memcached) and 75GB (Redis)",
        },
        Parameter {
            name: "flavour",
            unit: Unit::Choice(&["memcached", "redis"]),
            default: "memcached",
            meaning: "whose data structures; Redis serves with one thread",
        },
        Parameter {
            name: "keys",
            unit: Unit::Choice(&["zipf", "uniform"]),
            default: "zipf",
            meaning: "which keys are asked for",
        },
        Parameter {
            name: "theta",
            unit: Unit::Real { min: 0.0, max: 10.0 },
            default: "0.99",
            meaning: "skew of keys=zipf",
        },
        Parameter {
            name: "get",
            unit: Unit::Real { min: 0.0, max: 1.0 },
            default: "0.95",
            meaning: "part of the requests that are gets; the others are sets",
        },
        Parameter {
            name: "value",
            unit: Unit::Bytes { min: 1, max: 1 << 18 },
            default: "1000B",
            meaning: "size of a value",
        },
        Parameter {
            name: "work",
            unit: Unit::Count { min: 50, max: 60000 },
            default: "2000",
            meaning: "instructions of a request besides its accesses (an estimate: parsing, reply, socket)",
        },
        Parameter {
            name: "requests",
            unit: Unit::Choice(&["marked", "unmarked"]),
            default: "marked",
            meaning: "marked: an event at each request's begin, for latencies; unmarked: fuller blocks",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// `user` and 20 digits.
pub(crate) const KEY: u64 = 24;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let (footprint, value) = (p.bytes("footprint"), p.bytes("value"));
    let store = if p.choice("flavour") == "redis" {
        if threads > 1 {
            return Err(p.impossible("Redis serves with one thread; use threads=1 or flavour=memcached"));
        }
        Store::Redis(Redis::new(&mut layout, footprint, value, seed))
    } else {
        Store::Memcached(Memcached::new(&mut layout, footprint, value, threads, seed))
    };
    let items = match &store {
        Store::Memcached(m) => m.items,
        Store::Redis(r) => r.items,
    };
    let kv = Kv {
        store,
        items,
        law: (p.choice("keys") == "zipf").then(|| Zipf::new(items, p.real("theta"))),
        places: Permutation::new(items, hash(seed, 1)),
        // Compared with 64 random bits.
        gets: (p.real("get") * u64::MAX as f64) as u64,
        work: p.count("work") as u16,
        marked: p.choice("requests") == "marked",
        random: (0..threads).map(|t| generator(seed, t + 2)).collect(),
    };
    Ok(Box::new(Interleaved::new(p, layout.process(p.choice("flavour")), threads, kv)))
}

enum Store {
    Memcached(Memcached),
    Redis(Redis),
}

struct Kv {
    store: Store,
    items: u64,
    law: Option<Zipf>,
    places: Permutation,
    gets: u64,
    work: u16,
    marked: bool,
    random: Vec<Generator>,
}

impl Algorithm for Kv {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, events: &mut Vec<Event>) {
        let random = &mut self.random[thread as usize];
        let item = match &self.law {
            Some(law) => self.places.at(law.draw(random)),
            None => random.below(self.items),
        };
        let get = random.bits() <= self.gets;
        match &self.store {
            Store::Memcached(m) => m.request(item, get, self.work, thread, random, out),
            Store::Redis(r) => r.request(item, get, self.work, thread, out),
        }
        if self.marked {
            events.push(Event::Request { thread });
        }
    }
}

struct Memcached {
    items: u64,
    table: Chained,
    buckets: u64,
    locks: u64,
    lock_mask: u64,
    /// End of the slab pages, which `mmap` hands out downwards.
    slabs_end: u64,
    chunk: u64,
    per_page: u64,
    item: u64,
}

/// A slab page as malloc maps it: 1 MiB and the page that its header needs.
const SLAB: u64 = (1 << 20) + 4096;
/// `sizeof(item)` and the CAS number.
const ITEM_HEADER: u64 = 48 + 8;
const HASH_NEXT: u64 = 16;
const REFCOUNT: u64 = 36;
/// `sizeof(pthread_mutex_t)`.
const MUTEX: u64 = 40;

/// The slab class of an item: 96 bytes growing by 1.25, multiples of 8 (`slabs_init`); large
/// items take a whole number of 512 KiB chunks' worth, which never arises below that.
fn slab_class(size: u64) -> u64 {
    let mut class = 96;
    while class < size {
        class = (class * 5 / 4).next_multiple_of(8);
    }
    class.min(1 << 19)
}

impl Memcached {
    fn new(layout: &mut Layout, footprint: u64, value: u64, threads: u64, seed: u64) -> Memcached {
        let item = ITEM_HEADER + KEY + 1 + value + 2;
        let chunk = slab_class(item);
        let per_page = (1 << 20) / chunk;
        // Doubled above 1.5 items a bucket: from 0.75 to 1.5.
        let bytes_per_item = SLAB as f64 / per_page as f64;
        let rough = footprint as f64 / (bytes_per_item + 8.0);
        let buckets = ((rough / 1.5).ceil().max(1.0) as u64).next_power_of_two().max(1 << 16);
        let pages = (footprint.saturating_sub(buckets * 8) / SLAB).max(1);
        let items = pages * per_page;
        // thread.c: more locks for more threads.
        let lock_bits = match threads {
            0..=2 => 10,
            3 => 11,
            4 => 12,
            5..=10 => 13,
            11..=20 => 14,
            _ => 15,
        };
        let all = if threads > 1 { Populate::RoundRobin } else { Populate::By(0) };
        let locks = layout.malloc("item locks", MUTEX << lock_bits, Populate::By(0));
        let buckets_at = layout.malloc("hash table", buckets * 8, Populate::By(0));
        let slabs = layout.map("slabs", pages * SLAB, all);
        Memcached {
            items,
            table: Chained::new(items, buckets, seed),
            buckets: buckets_at,
            locks,
            lock_mask: (1 << lock_bits) - 1,
            slabs_end: slabs + pages * SLAB,
            chunk,
            per_page,
            item,
        }
    }

    /// Items fill one page after the other; in a page the free list gives the last chunk first.
    #[inline(always)]
    fn address(&self, item: u64) -> u64 {
        let (page, slot) = (item / self.per_page, item % self.per_page);
        self.slabs_end - (page + 1) * SLAB + 16 + (self.per_page - 1 - slot) * self.chunk
    }

    fn request(
        &self,
        item: u64,
        get: bool,
        work: u16,
        thread: u16,
        random: &mut Generator,
        out: &mut Vec<Access>,
    ) {
        let bucket = self.table.bucket(item);
        let lock = self.locks + MUTEX * (bucket & self.lock_mask);
        let bucket_at = self.buckets + 8 * bucket;
        out.push(modify(lock, 2, thread, work).locked());
        // The pointer of the chain that leads to the item: the bucket's, or a predecessor's.
        let mut link = bucket_at;
        out.push(read(bucket_at, 3, thread, 20));
        let chain = self.table.chain(bucket);
        for &other in chain.search(item) {
            let at = self.address(other);
            // h_next and nkey, then memcmp
            out.push(read(at + HASH_NEXT, 3, thread, 6).dependent());
            lines(out, read(at + ITEM_HEADER, 3, thread, 12), KEY, 4);
            if other != item {
                link = at + HASH_NEXT;
            }
        }
        let at = self.address(item);
        out.push(modify(at + REFCOUNT, 1, thread, 8));
        if get {
            out.push(modify(lock, 2, thread, 40).locked());
            let value = at + ITEM_HEADER + KEY + 1;
            lines(out, read(value, 3, thread, 100), at + self.item - value, 2);
            out.push(modify(at + REFCOUNT, 1, thread, 60));
        } else {
            lines(out, write(at, 3, thread, 60), self.item, 2);
            // Out of the list between two neighbours, into it at the head; the chain's link.
            for offset in [0, 8] {
                let neighbour = self.address(random.below(self.items));
                out.push(write(neighbour + offset, 3, thread, 8));
            }
            out.push(write(link, 3, thread, 10));
            out.push(write(bucket_at, 3, thread, 10));
            out.push(modify(lock, 2, thread, 20).locked());
        }
    }
}

pub(crate) const ENTRY: u64 = 24;
pub(crate) const OBJECT: u64 = 16;

/// jemalloc's size class with a quantum of 8 bytes, as Redis configures it.
pub(crate) fn size_class(size: u64) -> u64 {
    if size <= 64 {
        return size.next_multiple_of(8);
    }
    let spacing = 1 << ((size - 1).ilog2() - 2);
    size.next_multiple_of(spacing)
}

/// Sizes of an item's parts: key string, object, value string (0 if it is within the object).
pub(crate) fn redis_sizes(value: u64) -> (u64, u64, u64) {
    // sdshdr8 is 3 bytes, sdshdr16 5, sdshdr32 9; and the final zero.
    let string = |len: u64| {
        len + 1
            + if len < 1 << 8 {
                3
            } else if len < 1 << 16 {
                5
            } else {
                9
            }
    };
    let key = size_class(string(KEY));
    // Up to 44 bytes, object and string are one block (OBJ_ENCODING_EMBSTR).
    if value <= 44 {
        (key, size_class(OBJECT + string(value)), 0)
    } else {
        (key, OBJECT, size_class(string(value)))
    }
}

struct Redis {
    items: u64,
    table: Chained,
    buckets: u64,
    entries: u64,
    keys: u64,
    objects: u64,
    values: u64,
    key: u64,
    object: u64,
    value: u64,
    value_len: u64,
}

impl Redis {
    fn new(layout: &mut Layout, footprint: u64, value_len: u64, seed: u64) -> Redis {
        let (key, object, value) = redis_sizes(value_len);
        let per_item = ENTRY + key + object + value;
        // Doubled above one entry a bucket: from 0.5 to 1.
        let rough = (footprint / (per_item + 16)).max(4);
        let buckets = rough.next_power_of_two();
        let items = ((footprint - footprint.min(buckets * 8)) / per_item).clamp(1, buckets);
        let by = Populate::By(0);
        // jemalloc keeps each size class in runs of its own.
        let buckets_at = layout.map("dict table", buckets * 8, by);
        let entries = layout.map("entries", items * ENTRY, by);
        let keys = layout.map("keys", items * key, by);
        let objects = layout.map("objects", items * object, by);
        let values = if value > 0 { layout.map("values", items * value, by) } else { 0 };
        Redis {
            items,
            table: Chained::new(items, buckets, seed),
            buckets: buckets_at,
            entries,
            keys,
            objects,
            values,
            key,
            object,
            value,
            value_len,
        }
    }

    fn request(&self, item: u64, get: bool, work: u16, thread: u16, out: &mut Vec<Access>) {
        let bucket = self.table.bucket(item);
        // SipHash-1-2 of 24 bytes is in the work.
        out.push(read(self.buckets + 8 * bucket, 3, thread, work));
        for &other in self.table.chain(bucket).search(item) {
            out.push(read(self.entries + ENTRY * other, 3, thread, 8).dependent());
            lines(out, read(self.keys + self.key * other, 3, thread, 12).dependent(), KEY + 4, 6);
        }
        let object = self.objects + self.object * item;
        out.push(read(self.entries + ENTRY * item + 8, 3, thread, 30));
        out.push(modify(object, 2, thread, 12).dependent()); // type, encoding; the access clock
        let (value, len) = if self.value > 0 {
            (self.values + self.value * item, self.value_len + 4)
        } else {
            (object + OBJECT, self.value_len + 4)
        };
        if get {
            lines(out, read(value, 3, thread, 60).dependent(), len, 2);
        } else {
            // The new string, the object that points to it, the entry that points to that.
            lines(out, write(value, 3, thread, 80), len, 2);
            out.push(write(object + 8, 3, thread, 20));
            out.push(write(self.entries + ENTRY * item + 8, 3, thread, 20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::take;
    use machine::input::{Block, Kind};

    #[test]
    fn slab_classes_are_memcached_s() {
        // memcached -vv prints: 96 120 152 192 240 304 384 480 600 752 944 1184
        let classes: Vec<u64> =
            [96, 97, 121, 153, 193, 241, 305, 385, 481, 601, 753, 945].map(slab_class).to_vec();
        assert_eq!(classes, [96, 120, 152, 192, 240, 304, 384, 480, 600, 752, 944, 1184]);
    }

    #[test]
    fn size_classes_are_jemalloc_s() {
        let sizes = [1, 24, 28, 64, 65, 81, 128, 129, 161, 1004, 1025, 5000];
        assert_eq!(sizes.map(size_class), [8, 24, 32, 64, 80, 96, 128, 160, 192, 1024, 1280, 5120]);
    }

    #[test]
    fn each_request_is_marked_once() {
        for flavour in ["memcached", "redis"] {
            let spec = format!("kv:flavour={flavour},footprint=64MiB");
            let mut source = crate::build(&spec, 1).unwrap();
            let buckets = source.setup().unwrap().processes[0]
                .regions
                .iter()
                .find(|r| r.name == "hash table" || r.name == "dict table")
                .cloned()
                .unwrap();
            let mut block = Block::new();
            for _ in 0..2000 {
                source.fill(&mut block).unwrap();
                assert_eq!(block.events, [Event::Request { thread: 0 }]);
                let in_buckets = |a: &&Access| {
                    a.va.raw().wrapping_sub(buckets.start.raw()) < buckets.len && a.kind == Kind::Read
                };
                assert_eq!(block.accesses.iter().filter(in_buckets).count(), 1);
            }
        }
    }

    #[test]
    fn sets_write_and_gets_read_the_value() {
        for flavour in ["memcached", "redis"] {
            for (get, kind) in [(1, Kind::Read), (0, Kind::Write)] {
                let spec = format!("kv:flavour={flavour},get={get},keys=uniform,value=4000B,footprint=64MiB");
                let a = take(crate::build(&spec, 1).unwrap().as_mut(), 50_000);
                // 63 lines of value dominate.
                let of_kind = a.iter().filter(|a| a.kind == kind).count();
                assert!(of_kind as f64 / a.len() as f64 > 0.85, "{spec}: {of_kind}");
            }
        }
    }

    #[test]
    fn redis_has_one_thread() {
        let e = crate::build("kv:flavour=redis,threads=2", 0).map(|_| ()).unwrap_err();
        assert!(e.to_string().contains("one thread"), "{e}");
    }
}
