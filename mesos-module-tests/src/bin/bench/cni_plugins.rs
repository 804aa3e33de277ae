//! The CNI plugins of Debian, run as network/cni runs them: one process after another.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Where Debian's containernetworking-plugins puts them.
const PLUGINS: &str = "/usr/lib/cni";

/// bridge + host-local, and portmap after it where there are ports.
pub(crate) struct CniPlugins {
    data_dir: String,
}

impl CniPlugins {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.display().to_string(),
        }
    }

    pub(crate) fn add(&self, id: &str, namespace: &Path, port: Option<u16>) -> Result<()> {
        let result = run("ADD", "bridge", id, namespace, &self.bridge())?;
        if let Some(port) = port {
            run("ADD", "portmap", id, namespace, &portmap(port, &result))?;
        }
        Ok(())
    }

    pub(crate) fn delete(&self, id: &str, namespace: &Path, port: Option<u16>) -> Result<()> {
        if let Some(port) = port {
            run(
                "DEL",
                "portmap",
                id,
                namespace,
                &portmap(port, &Value::Null),
            )?;
        }
        run("DEL", "bridge", id, namespace, &self.bridge())?;
        Ok(())
    }

    fn bridge(&self) -> Value {
        json!({
            "cniVersion": "0.3.1", "name": "peer", "type": "bridge", "bridge": "peer0",
            "isGateway": true, "hairpinMode": true, "mtu": 1500,
            "ipam": {
                "type": "host-local", "subnet": "10.77.0.0/16", "dataDir": self.data_dir,
                "routes": [{ "dst": "0.0.0.0/0" }]
            }
        })
    }
}

fn portmap(port: u16, previous: &Value) -> Value {
    json!({
        "cniVersion": "0.3.1", "name": "peer", "type": "portmap", "snat": true,
        "capabilities": { "portMappings": true }, "prevResult": previous,
        "runtimeConfig": {
            "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }]
        }
    })
}

fn run(command: &str, plugin: &str, id: &str, namespace: &Path, config: &Value) -> Result<Value> {
    let mut child = Command::new(Path::new(PLUGINS).join(plugin))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("cannot start {PLUGINS}/{plugin}; install containernetworking-plugins")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{plugin} {command}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}
