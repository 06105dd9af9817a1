//! larder: a durable key-value store over HTTP for small boards.
#![cfg_attr(test, allow(clippy::unwrap_used, missing_docs))]

pub mod api;
pub mod app;
pub mod board;
pub mod cache;
pub mod cli;
pub mod config;
pub mod http;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod store;
