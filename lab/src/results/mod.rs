//! The flat result record: one row a run, of a system with a workload and a seed on a machine.
//!
//! [`Outcome`] says all there is to say, nested. A [`Record`] is the same for tools that
//! want rows and columns: each value has a name and a unit, `docs/results.md` lists them, and Parquet holds
//! them. Lists (the grid of a walk, histograms) are JSON text in columns of their own.

mod columns;

use crate::outcome::Outcome;
pub use columns::{Column, columns};
use std::path::Path;
pub use trace::table::{Kind, TableError, TableWriter, Value};

/// Version of the record. Raised when a column changes its meaning or goes away, not when one is added.
pub const SCHEMA: u32 = 1;

/// A digest of the sources of everything that decides what a run gives: crates `paging`, `mechanisms`, `os`,
/// `machine`, `workloads`, `trace` and `lab`. Programs of the same model give the same results.
pub const MODEL: &str = env!("PAGEWALK_MODEL");

/// The program's version and its model's: `0.1.0+0123456789abcdef`.
pub fn version() -> String {
    format!("{}+{MODEL}", env!("CARGO_PKG_VERSION"))
}

/// One run as a row: a value for each of [`columns`].
#[derive(Clone, PartialEq, Debug)]
pub struct Record(Vec<Value>);

impl From<&Outcome> for Record {
    fn from(outcome: &Outcome) -> Record {
        Record(columns().map(|column| (column.get)(outcome)).collect())
    }
}

impl Record {
    /// A record of values that were written before.
    ///
    /// # Errors
    /// If they are not those of [`columns`].
    pub fn from_values(values: Vec<Value>) -> Result<Record, String> {
        let all = columns().count();
        if values.len() != all {
            return Err(format!("{} values for {all} columns", values.len()));
        }
        match columns().zip(&values).find(|(column, value)| !value.fits(column.kind)) {
            Some((column, value)) => Err(format!("{value:?} as {}", column.name)),
            None => Ok(Record(values)),
        }
    }

    /// The values, in the order of [`columns`].
    pub fn values(&self) -> &[Value] {
        &self.0
    }

    /// The value of a column.
    pub fn get(&self, name: &str) -> Option<&Value> {
        columns().position(|column| column.name == name).map(|at| &self.0[at])
    }

    /// A column's value as a number; `None` for text and where there is none.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Value::Whole(n) => Some(*n as f64),
            Value::Real(x) => Some(*x),
            _ => None,
        }
    }
}

/// Keys of the footer of a table of records: which columns of `extra` and of the record there are, with units.
pub fn footer(extra: &[(String, Kind, String)]) -> Vec<(String, String)> {
    let own = columns().map(|c| serde_json::json!({ "name": c.name, "unit": c.unit, "meaning": c.meaning }));
    let extra =
        extra.iter().map(|(name, _, meaning)| serde_json::json!({ "name": name, "meaning": meaning }));
    let all: Vec<_> = own.chain(extra).collect();
    vec![
        ("pagewalk.results.schema".into(), SCHEMA.to_string()),
        ("pagewalk.tool".into(), format!("pagewalk {}", version())),
        ("pagewalk.columns".into(), serde_json::Value::from(all).to_string()),
    ]
}

/// Writes records as Parquet; the same records give the same bytes.
///
/// # Errors
/// If the file cannot be written; one that had the name keeps it.
pub fn write_parquet(path: &Path, records: &[Record]) -> Result<(), TableError> {
    let all = columns().map(|column| (column.name.to_string(), column.kind)).collect();
    let mut table = TableWriter::create(path, all, footer(&[]))?;
    for record in records {
        table.push(record.0.iter().cloned())?;
    }
    table.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn describe() -> String {
        let mut text = String::from("| column | type | unit | meaning |\n|---|---|---|---|\n");
        for Column { name, kind, unit, meaning, .. } in columns() {
            text += &format!("| `{name}` | {} | {unit} | {meaning} |\n", kind.name());
        }
        text
    }

    #[test]
    fn columns_have_names_of_their_own() {
        let names: Vec<_> = columns().map(|column| column.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    /// After a change of columns: `UPDATE_DOCS=1 cargo test -p lab results`.
    #[test]
    fn the_documentation_lists_the_columns() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/results.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once("<!-- columns -->\n").unwrap();
        let (listed, after) = rest.split_once("<!-- end -->").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let page = format!("{before}<!-- columns -->\n{}<!-- end -->{after}", describe());
            return std::fs::write(&path, page).unwrap();
        }
        assert_eq!(
            listed,
            describe(),
            "run `UPDATE_DOCS=1 cargo test -p lab results` and look at the change"
        );
    }
}
