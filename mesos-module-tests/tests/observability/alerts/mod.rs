//! Every alert is fired by a real fault, and every query of the dashboards has an answer: a real
//! Prometheus scrapes real managers and node daemons.

mod contrail;
mod files;
mod overlay;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::prometheus::{Prometheus, monitoring};
use mesos_module_tests::testbed::until;
use serde_json::Value;

/// What is done to the running cluster, and which alerts fire because of it.
struct Fault<T> {
    inject: fn(&mut T) -> Result<()>,
    alerts: &'static [&'static str],
}

/// Does one thing after another, and waits for the alerts of each. None of them may fire before.
fn fire_all<T>(
    cluster: &mut T,
    prometheus: fn(&T) -> &Prometheus,
    faults: &[Fault<T>],
) -> Result<()> {
    for fault in faults {
        until("the alerts do not fire without their fault", || {
            let before = prometheus(cluster).firing()?;
            for alert in fault.alerts {
                ensure!(!before.contains(*alert), "{alert} fires");
            }
            Ok(Some(()))
        })?;
        (fault.inject)(cluster).with_context(|| format!("the fault for {:?}", fault.alerts))?;
        prometheus(cluster).expect_firing(fault.alerts)?;
    }
    Ok(())
}

/// A dashboard.
fn dashboard(name: &str) -> Result<Value> {
    let path = monitoring().join(format!("dashboards/{name}.json"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// The panels of a dashboard that have queries.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    panels.filter(|panel| panel["type"] != "row")
}

/// The queries of a dashboard as Grafana sends them with all clusters and instances selected.
fn queries(dashboard: &Value) -> Vec<String> {
    let targets =
        panels(dashboard).flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    expressions
        .map(|expression| {
            expression
                .replace("$cluster", ".*")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m")
        })
        .collect()
}

/// Waits until every query of a dashboard has an answer with a series.
fn expect_data(prometheus: &Prometheus, name: &str) -> Result<()> {
    for query in queries(&dashboard(name)?) {
        until("the query of a dashboard has data", || {
            let series = prometheus.query(&query)?;
            ensure!(!series.is_empty(), "{name}: {query}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}
