//! The corpus of raw requests, on the engine alone; `tests/http_corpus.rs` sends it to the whole server.

use crate::fixture::Fixture;
use crate::support::corpus::{Answers, Case, agrees, cases, send, send_in_pieces};

/// What is wrong with the answers to a case, if something is.
fn complaint(case: &Case, answers: &Result<Answers, String>) -> Option<String> {
    let agrees = answers.as_ref().is_ok_and(|answers| agrees(case.expected, &answers.statuses) && !answers.is_reset);
    (!agrees).then(|| format!("{}: expected {:?}, got {answers:?}", case.name, case.expected))
}

#[test]
fn every_case_of_the_corpus_gets_the_answers_that_the_rfc_asks_for() {
    let server = Fixture::start();
    let address = server.address.to_string();
    let wrong: Vec<String> = cases().iter().filter_map(|case| complaint(case, &send(&address, case))).collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_case_gets_the_same_answers_when_it_comes_in_two_pieces() {
    let server = Fixture::start();
    let address = server.address.to_string();
    for case in cases().iter().filter(|case| case.bytes.len() < 300) {
        for split in [1, case.bytes.len() / 3, case.bytes.len() / 2, case.bytes.len() - 1] {
            let wrong = complaint(case, &send_in_pieces(&address, case, split));
            assert_eq!(wrong, None, "split at {split}");
        }
    }
}
