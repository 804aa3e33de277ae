//! A real Prometheus with the alerting rules of the repository, on a simulated host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Url;
use serde_json::{Value, json};

use super::service::Service;
use super::{Host, until};

/// Where it listens.
const PORT: u16 = 9090;
/// How often it scrapes, and how often it evaluates the rules.
const INTERVAL: &str = "1s";

/// The directory of rules and dashboards.
#[must_use]
pub fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring")
}

/// A Prometheus. The process ends when the value is dropped, or with the thread that started it.
pub struct Prometheus(Service);

impl Prometheus {
    /// Starts it with scrape jobs and their targets. Its rules are those of the repository, but fire
    /// without waiting: the time of `for` is left out.
    pub fn start(host: &Host, jobs: &[(&str, Vec<SocketAddr>)]) -> Result<Self> {
        let mut service = Service::new(host, "prometheus");
        let directory = host.directory().join("prometheus");
        fs::create_dir_all(&directory)?;
        let rules = fs::read_to_string(monitoring().join("alerts.yaml"))?;
        let lines = rules.lines();
        let rules: Vec<&str> = lines
            .filter(|line| !line.trim_start().starts_with("for: "))
            .collect();
        let rules_path = directory.join("alerts.yaml");
        fs::write(&rules_path, rules.join("\n"))?;
        let jobs = jobs.iter().map(|(name, targets)| {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            json!({"job_name": name, "static_configs": [{ "targets": targets }]})
        });
        let config = json!({
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [rules_path],
            "scrape_configs": jobs.collect::<Vec<_>>(),
        });
        // All JSON is YAML.
        let config_path = directory.join("prometheus.yaml");
        fs::write(&config_path, config.to_string())?;
        let option = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("--{name}="));
            option.push(value);
            option
        };
        let listen = SocketAddr::new(host.address(), PORT).to_string();
        service.run([
            OsString::from("prometheus"),
            option("config.file", &config_path),
            option("storage.tsdb.path", &directory.join("data")),
            option("web.listen-address", Path::new(&listen)),
            "--log.level=warn".into(),
        ])?;
        let prometheus = Self(service);
        until("Prometheus answers", || prometheus.query("1").map(Some))
            .with_context(|| prometheus.0.log())?;
        Ok(prometheus)
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let host = self.0.host();
        let base = format!("http://{}{path}", SocketAddr::new(host.address(), PORT));
        let url = Url::parse_with_params(&base, parameters)?;
        let text = host.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build()?;
            anyhow::Ok(client.get(url).send().await?.text().await?)
        })?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(answer["status"] == "success", "{parameters:?}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The series of an expression now, or the scalar.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.get("/api/v1/query", &[("query", expression)])?;
        match &data["result"] {
            Value::Array(series) => Ok(series.clone()),
            other => bail!("{expression}: {other}"),
        }
    }

    /// The value of an expression with one series.
    pub fn value(&self, expression: &str) -> Result<f64> {
        let series = self.query(expression)?;
        let [one] = &series[..] else {
            bail!("{expression}: {series:?}");
        };
        let value = one["value"][1].as_str().unwrap_or_default();
        value.parse().with_context(|| one.to_string())
    }

    /// The names of the alerts that fire.
    pub fn firing(&self) -> Result<BTreeSet<String>> {
        let data = self.get("/api/v1/alerts", &[])?;
        let alerts = data["alerts"].as_array().into_iter().flatten();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        Ok(firing
            .filter_map(|alert| alert["labels"]["alertname"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// Waits until exactly these alerts fire.
    pub fn expect_only(&self, alerts: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = alerts.iter().map(ToString::to_string).collect();
        until("only the expected alerts fire", || {
            let firing = self.firing()?;
            ensure!(firing == expected, "{firing:?} fire");
            Ok(Some(()))
        })
    }

    /// Waits until all of these alerts fire.
    pub fn expect_firing(&self, alerts: &[&str]) -> Result<()> {
        until(&format!("{alerts:?} fire"), || {
            let firing = self.firing()?;
            let missing: Vec<_> = alerts
                .iter()
                .filter(|one| !firing.contains(**one))
                .collect();
            ensure!(missing.is_empty(), "{missing:?} do not fire");
            Ok(Some(()))
        })
    }
}
