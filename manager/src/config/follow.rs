//! The tables `[mesos]`, `[marathon]` and `[reconcile]`.

use std::path::Path;

use super::Follow;
use super::fields::{authorities, credentials, identity};
use crate::marathon::{self, MarathonOptions};
use crate::mesos_master::{MasterOptions, Masters};
use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::http::{Address, Credentials, LeaderOptions, TlsOptions};

const MASTERS: &str = "masters such as \"10.0.0.1:5050,10.0.0.2:5050\" or \
                       \"zk://10.0.0.1:2181,10.0.0.2:2181/mesos\"";
const SERVER: &str = "a Marathon such as \"http://10.0.0.1:8080\"";

pub(super) fn read(top: &Section<'_>) -> Option<Follow> {
    let mesos = top.section("mesos").map(mesos);
    let marathon = top.section("marathon").map(marathon);
    let reconcile = top.section("reconcile");
    let Some(mesos) = mesos else {
        let without = "needs a table [mesos]";
        // A table [mesos] that is no table, or misspelt, is reported as such.
        let is_missing = !top.has("mesos") && !top.is_misspelt("mesos");
        if marathon.is_some() && is_missing {
            top.problem("marathon", without);
        }
        if let Some(section) = reconcile {
            if is_missing {
                top.problem("reconcile", without);
            }
            // Its keys are checked nevertheless.
            reconcile_options(&section, Follow::new(no_masters()));
            section.finish();
        }
        return None;
    };
    let mut follow = Follow::new(mesos);
    if let Some((options, framework)) = marathon {
        follow.marathon = Some(options);
        if let Some(framework) = framework {
            follow.policy.framework = framework.into();
        }
    }
    if let Some(section) = reconcile {
        follow = reconcile_options(&section, follow);
        section.finish();
    }
    Some(follow)
}

fn no_masters() -> MasterOptions {
    MasterOptions {
        masters: Masters::Listed(vec![]),
        secure: false,
        access: LeaderOptions::default(),
    }
}

fn mesos(section: Section<'_>) -> MasterOptions {
    let masters = section.parsed::<Masters>("masters", MASTERS);
    if !section.has("masters") {
        section.problem("masters", format!("is missing: {MASTERS}"));
    }
    let options = MasterOptions {
        masters: masters.unwrap_or(Masters::Listed(vec![])),
        secure: section.boolean("secure", false),
        access: access(&section),
    };
    section.finish();
    options
}

fn marathon(section: Section<'_>) -> (MarathonOptions, Option<String>) {
    let servers = section.parsed_list_with("servers", SERVER, |text| {
        Address::parse(text, marathon::DEFAULT_PORT)
    });
    if !section.has("servers") {
        section.problem(
            "servers",
            format!("is missing: an array, each entry {SERVER}"),
        );
    } else if section.is_empty_list("servers") {
        section.problem(
            "servers",
            format!("is empty: an array, each entry {SERVER}"),
        );
    }
    let options = MarathonOptions {
        servers: servers.unwrap_or_default(),
        access: access(&section),
    };
    let framework = section.text("framework", "the name of Marathon's framework");
    section.finish();
    (options, framework)
}

/// Certificates and credentials.
fn access(section: &Section<'_>) -> LeaderOptions {
    let basic = section.section("basic").map(|section| {
        let (user, password) = credentials(&section);
        section.finish();
        Credentials::Basic { user, password }
    });
    let token = section.text("token_file", "a file with a DC/OS token");
    if let Some(token) = &token {
        section.check_files(|files| files.secret("token_file", Path::new(token)));
    }
    if basic.is_some() && token.is_some() {
        section.problem("token_file", "the table basic is set as well; write one");
    }
    LeaderOptions {
        tls: TlsOptions {
            ca: authorities(section, "ca"),
            identity: identity(section),
        },
        credentials: basic
            .or_else(|| Some(Credentials::TokenFile(token?.into())))
            .unwrap_or_default(),
        ..LeaderOptions::default()
    }
}

fn reconcile_options(section: &Section<'_>, mut follow: Follow) -> Follow {
    follow.resync = section.duration("resync", follow.resync);
    let policy = &mut follow.policy;
    policy.stabilization_window =
        section.duration("stabilization_window", policy.stabilization_window);
    policy.grace_period = section.duration("grace_period", policy.grace_period);
    policy.agent_gone_after = section.duration("agent_gone_after", policy.agent_gone_after);
    if policy.grace_period < policy.stabilization_window {
        let message = "is less than stabilization_window: it has to be at least as long";
        section.problem("grace_period", message);
    }
    if let Some(concurrency) = section.integer("concurrency", 1..=1000) {
        follow.concurrency = concurrency as usize;
    }
    if let Some(page_size) = section.integer("page_size", 1..=10_000) {
        follow.page_size = page_size;
    }
    follow
}
