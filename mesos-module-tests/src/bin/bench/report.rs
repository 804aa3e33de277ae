//! The table that `make bench` prints, and the same as `target/bench.json`.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One line of the table: all three measured in this very run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// Unit of the three figures.
    pub(crate) unit: &'static str,
    /// Our figure.
    pub(crate) ours: Option<f64>,
    /// The peer's figure: network/cni, or the CNI plugins.
    pub(crate) peer: Option<f64>,
    /// The baseline's figure: bare requests only.
    pub(crate) floor: Option<f64>,
    /// Peer ÷ ours: how many times better we are.
    pub(crate) to_peer: Option<f64>,
    /// Ours ÷ floor.
    pub(crate) to_floor: Option<f64>,
    /// The goal for our figure.
    pub(crate) goal: Option<String>,
    /// Whether the goal is met.
    pub(crate) met: Option<bool>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            ours: None,
            peer: None,
            floor: None,
            to_peer: None,
            to_floor: None,
            goal: None,
            met: None,
        }
    }

    pub(crate) fn figures(
        mut self,
        ours: Option<f64>,
        peer: Option<f64>,
        floor: Option<f64>,
    ) -> Self {
        self.ours = ours;
        self.peer = peer;
        self.floor = floor;
        self.to_peer = ours.zip(peer).map(|(ours, peer)| peer / ours);
        self.to_floor = ours.zip(floor).map(|(ours, floor)| ours / floor);
        self
    }

    /// Sets figures of which the larger is the better one, such as a throughput.
    pub(crate) fn rates(self, ours: Option<f64>, peer: Option<f64>, floor: Option<f64>) -> Self {
        let mut row = self.figures(ours, peer, floor);
        row.to_peer = ours.zip(peer).map(|(ours, peer)| ours / peer);
        row
    }

    /// Sets the goal, and whether it is met. A goal without its figures is missed.
    pub(crate) fn goal(mut self, goal: &str, met: impl FnOnce(&Self) -> Option<bool>) -> Self {
        self.met = Some(met(&self).unwrap_or(false));
        self.goal = Some(goal.to_owned());
        self
    }
}

/// All lines so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        // Printed at once: a run takes minutes.
        println!("{}", line(&row));
        self.rows.push(row);
    }

    pub(crate) fn header() {
        println!(
            "{:<52} {:>5} {:>10} {:>10} {:>10} {:>8} {:>8}  goal",
            "", "unit", "ours", "peer", "floor", "to peer", "to floor"
        );
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.rows)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The goals that were missed.
    pub(crate) fn missed(&self) -> Vec<&Row> {
        self.rows
            .iter()
            .filter(|row| row.met == Some(false))
            .collect()
    }
}

fn line(row: &Row) -> String {
    let figure =
        |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.3}"));
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
    let goal = match (&row.goal, row.met) {
        (Some(goal), Some(true)) => format!("{goal}: met"),
        (Some(goal), _) => format!("{goal}: MISSED"),
        (None, _) => String::new(),
    };
    format!(
        "{:<52} {:>5} {:>10} {:>10} {:>10} {:>8} {:>8}  {goal}",
        row.name,
        row.unit,
        figure(row.ours),
        figure(row.peer),
        figure(row.floor),
        ratio(row.to_peer),
        ratio(row.to_floor),
    )
}

/// Wall and CPU time of one operation, repeated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Samples {
    /// Milliseconds.
    pub(crate) fn add(&mut self, wall: f64, cpu: f64) {
        self.wall.push(wall);
        self.cpu.push(cpu);
    }

    pub(crate) fn wall(&self, quantile: f64) -> Option<f64> {
        at(&self.wall, quantile)
    }

    pub(crate) fn cpu(&self, quantile: f64) -> Option<f64> {
        at(&self.cpu, quantile)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an index into a few hundred samples"
)]
pub(crate) fn at(samples: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted
        .get((last as f64 * quantile).round() as usize)
        .copied()
}
