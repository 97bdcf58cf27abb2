//! A live view of systems at work, in the style of `top`.

use crate::report::thousands;
use crate::terminal;
use lab::experiment::Progress;
use lab::look::{Board, Standing};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is drawn, and how often lines are written where there is no terminal.
const DRAW: Duration = Duration::from_millis(250);
const LINES: Duration = Duration::from_secs(2);
/// Draws that a line of history goes back.
const HISTORY: usize = 32;

/// The view.
#[derive(Debug)]
pub struct Watch {
    board: Arc<Board>,
    begun: Instant,
    drawn: Option<Instant>,
    /// Lines on the screen, to be drawn over.
    lines: usize,
    last: Vec<Standing>,
    /// Second-level misses per thousand accesses between draws, by system.
    history: Vec<VecDeque<f64>>,
    terminal: bool,
}

impl Watch {
    /// A view of what is told to `board`.
    pub fn new(board: Arc<Board>) -> Watch {
        let terminal = io::stderr().is_terminal();
        let (last, history) = (Vec::new(), Vec::new());
        Watch { board, begun: Instant::now(), drawn: None, lines: 0, last, history, terminal }
    }

    /// Draws, if it is time.
    pub fn show(&mut self, progress: Progress) {
        let every = if self.terminal { DRAW } else { LINES };
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= every) {
            self.draw(Some(progress));
        }
    }

    /// The last state stays.
    pub fn end(&mut self) {
        self.draw(None);
    }

    fn draw(&mut self, progress: Option<Progress>) {
        self.drawn = Some(Instant::now());
        let now = self.board.standings();
        self.history.resize(now.len(), VecDeque::new());
        for (i, counts) in now.iter().map(|line| line.counts).enumerate() {
            let before = self.last.get(i);
            let (misses, accesses) = before.map_or((0, 0), |b| (b.counts.stlb_misses, b.counts.accesses));
            if counts.accesses > accesses && counts.stlb_misses >= misses {
                let rate =
                    1000.0 * (counts.stlb_misses - misses) as f64 / (counts.accesses - accesses) as f64;
                self.history[i].push_back(rate);
                if self.history[i].len() > HISTORY {
                    self.history[i].pop_front();
                }
            }
        }
        let width = terminal::width(&io::stderr());
        let text = screen(&now, &self.history, self.begun.elapsed(), progress, width.unwrap_or(110));
        let mut out = io::stderr().lock();
        // A terminal that is gone is no reason to stop.
        let _ = if self.terminal {
            let up = if self.lines > 0 { format!("\x1b[{}F\x1b[J", self.lines) } else { String::new() };
            write!(out, "{up}{text}")
        } else {
            out.write_all(text.as_bytes())
        };
        self.lines = text.lines().count();
        self.last = now;
    }
}

/// The columns after the system's name; the first are the last to go where there is no room.
const COLUMNS: [(&str, usize); 9] = [
    ("accesses", 14),
    ("cyc/acc", 9),
    ("STLB/k", 8),
    ("walk %", 8),
    ("cyc/walk", 10),
    ("L1/k", 8),
    ("kernel %", 10),
    ("faults", 11),
    ("exits", 10),
];

fn screen(
    lines: &[Standing],
    history: &[VecDeque<f64>],
    elapsed: Duration,
    progress: Option<Progress>,
    width: usize,
) -> String {
    let seconds = elapsed.as_secs_f64();
    let seen = lines.iter().map(|l| l.seen).sum::<u64>();
    let mut text = format!(
        "pagewalk  {seconds:.1} s, {:.1} M accesses/s simulated",
        seen as f64 / 1e6 / seconds.max(0.001)
    );
    if let Some(Progress { accesses, total: Some(total), .. }) = progress
        && total > 0
        && accesses > 0
    {
        let left = seconds * (total.saturating_sub(accesses)) as f64 / accesses as f64;
        text += &format!(", {:.0} % read, {left:.0} s left", 100.0 * accesses as f64 / total as f64);
    }
    text.push('\n');
    let name = lines.iter().map(|l| l.system.chars().count()).max().unwrap_or(0).clamp(6, 36);
    let mut room = width.saturating_sub(name + 1);
    let shown = COLUMNS.iter().take_while(|(_, w)| {
        let fits = *w <= room;
        room = room.saturating_sub(*w);
        fits
    });
    let shown: Vec<_> = shown.collect();
    text += &format!("{:name$}", "system");
    shown.iter().for_each(|(title, w)| text += &format!("{title:>w$}"));
    let graph = room >= 12;
    text += if graph { "  STLB misses, lately\n" } else { "\n" };
    for (line, history) in lines.iter().zip(history) {
        let system: String = line.system.chars().take(name).collect();
        text += &format!("{system:name$}");
        let per = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        let c = &line.counts;
        for (title, w) in &shown {
            let cell = match *title {
                _ if line.warming && *title != "accesses" => "warming".to_string(),
                "accesses" => thousands(if line.warming { line.seen } else { c.accesses }),
                "cyc/acc" => format!("{:.1}", per(c.cycles, c.accesses)),
                "STLB/k" => format!("{:.1}", 1000.0 * per(c.stlb_misses, c.accesses)),
                "walk %" => format!("{:.1}", 100.0 * per(c.walk_active, c.cycles)),
                "cyc/walk" => format!("{:.0}", per(c.walk_pending, c.walks)),
                "L1/k" => format!("{:.1}", 1000.0 * per(c.l1_misses, c.accesses)),
                "kernel %" => format!("{:.1}", 100.0 * per(c.software, c.cycles)),
                "faults" => thousands(c.faults),
                _ => thousands(c.exits),
            };
            text += &format!("{cell:>w$}");
        }
        if graph {
            text += &format!("  {}", graph_of(history, room.saturating_sub(2)));
        }
        text.push('\n');
    }
    text
}

/// A row of blocks, the highest for the most.
fn graph_of(values: &VecDeque<f64>, room: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().fold(f64::MIN_POSITIVE, |a, b| a.max(*b));
    let last = values.iter().skip(values.len().saturating_sub(room));
    last.map(|v| BLOCKS[((v / most * 7.0).round() as usize).min(7)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::look::Counts;

    #[test]
    fn it_fits_the_width_and_says_what_was_counted() {
        let line = Standing {
            system: "nested".to_string(),
            seen: 3_000_000,
            warming: false,
            counts: Counts {
                accesses: 2_000_000,
                cycles: 50_000_000,
                stlb_misses: 40_000,
                walks: 40_000,
                walk_active: 10_000_000,
                walk_pending: 12_000_000,
                ..Counts::default()
            },
        };
        let history = [VecDeque::from([1.0, 4.0, 8.0])];
        let progress = Progress { accesses: 3_000_000, total: Some(6_000_000), misses: 0 };
        for width in [40, 80, 100, 160] {
            let text =
                screen(std::slice::from_ref(&line), &history, Duration::from_secs(2), Some(progress), width);
            let longest = text.lines().skip(1).map(|l| l.chars().count()).max().unwrap_or(0);
            assert!(longest <= width, "{longest} of {width}\n{text}");
            assert!(text.contains("50 % read, 2 s left") && text.contains("2 000 000"), "{text}");
        }
        let wide = screen(&[line], &history, Duration::from_secs(2), None, 160);
        assert!(
            wide.contains("25.0") && wide.contains("20.0") && wide.contains("300") && wide.contains("▂▅█"),
            "{wide}"
        );
    }
}
