//! The scenarios, by name. Each is one boot, and panics with what is wrong.

mod babelfish;
mod bits;
mod faults;
mod guest;
mod life;
mod mitosis;
mod passthrough;
mod ptemagnet;
pub mod script;
mod segments;
mod shadow;
mod story;
mod vmitosis;

use crate::machine::Machine;

/// A scenario: its name, and what it does with the machine.
type Scenario = (&'static str, fn(&Machine));

/// All of them.
pub const ALL: &[Scenario] = &[
    ("life", life::run),
    ("mitosis", mitosis::run),
    ("babelfish", babelfish::run),
    ("guest", guest::run),
    ("ptemagnet", ptemagnet::run),
    ("vmitosis", vmitosis::run),
    ("shadow", shadow::run),
    ("segments", segments::run),
    ("passthrough", passthrough::run),
    ("story", story::run),
    // What guests are told to run.
    ("two-programs", ptemagnet::two_programs),
    ("self-balloon", segments::self_balloon),
    ("additions", vmitosis::additions),
    ("wrong-entry", faults::wrong_entry),
    ("reserved-bit", faults::reserved_bit),
    ("missed-shootdown", faults::missed_shootdown),
    ("exhausted-node", faults::exhausted_node),
    ("stray-kernel", faults::stray_kernel),
];
