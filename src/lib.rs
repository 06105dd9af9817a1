//! larder: a durable key-value store over HTTP for small boards.
#![cfg_attr(test, allow(clippy::unwrap_used, missing_docs))]

pub mod cache;
pub mod config;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod store;
