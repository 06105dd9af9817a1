//! Every error code with its status and its meaning, and the sets of codes that operations share.
//!
//! Invariant: a code has one status. The tests hold this list against the sources, and in debug builds every answer is
//! held against the document made from it.

/// A code, its status, and what it means.
pub type Code = (u16, &'static str, &'static str);

/// All codes, by status.
pub const CODES: &[Code] = &[
    (400, "BAD_REQUEST", "the request, a field of it or its body is malformed"),
    (400, "INVALID_NAMESPACE", "the namespace is not of its form"),
    (400, "INVALID_COLLECTION", "the collection is not of its form"),
    (400, "INVALID_KEY", "the key is not of its form"),
    (400, "INVALID_QUERY", "a query parameter is unknown, repeated or not of its form"),
    (400, "INVALID_TTL", "the ttl is no number of seconds above 0 and up to a hundred years"),
    (400, "INVALID_JSON", "the body is not the JSON that this route takes"),
    (400, "INVALID_CURSOR", "the cursor is none that larder gave for this list"),
    (400, "INVALID_OPERATION", "an operation of the batch is not of its form; nothing was applied"),
    (400, "BATCH_SIZE_EXCEEDED", "the batch has more operations than limits.batch_operations_max; nothing was applied"),
    (401, "UNAUTHORIZED", "a token is needed, and this is none that holds"),
    (403, "FORBIDDEN", "the token does not reach so far"),
    (404, "NOT_FOUND", "there is nothing here"),
    (405, "METHOD_NOT_ALLOWED", "this path has other methods, see Allow"),
    (406, "NOT_ACCEPTABLE", "Accept-Encoding allows neither gzip nor identity"),
    (408, "REQUEST_TIMEOUT", "the request came too slowly"),
    (409, "NOT_AN_INTEGER", "the value is no decimal 64-bit integer"),
    (409, "INTEGER_OVERFLOW", "the sum does not fit 64 bits; nothing was changed"),
    (409, "NOT_JSON", "the value is no JSON document"),
    (409, "BATCH_ABORTED", "an operation of an atomic batch failed, see failed and results; nothing was applied"),
    (
        411,
        "LENGTH_REQUIRED",
        "a value is stored with Content-Length (0 for an empty one) or in chunks; this had neither",
    ),
    (412, "PRECONDITION_FAILED", "the value is not in the state that the conditions ask for"),
    (413, "VALUE_TOO_LARGE", "the value is larger than limits.value_bytes_max"),
    (
        413,
        "BODY_TOO_LARGE",
        "the body is larger than its route takes (limits.body_bytes_max for a batch), or the values that the gets of a batch would answer with are more than 1 MiB",
    ),
    (414, "URI_TOO_LONG", "the request target is longer than 8 KiB"),
    (415, "UNSUPPORTED_MEDIA_TYPE", "this Content-Type is malformed, or none that this route takes"),
    (415, "UNSUPPORTED_ENCODING", "Content-Encoding is neither gzip nor identity"),
    (416, "RANGE_NOT_SATISFIABLE", "the range lies behind the end"),
    (417, "EXPECTATION_FAILED", "Expect says something else than 100-continue"),
    (429, "TOO_MANY_REQUESTS", "the token or address sent too many requests"),
    (431, "HEADERS_TOO_LARGE", "the head is larger than 32 KiB, or has more than 100 fields"),
    (500, "INTERNAL", "larder failed; its log says why"),
    (
        501,
        "NOT_IMPLEMENTED",
        "the method is none that larder knows, or Transfer-Encoding is something else than chunked",
    ),
    (503, "OVERLOADED", "too much waits already; nothing was written"),
    (503, "DRAINING", "larder is stopping; nothing was written"),
    (503, "STORE_UNAVAILABLE", "the store is not open or cannot be read, /health says why; nothing was written"),
    (503, "READ_ONLY", "the store takes no writes since its card failed or its folder went; nothing was written"),
    (504, "OUTCOME_UNKNOWN", "nobody can say whether this was written; read before repeating"),
    (505, "HTTP_VERSION_NOT_SUPPORTED", "use HTTP/1.1"),
    (507, "INSUFFICIENT_STORAGE", "the card is almost full; nothing was written"),
];

/// What any request can meet, whatever its path.
const WIRE: &[&str] = &[
    "BAD_REQUEST",
    "REQUEST_TIMEOUT",
    "URI_TOO_LONG",
    "EXPECTATION_FAILED",
    "HEADERS_TOO_LARGE",
    "INTERNAL",
    "NOT_IMPLEMENTED",
    "OVERLOADED",
    "HTTP_VERSION_NOT_SUPPORTED",
];

/// The sets of codes by which operations name what they share.
pub const SETS: &[(&str, &[&str])] = &[
    ("@wire", WIRE),
    ("@rate", &["TOO_MANY_REQUESTS"]),
    ("@body", &["BODY_TOO_LARGE"]),
    ("@guard", &["UNAUTHORIZED", "FORBIDDEN"]),
    ("@query", &["INVALID_QUERY"]),
    ("@place", &["INVALID_NAMESPACE", "INVALID_COLLECTION"]),
    ("@value", &["INVALID_NAMESPACE", "INVALID_COLLECTION", "INVALID_KEY"]),
    ("@store", &["STORE_UNAVAILABLE"]),
    ("@write", &["DRAINING", "READ_ONLY", "OUTCOME_UNKNOWN", "INSUFFICIENT_STORAGE"]),
];

/// What a code is.
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|known| known.1 == code)
}

/// The codes that a list of codes and sets names, each once, in the order of [`CODES`].
pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'static Code> {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        match SETS.iter().find(|set| set.0 == name) {
            Some(set) => all.extend(set.1),
            None => all.push(name),
        }
    }
    CODES.iter().filter(|code| all.contains(&code.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_once_and_in_the_order_of_their_statuses() {
        assert!(CODES.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        for code in CODES {
            assert_eq!(CODES.iter().filter(|other| other.1 == code.1).count(), 1, "{}", code.1);
        }
        for (name, codes) in SETS {
            assert!(codes.iter().all(|code| find(code).is_some()), "{name}");
        }
    }
}
