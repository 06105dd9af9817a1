//! A value as the cache holds it: the record, the head lines every answer with it needs, and its gzip form once made.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::http::{encoding, etag, wire};
use crate::store::Record;

/// What makes a browser give a page an origin that is nobody's, and run no script in it.
pub const SANDBOX: (&str, &[u8]) = ("Content-Security-Policy", b"sandbox");
/// Larger values are compressed anew for each answer: their gzip form would push out many small ones.
const KEPT_GZIP_VALUE_BYTES_MAX: usize = 256 * 1024;

/// A record, ready to be answered with.
pub struct Cached {
    /// The record.
    pub record: Record,
    /// `Content-Type`, `Last-Modified`, `Cache-Control`, `Vary`, perhaps a sandbox: what a 200 carries in any form; then what it carries in
    /// the identity form, so that the common answer is one copy.
    identity_head: Bytes,
    /// How long the first part is.
    common_bytes: usize,
    gzip: OnceLock<Gzip>,
}

/// The gzip form of a value: made once, for one version.
#[derive(Clone)]
pub struct Gzip {
    /// Complete header lines, `Content-Encoding` and the tag among them.
    pub head: Bytes,
    /// The compressed bytes.
    pub body: Bytes,
}

impl Cached {
    /// Prepares a record. `cache_control` is given where the rule does not depend on the time left; `sandbox` keeps
    /// scripts in the value from larder's own origin.
    pub fn new(record: Record, cache_control: Option<&str>, sandbox: bool) -> Arc<Cached> {
        let mut head = Vec::with_capacity(256);
        line(&mut head, "Content-Type", &record.content_type);
        if wire::clock_is_trusted() {
            line(&mut head, "Last-Modified", http_date(record.modified_ms).as_bytes());
        }
        if let Some(value) = cache_control {
            line(&mut head, "Cache-Control", value.as_bytes());
        }
        line(&mut head, "Vary", b"Accept-Encoding");
        if sandbox {
            line(&mut head, SANDBOX.0, SANDBOX.1);
        }
        let common_bytes = head.len();
        line(&mut head, "Accept-Ranges", b"bytes");
        line(&mut head, "ETag", etag::write_etag(record.version).as_bytes());
        // Without its spare room, which would be held as long as the value and not be accounted for.
        let identity_head = head.into_boxed_slice().into();
        Arc::new(Cached { record, identity_head, common_bytes, gzip: OnceLock::new() })
    }

    /// What the cache must account for: value, heads and type.
    pub fn cost_bytes(&self) -> usize {
        let record = self.record.value.len() + self.record.content_type.len();
        std::mem::size_of::<Cached>() + record + self.identity_head.len()
    }

    /// The head lines of the identity form.
    pub fn identity_head(&self) -> Bytes {
        self.identity_head.clone()
    }

    /// The gzip form, if it was made.
    pub fn gzip_made(&self) -> Option<&Gzip> {
        self.gzip.get()
    }

    /// The gzip form, made now if need be. `account` is asked whether so many bytes may be kept with this value.
    pub fn gzip(&self, account: impl FnOnce(usize) -> bool) -> Gzip {
        if let Some(made) = self.gzip.get() {
            return made.clone();
        }
        let mut head = self.identity_head[..self.common_bytes].to_vec();
        line(&mut head, "Content-Encoding", b"gzip");
        line(&mut head, "ETag", etag::write_gzip_etag(self.record.version).as_bytes());
        let made = Gzip { head: head.into(), body: encoding::gzip(&self.record.value).into() };
        if self.record.value.len() <= KEPT_GZIP_VALUE_BYTES_MAX && account(made.head.len() + made.body.len()) {
            // Two may have made it at once: they are the same bytes, and the second one's goes with its answer.
            let _ = self.gzip.set(made.clone());
        }
        made
    }
}

/// A wall time as an HTTP date; the fraction of its second is cut off.
pub fn http_date(ms: u64) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(ms / 1000))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
