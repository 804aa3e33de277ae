//! `contrail-mesos-manager dump`: one archive for the report of a problem.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use contrail_mesos_api::command_line;
use contrail_mesos_api::dump::{
    Contents, DumpOptions, Format, Part, Redactor, default_path, parse_size, summary, write,
};
use contrail_mesos_api::files::read_regular_or_linked_file;
use contrail_mesos_api::http::{Address, HttpClient, InvalidAddress, Limits, Request, TlsOptions};
use contrail_mesos_api::text::with_causes;
use contrail_mesos_manager::{Config, DEFAULT_ADMIN_PORT};
use serde_json::json;

/// What the admin listener answers.
const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(3),
    request_timeout: Duration::from_secs(20),
    max_body_bytes: 64 << 20,
};
/// The paths of the admin listener with JSON, without the parameters of lists.
const ANSWERS: [&str; 18] = [
    "mesos",
    "marathon",
    "contrail",
    "agents",
    "networks",
    "containers",
    "differences",
    "queue",
    "overlays",
    "nodes",
    "endpoints",
    "groups",
    "security-groups",
    "services",
    "task-names",
    "vips",
    "managers",
    "problems",
];
/// Those that are no lists, and take no parameters.
const WHOLE: [&str; 3] = ["vips", "managers", "problems"];
/// Its other paths, with text.
const TEXTS: [&str; 5] = ["live", "ready", "leading", "metrics", "log-level"];

/// Collect what a report of a problem needs into one archive, without secrets
///
/// The archive has versions, the configuration, and what the running manager says at its admin listener.
/// Passwords, tokens, keys and the labels of tasks are hidden: look through it before you give it away all
/// the same. A part that cannot be read is named in manifest.json, and does not fail the dump.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// The archive, which must not exist [default: contrail-mesos-manager-dump-<time>.tar.gz in this
    /// directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The most bytes that the archive may have, such as 16M
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    max_size: u64,
    /// The admin listener of the running manager [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<Address>,
    /// Also take the end of this file, such as the log of the manager. May be given several times
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

fn admin_address(text: &str) -> Result<Address, InvalidAddress> {
    Address::parse_root(text, DEFAULT_ADMIN_PORT)
}

impl Dump {
    /// Dumps what the manager with the configuration at this path has.
    pub(crate) fn run(&self, config: &Path) -> Result<()> {
        let mut redactor = Redactor::default();
        if let Ok(toml) = read_regular_or_linked_file(config) {
            redactor.add_configuration(&String::from_utf8_lossy(&toml));
        }
        let program = "contrail-mesos-manager";
        let options = DumpOptions {
            path: self.output.clone().unwrap_or_else(|| default_path(program)),
            max_bytes: self.max_size,
            program,
            version: env!("CARGO_PKG_VERSION"),
        };
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        let written = runtime.block_on(write(&options, self.parts(config), &redactor));
        // What hangs is left behind.
        runtime.shutdown_background();
        Ok(command_line::print(&summary(&written?))?)
    }

    fn parts(&self, path: &Path) -> Vec<Part> {
        let config = path.to_owned();
        let mut parts = vec![
            Part::blocking("host/system.json", Format::Json, || Ok(system())),
            Part::blocking("configuration/manager.toml", Format::Text, move || {
                read_regular_or_linked_file(&config)
                    .map(Contents::from)
                    .map_err(|error| format!("{}: {error}", config.display()))
            }),
            // Also after its file was replaced.
            Part::program(
                "commands/check.txt",
                Format::Text,
                "/proc/self/exe",
                &["config", "check", "--config", &path.display().to_string()],
            ),
            Part::program(
                "logs/journal.txt",
                Format::Log,
                "journalctl",
                &[
                    "--no-pager",
                    "--lines=5000",
                    "--output=short-iso",
                    "--unit=contrail-mesos-manager",
                    "--unit=mesos-master",
                    "--unit=dcos-mesos-master",
                ],
            ),
        ];
        match self.admin.clone().map_or_else(|| configured(path), Ok) {
            Ok(admin) => parts.extend(answers(&admin)),
            Err(error) => parts.push(Part::new("manager", Format::Text, async { Err(error) })),
        }
        let logs = self.log.iter().enumerate();
        parts.extend(
            logs.map(|(index, path)| {
                Part::file(format!("logs/given-{index}.txt"), Format::Log, path)
            }),
        );
        parts
    }
}

/// The admin listener of a configuration.
fn configured(path: &Path) -> Result<Address, String> {
    let config = Config::load(path).map_err(|_| {
        "the admin listener is not known, because the configuration is not valid: give it by --admin"
    })?;
    let address = config
        .admin_listen
        .ok_or("the configuration has no admin listener")?;
    admin_address(&address.to_string()).map_err(|error| error.to_string())
}

fn system() -> Contents {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let system = json!({
        "program": "contrail-mesos-manager",
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": text("/proc/version"),
        "host": text("/proc/sys/kernel/hostname"),
        "distribution": text("/etc/os-release"),
        "uptime": text("/proc/uptime"),
        "load": text("/proc/loadavg"),
        "memory": text("/proc/meminfo"),
    });
    system.to_string().into_bytes().into()
}

/// What the running manager answers.
fn answers(admin: &Address) -> Vec<Part> {
    let json = ANSWERS.map(|name| {
        let limit = if WHOLE.contains(&name) {
            ""
        } else {
            "?limit=1000"
        };
        (
            format!("/v1/{name}{limit}"),
            format!("manager/{name}.json"),
            Format::Json,
        )
    });
    let texts = TEXTS.map(|name| {
        (
            format!("/{name}"),
            format!("manager/{name}.txt"),
            Format::Text,
        )
    });
    json.into_iter()
        .chain(texts)
        .map(|(path, name, format)| {
            let admin = admin.clone();
            Part::new(name, format, async move { get(&admin, &path).await })
        })
        .collect()
}

/// An answer of the admin listener, whatever its status: that of a manager that does not lead is one, too.
async fn get(admin: &Address, path: &str) -> Result<Contents, String> {
    let http =
        HttpClient::new(LIMITS, &TlsOptions::default()).map_err(|error| with_causes(&error))?;
    let request = Request {
        method: hyper::Method::GET,
        uri: admin.uri(path).map_err(|error| error.to_string())?,
        headers: vec![],
        body: None,
    };
    let response = http.send(request).await;
    let response = response.map_err(|error| format!("{admin}: {}", with_causes(&error)))?;
    let status = response.status;
    Ok(Contents {
        bytes: response.body.to_vec(),
        is_cut: false,
        problem: (!status.is_success()).then(|| format!("{path} answers with status {status}")),
    })
}
