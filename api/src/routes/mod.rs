//! Routes of an HTTP server, and what its OpenAPI document says of them: both come from one table.
//!
//! Invariants: a path is served only with its documentation. A query parameter that is not documented
//! is refused, unless the operation says that it ignores such parameters.

mod document;
mod operation;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::on;

use crate::query::QueryParameters;

pub use document::Document;
pub use operation::Operation;

/// The path of a listener's own document.
pub const DOCUMENT_PATH: &str = "/openapi.json";

/// The response to a request whose query is wrong.
pub type Refuse = fn(&str) -> Response;

/// Routes, each with its documentation.
#[derive(Clone, Debug)]
pub struct Routes<S> {
    router: Router<S>,
    operations: Vec<Operation>,
    refuse: Refuse,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet.
    #[must_use]
    pub fn new(refuse: Refuse) -> Self {
        Self {
            router: Router::new(),
            operations: vec![],
            refuse,
        }
    }

    /// Adds a route. Its handler takes [`QueryParameters`] of the documented names, unless the operation
    /// ignores unknown parameters.
    #[must_use]
    pub fn route<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let known = KnownParameters {
            names: operation.query_names(),
            refuse: self.refuse,
        };
        let mut route = on(operation.method_filter(), handler);
        if !operation.ignores_unknown_parameters() {
            route = route.route_layer(from_fn_with_state(Arc::new(known), read_parameters));
        }
        self.router = self.router.route(operation.path(), route);
        self.operations.push(operation);
        self
    }

    /// Adds the route of the document, which is that of these and of other routes.
    #[must_use]
    pub fn document(self, document: fn() -> Bytes) -> Self {
        let operation = Operation::get(DOCUMENT_PATH, "The OpenAPI document of this listener")
            .content(200, "application/json", "The document");
        self.route(operation, async move || document_response(document()))
    }

    /// These routes and others.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// The routes.
    pub fn into_router(self) -> Router<S> {
        self.router
    }

    /// The documentation of the routes.
    #[must_use]
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }
}

/// The paths of operations, each once.
#[must_use]
pub fn paths(operations: &[Operation]) -> Vec<&'static str> {
    let mut paths = vec![];
    for operation in operations {
        if !paths.contains(&operation.path()) {
            paths.push(operation.path());
        }
    }
    paths
}

/// What a route takes.
#[derive(Debug)]
struct KnownParameters {
    names: Vec<&'static str>,
    refuse: Refuse,
}

/// Middleware that reads the query, or refuses it.
async fn read_parameters(
    State(known): State<Arc<KnownParameters>>,
    mut request: Request,
    next: Next,
) -> Response {
    match QueryParameters::parse(request.uri().query(), &known.names) {
        Ok(parameters) => {
            request.extensions_mut().insert(parameters);
            next.run(request).await
        }
        Err(problem) => (known.refuse)(&problem),
    }
}

impl<S: Sync> FromRequestParts<S> for QueryParameters {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let parameters = parts.extensions.remove::<Self>();
        // A handler that asks for them on a route that ignores unknown ones.
        parameters.ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

fn document_response(document: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, document).into_response()
}
