//! `contrail-mesos groups`: shows and changes the groups of a running container.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use contrail_mesos::endpoints::{policy, read_groups, write_groups};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Checkpoints, StoredCheckpoint};
use contrail_mesos::membership::membership;
use contrail_mesos::node_state::NodeState;
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::text::Quoted;
use serde_json::json;

use crate::Output;
use crate::output::print;
use crate::state::StateOptions;

/// Show or change the groups of a running container
#[derive(Args)]
pub(crate) struct GroupsCommand {
    /// Container or attachment, as status prints it
    container: String,
    /// Group to be in; repeat it for several. With any of these options, the container is in the groups
    /// and security groups that are named, and in no others
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Security group to be in; repeat it for several
    #[arg(long = "security-group", value_name = "NAME")]
    security_groups: Vec<String>,
    /// Be in no group
    #[arg(long, conflicts_with_all = ["groups", "security_groups", "reset"])]
    none: bool,
    /// Be in the groups of the launch again
    #[arg(long, conflicts_with_all = ["groups", "security_groups"])]
    reset: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub(crate) state: StateOptions,
}

impl GroupsCommand {
    pub(crate) fn run(self, state_dir: &Path) -> Result<ExitCode> {
        let name = &self.container;
        let checkpoints = Checkpoints::new(state_dir);
        let checkpoint = match checkpoints.find_printed(name)? {
            Some(StoredCheckpoint::Intact { checkpoint, .. }) => checkpoint,
            Some(StoredCheckpoint::Damaged { error, .. }) => {
                bail!("the checkpoint of {name} cannot be read: {error}")
            }
            None => bail!("{} is not attached on this host", Quoted(name.as_bytes())),
        };
        ensure!(
            !isolated_networks(&checkpoint, None).is_empty(),
            "{name} is on no network that isolates groups: groups would have no effect"
        );
        if self.reset {
            write_groups(&checkpoints, &checkpoint.container, None)?;
        } else if self.none || !self.groups.is_empty() || !self.security_groups.is_empty() {
            let changed = self.membership(state_dir)?;
            write_groups(&checkpoints, &checkpoint.container, Some(&changed))?;
        }
        self.print(&checkpoints, &checkpoint)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The groups that are named, if a container can be in all of them.
    fn membership(&self, state_dir: &Path) -> Result<Membership> {
        let membership = membership(
            self.groups.iter().map(String::as_bytes),
            self.security_groups.iter().map(String::as_bytes),
        )?;
        if !membership.security_groups.is_empty() {
            let state =
                NodeState::read(state_dir).context("the rules of security groups are not known")?;
            let unknown: Vec<String> = membership
                .security_groups
                .iter()
                .filter(|group| !state.security_groups.contains(group))
                .map(|group| Quoted(group.as_bytes()).to_string())
                .collect();
            ensure!(
                unknown.is_empty(),
                "there is no security group {}; add it to the managers' configuration",
                unknown.join(", ")
            );
        }
        Ok(membership)
    }

    fn print(&self, checkpoints: &Checkpoints, checkpoint: &Checkpoint) -> Result<()> {
        let changed = read_groups(checkpoints, &checkpoint.container)?;
        let networks = isolated_networks(checkpoint, changed.as_ref());
        let mut text = String::new();
        match self.output {
            Output::Json => {
                let networks: Vec<_> = networks
                    .iter()
                    .map(|(network, membership)| {
                        json!({
                            "network": network,
                            "groups": membership.groups,
                            "security_groups": membership.security_groups,
                        })
                    })
                    .collect();
                let groups = json!({
                    "container": self.container,
                    "is_changed": changed.is_some(),
                    "networks": networks,
                });
                writeln!(text, "{}", serde_json::to_string_pretty(&groups)?)?;
            }
            Output::Table => {
                let since = if changed.is_some() {
                    "changed since the launch"
                } else {
                    "as launched"
                };
                for (network, membership) in &networks {
                    let groups = groups_text(membership);
                    writeln!(text, "{} on {network}: {groups} ({since})", self.container)?;
                }
            }
        }
        print(&text)
    }
}

/// The networks of a container that isolate groups, each with the groups that it has there.
fn isolated_networks(
    checkpoint: &Checkpoint,
    changed: Option<&Membership>,
) -> Vec<(String, Membership)> {
    let intents = checkpoint.networks.iter().map(|network| &network.intent);
    intents
        .filter_map(|intent| {
            let policy = policy(intent, changed)?;
            Some((intent.network.clone(), policy.membership))
        })
        .collect()
}

/// The names of groups, for a person.
pub(crate) fn groups_text(membership: &Membership) -> String {
    if membership.is_empty() {
        return "no group".to_owned();
    }
    let security_groups = membership.security_groups.iter();
    let security_groups = security_groups.map(|group| format!("security group {group}"));
    let groups: Vec<String> = membership
        .groups
        .iter()
        .cloned()
        .chain(security_groups)
        .collect();
    groups.join(", ")
}
