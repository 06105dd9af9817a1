//! The files of a folder over HTTP: conditions, single ranges, forms compressed beforehand, a single page's fallback.
//!
//! It lists no folder, runs nothing, and writes nothing. Files stream in pieces of 64 KiB, whatever their size.
//!
//! Tags are strong and made of inode, size and the times of the last change. They differ whenever a file was replaced by
//! another (as `mv`, `rsync` and every deploy tool do it), or changed in place, unless that kept the size and happened
//! within one tick of the kernel's clock (at most 10 ms) after an answer.
//!
//! Invariant: what is sent comes from a regular file beneath the folder ([`beneath`]) that is not [`closed`], and an answer is never longer or
//! shorter than its `Content-Length`: a file that shrinks while it is sent ends the connection.

mod beneath;
mod closed;
mod freshness;
mod kind;
mod name;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Stat;
use rustix::io::Errno;

use self::beneath::{Entry, Folder, OpenFile};
pub use self::closed::Closed;
pub use self::freshness::FOLDERS as IMMUTABLE_FOLDERS;
use self::freshness::Freshness;
use self::kind::{by_name, has_other_forms};
use self::name::{BadPath, FilePath};
use super::conditional::{Conditions, Current, CurrentTag, Verdict, evaluate_read, weak_if_match, write_date};
use super::encoding::{self, Weights};
use super::headers::{Head, HeaderName};
use super::media::{self, OCTET_STREAM};
use super::message::{Body, Request, Response};
use super::method::Method;
use super::problem::Problem;
use super::range::{self, RangeTarget, RangeVerdict};
use super::wire;

/// Bytes that are read from a file at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Larger files are not compressed while they are sent: their `.gz` should lie beside them.
const COMPRESS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A year, the longest age that RFC 9111 caches are expected to honour.
const IMMUTABLE_AGE_S: u64 = 31_536_000;

/// How the files of a folder are served.
#[derive(Clone, Debug)]
pub struct StaticOptions {
    /// Shared caches may keep the files (`Cache-Control: public`, else `private`).
    pub public: bool,
    /// Requests that find no file and take a page get the folder's `index.html`.
    pub single_page: bool,
    /// `max-age` of what has no hash of its content in its name, in seconds.
    pub max_age_s: u64,
    /// Folders, each between slashes, whose files with such a hash never change; without any, none are said to.
    pub immutable: Vec<String>,
    /// Text-like files of so many bytes and more are gzipped while they are sent, if no `.gz` lies beside them. `None`: never.
    pub compress_from_bytes: Option<u64>,
    /// What is never served, wherever it lies.
    pub closed: Closed,
}

impl Default for StaticOptions {
    fn default() -> StaticOptions {
        StaticOptions {
            public: true,
            single_page: false,
            max_age_s: 86_400,
            immutable: IMMUTABLE_FOLDERS.iter().map(|&folder| folder.to_owned()).collect(),
            compress_from_bytes: Some(1024),
            closed: Closed::default(),
        }
    }
}

/// A folder that is served.
pub struct StaticFiles {
    folder: Folder,
    options: StaticOptions,
}

/// A file as it would be sent: which bytes, in which coding.
struct Form {
    file: OpenFile,
    coding: Option<&'static str>,
    /// Compress while sending: the file itself is not what goes out.
    encode: bool,
    /// Part of the tag that sets this form apart.
    suffix: &'static str,
}

impl StaticFiles {
    /// Serves the files beneath `dir`. An error if it is no folder that can be opened.
    pub fn open(dir: &Path, options: StaticOptions) -> io::Result<StaticFiles> {
        Ok(StaticFiles { folder: Folder::open(dir, options.closed.clone())?, options })
    }

    /// Answers a request by its path; the query is ignored (pages use it to get around caches). Reads the disk.
    pub fn respond(&self, request: &Request) -> Response {
        if !matches!(request.method, Method::Get | Method::Head) {
            let problem = Problem::new(405, "METHOD_NOT_ALLOWED", "files can be read with GET and HEAD");
            return Response::from(problem).field("Allow", "GET, HEAD, OPTIONS");
        }
        let mut response = self.answer(request).unwrap_or_else(Response::from);
        if response.status == 503 {
            response.push_field("Retry-After", b"1");
        }
        response
    }

    fn answer(&self, request: &Request) -> Result<Response, Problem> {
        let path = FilePath::parse(request.head.path()).map_err(|bad| match bad {
            BadPath::Escape => Problem::new(400, "BAD_REQUEST", "the path holds a % without two hexadecimal digits"),
            BadPath::Forbidden => not_found(),
        })?;
        let named = if path.is_folder { path.join("index.html") } else { path.relative.clone() };
        match self.folder.look_up(&named).map_err(unreadable)? {
            Entry::File(file) => self.serve(request, &named, file, false),
            Entry::Folder if !path.is_folder && self.has_index(&path)? => Ok(redirect(&path, request.head.query())),
            Entry::Folder | Entry::Nothing => self.fall_back(request, &named),
        }
    }

    fn has_index(&self, path: &FilePath) -> Result<bool, Problem> {
        let index = self.folder.look_up(&path.join("index.html")).map_err(unreadable)?;
        Ok(matches!(index, Entry::File(_)))
    }

    /// A page that makes its own routes: whoever navigates gets it, whatever takes it. A missing script or picture stays
    /// a 404 for all who do not ask for a page by name: they could not use it, and would be told of it later.
    fn fall_back(&self, request: &Request, named: &str) -> Result<Response, Problem> {
        const PAGE: &str = "text/html";
        const PLACES: [&str; 6] = ["document", "iframe", "frame", "embed", "object", "empty"];
        const PROBES: [&str; 6] = ["api", "health", "healthz", "livez", "readyz", "metrics"];
        let head = &request.head;
        let may_be_page = || matches!(&*by_name(named), OCTET_STREAM) || by_name(named).starts_with(PAGE);
        let wanted = media::accepts_explicitly(head, PAGE) || (media::accepts(head, PAGE) && may_be_page());
        // Browsers say for what they ask.
        let is_for_page = head.get(HeaderName::SecFetchDest).is_none_or(|place| PLACES.contains(&place));
        // A probe that is answered by a page would be satisfied for ever.
        let is_probe = PROBES.contains(&named.split('/').next().unwrap_or_default());
        if !self.options.single_page || !wanted || !is_for_page || is_probe {
            return Err(not_found());
        }
        match self.folder.look_up("index.html").map_err(unreadable)? {
            Entry::File(file) => self.serve(request, "index.html", file, true),
            Entry::Folder | Entry::Nothing => Err(not_found()),
        }
    }

    fn serve(&self, request: &Request, path: &str, file: OpenFile, fallback: bool) -> Result<Response, Problem> {
        let head = &request.head;
        let conditions = Conditions::parse(head)?;
        let content_type = &*by_name(path);
        let modified_s = modified_s(&file.stat);
        let identity = opaque_tag(&file.stat, "");

        let wanted = self.range(request, &file.stat, &identity, modified_s);
        let form = match wanted {
            RangeVerdict::Whole => self.choose_form(head, path, content_type, file)?,
            RangeVerdict::One { .. } | RangeVerdict::Unsatisfiable => Form::identity(file),
        };
        let tag = form.tag();
        let current = Current { tag: CurrentTag::Opaque(&tag), gzip: false, modified_s };
        let mut response = match evaluate_read(&conditions, Some(current)) {
            Verdict::PreconditionFailed => {
                let message = match weak_if_match(head) {
                    Some(_) => "If-Match names a weak tag, which matches nothing: send the tag without W/",
                    None => "the file is not what If-Match or its date says",
                };
                return Err(Problem::new(412, "PRECONDITION_FAILED", message));
            }
            Verdict::NotModified { .. } => Response::new(304),
            Verdict::Proceed => body_of(request.method, form, content_type, wanted)?,
        };
        if response.status == 416 {
            return Ok(response);
        }
        response.push_field("ETag", format!("\"{tag}\"").as_bytes());
        if let Some(modified_s) = modified_s {
            response.push_field("Last-Modified", write_date(modified_s).as_bytes());
        }
        response.push_field("Cache-Control", self.cache_control(path, content_type, fallback).as_bytes());
        match (has_other_forms(content_type), fallback) {
            (_, true) => response.push_field("Vary", b"Accept-Encoding, Accept, Sec-Fetch-Dest"),
            (true, false) => response.push_field("Vary", b"Accept-Encoding"),
            (false, false) => {}
        }
        Ok(response)
    }

    /// Ranges are for GET and for the identity form; a client that forbids that form gets the whole.
    fn range(&self, request: &Request, stat: &Stat, opaque: &str, modified_s: Option<u64>) -> RangeVerdict {
        if request.method != Method::Get
            || !request.head.has(HeaderName::Range)
            || Weights::of(&request.head).identity == 0
        {
            return RangeVerdict::Whole;
        }
        let etag = format!("\"{opaque}\"");
        range::evaluate(&request.head, RangeTarget { etag: &etag, modified_s, length: length(stat) })
    }

    /// The form a client likes best among those there are. A form beside the file counts only if it is not older than it.
    fn choose_form(&self, head: &Head, path: &str, content_type: &str, file: OpenFile) -> Result<Form, Problem> {
        let weights = Weights::of(head);
        let plain = head.has(HeaderName::XNoCompression) && weights.identity > 0;
        if has_other_forms(content_type) && !plain {
            let mut beside = [("br", ".br", weights.br), ("gzip", ".gz", weights.gzip)];
            beside.sort_by_key(|(_, _, weight)| std::cmp::Reverse(*weight));
            for (coding, extension, _) in beside.into_iter().filter(|(_, _, weight)| weights.prefers(*weight)) {
                let entry = self.folder.look_up(&format!("{path}{extension}")).map_err(unreadable)?;
                if let Entry::File(found) = entry
                    && found.stat.st_mtime >= file.stat.st_mtime
                {
                    let suffix = if coding == "br" { "-br" } else { "-gz" };
                    return Ok(Form { file: found, coding: Some(coding), encode: false, suffix });
                }
            }
            let sizes = self.options.compress_from_bytes.unwrap_or(u64::MAX)..=COMPRESS_BYTES_MAX;
            let worth_it = sizes.contains(&length(&file.stat)) && encoding::is_compressible(content_type.as_bytes());
            if worth_it && weights.prefers(weights.gzip) {
                return Ok(Form { file, coding: Some("gzip"), encode: true, suffix: "-gzip" });
            }
        }
        if weights.identity == 0 {
            return Err(encoding::not_acceptable());
        }
        Ok(Form::identity(file))
    }

    fn cache_control(&self, path: &str, content_type: &str, fallback: bool) -> String {
        let whose = if self.options.public { "public" } else { "private" };
        match freshness::of(path, content_type, &self.options.immutable) {
            // The same path may be a file tomorrow.
            _ if fallback => "no-cache".to_owned(),
            Freshness::Asked => "no-cache".to_owned(),
            Freshness::Aged => format!("{whose}, max-age={}", self.options.max_age_s),
            Freshness::Immutable => format!("{whose}, max-age={IMMUTABLE_AGE_S}, immutable"),
        }
    }
}

impl Form {
    fn identity(file: OpenFile) -> Form {
        Form { file, coding: None, encode: false, suffix: "" }
    }

    fn tag(&self) -> String {
        opaque_tag(&self.file.stat, self.suffix)
    }
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn opaque_tag(stat: &Stat, suffix: &str) -> String {
    format!(
        "{:x}-{:x}-{:x}.{:x}-{:x}.{:x}{suffix}",
        stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    )
}

/// `Last-Modified`, left out while the clock is not set and where it lies in the future (RFC 9110 §8.8.2.1).
fn modified_s(stat: &Stat) -> Option<u64> {
    wire::told_s(u64::try_from(stat.st_mtime).ok()?)
}

/// A 200, 206 or 416.
fn body_of(method: Method, form: Form, content_type: &str, wanted: RangeVerdict) -> Result<Response, Problem> {
    let whole = length(&form.file.stat);
    let (mut response, start, count) = match wanted {
        RangeVerdict::Unsatisfiable => {
            let unsatisfied = range::content_range_unsatisfied(whole);
            return Ok(Response::from(range::not_satisfiable(whole)).field("Content-Range", &unsatisfied));
        }
        RangeVerdict::Whole => (Response::new(200), 0, whole),
        RangeVerdict::One { start, end_inclusive } => {
            let content_range = range::content_range(start, end_inclusive, whole);
            (Response::new(206).field("Content-Range", &content_range), start, end_inclusive - start + 1)
        }
    };
    response.push_field("Content-Type", content_type.as_bytes());
    match form.coding {
        Some(coding) => response.push_field("Content-Encoding", coding.as_bytes()),
        None => response.push_field("Accept-Ranges", b"bytes"),
    }
    let reader = Reader { file: form.file.file, at: start, left: count };
    response.body = match (form.encode, method) {
        // What no HEAD asks for is not packed for one.
        (true, Method::Head) => return Ok(response.without_length()),
        (true, _) => Body::Pull {
            length: None,
            keeps: encoding::GZIP_KEEPS_BYTES,
            patience: Duration::MAX,
            pull: encoding::gzip_puller(Box::new(puller(reader))),
        },
        (false, Method::Head) => {
            response.length_only = Some(count);
            Body::Empty
        }
        (false, _) if count == 0 => Body::Empty,
        (false, _) if count <= PIECE_BYTES as u64 => Body::Bytes(reader.read_all()?.into()),
        (false, _) => {
            let pull = Box::new(puller(reader));
            Body::Pull { length: Some(count), keeps: 0, patience: Duration::MAX, pull }
        }
    };
    Ok(response)
}

/// A part of a file, read piece by piece.
struct Reader {
    file: File,
    at: u64,
    left: u64,
}

impl Reader {
    /// Appends the next piece and says whether more will come.
    fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let before = out.len();
        let piece = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        out.resize(before + piece, 0);
        let result = self.file.read_exact_at(&mut out[before..], self.at);
        if result.is_err() {
            out.truncate(before);
        }
        result?;
        self.at += piece as u64;
        self.left -= piece as u64;
        Ok(self.left > 0)
    }

    fn read_all(mut self) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        match self.read(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(Problem::new(500, "INTERNAL", "the file changed or failed while it was read; try again")),
        }
    }
}

fn puller(mut reader: Reader) -> impl FnMut(&mut Vec<u8>) -> io::Result<bool> + Send {
    move |out| reader.read(out)
}

fn redirect(path: &FilePath, query: &str) -> Response {
    let mut location = path.as_folder();
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(301).field("Cache-Control", "no-cache");
    // A query that may not stand in a head is dropped with its redirect's target left whole.
    if !response.try_field("Location", location.as_bytes()) {
        response.push_field("Location", path.as_folder().as_bytes());
    }
    response
}

#[cold]
fn not_found() -> Problem {
    Problem::new(404, "NOT_FOUND", "there is no such file")
}

/// An error of the system. Its text stays in the log: it may name paths.
#[cold]
fn unreadable(error: Errno) -> Problem {
    log::warn!("a file of www.dir could not be opened: {error}");
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            Problem::new(503, "OVERLOADED", "larder has too much open at the moment; try again shortly")
        }
        _ => Problem::new(500, "INTERNAL", "the file could not be read; larder's log says why"),
    }
}
