//! Which web pages of other origins may use larder from a browser (the CORS protocol of the Fetch standard).
//!
//! Invariant: `Access-Control-Allow-Credentials` is never sent: tokens travel in `Authorization`, which a page sets by
//! itself, so no page ever acts with what a browser has stored.

use crate::http::{Head, HeaderName, Response, Trace};

/// What a page may read of an answer, besides what every page may (Fetch §3.3.5).
const EXPOSED: &str = "ETag, Location, Retry-After, Content-Range, Accept-Ranges, Accept-Encoding, Accept-Patch, Allow, Larder-Version, Larder-Durability, Larder-Ttl, Larder-Since, X-Request-Id, traceparent, WWW-Authenticate";
/// What a page may send: what larder reads, and what libraries add to all they send.
const ALLOWED_FIELDS: &str = "Authorization, Content-Type, Content-Encoding, Content-Digest, Repr-Digest, Digest, Accept, Cache-Control, Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range, Last-Event-ID, X-Request-Id, X-No-Compression, X-Requested-With, Idempotency-Key, Accept-Language, Pragma, Expires, traceparent, tracestate, baggage, sentry-trace";
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: &str = "3600";

/// The rule for pages of other origins.
pub struct Cors {
    origins: Origins,
    /// The value of `Access-Control-Allow-Headers`.
    fields: String,
}

/// Which origins.
enum Origins {
    /// None.
    Off,
    /// Every one.
    Any,
    /// These.
    Listed(Vec<String>),
}

impl Cors {
    /// The rule of `cors.origins` and `cors.headers`.
    pub fn new(origins: &[String], headers: &[String]) -> Cors {
        let origins = match origins {
            [] => Origins::Off,
            [one] if one == "*" => Origins::Any,
            listed => Origins::Listed(listed.to_vec()),
        };
        let fields = std::iter::once(ALLOWED_FIELDS).chain(headers.iter().map(String::as_str));
        Cors { origins, fields: fields.collect::<Vec<_>>().join(", ") }
    }

    /// What `Access-Control-Allow-Origin` says to this request.
    fn allowed<'a>(&self, head: &'a Head) -> Option<&'a str> {
        if !head.has(HeaderName::Origin) || head.count(HeaderName::Origin) != 1 {
            return None;
        }
        let origin = head.get(HeaderName::Origin)?;
        match &self.origins {
            Origins::Off => None,
            Origins::Any => Some("*"),
            Origins::Listed(listed) => listed.iter().any(|one| one == origin).then_some(origin),
        }
    }

    /// Notes what the answer to this request must carry, whoever makes it, errors included: without it a page could
    /// not read why it was refused. Called once for each request, before it is routed. Of a head that is not `whole` the
    /// origin may be missing.
    pub fn echo(&self, head: &Head, trace: &mut Trace, whole: bool) {
        if matches!(self.origins, Origins::Listed(_)) {
            // The answer differs by origin also where there was none: a cache between must know.
            trace.echo(b"Vary", b"Origin");
        }
        let anyone = (!whole && matches!(self.origins, Origins::Any)).then_some("*");
        if let Some(origin) = self.allowed(head).or(anyone) {
            trace.echo(b"Access-Control-Allow-Origin", origin.as_bytes());
            trace.echo(b"Access-Control-Expose-Headers", EXPOSED.as_bytes());
        }
    }

    /// The answer to `OPTIONS` for a resource with these methods (the value of `Allow`); a preflight or not. What
    /// [`Cors::echo`] notes comes on top.
    pub fn options(&self, head: &Head, allow: &str) -> Response {
        let mut response = Response::new(204).field("Allow", allow);
        if allow.split(", ").any(|method| method == "PATCH") {
            response.push_field("Accept-Patch", super::kv::update::PATCH_TYPE.as_bytes());
        }
        if head.has(HeaderName::AccessControlRequestMethod) && self.allowed(head).is_some() {
            response.push_field("Access-Control-Allow-Methods", allow.as_bytes());
            response.push_field("Access-Control-Allow-Headers", self.fields.as_bytes());
            response.push_field("Access-Control-Max-Age", MAX_AGE.as_bytes());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Method, Peer};
    use std::time::Instant;

    const APP: &str = "https://app.example";

    fn answer(origins: &[&str], fields: &[(&str, &str)]) -> Response {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        let cors = Cors::new(&origins, &["X-Device".to_owned()]);
        let mut head = Head::new("/x");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        let mut trace = Trace::new(Method::Options, Peer::Unix, Instant::now());
        cors.echo(&head, &mut trace, true);
        let mut response = cors.options(&head, "GET, PUT, OPTIONS");
        response.seal(&mut trace);
        response
    }

    #[test]
    fn origins_get_what_they_were_given_and_no_more() {
        for (origins, origin, allowed, varies) in [
            (&[][..], APP, None, false),
            (&[APP], APP, Some(APP), true),
            (&[APP], "https://evil.example", None, true),
            (&[APP], "null", None, true),
            (&[APP], "https://app.example.evil.example", None, true),
            (&[APP], "http://app.example", None, true),
            (&["*"], "https://any.example", Some("*"), false),
            (&["*"], "null", Some("*"), false),
        ] {
            let response = answer(origins, &[("Origin", origin), ("Access-Control-Request-Method", "PUT")]);
            assert_eq!(response.get("Access-Control-Allow-Origin"), allowed, "{origins:?} {origin}");
            assert_eq!(response.get("Vary").is_some(), varies, "{origins:?} {origin}");
            assert_eq!(response.get("Access-Control-Allow-Methods").is_some(), allowed.is_some());
            assert_eq!(response.get("Access-Control-Allow-Credentials"), None);
        }
    }

    #[test]
    fn plain_options_names_the_methods_and_nothing_of_cors() {
        let response = answer(&[APP], &[("Origin", APP)]);
        assert_eq!((response.status, response.get("Allow")), (204, Some("GET, PUT, OPTIONS")));
        assert_eq!(response.get("Access-Control-Allow-Methods"), None);
        assert_eq!(answer(&[APP], &[]).get("Access-Control-Allow-Origin"), None);
        assert_eq!(answer(&[APP], &[]).get("Vary"), Some("Origin"));
    }

    #[test]
    fn a_page_may_read_the_fields_that_larder_sets() {
        let response = answer(&["*"], &[("Origin", APP)]);
        let exposed = response.get("Access-Control-Expose-Headers").unwrap();
        for name in ["ETag", "Location", "Retry-After", "Larder-Version", "Larder-Ttl", "Accept-Patch", "Allow"] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }

    #[test]
    fn a_page_may_send_what_libraries_add_and_what_the_owner_names() {
        let response = answer(&[APP], &[("Origin", APP), ("Access-Control-Request-Method", "PUT")]);
        let allowed = response.get("Access-Control-Allow-Headers").unwrap();
        for name in ["Authorization", "If-Match", "X-Requested-With", "traceparent", "tracestate", "X-Device"] {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{name}");
        }
    }

    #[test]
    fn two_origins_are_none() {
        let response = answer(&[APP], &[("Origin", APP), ("Origin", "https://evil.example")]);
        assert_eq!(response.get("Access-Control-Allow-Origin"), None);
    }
}
