//! POST /api/v1/import, on a thread of the import lane, which may wait for the client and for the card.
//!
//! Unless `partial=true`, nothing is applied before the end line has come and its count is right: the lines wait in a
//! spool until then. Lines that are wrong in themselves are reported and do not hinder the others.
//!
//! Invariant: before a record is stored, the versions of this store have been raised above all that its file is known to
//! have by then: the whole file's, or with `partial=true` that of the records up to this one.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

use crate::board::disk;
use crate::http::query::Query;
use crate::http::{HeaderName, Problem, Request, RequestBody, Responder, Response, Written, encoding, json, media};
use crate::limits::CHUNK_OPERATIONS;
use crate::store::space::Allowed;
use crate::store::versions::IMPORT_END;
use crate::store::{
    Action, Database, Durability, FullKey, Precondition, Preread, Reply, Ttl, WriteError, WriteOp, WriteOutcome,
    WriteRequest,
};

use super::super::{Api, error};
use super::line::{self, EndLine, ImportRecord, NextLine};
use super::spool::Spool;

/// What its body may be called. Generated clients know no type for lines, so they send bytes.
const TYPES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/octet-stream"];
/// Failures listed in the answer; the count goes on.
const FAILURES_LISTED_MAX: usize = 1000;
/// Bytes of values in one chunk, besides its number of operations.
const CHUNK_BYTES: usize = 512 * 1024;
/// How long an import waits before it asks again whether an overloaded committer has room.
const BACK_OFF: Duration = Duration::from_millis(200);

/// Answers an import.
pub fn import(api: &Api, db: &Arc<Database>, request: Request, responder: Responder) {
    let response = match run(api, db, request) {
        Ok(report) => {
            Response::with_text(200, "application/json", report.to_string()).field("Cache-Control", "no-store")
        }
        Err(problem) => problem.into(),
    };
    responder.send(response);
}

fn run(api: &Api, db: &Arc<Database>, request: Request) -> Result<Value, Problem> {
    let query = Query::parse(request.head.query(), &["partial", "durability"])?;
    let partial = query.bool("partial")?.unwrap_or(false);
    let durability = match query.get("durability") {
        None => api.config.durability,
        Some("sync") => Durability::Sync,
        Some("relaxed") => Durability::Relaxed,
        Some(_) => return Err(Problem::new(400, "INVALID_QUERY", "durability is sync or relaxed")),
    };
    let length = request.head.get(HeaderName::ContentLength);
    let is_empty = length == Some("0") || length.is_none() && !request.head.has(HeaderName::TransferEncoding);
    media::expect_type(&request.head, is_empty, &TYPES)?;
    let body: Box<dyn io::Read + Send> = match request.body {
        RequestBody::Reader(reader) => reader,
        RequestBody::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
    };
    let mut lines = BufReader::with_capacity(64 * 1024, encoding::decode_reader(&request.head, body)?);
    let mut import = Import::new(api, db, durability);
    if partial {
        import.apply_all(&mut lines, &|_, failure| broken(failure))?;
    } else {
        let (spool, version) = spool_whole(api, db, &mut lines)?;
        import.follow(version)?;
        let reader = spool.into_reader().map_err(|failure| spool_failed(&failure))?;
        import.apply_all(&mut BufReader::new(reader), &|import, failure| import.stopped(&spool_failed(failure)))?;
    }
    Ok(import.report())
}

/// Reads everything, and refuses what does not end with the right end line. Tells the highest version in it, which an end
/// line made by hand may not.
fn spool_whole(api: &Api, db: &Arc<Database>, lines: &mut impl BufRead) -> Result<(Spool, u64), Problem> {
    let (watched, folder) = (db.clone(), api.config.data_dir.clone());
    let mut spool = Spool::new(&api.config.data_dir, Box::new(move |bytes| has_room(&watched, &folder, bytes)));
    let line_bytes_max = line::line_bytes_max(api.limits.get().value_bytes_max);
    let (mut buffer, mut records, mut end, mut version) = (Vec::new(), 0, None, 0);
    // What stands behind an end line: there should be nothing.
    let mut behind = None;
    for number in 1_u64.. {
        match line::next_line(lines, &mut buffer, line_bytes_max).map_err(|failure| broken(&failure))? {
            NextLine::End => break,
            NextLine::TooLong => {
                records += 1;
                behind = behind.or(end.map(|_| number));
                // An empty object stands for it: a record that will be refused under its own number.
                spool.write(b"{}\n").map_err(|failure| spool_failed(&failure))?;
            }
            NextLine::Line => {
                if !json::is_blank(&buffer) {
                    behind = behind.or(end.map(|_| number));
                    let found = EndLine::parse(&buffer).map(|end| (end.items, records));
                    records += u64::from(found.is_none());
                    end = end.or(found);
                    version = line::version_of(&buffer).max(version);
                }
                buffer.push(b'\n');
                spool.write(&buffer).map_err(|failure| spool_failed(&failure))?;
            }
        }
    }
    let refusal = match end {
        _ if behind.is_some() => {
            format!("line {} stands behind the end line: is this more than one export?", behind.unwrap_or_default())
        }
        Some((items, found)) if items == found => return Ok((spool, version)),
        Some((items, found)) => format!("the end line tells of {items} records, but {found} came"),
        None => "the end line is missing, so the file was cut".to_owned(),
    };
    let message =
        format!("{refusal}; nothing was imported. Send the whole file, or partial=true to take what there is");
    Err(Problem::new(400, "BAD_REQUEST", message))
}

/// Whether so many bytes more leave the card its reserve. A card that does not tell is judged by its last look.
fn has_room(db: &Database, folder: &Path, bytes: u64) -> bool {
    let space = db.space();
    space.allowed == Allowed::Writes
        && disk::free(folder).map_or(true, |free| free.free_bytes >= space.reserve_bytes.saturating_add(bytes))
}

fn broken(failure: &io::Error) -> Problem {
    if failure.kind() == io::ErrorKind::TimedOut {
        let message = "the body came too slowly; what was imported until then stays";
        return Problem::new(408, "REQUEST_TIMEOUT", message);
    }
    let message = match failure.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            "the body was cut, or is not the gzip it says it is; what was imported until then stays"
        }
        _ => "the body did not come to its end; what was imported until then stays",
    };
    Problem::new(400, "BAD_REQUEST", message)
}

fn spool_failed(failure: &io::Error) -> Problem {
    log::error!("an import could not be kept until its end: {failure}");
    match failure.kind() {
        io::ErrorKind::StorageFull => error::write_problem(&WriteError::InsufficientStorage),
        _ => Problem::new(500, "INTERNAL", "the lines could not be kept until their end; nothing was imported")
            .written(Written::No),
    }
}

/// The end of a write, told to the one who waits for it.
type Told = Result<WriteOutcome, WriteError>;

/// A reply that tells. Nobody listens any more when the import has been given up.
fn tells(tell: Sender<Told>) -> Reply {
    Box::new(move |told| {
        let _ = tell.send(told);
    })
}

/// A chunk on its way to the committer.
struct Sent {
    lines: Vec<u64>,
    reply: Receiver<Told>,
}

struct Import<'a> {
    db: &'a Arc<Database>,
    durability: Durability,
    value_bytes_max: u64,
    chunk: Vec<WriteOp>,
    chunk_lines: Vec<u64>,
    chunk_bytes: usize,
    /// The highest version seen, and the highest that the store goes on above.
    seen: u64,
    followed: u64,
    sent: Option<Sent>,
    imported: u64,
    expired: u64,
    failures: u64,
    listed: Vec<Value>,
}

impl<'a> Import<'a> {
    fn new(api: &Api, db: &'a Arc<Database>, durability: Durability) -> Import<'a> {
        Import {
            db,
            durability,
            value_bytes_max: api.limits.get().value_bytes_max,
            chunk: Vec::new(),
            chunk_lines: Vec::new(),
            chunk_bytes: 0,
            seen: 0,
            followed: 0,
            sent: None,
            imported: 0,
            expired: 0,
            failures: 0,
            listed: Vec::new(),
        }
    }

    /// `unread` says what it means that the lines end with an error.
    fn apply_all(
        &mut self,
        lines: &mut impl BufRead,
        unread: &dyn Fn(&Import, &io::Error) -> Problem,
    ) -> Result<(), Problem> {
        let mut buffer = Vec::new();
        let line_bytes_max = line::line_bytes_max(self.value_bytes_max);
        for number in 1.. {
            let next = line::next_line(lines, &mut buffer, line_bytes_max).or_else(|failure| {
                // What is on its way belongs to what was imported.
                self.settle()?;
                Err(unread(self, &failure))
            })?;
            match next {
                NextLine::End => break,
                NextLine::TooLong => {
                    let message = format!("a line holds at most {line_bytes_max} bytes");
                    self.fail(number, &Problem::new(413, "VALUE_TOO_LARGE", message));
                }
                NextLine::Line if json::is_blank(&buffer) => {}
                NextLine::Line => match EndLine::parse(&buffer) {
                    Some(end) => self.seen = self.seen.max(end.version.unwrap_or(0)),
                    None => match line::parse(&buffer, self.value_bytes_max) {
                        Ok(record) => self.add(number, record)?,
                        Err(problem) => self.fail(number, &problem),
                    },
                },
            }
        }
        self.send()?;
        self.settle()?;
        self.follow(self.seen)
    }

    /// Has the store go on above this version, and waits until that is on the card.
    fn follow(&mut self, version: u64) -> Result<(), Problem> {
        if version <= self.followed {
            return Ok(());
        }
        if version >= IMPORT_END {
            let message = format!(
                "the file has the version {version}, and one that is imported has versions below {IMPORT_END}; \
                 {} records were imported. Leave `version` out of its lines to have the store number them by itself",
                self.imported
            );
            return Err(Problem::new(400, "BAD_REQUEST", message).with("imported", self.imported.into()));
        }
        let (tell, reply) = bounded(1);
        self.db.follow(version, tells(tell));
        match reply.recv() {
            Ok(Ok(_)) => {
                self.followed = version;
                Ok(())
            }
            Ok(Err(failure)) => Err(self.stopped(&error::write_problem(&failure))),
            Err(_) => Err(self.stopped(&error::write_problem(&WriteError::OutcomeUnknown))),
        }
    }

    fn fail(&mut self, line: u64, problem: &Problem) {
        self.failures += 1;
        if self.listed.len() < FAILURES_LISTED_MAX {
            self.listed.push(json!({"line": line, "code": problem.code, "message": problem.message}));
        }
    }

    fn add(&mut self, line: u64, record: ImportRecord) -> Result<(), Problem> {
        self.seen = self.seen.max(record.version);
        let ttl = match record.expires_ms {
            None => Ttl::Clear,
            // Until the date is sure, what seems to be over may not be.
            Some(expires_ms)
                if expires_ms <= self.db.clock().moment().now_ms() && self.db.clock().is_synchronised() =>
            {
                self.expired += 1;
                return Ok(());
            }
            Some(expires_ms) => Ttl::At(expires_ms),
        };
        let key = FullKey::new(&record.namespace, &record.collection, &record.key);
        let view = self.db.view();
        let preread = view.read(&key).ok().map(|record| Preread { instant: view.instant, record }.cut(0));
        self.chunk_bytes += record.value.len() + key.as_bytes().len();
        let action = Action::Put { content_type: record.content_type, value: record.value, ttl };
        self.chunk.push(WriteOp { key, action, precondition: Precondition::default(), preread });
        self.chunk_lines.push(line);
        if self.chunk.len() >= CHUNK_OPERATIONS || self.chunk_bytes >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(())
    }

    /// Hands the chunk over and reads on while it is being committed; the one before it must have ended.
    fn send(&mut self) -> Result<(), Problem> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.settle()?;
        self.follow(self.seen)?;
        self.chunk_bytes = 0;
        let (ops, lines) = (std::mem::take(&mut self.chunk), std::mem::take(&mut self.chunk_lines));
        let (tell, reply) = bounded(1);
        self.db.submit(WriteRequest {
            ops,
            atomic: false,
            durability: self.durability,
            deadline: None,
            reply: tells(tell),
        });
        self.sent = Some(Sent { lines, reply });
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Problem> {
        let Some(sent) = self.sent.take() else { return Ok(()) };
        match sent.reply.recv() {
            Ok(Ok(outcome)) => {
                self.imported += outcome.results.len() as u64;
                Ok(())
            }
            Ok(Err(WriteError::Overloaded)) => {
                for line in sent.lines {
                    self.fail(line, &error::write_problem(&WriteError::Overloaded));
                }
                std::thread::sleep(BACK_OFF);
                Ok(())
            }
            Ok(Err(failure)) => Err(self.stopped(&error::write_problem(&failure))),
            Err(_) => Err(self.stopped(&error::write_problem(&WriteError::OutcomeUnknown))),
        }
    }

    /// The store takes no more. What came before stays, so the whole was neither written nor not written.
    fn stopped(&self, problem: &Problem) -> Problem {
        if self.imported == 0 {
            return problem.clone();
        }
        let message = format!(
            "the import stopped after {} records ({}); they are stored. Importing the same file again is safe",
            self.imported, problem.code
        );
        Problem::new(504, "OUTCOME_UNKNOWN", message).written(Written::Unknown).with("imported", self.imported.into())
    }

    fn report(self) -> Value {
        let mut report = json!({"imported": self.imported, "failed": self.listed});
        if self.failures > FAILURES_LISTED_MAX as u64 {
            report["failed_total"] = self.failures.into();
        }
        if self.expired > 0 {
            report["expired"] = self.expired.into();
        }
        report
    }
}
