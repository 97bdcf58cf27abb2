//! Reports as one HTML file that opens from disk, offline.
//!
//! What a report says is a [`Document`]: sections of text, tables, charts, walks and maps, as data. The page
//! (`report/`) draws them; charts by Observable Plot and D3, which are embedded with everything else.

mod advise;
mod all;
mod compare;
mod explain;
mod maps;
mod reproduce;
mod sweep;

pub use advise::advise;
pub use all::all;
pub use compare::compare;
pub use explain::{Asked, explain};
pub use reproduce::{babelfish, curve, figures, gups, passthrough, ptemagnet, segments, together};
pub use sweep::{Row as SweepRow, sweep};

use crate::shells::quoted;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// A report.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// What it says, in a sentence.
    pub lead: String,
    /// What it is from: name and value.
    pub about: Vec<(String, String)>,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// A section.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Its place in the page's address.
    pub id: &'static str,
    /// Its title.
    pub title: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// What is below them.
    pub parts: Vec<Part>,
}

/// A part of a section.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Part {
    /// A chart.
    Chart(Chart),
    /// A table.
    Table(Table),
    /// Text as it is.
    Verbatim {
        /// What it is.
        title: String,
        /// The text.
        text: String,
    },
    /// Two-dimensional grids of average walks.
    Grids(Value),
    /// The walk explorer.
    Explorer(Value),
    /// Lines of guest entries and the host's behind them.
    Lines(Value),
    /// Table pages by node.
    Nodes(Value),
    /// Level-1 tables of several processes.
    Shared(Value),
    /// Segments and escapes.
    Segments(Value),
}

/// Rows with names.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    /// What it is.
    pub title: String,
    /// Names of columns.
    pub columns: Vec<String>,
    /// Rows; numbers stay numbers.
    pub rows: Vec<Vec<Value>>,
}

/// A chart, and its data.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// How it is drawn.
    pub mark: Mark,
    /// The column of x.
    pub x: &'static str,
    /// The column of y.
    pub y: &'static str,
    /// The column of colours.
    pub color: &'static str,
    /// The column that there is a small chart for each value of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facet: Option<&'static str>,
    /// Names of the axes.
    pub labels: (String, String),
    /// Colours by name in place of those by order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub colors: Vec<(String, &'static str)>,
    /// Logarithmic axes.
    pub log: (bool, bool),
    /// x is bytes: its axis has powers of two.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bytes: bool,
    /// Names of the data's columns.
    pub columns: Vec<&'static str>,
    /// The data.
    pub rows: Vec<Vec<Value>>,
}

/// How a chart is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Horizontal bars on top of each other, to both sides of 0.
    Stack,
    /// Lines.
    Line,
    /// Lines that step: a histogram.
    Step,
    /// Dots in rows, those of a row connected.
    Dots,
    /// Points.
    Points,
}

/// Okabe and Ito's colours and two more, told apart by colour-blind readers.
const PALETTE: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d31", "#8a8f98"];

/// A colour for each name, so that it has the same one in all charts of a report.
fn colors_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<(String, &'static str)> {
    names.into_iter().map(String::from).zip(PALETTE.iter().copied().cycle()).collect()
}

impl Chart {
    /// A chart of `columns`: x, y and colour come first.
    pub fn new(mark: Mark, title: &str, columns: &[&'static str]) -> Chart {
        let at = |i: usize| columns.get(i).copied().unwrap_or_default();
        Chart {
            title: title.to_string(),
            note: String::new(),
            mark,
            x: at(0),
            y: at(1),
            color: at(2),
            facet: None,
            labels: (at(0).to_string(), at(1).to_string()),
            colors: Vec::new(),
            log: (false, false),
            bytes: false,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, row: Vec<Value>) {
        self.rows.push(row);
    }
}

/// A number for a table: of as many digits as say something.
pub fn rounded(x: f64) -> Value {
    if !x.is_finite() {
        return Value::Null;
    }
    if x == 0.0 {
        return 0.into();
    }
    let digits = (4 - x.abs().log10().floor() as i32).clamp(0, 12);
    let factor = 10f64.powi(digits);
    ((x * factor).round() / factor).into()
}

impl Document {
    /// A report with what is the same for all: version and command.
    pub fn new(title: String, lead: String) -> Document {
        let about = vec![
            ("version".to_string(), format!("pagewalk {}", env!("CARGO_PKG_VERSION"))),
            ("command".to_string(), command_line()),
        ];
        Document { title, lead, about, sections: Vec::new() }
    }

    /// Adds what it is from.
    pub fn about(&mut self, name: &str, value: impl ToString) {
        self.about.push((name.to_string(), value.to_string()));
    }

    /// Adds a section, unless there is nothing in it.
    pub fn section(&mut self, id: &'static str, title: &str, text: &[&str], parts: Vec<Part>) {
        if !parts.is_empty() {
            let text = text.iter().map(ToString::to_string).collect();
            self.sections.push(Section { id, title: title.to_string(), text, parts });
        }
    }

    /// Adds what is printed without `--html`, in a section of its own.
    pub fn printed(&mut self, section: &str, title: &str, text: &str) {
        let text = Part::Verbatim { title: title.to_string(), text: text.to_string() };
        self.section("text", section, &[], vec![text]);
    }

    /// The page.
    pub fn page(&self) -> Result<String> {
        // Data must not end the element that it is in.
        let data = serde_json::to_string(self)?.replace('<', "\\u003c");
        let mut page = String::with_capacity(data.len() + 600_000);
        let mut rest = include_str!("../../report/report.html");
        let parts = [
            ("{{title}}", escaped(&self.title)),
            ("{{style}}", include_str!("../../report/report.css").to_string()),
            ("{{licences}}", escaped(LICENCES)),
            ("{{data}}", data),
            ("{{d3}}", include_str!("../../report/vendor/d3.min.js").to_string()),
            ("{{plot}}", include_str!("../../report/vendor/plot.umd.min.js").to_string()),
            ("{{charts}}", include_str!("../../report/charts.js").to_string()),
            ("{{explorer}}", include_str!("../../report/explorer.js").to_string()),
            ("{{maps}}", include_str!("../../report/maps.js").to_string()),
            ("{{script}}", include_str!("../../report/report.js").to_string()),
        ];
        for (name, text) in parts {
            let (before, after) = rest.split_once(name).with_context(|| format!("the page has no {name}"))?;
            page += before;
            page += &text;
            rest = after;
        }
        Ok(page + rest)
    }

    /// Writes the page to a file.
    pub fn write(&self, file: &Path) -> Result<()> {
        crate::write_whole(file, self.page()?.as_bytes())
            .with_context(|| format!("cannot write the report `{}`", file.display()))
    }
}

const LICENCES: &str = concat!(
    "D3 7.9.2\n\n",
    include_str!("../../report/vendor/LICENSE-d3"),
    "\nObservable Plot 0.6.17\n\n",
    include_str!("../../report/vendor/LICENSE-plot")
);

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The command as it can be typed again.
fn command_line() -> String {
    let args = std::env::args_os().skip(1).map(|arg| quoted(&arg.to_string_lossy()));
    std::iter::once("pagewalk".to_string()).chain(args).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_leave_its_element() {
        let mut document = Document::new("</title><script>".to_string(), "</script><!--".to_string());
        document.about("workload", "</script>");
        let page = document.page().expect("a page");
        let data = page.split_once("id=\"data\">").and_then(|(_, rest)| rest.split_once("</script>"));
        let data: Value = serde_json::from_str(data.expect("data").0).expect("JSON");
        assert_eq!(data["lead"], "</script><!--");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;"));
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = Document::new(String::new(), String::new()).page().expect("a page");
        assert!(!page.contains("{{"), "something was not filled in");
        let addresses = page.match_indices("http").map(|(at, _)| &page[at..(at + 40).min(page.len())]);
        let loaded = ["src=\"http", "href=\"http", "url(http", "import("];
        assert!(loaded.iter().all(|l| !page.contains(l)));
        for address in addresses.filter(|a| a.starts_with("http://") || a.starts_with("https://")) {
            let named = ["http://www.w3.org/", "https://d3js.org "];
            assert!(named.iter().any(|n| address.starts_with(n)), "{address}");
        }
    }

    #[test]
    fn numbers_keep_five_digits() {
        assert_eq!(rounded(123_456.789), Value::from(123_457.0));
        assert_eq!(rounded(0.000_123_456), Value::from(0.000_123_46));
        assert_eq!(rounded(f64::NAN), Value::Null);
    }
}
