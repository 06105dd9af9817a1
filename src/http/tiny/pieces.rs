//! Pieces of a body that is made while it is sent.
//!
//! Invariant: a body is never longer or shorter than its head said, or it is an error.

use std::io;
use std::time::{Duration, Instant};

use crate::http::message::Puller;

/// A streamed body is written in pieces of about this size.
pub const PIECE_BYTES: usize = 32 * 1024;
/// What came so far is sent when the body has taken this long to make more of it.
const PIECE_WAIT: Duration = Duration::from_millis(10);

/// Fills `out` with the next piece of a streamed body, framed. False after the last one.
pub fn pull_piece(
    out: &mut Vec<u8>,
    pull: &mut Puller,
    chunked: bool,
    left: &mut Option<u64>,
    body_bytes: &mut u64,
) -> io::Result<bool> {
    // The chunk size is written in front once it is known: eight digits and CRLF are kept free for it.
    const SIZE_LINE: usize = 10;
    out.clear();
    out.resize(if chunked { SIZE_LINE } else { 0 }, 0);
    let start = out.len();
    let mut more = true;
    let began_at = Instant::now();
    while more && out.len() < PIECE_BYTES {
        let before = out.len();
        more = pull(out)?;
        if out.len() == before || began_at.elapsed() >= PIECE_WAIT {
            break;
        }
    }
    let count = (out.len() - start) as u64;
    if let Some(left) = left {
        *left = left.checked_sub(count).ok_or_else(|| io::Error::other("a body longer than its length"))?;
        if !more && *left > 0 {
            return Err(io::Error::other("a body shorter than its length"));
        }
    }
    *body_bytes += count;
    if chunked {
        if count == 0 {
            out.clear();
        } else {
            out[..SIZE_LINE].copy_from_slice(format!("{count:08x}\r\n").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !more {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut texts: Vec<&'static str>) -> Puller {
        texts.reverse();
        Box::new(move |out| {
            out.extend_from_slice(texts.pop().unwrap_or("").as_bytes());
            Ok(!texts.is_empty())
        })
    }

    fn all(mut pull: Puller, chunked: bool, mut left: Option<u64>) -> io::Result<String> {
        let (mut whole, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
        loop {
            let more = pull_piece(&mut piece, &mut pull, chunked, &mut left, &mut bytes)?;
            whole.extend_from_slice(&piece);
            if !more {
                return Ok(String::from_utf8(whole).unwrap());
            }
        }
    }

    #[test]
    fn pieces_become_chunks_and_an_end() {
        assert_eq!(all(pieces(vec!["ab", "c"]), true, None).unwrap(), "00000003\r\nabc\r\n0\r\n\r\n");
        assert_eq!(all(pieces(vec![]), true, None).unwrap(), "0\r\n\r\n");
        assert_eq!(all(pieces(vec!["ab", "c"]), false, None).unwrap(), "abc");
    }

    #[test]
    fn a_stream_that_misses_its_length_is_an_error() {
        assert_eq!(all(pieces(vec!["ab", "c"]), false, Some(3)).unwrap(), "abc");
        assert!(all(pieces(vec!["ab", "c"]), false, Some(2)).is_err());
        assert!(all(pieces(vec!["ab", "c"]), false, Some(4)).is_err());
    }
}
