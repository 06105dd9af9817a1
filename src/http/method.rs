//! Request methods: the seven that larder serves, one that every server knows and none here serves, and everything else as
//! one.

/// A request method. `Trace` is answered 405 wherever something is, `Other`, any token that larder does not know, 501.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Patch,
    Delete,
    Options,
    Trace,
    Other,
}

impl Method {
    /// Reads a method as it stands in a request line (case-sensitive, RFC 9110 §9.1).
    pub fn parse(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            b"POST" => Method::Post,
            b"PATCH" => Method::Patch,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// The name for logs and metric labels; `Other` reads `OTHER`, so that a client cannot make label values.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Other => "OTHER",
        }
    }

    /// Whether a request with this method may change the store.
    pub fn is_write(self) -> bool {
        matches!(self, Method::Put | Method::Post | Method::Patch | Method::Delete)
    }
}
