//! Responses to queries for our own names.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{HINFO, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::message::{Request, Response};
use super::names::{OwnName, Place};
use super::zones::{NameContent, Reverse, SERVER_LABEL, Target, Zones};

/// How long a record may be kept, in seconds.
const TTL: u32 = 5;
/// How long a resolver may remember that there is no such name or record, in seconds.
const NEGATIVE_TTL: u32 = 1;
/// The bytes of a record with an IPv4 address whose name is compressed.
const ADDRESS_RECORD_BYTES: usize = 16;
/// The least bytes of an SRV record whose name is compressed.
const SRV_RECORD_BYTES: usize = 20;
/// The most additional addresses.
const MAX_ADDITIONALS: usize = 64;
/// The domain that the names of addresses are in.
const DOMAIN: &str = "thisdcos.directory.";

/// What kind of name a query is for: a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A name in the zone of services.
    Services,
    /// A name in one of the zones of tasks.
    Tasks,
    /// Another name of ours.
    Own,
    /// The name of an address of ours.
    Reverse,
    /// A name that is not ours.
    Forwarded,
    /// No name: the query was refused before.
    Refused,
}

impl Class {
    pub(crate) const ALL: [Self; 6] = [
        Self::Services,
        Self::Tasks,
        Self::Own,
        Self::Reverse,
        Self::Forwarded,
        Self::Refused,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Tasks => "tasks",
            Self::Own => "own",
            Self::Reverse => "reverse",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
        }
    }
}

/// Gives each response another first record.
#[derive(Debug, Default)]
pub(crate) struct Rotation(AtomicUsize);

impl Rotation {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The response, if the name is ours.
pub(crate) fn answer(
    request: &Request,
    zones: &Zones,
    rotation: &Rotation,
) -> Option<(Class, Response)> {
    let name = request.question.name();
    if let Some(own) = OwnName::find(name) {
        let class = match own.place {
            Place::Services => Class::Services,
            Place::Tasks(_) => Class::Tasks,
            _ => Class::Own,
        };
        return Some((class, answer_own(request, &own, zones, rotation)));
    }
    let address = address_of(name)?;
    let response = match zones.reverse(address) {
        Reverse::Foreign => return None,
        Reverse::Missing => negative(ResponseCode::NXDomain, name, name, zones),
        Reverse::Name(text) => match request.question.query_type() {
            RecordType::PTR => positive(
                Name::from_ascii(format!("{text}.{DOMAIN}"))
                    .map(|target| vec![record(name, RData::PTR(PTR(target)))])
                    .unwrap_or_default(),
            ),
            RecordType::ANY => positive(vec![minimal(name)]),
            _ => negative(ResponseCode::NoError, name, name, zones),
        },
    };
    Some((Class::Reverse, response))
}

fn answer_own(request: &Request, own: &OwnName, zones: &Zones, rotation: &Rotation) -> Response {
    let name = request.question.name();
    let kind = request.question.query_type();
    let found = zones.find(own);
    let code = match found {
        NameContent::Unknown => return Response::of_code(ResponseCode::ServFail),
        NameContent::Missing => ResponseCode::NXDomain,
        _ => ResponseCode::NoError,
    };
    let mut additionals = vec![];
    let answers = match (&found, kind) {
        (NameContent::Missing, _) => vec![],
        (_, RecordType::ANY) => vec![minimal(name)],
        (NameContent::Addresses(all), RecordType::A | RecordType::AAAA) => {
            let of_family = all
                .iter()
                .filter(|address| address.is_ipv4() == (kind == RecordType::A));
            let mut addresses: Vec<_> = of_family.collect();
            let count = addresses.len();
            addresses.rotate_left(rotation.next() % count.max(1));
            // What does not fit is not written.
            addresses.truncate(request.max_records(ADDRESS_RECORD_BYTES));
            addresses
                .into_iter()
                .map(|address| record(name, address_data(*address)))
                .collect()
        }
        (NameContent::Targets(targets), RecordType::SRV) => {
            let start = rotation.next() % targets.len().max(1);
            let rotated = || targets[start..].iter().chain(&targets[..start]);
            additionals = target_addresses(rotated(), own, name);
            rotated()
                .take(request.max_records(SRV_RECORD_BYTES))
                .filter_map(|target| {
                    let at = own.sibling(name, &target.name)?;
                    Some(record(name, RData::SRV(SRV::new(0, 1, target.port, at))))
                })
                .collect()
        }
        (NameContent::Apex, RecordType::SOA) => vec![record(name, soa(name, zones))],
        (NameContent::Apex, RecordType::NS) => {
            vec![record(name, RData::NS(NS(server_name(name))))]
        }
        _ => vec![],
    };
    if answers.is_empty() {
        return negative(code, name, &own.apex(name), zones);
    }
    Response {
        additionals,
        ..positive(answers)
    }
}

/// The addresses of targets, so that clients need not ask for them.
fn target_addresses<'a>(
    targets: impl Iterator<Item = &'a Target>,
    own: &OwnName,
    asked: &Name,
) -> Vec<Record> {
    let mut records: Vec<Record> = vec![];
    let mut last: Option<&str> = None;
    for target in targets {
        // The ports of a service all have the same target.
        if last == Some(target.name.as_str()) || records.len() >= MAX_ADDITIONALS {
            continue;
        }
        last = Some(target.name.as_str());
        if let Some(name) = own.sibling(asked, &target.name) {
            let addresses = target.addresses.iter();
            records.extend(addresses.map(|address| record(&name, address_data(*address))));
        }
    }
    records
}

fn positive(answers: Vec<Record>) -> Response {
    Response {
        is_authoritative: true,
        answers,
        ..Response::default()
    }
}

/// A response without an answer: with the record that says how long it holds.
fn negative(code: ResponseCode, asked: &Name, zone: &Name, zones: &Zones) -> Response {
    Response {
        code,
        is_authoritative: true,
        authorities: vec![record(zone, soa(asked, zones))],
        ..Response::default()
    }
}

/// What RFC 8482 has for queries of any type.
fn minimal(name: &Name) -> Record {
    let data = HINFO::new("RFC8482".to_owned(), String::new());
    record(name, RData::HINFO(data))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

fn soa(asked: &Name, zones: &Zones) -> RData {
    // Nobody copies these zones: the number only has to grow.
    let revision = zones.state.as_ref().map(|state| state.revision);
    let serial = revision.map_or(0, |revision| revision.counter & u64::from(u32::MAX));
    let server = server_name(asked);
    let contact = server.base_name().prepend_label("hostmaster");
    RData::SOA(SOA::new(
        server.clone(),
        contact.unwrap_or(server),
        u32::try_from(serial).unwrap_or_default(),
        60,
        60,
        86_400,
        NEGATIVE_TTL,
    ))
}

/// The name of this server, in the domain of a name of ours if this server has a name there.
fn server_name(asked: &Name) -> Name {
    let domain = match OwnName::find(asked) {
        Some(own) if own.domain_labels == 2 => asked.trim_to(own.domain_labels),
        _ => Name::from_ascii(DOMAIN).unwrap_or_else(|_| Name::root()),
    };
    domain
        .prepend_label(SERVER_LABEL)
        .unwrap_or_else(|_| Name::root())
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`, if it is that of a single address.
fn address_of(name: &Name) -> Option<IpAddr> {
    let mut from_end = name.iter().rev();
    if !from_end.next()?.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let family = from_end.next()?;
    let labels: Vec<&[u8]> = from_end.collect();
    if family.eq_ignore_ascii_case(b"in-addr") {
        let mut octets = [0; 4];
        (labels.len() == octets.len()).then_some(())?;
        for (octet, label) in octets.iter_mut().zip(labels) {
            let text = std::str::from_utf8(label).ok()?;
            *octet = text.parse().ok()?;
            // In no other form than the usual one.
            (octet.to_string() == text).then_some(())?;
        }
        return Some(octets.into());
    }
    if family.eq_ignore_ascii_case(b"ip6") {
        let mut octets = [0; 16];
        (labels.len() == 2 * octets.len()).then_some(())?;
        for (index, label) in labels.iter().enumerate() {
            let &[digit] = *label else {
                return None;
            };
            let digit = char::from(digit).to_digit(16)?;
            octets[index / 2] = octets[index / 2] << 4 | u8::try_from(digit).ok()?;
        }
        return Some(octets.into());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;
    use std::sync::Arc;

    use hickory_proto::op::{Message, Query};

    use super::super::message::{QueryFlags, Received, Transport, query, receive};
    use super::super::zones::tests::zones;
    use super::*;
    use crate::cluster_state::ClusterState;

    /// The message that answers the question, which the client can read.
    fn ask_in(zones: &Zones, name: &str, kind: RecordType) -> Option<Message> {
        let question = Query::query(Name::from_str(name).unwrap(), kind);
        let packet = query(7, &question, QueryFlags::default(), true).unwrap();
        let Received::Request(request) = receive(&packet, Transport::Udp) else {
            panic!("{name} is refused");
        };
        let (_, response) = answer(&request, zones, &Rotation::default())?;
        let bytes = request.respond(&response).unwrap();
        Some(Message::from_vec(&bytes).unwrap())
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        ask_in(&zones(), name, kind).unwrap_or_else(|| panic!("{name} is not ours"))
    }

    /// The data of the answers, as texts in lower case.
    fn texts(records: &[Record]) -> Vec<String> {
        records
            .iter()
            .map(|record| format!("{} {}", record.ttl, record.data).to_ascii_lowercase())
            .collect()
    }

    #[test]
    fn answers_have_the_type_that_was_asked() {
        let web = "web.marathon.l4lb.thisdcos.directory.";
        for (name, kind, expected) in [
            (web, RecordType::A, "5 198.18.0.7"),
            (web, RecordType::AAAA, "5 fd4a:9c1e:57b2::7"),
            (
                "Web.Marathon.l4lb.thisdcos.global.",
                RecordType::A,
                "5 198.18.0.7",
            ),
            (
                "web.marathon.dclb.id-1.dcos.directory.",
                RecordType::A,
                "5 198.18.0.7",
            ),
            ("ns.thisdcos.directory.", RecordType::A, "5 198.18.0.1"),
            (
                "ns.thisdcos.global.",
                RecordType::AAAA,
                "5 fd4a:9c1e:57b2::1",
            ),
            ("localhost.", RecordType::A, "5 127.0.0.1"),
            ("localhost.", RecordType::AAAA, "5 ::1"),
            (
                "thisdcos.directory.",
                RecordType::NS,
                "5 ns.thisdcos.directory.",
            ),
            (
                "l4lb.thisdcos.Global.",
                RecordType::NS,
                "5 ns.thisdcos.global.",
            ),
            (
                "l4lb.id.dcos.directory.",
                RecordType::NS,
                "5 ns.thisdcos.directory.",
            ),
            (
                "7.0.18.198.in-addr.arpa.",
                RecordType::PTR,
                "5 web.marathon.l4lb.thisdcos.directory.",
            ),
            (web, RecordType::ANY, "5 rfc8482 "),
        ] {
            let message = ask(name, kind);
            assert_eq!(texts(&message.answers), [expected], "{name} {kind}");
            assert!(message.metadata.authoritative, "{name}");
            let asked = Name::from_str(name).unwrap();
            assert!(message.answers[0].name.eq_case(&asked), "{name}");
        }
        let v6 = Name::from("fd4a:9c1e:57b2::7".parse::<IpAddr>().unwrap());
        let message = ask(&v6.to_ascii(), RecordType::PTR);
        assert_eq!(
            texts(&message.answers),
            ["5 web.marathon.l4lb.thisdcos.directory."]
        );
    }

    #[test]
    fn srv_records_lead_to_names_of_the_same_form() {
        let message = ask("_tcp.web.marathon.DCLB.thisdcos.global.", RecordType::SRV);
        let target = "web.marathon.dclb.thisdcos.global.";
        let mut found = texts(&message.answers);
        found.sort();
        let expected = [443, 80].map(|port| format!("5 0 1 {port} {target}"));
        assert_eq!(found, expected);
        let names: Vec<_> = message
            .additionals
            .iter()
            .map(|record| record.name.to_ascii().to_ascii_lowercase())
            .collect();
        assert_eq!(names, [target, target]);
        let task = "app-group.marathon.autoip.dcos.thisdcos.directory.";
        let message = ask(&format!("_http._tcp.{task}"), RecordType::SRV);
        let first = format!("5 0 1 31000 ip-192-0-2-1.{task}");
        assert_eq!(texts(&message.answers)[0], first);
        assert_eq!(message.answers.len(), 3);
        // Each target is answered.
        let message = ask(&format!("ip-192-0-2-1.{task}"), RecordType::A);
        assert_eq!(texts(&message.answers), ["5 192.0.2.1"]);
    }

    #[test]
    fn missing_names_and_types_have_the_zones_soa() {
        use ResponseCode::{NXDomain, NoError};
        for (name, kind, code, zone) in [
            (
                "x.marathon.l4lb.thisdcos.directory.",
                RecordType::A,
                NXDomain,
                "l4lb.thisdcos.directory.",
            ),
            (
                "x.l4lb.thisdcos.global.",
                RecordType::AAAA,
                NXDomain,
                "l4lb.thisdcos.global.",
            ),
            (
                "x.dcos.thisdcos.directory.",
                RecordType::A,
                NXDomain,
                "dcos.thisdcos.directory.",
            ),
            (
                "x.thisdcos.directory.",
                RecordType::A,
                NXDomain,
                "thisdcos.directory.",
            ),
            (
                "x.mesos.thisdcos.directory.",
                RecordType::ANY,
                NXDomain,
                "thisdcos.directory.",
            ),
            (
                "api.hello.dev.l4lb.thisdcos.directory.",
                RecordType::AAAA,
                NoError,
                "l4lb.thisdcos.directory.",
            ),
            (
                "web.marathon.l4lb.thisdcos.directory.",
                RecordType::MX,
                NoError,
                "l4lb.thisdcos.directory.",
            ),
            (
                "web.marathon.l4lb.thisdcos.directory.",
                RecordType::SRV,
                NoError,
                "l4lb.thisdcos.directory.",
            ),
            (
                "marathon.l4lb.thisdcos.directory.",
                RecordType::A,
                NoError,
                "l4lb.thisdcos.directory.",
            ),
            (
                "thisdcos.directory.",
                RecordType::A,
                NoError,
                "thisdcos.directory.",
            ),
            ("localhost.", RecordType::MX, NoError, "localhost."),
            (
                "9.0.18.198.in-addr.arpa.",
                RecordType::PTR,
                NXDomain,
                "9.0.18.198.in-addr.arpa.",
            ),
        ] {
            let message = ask(name, kind);
            assert_eq!(message.metadata.response_code, code, "{name}");
            assert_eq!(message.answers, [], "{name}");
            let [soa] = &message.authorities[..] else {
                panic!("{name}: {:?}", message.authorities);
            };
            assert_eq!(soa.name.to_ascii(), zone, "{name}");
            let RData::SOA(data) = &soa.data else {
                panic!("{soa}");
            };
            assert_eq!((soa.ttl, data.minimum), (5, 1));
            assert!(data.mname.to_ascii().starts_with("ns."), "{soa}");
        }
    }

    #[test]
    fn names_that_are_not_known_yet_are_failures() {
        let mut zones = zones();
        zones.applied = None;
        let name = "web.marathon.l4lb.thisdcos.directory.";
        let message = ask_in(&zones, name, RecordType::A).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        zones.state = None;
        let name = "app.marathon.autoip.dcos.thisdcos.directory.";
        let message = ask_in(&zones, name, RecordType::A).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn foreign_names_and_addresses_are_not_answered() {
        let zones = zones();
        for name in [
            "example.com.",
            ".",
            "1.2.0.192.in-addr.arpa.",
            "1.0.18.198.in-addr.arpa.example.",
            "18.198.in-addr.arpa.",
            "07.0.18.198.in-addr.arpa.",
            "x.ip6.arpa.",
        ] {
            assert!(ask_in(&zones, name, RecordType::PTR).is_none(), "{name}");
        }
    }

    #[test]
    fn addresses_take_turns_and_a_thousand_of_them_are_truncated() {
        let mut zones = zones();
        let mut state = ClusterState::clone(zones.state.as_ref().unwrap());
        let instance = |number: u16| contrail_mesos_api::cluster::TaskInstance {
            agent: [192, 0, 2, 1].into(),
            addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(number)).into()],
            ports: vec![],
        };
        state.put(contrail_mesos_api::cluster::Object::TaskName(
            contrail_mesos_api::cluster::TaskName {
                name: "many.marathon".to_owned(),
                instances: (1..=1000).map(instance).collect(),
            },
        ));
        zones.state = Some(Arc::new(state));
        let question = Query::query(
            Name::from_str("many.marathon.containerip.dcos.thisdcos.directory.").unwrap(),
            RecordType::A,
        );
        let packet = query(7, &question, QueryFlags::default(), true).unwrap();
        let rotation = Rotation::default();
        let ask = |transport| {
            let Received::Request(request) = receive(&packet, transport) else {
                panic!("it is refused");
            };
            let (_, response) = answer(&request, &zones, &rotation).unwrap();
            Message::from_vec(&request.respond(&response).unwrap()).unwrap()
        };
        let first = ask(Transport::Udp);
        assert!(first.metadata.truncation);
        assert!(first.answers.len() > 50, "{}", first.answers.len());
        let second = ask(Transport::Udp);
        assert_eq!(first.answers[1].data, second.answers[0].data);
        let whole = ask(Transport::Tcp);
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 1000);
    }
}
