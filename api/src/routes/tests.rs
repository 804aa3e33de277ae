use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower_service::Service as _;

use super::document::without_links;
use super::testing::{check_response, example_requests, problems};
use super::*;

/// Something with a [`Colour`](super::Colour).
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Thing {
    /// Its name.
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    colour: Option<String>,
    #[serde(default)]
    count: u32,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Things {
    things: Vec<Thing>,
}

fn routes() -> Routes<()> {
    let refuse = |problem: &str| (StatusCode::BAD_REQUEST, problem.to_owned()).into_response();
    Routes::new(refuse)
        .route(
            Operation::get("/things", "All things")
                .query::<String>("name", "A part of the name", "a")
                .json::<Things>(200, "The things"),
            async |mut parameters: QueryParameters| parameters.take("name").unwrap_or_default(),
        )
        .route(
            Operation::put("/things/{name}", "Replaces a thing")
                .in_path::<String>("name", "Its name", "a")
                .body::<Thing>("The thing", json!({"name": "a"}))
                .json::<Thing>(200, "The thing"),
            async || "put",
        )
        .route(
            Operation::get("/probe", "A probe")
                .ignoring_unknown_parameters()
                .text(200, "Well"),
            async || "well",
        )
}

fn document() -> Value {
    let document = Document {
        title: "Things",
        version: "1",
        description: "",
        security_schemes: json!({}),
        security: json!([]),
        operations: routes().into_operations(),
    };
    document.to_json()
}

async fn call(method: Method, target: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(target);
    let request = request.body(Body::empty()).unwrap();
    let response = routes().into_router().call(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn parameters_that_are_not_documented_are_refused() {
    let (status, body) = call(Method::GET, "/things?name=x").await;
    assert_eq!((status, body.as_str()), (200, "x"));
    for (method, target, part) in [
        (Method::GET, "/things?nam=x", "known are: name"),
        (Method::GET, "/things?name=x&name=y", "twice"),
        (Method::PUT, "/things/a?name=x", "takes none"),
    ] {
        let (status, body) = call(method, target).await;
        assert_eq!(status, 400, "{target}: {body}");
        assert!(body.contains(part), "{target}: {body}");
    }
    assert_eq!(call(Method::GET, "/probe?x=1").await.0, 200);
}

#[test]
fn requests_and_responses_have_schemas_of_their_own_where_they_differ() {
    let document = document();
    // A response always has what has a default in a request.
    let thing = json!({"name": "a"});
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    assert_eq!(
        problems(&document, &reference("ThingRequest"), &thing),
        [""; 0]
    );
    assert_eq!(problems(&document, &reference("Thing"), &thing).len(), 1);
    let put = &document["paths"]["/things/{name}"]["put"];
    let body = &put["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(*body, reference("ThingRequest"));
    let response = &put["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(*response, reference("Thing"));
    assert!(put["responses"]["400"].is_object(), "{put}");
    let description = &document["components"]["schemas"]["Thing"]["description"];
    assert_eq!(description, "Something with a `Colour`.");
    assert_eq!(
        without_links("a [`B`] c [`D`](e::F) [`g"),
        "a `B` c `D` [`g"
    );
}

#[test]
fn values_that_differ_from_their_schema_are_found() {
    let document = document();
    let schema = json!({ "$ref": "#/components/schemas/Things" });
    let thing = |thing: Value| problems(&document, &schema, &json!({ "things": [thing] })).len();
    assert_eq!(thing(json!({"name": "a", "count": 1})), 0);
    assert_eq!(thing(json!({"name": "a", "count": 1, "colour": "red"})), 0);
    for wrong in [
        json!({"name": "a"}),
        json!({"name": 1, "count": 1}),
        json!({"name": "a", "count": -1}),
        json!({"name": "a", "count": 1.5}),
        json!({"name": "a", "count": 1, "size": 2}),
        json!([]),
    ] {
        assert_ne!(thing(wrong.clone()), 0, "{wrong}");
    }
    assert_ne!(problems(&document, &schema, &json!({})).len(), 0);
    let number = json!({ "type": ["integer", "null"], "format": "uint32", "minimum": 0 });
    assert_eq!(problems(&document, &number, &Value::Null), [""; 0]);
    assert_ne!(problems(&document, &number, &json!("1")).len(), 0);
    let nullable = json!({ "anyOf": [schema, {"type": "null"}] });
    assert_eq!(problems(&document, &nullable, &Value::Null), [""; 0]);
    assert_ne!(problems(&document, &nullable, &json!({"a": 1})).len(), 0);
}

#[test]
fn examples_are_requests_with_each_parameter() {
    let document = document();
    let requests = example_requests(&document);
    let targets: Vec<_> = requests
        .iter()
        .map(|request| request.target.as_str())
        .collect();
    assert_eq!(
        targets,
        ["/probe", "/things", "/things?name=a", "/things/a"]
    );
    let things = json!({"things": []}).to_string();
    let json = Some("application/json");
    assert!(check_response(
        &document,
        &requests[1],
        200,
        json,
        things.as_bytes()
    ));
    let refusal = json!({"error": "wrong"}).to_string();
    assert!(!check_response(
        &document,
        &requests[1],
        400,
        json,
        refusal.as_bytes()
    ));
    for (status, media_type, body) in [
        (200, json, "{}"),
        (200, Some("text/plain"), "text"),
        (500, json, "{}"),
    ] {
        let checked = std::panic::catch_unwind(|| {
            check_response(&document, &requests[1], status, media_type, body.as_bytes())
        });
        assert!(checked.is_err(), "{status} {body}");
    }
}
