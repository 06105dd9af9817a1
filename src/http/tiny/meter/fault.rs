//! What is wrong with a head that tiny_http is not given, and what its client is told.

use crate::http::epoll::parse::TLS;
use crate::http::problem::Problem;
use crate::limits::Limits;

/// Why what comes is not given to tiny_http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head is too long, or has too many fields.
    TooLarge,
    /// Its request line is too long.
    TargetTooLong,
    /// Something that tiny_http would make something else of, or end the connection for without a word.
    Malformed(&'static str),
    /// Another version, which may cost tiny_http a thread.
    Version,
    /// An expectation that nobody knows.
    Expectation,
    /// TLS, which is not spoken here.
    Tls,
}

impl Fault {
    /// What the client of a head is told.
    pub fn problem(self, limits: &Limits) -> Problem {
        match self {
            Fault::Version => Problem::new(505, "HTTP_VERSION_NOT_SUPPORTED", "use HTTP/1.1"),
            Fault::Tls => Problem::new(400, "BAD_REQUEST", TLS),
            Fault::Malformed(text) => Problem::new(400, "BAD_REQUEST", text),
            Fault::Expectation => Problem::new(417, "EXPECTATION_FAILED", "only 100-continue can be expected here"),
            Fault::TargetTooLong => {
                let text = format!("a request target holds at most {} bytes", limits.target_bytes_max);
                Problem::new(414, "URI_TOO_LONG", text)
            }
            Fault::TooLarge => {
                let text = format!(
                    "the head of a request holds at most {} bytes and {} fields",
                    limits.head_bytes_max, limits.head_fields_max
                );
                Problem::new(431, "HEADERS_TOO_LARGE", text)
            }
        }
    }
}
