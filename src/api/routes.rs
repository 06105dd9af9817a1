//! The route table: every path that larder answers, its methods, and what a client must be allowed to ask it.

use crate::http::Method::{self, Delete, Get, Head, Patch, Post, Put};
use crate::http::RouteId;
use crate::http::router::Route;

use super::access::Scope;

/// What a route is, for the dispatch in [`super::Api`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Endpoint {
    Files,
    Value,
    Incr,
    Collection,
    Namespace,
    Namespaces,
    Batch,
    Export,
    Import,
    Health,
    Live,
    Metrics,
    Stats,
    OpenApi,
}

/// The route of everything else: files, or 404.
pub static FILES: Route = route(Endpoint::Files, "/*", &[Get, Head]);

/// All routes but [`FILES`], the most frequent first.
pub static ROUTES: [Route; 13] = [
    route(Endpoint::Value, "/api/v1/kv/{namespace}/{collection}/{key}", &[Get, Head, Put, Patch, Delete]),
    route(Endpoint::Incr, "/api/v1/kv/{namespace}/{collection}/{key}/incr", &[Post]),
    route(Endpoint::Batch, "/api/v1/batch", &[Post]),
    route(Endpoint::Collection, "/api/v1/kv/{namespace}/{collection}", &[Get, Head, Post, Delete]),
    route(Endpoint::Namespace, "/api/v1/kv/{namespace}", &[Get, Head]),
    route(Endpoint::Namespaces, "/api/v1/kv", &[Get, Head]),
    route(Endpoint::Health, "/health", &[Get, Head]),
    route(Endpoint::Live, "/health/live", &[Get, Head]),
    route(Endpoint::Metrics, "/metrics", &[Get, Head]),
    route(Endpoint::Stats, "/api/v1/stats", &[Get, Head]),
    route(Endpoint::Export, "/api/v1/export", &[Get, Head]),
    route(Endpoint::Import, "/api/v1/import", &[Post]),
    route(Endpoint::OpenApi, "/openapi.json", &[Get, Head]),
];

const ALL: [Endpoint; 14] = {
    use Endpoint::*;
    [
        Files, Value, Incr, Collection, Namespace, Namespaces, Batch, Export, Import, Health, Live, Metrics, Stats,
        OpenApi,
    ]
};

const fn route(endpoint: Endpoint, template: &'static str, methods: &'static [Method]) -> Route {
    Route::new(RouteId(endpoint as u8), template, methods)
}

impl Endpoint {
    /// The endpoint of a route.
    pub fn of(id: RouteId) -> Endpoint {
        ALL.get(usize::from(id.0)).copied().unwrap_or(Endpoint::Files)
    }

    /// What a request with this method needs; `None` is open to all. A batch needs what its operations need, which
    /// only its body tells.
    pub fn scope(self, method: Method, open: Openness) -> Option<Scope> {
        match self {
            Endpoint::Health | Endpoint::Live | Endpoint::OpenApi => None,
            Endpoint::Files if open.files => None,
            Endpoint::Metrics if open.metrics => None,
            Endpoint::Export | Endpoint::Import => Some(Scope::Admin),
            Endpoint::Batch => Some(Scope::Read),
            _ if method.is_write() => Some(Scope::Write),
            _ => Some(Scope::Read),
        }
    }
}

/// Which routes the configuration opens to all.
#[derive(Clone, Copy, Debug)]
pub struct Openness {
    /// `www.public`, or no `www.dir` at all: then there is nothing but 404 to see.
    pub files: bool,
    /// `metrics.public`.
    pub metrics: bool,
}

/// The label of a route in metrics and logs.
pub fn label(id: RouteId) -> &'static str {
    ROUTES.iter().find(|route| route.id == id).map_or(FILES.template, |route| route.template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_its_place() {
        for (at, endpoint) in ALL.iter().enumerate() {
            assert_eq!(*endpoint as usize, at);
        }
        for route in &ROUTES {
            assert_eq!(route.id.0, Endpoint::of(route.id) as u8);
            assert_eq!(label(route.id), route.template);
        }
    }
}
