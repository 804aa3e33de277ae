//! The files of rules, dashboards and runbooks fit together, and to what is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::prometheus::monitoring;
use serde_json::json;

use super::{contrail, dashboard, overlay, panels, queries};

const DASHBOARDS: [&str; 4] = ["nodes", "networks", "manager", "services"];
/// No test fires them on a cluster: a comparison that never ends, with the kernel healthy, would be a bug.
/// The unit tests of the rules fire them.
const WITHOUT_FAULT: [&str; 1] = ["ContrailMesosSubsystemHangs"];

fn docs(name: &str) -> Result<String> {
    let path: PathBuf = monitoring().join("../docs").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn rules() -> Result<String> {
    Ok(fs::read_to_string(monitoring().join("alerts.yaml"))?)
}

/// The values of a key of the rules, in order.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    let lines = rules.lines().map(str::trim_start);
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .collect()
}

/// Fails if promtool does, or is missing: it is in the Debian package `prometheus`.
fn promtool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(monitoring())
        .output()
        .context("promtool is missing: install the Debian package prometheus")?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn rules_pass_their_unit_tests() -> Result<()> {
    promtool(&["check", "rules", "--lint-fatal", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts_test.yaml"])?;
    let tests = fs::read_to_string(monitoring().join("alerts_test.yaml"))?;
    for alert in values(&rules()?, "- alert") {
        ensure!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "alerts_test.yaml has no test of {alert}"
        );
    }
    Ok(())
}

#[test]
fn every_alert_has_a_fault_that_fires_it() -> Result<()> {
    let rules = rules()?;
    let alerts: BTreeSet<&str> = values(&rules, "- alert").into_iter().collect();
    let tested = overlay::alerts().chain(contrail::alerts());
    let tested: BTreeSet<&str> = tested.chain(WITHOUT_FAULT).collect();
    assert_eq!(alerts, tested);
    Ok(())
}

#[test]
fn every_alert_has_its_section_in_the_runbooks() -> Result<()> {
    let (rules, runbooks) = (rules()?, docs("runbooks.md")?);
    let alerts = values(&rules, "- alert");
    let links = values(&rules, "runbook_url");
    assert_eq!(alerts.len(), links.len());
    let headings = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<&str> = headings.collect();
    assert_eq!(headings, alerts, "in the order of the rules");
    for (alert, link) in alerts.iter().zip(links) {
        // As GitHub and mdBook make anchors of headings.
        let end = format!("docs/runbooks.md#{}'", alert.to_lowercase());
        ensure!(link.ends_with(&end), "{alert}: {link}");
    }
    for key in ["severity", "summary", "description", "for"] {
        assert_eq!(values(&rules, key).len(), alerts.len(), "{key}");
    }
    Ok(())
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = expression.split(move |character| !is_part(character));
    words.filter(|word| word.starts_with("contrail_mesos_") || word.starts_with("process_"))
}

#[test]
fn every_metric_of_rules_and_dashboards_is_documented() -> Result<()> {
    let (rules, documented) = (rules()?, docs("metrics.md")?);
    let mut expressions: Vec<String> = values(&rules, "expr")
        .into_iter()
        .map(str::to_owned)
        .collect();
    for name in DASHBOARDS {
        expressions.extend(queries(&dashboard(name)?));
    }
    for metric in expressions
        .iter()
        .flat_map(|expression| metrics(expression))
    {
        let name = metric.strip_prefix("contrail_mesos_manager_");
        let name = name.or_else(|| metric.strip_prefix("contrail_mesos_node_"));
        let name = name.unwrap_or(metric);
        // The page has histograms as a whole.
        let of_histogram = ["_bucket", "_count", "_sum"];
        let of_histogram = of_histogram.map(|suffix| name.strip_suffix(suffix));
        let mut names = of_histogram.into_iter().flatten().chain([name]);
        let is_documented = names.any(|name| {
            documented.contains(&format!("`{name}`")) || documented.contains(&format!("`{name}{{"))
        });
        ensure!(is_documented, "docs/metrics.md lacks {metric}");
    }
    Ok(())
}

#[test]
fn dashboards_are_what_their_script_writes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::copy(
        monitoring().join("dashboards.py"),
        directory.path().join("dashboards.py"),
    )?;
    let status = Command::new("python3")
        .arg(directory.path().join("dashboards.py"))
        .status()?;
    ensure!(status.success(), "{status}");
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let file = format!("dashboards/{name}.json");
        let committed = fs::read_to_string(monitoring().join(&file))?;
        let written = fs::read_to_string(directory.path().join(&file))?;
        ensure!(committed == written, "run monitoring/dashboards.py: {file}");
        let dashboard = dashboard(name)?;
        ensure!(uids.insert(dashboard["uid"].to_string()), "{file}");
        let all = dashboard["panels"].as_array().context("no panels")?;
        let ids: BTreeSet<u64> = all
            .iter()
            .filter_map(|panel| panel["id"].as_u64())
            .collect();
        assert_eq!(ids.len(), all.len(), "{file}");
        for panel in panels(&dashboard) {
            for key in ["title", "description"] {
                let text = panel[key].as_str().unwrap_or_default();
                ensure!(!text.is_empty(), "{file}: {key} of {panel}");
            }
            ensure!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{panel}"
            );
        }
        for query in queries(&dashboard) {
            ensure!(!query.contains('$'), "{file}: {query}");
        }
    }
    assert_eq!(
        fs::read_dir(monitoring().join("dashboards"))?.count(),
        DASHBOARDS.len()
    );
    Ok(())
}

#[test]
fn promtool_accepts_every_query_of_the_dashboards() -> Result<()> {
    let mut rules = vec![];
    for name in DASHBOARDS {
        for query in queries(&dashboard(name)?) {
            rules.push(json!({ "record": format!("query:{}", rules.len()), "expr": query }));
        }
    }
    // All JSON is YAML.
    let file = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("queries.yaml");
    fs::write(&path, file.to_string())?;
    promtool(&["check", "rules", &path.display().to_string()])
}
