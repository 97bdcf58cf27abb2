//! Pagewalk: trace.
