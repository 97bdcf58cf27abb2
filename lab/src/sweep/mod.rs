//! Sweeps: many points, of systems, machines, workloads and seeds, and nothing of what they gave is lost.
//!
//! A [`Sweep`] is what a TOML file says; a [`Plan`] is its points, each with a [`Key`] from its full configuration,
//! its input's digest and the model's version. [`units`] puts points together that one stream feeds, [`work`] runs
//! them on all cores, a [`Store`] keeps what they gave in files that are written beside and renamed, and
//! [`collect`] makes one table of it. Everything that is to be done follows from the plan and from what the store has:
//! there is no other state, so whoever was killed is replaced by running again, here or elsewhere.
//!
//! No clock decides anything, and nothing of when or where a point ran is in its result.

mod collect;
mod cost;
mod file;
mod input;
mod key;
mod lock;
mod parameter;
mod plan;
mod range;
mod statistics;
pub mod store;
mod unit;
mod work;

pub use collect::{Collected, MEANS, collect};
pub use cost::{Cost, Costs, Probe};
pub use file::{Axis, POINTS_MAX, Sweep, SweepError};
pub use input::{Digests, Input};
pub use key::Key;
pub use lock::{Busy, Lock, UnderWay, forget_dead, under_way};
pub use plan::{Plan, Point, Refused};
pub use range::quantity;
pub use store::{Fate, Found, Kept, Store, replace};
pub use unit::{Unit, units};
pub use work::{Event, Options, Tally, WorkError, work};
