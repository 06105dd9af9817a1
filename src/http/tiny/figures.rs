//! What the engine counts.

use crate::http::door::Full;
use crate::metrics::{Counter, Gauge, Registry};

/// Why the engine ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The answer said so, or the client asked for it in a way that tiny_http does not see.
    Asked,
    /// The request was not valid, or its body was not wanted to its end.
    Refused,
    /// More pipelined requests than may wait.
    Pipelining,
    /// Nothing was asked for too long.
    Idle,
    /// The head came too slowly, or was too long.
    Head,
    /// The body came too slowly, or was longer on the wire than it may be.
    Body,
    /// The client did not take its answer, or ended before it had it.
    Unread,
    /// It had been idle longest, or was slowest, and made way for another.
    Evicted,
    /// Refused with 503: its address has as many as it may, and none could make way.
    AddressLimit,
    /// Refused with 503: there were as many as there may be, and none could make way.
    Full,
    /// tiny_http has no thread for it, and kicks did not help.
    Stranded,
    /// Too much work of one kind at once.
    Overload,
    /// Memory was short, and its client took too little of an answer.
    Memory,
    /// larder stops.
    Drain,
}

impl Reason {
    /// The reason for one that there was no place for.
    pub fn refused_at(full: Full) -> Reason {
        match full {
            Full::All => Reason::Full,
            Full::Network(_) => Reason::AddressLimit,
        }
    }
}

const REASONS: [(Reason, crate::metrics::Labels); 14] = [
    (Reason::Asked, &[("reason", "finished")]),
    (Reason::Refused, &[("reason", "refused")]),
    (Reason::Pipelining, &[("reason", "pipelining")]),
    (Reason::Idle, &[("reason", "idle")]),
    (Reason::Head, &[("reason", "head_timeout")]),
    (Reason::Body, &[("reason", "body_timeout")]),
    (Reason::Unread, &[("reason", "write_timeout")]),
    (Reason::Evicted, &[("reason", "evicted")]),
    (Reason::AddressLimit, &[("reason", "address_limit")]),
    (Reason::Full, &[("reason", "full")]),
    (Reason::Stranded, &[("reason", "stranded")]),
    (Reason::Overload, &[("reason", "overload")]),
    (Reason::Memory, &[("reason", "memory")]),
    (Reason::Drain, &[("reason", "drain")]),
];

/// The engine's figures.
pub struct Figures {
    /// Open connections, as of the guard's last look.
    pub connections: Gauge,
    /// Workers that are at work on a request.
    pub workers_busy: Gauge,
    /// Requests that wait for a worker.
    pub queued: Gauge,
    /// Bodies and answers that wait for the side lane.
    pub lane_queued: Gauge,
    /// Threads of the side lane that are at work.
    pub lane_busy: Gauge,
    /// Connections accepted.
    pub accepted: Counter,
    /// Errors of accept(2), which made it pause.
    pub accept_errors: Counter,
    /// Connections to ourselves that freed stranded ones.
    pub kicks: Counter,
    /// tiny_http's threads that cannot be freed.
    pub leaked_threads: Gauge,
    /// Accept loops that died and were replaced.
    pub accept_restarts: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    closed: [Counter; REASONS.len()],
}

impl Figures {
    /// Registers them.
    pub fn new(registry: &Registry) -> Figures {
        let closed = REASONS.map(|(_, labels)| {
            registry.counter(
                "larder_http_connections_closed_total",
                "Connections that larder ended, by reason.",
                labels,
            )
        });
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let counter = |name, help| registry.counter(name, help, &[]);
        Figures {
            connections: gauge("larder_http_connections", "Connections open now."),
            workers_busy: gauge("larder_http_workers_busy", "Workers inside a handler."),
            queued: gauge("larder_http_queue_depth", "Requests that wait for a worker."),
            lane_queued: gauge("larder_side_lane_queue_depth", "Bodies and answers that wait for the side lane"),
            lane_busy: gauge("larder_side_lane_busy", "Side lane threads that read a body or write an answer"),
            accepted: counter("larder_http_connections_accepted_total", "Connections accepted."),
            accept_errors: counter("larder_http_accept_errors_total", "Errors of accept, each a pause."),
            kicks: counter("larder_tiny_http_kicks_total", "Stranded connections that were kicked free"),
            leaked_threads: gauge("larder_tiny_http_leaked_threads", "tiny_http threads that cannot be freed"),
            accept_restarts: counter("larder_tiny_http_accept_restarts_total", "Accept loops that were replaced"),
            panics: counter("larder_http_handler_panics_total", "Handlers that panicked."),
            closed,
        }
    }

    /// Counts an ended connection.
    pub fn closed(&self, reason: Reason) {
        if let Some(at) = REASONS.iter().position(|(known, _)| *known == reason) {
            self.closed[at].inc();
        }
    }
}
