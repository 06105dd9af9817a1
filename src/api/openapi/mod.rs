//! `/openapi.json`: the contract as an OpenAPI 3.1 document, and whether an answer keeps to it.
//!
//! The parts are the JSON files of this folder; `document` joins them, `codes` lists the errors. Invariant: what is
//! served is what the tests hold against the route table, the sources and the running server.

pub mod codes;
mod document;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value;

use crate::http::conditional::{self, Conditions, Current, CurrentTag, Verdict};
use crate::http::encoding::{self, Coding};
use crate::http::{HeaderName, Method, Problem, Request, Response, Trace};

use super::routes::{self, FILES, ROUTES};
use super::{Api, error};

/// Where the document describes the route of everything else.
const FILES_PATH: &str = "/";

/// The document in the forms in which it is sent.
struct Served {
    json: Bytes,
    gzip: Bytes,
    /// The hash of the content, without quotes.
    tag: String,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let json = document::build().to_string();
    let tag = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()));
    Served { gzip: encoding::gzip(json.as_bytes()).into(), json: json.into(), tag }
});

/// Answers with the document.
pub fn openapi(api: &Api, request: &Request) -> Response {
    answer(api, request).unwrap_or_else(Response::from).field("Vary", "Accept-Encoding")
}

fn answer(api: &Api, request: &Request) -> Result<Response, Problem> {
    let served = &*SERVED;
    let worth_it =
        served.json.len() >= api.config.compress_threshold_bytes && !request.head.has(HeaderName::XNoCompression);
    let coding = encoding::accept_encoding(&request.head).choose(worth_it)?;
    let tag = match coding {
        Coding::Identity => served.tag.clone(),
        Coding::Gzip => format!("{}-gzip", served.tag),
    };
    let current = Current { tag: CurrentTag::Opaque(&tag), gzip: false, modified_s: None };
    let response = match conditional::evaluate_read(&Conditions::parse(&request.head)?, Some(current)) {
        Verdict::PreconditionFailed => {
            return Err(error::precondition_failed(conditional::weak_if_match(&request.head).as_deref()));
        }
        Verdict::NotModified { .. } => Response::new(304),
        Verdict::Proceed => match coding {
            Coding::Identity => Response::with_body(200, "application/json", served.json.clone()),
            Coding::Gzip => {
                Response::with_body(200, "application/json", served.gzip.clone()).field("Content-Encoding", "gzip")
            }
        },
    };
    Ok(response.field("ETag", &format!("\"{tag}\"")).field("Cache-Control", "no-cache"))
}

/// Says in the log when an answer is not in the document; the tests look for it. Debug builds only: it costs time.
pub fn check(trace: &Trace, status: u16) {
    if !documents(trace, status) {
        let (method, route) = (trace.method.as_str(), routes::label(trace.route));
        let code = trace.code.unwrap_or("no code");
        log::error!("not in the contract: {method} {route} answered {status}, {code}");
    }
}

fn documents(trace: &Trace, status: u16) -> bool {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document::build);
    let Some(code) = trace.code else { return success_is_known(&DOCUMENT, trace, status) };
    let Some(known) = codes::find(code).filter(|known| known.0 == status) else { return false };
    let route = ROUTES.iter().find(|route| route.id == trace.route).unwrap_or(&FILES);
    match known.1 {
        "METHOD_NOT_ALLOWED" | "NOT_FOUND" if route.id == FILES.id => true,
        "TOO_MANY_REQUESTS" if trace.method != Method::Options && !route.methods.contains(&trace.method) => true,
        "METHOD_NOT_ALLOWED" => !route.methods.contains(&trace.method),
        // What is refused before it is routed can be any request.
        _ if route.id == FILES.id => {
            codes::named(["@wire", "@rate", "@body", "@guard"]).contains(&known) || {
                in_operation(&DOCUMENT, trace, known)
            }
        }
        _ => in_operation(&DOCUMENT, trace, known),
    }
}

fn operation<'a>(document: &'a Value, trace: &Trace) -> &'a Value {
    let label = routes::label(trace.route);
    let path = if label == FILES.template { FILES_PATH } else { label };
    &document["paths"][path][trace.method.as_str().to_ascii_lowercase()]
}

fn success_is_known(document: &Value, trace: &Trace, status: u16) -> bool {
    operation(document, trace)["responses"].get(status.to_string()).is_some()
}

fn in_operation(document: &Value, trace: &Trace, code: &codes::Code) -> bool {
    let response = &operation(document, trace)["responses"][code.0.to_string()];
    let target = response["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    let description = target.and_then(|target| document.pointer(target)?["description"].as_str());
    // HEAD has no body to list codes in; the text names them for every method.
    description.is_some_and(|text| text.contains(&format!("`{}`", code.1)))
}

#[cfg(test)]
mod tests;
