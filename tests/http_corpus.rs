//! The corpus of raw requests against the whole server, where it can comply: on the epoll engine. What tiny_http makes
//! of requests that RFC 9112 forbids is held, with the reasons, in `tiny_hostile.rs` and `tiny_contract.rs`.
#![allow(missing_docs)]

#[allow(unused_imports)]
mod support;

use support::Server;
use support::corpus::{agrees, cases, send};

#[test]
fn the_whole_server_answers_every_case_of_the_corpus_as_the_rfc_asks() {
    let server = Server::builder().engine("epoll").start();
    let wrong: Vec<String> = cases()
        .iter()
        .filter_map(|case| match send(server.address(), case) {
            Ok(statuses) if agrees(case.expected, &statuses) => None,
            answer => Some(format!("{}: expected {:?}, got {answer:?}", case.name, case.expected)),
        })
        .collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
