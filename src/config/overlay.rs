//! The keys of networks of provider `overlay`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bridge;
use contrail_mesos_api::config_reader::Section;

/// The longest name of an overlay, in bytes: the name of its bridge, with `m-`, is an interface name.
pub const MAX_OVERLAY_NAME_BYTES: usize = 13;
/// The keys of a `[[network]]` of provider `overlay` only.
pub(super) const KEYS: &[&str] = &["overlay"];
const OVERLAY: &str = "the name of an overlay of the managers, such as \"vxlan-1\"";

/// A network of provider `overlay`: this host's part of an overlay. The managers choose its subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayNetwork {
    /// The overlay's name.
    pub overlay: String,
    /// Whether traffic that leaves the cluster's overlays gets the host's address.
    pub masquerade: bool,
    /// Whether a frame may leave by the bridge port by which it came in.
    pub hairpin: bool,
    /// Destinations that the containers reach by the gateway; `None` for everything on a container's
    /// first network and the overlay itself on any other.
    pub routes: Option<Vec<IpNet>>,
}

impl OverlayNetwork {
    /// The name of the bridge that its containers are on.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("m-{}", self.overlay)
    }
}

/// The overlay that a network of this host is part of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayPart {
    /// The overlay's name.
    pub name: String,
    /// Subnets to which packets are never masqueraded, as the node daemon published them.
    pub cluster_subnets: Vec<IpNet>,
}

/// Whether an overlay can have that name.
#[must_use]
pub fn is_overlay_name(name: &str) -> bool {
    (1..=MAX_OVERLAY_NAME_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && bridge::is_interface_name(name)
}

/// Reads the keys of a `[[network]]` of provider `overlay`. `name` is the network's, if it is valid.
pub(super) fn network(section: &Section<'_>, name: Option<&str>) -> OverlayNetwork {
    let overlay = section.checked("overlay", OVERLAY, |overlay| {
        if is_overlay_name(overlay) {
            Ok(overlay.to_owned())
        } else {
            Err(format!(
                "a name has 1 to {MAX_OVERLAY_NAME_BYTES} letters, digits and any of . _ - , and begins \
                 with a letter or digit"
            ))
        }
    });
    if let Some(name) = name
        && !section.has("overlay")
        && !is_overlay_name(name)
    {
        section.problem(
            "overlay",
            format!(
                "no overlay can have the network's name, which has more than {MAX_OVERLAY_NAME_BYTES} \
                 characters or others than letters, digits, . _ - ; add overlay = \"vxlan-1\""
            ),
        );
    }
    OverlayNetwork {
        overlay: overlay.unwrap_or_else(|| name.unwrap_or_default().to_owned()),
        masquerade: section.boolean("masquerade", true),
        hairpin: section.boolean("hairpin", true),
        routes: section.parsed_list("routes", bridge::ROUTE),
    }
}
