//! omnetpp: discrete-event simulation of a network.
//!
//! Source: SPEC CPU 2006 471 and 2017 520.omnetpp (its `cMessageHeap`:
//! a binary heap of pointers to messages ordered by arrival time), by
//! description of its structures. One event:
//! * the first message leaves the heap: at each level two pointers and the two messages
//!   behind them are read (their times compared), and one pointer written;
//! * it goes to a module: the module, its gate, the connection and the next module, each known
//!   only from the one before;
//! * a new message takes the freed block (the allocator's last), is filled and
//!   sifted up: on average two levels.
//!
//! Footprint: modules (1024 bytes with gates and queues) and messages (208
//! bytes, `sizeof(cMessage)` and a packet) with their pointers; messages take `messages` of it.
//! The suites' inputs: 0.1 to 0.5 GB. Locality: the heap's top levels and the freed block are hot, the rest is
//! random. 250 instructions of a module's own work an event (an estimate).

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, lines, read, write};
use crate::layout::{ADVICE, Layout, MALLOC, POPULATE};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, Permutation, generator, hash, scale};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "omnetpp",
    summary: "discrete events: a heap of messages and chases through modules",
    source: "SPEC CPU 471 and 520.omnetpp (OMNeT++ message heap), by description",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 40 },
            default: "256MiB",
            meaning: "modules, messages and heap",
        },
        Parameter {
            name: "messages",
            unit: Unit::Real { min: 0.05, max: 0.95 },
            default: "0.4",
            meaning: "part of the footprint that messages take",
        },
        POPULATE,
        MALLOC,
        ADVICE,
    ],
    build,
};

const MESSAGE: u64 = 208;
const MODULE: u64 = 1024;
/// Offset of the arrival time.
const TIME: u64 = 96;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let for_messages = (p.bytes("footprint") as f64 * p.real("messages")) as u64;
    let messages = (for_messages / (MESSAGE + 8)).max(8);
    let modules = ((p.bytes("footprint") - for_messages) / MODULE).max(8);
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let heap = layout.malloc("message heap", 8 * (messages + 1), by);
    let modules_at = layout.heap("modules", modules * MODULE, by);
    let messages_at = layout.heap("messages", messages * MESSAGE, by);
    let sim = Omnetpp {
        heap,
        modules_at,
        messages_at,
        messages,
        modules,
        places: Permutation::new(messages, hash(seed, 0)),
        turn: 0,
        seed: hash(seed, 1),
        module: 0,
        random: generator(seed, 2),
    };
    Ok(Box::new(Interleaved::new(p, layout.process("omnetpp"), 1, sim)))
}

struct Omnetpp {
    heap: u64,
    modules_at: u64,
    messages_at: u64,
    messages: u64,
    modules: u64,
    /// Which message is at which place of the heap; `turn` moves all on with each event.
    places: Permutation,
    turn: u64,
    seed: u64,
    module: u64,
    random: Generator,
}

impl Omnetpp {
    /// The message at a place of the heap (1 is the root). Places deep down keep theirs for long, those at the
    /// top change with nearly every event.
    fn message(&self, place: u64) -> u64 {
        let age = self.turn >> place.ilog2().min(40);
        let at = self.places.at(scale(hash(self.seed ^ age, place), self.messages));
        self.messages_at + MESSAGE * at
    }
}

impl Algorithm for Omnetpp {
    fn step(&mut self, _: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let random = self.random.bits();
        self.turn += 1;
        // removeFirst
        let first = self.message(1);
        out.push(read(self.heap + 8, 3, 0, 20));
        out.push(read(first + TIME, 3, 0, 4).dependent());
        let last = self.heap + 8 * self.messages;
        out.push(read(last, 3, 0, 6));
        let mut place = 1;
        while 2 * place < self.messages {
            let child = self.heap + 8 * (2 * place);
            out.push(read(child, 3, 0, 5));
            out.push(read(self.message(2 * place) + TIME, 3, 0, 2).dependent());
            out.push(read(child + 8, 3, 0, 1));
            out.push(read(self.message(2 * place + 1) + TIME, 3, 0, 2).dependent());
            out.push(write(self.heap + 8 * place, 3, 0, 6));
            // The smaller of two: random. The last leaf sinks to the bottom nearly always.
            place = 2 * place + (random >> place.ilog2() & 1);
        }
        out.push(write(self.heap + 8 * place, 3, 0, 4));

        // handleMessage, send
        let module = self.modules_at + MODULE * self.module;
        lines(out, read(first, 3, 0, 40), 128, 10);
        lines(out, read(module, 3, 0, 30).dependent(), 192, 20);
        let gate = module + 256 + (hash(self.seed, self.module) & 7) * 64;
        out.push(read(gate, 3, 0, 40).dependent());
        out.push(read(gate + 32, 3, 0, 6).dependent());
        // A module's gates lead to fixed others.
        self.module = scale(hash(self.seed ^ (random & 7), self.module), self.modules);
        let next = self.modules_at + MODULE * self.module;
        out.push(read(next, 3, 0, 8).dependent());
        out.push(write(module + 128, 3, 0, 60));

        // The freed block is the next one handed out; insert.
        lines(out, write(first, 3, 0, 50), MESSAGE, 6);
        out.push(write(last, 3, 0, 10));
        let mut place = self.messages;
        let levels = 1 + (random >> 56).trailing_ones().min(place.ilog2() - 1);
        for _ in 0..levels {
            place /= 2;
            out.push(read(self.heap + 8 * place, 3, 0, 5));
            out.push(read(self.message(place) + TIME, 3, 0, 2).dependent());
        }
        out.push(write(self.heap + 8 * place, 3, 0, 3));
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn the_heap_is_walked_from_top_to_bottom() {
        let mut source = crate::build("omnetpp:footprint=64MiB", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let heap = &regions[0];
        let root = heap.start.raw() + 16 + 8;
        let a = take(source.as_mut(), 200_000);
        let events = a.iter().filter(|a| a.va.raw() == root && !a.kind.writes() && a.insns == 20).count();
        let pointers = a.iter().filter(|a| a.va.raw().wrapping_sub(heap.start.raw()) < heap.len).count();
        // 124000 messages: 16 levels with two reads and a write each, and some more.
        let per_event = pointers as f64 / events as f64;
        assert!((45.0..65.0).contains(&per_event), "{per_event}");
    }
}
