//! Records a program: `record OUT.parquet [limit=N] [after=N | signal] [lines | blocks] -- PROGRAM ARGS`.
//!
//! `pagewalk record` is this with a proper command line; `data/recapture.sh` uses it
//! because it needs the library only.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

use trace::capture::{CaptureOptions, Fetches, Start, record, start};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let out = PathBuf::from(words.next().ok_or("where to?")?);
    let mut options = CaptureOptions::default();
    for word in words.by_ref().map_while(|word| (word != "--").then_some(word)) {
        let word = word.to_string_lossy().into_owned();
        match word.split_once('=') {
            Some(("limit", n)) => options.limit = Some(n.parse()?),
            Some(("after", n)) => options.start = Start::After(n.parse()?),
            None if word == "signal" => options.start = Start::Signal(signal_hook::consts::SIGUSR1),
            None if word == "lines" => options.fetches = Fetches::Lines,
            None if word == "blocks" => options.fetches = Fetches::Blocks,
            _ => return Err(format!("{word}: not understood").into()),
        }
    }
    let program = words.next().ok_or("which program?")?;
    let args: Vec<OsString> = words.collect();
    let source = start(&program, &args, options)?;
    let recorded = record(source, &out, |now| {
        eprint!("\r{} accesses, {} pages, {:.1} M/s ", now.accesses, now.pages, now.rate / 1e6);
    })?;
    eprintln!("\n{}: {} bytes; {:?}", out.display(), recorded.written.bytes, recorded.summary);
    Ok(())
}
