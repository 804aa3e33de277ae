//! Network partitions: nftables rules that drop packets in both directions.

use anyhow::Result;

use crate::testbed::Host;

/// The packets that are dropped at a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut<'a> {
    /// All packets from and to other hosts.
    All,
    /// Connections from the host to these ports.
    From(&'a [u16]),
    /// Connections to these ports of the host.
    At(&'a [u16]),
}

/// Begins to drop packets at a host, until [`mend`] is called with the same name.
pub(super) fn cut(host: &Host, name: &str, packets: Cut<'_>) -> Result<()> {
    let ports = |ports: &[u16]| {
        let numbers: Vec<String> = ports.iter().map(ToString::to_string).collect();
        format!("{{ {} }}", numbers.join(", "))
    };
    let (incoming, outgoing) = match packets {
        Cut::All => (String::new(), String::new()),
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

/// Ends what [`cut`] began.
pub(super) fn mend(host: &Host, name: &str) -> Result<()> {
    host.sh(&format!("nft delete table inet chaos_{name}"))?;
    Ok(())
}
