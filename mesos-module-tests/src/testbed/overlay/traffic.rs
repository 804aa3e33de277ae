//! Traffic between containers, and what of it is seen on the way.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::OverlayCluster;
use crate::testbed::Host;
use crate::testbed::agent::{WAIT_TIMEOUT, address};

/// The TCP port of transfers.
const PORT: u16 = 7000;
/// How many numbers must arrive until a transfer counts as going on.
const PROGRESS: usize = 20;

/// A single TCP connection between two tasks, on which numbers go to the server and back, one after
/// another. Both tasks end with the connection.
pub struct Transfer {
    received: PathBuf,
    tasks: [String; 2],
}

impl Transfer {
    /// Starts a transfer between two nodes on an overlay, and waits until it runs.
    pub fn start(
        cluster: &OverlayCluster,
        overlay: &str,
        [client, server]: [usize; 2],
    ) -> Result<Self> {
        let name = |part: &str| format!("transfer-{client}-{server}-{part}");
        let tasks = [name("client"), name("server")];
        let command = format!("exec busybox nc -l -p {PORT} -e cat");
        let running = cluster.run(&tasks[1], overlay, server, &command)?;
        let command = format!(
            "i=0; while sleep 0.05; do i=$((i+1)); echo $i; done | \
             for attempt in 1 2 3 4 5 6 7 8 9; do \
             busybox nc {} {PORT} > received; test -s received && exit 1; sleep 0.3; done",
            address(&running)?
        );
        cluster.run(&tasks[0], overlay, client, &command)?;
        let scheduler = &cluster.mesos.scheduler;
        let sandbox = cluster
            .node(client)
            .cluster
            .sandbox(&scheduler.framework, &tasks[0])?;
        let transfer = Self {
            received: sandbox.canonicalize()?.join("received"),
            tasks,
        };
        transfer.wait_for_progress()?;
        Ok(transfer)
    }

    /// The numbers that came back so far.
    fn numbers(&self) -> Result<Vec<u64>> {
        let text = fs::read_to_string(&self.received).unwrap_or_default();
        // The last line may be incomplete.
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete
            .lines()
            .map(|line| {
                line.parse()
                    .with_context(|| format!("not a number: {line}"))
            })
            .collect()
    }

    /// Waits until more numbers have arrived.
    pub fn wait_for_progress(&self) -> Result<()> {
        let (started, before) = (Instant::now(), self.numbers()?.len());
        while self.numbers()?.len() < before + PROGRESS {
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "the transfer of {} stopped after {before} numbers",
                self.tasks[0]
            );
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Checks that it still goes on, on its first connection, and ends its tasks. Returns how many
    /// numbers arrived.
    pub fn finish(self, cluster: &OverlayCluster) -> Result<usize> {
        self.wait_for_progress()?;
        let numbers = self.numbers()?;
        let is_complete = numbers.iter().copied().eq(1..=numbers.len() as u64);
        ensure!(is_complete, "numbers are missing: {numbers:?}");
        let live = cluster.mesos.scheduler.framework.live_tasks();
        for task in &self.tasks {
            ensure!(live.contains(task), "{task} has ended");
        }
        for task in &self.tasks {
            cluster.mesos.scheduler.kill(task)?;
        }
        Ok(numbers.len())
    }
}

/// Counts packets that leave a host by its uplink.
pub struct Capture(Host);

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// VXLAN packets.
    pub vxlan: u64,
    /// Packets from addresses of overlays, outside of VXLAN.
    pub plain: u64,
}

impl Capture {
    /// Begins to count. `overlays` is a subnet that contains those of all overlays.
    pub fn start(host: &Host, overlays: &str) -> Result<Self> {
        // The hook is behind the translation of addresses.
        host.sh(&format!(
            "nft -f - <<'END'\n\
             table ip testbed_capture {{\n\
             counter vxlan {{ }}\n\
             counter plain {{ }}\n\
             chain out {{ type filter hook postrouting priority 500;\n\
             oifname uplink udp dport 4789 counter name vxlan\n\
             oifname uplink ip saddr {overlays} counter name plain\n\
             }}\n\
             }}\nEND"
        ))?;
        Ok(Self(host.clone()))
    }

    /// What was counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let count = |name: &str| -> Result<u64> {
            let text = self
                .0
                .sh(&format!("nft list counter ip testbed_capture {name}"))?;
            let packets = text.split("packets ").nth(1);
            let packets = packets.and_then(|rest| rest.split_whitespace().next());
            Ok(packets.with_context(|| text.clone())?.parse()?)
        };
        Ok(Counts {
            vxlan: count("vxlan")?,
            plain: count("plain")?,
        })
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.0.sh("nft delete table ip testbed_capture")?;
        Ok(())
    }
}
