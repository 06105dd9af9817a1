//! The corpus of raw requests, on the engine alone; `tests/http_corpus.rs` sends it to the whole server.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use crate::fixture::Fixture;
use crate::support::Connection;
use crate::support::corpus::{agrees, cases, send, statuses};

#[test]
fn every_case_of_the_corpus_gets_the_answers_that_the_rfc_asks_for() {
    let server = Fixture::start();
    let address = server.address.to_string();
    let wrong: Vec<String> = cases()
        .iter()
        .filter_map(|case| match send(&address, case) {
            Ok(statuses) if agrees(case.expected, &statuses) => None,
            answer => Some(format!("{}: expected {:?}, got {answer:?}", case.name, case.expected)),
        })
        .collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_case_gets_the_same_answers_when_it_comes_in_two_pieces() {
    let server = Fixture::start();
    let address = server.address.to_string();
    for case in cases().iter().filter(|case| case.bytes.len() < 300) {
        for split in [1, case.bytes.len() / 3, case.bytes.len() / 2, case.bytes.len() - 1] {
            let mut halves = Connection::open(&address);
            halves.write(&case.bytes[..split]);
            std::thread::sleep(Duration::from_millis(1));
            // The first piece may have been refused already.
            let _ = halves.stream().write_all(&case.bytes[split..]);
            let _ = halves.stream().shutdown(Shutdown::Write);
            let all = halves.read_to_end();
            let answers = statuses(&all).unwrap();
            assert!(agrees(case.expected, &answers), "{} split at {split}: {answers:?}", case.name);
        }
    }
}
