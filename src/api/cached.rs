//! A value as the cache holds it: the record, the head lines every answer with it needs, and its gzip form once made.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::http::conditional::write_date;
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
    /// `Last-Modified`; then `Content-Type`, `Cache-Control`, `Vary`, perhaps a sandbox: what a 200 carries in any form;
    /// then what it carries in the identity form, so that the common answer is one copy.
    identity_head: Bytes,
    /// How long the date is: it is cut off where it must not be told.
    date_bytes: usize,
    /// How long the first two parts are.
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
        line(&mut head, "Last-Modified", write_date(record.modified_ms / 1000).as_bytes());
        let date_bytes = head.len();
        line(&mut head, "Content-Type", &record.content_type);
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
        Arc::new(Cached { record, identity_head, date_bytes, common_bytes, gzip: OnceLock::new() })
    }

    /// What the cache must account for: value, heads and type.
    pub fn cost_bytes(&self) -> usize {
        let record = self.record.value.len() + self.record.content_type.len();
        std::mem::size_of::<Cached>() + record + self.identity_head.len()
    }

    /// When the record was modified, as far as that can be told now.
    pub fn modified_s(&self) -> Option<u64> {
        wire::told_s(self.record.modified_ms / 1000)
    }

    /// The head lines of the identity form.
    pub fn identity_head(&self) -> Bytes {
        self.dated(self.identity_head.clone())
    }

    /// The head lines of a form, without the date where it cannot be told.
    fn dated(&self, head: Bytes) -> Bytes {
        if self.modified_s().is_some() { head } else { head.slice(self.date_bytes..) }
    }

    /// The head lines of the gzip form, which need not be made for them.
    pub fn gzip_head(&self) -> Bytes {
        let made = self.gzip.get().map(|made| made.head.clone());
        self.dated(made.unwrap_or_else(|| self.make_gzip_head()))
    }

    fn make_gzip_head(&self) -> Bytes {
        let mut head = self.identity_head[..self.common_bytes].to_vec();
        line(&mut head, "Content-Encoding", b"gzip");
        line(&mut head, "ETag", etag::write_gzip_etag(self.record.version).as_bytes());
        head.into()
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
        let made = Gzip { head: self.make_gzip_head(), body: encoding::gzip(&self.record.value).into() };
        if self.record.value.len() <= KEPT_GZIP_VALUE_BYTES_MAX && account(made.head.len() + made.body.len()) {
            // Two may have made it at once: they are the same bytes, and the second one's goes with its answer.
            let _ = self.gzip.set(made.clone());
        }
        made
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
