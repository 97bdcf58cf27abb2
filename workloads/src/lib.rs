//! Pagewalk: workloads.
