//! The epoll engine from outside: raw sockets against a handler that does what its paths say.
#![allow(missing_docs, clippy::unwrap_used)]

mod answers;
mod bodies;
mod corpus;
mod fixture;
mod limits;
mod places;
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;
