//! Writes the seeds of the fuzzer: a small trace of each format, plain and
//! compressed. `cargo run -p trace --example fuzz_seeds -- DIR`.

#[path = "../tests/support/fixtures.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod fixtures;

use std::path::{Path, PathBuf};
use trace::{Format, OpenOptions, WriteOptions, copy, create, from_bytes};

/// The byte before a seed that says what it is, see `fuzz_targets/read.rs`.
fn choice(format: Option<Format>) -> u8 {
    Format::ALL.iter().position(|f| Some(*f) == format).unwrap_or(0x3f) as u8
}

fn put(dir: &Path, name: &str, choice: u8, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::write(dir.join(name), [&[choice], bytes].concat())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: fuzz_seeds DIR")?);
    std::fs::create_dir_all(&dir)?;
    for fixture in fixtures::all() {
        let mut source = from_bytes(fixture.name, fixture.bytes.clone(), &OpenOptions::default())?;
        let format = source.facts().format;
        put(&dir, fixture.name, choice(Some(format)), &fixture.bytes)?;
        put(&dir, &format!("{}.auto", fixture.name), choice(None), &fixture.bytes)?;
        if !fixture.name.ends_with("zip") {
            for (packed, bytes) in fixtures::compressed(&fixture.bytes) {
                put(&dir, &format!("{}.{packed}", fixture.name), choice(Some(format)), &bytes)?;
            }
        }
        let path = dir.join("seed.parquet");
        let setup = source.setup()?;
        copy(&mut *source, create(&path, &setup, &WriteOptions::default())?)?;
        let mut parquet = std::fs::read(&path)?;
        std::fs::remove_file(&path)?;
        put(&dir, &format!("{}.parquet", fixture.name), choice(Some(Format::Parquet)), &parquet)?;
        // Without its checksums, so that mutations reach the decoders.
        let key = b"pagewalk.crc32";
        if let Some(at) = parquet.windows(key.len()).position(|window| window == key) {
            parquet[at] = b'P';
        }
        put(&dir, &format!("{}.unchecked.parquet", fixture.name), choice(Some(Format::Parquet)), &parquet)?;
    }
    Ok(())
}
