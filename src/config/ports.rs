//! The table `[ports]`: which ports of the host tasks may map besides those of their resources.

use std::str::FromStr;

use contrail_mesos_api::config_reader::Section;

/// Ports of the host that any task may map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedPorts(Vec<PortRange>);

impl AllowedPorts {
    /// Whether any task may map the port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|range| (range.first..=range.last).contains(&port))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortRange {
    first: u16,
    last: u16,
}

impl FromStr for PortRange {
    type Err = ();

    fn from_str(range: &str) -> Result<Self, ()> {
        if range == "any" {
            return Ok(Self {
                first: 1,
                last: u16::MAX,
            });
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(()),
        }
    }
}

/// Reads the table.
pub(super) fn read(section: Section<'_>) -> AllowedPorts {
    let expected = "a port such as \"80\", a range such as \"8000-8999\", or \"any\"";
    let ranges = section.parsed_list("allow", expected).unwrap_or_default();
    section.finish();
    AllowedPorts(ranges)
}
