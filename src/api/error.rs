//! From what went wrong inside to what a client reads: one place, every case named.

use std::time::Duration;

use crate::http::{Problem, Response, Written};
use crate::log_limited;
use crate::logging::RateLimit;
use crate::store::{StoreError, UpdateRefused, WriteError};

/// Seconds after which a client may try again when larder is merely busy.
const RETRY_SOON_S: &str = "1";
/// Seconds after which a client may try again when somebody has to repair something first.
const RETRY_LATER_S: &str = "30";

/// A card that fails fails for everyone at once.
static READ_FAILURES: RateLimit = RateLimit::new(5, Duration::from_secs(10));

/// The answer for a write that has no outcome.
pub fn write_error(error: &WriteError) -> Response {
    write_problem(error).into()
}

/// The problem of a write that has no outcome.
pub fn write_problem(error: &WriteError) -> Problem {
    let (status, code, message, retry) = match error {
        WriteError::OutcomeUnknown => (
            504,
            "OUTCOME_UNKNOWN",
            "nobody can say whether this write was applied; read the key before repeating it",
            None,
        ),
        WriteError::Overloaded => {
            (503, "OVERLOADED", "too many writes are waiting; repeat this one after a moment", Some(RETRY_SOON_S))
        }
        WriteError::ReadOnly => (
            503,
            "READ_ONLY",
            "the store takes no writes since its card failed or its folder went; /health says why, reads still work",
            Some(RETRY_LATER_S),
        ),
        WriteError::InsufficientStorage => (
            507,
            "INSUFFICIENT_STORAGE",
            "the card is almost full; delete something, or let entries expire",
            Some(RETRY_LATER_S),
        ),
        WriteError::CardFull => (
            507,
            "INSUFFICIENT_STORAGE",
            "the card is full of what is not larder's, and deletes find no room either; free some of it",
            Some(RETRY_LATER_S),
        ),
        WriteError::Draining => {
            (503, "DRAINING", "larder is stopping; repeat this after its restart", Some(RETRY_SOON_S))
        }
        WriteError::Unavailable => {
            (503, "STORE_UNAVAILABLE", "the store could not be opened or read; /health says why", Some(RETRY_LATER_S))
        }
    };
    let written = if *error == WriteError::OutcomeUnknown { Written::Unknown } else { Written::No };
    with_retry(Problem::new(status, code, message).written(written), retry)
}

/// The answer for a read that the store could not serve. The reason goes to the log, never to the client.
pub fn read_error(error: &StoreError) -> Response {
    log_limited!(READ_FAILURES, log::Level::Error, "reading the store failed: {error}");
    let (status, code, message, retry) = match error {
        StoreError::Corrupt(_) | StoreError::Unreadable(_) => {
            (500, "INTERNAL", "this value is damaged on the card; write it anew", None)
        }
        StoreError::Revoked => {
            (503, "OVERLOADED", "too much was written while this was read; try again", Some(RETRY_SOON_S))
        }
        StoreError::Io(_) | StoreError::NoSpace | StoreError::Locked => {
            (503, "STORE_UNAVAILABLE", "the store could not be read; /health says why", Some(RETRY_LATER_S))
        }
    };
    with_retry(Problem::new(status, code, message), retry).into()
}

/// The store has not given what was asked of it within `limits.request_timeout`.
pub fn read_too_late() -> Response {
    let problem = Problem::new(503, "STORE_UNAVAILABLE", "the store did not answer in time; try again after a moment");
    with_retry(problem, Some(RETRY_SOON_S)).into()
}

/// The store is not open (yet).
pub fn store_unavailable(write: bool) -> Response {
    let mut problem = Problem::new(503, "STORE_UNAVAILABLE", "the store is not open; /health says why");
    if write {
        problem = problem.written(Written::No);
    }
    with_retry(problem, Some(RETRY_LATER_S)).into()
}

/// An operation's refusal to work on the present value.
pub fn refused(refusal: UpdateRefused, value_bytes_max: u64) -> Problem {
    match refusal {
        UpdateRefused::NotAnInteger => {
            Problem::new(409, "NOT_AN_INTEGER", "the stored value is not a decimal 64-bit integer; PUT one first")
        }
        UpdateRefused::IntegerOverflow => {
            Problem::new(409, "INTEGER_OVERFLOW", "the sum does not fit a signed 64-bit integer; nothing was changed")
        }
        UpdateRefused::NotJson => {
            Problem::new(409, "NOT_JSON", "the stored value is not a JSON document; PUT one before patching it")
        }
        UpdateRefused::TooLarge => Problem::new(
            413,
            "VALUE_TOO_LARGE",
            format!(
                "the result would be larger than the {value_bytes_max} bytes a value may have; nothing was changed"
            ),
        ),
    }
}

/// No such key, or expired.
pub fn not_found() -> Problem {
    Problem::new(404, "NOT_FOUND", "there is nothing under this key")
}

/// The condition in the request does not hold. `weak` is a tag that could not.
pub fn precondition_failed(weak: Option<&str>) -> Problem {
    if let Some(weak) = weak {
        let shown = &weak[..weak.floor_char_boundary(64)];
        let message = format!(
            "If-Match names the weak tag {shown}, and a weak tag matches nothing: something on the way that compresses \
             has made it weak. Switch its compression off for larder, or send the tag without W/"
        );
        return Problem::new(412, "PRECONDITION_FAILED", message);
    }
    Problem::new(
        412,
        "PRECONDITION_FAILED",
        "the value is not in the state that the request's conditions ask for; read it again",
    )
}

fn with_retry(problem: Problem, retry: Option<&str>) -> Problem {
    match retry {
        Some(seconds) => problem.field("Retry-After", seconds),
        None => problem,
    }
}
