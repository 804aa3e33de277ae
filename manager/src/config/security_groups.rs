//! The tables `[[security_group]]`.
//!
//! Invariant: each rule can match a packet, and each object that is published fits into a line of the
//! watch.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use contrail_mesos_api::cluster::{
    IngressRule, MAX_GROUP_NAME_BYTES, RuleSource, SecurityGroup, is_group_name,
};
use contrail_mesos_api::config_reader::{Section, known_word};

const KEY: &str = "security_group";
/// How many security groups there may be: every node keeps all of them.
const MAX_SECURITY_GROUPS: usize = 1000;
/// How many rules a security group may have: it is published as one object.
const MAX_RULES: usize = 256;
/// How the name of a group is written as a source.
const GROUP_PREFIX: &str = "group:";

/// The names of protocols, with their numbers.
const PROTOCOLS: [(&str, u8); 5] = [
    ("tcp", 6),
    ("udp", 17),
    ("sctp", 132),
    ("icmp", 1),
    ("icmpv6", 58),
];
const PROTOCOLS_WITH_PORTS: [u8; 3] = [6, 17, 132];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const PROTOCOL: &str =
    "\"tcp\", \"udp\", \"sctp\", \"icmp\", \"icmpv6\" or the number of a protocol such as \"47\"";
const PORTS: &str = "a port or ports from 1 to 65535 such as \"80\" or \"8000-8010\"";
const SOURCE: &str = "a group such as \"group:web\" or a subnet such as \"10.0.0.0/8\"";

/// The security groups, in the order of the file. They are published to the nodes of overlays.
pub(super) fn read(top: &Section<'_>) -> Vec<SecurityGroup> {
    let sections = top.sections(KEY);
    if top.has(KEY) && !top.has("overlay") && !top.is_misspelt("overlay") {
        let message = "needs a table [overlay]: without it nothing is published to nodes";
        top.problem(KEY, message);
    }
    if sections.len() > MAX_SECURITY_GROUPS {
        let message = format!(
            "there are {} security groups: at most {MAX_SECURITY_GROUPS} are possible",
            sections.len()
        );
        top.problem(KEY, message);
    }
    let mut known: HashMap<String, String> = HashMap::new();
    let mut groups = vec![];
    for section in sections.into_iter().take(MAX_SECURITY_GROUPS) {
        let expected = format!(
            "the name of a group: 1 to {MAX_GROUP_NAME_BYTES} printable ASCII characters without spaces, \
             commas, quotes and backslashes"
        );
        let name = section.checked("name", &expected, |text| {
            is_group_name(text)
                .then(|| text.to_owned())
                .ok_or_else(String::new)
        });
        if !section.has("name") {
            section.problem("name", format!("is missing: {expected}"));
        }
        if let Some(name) = &name {
            let path = section.path().to_owned();
            if let Some(other) = known.insert(name.clone(), path) {
                section.problem("name", format!("{name} is the name of {other} as well"));
            }
        }
        let rules = rules(&section);
        section.finish();
        groups.extend(name.map(|name| SecurityGroup { name, rules }));
    }
    groups
}

fn rules(section: &Section<'_>) -> Vec<IngressRule> {
    let sections = section.sections("rule");
    if sections.len() > MAX_RULES {
        let message = format!(
            "there are {} rules: at most {MAX_RULES} are possible",
            sections.len()
        );
        section.problem("rule", message);
    }
    let mut known = HashSet::new();
    let mut rules = vec![];
    for section in sections.into_iter().take(MAX_RULES) {
        let rule = rule(&section);
        if let Some(rule) = rule {
            if known.insert(rule.clone()) {
                rules.push(rule);
            } else {
                section.warning("", "is there twice");
            }
        }
        section.finish();
    }
    rules
}

fn rule(section: &Section<'_>) -> Option<IngressRule> {
    let protocol = section.checked("protocol", PROTOCOL, protocol);
    let ports = section.checked("ports", PORTS, ports);
    let source = section.checked("from", SOURCE, source);
    if section.has("ports") && !section.has("protocol") {
        let message = "is missing, but ports are of a protocol: write \"tcp\", \"udp\" or \"sctp\"";
        section.problem("protocol", message);
    }
    if let Some(protocol) = protocol
        && section.has("ports")
        && !PROTOCOLS_WITH_PORTS.contains(&protocol)
    {
        let message = "only tcp, udp and sctp have ports: remove it, or write another protocol";
        section.problem("ports", message);
    }
    if !section.has("from") {
        section.problem("from", format!("is missing: {SOURCE}"));
    }
    let never = match (protocol, &source) {
        (Some(ICMP), Some(RuleSource::Subnet(IpNet::V6(_)))) => {
            Some("icmp is of IPv4, but the source is an IPv6 subnet: write icmpv6")
        }
        (Some(ICMPV6), Some(RuleSource::Subnet(IpNet::V4(_)))) => {
            Some("icmpv6 is of IPv6, but the source is an IPv4 subnet: write icmp")
        }
        _ => None,
    };
    if let Some(message) = never {
        section.problem("protocol", message);
    }
    Some(IngressRule {
        protocol,
        ports,
        source: source?,
    })
}

fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
    match named {
        Some((_, number)) => Ok(*number),
        None if is_number(text) => text.parse().map_err(|_| String::new()),
        None => Err(known_word(text, &PROTOCOLS.map(|(name, _)| name))
            .err()
            .unwrap_or_default()),
    }
}

/// A protocol as it is configured.
pub(crate) fn protocol_text(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| -> Result<u16, String> {
        let port = is_number(text).then(|| text.parse().ok()).flatten();
        port.filter(|port| *port > 0).ok_or_else(String::new)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the first port is larger than the last one".to_owned());
    }
    Ok((first, last))
}

/// Whether it has digits alone: a parser of numbers takes a sign as well.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn source(text: &str) -> Result<RuleSource, String> {
    if let Some(name) = text.strip_prefix(GROUP_PREFIX) {
        if !is_group_name(name) {
            return Err("no group can have that name".to_owned());
        }
        return Ok(RuleSource::Group(name.to_owned()));
    }
    let subnet: IpNet = text.parse().map_err(|_| {
        let is_name = is_group_name(text) && !text.contains([':', '/', '.']);
        if is_name {
            format!("did you mean \"{GROUP_PREFIX}{text}\"?")
        } else {
            String::new()
        }
    })?;
    if subnet != subnet.trunc() {
        return Err(format!(
            "it has bits beyond its prefix; write {}",
            subnet.trunc()
        ));
    }
    if let IpNet::V6(subnet) = subnet
        && subnet.prefix_len() >= 96
        && subnet.network().to_ipv4_mapped().is_some()
    {
        return Err("packets of IPv4 do not have such addresses: write an IPv4 subnet".to_owned());
    }
    Ok(RuleSource::Subnet(subnet))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    /// The configuration with these tables, and its problems.
    fn parse(tables: &str) -> Result<Config, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let overlays = directory.path().join("overlay.json");
        let networks = r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}]}"#;
        std::fs::write(&overlays, networks).unwrap();
        let text = format!("[overlay]\nfile = {overlays:?}\n{tables}");
        Config::parse(Path::new("m.toml"), &text)
            .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
    }

    fn one_rule(rule: &str) -> Result<Config, Vec<String>> {
        parse(&format!(
            "[[security_group]]\nname = \"web\"\n[[security_group.rule]]\n{rule}"
        ))
    }

    #[test]
    fn rules_name_protocol_ports_and_source() {
        let tables = r#"
            [[security_group]]
            name = "web"
            [[security_group.rule]]
            protocol = "tcp"
            ports = "80"
            from = "0.0.0.0/0"
            [[security_group.rule]]
            protocol = "udp"
            ports = "8000-8010"
            from = "group:lb"
            [[security_group.rule]]
            protocol = "47"
            from = "fd00::/8"
            [[security_group.rule]]
            from = "group:default-domain:p:admin"
            [[security_group]]
            name = "closed"
            "#;
        let config = parse(tables).unwrap();
        let [web, closed] = &config.security_groups[..] else {
            panic!("{config:?}")
        };
        let rule = |protocol, ports, source| IngressRule {
            protocol,
            ports,
            source,
        };
        let group = |name: &str| RuleSource::Group(name.to_owned());
        let subnet = |text: &str| RuleSource::Subnet(text.parse().unwrap());
        assert_eq!(
            web.rules,
            [
                rule(Some(6), Some((80, 80)), subnet("0.0.0.0/0")),
                rule(Some(17), Some((8000, 8010)), group("lb")),
                rule(Some(47), None, subnet("fd00::/8")),
                rule(None, None, group("default-domain:p:admin")),
            ]
        );
        assert_eq!((closed.name.as_str(), closed.rules.len()), ("closed", 0));
        for (name, number) in PROTOCOLS {
            let config = one_rule(&format!("protocol = \"{name}\"\nfrom = \"group:a\"\n")).unwrap();
            let rules = &config.security_groups[0].rules;
            assert_eq!(rules[0].protocol, Some(number));
        }
    }

    #[test]
    fn equal_rules_are_one_and_a_warning() {
        let rule = "[[security_group.rule]]\nfrom = \"group:a\"\n";
        let tables = format!("[[security_group]]\nname = \"web\"\n{rule}{rule}");
        let config = parse(&tables).unwrap();
        assert_eq!(config.security_groups[0].rules.len(), 1);
        let warning = &config.warnings[0];
        assert_eq!(warning.key, "security_group[0].rule[1]");
    }

    #[test]
    fn rules_that_cannot_be_right_are_problems() {
        for (rule, expected) in [
            ("", "rule[0].from: is missing: a group"),
            ("form = \"group:a\"", "did you mean \"from\"?"),
            ("from = \"web\"", "did you mean \"group:web\"?"),
            ("from = \"group:\"", "no group can have that name"),
            ("from = \"group:a b\"", "no group can have that name"),
            ("from = \"10.0.0.1/8\"", "write 10.0.0.0/8"),
            ("from = \"10.0.0.0\"", "rule[0].from: expected a group"),
            ("from = \"::ffff:10.0.0.0/104\"", "write an IPv4 subnet"),
            ("from = 1", "rule[0].from: expected a group"),
            (
                "from = \"group:a\"\nports = \"80\"",
                "rule[0].protocol: is missing, but ports",
            ),
            (
                "from = \"group:a\"\nports = \"80\"\nprotocol = \"icmp\"",
                "rule[0].ports: only tcp, udp and sctp have ports",
            ),
            (
                "from = \"group:a\"\nports = \"80\"\nprotocol = \"47\"",
                "rule[0].ports: only tcp, udp and sctp have ports",
            ),
            (
                "from = \"fd00::/8\"\nprotocol = \"icmp\"",
                "rule[0].protocol: icmp is of IPv4",
            ),
            (
                "from = \"10.0.0.0/8\"\nprotocol = \"58\"",
                "rule[0].protocol: icmpv6 is of IPv6",
            ),
            (
                "from = \"group:a\"\nallow = true",
                "rule[0].allow: unknown key",
            ),
        ] {
            let problems = one_rule(rule).unwrap_err();
            assert_eq!(problems.len(), 1, "{rule}: {problems:?}");
            assert!(problems[0].contains(expected), "{rule}: {problems:?}");
        }
        let problems = one_rule("from = \"group:a\"\nprotocol = \"icmp6\"").unwrap_err();
        assert!(problems[0].contains("did you mean \"icmp"), "{problems:?}");
        for protocol in ["", "TCP", "256", "-1", "+6", "6.0", "tcp,udp"] {
            let problems =
                one_rule(&format!("from = \"group:a\"\nprotocol = \"{protocol}\"")).unwrap_err();
            assert!(problems[0].contains("rule[0].protocol: expected"));
        }
        for ports in [
            "",
            "0",
            "65536",
            "80-",
            "-80",
            "90-80",
            "80-90-100",
            "http",
            "+80",
            "80 ",
        ] {
            let rule = format!("from = \"group:a\"\nprotocol = \"tcp\"\nports = \"{ports}\"");
            let problems = one_rule(&rule).unwrap_err();
            assert_eq!(problems.len(), 1, "{ports}: {problems:?}");
            assert!(problems[0].contains("rule[0].ports: expected"));
        }
        assert!(one_rule("from = \"group:a\"\nprotocol = \"6\"\nports = \"1-65535\"").is_ok());
    }

    #[test]
    fn groups_are_named_and_distinct() {
        for (tables, expected) in [
            ("[[security_group]]\n", "security_group[0].name: is missing"),
            (
                "[[security_group]]\nname = \"a b\"\n",
                "security_group[0].name: expected the name of a group",
            ),
            (
                "[[security_group]]\nname = \"a\"\n[[security_group]]\nname = \"a\"\n",
                "security_group[1].name: a is the name of security_group[0] as well",
            ),
            (
                "[security_group]\nname = \"a\"\n",
                "security_group: expected an array of tables: [[security_group]]",
            ),
            (
                "[[security_groups]]\nname = \"a\"\n",
                "did you mean \"security_group\"?",
            ),
        ] {
            let problems = parse(tables).unwrap_err();
            assert_eq!(problems.len(), 1, "{tables}: {problems:?}");
            assert!(problems[0].contains(expected), "{tables}: {problems:?}");
        }
        let longest = "x".repeat(MAX_GROUP_NAME_BYTES);
        assert!(parse(&format!("[[security_group]]\nname = \"{longest}\"\n")).is_ok());
    }

    #[test]
    fn numbers_of_groups_and_rules_are_limited() {
        let groups = |count: usize| -> String {
            let group = |number| format!("[[security_group]]\nname = \"g{number}\"\n");
            (0..count).map(group).collect::<Vec<_>>().concat()
        };
        assert!(parse(&groups(MAX_SECURITY_GROUPS)).is_ok());
        let problems = parse(&groups(MAX_SECURITY_GROUPS + 1)).unwrap_err();
        assert!(problems[0].contains("at most 1000"), "{problems:?}");
        let rules = |count: usize| -> String {
            let rule =
                |number: usize| format!("[[security_group.rule]]\nfrom = \"group:g{number}\"\n");
            let rules = (0..count).map(rule).collect::<Vec<_>>().concat();
            format!("[[security_group]]\nname = \"a\"\n{rules}")
        };
        assert!(parse(&rules(MAX_RULES)).is_ok());
        let problems = parse(&rules(MAX_RULES + 1)).unwrap_err();
        assert!(problems[0].contains("at most 256"), "{problems:?}");
    }

    #[test]
    fn longest_group_fits_into_a_line_of_the_watch() {
        let name = || "x".repeat(MAX_GROUP_NAME_BYTES);
        let rule = IngressRule {
            protocol: Some(132),
            ports: Some((65_534, 65_535)),
            source: RuleSource::Group(name()),
        };
        let group = SecurityGroup {
            name: name(),
            rules: vec![rule; MAX_RULES],
        };
        let bytes = serde_json::to_vec(&group).unwrap().len();
        assert!(bytes < contrail_mesos_api::cluster::MAX_LINE_BYTES / 2);
    }

    #[test]
    fn table_overlay_is_needed() {
        let text = "[vnc]\nservers = [\"a\"]\n[[security_group]]\nname = \"a\"\n";
        let error = Config::parse(Path::new("m.toml"), text).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(
            error
                .to_string()
                .contains("security_group: needs a table [overlay]")
        );
    }
}
