//! larder: a durable key-value store over HTTP for small boards, on plain threads.
//!
//! # The way of a GET
//!
//! An engine ([`http::tiny`] or [`http::epoll`]) reads the head and asks the application ([`api`]) for a quick answer:
//! identify → route → guard → dispatch. If the value is in the [`cache`], that is the answer, written with one call. If
//! not, a worker takes a loading ticket, loads the shared snapshot of the [`store`], reads, fills the cache if its
//! ticket still stands, and answers. Nothing on this way waits for a write.
//!
//! # The way of a PUT
//!
//! A worker reads what stands under the key, and hands that and the write to the one committer. The committer gathers
//! what waits into a group: check → commit (one sync for all) → announce to the cache → swap the snapshot → publish →
//! replies. The replies go back through the engine; the committer never touches a socket, and no worker waits for the
//! card. See [`store::Database`] for what is durable when.
//!
//! # The rooms
//!
//! | room | is | knows nothing of |
//! |---|---|---|
//! | [`app`] | joins the parts, runs, drains | |
//! | [`api`] | one file a resource | sockets |
//! | [`http`] | the wire: messages, routing, conditions, encodings, the engines | keys and values |
//! | [`store`] | the truth: records, committer, fjall, its twin in memory, recovery | HTTP |
//! | [`cache`] | values near at hand | HTTP, records |
//! | [`metrics`] | what is measured, and its page | HTTP, records |
//! | [`board`] | the machine: memory, disk, service manager | HTTP, records |
//! | [`config`], [`limits`] | settings and bounds | |
//! | [`wake`] | wake-ups that are made together | |
//! | [`cli`] | the command line, also as a client | the inside of the server |
//!
//! A room imports downward only: `api → http, store, cache, metrics`.
//!
//! # What is absent on purpose
//!
//! Invariant: no async runtime; a thread that waits is a thread with a name.
//!
//! Invariant: no unbounded queue. Each has a limit in [`limits`] or beside it, and a status for when it is reached.
//!
//! Invariant: no lock is held over disk I/O, but for the committer's own.
//!
//! Invariant: nobody but the committer asks the store for a snapshot: one opened at another moment could show half a
//! batch. Everyone else reads the shared one.
//!
//! Invariant: no reply to a write leaves before its group's commit has returned.
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
pub mod wake;
