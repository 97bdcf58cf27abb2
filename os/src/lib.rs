//! Pagewalk: os.
