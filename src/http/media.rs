//! Media types: the form of a `Content-Type` value, what follows from it, and what `Accept` asks for.
//!
//! It knows the grammar of RFC 9110 §8.3.1 and §12.5.1; it never looks into a body.

use super::headers::{Head, HeaderName};
use super::problem::Problem;

/// Bytes of a `Content-Type` that larder stores.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// The type of what has no better one.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The `type/subtype` of a content type, without parameters and blanks.
pub fn essence(content_type: &[u8]) -> &[u8] {
    content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether a browser that shows bytes of this type runs the scripts in them: HTML and all of XML (with SVG), and what is
/// made of parts that have types of their own. What has not the form of a type counts too: nobody knows what a browser
/// makes of it. A PDF does not: its viewer has an origin of its own, and shows nothing in a sandbox.
pub fn can_run_scripts(content_type: &[u8]) -> bool {
    let Some((kind, subtype)) = std::str::from_utf8(essence(content_type)).ok().and_then(|text| text.split_once('/'))
    else {
        return true;
    };
    let ends = |suffix: &str| {
        subtype
            .len()
            .checked_sub(suffix.len())
            .is_some_and(|at| subtype.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
    };
    !is_token(kind)
        || !is_token(subtype)
        || ["html", "xml", "xsl"].into_iter().any(ends)
        || ["multipart", "message"].into_iter().any(|made| kind.eq_ignore_ascii_case(made))
}

/// Whether a content type says JSON: `application/json` or a `+json` suffix.
pub fn is_json(content_type: &[u8]) -> bool {
    let essence = essence(content_type);
    let suffix = essence.len().checked_sub(5).map(|at| &essence[at..]);
    essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > 5 && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json")))
}

/// Checks a `Content-Type` that is to be stored: at most 255 bytes, `type/subtype` and well-formed parameters.
/// 415 `UNSUPPORTED_MEDIA_TYPE` if it is not.
pub fn validate(content_type: &str) -> Result<(), Problem> {
    if content_type.len() > CONTENT_TYPE_BYTES_MAX {
        let message = format!("a Content-Type holds at most {CONTENT_TYPE_BYTES_MAX} bytes");
        return Err(Problem::new(415, "UNSUPPORTED_MEDIA_TYPE", message));
    }
    if is_well_formed(content_type) {
        return Ok(());
    }
    let message = "the Content-Type must have the form type/subtype, as in application/json";
    Err(Problem::new(415, "UNSUPPORTED_MEDIA_TYPE", message))
}

/// The `Content-Type` of a request that is to be stored, or `default`. 415 for a malformed or repeated one.
pub fn stored_type<'a>(head: &'a Head, default: &'a str) -> Result<&'a str, Problem> {
    if !head.has(HeaderName::ContentType) {
        return Ok(default);
    }
    match head.get(HeaderName::ContentType) {
        Some("") => Ok(default),
        Some(value) if head.count(HeaderName::ContentType) == 1 => validate(value).map(|()| value),
        _ => Err(Problem::new(415, "UNSUPPORTED_MEDIA_TYPE", "send one Content-Type, in ASCII")),
    }
}

/// Checks that a body has one of these types (`type/subtype`, lower case). One without a type passes; where there is no
/// body no type is judged, since many clients name one by themselves.
pub fn expect_type(head: &Head, is_empty: bool, types: &[&str]) -> Result<(), Problem> {
    let named = head.get(HeaderName::ContentType).filter(|value| !is_empty && !value.is_empty());
    let Some(value) = named else { return Ok(()) };
    let essence = essence(value.as_bytes());
    if types.iter().any(|known| essence.eq_ignore_ascii_case(known.as_bytes())) {
        return Ok(());
    }
    let message = format!("the Content-Type of this request must be {}", types.join(" or "));
    Err(Problem::new(415, "UNSUPPORTED_MEDIA_TYPE", message))
}

fn is_well_formed(content_type: &str) -> bool {
    if !content_type.bytes().all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte)) {
        return false;
    }
    let (essence, mut rest) = content_type.split_once(';').unwrap_or((content_type, ""));
    let token_pair = |text: &str, by| text.split_once(by).is_some_and(|(a, b)| is_token(a) && is_token(b));
    if !token_pair(essence.trim_matches(BLANKS), '/') {
        return false;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return true;
        }
        let Some((name, value)) = rest.split_once('=') else { return false };
        let Some(after) = skip_value(value).filter(|_| is_token(name)) else { return false };
        rest = after.trim_start_matches(BLANKS);
        if !rest.is_empty() && !rest.starts_with(';') {
            return false;
        }
    }
}

const BLANKS: &[char] = &[' ', '\t'];

/// What follows a parameter's value, a token or a quoted string.
fn skip_value(value: &str) -> Option<&str> {
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find([';', ' ', '\t']).unwrap_or(value.len());
        return is_token(&value[..end]).then(|| &value[end..]);
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return quoted.get(at + 1..),
            _ => {}
        }
    }
    None
}

/// Whether a text is a token (RFC 9110 §5.6.2).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether `Accept` names this `type/subtype` itself with a weight above zero. Wildcards do not count: it answers which
/// of two forms a client asks for on purpose.
pub fn accepts_explicitly(head: &Head, wanted: &str) -> bool {
    ranges(head).any(|(range, refused)| range.eq_ignore_ascii_case(wanted) && !refused)
}

/// Whether `Accept` allows this `type/subtype`, by name or by a wildcard; the most specific range decides. Without the
/// field, or with an empty one, everything is allowed.
pub fn accepts(head: &Head, wanted: &str) -> bool {
    let kind = wanted.split_once('/').map_or(wanted, |(kind, _)| kind);
    let specific = |range: &str| match range.split_once('/') {
        _ if range.eq_ignore_ascii_case(wanted) => 3,
        Some((other, "*")) if other.eq_ignore_ascii_case(kind) => 2,
        Some(("*", "*")) => 1,
        _ => 0,
    };
    let best = ranges(head).map(|(range, refused)| (specific(range), !refused)).max();
    best.is_none_or(|(specific, allowed)| specific > 0 && allowed)
}

/// The ranges of `Accept`, each with whether its weight refuses it.
fn ranges(head: &Head) -> impl Iterator<Item = (&str, bool)> {
    head.all(HeaderName::Accept).flat_map(|line| line.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(|part| part.trim_matches(BLANKS));
        let name = parts.next().filter(|name| !name.is_empty())?;
        let refused = parts
            .filter_map(|part| part.split_once('='))
            .filter(|(name, _)| name.eq_ignore_ascii_case("q"))
            .any(|(_, weight)| super::encoding::parse_weight(weight).is_none_or(|weight| weight == 0));
        Some((name, refused))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_types_have_the_form_of_the_rfc() {
        for value in [
            "text/plain",
            "application/vnd.api+json; charset=utf-8",
            "multipart/form-data; boundary=\"a;b\\\"c\" ; x=y;",
            "a/b ;c=d",
        ] {
            assert!(validate(value).is_ok(), "{value}");
        }
        for value in [
            "",
            "text",
            "/",
            "text/",
            "/plain",
            "text/plain/x",
            "te xt/plain",
            "text/plain; charset",
            "text/plain; =x",
            "text/plain; a=",
            "text/plain; a=\"b",
            "text/plain; a=b c",
            "text/pläin",
            "text/plain, text/html",
            "text/plain\u{1}",
        ] {
            assert_eq!(validate(value).unwrap_err().status, 415, "{value}");
        }
        assert!(validate(&format!("a/{}", "b".repeat(253))).is_ok());
        assert!(validate(&format!("a/{}", "b".repeat(254))).is_err());
    }

    #[test]
    fn json_is_told_by_type_and_suffix() {
        for value in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is_json(value.as_bytes()), "{value}");
        }
        for value in ["text/json5", "application/jsonx", "+json", "application/json-seq", ""] {
            assert!(!is_json(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn types_that_run_scripts_are_told_however_they_are_written() {
        for value in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "text/html;",
            " text/html ;x=y",
            "text/html, foo",
            "application/xhtml+xml",
            "image/svg+xml",
            "Image/SVG+XML;a=\"b\"",
            "text/xml",
            "application/xml",
            "application/atom+xml",
            "text/xsl",
            "multipart/x-mixed-replace; boundary=x",
            "message/rfc822",
            "",
            "text",
            "html",
            "/html",
            "text/",
            "te xt/plain",
            "text/plain/x",
            "text/pl\u{e4}in",
        ] {
            assert!(can_run_scripts(value.as_bytes()), "{value}");
        }
        assert!(can_run_scripts(b"text/\xff"));
        for value in [
            "text/plain",
            "text/plain; x=\"text/html\"",
            "text/css",
            "text/javascript",
            "application/json",
            "application/octet-stream",
            "application/pdf",
            "image/png",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/htmlx",
        ] {
            assert!(!can_run_scripts(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn a_stored_type_is_given_once_or_defaulted() {
        let mut head = Head::new("/");
        assert_eq!(stored_type(&head, OCTET_STREAM).unwrap(), OCTET_STREAM);
        head.push(b"Content-Type", b"text/plain");
        assert_eq!(stored_type(&head, OCTET_STREAM).unwrap(), "text/plain");
        assert!(expect_type(&head, false, &["application/json", "text/plain"]).is_ok());
        assert_eq!(expect_type(&head, false, &["application/json"]).unwrap_err().code, "UNSUPPORTED_MEDIA_TYPE");
        assert!(expect_type(&head, true, &["application/json"]).is_ok());
        head.push(b"Content-Type", b"text/html");
        assert_eq!(stored_type(&head, OCTET_STREAM).unwrap_err().status, 415);
    }

    #[test]
    fn a_form_is_asked_for_by_name_only() {
        let ask = |value: &str| {
            let mut head = Head::new("/");
            head.push(b"Accept", value.as_bytes());
            accepts_explicitly(&head, "application/x-ndjson")
        };
        assert!(ask("application/x-ndjson") && ask("text/html, Application/X-NDJSON;q=0.1"));
        for value in ["*/*", "application/*", "application/x-ndjson;q=0", "application/x-ndjson; q=0.0", ""] {
            assert!(!ask(value), "{value}");
        }
    }

    #[test]
    fn the_most_specific_range_decides_what_is_accepted() {
        let ask = |value: Option<&str>| {
            let mut head = Head::new("/");
            if let Some(value) = value {
                head.push(b"Accept", value.as_bytes());
            }
            accepts(&head, "text/html")
        };
        assert!(ask(None) && ask(Some("")));
        for value in ["*/*", "image/png, */*;q=0.1", "text/*", "Text/HTML", "*/*;q=0, text/*", "text/html, text/*;q=0"]
        {
            assert!(ask(Some(value)), "{value}");
        }
        for value in ["application/json", "image/*", "*/*;q=0", "text/html;q=0, */*", "text/*;q=0, */*", "text/htmlx"] {
            assert!(!ask(Some(value)), "{value}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_may_stand_in_a_head(value in "[a-z/;= \"\\\\\\x00-\\x1f\\x7fé]{0,30}|[a-z]{1,5}/[a-z]{1,5}; [a-z]=\"\\PC{0,9}\"") {
            if validate(&value).is_ok() {
                prop_assert!(value.is_ascii() && super::super::message::is_field_value(value.as_bytes()));
                prop_assert!(value.contains('/'));
            }
        }
    }
}
