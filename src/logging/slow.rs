//! The line about a request that took long: where its time went, as `name=value` pairs.
//!
//! SECURITY: it names the route, never the target: keys, values and tokens do not belong in a log.

use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::time::Duration;

use super::RateLimit;

/// A request and its time. What did not happen is `None` and left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowRequest<'a> {
    /// The method's text.
    pub method: &'a str,
    /// The route's label.
    pub route: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Who asked; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The trusted proxy that asked for them, if one did; `Some(None)` is one on a Unix socket.
    pub proxy: Option<Option<IpAddr>>,
    /// What the client calls itself, cut and cleaned.
    pub agent: Option<&'a str>,
    /// `X-Request-Id`, the client's or ours.
    pub request_id: Option<&'a str>,
    /// `traceparent` as the client sent it.
    pub traceparent: Option<&'a str>,
    /// From the request's arrival to its answer.
    pub total: Duration,
    /// Waiting for a worker.
    pub queue: Option<Duration>,
    /// Reading from the store.
    pub store: Option<Duration>,
    /// Waiting for the commit, its sync included.
    pub commit: Option<Duration>,
    /// Writing the answer to the socket.
    pub write: Option<Duration>,
}

/// Logs a slow request at `warn`, at most 20 at once and two a second.
pub fn log_slow(request: &SlowRequest<'_>) {
    static LIMIT: RateLimit = RateLimit::new(20, Duration::from_millis(500));
    crate::log_limited!(LIMIT, log::Level::Warn, "slow request {request}");
}

impl Display for SlowRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method={} route={}", Value(self.method), Value(self.route))?;
        write!(f, " status={} bytes={}", self.status, self.bytes)?;
        for (name, address) in [("peer", Some(self.peer)), ("proxy", self.proxy)] {
            match address {
                Some(Some(ip)) => write!(f, " {name}={ip}")?,
                Some(None) => write!(f, " {name}=unix")?,
                None => {}
            }
        }
        for (name, text) in [("agent", self.agent), ("request_id", self.request_id), ("traceparent", self.traceparent)]
        {
            if let Some(text) = text {
                write!(f, " {name}={}", Value(text))?;
            }
        }
        write!(f, " total_ms={}", Millis(self.total))?;
        let parts = [("queue", self.queue), ("store", self.store), ("commit", self.commit), ("write", self.write)];
        for (name, duration) in parts {
            if let Some(duration) = duration {
                write!(f, " {name}_ms={}", Millis(duration))?;
            }
        }
        Ok(())
    }
}

/// A text that stays one value: quoted where it would fall apart.
struct Value<'a>(&'a str);

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_request_says_where_its_time_went() {
        let request = SlowRequest {
            method: "PUT",
            route: "/api/v1/kv/{namespace}/{collection}/{key}",
            status: 201,
            bytes: 42,
            peer: Some([192, 0, 2, 7].into()),
            proxy: None,
            agent: Some("curl/8.5.0"),
            request_id: Some("req-1"),
            traceparent: None,
            total: Duration::from_micros(1_204_500),
            queue: Some(Duration::from_micros(500)),
            store: None,
            commit: Some(Duration::from_millis(1_200)),
            write: Some(Duration::ZERO),
        };
        assert_eq!(
            request.to_string(),
            "method=PUT route=/api/v1/kv/{namespace}/{collection}/{key} status=201 bytes=42 peer=192.0.2.7 \
             agent=curl/8.5.0 request_id=req-1 total_ms=1204.500 queue_ms=0.500 commit_ms=1200.000 write_ms=0.000"
        );
    }

    #[test]
    fn a_clients_text_cannot_add_a_field() {
        let request =
            SlowRequest { method: "GET", route: "", request_id: Some("a status=500 \"\\\n"), ..Default::default() };
        let line = request.to_string();
        assert!(line.starts_with("method=GET route=\"\" status=0 bytes=0 peer=unix "), "{line}");
        let proxied = SlowRequest { proxy: Some(None), peer: Some([192, 0, 2, 7].into()), ..request }.to_string();
        assert!(proxied.contains(" peer=192.0.2.7 proxy=unix request_id="), "{proxied}");
        assert!(line.contains(" request_id=\"a status=500 \\\"\\\\\\n\" total_ms=0.000"), "{line}");
    }
}
