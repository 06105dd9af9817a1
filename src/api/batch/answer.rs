//! The results of a batch as JSON, one object an operation, in order.

use crate::http::{Problem, Response};
use crate::store::{OpOutcome, Record, WriteError};

use super::super::error;
use super::super::item::{self, ItemForm};

/// Appends results to `{"results":[`; the caller closes it with [`finish`].
pub struct Results {
    out: Vec<u8>,
    count: usize,
}

impl Default for Results {
    fn default() -> Results {
        Results { out: b"{\"results\":[".to_vec(), count: 0 }
    }
}

impl Results {
    /// One operation's outcome.
    pub fn push(&mut self, outcome: &OpOutcome, value_bytes_max: u64) {
        match outcome {
            OpOutcome::Stored { version, created } => self.plain(if *created { 201 } else { 204 }, Some(*version)),
            OpOutcome::Deleted { version } => self.plain(204, Some(*version)),
            OpOutcome::Updated { record, .. } | OpOutcome::Got(Some(record)) => self.record(record),
            OpOutcome::Got(None) | OpOutcome::NotFound => self.problem(&error::not_found()),
            OpOutcome::PreconditionFailed => self.problem(&error::precondition_failed()),
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
        if problem.written == Some(crate::http::Written::Unknown) {
            self.out.extend_from_slice(b",\"written\":\"unknown\"");
        }
        self.out.push(b'}');
    }

    /// The whole answer.
    pub fn finish(mut self) -> Response {
        self.out.extend_from_slice(b"]}");
        Response::with_body(200, "application/json", self.out).field("Cache-Control", "no-store")
    }

    /// The answer for an atomic batch that a failed operation undid.
    pub fn aborted(mut self, failed: usize) -> Problem {
        self.out.extend_from_slice(b"]}");
        let message = format!("operation {failed} failed, see results; nothing of this batch was applied");
        let problem = Problem::new(409, "BATCH_ABORTED", message).with("failed", failed.into());
        match serde_json::from_slice::<serde_json::Value>(&self.out) {
            Ok(mut document) => problem.with("results", document["results"].take()),
            Err(error) => {
                log::error!("the results of a batch are no JSON: {error}");
                problem
            }
        }
    }
}
