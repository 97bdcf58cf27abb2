//! The scenarios, by name. Each is one boot, and panics with what is wrong.

mod life;

use crate::machine::Machine;

/// A scenario: its name, and what it does with the machine.
type Scenario = (&'static str, fn(&Machine));

/// All of them.
pub const ALL: &[Scenario] = &[("life", life::run)];
