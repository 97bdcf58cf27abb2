//! Nanoseconds per look-up of each structure.

fn main() {}
