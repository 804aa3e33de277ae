//! `GET /overlay-agent/overlay`: what the agent module of DC/OS answers, as JSON or as the protobuf
//! message `AgentInfo`. `?jsonp=` is refused to pages of other sites if the browser says that it is one.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use contrail_mesos_api::http::is_of_foreign_page;
use contrail_mesos_api::overlay_modules::proto::AgentInfo;
use contrail_mesos_api::overlay_modules::{
    AnswerError, FOREIGN_SCRIPT, OverlayStatus, agent_overlay, answer, is_subsystem_of_overlays,
    overlay_info, query_parameter,
};

use super::{ApiSources, ApiState, refusal};
use crate::subsystem::ClusterUse;

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
    if jsonp.is_some() && is_of_foreign_page(&headers) {
        return refusal(StatusCode::FORBIDDEN, FOREIGN_SCRIPT);
    }
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
        // What is wrong with a container does not mean that the overlays have failed.
        let subsystems = || {
            let all = engine.subsystems.iter();
            all.filter(|status| is_subsystem_of_overlays(status.name))
        };
        let applying = subsystems().filter(|status| status.cluster_use != ClusterUse::Unused);
        let applied = applying.map(|status| status.applied).min().flatten();
        let problems = subsystems().flat_map(|status| &status.problems);
        let problems: Vec<_> = problems.map(String::as_str).collect();
        if !problems.is_empty() {
            OverlayStatus::Failed(problems.join("; "))
        } else if applied == Some(state.revision) {
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
