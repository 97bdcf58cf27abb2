//! XSBench: Monte Carlo neutron transport, the macroscopic cross-section lookup on a unionized energy grid.
//!
//! Source: XSBench (ANL-CESAR), `openmp-threading/Simulation.c`
//! (`calculate_macro_xs`, `grid_search`, `calculate_micro_xs`, `pick_mat`),
//! `Materials.c` (what each material is made of), `GridInit.c` (what is allocated, in this order).
//!
//! One lookup: an energy and a material are drawn (the original generator,
//! x = 2806196910506780709 x + 1 mod 2^63); a binary search over the I·G
//! energies; then for each nuclide of the material one 4-byte entry in the
//! energy's row of the index grid and two neighbouring 48-byte points of the nuclide's own grid.
//!
//! Footprint: 48 I G (nuclide grids) + 8 I G (energies) + 4 I² G (index grid),
//! I = 68 (`size=small`) or 355 (`size=large`) nuclides, G grid points each. The
//! papers: `-g 180000` 94 GB, `-g 920000` about 440 GiB (large).
//!
//! Energies are uniform random numbers in the original; here the grids are
//! their expectation (evenly spaced), which moves an index by less than the
//! square root of G. The grids are initialised by one thread. A step of the
//! search depends on the step before (compiled to conditional moves), a nuclide's point on its index.

use machine::input::{Access, Event, Populate, Source};

use crate::emit::{Algorithm, Interleaved, lines, read};
use crate::layout::{ADVICE, Layout, POPULATE, THREADS};
use crate::parameters::{Parameter, Parameters, Unit};
use crate::random::hash;
use crate::registry::{Workload, WorkloadError};

pub(crate) const WORKLOAD: Workload = Workload {
    name: "xsbench",
    summary: "neutron cross-section lookups: binary search, then a gather per nuclide",
    source: "XSBench (ANL-CESAR), unionized grid, event-based lookups",
    parameters: &[
        Parameter {
            name: "footprint",
            unit: Unit::Bytes { min: 1 << 20, max: 1 << 44 },
            default: "1GiB",
            meaning: "all grids; grid points per nuclide follow from it",
        },
        Parameter {
            name: "size",
            unit: Unit::Choice(&["small", "large"]),
            default: "large",
            meaning: "Hoogenboom-Martin reactor: 68 or 355 nuclides",
        },
        THREADS,
        POPULATE,
        ADVICE,
    ],
    build,
};

/// Nuclides of each material (`Materials.c`); fuel has 34 of them in the small reactor and 287 more in the large one.
const FUEL: [u16; 34] = [
    58, 59, 60, 61, 40, 42, 43, 44, 45, 46, 1, 2, 3, 7, 8, 9, 10, 29, 57, 47, 48, 0, 62, 15, 33, 34, 52, 53,
    54, 55, 56, 18, 23, 41,
];
const CLADDING: &[u16] = &[63, 64, 65, 66, 67];
const WATER: &[u16] = &[24, 41, 4, 5];
const VESSEL: &[u16] = &[
    19, 20, 21, 22, 35, 36, 37, 38, 39, 25, 27, 28, 29, 30, 31, 32, 26, 49, 50, 51, 11, 12, 13, 14, 6, 16, 17,
];
const REFLECTOR: &[u16] = &[24, 41, 4, 5, 19, 20, 21, 22, 35, 36, 37, 38, 39, 25, 49, 50, 51, 11, 12, 13, 14];
const ASSEMBLY_END: &[u16] = &[24, 41, 4, 5, 63, 64, 65, 66, 67];
const OTHERS: [&[u16]; 11] = [
    CLADDING,
    WATER,
    WATER,
    VESSEL,
    REFLECTOR,
    REFLECTOR,
    REFLECTOR,
    REFLECTOR,
    REFLECTOR,
    ASSEMBLY_END,
    ASSEMBLY_END,
];
/// Where each material's share of the lookups ends (`pick_mat`).
const SHARES: [f64; 12] = [0.140, 0.192, 0.467, 0.601, 0.755, 0.819, 0.885, 0.940, 0.948, 0.963, 0.988, 1.0];
/// Lookups that a thread takes at a time (`schedule(dynamic, 100)`).
const CHUNK: u64 = 100;
const POINT: u64 = 48;

fn build(p: &Parameters, seed: u64) -> Result<Box<dyn Source + Send>, WorkloadError> {
    let nuclides: u64 = if p.choice("size") == "large" { 355 } else { 68 };
    let points = p.bytes("footprint") / (nuclides * (POINT + 8 + 4 * nuclides));
    if points < 3 {
        return Err(p.impossible("the footprint is too small for 3 grid points a nuclide"));
    }
    let threads = p.count("threads");
    let mut fuel = FUEL.to_vec();
    if nuclides == 355 {
        fuel.extend(68..355);
    }
    let most = fuel.len() as u64;
    let materials: Vec<Vec<u16>> = std::iter::once(fuel).chain(OTHERS.iter().map(|m| m.to_vec())).collect();

    let mut layout = Layout::new(p);
    let by = Populate::By(0);
    // Small blocks of malloc come from the heap: composition, then concentrations.
    let small = layout.heap("materials", 12 * most * (4 + 8) + 64, by);
    let nuclide_grid = layout.malloc("nuclide grids", nuclides * points * POINT, by);
    let energies = layout.malloc("unionized energies", nuclides * points * 8, by);
    let index_grid = layout.malloc("index grid", nuclides * points * nuclides * 4, by);
    // STARTING_SEED of the original is 1070; other seeds start elsewhere.
    let origin = if seed == 0 { 1070 } else { hash(seed, 0) & MODULUS_MASK };
    let states = (0..threads).map(|t| Lookups { state: skip(origin, 2 * CHUNK * t), left: CHUNK }).collect();
    let xs = XsBench {
        nuclides,
        points,
        materials,
        composition: small,
        concentrations: small + (12 * most * 4).next_multiple_of(16) + 16,
        most,
        nuclide_grid,
        energies,
        index_grid,
        threads,
        states,
    };
    Ok(Box::new(Interleaved::new(p, layout.process("xsbench"), threads, xs)))
}

const MODULUS_MASK: u64 = (1 << 63) - 1;
const MULTIPLIER: u64 = 2_806_196_910_506_780_709;

/// `LCG_random_double`.
#[inline(always)]
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(MULTIPLIER).wrapping_add(1) & MODULUS_MASK;
    *state as f64 / (1u64 << 63) as f64
}

/// `n` draws at once (`fast_forward_LCG`).
fn skip(state: u64, mut n: u64) -> u64 {
    let (mut a, mut c, mut by, mut add) = (MULTIPLIER, 1u64, 1u64, 0u64);
    while n > 0 {
        if n & 1 == 1 {
            by = by.wrapping_mul(a);
            add = add.wrapping_mul(a).wrapping_add(c);
        }
        c = c.wrapping_mul(a.wrapping_add(1));
        a = a.wrapping_mul(a);
        n >>= 1;
    }
    by.wrapping_mul(state).wrapping_add(add) & MODULUS_MASK
}

struct Lookups {
    state: u64,
    /// Lookups left of the chunk.
    left: u64,
}

struct XsBench {
    nuclides: u64,
    points: u64,
    materials: Vec<Vec<u16>>,
    composition: u64,
    concentrations: u64,
    /// Nuclides of the largest material: the length of a row of the two above.
    most: u64,
    nuclide_grid: u64,
    energies: u64,
    index_grid: u64,
    threads: u64,
    states: Vec<Lookups>,
}

impl Algorithm for XsBench {
    fn step(&mut self, thread: u16, out: &mut Vec<Access>, _: &mut Vec<Event>) {
        let lookups = &mut self.states[thread as usize];
        if lookups.left == 0 {
            lookups.state = skip(lookups.state, 2 * CHUNK * (self.threads - 1));
            lookups.left = CHUNK;
        }
        lookups.left -= 1;
        let energy = draw(&mut lookups.state);
        let roll = draw(&mut lookups.state);
        let material = SHARES.iter().position(|s| roll < *s).unwrap_or(11);

        // grid_search: energies up to `row` are not above the one looked for.
        let total = self.nuclides * self.points;
        let row = ((energy * total as f64) as u64).min(total - 2);
        let (mut low, mut high) = (0, total - 1);
        // Two draws and the choice of the material come first.
        let mut insns = 60;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            out.push(read(self.energies + 8 * middle, 3, thread, insns).dependent());
            // sub, shift, add, load-compare, two conditional moves, compare, jump
            insns = 8;
            if middle > row {
                high = middle;
            } else {
                low = middle;
            }
        }

        let point = ((energy * self.points as f64) as u64).min(self.points - 2);
        let indices = self.index_grid + 4 * (row * self.nuclides);
        for (j, &nuclide) in self.materials[material].iter().enumerate() {
            let nuclide = u64::from(nuclide);
            let place = material as u64 * self.most + j as u64;
            out.push(read(self.composition + 4 * place, 2, thread, 10));
            out.push(read(self.concentrations + 8 * place, 3, thread, 2));
            let index = read(indices + 4 * nuclide, 2, thread, 5);
            // The first waits for the search; later ones can start early, the row is known.
            out.push(if j == 0 { index.dependent() } else { index });
            let pair = self.nuclide_grid + POINT * (nuclide * self.points + point);
            // Twelve loads with a subtraction, a multiplication and an addition for each
            // of five channels, a division, and five multiply-adds into the sum: about 60.
            lines(out, read(pair, 3, thread, 9).dependent(), 2 * POINT, 25);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::take;

    #[test]
    fn skipping_is_drawing() {
        let mut state = 1070;
        for n in 0..300 {
            assert_eq!(skip(1070, n), state);
            draw(&mut state);
        }
    }

    /// Accesses of a lookup by the formula: search steps, and per nuclide
    /// composition, concentration, index and the lines of 96 bytes.
    #[test]
    fn lookups_cost_what_the_formula_says() {
        let spec = "xsbench:footprint=256MiB,size=small";
        let mut source = crate::build(spec, 0).unwrap();
        let setup = source.setup().unwrap();
        let regions = &setup.processes[0].regions;
        let (points, nuclides) = ((256u64 << 20) / (68 * (56 + 4 * 68)), 68u64);
        let steps_at_most = (nuclides * points).ilog2() + 1;
        let inside = |i: usize, va: u64| va.wrapping_sub(regions[i].start.raw()) < regions[i].len;
        let a = take(source.as_mut(), 400_000);
        // A lookup starts where the first search step is: at the middle of the energies.
        let middle = (nuclides * points - 1) / 2;
        let first = regions[2].start.raw() + 16 + 8 * middle;
        let starts: Vec<usize> = (0..a.len()).filter(|&i| a[i].va.raw() == first).collect();
        let mut state = 1070;
        let mut mean = 0.0;
        for w in starts.windows(2) {
            draw(&mut state);
            let roll = draw(&mut state);
            let material = SHARES.iter().position(|s| roll < *s).unwrap();
            let of_it = if material == 0 { 34 } else { OTHERS[material - 1].len() };
            let lookup = &a[w[0]..w[1]];
            let count = |i| lookup.iter().filter(|a| inside(i, a.va.raw())).count();
            let steps = count(2) as u32;
            assert!(steps == steps_at_most || steps == steps_at_most - 1, "{steps}");
            assert_eq!(count(0), 2 * of_it);
            assert_eq!(count(3), of_it);
            assert!((2 * of_it..=3 * of_it).contains(&count(1)));
            assert_eq!(count(0) + count(1) + count(2) + count(3), lookup.len());
            mean += of_it as f64;
        }
        // 34, 5, 4, 4, 27, 21 x 5, 9, 9 nuclides with the shares of pick_mat.
        let n = (starts.len() - 1) as f64;
        let expect = 0.14 * 34.0 + 0.052 * 5.0 + 0.409 * 4.0 + 0.154 * 27.0 + 0.208 * 21.0 + 0.037 * 9.0;
        assert!((mean / n / expect - 1.0).abs() < 0.05, "{} {expect}", mean / n);
    }

    #[test]
    fn the_papers_sizes_fit() {
        // XSBench -g 180000: 180000 x 355 x (48 + 8 + 4 x 355) bytes.
        let spec = "xsbench:footprint=94316400000B";
        let setup = crate::build(spec, 0).unwrap().setup().unwrap();
        let grid = &setup.processes[0].regions[3];
        assert_eq!(grid.len / (355 * 355 * 4), 180_000);
    }
}
