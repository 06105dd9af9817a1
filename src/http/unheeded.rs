//! Fields of a request that would change what it means and that larder does not heed. They are refused: who sent one and
//! got a 2xx would take it for heeded, and for a write that may be the loss of a value.
//!
//! Not here: fields that say how to answer, and those that RFC 9110 wants ignored (`Range` on a PUT, preferences).

use super::headers::{Head, HeaderName};
use super::method::Method;
use super::problem::Problem;

const OVERRIDES: &[HeaderName] = &[HeaderName::MethodOverride];
const ON_WRITES: &[HeaderName] = &[
    HeaderName::PartialContent,
    HeaderName::WebDav,
    HeaderName::LarderAnswer,
    HeaderName::ContentTransferEncoding,
    HeaderName::ContentMd5,
];
const CONDITIONS: &[HeaderName] = &[HeaderName::IfMatch, HeaderName::IfNoneMatch, HeaderName::IfUnmodifiedSince];

/// Refuses a request with such a field. `has_tag` says whether its target is a single value, which conditions are for.
/// 400 `BAD_REQUEST`. Without any of them: two bit tests.
pub fn refuse(head: &Head, method: Method, has_tag: bool) -> Result<(), Problem> {
    if head.has_any(OVERRIDES) && !same_method(head, method) {
        let message =
            "a method is not overridden here (X-HTTP-Method-Override and its kin): send the one that is meant";
        return Err(Problem::new(400, "BAD_REQUEST", message));
    }
    if !method.is_write() {
        return Ok(());
    }
    if head.has_any(ON_WRITES)
        && let Some(message) = on_write(head)
    {
        return Err(Problem::new(400, "BAD_REQUEST", message));
    }
    if !has_tag && head.has_any(CONDITIONS) {
        let message = "If-Match, If-None-Match and If-Unmodified-Since are for single values; operations of a batch \
                       have if_version. Nothing was written";
        return Err(Problem::new(400, "BAD_REQUEST", message));
    }
    Ok(())
}

/// Whether all overrides name the method that the request has anyway.
fn same_method(head: &Head, method: Method) -> bool {
    let same = |name: &&str| name.trim().eq_ignore_ascii_case(method.as_str());
    head.all(HeaderName::MethodOverride).filter(same).count() == head.count(HeaderName::MethodOverride)
}

fn on_write(head: &Head) -> Option<&'static str> {
    let plain = |coding: &str| ["binary", "8bit", "7bit"].iter().any(|known| known.eq_ignore_ascii_case(coding));
    if head.has(HeaderName::PartialContent) {
        // RFC 9110 §14.5: it would replace the whole by its part.
        return Some("a value is written whole: send all of it, without Content-Range. Nothing was written");
    }
    if head.has(HeaderName::WebDav) {
        return Some(
            "If, Overwrite, Depth and Destination are WebDAV's and not heeded here: If-Match and If-None-Match are. \
             Nothing was written",
        );
    }
    if head.has(HeaderName::LarderAnswer) {
        return Some(
            "Larder-Ttl, Larder-Durability and Larder-Version stand in answers: a write takes ?ttl= and ?durability=. \
             Nothing was written",
        );
    }
    if head.has(HeaderName::ContentMd5) {
        return Some(
            "Content-MD5 cannot be checked here: send Content-Digest with sha-256, or leave it out. Nothing was written",
        );
    }
    let codings = head.all(HeaderName::ContentTransferEncoding);
    let known = codings.filter(|coding| plain(coding)).count() == head.count(HeaderName::ContentTransferEncoding);
    (!known).then_some("Content-Transfer-Encoding is not undone here: send the bytes as they are. Nothing was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, has_tag: bool, fields: &[(&str, &str)]) -> bool {
        let mut head = Head::new("/");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        refuse(&head, method, has_tag).is_err()
    }

    #[test]
    fn what_would_change_a_write_is_refused_on_every_write() {
        for field in [
            ("Content-Range", "bytes 5-8/9"),
            ("content-range", ""),
            ("X-Update-Range", "bytes=3-6"),
            ("Upload-Offset", "3"),
            ("Tus-Resumable", "1.0.0"),
            ("If", "([\"5\"])"),
            ("Overwrite", "F"),
            ("Depth", "0"),
            ("Destination", "/x"),
            ("Larder-Ttl", "60"),
            ("Larder-Durability", "synced"),
            ("Larder-Version", "7"),
            ("Content-MD5", "AAAA"),
            ("Content-Transfer-Encoding", "base64"),
            ("Content-Transfer-Encoding", ""),
        ] {
            for method in [Method::Put, Method::Patch, Method::Post, Method::Delete] {
                assert!(refused(method, true, &[field]), "{method:?} {field:?}");
            }
            assert!(!refused(Method::Get, true, &[field]) && !refused(Method::Options, true, &[field]), "{field:?}");
        }
        for field in [("Content-Transfer-Encoding", "Binary"), ("Range", "bytes=0-1"), ("Prefer", "return=minimal")] {
            assert!(!refused(Method::Put, true, &[field]), "{field:?}");
        }
        let twice = [("Content-Transfer-Encoding", "binary"), ("Content-Transfer-Encoding", "base64")];
        assert!(refused(Method::Put, true, &twice));
    }

    #[test]
    fn a_method_is_overridden_by_nothing() {
        for name in ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"] {
            for method in [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete] {
                for value in ["PATCH", "", "x", "PUT, DELETE"] {
                    assert!(refused(method, true, &[(name, value)]), "{method:?} {name}: {value}");
                }
                assert!(!refused(method, true, &[(name, &method.as_str().to_lowercase())]), "{method:?} {name}");
            }
        }
        let both = [("X-HTTP-Method-Override", "PUT"), ("X-HTTP-Method", "DELETE")];
        assert!(refused(Method::Put, true, &both) && !refused(Method::Put, true, &both[..1]));
    }

    #[test]
    fn conditions_are_for_single_values() {
        for (name, value) in
            [("If-Match", "\"5\""), ("If-None-Match", "*"), ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")]
        {
            assert!(refused(Method::Post, false, &[(name, value)]) && refused(Method::Delete, false, &[(name, value)]));
            assert!(!refused(Method::Put, true, &[(name, value)]) && !refused(Method::Get, false, &[(name, value)]));
        }
    }
}
