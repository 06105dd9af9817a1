//! The corpus of raw requests against the whole server, on both engines: epoll answers every case as RFC 9112 and RFC
//! 9110 ask, tiny_http every one that is not named here, with what it does instead and why.
//!
//! tiny_http 0.12 reads the head itself and hands over what it made of it. Where that still shows what is wrong, larder
//! refuses it; the exceptions are what is lost by then, or answered before larder is asked. They are exact: one that is
//! no longer needed fails the test like one that is missing. Those that accept too much cannot be used against others
//! by a client of its own connection, only behind a proxy that reads them differently and shares its connections.
#![allow(missing_docs)]

#[allow(unused_imports)]
mod support;

use support::Server;
use support::corpus::{Answers, Case, agrees, cases, send};

/// A case that an engine answers otherwise.
struct Exception {
    case: &'static str,
    /// The statuses of its answers. None at all: the connection ends without an answer.
    answers: &'static [u16],
    reason: &'static str,
}

const fn exception(case: &'static str, answers: &'static [u16], reason: &'static str) -> Exception {
    Exception { case, answers, reason }
}

/// It takes the message for a good one and answers the request behind it too.
const TAKEN: &[u16] = &[200, 200];
/// The connection ends without an answer.
const ENDED: &[u16] = &[];

const VERSIONS: &str = "tiny_http knows 0.9, 1.0, 1.1, 2.0 and 3.0 by name, any other version is malformed to it";
const ASCII: &str = "tiny_http takes no byte beyond ASCII in a head, so larder refuses it";
const CUT: &str = "tiny_http does not tell a cut body from a broken one; a 400 for either is allowed (9112 8)";

/// What tiny_http 0.12 cannot be made to comply with from outside.
const TINY_HTTP: &[Exception] = &[
    exception("a minor version above 1 is 1.1 (9110 2.5)", &[400], VERSIONS),
    exception("the largest minor version", &[400], VERSIONS),
    exception("bytes beyond ASCII in a value (9110 5.5)", &[400], ASCII),
    exception("a chunk that is cut", &[400], CUT),
    exception("chunks without the last", &[400], CUT),
];

/// What is wrong with the answers to a case, if something is.
fn complaint(case: &Case, exceptions: &[Exception], answers: &Result<Answers, String>) -> Option<String> {
    let exception = exceptions.iter().find(|exception| exception.case == case.name);
    let is_right = answers.as_ref().is_ok_and(|answers| {
        !answers.is_reset
            && match exception {
                Some(exception) => answers.statuses == exception.answers,
                None => agrees(case.expected, &answers.statuses),
            }
    });
    if is_right {
        return None;
    }
    let instead = exception.map(|e| format!(", or rather {:?} because {}", e.answers, e.reason)).unwrap_or_default();
    Some(format!("{}: expected {:?}{instead}; got {answers:?}", case.name, case.expected))
}

/// What is wrong with the exceptions themselves.
fn stale(cases: &[Case], exceptions: &[Exception]) -> Vec<String> {
    let is_needed = |exception: &Exception| {
        let mut named = cases.iter().filter(|case| case.name == exception.case);
        named.next().is_some_and(|case| !agrees(case.expected, exception.answers)) && named.next().is_none()
    };
    let times = |name: &str| exceptions.iter().filter(|exception| exception.case == name).count();
    let wrong = exceptions.iter().filter(|exception| !is_needed(exception) || times(exception.case) > 1);
    wrong.map(|exception| format!("no case needs this exception: {}", exception.case)).collect()
}

/// Sends cases to a server, and returns what is wrong with the answers.
fn send_all(engine: &str, cases: &[Case], exceptions: &[Exception]) -> Vec<String> {
    let server = Server::builder().engine(engine).start();
    // A busy machine may take longer for a good request than the short time that some of these servers have.
    let answers = |method, path, status| {
        let is_good = || server.client().try_send(method, path, &[], b"").is_ok_and(|answer| answer.status == status);
        support::eventually(&format!("{method} {path} is answered {status}"), is_good);
    };
    // The key that the cases write is there: so each of them is answered alike, whatever came before it.
    answers("PUT", "/api/v1/kv/corpus/c/k", 204);
    let send = |case| {
        let answers = send(server.address(), case);
        // tiny_http closes at once, also when bytes are still on their way. What it answered has come by then.
        answers.map(|answers| Answers { is_reset: answers.is_reset && engine != "tiny_http", ..answers })
    };
    let wrong = cases.iter().filter_map(|case| complaint(case, exceptions, &send(case))).collect();
    answers("GET", "/health", 200);
    wrong
}

fn assert_answers(engine: &str, exceptions: &[Exception]) {
    let cases = cases();
    let mut wrong = stale(&cases, exceptions);
    wrong.extend(send_all(engine, &cases, exceptions));
    assert!(wrong.is_empty(), "{} cases on {engine}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_engine_answers_every_case_as_the_rfc_asks_or_as_its_exception_says() {
    for engine in support::engines() {
        assert_answers(&engine, if engine == "tiny_http" { TINY_HTTP } else { &[] });
    }
}

#[test]
fn an_exception_that_is_not_exact_is_found() {
    let cases = &cases()[..1];
    let [case] = cases else { panic!("one case") };
    let complains = |exceptions: &[Exception], statuses: &[u16]| {
        let answers = Answers { statuses: statuses.to_vec(), is_reset: false };
        complaint(case, exceptions, &Ok(answers)).is_some()
    };
    assert!(agrees(case.expected, TAKEN), "the first case is a plain request");
    assert!(!complains(&[], TAKEN) && complains(&[], &[400]) && complains(&[], &[200]) && complains(&[], ENDED));
    let refused = || exception(case.name, &[400], "so it is");
    assert!(complains(&[refused()], TAKEN), "the engine complies by now");
    assert!(complains(&[refused()], &[501]) && complains(&[refused()], ENDED) && !complains(&[refused()], &[400]));
    assert!(complaint(case, &[], &Err("no end".to_owned())).is_some());
    assert!(stale(cases, &[refused()]).is_empty());
    assert_eq!(stale(cases, &[refused(), refused()]).len(), 2, "one case, one exception");
    assert_eq!(stale(cases, &[exception(case.name, TAKEN, "nothing is wrong with it")]).len(), 1);
    assert_eq!(stale(cases, &[exception("no case of the table", &[400], "none")]).len(), 1);
}
