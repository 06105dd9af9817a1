//! The wire: messages, routing, conditions and encodings, and the two engines. Knows nothing of keys and values.

pub mod agent;
mod backlog;
pub mod budget;
pub mod cache_control;
pub mod conditional;
pub mod digest;
pub mod door;
pub mod encoding;
pub mod engine;
pub mod epoll;
pub mod etag;
pub mod grammar;
pub mod headers;
pub mod json;
pub mod listener;
pub mod media;
pub mod message;
pub mod method;
pub mod network;
pub mod problem;
pub mod query;
pub mod range;
pub mod responder;
pub mod router;
pub mod static_files;
pub mod tiny;
pub mod unheeded;
pub mod wire;

pub use engine::{Admission, DrainSignal, Ended, Engine, EngineOptions, Handler};
pub use headers::{Head, HeaderName};
pub use message::{Body, Cut, Outcome, Peer, Puller, Request, RequestBody, Response, RouteId, Trace};
pub use method::Method;
pub use problem::{Problem, Written};
pub use responder::{Responder, ResponseSink};
