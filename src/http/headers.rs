//! The head of a request: its target and the header fields that larder reads.
//!
//! Invariant: a head owns one buffer and one span list; both come from, and go back to, a small pool of the
//! thread that drops them, so a hot request allocates nothing for its head.

use std::cell::RefCell;

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
    ContentEncoding,
    ContentLength,
    ContentType,
    Expect,
    Forwarded,
    Host,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    LastEventId,
    Origin,
    Range,
    SecFetchSite,
    SecWebsocketKey,
    SecWebsocketProtocol,
    SecWebsocketVersion,
    Traceparent,
    TransferEncoding,
    Upgrade,
    Via,
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
    ("via", Via),
    ("host", Host),
    ("range", Range),
    ("accept", Accept),
    ("expect", Expect),
    ("origin", Origin),
    ("upgrade", Upgrade),
    ("if-match", IfMatch),
    ("if-range", IfRange),
    ("forwarded", Forwarded),
    ("connection", Connection),
    ("traceparent", Traceparent),
    ("content-type", ContentType),
    ("x-request-id", XRequestId),
    ("authorization", Authorization),
    ("cache-control", CacheControl),
    ("if-none-match", IfNoneMatch),
    ("last-event-id", LastEventId),
    ("content-length", ContentLength),
    ("sec-fetch-site", SecFetchSite),
    ("accept-encoding", AcceptEncoding),
    ("x-forwarded-for", XForwardedFor),
    ("content-encoding", ContentEncoding),
    ("x-forwarded-host", XForwardedHost),
    ("x-no-compression", XNoCompression),
    ("if-modified-since", IfModifiedSince),
    ("sec-websocket-key", SecWebsocketKey),
    ("transfer-encoding", TransferEncoding),
    ("x-forwarded-proto", XForwardedProto),
    ("if-unmodified-since", IfUnmodifiedSince),
    ("sec-websocket-version", SecWebsocketVersion),
    ("sec-websocket-protocol", SecWebsocketProtocol),
    ("access-control-request-method", AccessControlRequestMethod),
    ("access-control-request-headers", AccessControlRequestHeaders),
];

impl HeaderName {
    /// Finds a field name, whatever its case.
    pub fn parse(name: &[u8]) -> Option<HeaderName> {
        KNOWN
            .iter()
            .filter(|(known, _)| known.len() == name.len())
            .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, header)| *header)
            .or_else(|| is_forwarded(name).then_some(XForwardedOther))
    }
}

fn is_forwarded(name: &[u8]) -> bool {
    name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
}

#[derive(Clone, Copy)]
struct Field {
    name: HeaderName,
    start: u32,
    len: u32,
}

/// A request's target and header fields, in one buffer.
pub struct Head {
    buffer: Vec<u8>,
    fields: Vec<Field>,
    present: u64,
    target_len: u32,
}

const POOLED_HEADS_MAX: usize = 32;
const POOLED_BUFFER_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static POOL: RefCell<Vec<(Vec<u8>, Vec<Field>)>> = const { RefCell::new(Vec::new()) };
}

impl Head {
    /// Starts a head with its request target (origin form: path and query).
    pub fn new(target: &str) -> Head {
        let (mut buffer, fields) = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        buffer.extend_from_slice(target.as_bytes());
        Head { buffer, fields, present: 0, target_len: target.len() as u32 }
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
        self.present |= 1 << name as u8;
        self.buffer.extend_from_slice(value);
    }

    /// The target as sent: path and query, still percent-encoded.
    pub fn target(&self) -> &str {
        std::str::from_utf8(&self.buffer[..self.target_len as usize]).unwrap_or("")
    }

    /// The path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.target().split_once('?').map_or(self.target(), |(path, _)| path)
    }

    /// The query without its `?`, empty if there is none.
    pub fn query(&self) -> &str {
        self.target().split_once('?').map_or("", |(_, query)| query)
    }

    /// Whether a field is there at all: one bit test.
    pub fn has(&self, name: HeaderName) -> bool {
        self.present & (1 << name as u8) != 0
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
        if self.buffer.capacity() > POOLED_BUFFER_BYTES_MAX {
            return;
        }
        let (mut buffer, mut fields) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.fields));
        buffer.clear();
        fields.clear();
        // The pool is gone while its thread ends: then the buffers go too.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED_HEADS_MAX {
                pool.push((buffer, fields));
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
    }

    #[test]
    fn the_table_holds_every_name_once() {
        for (text, name) in KNOWN {
            assert_eq!(HeaderName::parse(text.to_uppercase().as_bytes()), Some(*name));
        }
        assert!(KNOWN.windows(2).all(|pair| pair[0].0.len() <= pair[1].0.len()));
        assert!(KNOWN.len() <= 64, "the presence bits are a u64");
    }
}
