//! `contrail-mesos dump`: one archive for the report of a problem.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use contrail_mesos::config::Source;
use contrail_mesos::dump::HostDump;
use contrail_mesos_api::dump::{DumpOptions, default_path, parse_size, summary, write};
use contrail_mesos_api::http::Address;

use crate::doctor::agent_address;
use crate::output::print;

/// Collect what a report of a problem needs into one archive, without secrets
///
/// The archive has versions, the configuration, what doctor, status and check report, checkpoints and
/// leases, links, routes and rules of the host, what the node daemon and the managers know, the flags of the
/// agent, and logs. It has nothing of the containers' own processes and files. Passwords, tokens, keys,
/// environments and labels of tasks are hidden: look through it before you give it away all the same.
///
/// A part that cannot be read is named in manifest.json, and does not fail the dump.
#[derive(Args)]
pub(crate) struct DumpCommand {
    /// The archive, which must not exist [default: contrail-mesos-dump-<time>.tar.gz in this directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The most bytes that the archive may have, such as 16M
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    max_size: u64,
    /// The agent [default: the mesos-agent that runs in this network namespace]
    #[arg(long, value_name = "ADDRESS", value_parser = agent_address)]
    agent: Option<Address>,
    /// Also take the end of this file, such as a log of the node daemon. May be given several times
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// State directory [default: that of the configuration]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
}

impl DumpCommand {
    pub(crate) async fn run(self, source: Source) -> Result<ExitCode> {
        let host = HostDump {
            source,
            state_dir: self.state_dir,
            agent: self.agent,
            logs: self.log,
            // Also after its file was replaced.
            program: PathBuf::from("/proc/self/exe"),
        };
        let (parts, redactor) = host.collect().await;
        let program = "contrail-mesos";
        let options = DumpOptions {
            path: self.output.unwrap_or_else(|| default_path(program)),
            max_bytes: self.max_size,
            program,
            version: env!("CARGO_PKG_VERSION"),
        };
        let dump = write(&options, parts, &redactor).await?;
        print(&summary(&dump))?;
        Ok(ExitCode::SUCCESS)
    }
}
