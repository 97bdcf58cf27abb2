//! Recording a program to a file.

use std::path::Path;
use std::time::{Duration, Instant};

use machine::input::{Block, More, Source};

use super::{CaptureError, LiveSource, Summary};
use crate::{About, ParquetWriter, Written};

/// How far a recording is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// Accesses so far.
    pub accesses: u64,
    /// Different 4 KiB pages among them.
    pub pages: u64,
    /// Since recording began.
    pub elapsed: Duration,
    /// Accesses per second since the last report.
    pub rate: f64,
}

/// A finished recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The file.
    pub written: Written,
    /// How the capture went.
    pub summary: Summary,
    /// Different 4 KiB pages that were accessed.
    pub pages: u64,
}

/// How often progress is reported.
const REPORT: Duration = Duration::from_millis(200);

/// Stores what a program does in a trace of Pagewalk's own format, and reports
/// how it goes a few times a second. If it is interrupted, the trace is what had been seen; if it is
/// killed, `PATH.partial` is.
///
/// # Errors
/// If the capture fails or the file cannot be written (what had been written stays readable).
pub fn record(
    mut source: LiveSource,
    path: &Path,
    mut progress: impl FnMut(&Progress),
) -> Result<Recorded, CaptureError> {
    source.count_pages();
    let setup = source.setup()?;
    let about = About {
        command: Some(source.command().to_owned()),
        tool: format!("pagewalk {}; {}; {}", env!("CARGO_PKG_VERSION"), source.emulator(), source.layout()),
    };
    let mut writer = ParquetWriter::create(path, &setup, about)?;
    let mut block = Block::new();
    let begun = Instant::now();
    let mut last = Progress { accesses: 0, pages: 0, elapsed: Duration::ZERO, rate: 0.0 };
    loop {
        // Rows, and what happens after them; or accesses, where there is no shorter way or a page is full.
        block.clear();
        let filled = writer.rows().and_then(|rows| source.fill_rows(rows, &mut block.events));
        let more = filled.unwrap_or_else(|| source.fill(&mut block))?;
        writer.write(&block)?;
        let elapsed = begun.elapsed();
        if elapsed - last.elapsed >= REPORT || more == More::No {
            let accesses = writer.accesses();
            let rate = (accesses - last.accesses) as f64 / (elapsed - last.elapsed).as_secs_f64().max(1e-9);
            last = Progress { accesses, pages: source.pages(), elapsed, rate };
            progress(&last);
        }
        if more == More::No {
            break;
        }
    }
    // The file first: the program may take its time to end.
    let (written, pages) = (writer.finish()?, source.pages());
    Ok(Recorded { written, summary: source.finish()?, pages })
}
