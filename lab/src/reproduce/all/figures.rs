//! Figures of runtimes and walk shares as tables of the page.

use super::super::sheet::{Row, Unit};
use crate::figures::{Cell, Figure};

/// Runtimes, as shares of each workload's first configuration.
pub fn runtimes(figure: &Figure, cells: &[Cell]) -> Vec<Row> {
    let row = |cell: &Cell| {
        let what = format!("{} {}: runtime", cell.workload, cell.config);
        Row::new(cell.workload, what, Unit::Ratio, (cell.measured, figure.trust()), cell.model)
    };
    // The first is what the others are shares of.
    cells.iter().filter(|cell| cell.measured != 1.0 || cell.model != 1.0).map(row).collect()
}

/// Shares of cycles with a walk in progress.
pub fn walks(figure: &Figure, cells: &[Cell]) -> Vec<Row> {
    let row = |cell: &Cell| {
        let what = format!("{} {}: walker busy", cell.workload, cell.config);
        let paper = (cell.measured_walk?, figure.trust());
        Some(Row::new(cell.workload, what, Unit::Share, paper, cell.model_walk))
    };
    cells.iter().filter_map(row).collect()
}

/// Speed-ups by the mechanism: each configuration that has it against the same without.
pub fn gains(figure: &Figure, cells: &[Cell]) -> Vec<Row> {
    let row = |cell: &Cell| {
        let without = cell.without.as_ref()?;
        let base = cells.iter().find(|c| c.workload == cell.workload && c.config == *without)?;
        let what = format!("{} {} to {}: speed-up", cell.workload, without, cell.config);
        let paper = (base.measured / cell.measured, figure.trust());
        // Each stands for itself: its group is its own.
        Some(Row::new(what.clone(), what, Unit::Ratio, paper, base.model / cell.model))
    };
    cells.iter().filter_map(row).collect()
}
