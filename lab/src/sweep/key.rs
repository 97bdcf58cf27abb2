//! Keys: what a point is, in 128 bits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use twox_hash::{XxHash3_64, XxHash3_128};

/// A digest of everything that decides a result. Nobody attacks it: XXH3 with 128 bits
/// (<https://xxhash.com>) is fast enough for traces of terabytes, and collides by chance once in 10^19 pairs of points.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(pub u128);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Key {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Key {
        Key(XxHash3_128::oneshot(bytes))
    }

    /// Of the content of a file, and its length.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<(Key, u64)> {
        let mut file = std::fs::File::open(path)?;
        let mut hasher = XxHash3_128::new();
        let mut buffer = vec![0; 1 << 20];
        let mut length = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((Key(hasher.finish_128()), length)),
                n => {
                    hasher.write(&buffer[..n]);
                    length += n as u64;
                }
            }
        }
    }

    /// The key that was written as text.
    pub fn parse(text: &str) -> Option<Key> {
        if text.len() != 32 || text.bytes().any(|b| !b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Key)
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Key, D::Error> {
        let text = String::deserialize(from)?;
        Key::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no key")))
    }
}

/// Checks that a line was written to its end.
pub(super) fn check(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
