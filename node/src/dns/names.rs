//! The names that the server answers itself, and the other forms that DC/OS gave them.
//!
//! | name | zone |
//! |---|---|
//! | `*.l4lb.thisdcos.directory` | services |
//! | `*.containerip.dcos.thisdcos.directory`, `*.agentip.…`, `*.autoip.…` | names of tasks |
//! | the same below `thisdcos.global`, or `<one label>.dcos.directory` for the cluster's id | the same |
//! | `*.dclb.…` | services |
//!
//! Invariants: everything below `thisdcos.directory`, `thisdcos.global` and `localhost` is ours, and is
//! never forwarded. Labels are compared without regard to case.

use hickory_proto::rr::Name;

/// The addresses of a task that a zone has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskAddresses {
    /// Those of its container.
    Container,
    /// That of its agent.
    Agent,
    /// That of its agent if a port of the host is mapped, else those of its container.
    Auto,
}

impl TaskAddresses {
    pub(crate) const ALL: [Self; 3] = [Self::Container, Self::Agent, Self::Auto];

    /// The label of its zone.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Container => "containerip",
            Self::Agent => "agentip",
            Self::Auto => "autoip",
        }
    }
}

/// Which of our names a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At or below the zone of services.
    Services,
    /// At or below a zone of tasks.
    Tasks(TaskAddresses),
    /// The top of a zone, or a name between zones.
    Top,
    /// This server itself.
    Server,
    /// This host, as each host calls itself.
    Localhost,
    /// Ours, but nothing that there is.
    Nowhere,
}

/// A name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnName {
    pub(crate) place: Place,
    /// The labels before those of the place's zone, in lower case. A label that none of our names has
    /// is empty.
    pub(crate) labels: Vec<String>,
    /// How many labels the place's zone has, from the end of the name.
    pub(crate) zone_labels: usize,
    /// How many labels the zone has that has the SOA record.
    pub(crate) apex_labels: usize,
    /// How many labels the domain has that all zones are in.
    pub(crate) domain_labels: usize,
}

impl OwnName {
    /// What a name is; none if it is not ours.
    pub(crate) fn find(name: &Name) -> Option<Self> {
        let mut from_end = name.iter().rev();
        let last = from_end.next()?;
        if last.eq_ignore_ascii_case(b"localhost") {
            return Some(Self {
                place: Place::Localhost,
                labels: vec![],
                zone_labels: 1,
                apex_labels: 1,
                domain_labels: 1,
            });
        }
        if !last.eq_ignore_ascii_case(b"directory") && !last.eq_ignore_ascii_case(b"global") {
            return None;
        }
        let mut labels: Vec<String> = name.iter().map(lower_case).collect();
        let count = labels.len();
        let [.., second, first] = &labels[..] else {
            return None;
        };
        let base_labels = match (second.as_str(), first.as_str()) {
            ("thisdcos", "directory" | "global") => 2,
            ("dcos", "directory") if is_alias_of_cluster(&labels) => 3,
            _ => return None,
        };
        labels.truncate(count - base_labels);
        let own = |place, labels, zone: usize, apex: usize| {
            Some(Self {
                place,
                labels,
                zone_labels: base_labels + zone,
                apex_labels: base_labels + apex,
                domain_labels: base_labels,
            })
        };
        match labels.pop().as_deref() {
            None => own(Place::Top, vec![], 0, 0),
            Some("l4lb" | "dclb") => own(Place::Services, labels, 1, 1),
            Some("ns") if labels.is_empty() => own(Place::Server, labels, 0, 0),
            Some("dcos") => {
                let Some(kind) = labels.pop() else {
                    return own(Place::Top, vec![], 1, 1);
                };
                let kind = TaskAddresses::ALL
                    .into_iter()
                    .find(|known| known.label() == kind);
                match kind {
                    Some(kind) => own(Place::Tasks(kind), labels, 2, 1),
                    None => own(Place::Nowhere, vec![], 1, 1),
                }
            }
            Some(_) => own(Place::Nowhere, vec![], 0, 0),
        }
    }

    /// A name of this place's zone, written as the zone was written in `asked`; none if it would be
    /// too long.
    pub(crate) fn sibling(&self, asked: &Name, text: &str) -> Option<Name> {
        let zone = asked.trim_to(self.zone_labels);
        Name::from_labels(text.split('.').map(str::as_bytes))
            .and_then(|name| name.append_domain(&zone))
            .ok()
    }

    /// The name of the zone that has the SOA record, as it was written in `asked`.
    pub(crate) fn apex(&self, asked: &Name) -> Name {
        asked.trim_to(self.apex_labels)
    }
}

/// Whether it is `<zone>.<cluster id>.dcos.directory` or below that. Other names below `dcos.directory`
/// are not ours.
fn is_alias_of_cluster(labels: &[String]) -> bool {
    labels.len().checked_sub(4).is_some_and(|zone| {
        matches!(labels[zone].as_str(), "l4lb" | "dclb" | "dcos") && !labels[zone + 1].is_empty()
    })
}

/// A label in lower case; empty if none of our names can have it.
fn lower_case(label: &[u8]) -> String {
    let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if !label.iter().all(is_known) {
        return String::new();
    }
    String::from_utf8_lossy(label).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<OwnName> {
        OwnName::find(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn names_are_found_in_all_their_forms() {
        use Place::{Localhost, Nowhere, Server, Services, Tasks, Top};
        use TaskAddresses::{Agent, Auto, Container};
        for (name, place, text) in [
            (
                "web.marathon.l4lb.thisdcos.directory.",
                Services,
                "web.marathon",
            ),
            (
                "WEB.Marathon.L4LB.ThisDCOS.Directory.",
                Services,
                "web.marathon",
            ),
            (
                "web.marathon.dclb.thisdcos.directory.",
                Services,
                "web.marathon",
            ),
            (
                "web.marathon.dclb.thisdcos.global.",
                Services,
                "web.marathon",
            ),
            (
                "web.marathon.l4lb.thisdcos.global.",
                Services,
                "web.marathon",
            ),
            (
                "a.b.marathon.l4lb.0a-1.dcos.directory.",
                Services,
                "a.b.marathon",
            ),
            (
                "_80._tcp.web.marathon.l4lb.thisdcos.directory.",
                Services,
                "_80._tcp.web.marathon",
            ),
            ("l4lb.thisdcos.directory.", Services, ""),
            (
                "app.marathon.containerip.dcos.thisdcos.directory.",
                Tasks(Container),
                "app.marathon",
            ),
            (
                "app.marathon.agentip.dcos.thisdcos.global.",
                Tasks(Agent),
                "app.marathon",
            ),
            (
                "app.marathon.autoip.dcos.id.dcos.directory.",
                Tasks(Auto),
                "app.marathon",
            ),
            ("thisdcos.directory.", Top, ""),
            ("dcos.thisdcos.directory.", Top, ""),
            ("ns.thisdcos.directory.", Server, ""),
            ("web.thisdcos.directory.", Nowhere, ""),
            ("leader.mesos.thisdcos.directory.", Nowhere, ""),
            ("other.dcos.thisdcos.directory.", Nowhere, ""),
            ("localhost.", Localhost, ""),
            ("db.LOCALHOST.", Localhost, ""),
        ] {
            let name = Name::from_ascii(name).unwrap();
            let found = OwnName::find(&name).unwrap_or_else(|| panic!("{name} is ours"));
            assert_eq!(
                (found.place, found.labels.join(".").as_str()),
                (place, text),
                "{name}"
            );
        }
    }

    #[test]
    fn strange_label_is_that_of_no_name() {
        let labels: [&[u8]; 5] = [b"x.y \xff", b"marathon", b"l4lb", b"thisdcos", b"directory"];
        let name = Name::from_labels(labels).unwrap();
        let own = OwnName::find(&name).unwrap();
        assert_eq!(
            (own.place, own.labels.join(".").as_str()),
            (Place::Services, ".marathon")
        );
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            ".",
            "directory.",
            "global.",
            "example.com.",
            "notthisdcos.directory.",
            "thisdcos.directory.example.",
            "dcos.directory.",
            "www.dcos.directory.",
            "docs.www.dcos.directory.",
            "web.mesos.id.dcos.directory.",
            "marathon.mesos.",
        ] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn siblings_are_written_as_the_zone_was_asked() {
        let asked = Name::from_ascii("_tcp.web.marathon.DCLB.thisdcos.Global.").unwrap();
        let own = OwnName::find(&asked).unwrap();
        let sibling = own.sibling(&asked, "web.marathon").unwrap();
        assert_eq!(sibling.to_ascii(), "web.marathon.DCLB.thisdcos.Global.");
        assert_eq!(own.apex(&asked).to_ascii(), "DCLB.thisdcos.Global.");
        let long = ["a"; 120].join(".");
        assert_eq!(own.sibling(&asked, &long), None);
    }
}
