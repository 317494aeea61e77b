//! The table that is printed and the file that machines read.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// `benchmark` for its main figure, `benchmark.figure` for the others.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it is compared with, and that one's figure.
    pub peer: Option<String>,
    /// Ours over the peer's: more is better for rates, less for costs, as the target says.
    pub ratio: Option<f64>,
    /// What was aimed at.
    pub target: Option<String>,
    /// Whether it was reached; none where nothing was aimed at.
    pub pass: Option<bool>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// A figure that is only told.
    pub fn tell(&mut self, name: &str, value: f64, unit: &str) {
        self.push(Row {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            peer: None,
            ratio: None,
            target: None,
            pass: None,
        });
    }

    /// A figure with an upper bound.
    pub fn at_most(&mut self, name: &str, value: f64, unit: &str, bound: f64) {
        let target = Some(format!("<= {bound}"));
        let pass = Some(value <= bound);
        self.push(Row {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            peer: None,
            ratio: None,
            target,
            pass,
        });
    }

    /// A rate beside a peer's, which it should reach a share of.
    pub fn against(&mut self, name: &str, value: f64, unit: &str, peer: (&str, f64), share: Option<f64>) {
        let ratio = value / peer.1;
        self.push(Row {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            peer: Some(format!("{}: {}", peer.0, figure(peer.1))),
            ratio: Some(ratio),
            target: share.map(|share| format!(">= {share} x")),
            pass: share.map(|share| ratio >= share),
        });
    }

    /// A cost beside a peer's, of which it should be at most `share`.
    pub fn less(&mut self, name: &str, value: f64, unit: &str, peer: (&str, f64), share: f64) {
        let ratio = value / peer.1;
        self.push(Row {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            peer: Some(format!("{}: {}", peer.0, figure(peer.1))),
            ratio: Some(ratio),
            target: Some(format!("<= {share} x")),
            pass: Some(ratio <= share),
        });
    }

    fn push(&mut self, row: Row) {
        eprintln!("  {} = {} {}", row.name, figure(row.value), row.unit);
        self.0.push(row);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Prints the table and writes the file.
    pub fn finish(&self) -> anyhow::Result<()> {
        println!(
            "\n{:<28} {:>12} {:<12} {:<44} {:>7} {:>10}  ok",
            "name", "value", "unit", "peer", "ratio", "target"
        );
        for row in &self.0 {
            println!(
                "{:<28} {:>12} {:<12} {:<44} {:>7} {:>10}  {}",
                row.name,
                figure(row.value),
                row.unit,
                row.peer.as_deref().unwrap_or("-"),
                row.ratio.map_or("-".to_owned(), |r| format!("{r:.2}")),
                row.target.as_deref().unwrap_or("-"),
                row.pass.map_or("-", |pass| if pass { "yes" } else { "NO" }),
            );
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("results.json");
        let mut rows: Vec<Row> = match std::fs::read(&file) {
            // What an earlier run measured stays, unless it was measured again.
            Ok(earlier) => serde_json::from_slice(&earlier).unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        rows.retain(|row| self.0.iter().all(|new| benchmark(&new.name) != benchmark(&row.name)));
        rows.extend(self.0.iter().cloned());
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        std::fs::write(&file, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("writing {}", file.display()))?;
        println!("\nwritten to {}", file.display());
        Ok(())
    }
}

/// The benchmark that a row or a figure belongs to.
pub fn benchmark(name: &str) -> &str {
    name.split_once('.').map_or(name, |(benchmark, _)| benchmark)
}

fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The value below which `share` of the sorted `values` lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}
