//! The report for a terminal.

use std::fmt;

use super::{
    Coverage,
    figures::{self, Table},
};

/// One report, or two side by side.
pub struct Comparison<'a>(pub &'a [Coverage]);

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for coverage in self.0 {
            writeln!(f, "{}: {}", coverage.name, figures::title(coverage))?;
        }
        writeln!(f)?;
        write(f, &figures::side_by_side(self.0))?;
        for coverage in self.0 {
            writeln!(f, "\n{}", coverage.name)?;
            for table in [figures::stages, figures::modules, figures::transfers, figures::launches] {
                writeln!(f)?;
                write(f, &table(coverage))?;
            }
        }
        Ok(())
    }
}

/// The first column to the left, the others to the right.
fn write(f: &mut fmt::Formatter<'_>, table: &Table) -> fmt::Result {
    let lines = || std::iter::once(&table.columns).chain(&table.rows);
    let widths: Vec<usize> =
        (0..table.columns.len()).map(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
    for line in lines() {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("  {cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        });
        writeln!(f, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}
