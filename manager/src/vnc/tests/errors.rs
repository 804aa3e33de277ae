//! Refusals, in the words of a real API server of R2005.

use hyper::StatusCode;
use hyper::body::Bytes;

use super::*;
use crate::vnc::error::{Question, classify};
use contrail_mesos_api::http::Response;

fn meaning(question: Question, status: u16, text: &str) -> VncErrorKind {
    classify(
        question,
        &Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: hyper::HeaderMap::new(),
            body: Bytes::copy_from_slice(text.as_bytes()),
        },
    )
}

fn created(status: u16, text: &str) -> VncErrorKind {
    meaning(Question::Create, status, text)
}

fn other(status: u16, text: &str) -> VncErrorKind {
    meaning(Question::Other, status, text)
}

#[test]
fn one_status_has_several_meanings() {
    assert_eq!(
        created(
            409,
            "['default-domain', 'p1'] already exists with uuid: adadee99-636f-44f9-b8e6-67ca7fcf7ac7"
        ),
        VncErrorKind::Exists {
            uuid: Some(uuid("adadee99-636f-44f9-b8e6-67ca7fcf7ac7")),
            fq_name: None,
        }
    );
    assert_eq!(
        created(
            409,
            "e33cd325-e13e-4334-a837-36be5ba45791 already exists with fq_name: ['e33cd325-e13e-4334-a837-36be5ba45791']"
        ),
        VncErrorKind::Exists {
            uuid: None,
            fq_name: Some(FqName::new([VM])),
        }
    );
    assert_eq!(
        created(409, "IP address already in use"),
        VncErrorKind::AddressTaken
    );
    let instance_ip = |uuid: &str| Referrer {
        object_type: "instance-ip".to_owned(),
        uuid: uuid.parse().unwrap(),
    };
    assert_eq!(
        other(
            409,
            "Delete when resource still referred: ['http://127.0.0.1:8082/instance-ip/2303ed2a-b6d5-42e9-841e-42173e594241', 'http://127.0.0.1:8082/instance-ip/6a7c2b0b-47e5-4a14-87aa-3f5fec0879f2']"
        ),
        VncErrorKind::Referenced {
            by: vec![
                instance_ip("2303ed2a-b6d5-42e9-841e-42173e594241"),
                instance_ip("6a7c2b0b-47e5-4a14-87aa-3f5fec0879f2"),
            ],
        }
    );
    assert_eq!(
        other(
            409,
            "Delete when children still present: ['http://127.0.0.1:8082/virtual-network/91c61318-90b9-47eb-aeeb-a310706b256b']"
        ),
        VncErrorKind::HasChildren {
            children: vec![Referrer {
                object_type: "virtual-network".to_owned(),
                uuid: uuid("91c61318-90b9-47eb-aeeb-a310706b256b"),
            }],
        }
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn every_recorded_refusal_is_understood() {
    type Is = fn(&VncErrorKind) -> bool;
    let cases: &[(VncErrorKind, Is)] = &[
        (
            created(400, "Parent ['nodomain'] type domain does not exist"),
            |kind| matches!(kind, VncErrorKind::NoSuchParent { .. }),
        ),
        (
            created(404, "Name ['default-domain', 'p1', 'nope'] not found"),
            |kind| matches!(kind, VncErrorKind::NoSuchParent { .. }),
        ),
        (
            created(
                400,
                "Unknown reference in resource create {'fq_name': ['default-domain', 'p1', 'badref']}.",
            ),
            |kind| matches!(kind, VncErrorKind::NoSuchReference { .. }),
        ),
        (
            created(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has exhausted subnet([])",
            ),
            |kind| matches!(kind, VncErrorKind::AddressOutside { .. }),
        ),
        (
            created(
                500,
                "Virtual-Network(['default-domain', 'p1', '__public__']) has exhausted subnet([])",
            ),
            |kind| matches!(kind, VncErrorKind::AddressOutside { .. }),
        ),
        (
            created(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has exhausted subnet(['5.5.5.0/24'])",
            ),
            |kind| matches!(kind, VncErrorKind::Exhausted { .. }),
        ),
        (
            created(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has invalid subnet(74ff2d93-c230-420e-b95d-4a08a67e23d4)",
            ),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (
            created(400, "Bad Request, name has one of invalid chars {':'}"),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (
            other(400, "Instance IP Address can not be changed"),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (other(401, "Authentication required"), |kind| {
            matches!(kind, VncErrorKind::Unauthorised { .. })
        }),
        (
            other(
                403,
                "Permission Denied for bob as ['member'] to C domain in p",
            ),
            |kind| matches!(kind, VncErrorKind::Forbidden { .. }),
        ),
        (
            other(404, "Unknown id: db3c5921-4b4c-42ca-8838-784d95c79335"),
            |kind| matches!(kind, VncErrorKind::NotFound { .. }),
        ),
        (
            other(
                404,
                "ID 2303ed2a-b6d5-42e9-841e-42173e594241 does not exist",
            ),
            |kind| matches!(kind, VncErrorKind::NotFound { .. }),
        ),
        (created(404, "Not found: '/nosuchtypes'"), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (other(404, "<html>404 Not Found</html>"), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (other(404, ""), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (
            created(500, "Too many pending updates to RabbitMQ: 4097"),
            |kind| matches!(kind, VncErrorKind::Unavailable { .. }),
        ),
        (
            created(412, "quota limit (10) exceeded for resource instance_ip"),
            |kind| matches!(kind, VncErrorKind::Quota { .. }),
        ),
        (created(413, ""), |kind| {
            matches!(kind, VncErrorKind::TooLarge { .. })
        }),
        (created(500, "Internal Server Error"), |kind| {
            matches!(kind, VncErrorKind::Server { status: 500, .. })
        }),
        (created(500, "KeyError: 'virtual_network_refs'"), |kind| {
            matches!(kind, VncErrorKind::Server { status: 500, .. })
        }),
        (created(503, "ZooKeeper is not connected"), |kind| {
            matches!(kind, VncErrorKind::Unavailable { .. })
        }),
    ];
    for (kind, expected) in cases {
        assert!(expected(kind), "{kind:?}");
        let passing = matches!(kind, VncErrorKind::Unavailable { .. });
        assert_eq!(kind.is_transient(), passing, "{kind:?}");
    }
}

#[tokio::test]
async fn a_failure_says_what_where_and_what_to_do() {
    let server = ScriptedServer::start(|_, _| {
        Reply::Answer(
            400,
            "Parent ['nodomain'] type domain does not exist".to_owned(),
        )
    })
    .await;
    let project = Project::named("nodomain:p1".parse().unwrap());
    let error = client(&server).create(&project).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot create the project nodomain:p1 at http://{}: its parent does not exist; \
             create that first (Parent ['nodomain'] type domain does not exist)",
            server.address
        )
    );
}
