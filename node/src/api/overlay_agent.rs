//! `GET /overlay-agent/overlay`: what the agent module of DC/OS answers, as JSON or as the protobuf
//! message `AgentInfo`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use contrail_mesos_api::overlay_modules::proto::AgentInfo;
use contrail_mesos_api::overlay_modules::{
    AnswerError, OverlayStatus, agent_overlay, answer, overlay_info, query_parameter,
};

use super::{ApiSources, ApiState, refusal};

pub(super) async fn overlay(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(agent) = agent_info(&state.sources) else {
        let reason = "this node is not registered at a manager yet";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    let accept = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    let jsonp = query_parameter(query.as_deref(), "jsonp");
    match answer(&agent, accept, jsonp.as_deref()) {
        Ok(answer) => {
            let headers = [
                (CONTENT_TYPE, answer.content_type),
                (CACHE_CONTROL, "no-store"),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, answer.body).into_response()
        }
        Err(error) => {
            let status = match error {
                AnswerError::NotAccepted => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                AnswerError::Callback(_) => StatusCode::BAD_REQUEST,
            };
            refusal(status, &error.to_string())
        }
    }
}

/// This agent and its overlays; none while it is not registered.
fn agent_info(sources: &ApiSources) -> Option<AgentInfo> {
    let state = sources.states.borrow().clone()?;
    let own = state.own_node()?;
    let underlay = state.underlay.as_ref()?;
    let status = {
        let engine = sources.engine.borrow();
        let problems = engine.subsystems.iter().flat_map(|status| &status.problems);
        let problems: Vec<_> = problems.map(String::as_str).collect();
        if !problems.is_empty() {
            OverlayStatus::Failed(problems.join("; "))
        } else if engine.applied() == Some(state.revision) {
            OverlayStatus::Ok
        } else {
            OverlayStatus::Configuring
        }
    };
    let overlays = own.subnets.iter().filter_map(|part| {
        let overlay = state.overlays.get(&part.overlay)?;
        let info = overlay_info(overlay, part);
        let endpoint = (&own.vtep, underlay);
        let status = Some(status.clone());
        Some(agent_overlay(overlay, info, part, endpoint, status))
    });
    Some(AgentInfo {
        ip: own.address.to_string(),
        overlays: overlays.collect(),
        configuration_attempts: None,
    })
}
