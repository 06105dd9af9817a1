//! From a request to the file that answers it.

use std::time::Instant;

use crate::http::router::{self, Match};
use crate::http::{
    Admission, Handler, Head, HeaderName, Method, Outcome, Problem, Request, Responder, Response, Trace, digest,
    encoding, unheeded,
};
use crate::limits::SPARE_BODY_BYTES;

use super::access::Grant;
use super::endings::Ending;
use super::ratelimit::RateKey;
use super::routes::{self, Endpoint, Openness};
use super::target::ValueTarget;
use super::{Api, batch, collection, create, error, health, identify, kv, openapi, stats, transfer};

impl Handler for Api {
    fn admit(&self, request: &Request, trace: &mut Trace) -> Admission {
        let found = match self.enter(request, trace) {
            Ok(found) => found,
            Err(problem) => return Admission::Refuse(problem.into()),
        };
        let limits = self.limits.get();
        match (Endpoint::of(found.route.id), request.method) {
            (Endpoint::Value, Method::Put | Method::Patch) | (Endpoint::Collection, Method::Post) => {
                Admission::Read { bytes_max: limits.value_bytes_max, value: true }
            }
            (Endpoint::Batch, Method::Post) => Admission::Read { bytes_max: limits.body_bytes_max, value: false },
            (Endpoint::Import, Method::Post) => Admission::Stream,
            // Nothing is done with it but for an increment, which is small.
            _ => Admission::Read { bytes_max: SPARE_BODY_BYTES, value: false },
        }
    }

    fn quick(&self, request: &Request, trace: &mut Trace) -> Option<Response> {
        let entered = if trace.admitted {
            // There was a body, and it is here now.
            trace.ready_at = Instant::now();
            self.route(request, trace)
        } else {
            self.enter(request, trace)
        };
        let found = match entered {
            Ok(found) => found,
            Err(problem) => return Some(problem.into()),
        };
        if request.method == Method::Options {
            return Some(self.cors.options(&request.head, &found.route.allow()));
        }
        if let Err(problem) = takes_no_query(&found, request) {
            return Some(problem.into());
        }
        if let Err(problem) = has_length(&found, request) {
            return Some(problem.into());
        }
        match Endpoint::of(found.route.id) {
            Endpoint::Value => {
                trace.is_brief = true;
                self.quick_value(request, &found)
            }
            Endpoint::Health => Some(health::health(self, request)),
            Endpoint::Live => Some(health::live()),
            Endpoint::Files if self.files.is_none() => Some(nothing_here()),
            _ => None,
        }
    }

    fn handle(&self, request: Request, mut responder: Responder) {
        let found = match self.route(&request, responder.trace()) {
            Ok(found) => found,
            Err(problem) => return responder.send(problem.into()),
        };
        let endpoint = Endpoint::of(found.route.id);
        match endpoint {
            Endpoint::Metrics => return responder.send(health::metrics(self)),
            Endpoint::Stats => {
                return responder.send(stats::stats(self, &request).unwrap_or_else(Response::from));
            }
            Endpoint::OpenApi => return responder.send(openapi::openapi(self, &request)),
            Endpoint::Files => {
                let files = self.files.as_ref();
                return responder.send(files.map_or_else(nothing_here, |files| files.respond(&request)));
            }
            Endpoint::Health | Endpoint::Live => return responder.send(nothing_here()),
            _ => {}
        }
        let Some(db) = self.store() else {
            return responder.send(error::store_unavailable(request.method.is_write()));
        };
        if let Err(problem) = check_digest(endpoint, &request) {
            return responder.send(problem.into());
        }
        let mut responder = self.on_the_clock(endpoint, responder);
        match endpoint {
            Endpoint::Value => match ValueTarget::parse(found.parameters) {
                Err(problem) => responder.send(problem.into()),
                Ok(target) => match request.method {
                    Method::Put => kv::write::put(self, db, &request, responder, &target),
                    Method::Patch => kv::update::patch(self, db, &request, responder, &target),
                    Method::Delete => kv::write::delete(self, db, &request, responder, &target),
                    _ => {
                        let response = kv::read::full(self, db, &request, responder.trace(), &target);
                        responder.send(response);
                    }
                },
            },
            Endpoint::Incr => match ValueTarget::parse(found.parameters) {
                Err(problem) => responder.send(problem.into()),
                Ok(target) => kv::update::incr(self, db, &request, responder, &target),
            },
            Endpoint::Batch => batch::batch(self, db, &request, responder),
            Endpoint::Import => transfer::import(self, db, request, responder),
            Endpoint::Export => {
                let response = transfer::export(self, db, &request, responder.trace());
                responder.send(response);
            }
            Endpoint::Collection => match request.method {
                Method::Get | Method::Head => {
                    let response = collection::read::list(self, db, &request, responder.trace(), found.parameters);
                    responder.send(response);
                }
                Method::Delete => collection::remove::remove(self, db, &request, responder, found.parameters),
                _ => create::create(self, db, &request, responder, found.parameters),
            },
            Endpoint::Namespace | Endpoint::Namespaces => {
                let namespace = (endpoint == Endpoint::Namespace).then_some(found.parameters[0]);
                let response = match self.guard(&request, &found) {
                    Ok(grant) => collection::read::names(self, db, &request, &grant, namespace),
                    Err(problem) => problem.into(),
                };
                responder.send(response);
            }
            _ => responder.send(nothing_here()),
        }
    }

    fn note(&self, head: &Head, trace: &mut Trace) {
        identify::identify(head, trace);
        self.cors.echo(head, trace, false);
    }

    fn finished(&self, trace: &Trace, outcome: &Outcome) {
        self.record(trace, outcome);
    }
}

impl Api {
    /// Puts what waits for the store under `limits.request_timeout`, but for an import: it lasts as long as its client
    /// sends.
    fn on_the_clock(&self, endpoint: Endpoint, mut responder: Responder) -> Responder {
        if endpoint == Endpoint::Import {
            return responder;
        }
        let deadline = responder.trace().ready_at + self.limits.get().request_timeout;
        self.deadlines.watch(responder, deadline)
    }

    /// identify → route → guard → rate → nothing unheeded: what stands before every handler, once a request.
    fn enter<'a>(&self, request: &'a Request, trace: &mut Trace) -> Result<Match<'a>, Problem> {
        trace.admitted = true;
        identify::identify(&request.head, trace);
        self.cors.echo(&request.head, trace, true);
        trace.forwarded = self.access.forwarded(&request.head, request.peer);
        let found = self.route(request, trace);
        let guarded = found.as_ref().ok().filter(|_| request.method != Method::Options);
        let granted = guarded.map(|found| self.guard(request, found));
        self.rate(request, found.as_ref().ok(), granted.as_ref())?;
        let found = found?;
        if let Some(granted) = granted {
            let granted = granted.map_err(|problem| self.access.offer_login(problem, &request.head, request.method));
            trace.client = self.access.client(&request.head, request.peer, &granted?);
        }
        trace.gzip_from = self.gzip_from(request, &found);
        let has_tag = matches!(Endpoint::of(found.route.id), Endpoint::Value | Endpoint::Incr);
        unheeded::refuse(&request.head, request.method, has_tag)?;
        Ok(found)
    }

    /// From which size on what larder says is gzipped. Values have a rule of their own, and their writes say little.
    fn gzip_from(&self, request: &Request, found: &Match<'_>) -> Option<usize> {
        let head = &request.head;
        let says_little = Endpoint::of(found.route.id) == Endpoint::Value && request.method != Method::Patch;
        if says_little || !head.has(HeaderName::AcceptEncoding) {
            return None;
        }
        let accepted = encoding::accept_encoding(head);
        match (accepted.gzip, accepted.identity) {
            (true, false) => Some(0),
            (true, true) if !head.has(HeaderName::XNoCompression) => Some(self.config.compress_threshold_bytes),
            _ => None,
        }
    }

    fn route<'a>(&self, request: &'a Request, trace: &mut Trace) -> Result<Match<'a>, Problem> {
        let path = request.head.path();
        if request.method == Method::Other {
            let message = "this method is not known here; GET, HEAD, PUT, POST, PATCH, DELETE and OPTIONS are";
            return Err(Problem::new(501, "NOT_IMPLEMENTED", message));
        }
        let found = match router::find(&routes::ROUTES, path) {
            Some(found) => found,
            // Nothing under /api/ is ever a file, so that a typing error there is not answered with a page.
            None if path.starts_with("/api/") => return Err(no_such_path()),
            None if self.config.www_dir.is_none() && path != "*" => return Err(no_such_path()),
            None => Match { route: &routes::FILES, parameters: [""; 3] },
        };
        trace.route = found.route.id;
        if request.method != Method::Options && !found.route.methods.contains(&request.method) {
            let allow = found.route.allow();
            let message = format!("this route answers {allow}");
            return Err(Problem::new(405, "METHOD_NOT_ALLOWED", message).field("Allow", &allow));
        }
        Ok(found)
    }

    fn guard(&self, request: &Request, found: &Match<'_>) -> Result<Grant, Problem> {
        let open = Openness {
            files: self.config.www_dir.is_none() || self.config.www_public,
            metrics: self.config.metrics_public,
        };
        let endpoint = Endpoint::of(found.route.id);
        let Some(scope) = endpoint.scope(request.method, open) else {
            return Ok(Grant::everything());
        };
        if matches!(endpoint, Endpoint::Batch | Endpoint::Namespaces) {
            return self.access.authorize_each(&request.head, request.peer, request.method);
        }
        // Names need no decoding to be compared: one that is still percent-encoded is no valid name and fits no token.
        let namespace = Some(found.parameters[0]).filter(|name| !name.is_empty());
        let grant = self.access.authorize(&request.head, request.peer, request.method, scope, namespace)?;
        if matches!(endpoint, Endpoint::Export | Endpoint::Import) {
            grant.require_whole()?;
        }
        Ok(grant)
    }

    /// Everything counts, also what no route takes (`found` is `None`) or no token is asked for (`granted` is). Probes
    /// have no rate: who asks often whether larder is well must not be told by a refusal that it is not.
    fn rate(
        &self,
        request: &Request,
        found: Option<&Match<'_>>,
        granted: Option<&Result<Grant, Problem>>,
    ) -> Result<(), Problem> {
        let is_probe = |found: &Match<'_>| matches!(Endpoint::of(found.route.id), Endpoint::Health | Endpoint::Live);
        if self.rates.is_off() || found.is_some_and(is_probe) {
            return Ok(());
        }
        let token = granted.and_then(|granted| granted.as_ref().ok()).and_then(Grant::token_id);
        let key = match token {
            Some(id) => RateKey::Token(id),
            None => RateKey::Network(self.access.network(&request.head, request.peer)),
        };
        self.rates.check(key, request.method, Instant::now())
    }

    fn quick_value(&self, request: &Request, found: &Match<'_>) -> Option<Response> {
        if !matches!(request.method, Method::Get | Method::Head) {
            return None;
        }
        let query = request.head.query();
        if !query.is_empty()
            && let Err(problem) = crate::http::query::Query::parse(query, &[])
        {
            return Some(problem.into());
        }
        match ValueTarget::parse(found.parameters) {
            Ok(target) => kv::read::quick(self, request, &target),
            Err(problem) => Some(problem.into()),
        }
    }

    fn record(&self, trace: &Trace, outcome: &Outcome) {
        if cfg!(debug_assertions) {
            openapi::check(trace, outcome.status);
        }
        let spent = outcome.ended_at.saturating_duration_since(trace.received_at);
        let route = routes::label(trace.route);
        self.registry.request(route, trace.method.as_str(), outcome.status, trace.code, spent, trace.timed);
        let ending = outcome.cut.filter(|_| !trace.timed && outcome.status == 200).and_then(Ending::of_cut);
        if let Some(ending) = ending {
            self.figures.endings.note(ending, route, trace.asker());
        }
        let slow_from = self.config.slow_request;
        if trace.timed && !slow_from.is_zero() && spent >= slow_from {
            identify::log_slow(trace, outcome, route, spent);
        }
    }
}

/// The routes of larder itself know no query. Files do not mind one: pages use it to get around caches.
fn takes_no_query(found: &Match<'_>, request: &Request) -> Result<(), Problem> {
    let query = request.head.query();
    let own = matches!(
        Endpoint::of(found.route.id),
        Endpoint::Health | Endpoint::Live | Endpoint::Metrics | Endpoint::Stats | Endpoint::OpenApi
    );
    if own && !query.is_empty() {
        crate::http::query::Query::parse(query, &[])?;
    }
    Ok(())
}

/// A write is not begun with a body that contradicts the digest sent with it.
fn check_digest(endpoint: Endpoint, request: &Request) -> Result<(), Problem> {
    match endpoint {
        _ if !request.method.is_write() => Ok(()),
        Endpoint::Import => digest::refuse(&request.head),
        _ => digest::check(&request.head, request.body.bytes()),
    }
}

/// A value without a length is most often a body that somebody forgot: it is not stored as an empty one.
fn has_length(found: &Match<'_>, request: &Request) -> Result<(), Problem> {
    let stores_body = matches!(
        (Endpoint::of(found.route.id), request.method),
        (Endpoint::Value, Method::Put) | (Endpoint::Collection, Method::Post)
    );
    let head = &request.head;
    if !stores_body || head.has(HeaderName::ContentLength) || head.has(HeaderName::TransferEncoding) {
        return Ok(());
    }
    let message = "say how long the value is: Content-Length (0 for an empty one) or Transfer-Encoding: chunked";
    Err(Problem::new(411, "LENGTH_REQUIRED", message))
}

fn no_such_path() -> Problem {
    Problem::new(404, "NOT_FOUND", "there is no such path; /openapi.json lists those there are")
}

fn nothing_here() -> Response {
    no_such_path().into()
}
