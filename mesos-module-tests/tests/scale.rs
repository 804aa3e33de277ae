//! A short run of the manager's benchmark: its counts are right, and the work for an event does not
//! grow with the number of tasks. No time is asserted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const FEW_TASKS: usize = 200;
const MANY_TASKS: usize = 1200;

struct Rows(Vec<Value>);

impl Rows {
    fn measure(json: &Path) -> Result<Self> {
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["--parts", "manager", "--starts", "1", "--idle", "1"])
            .args(["--changes", "4000", "--launches", "5"])
            .args(["--followed", &format!("{FEW_TASKS},{MANY_TASKS}")])
            .arg("--json")
            .arg(json)
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{stderr}");
        Ok(Self(serde_json::from_slice(&std::fs::read(json)?)?))
    }

    fn ours(&self, tasks: usize, what: &str) -> Result<f64> {
        let name = format!("manager, {tasks} tasks: {what}");
        let row = self.0.iter().find(|row| row["name"] == *name);
        let ours = row.and_then(|row| row["ours"].as_f64());
        ours.with_context(|| format!("no figure for {name}"))
    }
}

#[test]
fn event_cost_does_not_grow_with_the_number_of_tasks() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let rows = Rows::measure(&directory.path().join("bench.json"))?;
    let mut stale = vec![];
    for tasks in [FEW_TASKS, MANY_TASKS] {
        // Only stale objects are written, and no difference remains.
        let redundant = rows.ours(tasks, "redundant writes and remaining changes")?;
        assert_eq!((tasks, redundant), (tasks, 0.0));
        stale.push(rows.ours(tasks, "written where 1 % is stale")?);
        // The events repeat the state of a running task, which needs no decision.
        let decided = rows.ours(tasks, "containers decided on for an event")?;
        assert_eq!((tasks, decided), (tasks, 0.0));
        assert_eq!((tasks, rows.ours(tasks, "stores copied")?), (tasks, 0.0));
        for figure in [
            "full resync",
            "memory a task",
            "events",
            "event to write p50",
            "event to write p99",
            "idle CPU",
        ] {
            rows.ours(tasks, figure)?;
        }
    }
    // One write for each stale object.
    let each: Vec<_> = stale
        .iter()
        .zip([2.0, 12.0])
        .map(|(all, count)| all / count)
        .collect();
    assert_eq!(each, [1.0, 1.0]);
    let growth = rows.0.iter().filter(|row| {
        let name = row["name"].as_str().unwrap_or_default();
        name.starts_with("manager: growth of")
    });
    assert_eq!(growth.count(), 7);
    Ok(())
}
