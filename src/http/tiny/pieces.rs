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

/// What comes behind a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// More pieces.
    More,
    /// Nothing: the body is whole.
    Nothing,
    /// Nothing, and the body is not whole.
    Cut,
}

/// Fills `out` with the next piece of a streamed body, framed. An error if it is longer or shorter than its length.
pub fn pull_piece(
    out: &mut Vec<u8>,
    pull: &mut Puller,
    chunked: bool,
    left: &mut Option<u64>,
    body_bytes: &mut u64,
) -> io::Result<Behind> {
    // The chunk size is written in front once it is known: eight digits and CRLF are kept free for it.
    const SIZE_LINE: usize = 10;
    out.clear();
    out.resize(if chunked { SIZE_LINE } else { 0 }, 0);
    let start = out.len();
    let mut behind = Behind::More;
    let began_at = Instant::now();
    while behind == Behind::More && out.len() < PIECE_BYTES {
        let before = out.len();
        behind = match pull(out) {
            Ok(true) => Behind::More,
            Ok(false) => Behind::Nothing,
            Err(_) => Behind::Cut,
        };
        if out.len() == before || began_at.elapsed() >= PIECE_WAIT {
            break;
        }
    }
    let count = (out.len() - start) as u64;
    if let Some(left) = left {
        *left = left.checked_sub(count).ok_or_else(|| io::Error::other("a body longer than its length"))?;
        if behind == Behind::Nothing && *left > 0 {
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
        if behind == Behind::Nothing {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
    Ok(behind)
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
            let behind = pull_piece(&mut piece, &mut pull, chunked, &mut left, &mut bytes)?;
            whole.extend_from_slice(&piece);
            if behind != Behind::More {
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
    fn a_body_that_is_cut_has_its_last_words_and_no_end() {
        let cut = || -> Puller {
            let mut texts = vec!["b", "a"];
            Box::new(move |out| {
                let text = texts.pop().unwrap_or("");
                out.extend_from_slice(text.as_bytes());
                if texts.is_empty() { Err(io::Error::other("cut")) } else { Ok(true) }
            })
        };
        assert_eq!(all(cut(), true, None).unwrap(), "00000002\r\nab\r\n");
        assert_eq!(all(cut(), false, None).unwrap(), "ab");
        assert_eq!(all(cut(), false, Some(9)).unwrap(), "ab");
        assert!(all(cut(), false, Some(1)).is_err());
    }

    #[test]
    fn a_stream_that_misses_its_length_is_an_error() {
        assert_eq!(all(pieces(vec!["ab", "c"]), false, Some(3)).unwrap(), "abc");
        assert!(all(pieces(vec!["ab", "c"]), false, Some(2)).is_err());
        assert!(all(pieces(vec!["ab", "c"]), false, Some(4)).is_err());
    }
}
