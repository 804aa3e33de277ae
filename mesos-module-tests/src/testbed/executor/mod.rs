//! The executors that the agent starts: one for command tasks, one for task groups.
//!
//! They run inside the container, in its network namespace, and use the v1 HTTP executor API at the
//! agent's address.
//!
//! Invariants:
//! - An update is kept until the agent has acknowledged it. After a restart of a checkpointing agent
//!   all kept updates are sent again, in order.
//! - An executor ends when its last task has ended and everything is acknowledged, when the agent
//!   shuts it down, or when the agent does not reconnect within its recovery timeout.

mod agent;
mod command;
mod group;
mod health;

use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Runs the executor that this process is called as. `arguments` begin with the program's name.
pub fn main(arguments: &[String]) -> Result<()> {
    let name = arguments
        .first()
        .and_then(|program| Path::new(program).file_name()?.to_str())
        .context("an executor needs a name")?;
    match name {
        "mesos-executor" => run(command::run(&arguments[1..])),
        "mesos-default-executor" => run(group::run()),
        other => bail!("{other} is not an executor of Mesos"),
    }
}

/// One thread: hundreds of executors run at the same time.
fn run(executor: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the executor's runtime")?
        .block_on(executor)
}
