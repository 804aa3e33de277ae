//! Containers on overlays.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::OverlayCluster;
use crate::testbed::agent::{address, container, serve};
use crate::testbed::framework::TaskUpdate;
use crate::testbed::{WeakHost, until};

/// A running container on an overlay.
pub struct Container {
    /// Its task.
    pub task: String,
    /// Its host.
    pub host: WeakHost,
    /// Its id, the name of its network namespace, too.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
}

impl Container {
    /// Launches a task that serves its name as a page, on an overlay and a node.
    pub fn start(cluster: &OverlayCluster, task: &str, overlay: &str, node: usize) -> Result<Self> {
        let update = cluster.run(task, overlay, node, &serve(task))?;
        Self::of(cluster, &update, overlay, node)
    }

    /// The container of a running task, whose address must be of its host's part of the overlay.
    pub fn of(
        cluster: &OverlayCluster,
        update: &TaskUpdate,
        overlay: &str,
        node: usize,
    ) -> Result<Self> {
        let address = address(update)?;
        let state = cluster.node_state(node)?;
        let local = state.overlay(overlay);
        let local = local.with_context(|| format!("no overlay {overlay} in {state:?}"))?;
        let withdrawn = local.withdrawn.iter().copied();
        let mut own = local.subnets().chain(withdrawn);
        ensure!(
            own.any(|subnet| subnet.contains(&address)),
            "{address} is not of {local:?}"
        );
        Ok(Self {
            task: update.task_id.clone(),
            host: cluster.host(node).downgrade(),
            id: container(update)?,
            address,
        })
    }

    /// Runs a command in the container's network namespace.
    pub fn sh(&self, command: &str) -> Result<String> {
        self.host
            .upgrade()?
            .sh(&format!("ip netns exec {} {command}", self.id))
            .with_context(|| format!("in {} at {}", self.task, self.address))
    }

    /// Sends pings to an address, all of which must be answered.
    pub fn ping(&self, address: IpAddr, count: usize) -> Result<()> {
        self.sh(&format!("ping -q -i 0.1 -c {count} -W 5 {address}"))
            .map(drop)
    }

    /// Checks that both can reach each other by ICMP and TCP, in both directions.
    pub fn expect_reaches(&self, other: &Self) -> Result<()> {
        for (from, to) in [(self, other), (other, self)] {
            from.ping(to.address, 1)?;
            let page = from.sh(&to.fetch())?;
            ensure!(page.trim() == to.task, "{}: {page:?}", to.task);
        }
        Ok(())
    }

    /// Waits until a ping is answered.
    pub fn wait_until_reaches(&self, other: &Self) -> Result<()> {
        until("containers reach each other", || {
            let ping = self.sh(&format!("ping -q -c 1 -W 1 {}", other.address));
            Ok(ping.is_ok().then_some(()))
        })
    }

    /// A command that fetches the container's page, and retries until its server has started.
    #[must_use]
    pub fn fetch(&self) -> String {
        let address = SocketAddr::new(self.address, 80);
        format!("curl -gsSf -m 5 --retry 20 --retry-delay 1 --retry-all-errors http://{address}/")
    }
}
