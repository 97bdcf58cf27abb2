//! Pagewalk: lab.
