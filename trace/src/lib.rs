//! Pagewalk: trace.

pub mod capture;
