//! `/health`, `/health/live` and `/metrics`.

use serde_json::json;

use crate::config::EngineKind;
use crate::http::{Problem, Request, Response};
use crate::store::StoreState;
use crate::store::recovery::RecoveryReport;

use super::Api;

/// Whether larder does its whole work: 200, or 503. Who may read is told the reason, and what is running.
pub fn health(api: &Api, request: &Request) -> Response {
    let may_read = api.access.may_read(&request.head, request.peer, request.method);
    report(api, may_read)
}

/// The same for somebody of whom that is known.
pub fn report(api: &Api, may_read: bool) -> Response {
    let state = api.store().map(|db| db.state());
    let store = state.as_ref().map_or("unavailable", StoreState::name);
    let draining = api.drain.is_set() || matches!(state, Some(StoreState::Draining));
    let recovery = api.recovery().filter(RecoveryReport::found_damage);
    let (status, reason) = match (draining, store_reason(api)) {
        (true, _) => ("draining", Some("larder is stopping".to_owned())),
        (false, Some(reason)) => ("degraded", Some(reason)),
        (false, None) => ("ok", None),
    };
    let mut document = json!({ "status": status, "store": store });
    // SECURITY: strangers learn whether it works, and nothing that would help them to choose what to try.
    if may_read {
        document["version"] = env!("CARGO_PKG_VERSION").into();
        document["uptime_seconds"] = api.started_at.elapsed().as_secs().into();
        document["engine"] = engine_name(api.config.engine).into();
    }
    let Some(reason) = reason else {
        return Response::with_text(200, "application/json", document.to_string()).field("Cache-Control", "no-store");
    };
    if may_read {
        document["reason"] = reason.into();
    }
    if let Some(report) = recovery.filter(|_| may_read) {
        document["batches_lost"] = report.batches_lost.into();
        document["changes_rescued"] = report.changes_rescued.into();
    }
    let (code, message) = match (draining, may_read) {
        (true, _) => ("DRAINING", "larder is stopping; it will be back after its restart"),
        (false, true) => ("STORE_UNAVAILABLE", "larder does not do its whole work; see reason"),
        (false, false) => ("STORE_UNAVAILABLE", "larder does not do its whole work; who may read is told why"),
    };
    let mut problem = Problem::new(503, code, message);
    if let serde_json::Value::Object(members) = document {
        for (name, value) in members.into_iter().filter(|(name, _)| name != "status") {
            problem = problem.with(&name, value);
        }
    }
    Response::from(problem).field("Retry-After", "5")
}

/// Why the store does not do its whole work, and what was lost at the start; `None` if all is well.
pub fn store_reason(api: &Api) -> Option<String> {
    let trouble = match api.store().map(|db| db.state()) {
        None => Some(api.store_trouble().unwrap_or_else(|| "the store is being opened".to_owned())),
        Some(state) => Some(state.reason().to_owned()).filter(|reason| !reason.is_empty()),
    };
    let lost = api.recovery().filter(RecoveryReport::found_damage).map(|report| damage(&report));
    match (trouble, lost) {
        (Some(trouble), Some(lost)) => Some(format!("{trouble}. Besides, {lost}")),
        (None, Some(lost)) => Some(format!("{lost}. The store takes reads and writes")),
        (trouble, None) => trouble,
    }
}

/// What a start that found damage says until the next one. What is gone stays gone, and only a person can judge what that
/// means.
fn damage(report: &RecoveryReport) -> String {
    let mut losses = Vec::new();
    if !report.damaged.is_empty() {
        losses.push(format!("the journal was damaged, and at most {} groups of writes were lost", report.batches_lost));
    }
    if report.journals_missing > 0 {
        losses.push(format!("{} journals were missing, with whatever was in no table yet", report.journals_missing));
    }
    if report.records_lost {
        losses.push(format!(
            "the folder of the records was gone, and {} changes were taken from the journals",
            report.changes_rescued
        ));
    }
    format!(
        "when larder started {}; the log says more, and where a damaged journal is kept. This stands until larder is \
         restarted after reading it",
        losses.join("; ")
    )
}

/// 200 as long as the process answers.
pub fn live() -> Response {
    Response::with_text(200, "application/json", &b"{\"status\":\"ok\"}"[..]).field("Cache-Control", "no-store")
}

/// The Prometheus page.
pub fn metrics(api: &Api) -> Response {
    Response::with_text(200, "text/plain; version=0.0.4; charset=utf-8", api.registry.expose())
        .field("Cache-Control", "no-store")
}

/// The engine's name as it stands in the configuration.
pub fn engine_name(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::TinyHttp => "tiny_http",
        EngineKind::Epoll => "epoll",
    }
}
