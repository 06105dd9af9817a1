//! Running a batch: gets alone from one view, atomic ones as one group, others in chunks that let other writers between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::http::{Problem, Request, Responder, Response, encoding, media};
use crate::limits::{CHUNK_OPERATIONS, Limits, PAGE_BYTES};
use crate::store::{
    Action, Database, Durability, FullKey, OpOutcome, Precondition, Preread, Promise, Ttl, VersionSet, View, WriteOp,
    WriteOutcome, WriteRequest,
};

use super::super::access::{Grant, Scope};
use super::super::kv::write::{self, write_query};
use super::super::{Api, counter, error};
use super::answer::{Allowance, Results};
use super::parse::{self, Batch, Operation, Verb};

/// Bytes of a stored value that say whether it is a counter: one more than the longest 64-bit integer has.
const COUNTER_READ_BYTES: usize = 21;

/// Answers a batch.
pub fn batch(api: &Api, db: &Arc<Database>, request: &Request, mut responder: Responder) {
    let (batch, durability) = match prepare(api, request) {
        Ok(prepared) => prepared,
        Err(problem) => return responder.send(problem.into()),
    };
    let limits = api.limits.get();
    if !batch.operations.iter().any(|operation| operation.verb.is_write()) {
        responder.trace().only_reads = true;
        let answer = read_all(db, &batch, PAGE_BYTES as u64);
        return responder.send(answer.unwrap_or_else(Response::from));
    }
    let ops = match to_ops(&db.view(), batch.operations, PAGE_BYTES as u64) {
        Ok(ops) => ops,
        Err(problem) => return responder.send(problem.into()),
    };
    if batch.atomic {
        let answer = move |outcome: WriteOutcome| atomic_answer(&outcome, &limits);
        write::submit(api, db, responder, ops, true, durability, answer);
    } else {
        in_chunks(api, db, responder, ops, durability);
    }
}

fn prepare(api: &Api, request: &Request) -> Result<(Batch, Durability), Problem> {
    let query = write_query(request, &[])?;
    if query.ttl.is_some() {
        return Err(Problem::new(400, "INVALID_QUERY", "a batch takes ttl on its operations, not in the query"));
    }
    media::expect_type(&request.head, request.body.bytes().is_empty(), &["application/json"])?;
    let limits = api.limits.get();
    let body = encoding::decode_body(&request.head, request.body.shared(), limits.body_bytes_max)?;
    let grant = api.access.authorize_each(&request.head, request.peer, request.method)?;
    let batch = parse::parse(&body, &limits)?;
    for operation in &batch.operations {
        allow(&grant, operation)?;
    }
    Ok((batch, query.durability.unwrap_or(api.config.durability)))
}

fn allow(grant: &Grant, operation: &Operation) -> Result<(), Problem> {
    let scope = if operation.verb.is_write() { Scope::Write } else { Scope::Read };
    grant.require(scope, Some(&operation.namespace))
}

/// 413 `BODY_TOO_LARGE` as soon as the values read are too many.
fn read_all(db: &Database, batch: &Batch, values_bytes_max: u64) -> Result<Response, Problem> {
    let view = db.view();
    let (mut results, mut allowance) = (Results::new(values_bytes_max), Allowance::new(values_bytes_max));
    for operation in &batch.operations {
        let key = FullKey::new(&operation.namespace, &operation.collection, &operation.key);
        match view.read(&key) {
            Ok(found) => {
                let found = found.filter(|record| !db.clock().is_expired(record));
                allowance.take(found.as_ref().map_or(0, |record| record.value.len()))?;
                results.push(&OpOutcome::Got(found), 0);
            }
            Err(failure) => return Ok(error::read_error(&failure)),
        }
    }
    Ok(results.finish())
}

/// Reads ahead for all operations. What is held then is bounded: the gets by what they may answer with, the others by
/// how little they need.
fn to_ops(view: &View, operations: Vec<Operation>, values_bytes_max: u64) -> Result<Vec<WriteOp>, Problem> {
    let mut allowance = Allowance::new(values_bytes_max);
    // The largest value that an earlier operation of the batch may have left for a get.
    let mut set_bytes: HashMap<FullKey, usize> = HashMap::new();
    let mut ops = Vec::with_capacity(operations.len());
    for operation in operations {
        let op = to_op(view, operation);
        match &op.action {
            Action::Put { value, .. } => {
                let bytes = set_bytes.entry(op.key.clone()).or_default();
                *bytes = value.len().max(*bytes);
            }
            Action::Get => {
                let found = op.preread.as_ref().and_then(|preread| preread.record.as_ref());
                let found_bytes = found.map_or(0, |record| record.value.len());
                allowance.take(set_bytes.get(&op.key).map_or(found_bytes, |set| found_bytes.max(*set)))?;
            }
            Action::Delete | Action::Update { .. } | Action::Expire { .. } => {}
        }
        ops.push(op);
    }
    Ok(ops)
}

fn to_op(view: &View, operation: Operation) -> WriteOp {
    let key = FullKey::new(&operation.namespace, &operation.collection, &operation.key);
    let action = match operation.verb {
        Verb::Get => Action::Get,
        Verb::Delete => Action::Delete,
        Verb::Set { content_type, value, ttl } => {
            Action::Put { content_type, value, ttl: ttl.map_or(Ttl::Clear, Ttl::After) }
        }
        Verb::Incr { by, ttl } => {
            Action::Update { update: counter::update(by), bytes: 0, ttl: ttl.map_or(Ttl::Keep, Ttl::After) }
        }
    };
    let precondition = match operation.if_version {
        None => Precondition::default(),
        Some(0) => Precondition { version_not_in: Some(VersionSet::Any), ..Precondition::default() },
        // Here an absent key fails the condition too, also for a delete: a batch that compares must not go on.
        Some(version) => Precondition {
            version_in: Some(VersionSet::List(vec![version])),
            also_if_absent: true,
            ..Precondition::default()
        },
    };
    let preread = view.read(&key).ok().map(|record| Preread { instant: view.instant, record });
    let preread = preread.map(|preread| match action {
        Action::Get => preread,
        Action::Update { .. } => preread.cut(COUNTER_READ_BYTES),
        Action::Put { .. } | Action::Delete | Action::Expire { .. } => preread.cut(0),
    });
    WriteOp { key, action, precondition, preread }
}

fn atomic_answer(outcome: &WriteOutcome, limits: &Limits) -> Response {
    let mut results = Results::new(PAGE_BYTES as u64);
    let shown = outcome.failed.map_or(outcome.results.len(), |failed| failed + 1);
    for result in outcome.results.iter().take(shown) {
        results.push(result, limits.value_bytes_max);
    }
    match outcome.failed {
        None => results.finish(),
        Some(failed) => results.aborted(failed).into(),
    }
}

/// What a batch that is not atomic has still to do, and what it has done.
struct Progress {
    db: Arc<Database>,
    responder: Responder,
    rest: std::vec::IntoIter<WriteOp>,
    results: Results,
    durability: Durability,
    /// What the chunks that were carried out can promise together; `None` if none was.
    done: Option<Promise>,
    deadline: Instant,
    submitted_at: Instant,
    value_bytes_max: u64,
}

fn in_chunks(api: &Api, db: &Arc<Database>, mut responder: Responder, ops: Vec<WriteOp>, durability: Durability) {
    let limits = api.limits.get();
    let deadline = responder.trace().ready_at + limits.request_timeout;
    let progress = Progress {
        db: db.clone(),
        responder,
        rest: ops.into_iter(),
        results: Results::new(PAGE_BYTES as u64),
        durability,
        done: None,
        deadline,
        submitted_at: Instant::now(),
        value_bytes_max: limits.value_bytes_max,
    };
    progress.next();
}

impl Progress {
    /// Hands over the next chunk; its reply, on the committer's thread, hands over the one after it.
    fn next(mut self) {
        let ops: Vec<WriteOp> = self.rest.by_ref().take(CHUNK_OPERATIONS).collect();
        if ops.is_empty() {
            return self.finish();
        }
        let (db, count) = (self.db.clone(), ops.len());
        let (durability, deadline) = (self.durability, Some(self.deadline));
        let reply = Box::new(move |outcome: Result<WriteOutcome, _>| {
            match outcome {
                Ok(outcome) => {
                    self.done = self.done.max(Some(outcome.promise));
                    outcome.results.iter().for_each(|result| self.results.push(result, self.value_bytes_max));
                }
                Err(failure) => self.results.push_error(&failure, count),
            }
            self.next();
        });
        db.submit(WriteRequest { ops, atomic: false, durability, deadline, reply });
    }

    fn finish(mut self) {
        self.responder.trace().commit = self.submitted_at.elapsed();
        let response = self.results.finish();
        self.responder.send(match self.done {
            None => response,
            Some(promise) => response.field("Larder-Durability", &write::promised(promise)),
        });
    }
}
