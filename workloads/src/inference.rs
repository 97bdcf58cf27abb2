//! Inference in a loop: tensors that live for two layers.
//!
//! Source: what a framework's CPU backend does for a convolutional network with the C
//! library's allocator: each layer's output is allocated, computed from the layer before, and freed
//! when the layer after is done. Tensors above 128 KiB (`M_MMAP_THRESHOLD`) are mapped and unmapped each
//! time, so every inference faults in all of its activations again. Weights are read in
//! sequence by each layer and stay.
//!
//! Layer sizes are those of a residual network with halving resolution and doubling
//! channels, 3 layers at each of 6 steps, with sizes around `tensor` (an estimate: from twice that to a
//! sixteenth of it). Of each page, 8 of the 64 lines stand for all: a load of weights and one
//! of the layer before, 600 instructions of vectorised multiply-add for the page, a store. Each thread serves images of its own.

use machine::input::{Access, Event, Populate, Region, Source};
use paging::Va;

use crate::emit::{Algorithm, Interleaved, read, write};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "inference",
    summary: "tensors mapped, filled, read and unmapped, layer by layer",
    source: "a convolutional network on a CPU; sizes estimated",
    parameters: &[
        Parameter {
            name: "tensor",
            unit: Unit::Bytes { min: 64 << 10, max: 1 << 30 },
            default: "8MiB",
            meaning: "size of an activation tensor of the first layers",
        },
        Parameter {
            name: "weights",
            unit: Unit::Bytes { min: 4096, max: 1 << 36 },
            default: "96MiB",
            meaning: "weights, shared by all threads",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Tensor sizes of an inference, in sixteenths of `tensor`.
const LAYERS: [u64; 18] = [16, 32, 16, 8, 16, 8, 4, 8, 4, 2, 4, 2, 1, 2, 1, 1, 2, 1];
/// Instructions for a page.
const COMPUTE: u64 = 600;
/// Accesses to a page of each tensor.
const LINES: u64 = 8;
/// Pages of a step.
const STEP: u64 = 8;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let threads = p.count("threads");
    let unit = (p.bytes("tensor") / 16).next_multiple_of(4096);
    let mut layout = Layout::new(p);
    let weights = layout.map("weights", p.bytes("weights").next_multiple_of(4096), Populate::By(0));
    // Where each thread's tensors lie: three are alive at a time, each kind has room for the largest.
    let room = 32 * unit;
    let arenas: Vec<u64> =
        (0..threads).map(|_| layout.map("tensors", 3 * room, Populate::OnDemand)).collect();
    let process = layout.process("inference");
    let template = process.regions[0].clone();
    // Threads begin at different layers, as requests do not come together.
    let states = arenas
        .iter()
        .enumerate()
        .map(|(at, arena)| State { arena: *arena, layer: seed.wrapping_add(5 * at as u64) % 18, page: 0 })
        .collect();
    let inference = Inference { unit, room, weights, len: p.bytes("weights") >> 12, template, states };
    Ok(Box::new(Interleaved::new(p, process, threads, inference)))
}

struct State {
    arena: u64,
    /// Layers since the start.
    layer: u64,
    page: u64,
}

struct Inference {
    unit: u64,
    room: u64,
    weights: u64,
    /// Pages of weights.
    len: u64,
    template: Region,
    states: Vec<State>,
}

impl Algorithm for Inference {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, events: &mut Vec<Event>) {
        let state = &mut self.states[thread as usize];
        let size = |layer: u64| LAYERS[(layer % 18) as usize] * self.unit;
        let place = |layer: u64| state.arena + layer % 3 * self.room;
        let (layer, pages) = (state.layer, size(state.layer) >> 12);
        let end = (state.page + STEP).min(pages);
        let before = layer.wrapping_sub(1);
        for page in state.page..end {
            let weight = (layer * 7919 + page) % self.len;
            for at in (0..4096).step_by((4096 / LINES) as usize) {
                let insns = (COMPUTE / LINES / 3) as u16;
                out.push(read(self.weights + 4096 * weight + at, 5, thread, insns));
                // The first layer reads an image that is elsewhere.
                if layer > 0 && page << 12 < size(before) {
                    out.push(read(place(before) + 4096 * page + at, 5, thread, insns));
                }
                out.push(write(place(layer) + 4096 * page + at, 5, thread, insns));
            }
        }
        state.page = end;
        if end == pages {
            // The layer before is not needed any more; the next one's tensor takes a place that is free.
            if layer > 0 {
                let (start, len) = (Va::new(place(before)), size(before));
                events.push(Event::Unmap { process: 0, start, len });
                let mut region = self.template.clone();
                (region.start, region.len, region.populate) = (start, len, Populate::OnDemand);
                region.name = "tensor".to_string();
                events.push(Event::Map { process: 0, region });
            }
            (state.layer, state.page) = (layer + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use machine::input::{Block, Event, Kind, More};
    use std::collections::BTreeSet;

    #[test]
    fn a_tensor_is_written_before_it_is_read_and_goes_two_layers_later() {
        let mut source = crate::build("inference:tensor=1MiB,weights=1MiB", 1).unwrap();
        let setup = source.setup().unwrap();
        let weights = &setup.processes[0].regions[0];
        let (mut there, mut block, mut unmapped) = (BTreeSet::new(), Block::new(), 0);
        let mut most = 0;
        for _ in 0..2000 {
            assert_eq!(source.fill(&mut block).unwrap(), More::Yes);
            for a in &block.accesses {
                match a.kind {
                    Kind::Write => {
                        there.insert(a.va.page());
                    }
                    _ if a.va.raw().wrapping_sub(weights.start.raw()) < weights.len => {}
                    // The layer that the thread begins with has nothing before it.
                    _ => assert!(unmapped == 0 || there.contains(&a.va.page())),
                }
            }
            most = most.max(there.len());
            for event in &block.events {
                if let Event::Unmap { start, len, .. } = event {
                    unmapped += 1;
                    there.retain(|page| page.wrapping_sub(start.page()) >= len >> 12);
                }
            }
        }
        assert!(unmapped > 20 && most <= 64 * 18, "{unmapped} {most}");
    }
}
