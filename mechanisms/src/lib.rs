//! Pagewalk: mechanisms.
