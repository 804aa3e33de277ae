//! Tests of lists.

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

fn vms(names: &[&str], marker: &Value) -> Reply {
    let vms: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({ "virtual-machine": {
                "fq_name": [name], "uuid": Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
            }})
        })
        .collect();
    ok(&json!({ "virtual-machines": vms, "marker": marker }))
}

fn names(machines: &[VirtualMachine]) -> Vec<&str> {
    machines
        .iter()
        .map(|machine| machine.common.fq_name.name())
        .collect()
}

#[tokio::test]
async fn list_merges_pages_without_duplicates() {
    let server = ScriptedServer::start(|request, _| {
        let marker = request.path.split_once("page_marker=").unwrap().1;
        match marker {
            "none" => vms(&["a", "b"], &json!("fq:name:b:1")),
            "fq%3Aname%3Ab%3A1" => vms(&["b", "c"], &json!("fq:name:c:2")),
            _ => vms(&["d"], &Value::Null),
        }
    })
    .await;
    let all: Vec<VirtualMachine> = client(&server).list(&Query::new().page(2)).await.unwrap();
    assert_eq!(names(&all), ["a", "b", "c", "d"]);
    assert_eq!(
        server.requests()[0].path,
        "/virtual-machines?exclude_hrefs=true&detail=true&page_limit=2&page_marker=none"
    );
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn list_without_marker_sends_one_request() {
    let server = ScriptedServer::start(|_, _| {
        ok(&json!({ "virtual-machines": [{ "fq_name": ["a"], "uuid": VM, "href": "x" }] }))
    })
    .await;
    let all: Vec<VirtualMachine> = client(&server).list(&Query::new()).await.unwrap();
    assert_eq!(names(&all), ["a"]);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn list_repeated_marker_is_invalid_response() {
    let server = ScriptedServer::start(|_, _| vms(&["a"], &json!("again"))).await;
    let result = client(&server).list::<VirtualMachine>(&Query::new()).await;
    assert!(matches!(
        result.unwrap_err().kind,
        VncErrorKind::InvalidResponse { .. }
    ));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn list_with_empty_ids_returns_nothing() {
    let server = ScriptedServer::start(|_, _| Reply::Hang).await;
    for query in [
        Query::new().uuids([]),
        Query::new().children_of([]),
        Query::new().referring_to([]),
        Query::new().names([]),
    ] {
        let machines = client(&server).list::<VirtualMachine>(&query).await;
        assert_eq!(machines.unwrap(), []);
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn list_with_many_ids_uses_bulk_requests() {
    let server = ScriptedServer::start(|request, _| {
        let body = request.json();
        let ids = body["back_ref_id"].as_str().unwrap();
        let list: Vec<Value> = ids.split(',').map(|id| json!({ "uuid": id })).collect();
        ok(&json!({ "virtual-machine-interfaces": list }))
    })
    .await;
    let ids: Vec<Uuid> = (0..2500).map(Uuid::from_u128).collect();
    let query = Query::new()
        .referring_to(ids.clone())
        .detail(Detail::Fields(vec!["virtual_machine_refs".to_owned()]));
    let interfaces: Vec<VirtualMachineInterface> = client(&server).list(&query).await.unwrap();
    let uuids: Vec<Uuid> = interfaces
        .iter()
        .filter_map(|interface| interface.common.uuid)
        .collect();
    assert_eq!(uuids, ids);
    assert_eq!(server.lines(), ["POST /list-bulk-collection"; 3]);
    let body = server.requests()[0].json();
    assert_eq!(body["type"], "virtual-machine-interface");
    assert_eq!(body["fields"], "virtual_machine_refs");
    assert!(body.get("page_marker").is_none());
}

/// A real server ignores names in a body, and lists everything.
#[tokio::test]
async fn list_with_many_names_splits_urls() {
    let server = ScriptedServer::start(|_, _| ok(&json!({ "virtual-machines": [] }))).await;
    let names = (0..60).map(|index| FqName::new([format!("vm-{index}")]));
    let query = Query::new().names(names);
    client(&server)
        .list::<VirtualMachine>(&query)
        .await
        .unwrap();
    assert_eq!(server.lines(), ["GET /virtual-machines"; 3]);
}

#[tokio::test]
async fn list_encodes_conditions() {
    let server = ScriptedServer::start(|_, _| ok(&json!({ "virtual-networks": [] }))).await;
    let query = Query::new()
        .names(["d:p:a & b".parse().unwrap()])
        .filter("display_name", "x=1")
        .detail(Detail::Names);
    client(&server)
        .list::<VirtualNetwork>(&query)
        .await
        .unwrap();
    assert_eq!(
        server.requests()[0].path,
        "/virtual-networks?exclude_hrefs=true&fq_names=d%3Ap%3Aa+%26+b&filters=display_name%3D%3D%22x%3D1%22"
    );
    let query = Query::new().names([FqName::new(["a,b"])]);
    let error = client(&server)
        .list::<VirtualNetwork>(&query)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("comma"), "{error}");
}

#[tokio::test]
async fn count_returns_number_of_objects() {
    let server =
        ScriptedServer::start(|_, _| ok(&json!({ "virtual-networks": { "count": 6 } }))).await;
    assert_eq!(client(&server).count::<VirtualNetwork>().await.unwrap(), 6);
}
