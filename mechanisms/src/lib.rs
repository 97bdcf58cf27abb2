#![no_std]
//! Pagewalk: mechanisms.
