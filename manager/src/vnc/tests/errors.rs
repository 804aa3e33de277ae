//! Tests of the error classification with recorded errors of an R2005 API server.

use hyper::StatusCode;
use hyper::body::Bytes;

use super::*;
use crate::vnc::error::{CallKind, classify};
use contrail_mesos_api::http::Response;

fn classify_response(kind: CallKind, status: u16, text: &str) -> VncErrorKind {
    classify(
        kind,
        &Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: hyper::HeaderMap::new(),
            body: Bytes::copy_from_slice(text.as_bytes()),
        },
    )
}

fn create_error(status: u16, text: &str) -> VncErrorKind {
    classify_response(CallKind::Create, status, text)
}

fn other_error(status: u16, text: &str) -> VncErrorKind {
    classify_response(CallKind::Other, status, text)
}

#[test]
fn conflict_is_classified_by_text() {
    assert_eq!(
        create_error(
            409,
            "['default-domain', 'p1'] already exists with uuid: adadee99-636f-44f9-b8e6-67ca7fcf7ac7"
        ),
        VncErrorKind::Exists {
            uuid: Some(uuid("adadee99-636f-44f9-b8e6-67ca7fcf7ac7")),
            fq_name: None,
        }
    );
    assert_eq!(
        create_error(
            409,
            "e33cd325-e13e-4334-a837-36be5ba45791 already exists with fq_name: ['e33cd325-e13e-4334-a837-36be5ba45791']"
        ),
        VncErrorKind::Exists {
            uuid: None,
            fq_name: Some(FqName::new([VM])),
        }
    );
    assert_eq!(
        create_error(409, "IP address already in use"),
        VncErrorKind::AddressTaken
    );
    let instance_ip = |uuid: &str| Referrer {
        object_type: "instance-ip".to_owned(),
        uuid: uuid.parse().unwrap(),
    };
    assert_eq!(
        other_error(
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
        other_error(
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
fn recorded_errors_are_classified() {
    type Predicate = fn(&VncErrorKind) -> bool;
    let cases: &[(VncErrorKind, Predicate)] = &[
        (
            create_error(400, "Parent ['nodomain'] type domain does not exist"),
            |kind| matches!(kind, VncErrorKind::NoSuchParent { .. }),
        ),
        (
            create_error(404, "Name ['default-domain', 'p1', 'nope'] not found"),
            |kind| matches!(kind, VncErrorKind::NoSuchParent { .. }),
        ),
        (
            create_error(
                400,
                "Unknown reference in resource create {'fq_name': ['default-domain', 'p1', 'badref']}.",
            ),
            |kind| matches!(kind, VncErrorKind::NoSuchReference { .. }),
        ),
        (
            create_error(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has exhausted subnet([])",
            ),
            |kind| matches!(kind, VncErrorKind::AddressOutside { .. }),
        ),
        (
            create_error(
                500,
                "Virtual-Network(['default-domain', 'p1', '__public__']) has exhausted subnet([])",
            ),
            |kind| matches!(kind, VncErrorKind::AddressOutside { .. }),
        ),
        (
            create_error(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has exhausted subnet(['5.5.5.0/24'])",
            ),
            |kind| matches!(kind, VncErrorKind::Exhausted { .. }),
        ),
        (
            create_error(
                400,
                "Virtual-Network(['default-domain', 'p1', 'blue']) has invalid subnet(74ff2d93-c230-420e-b95d-4a08a67e23d4)",
            ),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (
            create_error(400, "Bad Request, name has one of invalid chars {':'}"),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (
            other_error(400, "Instance IP Address can not be changed"),
            |kind| matches!(kind, VncErrorKind::Invalid { .. }),
        ),
        (other_error(401, "Authentication required"), |kind| {
            matches!(kind, VncErrorKind::Unauthorised { .. })
        }),
        (
            other_error(
                403,
                "Permission Denied for bob as ['member'] to C domain in p",
            ),
            |kind| matches!(kind, VncErrorKind::Forbidden { .. }),
        ),
        (
            other_error(404, "Unknown id: db3c5921-4b4c-42ca-8838-784d95c79335"),
            |kind| matches!(kind, VncErrorKind::NotFound { .. }),
        ),
        (
            other_error(
                404,
                "ID 2303ed2a-b6d5-42e9-841e-42173e594241 does not exist",
            ),
            |kind| matches!(kind, VncErrorKind::NotFound { .. }),
        ),
        (create_error(404, "Not found: '/nosuchtypes'"), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (other_error(404, "<html>404 Not Found</html>"), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (other_error(404, ""), |kind| {
            matches!(kind, VncErrorKind::InvalidResponse { .. })
        }),
        (
            create_error(500, "Too many pending updates to RabbitMQ: 4097"),
            |kind| matches!(kind, VncErrorKind::Unavailable { .. }),
        ),
        (
            create_error(412, "quota limit (10) exceeded for resource instance_ip"),
            |kind| matches!(kind, VncErrorKind::Quota { .. }),
        ),
        (create_error(413, ""), |kind| {
            matches!(kind, VncErrorKind::TooLarge { .. })
        }),
        (create_error(500, "Internal Server Error"), |kind| {
            matches!(kind, VncErrorKind::Server { status: 500, .. })
        }),
        (
            create_error(500, "KeyError: 'virtual_network_refs'"),
            |kind| matches!(kind, VncErrorKind::Server { status: 500, .. }),
        ),
        (create_error(503, "ZooKeeper is not connected"), |kind| {
            matches!(kind, VncErrorKind::Unavailable { .. })
        }),
    ];
    for (kind, expected) in cases {
        assert!(expected(kind), "{kind:?}");
        let is_transient = matches!(kind, VncErrorKind::Unavailable { .. });
        assert_eq!(kind.is_transient(), is_transient, "{kind:?}");
    }
}

#[tokio::test]
async fn error_message_names_operation_server_and_remedy() {
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
             create it first (Parent ['nodomain'] type domain does not exist)",
            server.address
        )
    );
}
