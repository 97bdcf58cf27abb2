#![no_std]
//! Pagewalk: os.
