//! The engine's figures.

use crate::http::door::Full;
use crate::http::message::Cut;
use crate::metrics::{Counter, Gauge, Registry};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it between requests.
    Client,
    /// The client left, or the network broke, in the middle of a request or an answer.
    Aborted,
    /// Either side had asked for it to end with the answer.
    Finished,
    /// The message was refused: nobody knows where the next would begin.
    Refused,
    /// No request for `limits.idle_timeout`.
    Idle,
    /// The head did not come in time.
    HeadTimeout,
    /// The body did not come in time, or too slowly.
    BodyTimeout,
    /// The client took no byte of its answer for `limits.idle_timeout`.
    WriteTimeout,
    /// It had been idle longest, or was slowest, and made way for another.
    Evicted,
    /// Refused with 503: its address has as many as it may, and none could make way.
    AddressLimit,
    /// The server stops.
    Drain,
    /// The body of an answer could not be made to its end.
    BrokenBody,
    /// Memory was short, and it moved least of what it held.
    Memory,
    /// Refused with 503: there were as many as there may be, and none could make way.
    Full,
}

impl CloseReason {
    /// What it says of an answer that was on its way.
    pub fn cut(self) -> Cut {
        match self {
            CloseReason::WriteTimeout => Cut::Unread,
            CloseReason::Memory => Cut::Memory,
            CloseReason::Drain => Cut::Drain,
            CloseReason::BrokenBody => Cut::Body,
            CloseReason::Evicted | CloseReason::AddressLimit | CloseReason::Full => Cut::Room,
            _ => Cut::Client,
        }
    }

    /// The reason for one that there was no place for.
    pub fn refused_at(full: Full) -> CloseReason {
        match full {
            Full::All => CloseReason::Full,
            Full::Network(_) => CloseReason::AddressLimit,
        }
    }
}

const CLOSED: &str = "larder_http_connections_closed_total";
const CLOSED_HELP: &str = "Connections that ended, by reason.";

/// Counters and gauges of one engine.
pub struct Stats {
    /// Connections open now.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// Errors of accept(2), which made it pause.
    pub accept_errors: Counter,
    /// Requests turned away because the worker queue or the import lane was full.
    pub overloaded: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    /// Workers inside a handler.
    pub workers_busy: Gauge,
    /// Requests that wait for a worker.
    pub queue_depth: Gauge,
    /// Heads and small bodies that were ended because too much was kept of them.
    pub parts_ended: Counter,
    closed: [Counter; 14],
}

impl Stats {
    /// Registers them all.
    pub fn new(registry: &Registry) -> Stats {
        let closed = |labels| registry.counter(CLOSED, CLOSED_HELP, labels);
        Stats {
            connections: registry.gauge("larder_http_connections", "Connections open now.", &[]),
            accepted: registry.counter("larder_http_connections_accepted_total", "Connections accepted.", &[]),
            accept_errors: registry.counter("larder_http_accept_errors_total", "Errors of accept, each a pause.", &[]),
            overloaded: registry.counter("larder_http_overloaded_total", "Requests turned away: queue full.", &[]),
            panics: registry.counter("larder_http_handler_panics_total", "Handlers that panicked.", &[]),
            workers_busy: registry.gauge("larder_http_workers_busy", "Workers inside a handler.", &[]),
            queue_depth: registry.gauge("larder_http_queue_depth", "Requests that wait for a worker.", &[]),
            parts_ended: registry.counter(
                "larder_http_parts_ended_total",
                "Heads and small bodies that were ended because too much of them was kept unfinished.",
                &[],
            ),
            closed: [
                closed(&[("reason", "client")]),
                closed(&[("reason", "aborted")]),
                closed(&[("reason", "finished")]),
                closed(&[("reason", "refused")]),
                closed(&[("reason", "idle")]),
                closed(&[("reason", "head_timeout")]),
                closed(&[("reason", "body_timeout")]),
                closed(&[("reason", "write_timeout")]),
                closed(&[("reason", "evicted")]),
                closed(&[("reason", "address_limit")]),
                closed(&[("reason", "drain")]),
                closed(&[("reason", "broken_body")]),
                closed(&[("reason", "memory")]),
                closed(&[("reason", "full")]),
            ],
        }
    }

    /// Counts one connection that ended.
    pub fn count_closed(&self, reason: CloseReason) {
        self.closed[reason as usize].inc();
    }
}
