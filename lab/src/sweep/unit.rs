//! Units of work: points that share one decoded trace or generated stream.

use super::cost::Cost;
use super::plan::{Plan, Point};

/// Worlds that one stream feeds at most: more share little more, and all are lost together.
const WORLDS: usize = 64;

/// Points that run together on one core, fed by one stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Unit {
    /// Places in [`Plan::points`].
    pub points: Vec<usize>,
    /// What all of them take.
    pub cost: Cost,
}

/// Divides points into units, such that each fits in `memory` and none takes longer than `seconds` if it could be divided.
pub fn units(
    plan: &Plan,
    points: impl IntoIterator<Item = usize>,
    cost: impl Fn(&Point) -> Cost,
    memory: u64,
    seconds: f64,
) -> Vec<Unit> {
    let stream = |at: usize| {
        let point = &plan.points[at];
        // A trace is the same for every seed.
        let is_trace = plan.inputs[point.input as usize].trace.is_some();
        (point.input, if is_trace { 0 } else { point.seed })
    };
    let mut points: Vec<usize> = points.into_iter().collect();
    points.sort_by_key(|at| (stream(*at), *at));
    let mut units: Vec<Unit> = Vec::new();
    let mut last = None;
    for at in points {
        let cost = cost(&plan.points[at]);
        let stream = Some(stream(at));
        let open = units.last_mut().filter(|unit| {
            last == stream
                && unit.points.len() < WORLDS
                && unit.cost.bytes.saturating_add(cost.bytes) <= memory
                && unit.cost.seconds + cost.seconds <= seconds
        });
        match open {
            Some(unit) => {
                unit.points.push(at);
                unit.cost.bytes += cost.bytes;
                unit.cost.seconds += cost.seconds;
            }
            None => units.push(Unit { points: vec![at], cost }),
        }
        last = stream;
    }
    units
}
