//! Hosts that are cut off: packets are dropped on the way, both ways, and nobody is told.

use anyhow::Result;

use crate::testbed::Host;

/// What is dropped at a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut<'a> {
    /// Everything from and to other hosts.
    Off,
    /// What it asks others at these ports.
    From(&'a [u16]),
    /// What others ask it at these ports.
    At(&'a [u16]),
}

/// Cuts a host off. What is cut by one name is mended by the same.
pub(super) fn cut(host: &Host, name: &str, what: Cut<'_>) -> Result<()> {
    let ports = |ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        format!("{{ {} }}", ports.join(", "))
    };
    let (incoming, outgoing) = match what {
        Cut::Off => (String::new(), String::new()),
        Cut::From(all) => (
            format!("tcp sport {} ", ports(all)),
            format!("tcp dport {} ", ports(all)),
        ),
        Cut::At(all) => (
            format!("tcp dport {} ", ports(all)),
            format!("tcp sport {} ", ports(all)),
        ),
    };
    host.sh(&format!(
        "nft -f - <<'END'\n\
         table inet chaos_{name} {{\n\
         chain incoming {{ type filter hook input priority -500; iifname lo accept; {incoming}drop; }}\n\
         chain outgoing {{ type filter hook output priority -500; oifname lo accept; {outgoing}drop; }}\n\
         }}\nEND"
    ))?;
    Ok(())
}

/// Connects it again.
pub(super) fn mend(host: &Host, name: &str) -> Result<()> {
    host.sh(&format!("nft delete table inet chaos_{name}"))?;
    Ok(())
}
