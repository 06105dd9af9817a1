//! `X-Request-Id` and `traceparent`: validated, echoed on the answer, and named in logs and problem bodies.

use std::time::Duration;

use crate::http::agent::Agent;
use crate::http::{Head, HeaderName, Outcome, Peer, Trace};
use crate::logging;

const REQUEST_ID_BYTES_MAX: usize = 128;

/// Notes the identifiers of a request. One that is not of its form is ignored: it is not the client's business that
/// fails because of it, and it must not reach a log.
pub fn identify(head: &Head, trace: &mut Trace) {
    if trace.request_id.is_none()
        && let Some(id) = head.get(HeaderName::XRequestId).filter(|id| is_request_id(id))
    {
        trace.request_id = Some(id.into());
        trace.echo(b"X-Request-Id", id.as_bytes());
    }
    if trace.agent.is_none() {
        trace.agent = head.get(HeaderName::UserAgent).map(Agent::of);
    }
    if trace.traceparent.is_none()
        && let Some(parent) = head.get(HeaderName::Traceparent).filter(|parent| is_traceparent(parent))
    {
        trace.traceparent = Some(parent.into());
        trace.echo(b"traceparent", parent.as_bytes());
    }
}

fn is_request_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(plain)
}

/// W3C Trace Context, version 00: `00-<32 hex>-<16 hex>-<2 hex>`, neither identifier all zeros.
fn is_traceparent(parent: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let named = |part: &str| part.bytes().any(|byte| byte != b'0');
    let mut parts = parent.split('-');
    let mut next = || parts.next().unwrap_or("");
    let (version, trace, span, flags) = (next(), next(), next(), next());
    version == "00"
        && hex(trace, 32)
        && named(trace)
        && hex(span, 16)
        && named(span)
        && hex(flags, 2)
        && parts.next().is_none()
}

/// Says in the log where a slow request spent its time.
pub fn log_slow(trace: &Trace, outcome: &Outcome, route: &str, spent: Duration) {
    let peer = match trace.peer {
        Peer::Tcp(ip, _) => Some(ip),
        Peer::Unix => None,
    };
    let shown = |spent: Duration| (!spent.is_zero()).then_some(spent);
    logging::log_slow(&logging::SlowRequest {
        method: trace.method.as_str(),
        route,
        status: outcome.status,
        bytes: outcome.body_bytes,
        peer: trace.forwarded.or(peer),
        proxy: trace.forwarded.map(|_| peer),
        agent: trace.agent.as_ref().map(Agent::as_str),
        request_id: trace.request_id.as_deref(),
        traceparent: trace.traceparent.as_deref(),
        total: spent,
        queue: shown(trace.began_at.saturating_duration_since(trace.ready_at)),
        store: shown(trace.store),
        commit: shown(trace.commit),
        write: shown(outcome.write),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_checked_before_they_are_echoed() {
        assert!(is_request_id("7f3a-42"));
        for bad in ["", "a b", "a\u{7f}", "ü", &"x".repeat(129)] {
            assert!(!is_request_id(bad), "{bad:?}");
        }
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
