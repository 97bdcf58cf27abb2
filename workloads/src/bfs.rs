//! Breadth-first search, direction-optimizing.
//!
//! Sources: GAP Benchmark Suite `src/bfs.cc` (`DOBFS`: 4-byte vertices, alpha
//! 15, beta 18) and Graph500 `seq-csr.c` (8-byte vertices, alpha 14, beta 24; its
//! list of generated edges, 16 bytes each, stays allocated beside the graph); Beamer,
//! Asanović, Patterson, SC 2012.
//!
//! A round: from a random source, top-down steps (queue in order; the row of
//! each vertex; for each neighbour its parent, and if new, a compare-and-swap
//! and an entry in the queue), until the frontier has more than 1/alpha of
//! the edges; then the queue is set in a bitmap, and bottom-up steps go over all
//! vertices in order: an unvisited one reads its neighbours and their bits in the frontier's bitmap until one is
//! set; when the frontier is small again the bitmap is turned into a queue and
//! top-down steps finish. Then the next round begins with another source.
//!
//! The first steps run on a real queue and set of visited vertices. Once the
//! frontier is large, which step visits a vertex is computed, not stored:
//! the chance that a vertex of degree d is reached in a step is 1 - (1 - p)^d, with p the frontier's
//! share of the edges of what was unvisited before it (as in a random graph of these degrees),
//! and a hash of the vertex decides. So levels, sizes and early exits are those
//! of a BFS, vertex by vertex the same for everyone who asks, and 2^30 vertices cost nothing.
//!
//! Footprint: per vertex 8 (row start), the parent, the queue, two bits, and
//! twice `degree` neighbours; for Graph500 also 16 bytes an edge. The papers: Graph500 420 GB
//! (`-s 29 -e 21`), PTEMagnet 16 GB. Rows are filled by all threads. Initialising
//! the parents (a sequential write) is part of `populate`. Threads take 1024 vertices at a time.
//!
//! A round of a large graph is billions of accesses. `sample=n` runs only every
//! n-th part of each long step (1024 vertices bottom-up, 64 queue entries
//! top-down), so that a short window sees all steps, of a large graph in their proportions.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify, read, write};
use crate::graph::{Graph, Neighbour, Row};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::levels::Levels;
use crate::pagerank::DEGREE;
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Draw, Generator, generator, hash};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "bfs",
    summary: "breadth-first search of a Kronecker graph: queue, rows, random parents and bits",
    source: "GAP Benchmark Suite bfs.cc and Graph500 seq-csr.c, direction-optimizing",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "graph, parents, queue, bitmaps; the papers use 16GB and 420GB",
        },
        Parameter {
            name: "flavour",
            unit: Unit::Choice(&["gapbs", "graph500"]),
            default: "gapbs",
            meaning: "4-byte vertices, or 8-byte vertices and the list of edges kept",
        },
        DEGREE,
        Parameter {
            name: "sample",
            unit: Unit::Count { min: 1, max: 1 << 20 },
            default: "1",
            meaning: "run every n-th part of each long step only",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Vertices that a thread takes at a time (`schedule(dynamic, 1024)`).
const CHUNK: u64 = 1024;
/// Entries of a queue that a thread takes at a time.
const TURN: usize = 64;
/// The real queue and set grow to this; what would come after is left to chance.
const REMEMBERED: usize = 1 << 18;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let small = p.choice("flavour") == "gapbs";
    let id: u64 = if small { 4 } else { 8 };
    let degree = 2 * p.count("degree");
    let list = if small { 0 } else { 16 * degree / 2 };
    // The bitmaps' two bits, and rounding, make the 1.
    let vertex = 8 + id * degree + 2 * id + list + 1;
    let graph = Graph::new(p.bytes("footprint") / vertex, degree, seed);
    let vertices = graph.vertices();
    let threads = p.count("threads");
    let mut layout = Layout::new(p);
    let all = Populate::Partitioned;
    if list > 0 {
        layout.malloc("list of edges", list * vertices, all);
    }
    let offsets = layout.malloc("row starts", 8 * (vertices + 1), all);
    let edges = layout.malloc("neighbours", id * graph.edges(), all);
    let parents = layout.malloc("parents", id * vertices, all);
    let queue = layout.malloc("queue", id * vertices, Populate::OnDemand);
    let bitmap = vertices.div_ceil(64) * 8;
    let bitmaps = [layout.malloc("frontier", bitmap, all), layout.malloc("next frontier", bitmap, all)];
    let (alpha, beta) = if small { (15, 18) } else { (14, 24) };
    let mut bfs = Bfs {
        graph,
        log2: id.trailing_zeros() as u8,
        offsets,
        edges,
        parents,
        queue,
        bitmaps,
        alpha,
        beta,
        sample: p.count("sample"),
        random: generator(seed, 0),
        round: 0,
        seed,
        levels: Levels::default(),
        phase: Phase::Clear { next: 0 },
        frontier: Vec::new(),
        found: Vec::new(),
        visited: Visited::default(),
        slots: 0,
        window: 0,
        step_slots: 0,
        factor: 1,
        stride: 1,
        scout: 0,
        examined: 0,
        awake: 0.0,
        tasks: (0..threads).map(|_| Task::None).collect(),
    };
    bfs.start();
    Ok(Box::new(Interleaved::new(p, layout.process("bfs"), threads, bfs)))
}

/// Vertices that the real steps found. The standard hasher would cost more than the rest.
type Visited = std::collections::HashSet<u64, std::hash::BuildHasherDefault<VertexHasher>>;

#[derive(Default)]
struct VertexHasher(u64);

impl std::hash::Hasher for VertexHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = hash(self.0, u64::from(*b)));
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = hash(self.0, v);
    }
}

/// What the threads do together.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Entries of the frontier not yet taken; `level` is that of the vertices found.
    TopDown { next: usize, level: usize },
    /// The frontier's bits are set.
    ToBitmap { next: usize },
    /// Vertices not yet taken.
    BottomUp { next: u64, level: usize },
    /// The last bottom-up step's bits become a queue.
    ToQueue { next: u64, level: usize },
    /// `next.reset()`: the bitmap is cleared before a bottom-up step (64-byte stores).
    Clear { next: u64 },
}

/// What a thread has taken.
#[derive(Clone, Copy, Debug)]
enum Task {
    None,
    TopDown { at: usize, end: usize, level: usize, edge: u32 },
    BottomUp { vertex: u64, end: u64, level: usize, edge: u32 },
}

struct Bfs {
    graph: Graph,
    log2: u8,
    offsets: u64,
    edges: u64,
    parents: u64,
    queue: u64,
    /// The frontier's and the next one's; exchanged after each bottom-up step.
    bitmaps: [u64; 2],
    alpha: u64,
    beta: u64,
    sample: u64,
    random: Generator,
    round: u64,
    seed: u64,
    levels: Levels,
    phase: Phase,
    frontier: Vec<u64>,
    found: Vec<u64>,
    visited: Visited,
    /// Entries of the queue written in this round.
    slots: u64,
    /// The entry where the frontier begins, and where what this step finds does.
    window: u64,
    step_slots: u64,
    /// How many vertices of the full search one of the frontier stands for.
    factor: u64,
    /// A top-down step takes one in so many parts of the frontier.
    stride: u64,
    /// Edges of the vertices found in this step.
    scout: u64,
    /// Edges looked at by top-down steps.
    examined: u64,
    /// Vertices that the last bottom-up step found (expected).
    awake: f64,
    tasks: Vec<Task>,
}

impl Bfs {
    /// A new round: `SourcePicker` draws vertices until one has neighbours.
    fn start(&mut self) {
        self.round += 1;
        let source = loop {
            let v = self.random.below(self.graph.vertices());
            if self.graph.row(v).degree > 0 {
                break v;
            }
        };
        self.levels = Levels::new(self.graph.profile(), hash(self.seed, self.round));
        self.visited.clear();
        self.visited.insert(source);
        self.frontier.clear();
        self.frontier.push(source);
        self.found.clear();
        (self.slots, self.scout, self.examined) = (1, 0, 0);
        (self.window, self.step_slots, self.factor, self.stride) = (0, 1, 1, 1);
        self.phase = Phase::TopDown { next: 0, level: 1 };
    }

    /// `queue.slide_window()`: what was found becomes the frontier.
    fn slide(&mut self) {
        self.window = self.step_slots;
        self.step_slots = self.slots;
    }

    /// The step has no more work to hand out: what follows it.
    fn advance(&mut self) {
        self.phase = match self.phase {
            Phase::TopDown { level, .. } => {
                std::mem::swap(&mut self.frontier, &mut self.found);
                self.found.clear();
                self.slide();
                self.factor *= self.stride;
                let scout = std::mem::take(&mut self.scout) * self.factor;
                let left = self.graph.edges().saturating_sub(self.examined);
                self.examined += scout;
                let large = scout > left / self.alpha || self.visited.len() >= REMEMBERED;
                let long = self.frontier.len() as u64 > 4 * TURN as u64 * self.sample;
                self.stride =
                    if long && !self.levels.begun() { (self.sample / self.factor).max(1) } else { 1 };
                if self.frontier.is_empty() {
                    return self.start();
                }
                if self.levels.begun() {
                    // Late steps: only the computed levels know who is visited.
                    self.levels.step();
                    Phase::TopDown { next: 0, level: level + 1 }
                } else if large {
                    self.levels.begin(level, scout as f64 / self.graph.edges() as f64);
                    self.awake = (self.frontier.len() as u64 * self.factor) as f64;
                    Phase::ToBitmap { next: 0 }
                } else {
                    Phase::TopDown { next: 0, level: level + 1 }
                }
            }
            Phase::ToBitmap { .. } => Phase::Clear { next: 0 },
            Phase::Clear { .. } => {
                self.levels.step();
                Phase::BottomUp { next: 0, level: self.levels.last() }
            }
            Phase::BottomUp { level, .. } => {
                self.bitmaps.swap(0, 1);
                let awake = self.levels.found(level) * self.graph.vertices() as f64;
                let before = std::mem::replace(&mut self.awake, awake);
                if awake >= before || awake > self.graph.vertices() as f64 / self.beta as f64 {
                    Phase::Clear { next: 0 }
                } else {
                    self.frontier.clear();
                    Phase::ToQueue { next: 0, level }
                }
            }
            Phase::ToQueue { level, .. } => {
                if self.frontier.is_empty() {
                    return self.start();
                }
                self.slide();
                (self.factor, self.stride) = (self.sample, 1);
                self.levels.step();
                Phase::TopDown { next: 0, level: level + 1 }
            }
        };
    }

    /// Nothing is left to hand out: helps a thread that still has work of this
    /// step (there is a barrier after it), or begins the next one.
    fn finish(&mut self, thread: u16) {
        match self.tasks.iter().position(|t| !matches!(t, Task::None)) {
            Some(busy) => self.tasks.swap(busy, thread as usize),
            None => self.advance(),
        }
    }

    /// Gives `thread` something to do; short phases are done at once.
    fn take(&mut self, thread: u16, out: &mut Vec<Access>) {
        let vertices = self.graph.vertices();
        match &mut self.phase {
            Phase::TopDown { next, level } => {
                let (at, end) = (*next, (*next + TURN).min(self.frontier.len()));
                if at == end {
                    return self.finish(thread);
                }
                *next = (at + TURN * self.stride as usize).min(self.frontier.len());
                self.tasks[thread as usize] = Task::TopDown { at, end, level: *level, edge: 0 };
            }
            Phase::ToBitmap { next } => {
                let (at, end) = (*next, (*next + TURN).min(self.frontier.len()));
                if at == end {
                    return self.finish(thread);
                }
                *next = end;
                for i in at..end {
                    let slot = (self.window + i as u64) % vertices;
                    out.push(read(self.queue + (slot << self.log2), self.log2, thread, 4));
                    let word = self.bitmaps[0] + self.frontier[i] / 64 * 8;
                    out.push(modify(word, 3, thread, 8).dependent().locked());
                }
            }
            Phase::Clear { next } => {
                let words = vertices.div_ceil(64);
                // Every 8 words are a line, and every 64 lines a step.
                let (at, end) = (*next, (*next + 512).min(words));
                if at == end {
                    return self.finish(thread);
                }
                *next = if self.sample > 1 { (at + 512 * self.sample).min(words) } else { end };
                for word in (at..end).step_by(8) {
                    out.push(write(self.bitmaps[1] + 8 * word, 3, thread, 3));
                }
            }
            Phase::BottomUp { next, level } => {
                let (vertex, end) = (*next, (*next + CHUNK).min(vertices));
                if vertex == end {
                    return self.finish(thread);
                }
                *next = (vertex + CHUNK * self.sample).min(vertices);
                self.tasks[thread as usize] = Task::BottomUp { vertex, end, level: *level, edge: 0 };
            }
            Phase::ToQueue { next, level } => {
                let (at, end) = (*next, (*next + 64).min(vertices));
                if at == end {
                    return self.finish(thread);
                }
                let level = *level;
                // A sampled step has found its vertices in every n-th chunk only.
                *next = if end % CHUNK == 0 { (end + CHUNK * (self.sample - 1)).min(vertices) } else { end };
                for v in at..end {
                    out.push(read(self.bitmaps[0] + v / 64 * 8, 3, thread, 6));
                    let degree = self.graph.row(v).degree;
                    if self.levels.is_at(v, degree, level) && self.frontier.len() < REMEMBERED {
                        out.push(write(self.queue + (self.slots << self.log2), self.log2, thread, 6));
                        self.slots = (self.slots + 1) % vertices;
                        self.frontier.push(v);
                    }
                }
            }
        }
    }

    fn row_starts(&self, vertex: u64, thread: u16, out: &mut Vec<Access>) {
        out.push(read(self.offsets + 8 * vertex, 3, thread, 4).dependent());
        out.push(read(self.offsets + 8 * (vertex + 1), 3, thread, 1));
    }

    #[inline(always)]
    fn edge(&self, row: &Row, k: u32) -> u64 {
        self.edges + ((row.start + u64::from(k)) << self.log2)
    }

    fn top_down(&mut self, thread: u16, task: (usize, usize, usize, u32), out: &mut Vec<Access>) -> Task {
        let (at, end, level, edge) = task;
        let vertex = self.frontier[at];
        let row = self.graph.row(vertex);
        if edge == 0 {
            let slot = (self.window + at as u64) % self.graph.vertices();
            out.push(read(self.queue + (slot << self.log2), self.log2, thread, 3));
            self.row_starts(vertex, thread, out);
        }
        let stop = row.degree.min(edge + 64);
        for k in edge..stop {
            out.push(read(self.edge(&row, k), self.log2, thread, 3));
            let n = self.graph.neighbour(&row, k);
            let parent = self.parents + (n.vertex << self.log2);
            out.push(read(parent, self.log2, thread, 1).dependent());
            let new = if self.levels.begun() {
                self.levels.is_at(n.vertex, n.degree, level)
                    && self.visited.len() < 2 * REMEMBERED
                    && self.visited.insert(n.vertex)
            } else {
                self.visited.len() < REMEMBERED && self.visited.insert(n.vertex)
            };
            if new {
                out.push(modify(parent, self.log2, thread, 4).locked());
                out.push(write(self.queue + (self.slots << self.log2), self.log2, thread, 6));
                self.slots = (self.slots + 1) % self.graph.vertices();
                self.scout += u64::from(n.degree);
                if self.found.len() < REMEMBERED {
                    self.found.push(n.vertex);
                }
            }
        }
        if stop < row.degree {
            Task::TopDown { at, end, level, edge: stop }
        } else if at + 1 < end {
            Task::TopDown { at: at + 1, end, level, edge: 0 }
        } else {
            Task::None
        }
    }

    #[inline(always)]
    fn in_frontier(&self, n: Neighbour, level: usize) -> bool {
        if level == self.levels.first_computed() - 1 {
            self.levels.is_at_begin(n.vertex, n.degree)
        } else {
            self.levels.is_at(n.vertex, n.degree, level)
        }
    }

    fn bottom_up(&mut self, thread: u16, task: (u64, u64, usize, u32), out: &mut Vec<Access>) -> Task {
        let (mut vertex, end, level, mut edge) = task;
        let mut budget = 64u32;
        while vertex < end {
            let row = self.graph.row(vertex);
            let parent = self.parents + (vertex << self.log2);
            if edge == 0 {
                out.push(read(parent, self.log2, thread, 4));
                budget = budget.saturating_sub(1);
                if self.levels.is_before(vertex, row.degree, level) || self.visited.contains(&vertex) {
                    vertex += 1;
                    if budget == 0 {
                        break;
                    }
                    continue;
                }
                out.push(read(self.offsets + 8 * vertex, 3, thread, 3));
                out.push(read(self.offsets + 8 * (vertex + 1), 3, thread, 1));
            }
            let wakes = self.levels.is_at(vertex, row.degree, level);
            let stop = row.degree.min(edge + budget.max(1));
            let mut woken = false;
            for k in edge..stop {
                out.push(read(self.edge(&row, k), self.log2, thread, 3));
                let n = self.graph.neighbour(&row, k);
                // Address of the word, mask, test, branch.
                out.push(read(self.bitmaps[0] + n.vertex / 64 * 8, 3, thread, 5).dependent());
                // Whoever wakes has a neighbour in the frontier, at the latest its last one.
                if wakes && (self.in_frontier(n, level - 1) || k + 1 == row.degree) {
                    out.push(write(parent, self.log2, thread, 2));
                    out.push(modify(self.bitmaps[1] + vertex / 64 * 8, 3, thread, 6));
                    woken = true;
                    break;
                }
            }
            budget = budget.saturating_sub(stop - edge);
            if woken || stop == row.degree {
                vertex += 1;
                edge = 0;
            } else {
                edge = stop;
            }
            if budget == 0 {
                break;
            }
        }
        if vertex < end { Task::BottomUp { vertex, end, level, edge } } else { Task::None }
    }
}

impl Algorithm for Bfs {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let before = out.len();
        while out.len() == before {
            let task = match self.tasks[thread as usize] {
                Task::None => {
                    self.take(thread, out);
                    continue;
                }
                Task::TopDown { at, end, level, edge } => self.top_down(thread, (at, end, level, edge), out),
                Task::BottomUp { vertex, end, level, edge } => {
                    self.bottom_up(thread, (vertex, end, level, edge), out)
                }
            };
            self.tasks[thread as usize] = task;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;
    use machine::input::{Access, Kind};

    fn inside(a: &Access, r: &machine::input::Region) -> bool {
        a.va.raw().wrapping_sub(r.start.raw()) < r.len
    }

    #[test]
    fn a_round_visits_most_vertices_once() {
        let mut source = crate::build("bfs:footprint=32MiB", 4).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let parents = &regions[2];
        let vertices = (parents.len - 16) / 4 / 65536 * 65536;
        let a = take(source.as_mut(), 20_000_000);
        // A round starts with the source's queue entry, after the last write to a parent.
        let mut rounds = Vec::new();
        let mut written = std::collections::HashMap::new();
        let mut last_level_start = 0usize;
        for (i, a) in a.iter().enumerate() {
            let queue = &regions[3];
            if inside(a, queue)
                && a.kind == Kind::Read
                && a.va.raw() == queue.start.raw() + 16
                && i > last_level_start + 1
            {
                if !written.is_empty() {
                    rounds.push(std::mem::take(&mut written));
                }
                last_level_start = i;
            }
            if inside(a, parents) && a.kind.writes() {
                *written.entry(a.va.raw()).or_insert(0u32) += 1;
            }
        }
        let whole: Vec<_> = rounds.iter().filter(|r| r.len() as u64 > vertices / 4).collect();
        assert!(whole.len() >= 2, "{:?}", rounds.iter().map(|r| r.len()).collect::<Vec<_>>());
        for round in whole {
            // Kronecker graphs have many isolated vertices: with 16 edges a vertex at scale 17
            // about a third; the giant component holds nearly all others.
            let reached = round.len() as f64 / vertices as f64;
            assert!((0.5..0.95).contains(&reached), "{reached}");
            let twice = round.values().filter(|n| **n > 1).count() as f64 / round.len() as f64;
            assert!(twice < 0.02, "{twice}");
        }
    }

    #[test]
    fn sampling_shortens_a_round() {
        let rounds = |spec: &str| {
            let mut source = crate::build(spec, 4).unwrap();
            let queue = source.setup().unwrap().processes[0].regions[3].start.raw() + 16;
            let a = take(source.as_mut(), 20_000_000);
            a.iter().filter(|a| a.va.raw() == queue && a.kind == Kind::Read).count() as f64
        };
        let (all, sampled) = (rounds("bfs:footprint=32MiB"), rounds("bfs:footprint=32MiB,sample=4"));
        // Steps from a short queue are never shortened, so less than four times as many.
        assert!(sampled > 1.7 * all && sampled < 4.0 * all + 1.0, "{all} {sampled}");
    }
}
