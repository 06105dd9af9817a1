//! The head of a request: its target and the header fields that larder reads.
//!
//! Invariant: a head owns its target, one buffer of values and one span list; all three come from, and go back to, a
//! small pool of the thread that drops them, so a hot request allocates nothing for its head.

use std::cell::RefCell;

use memchr::{memchr, memchr2};

use super::query::push_usual;

/// The header fields that some part of larder reads. Engines skip all others while copying a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum HeaderName {
    Accept,
    AcceptEncoding,
    AccessControlRequestHeaders,
    AccessControlRequestMethod,
    Authorization,
    CacheControl,
    Connection,
    ContentDigest,
    ContentEncoding,
    ContentLength,
    ContentMd5,
    ContentTransferEncoding,
    ContentType,
    Digest,
    Expect,
    Forwarded,
    Host,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    /// Any of ours that stands in answers only.
    LarderAnswer,
    LastEventId,
    /// `X-HTTP-Method-Override` and its kin.
    MethodOverride,
    Origin,
    /// `Content-Range` and its kin: the body is a part of something.
    PartialContent,
    Range,
    ReprDigest,
    SecFetchDest,
    SecFetchMode,
    SecFetchSite,
    SecWebsocketKey,
    SecWebsocketProtocol,
    SecWebsocketVersion,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Via,
    /// Those of WebDAV that would change what a write means.
    WebDav,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// Any other `X-Forwarded-…`: its presence alone says that a proxy stands between.
    XForwardedOther,
    XNoCompression,
    XRequestId,
}

use HeaderName::*;

/// Lower-case names, sorted by length and then alphabet.
const KNOWN: &[(&str, HeaderName)] = &[
    ("if", WebDav),
    ("via", Via),
    ("host", Host),
    ("depth", WebDav),
    ("range", Range),
    ("accept", Accept),
    ("digest", Digest),
    ("expect", Expect),
    ("origin", Origin),
    ("trailer", Trailer),
    ("upgrade", Upgrade),
    ("if-match", IfMatch),
    ("if-range", IfRange),
    ("forwarded", Forwarded),
    ("overwrite", WebDav),
    ("connection", Connection),
    ("larder-ttl", LarderAnswer),
    ("user-agent", UserAgent),
    ("content-md5", ContentMd5),
    ("destination", WebDav),
    ("repr-digest", ReprDigest),
    ("traceparent", Traceparent),
    ("content-type", ContentType),
    ("x-request-id", XRequestId),
    ("authorization", Authorization),
    ("cache-control", CacheControl),
    ("content-range", PartialContent),
    ("if-none-match", IfNoneMatch),
    ("last-event-id", LastEventId),
    ("tus-resumable", PartialContent),
    ("upload-offset", PartialContent),
    ("x-http-method", MethodOverride),
    ("content-digest", ContentDigest),
    ("content-length", ContentLength),
    ("larder-version", LarderAnswer),
    ("sec-fetch-dest", SecFetchDest),
    ("sec-fetch-mode", SecFetchMode),
    ("sec-fetch-site", SecFetchSite),
    ("x-update-range", PartialContent),
    ("accept-encoding", AcceptEncoding),
    ("x-forwarded-for", XForwardedFor),
    ("content-encoding", ContentEncoding),
    ("x-forwarded-host", XForwardedHost),
    ("x-no-compression", XNoCompression),
    ("if-modified-since", IfModifiedSince),
    ("larder-durability", LarderAnswer),
    ("sec-websocket-key", SecWebsocketKey),
    ("transfer-encoding", TransferEncoding),
    ("x-forwarded-proto", XForwardedProto),
    ("x-method-override", MethodOverride),
    ("if-unmodified-since", IfUnmodifiedSince),
    ("sec-websocket-version", SecWebsocketVersion),
    ("x-http-method-override", MethodOverride),
    ("sec-websocket-protocol", SecWebsocketProtocol),
    ("content-transfer-encoding", ContentTransferEncoding),
    ("access-control-request-method", AccessControlRequestMethod),
    ("access-control-request-headers", AccessControlRequestHeaders),
];

/// The length of the longest known name.
const NAME_BYTES_MAX: usize = KNOWN[KNOWN.len() - 1].0.len();

/// Where in [`KNOWN`] the names of each length begin: those of length `n` are `FIRST[n]..FIRST[n + 1]`.
const FIRST: [u8; NAME_BYTES_MAX + 2] = {
    let mut first = [0; NAME_BYTES_MAX + 2];
    let (mut length, mut at) = (0, 0);
    while length < first.len() {
        while at < KNOWN.len() && KNOWN[at].0.len() < length {
            at += 1;
        }
        first[length] = at as u8;
        length += 1;
    }
    first
};

impl HeaderName {
    /// Finds a field name, whatever its case.
    pub fn parse(name: &[u8]) -> Option<HeaderName> {
        let first_letter = name.first()?.to_ascii_lowercase();
        let same_length = match FIRST.get(name.len()..name.len() + 2) {
            Some(range) => &KNOWN[usize::from(range[0])..usize::from(range[1])],
            None => &[],
        };
        same_length
            .iter()
            // The first letter tells most names apart, and costs nothing to look at.
            .find(|(known, _)| known.as_bytes()[0] == first_letter && known.as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, header)| *header)
            .or_else(|| (matches!(first_letter, b'x' | b't' | b'c') && is_a_proxys(name)).then_some(XForwardedOther))
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// What only a proxy adds, besides the names of the table: `X-Forwarded-*`, and the names that proxies had before it.
fn is_a_proxys(name: &[u8]) -> bool {
    const OTHERS: [&[u8]; 5] =
        [b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip"];
    name.get(..11).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded"))
        || OTHERS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[derive(Clone, Copy)]
struct Field {
    name: HeaderName,
    start: u32,
    len: u32,
}

/// A request's target and header fields.
pub struct Head {
    target: String,
    /// Where the query's `?` stands in the target, or the target's length.
    path_len: usize,
    /// The values of the fields, one behind the other.
    buffer: Vec<u8>,
    fields: Vec<Field>,
    /// One bit for each name that is there.
    present: u64,
}

const POOLED_HEADS_MAX: usize = 32;
const POOLED_BUFFER_BYTES_MAX: usize = 8 * 1024;

/// What a head owns: target, values, spans.
type Memory = (String, Vec<u8>, Vec<Field>);

thread_local! {
    static POOL: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

impl Head {
    /// Starts a head with its request target (origin form: path and query). The path is kept in its usual spelling, so that
    /// whoever looks at it, by whatever route, sees one and the same (see [`push_usual`]).
    pub fn new(target: &str) -> Head {
        let (mut kept, buffer, fields) = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        let path_len = match memchr2(b'?', b'%', target.as_bytes()) {
            Some(at) if target.as_bytes()[at] == b'%' => {
                let (path, query) = target.split_at(memchr(b'?', target.as_bytes()).unwrap_or(target.len()));
                push_usual(&mut kept, path);
                let path_len = kept.len();
                kept.push_str(query);
                path_len
            }
            question_mark => {
                kept.push_str(target);
                question_mark.unwrap_or(target.len())
            }
        };
        Head { target: kept, path_len, buffer, fields, present: 0 }
    }

    /// What can be told of a head that is not acceptable, or of which not all came: the fields of its whole lines.
    pub fn salvage(mut bytes: &[u8]) -> Head {
        let mut head = Head::new("");
        while let Some(end) = memchr(b'\n', bytes) {
            let line = bytes[..end].trim_ascii();
            if let Some(colon) = memchr(b':', line) {
                let value = line[colon + 1..].trim_ascii_start();
                if super::message::is_field_value(value) {
                    head.push(&line[..colon], value);
                }
            } else if line.is_empty() && !head.fields.is_empty() {
                break;
            }
            bytes = &bytes[end + 1..];
        }
        head
    }

    /// Adds a field if larder reads it. `value` is without surrounding white space.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        if let Some(name) = HeaderName::parse(name) {
            self.push_known(name, value);
        }
    }

    /// Adds a field whose name the engine has resolved.
    pub fn push_known(&mut self, name: HeaderName, value: &[u8]) {
        self.fields.push(Field { name, start: self.buffer.len() as u32, len: value.len() as u32 });
        self.present |= name.bit();
        self.buffer.extend_from_slice(value);
    }

    /// The target: path and query, both percent-encoded, the path no more than it must be.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path, percent-encoded where it must be.
    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// The query without its `?`, empty if there is none.
    pub fn query(&self) -> &str {
        self.target.get(self.path_len + 1..).unwrap_or("")
    }

    /// Whether a field is there at all: one bit test.
    pub fn has(&self, name: HeaderName) -> bool {
        self.present & name.bit() != 0
    }

    /// Whether any of these fields is there: one bit test as well.
    pub fn has_any(&self, names: &[HeaderName]) -> bool {
        self.present & names.iter().fold(0, |bits, name| bits | name.bit()) != 0
    }

    /// The first value of a field, if it is there and is UTF-8.
    pub fn get(&self, name: HeaderName) -> Option<&str> {
        if !self.has(name) {
            return None;
        }
        self.all(name).next()
    }

    /// All values of a field in the order of their lines; those that are not UTF-8 are passed over.
    pub fn all(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |field| field.name == name).filter_map(|field| {
            let (start, len) = (field.start as usize, field.len as usize);
            std::str::from_utf8(&self.buffer[start..start + len]).ok()
        })
    }

    /// How many lines carried this field.
    pub fn count(&self, name: HeaderName) -> usize {
        self.fields.iter().filter(|field| field.name == name).count()
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        if self.buffer.capacity() + self.target.capacity() > POOLED_BUFFER_BYTES_MAX {
            return;
        }
        let mut target = std::mem::take(&mut self.target);
        let (mut buffer, mut fields) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.fields));
        target.clear();
        buffer.clear();
        fields.clear();
        // The pool is gone while its thread ends: then the buffers go too.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED_HEADS_MAX {
                pool.push((target, buffer, fields));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_keeps_known_fields_in_order_and_drops_the_rest() {
        let mut head = Head::new("/a%2Fb?x=1");
        head.push(b"ACCEPT-encoding", b"gzip");
        head.push(b"X-Unknown", b"1");
        head.push(b"Accept-Encoding", b"br");
        assert_eq!(head.path(), "/a%2Fb");
        assert_eq!(head.query(), "x=1");
        assert_eq!(head.all(AcceptEncoding).collect::<Vec<_>>(), ["gzip", "br"]);
        assert!(!head.has(Host));
        assert_eq!(head.count(AcceptEncoding), 2);
        assert!(head.has_any(&[Host, AcceptEncoding]) && !head.has_any(&[Host, Via]) && !head.has_any(&[]));
    }

    #[test]
    fn of_a_damaged_head_the_whole_lines_are_kept() {
        let origins = |text: &str| {
            let head = Head::salvage(text.as_bytes());
            head.all(Origin).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(origins("GET /aaa HTTP/1.1\r\nHost: x\r\norigin:  https://a \r\nX: y"), ["https://a"]);
        assert_eq!(origins("ruption HTTP/1.1\nOrigin: https://a\n\nOrigin: https://b\n"), ["https://a"]);
        assert_eq!(origins("GET http://a/ HTTP/1.1\r\nno colon\r\nOrigin: https://a\r\n\r\n"), ["https://a"]);
        for text in ["", "\r\n", "GET /aaa", "Origin: https://a", "Origin: a\u{1}\r\n", ":\r\n", "\r\nOrigin:b"] {
            assert!(origins(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_target_comes_apart_at_its_first_question_mark() {
        for (target, path, query) in
            [("/a", "/a", ""), ("/a?", "/a", ""), ("/?b?c", "/", "b?c"), ("*", "*", ""), ("", "", ""), ("?", "", "")]
        {
            let head = Head::new(target);
            assert_eq!((head.target(), head.path(), head.query()), (target, path, query));
        }
        for (target, path, query) in [
            ("/%61%2Fb?%61=%62", "/a%2Fb", "%61=%62"),
            ("/%61", "/a", ""),
            ("/%61%?%62", "/%61%", "%62"),
            ("/a?%61", "/a", "%61"),
            ("/%3F?%3F", "/%3F", "%3F"),
        ] {
            let head = Head::new(target);
            assert_eq!((head.path(), head.query()), (path, query), "{target}");
        }
    }

    #[test]
    fn the_table_holds_every_name_once() {
        for (text, name) in KNOWN {
            assert_eq!(HeaderName::parse(text.to_uppercase().as_bytes()), Some(*name));
            for other in [&text[1..], &format!("{text}s"), &text.replace(|letter: char| letter != '-', "q")] {
                let found = HeaderName::parse(other.as_bytes());
                assert_eq!(found.is_some(), is_a_proxys(other.as_bytes()), "{other}");
            }
        }
        assert_eq!(HeaderName::parse(b""), None);
        assert_eq!(HeaderName::parse(&[b'x'; 100]), None);
        for name in ["X-Forwarded-Port", "X-Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"] {
            assert_eq!(HeaderName::parse(name.as_bytes()), Some(XForwardedOther), "{name}");
        }
        assert!(KNOWN.windows(2).all(|pair| pair[0].0.len() <= pair[1].0.len()));
        assert!((XRequestId as u8) < 64, "the presence bits are a u64");
    }
}
