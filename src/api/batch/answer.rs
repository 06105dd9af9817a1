//! The results of a batch as JSON, one object an operation, in order.

use crate::http::{Problem, Response, Written};
use crate::store::{OpOutcome, Record, WriteError};

use super::super::error;
use super::super::item::{self, ItemForm};

/// How many bytes of values a batch's gets may answer with. The first value may exceed it alone: no smaller batch could
/// ask for it.
pub struct Allowance {
    used_bytes: usize,
    bytes_max: usize,
}

impl Allowance {
    /// So many bytes.
    pub fn new(bytes_max: u64) -> Allowance {
        Allowance { used_bytes: 0, bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) }
    }

    /// Takes the bytes of one more value. 413 `BODY_TOO_LARGE` if they are too many; then nothing is taken.
    pub fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = self.used_bytes.saturating_add(bytes);
        if self.used_bytes > 0 && wanted > self.bytes_max {
            let message = format!("the values of this batch's gets exceed {} bytes together; split it", self.bytes_max);
            return Err(Problem::new(413, "BODY_TOO_LARGE", message));
        }
        self.used_bytes = wanted;
        Ok(())
    }
}

/// The text of `{"results":[…]}` as it grows.
pub struct Results {
    out: Vec<u8>,
    count: usize,
    allowance: Allowance,
}

/// What stands before the results in the text.
const OPENING: &[u8] = b"{\"results\":";

impl Results {
    /// None yet, with room for so many bytes of values.
    pub fn new(values_bytes_max: u64) -> Results {
        Results { out: [OPENING, b"["].concat(), count: 0, allowance: Allowance::new(values_bytes_max) }
    }

    /// One operation's outcome.
    pub fn push(&mut self, outcome: &OpOutcome, value_bytes_max: u64) {
        match outcome {
            OpOutcome::Stored { version, created } => self.plain(if *created { 201 } else { 204 }, Some(*version)),
            OpOutcome::Deleted { version } => self.plain(204, Some(*version)),
            OpOutcome::Updated { record, .. } => self.record(record),
            // The gets of a batch with writes were weighed before it was run; values may have grown since.
            OpOutcome::Got(Some(record)) => match self.allowance.take(record.value.len()) {
                Ok(()) => self.record(record),
                Err(problem) => self.problem(&problem),
            },
            OpOutcome::Got(None) | OpOutcome::NotFound => self.problem(&error::not_found()),
            OpOutcome::PreconditionFailed => self.problem(&error::precondition_failed(None)),
            OpOutcome::Refused(refusal) => self.problem(&error::refused(*refusal, value_bytes_max)),
            OpOutcome::Aborted => {
                self.problem(&Problem::new(409, "BATCH_ABORTED", "another operation of this batch failed"));
            }
        }
    }

    /// So many operations that have no outcome.
    pub fn push_error(&mut self, failure: &WriteError, operations: usize) {
        for _ in 0..operations {
            self.problem(&error::write_problem(failure));
        }
    }

    fn open(&mut self, status: u16) {
        if self.count > 0 {
            self.out.push(b',');
        }
        self.count += 1;
        self.out.extend_from_slice(format!("{{\"status\":{status}").as_bytes());
    }

    fn plain(&mut self, status: u16, version: Option<u64>) {
        self.open(status);
        if let Some(version) = version {
            self.out.extend_from_slice(format!(",\"version\":{version}").as_bytes());
        }
        self.out.push(b'}');
    }

    fn record(&mut self, record: &Record) {
        self.open(200);
        self.out.extend_from_slice(format!(",\"version\":{},", record.version).as_bytes());
        item::push_value(&mut self.out, record, ItemForm::Page);
        self.out.push(b'}');
    }

    fn problem(&mut self, problem: &Problem) {
        self.open(problem.status);
        self.out.extend_from_slice(format!(",\"code\":\"{}\"", problem.code).as_bytes());
        match problem.written {
            Some(Written::No) => self.out.extend_from_slice(b",\"written\":\"no\""),
            Some(Written::Unknown) => self.out.extend_from_slice(b",\"written\":\"unknown\""),
            None => {}
        }
        self.out.push(b'}');
    }

    /// The whole answer.
    pub fn finish(mut self) -> Response {
        self.out.extend_from_slice(b"]}");
        self.out.shrink_to_fit();
        Response::with_text(200, "application/json", self.out).field("Cache-Control", "no-store")
    }

    /// The answer for an atomic batch that a failed operation undid.
    pub fn aborted(mut self, failed: usize) -> Problem {
        self.out.push(b']');
        let message = format!("operation {failed} failed, see results; nothing of this batch was applied");
        let problem = Problem::new(409, "BATCH_ABORTED", message).with("failed", failed.into());
        match String::from_utf8(self.out.split_off(OPENING.len())) {
            Ok(results) => problem.with_raw("results", results),
            Err(error) => {
                log::error!("the results of a batch are no JSON: {error}");
                problem
            }
        }
    }
}
