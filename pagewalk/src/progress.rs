//! Progress of long work: on a terminal, and only there.

use crate::report::thousands;
use crate::watch::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use lab::experiment::Progress;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use trace::Meter;

/// How a run is shown while it goes on.
#[derive(Debug)]
pub enum View {
    /// A bar.
    Bar(Bar),
    /// All systems.
    Watch(Watch),
}

impl View {
    /// Shows how far the work is.
    pub fn show(&mut self, progress: Progress) -> ControlFlow<()> {
        match self {
            View::Bar(bar) => bar.show(progress),
            View::Watch(watch) => {
                watch.show(progress);
                ControlFlow::Continue(())
            }
        }
    }
    /// Whether it has the terminal for itself.
    pub fn is_watch(&self) -> bool {
        matches!(self, View::Watch(_))
    }
    /// The work is done.
    pub fn end(&mut self) {
        match self {
            View::Bar(bar) => bar.end(),
            View::Watch(watch) => watch.end(),
        }
    }
}

/// A line on standard error that says how far the work is, how fast, and how
/// long it will take.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar; a hidden one if it should be quiet or standard error is no terminal.
    pub fn new(quiet: bool) -> Bar {
        Bar(drawn(quiet, 10, style("{spinner} {human_pos} accesses, {per_sec}, {elapsed}{msg}")))
    }

    /// Shows how far the work is.
    pub fn show(&self, progress: Progress) -> ControlFlow<()> {
        if let (Some(total), None) = (progress.total, self.0.length()) {
            self.0.set_length(total);
            self.0
                .set_style(style("{bar:30} {human_pos} of {human_len} accesses, {per_sec}, {eta} left{msg}"));
        }
        self.0.set_position(progress.accesses);
        if progress.misses > 0 {
            self.0.set_message(format!(", {} STLB misses", thousands(progress.misses)));
        }
        ControlFlow::Continue(())
    }

    /// A new piece of work of the same kind begins.
    pub fn what(&self, name: &str) {
        self.0.set_prefix(name.to_string());
        self.0.set_message("");
        self.0.reset();
        self.0.unset_length();
        self.0.set_style(style("{spinner} {prefix}: {human_pos} accesses, {per_sec}, {elapsed}{msg}"));
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// How many points of a sweep have ended.
#[derive(Debug)]
pub struct Points {
    bar: ProgressBar,
    accesses: AtomicU64,
    begun: Instant,
}

impl Points {
    /// A bar of so many points; a hidden one if it should be quiet or standard error is no terminal.
    pub fn new(quiet: bool, points: u64) -> Points {
        let bar = drawn(quiet, 10, style("{bar:30} {human_pos} of {human_len} points, {msg}, {eta} left"));
        bar.set_length(points);
        Points { bar, accesses: AtomicU64::new(0), begun: Instant::now() }
    }
    /// So many accesses more were made.
    pub fn accesses(&self, n: u64) {
        let all = self.accesses.fetch_add(n, Ordering::Relaxed) + n;
        if !self.bar.is_hidden() {
            let rate = all as f64 / self.begun.elapsed().as_secs_f64().max(1e-3) / 1e6;
            self.bar.set_message(format!("{rate:.1} M accesses/s"));
        }
    }
    /// So many points more have ended.
    pub fn points(&self, n: u64) {
        self.bar.inc(n);
    }
    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How many parts of some work are done, and which one it is at.
#[derive(Debug)]
pub struct Parts(ProgressBar);

impl Parts {
    /// A bar under the name `title`, which may be empty, of parts that are called `parts`; a hidden one if it should
    /// be quiet or standard error is no terminal.
    pub fn new(quiet: bool, title: &str, parts: &str) -> Parts {
        let line =
            format!("{{bar:30}} {{prefix}}{{human_pos}} of {{human_len}} {parts}, {{elapsed}}, {{msg}}");
        Parts(drawn(quiet, 4, style(&line)).with_prefix(title.to_string()))
    }
    /// Shows how far the work is.
    pub fn show(&self, done: usize, of: usize, at: impl Into<Cow<'static, str>>) {
        self.0.set_length(of as u64);
        self.0.set_position(done as u64);
        self.0.set_message(at);
    }
    /// Takes the line away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// A line about a trace that is read to its end.
#[derive(Debug)]
pub struct Reading(ProgressBar);

impl Reading {
    /// Shows what `meter` says, unless it should be quiet or standard error is no terminal.
    pub fn new(quiet: bool, file: &Path, meter: Meter) -> Reading {
        let far = move |state: &ProgressState, w: &mut dyn fmt::Write| {
            let _ = w.write_str(&how_far(meter.accesses(), meter.share(), state.elapsed()));
        };
        let bar = drawn(quiet, 4, style("{spinner} {msg}: {far}").with_key("far", far));
        bar.set_message(file.display().to_string());
        Reading(bar)
    }
}

fn how_far(accesses: u64, share: Option<f64>, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let rate = accesses as f64 / seconds.max(1e-3) / 1e6;
    let mut text = format!("{} accesses, {rate:.1} M/s", thousands(accesses));
    match share {
        Some(share) => {
            let left = seconds * (1.0 - share) / share;
            text += &format!(", {:.0} %, {left:.0} s left", 100.0 * share);
        }
        None => text += &format!(", {seconds:.0} s"),
    }
    text
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar that is drawn so many times a second; nowhere if it should be quiet or standard error is no terminal.
fn drawn(quiet: bool, hertz: u8, style: ProgressStyle) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(hertz) };
    let bar = ProgressBar::with_draw_target(None, target).with_style(style);
    bar.enable_steady_tick(Duration::from_secs(1) / hertz.into());
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line about a program that runs on the same terminal.
///
/// It leaves the cursor at its beginning, so that what the program prints replaces it.
#[derive(Debug)]
pub struct Line {
    visible: bool,
    shown: bool,
}

impl Line {
    /// A line; a hidden one if it should be quiet or standard error is no terminal.
    pub fn new(quiet: bool) -> Line {
        Line { visible: !quiet && io::stderr().is_terminal(), shown: false }
    }
    /// Whether anybody sees it.
    pub fn is_visible(&self) -> bool {
        self.visible
    }
    /// Shows `text` in place of what was there.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.visible {
            self.shown = true;
            eprint!("\x1b[2K{}\r", text());
        }
    }
    /// Takes the line away.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_is_read_has_a_rate_and_an_end() {
        let seconds = Duration::from_secs(4);
        assert_eq!(how_far(20_000_000, Some(0.25), seconds), "20 000 000 accesses, 5.0 M/s, 25 %, 12 s left");
        assert_eq!(how_far(20_000_000, None, seconds), "20 000 000 accesses, 5.0 M/s, 4 s");
    }
}
