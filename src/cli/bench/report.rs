//! The measured figures, and their output as a table or as JSON.

use std::fmt::Write;

use clap::ValueEnum;
use serde::Serialize;

/// One figure; its name contains the unit.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
}

/// All figures, in the order of measurement.
#[derive(Debug, Default)]
pub(super) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn add(&mut self, name: impl Into<String>, value: f64) {
        let figure = Figure { name: name.into(), value };
        tracing::info!(figure.name, figure.value, "the bench measured a figure");
        self.figures.push(figure);
    }

    /// The figures as one JSON object: `{"name": value, …}`.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let figures = self.figures.iter().map(|figure| (figure.name.clone(), figure.value.into()));
        Ok(serde_json::to_string_pretty(&figures.collect::<serde_json::Map<_, _>>())?)
    }

    pub(super) fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        let mut table = String::new();
        for Figure { name, value } in &self.figures {
            let decimals = usize::from(*value < 1000.0) * 2;
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:width$}  {value:>12.decimals$}");
        }
        table.truncate(table.trim_end().len());
        table
    }
}

/// The name of a clap value in the names of figures: with `_` for `-`.
pub(super) fn figure_name(value: &impl ValueEnum) -> String {
    // Invariant: clap hides no such value, so each has a name.
    value.to_possible_value().expect("a name").get_name().replace('-', "_")
}

/// Returns the value below which `share` (0 to 1) of the sorted values lie; NaN for an empty slice.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
pub(super) fn percentile(sorted: &[i64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |value| *value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred() {
        let values: Vec<i64> = (1..=100).collect();
        assert!((percentile(&values, 0.5) - 51.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 1.0) - 100.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn json_and_table_contain_the_same_figures() {
        let mut report = Report::default();
        report.add("noop_jobs_per_second", 61_234.5);
        report.add("recovery_seconds", 7.25);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["recovery_seconds"], 7.25);
        assert_eq!(report.table(), "noop_jobs_per_second         61234\nrecovery_seconds              7.25");
    }
}
