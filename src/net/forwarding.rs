//! Forwarding: the settings that make the host a router, and that keep its own interfaces working
//! as before.

use super::sysctl;

/// A kernel setting with the value that it must have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// Its name, with slashes, such as `net/ipv4/ip_forward`.
    pub name: String,
    /// Its value.
    pub value: &'static str,
}

impl Setting {
    /// A setting.
    #[must_use]
    pub fn new(name: impl Into<String>, value: &'static str) -> Self {
        let name = name.into();
        Self { name, value }
    }

    /// Whether the kernel has this value.
    #[must_use]
    pub fn is_set(&self) -> bool {
        sysctl::get(&self.name).as_deref() == Some(self.value)
    }
}

/// The settings that are missing for forwarding IPv4, in the calling thread's namespace.
#[must_use]
pub fn missing_v4() -> Option<Setting> {
    let forward = Setting::new("net/ipv4/ip_forward", "1");
    (!forward.is_set()).then_some(forward)
}

/// The settings that are missing for forwarding IPv6, in the order in which they must be set.
/// `is_own` tells the interfaces that need no router advertisements.
#[must_use]
pub fn missing_v6(is_own: impl Fn(&str) -> bool) -> Vec<Setting> {
    let all = Setting::new("net/ipv6/conf/all/forwarding", "1");
    if all.is_set() {
        return Vec::new();
    }
    // A forwarding host ignores router advertisements unless accept_ra is 2.
    sysctl::interfaces("ipv6")
        .into_iter()
        .filter(|interface| interface != "lo" && !is_own(interface))
        .map(|interface| format!("net/ipv6/conf/{interface}/accept_ra"))
        .filter(|name| Setting::new(name.as_str(), "1").is_set())
        .map(|name| Setting::new(name, "2"))
        .chain([all])
        .collect()
}
