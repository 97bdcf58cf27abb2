//! LIBLINEAR: coordinate descent over a sparse data set.
//!
//! Source: LIBLINEAR `linear.cpp` (dual coordinate descent,
//! `solve_l2r_l1l2_svc`; the primal solver that Mitosis ran, `-s 6`, goes over
//! columns in the same way): per pass the rows in a fresh random order; for each
//! its label, weight and diagonal, its nodes (index and value, 16 bytes, ended by index
//! -1) in sequence with `w[index]` for each, and, if the weight changes, the same again to update `w`.
//!
//! Footprint: 16 bytes a node, 8 a feature, and 8 (row pointer), 8 (label), 8
//! (weight), 8 (diagonal) and 4 (order) a row. kdd12: 11 nodes a row, about one
//! feature in three rows; the paper: 67 GB. Read by one thread. Features are drawn by Zipf's law (theta 1), as in click logs,
//! scattered over the vector; `shrink` of the rows change their weight.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, modify, read, write};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::{Permutation, generator, hash, unit};
use crate::registry::{Workload, WorkloadError};
use crate::skew::Zipf;

pub(crate) const WORKLOAD: Workload = Workload {
    name: "liblinear",
    summary: "coordinate descent: random rows, sequential within, random weights",
    source: "LIBLINEAR linear.cpp, on data of kdd12's shape",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "data set and vectors; the paper uses 67GB",
        },
        Parameter {
            name: "nodes",
            unit: Unit::Count { min: 1, max: 10000 },
            default: "11",
            meaning: "nodes (values) of a row",
        },
        Parameter {
            name: "update",
            unit: Unit::Real { min: 0.0, max: 1.0 },
            default: "0.5",
            meaning: "part of the rows whose weight changes (an estimate)",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let nodes = p.count("nodes");
    let threads = p.count("threads");
    // kdd12: 149.6 M rows, 54.7 M features.
    let row = 16 * (nodes + 1) + 8 * 4 + 4 + 8 / 3;
    let rows = p.bytes("footprint") / row;
    if rows < threads.max(3) {
        return Err(p.impossible("the footprint has less than a row for each thread"));
    }
    let features = rows.div_ceil(3);
    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    let data = layout.malloc("nodes", 16 * (nodes + 1) * rows, by);
    let pointers = layout.malloc("rows", 8 * rows, by);
    let labels = layout.malloc("labels", 8 * rows, by);
    let weights = layout.malloc("w", 8 * features, by);
    let alpha = layout.malloc("alpha", 8 * rows, by);
    let diagonal = layout.malloc("QD", 8 * rows, by);
    let order = layout.malloc("index", 4 * rows, by);
    let passes = (0..threads)
        .map(|t| Pass { number: t, at: 0, order: Permutation::new(rows, hash(seed, t)) })
        .collect();
    let solver = LibLinear {
        nodes,
        rows,
        data,
        pointers,
        labels,
        weights,
        alpha,
        diagonal,
        order,
        update: p.real("update"),
        law: Zipf::new(features, 1.0),
        places: Permutation::new(features, hash(seed, 1 << 32)),
        seed,
        passes,
        threads,
    };
    Ok(Box::new(Interleaved::new(p, layout.process("liblinear"), threads, solver)))
}

/// A thread's pass over the rows.
struct Pass {
    number: u64,
    at: u64,
    order: Permutation,
}

struct LibLinear {
    nodes: u64,
    rows: u64,
    data: u64,
    pointers: u64,
    labels: u64,
    weights: u64,
    alpha: u64,
    diagonal: u64,
    order: u64,
    update: f64,
    law: Zipf,
    places: Permutation,
    seed: u64,
    passes: Vec<Pass>,
    threads: u64,
}

impl Algorithm for LibLinear {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let pass = &mut self.passes[thread as usize];
        let (at, row) = (pass.at, pass.order.at(pass.at));
        pass.at += 1;
        if pass.at == self.rows {
            pass.at = 0;
            pass.number += self.threads;
            pass.order = Permutation::new(self.rows, hash(self.seed, pass.number));
        }
        out.push(read(self.order + 4 * at, 2, thread, 6));
        out.push(read(self.labels + 8 * row, 3, thread, 2).dependent());
        out.push(read(self.pointers + 8 * row, 3, thread, 2));
        let nodes = self.data + 16 * (self.nodes + 1) * row;
        // The row's features: the same at each visit.
        let changes = unit(hash(!self.seed, row ^ at << 32)) < self.update;
        for second in 0..=u64::from(changes) {
            let mut features = generator(self.seed, row);
            for k in 0..self.nodes {
                let node = read(nodes + 16 * k, 3, thread, if second == 0 { 3 } else { 2 });
                out.push(if k == 0 && second == 0 { node.dependent() } else { node });
                let weight = self.weights + 8 * self.places.at(self.law.draw(&mut features));
                // mulsd, addsd with the load; the update adds in memory.
                let gather =
                    if second == 0 { read(weight, 3, thread, 3) } else { modify(weight, 3, thread, 4) };
                out.push(gather.dependent());
            }
            // The index -1 that ends a row.
            out.push(read(nodes + 16 * self.nodes, 2, thread, 3));
            if second == 0 {
                out.push(read(self.alpha + 8 * row, 3, thread, 10));
                out.push(read(self.diagonal + 8 * row, 3, thread, 3));
                if changes {
                    out.push(write(self.alpha + 8 * row, 3, thread, 25));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::take;

    #[test]
    fn each_row_once_a_pass_and_in_order_within() {
        let mut source = crate::build("liblinear:footprint=1MiB,update=0", 1).unwrap();
        let regions = source.setup().unwrap().processes[0].regions.clone();
        let rows = (1u64 << 20) / (16 * 12 + 36 + 2);
        // order, label, pointer, 11 nodes and weights, end, alpha, diagonal
        let a = take(source.as_mut(), (rows * 28) as usize);
        let start = regions[0].start.raw() + 16;
        let nodes: Vec<u64> = a
            .iter()
            .map(|a| a.va.raw())
            .filter(|va| va.wrapping_sub(start) < regions[0].len - 16)
            .map(|va| (va - start) / 16)
            .collect();
        let mut firsts = Vec::new();
        for row in nodes.chunks(12) {
            assert!(row.iter().enumerate().all(|(k, n)| *n == row[0] + k as u64));
            firsts.push(row[0] / 12);
        }
        firsts.sort();
        assert_eq!(firsts, (0..rows).collect::<Vec<_>>());
    }
}
