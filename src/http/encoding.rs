//! Content codings: what a client accepts, what is worth compressing, and gzip in both directions.
//!
//! It does not decide *when* to compress: sizes, caches and `X-No-Compression` are its callers' affair.
//! Invariant: a body that is decoded is never held beyond its limit, whatever the coded bytes claim.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::headers::{Head, HeaderName};
use super::media;
use super::message::Puller;
use super::problem::Problem;

/// The level at which larder compresses: what gzip itself does by default.
const GZIP_LEVEL: u32 = 6;

/// Thousandths of a q-value.
type Weight = u16;
const WEIGHT_ONE: Weight = 1000;

/// How much a client wants each coding; 0 is "not acceptable".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// `gzip` (and `x-gzip`).
    pub gzip: Weight,
    /// `br`.
    pub br: Weight,
    /// No coding. Listed codings win over it where it is not mentioned.
    pub identity: Weight,
    identity_is_named: bool,
}

impl Weights {
    /// What holds without `Accept-Encoding`: anything would be allowed, but nothing was asked for.
    const SILENT: Weights = Weights { gzip: 0, br: 0, identity: WEIGHT_ONE, identity_is_named: true };

    /// Reads `Accept-Encoding`, all its lines. Elements that cannot be understood are passed over.
    pub fn of(head: &Head) -> Weights {
        if !head.has(HeaderName::AcceptEncoding) {
            return Weights::SILENT;
        }
        let (mut gzip, mut br, mut identity, mut rest) = (None, None, None, None);
        let lines = head.all(HeaderName::AcceptEncoding);
        for (coding, weight) in lines.flat_map(|line| line.split(',')).filter_map(element) {
            let slot = match coding {
                _ if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut gzip,
                _ if coding.eq_ignore_ascii_case("br") => &mut br,
                _ if coding.eq_ignore_ascii_case("identity") => &mut identity,
                "*" => &mut rest,
                _ => continue,
            };
            *slot = Some(weight);
        }
        Weights {
            gzip: gzip.or(rest).unwrap_or(0),
            br: br.or(rest).unwrap_or(0),
            // Identity needs no mention; only an explicit zero, its own or that of `*`, forbids it.
            identity: identity.or(rest).unwrap_or(WEIGHT_ONE),
            identity_is_named: identity.or(rest).is_some(),
        }
    }

    /// Whether a coding of this weight is to be used rather than none.
    pub fn prefers(&self, coding: Weight) -> bool {
        coding > 0 && (!self.identity_is_named || coding >= self.identity)
    }
}

/// A coding and its weight, from one element of the list.
fn element(text: &str) -> Option<(&str, Weight)> {
    let mut parts = text.split(';').map(|part| part.trim_matches([' ', '\t']));
    let coding = parts.next().filter(|coding| !coding.is_empty())?;
    let mut weight = WEIGHT_ONE;
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        if name.eq_ignore_ascii_case("q") {
            weight = parse_weight(value)?;
        }
    }
    Some((coding, weight))
}

/// A q-value (RFC 9110 §12.4.2): 0 to 1 with at most three decimals.
pub(super) fn parse_weight(text: &str) -> Option<Weight> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: Weight = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(WEIGHT_ONE),
        _ => None,
    }
}

/// What a client accepts, seen by something that can offer gzip and identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Gzip is acceptable and wanted at least as much as identity.
    pub gzip: bool,
    /// Identity is acceptable.
    pub identity: bool,
}

/// The form to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Gzipped.
    Gzip,
}

impl Accepted {
    /// Chooses the form: gzip if it is wanted and `worth_it`, else identity; gzip all the same where identity is forbidden.
    /// 406 `NOT_ACCEPTABLE` where both are.
    pub fn choose(self, worth_it: bool) -> Result<Coding, Problem> {
        match (self.gzip, self.identity) {
            (true, true) if worth_it => Ok(Coding::Gzip),
            (_, true) => Ok(Coding::Identity),
            (true, false) => Ok(Coding::Gzip),
            (false, false) => Err(not_acceptable()),
        }
    }
}

/// Reads `Accept-Encoding`. Without it, identity is meant; that costs one bit test.
pub fn accept_encoding(head: &Head) -> Accepted {
    let weights = Weights::of(head);
    Accepted { gzip: weights.prefers(weights.gzip), identity: weights.identity > 0 }
}

/// The 406 for a client that allows no coding that there is.
#[cold]
pub fn not_acceptable() -> Problem {
    Problem::new(406, "NOT_ACCEPTABLE", "Accept-Encoding allows neither gzip nor identity; allow one of them")
}

/// Whether a body of this type shrinks under gzip: `text/*`, JSON, XML, SVG, JavaScript, `+json`, `+xml`.
pub fn is_compressible(content_type: &[u8]) -> bool {
    const TYPES: &[&[u8]] = &[
        b"application/json",
        b"application/x-ndjson",
        b"application/xml",
        b"application/javascript",
        b"application/x-javascript",
        b"application/ecmascript",
    ];
    let essence = media::essence(content_type);
    let ends = |suffix: &[u8]| {
        essence.len() > suffix.len() && essence[essence.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
    };
    (essence.len() >= 5 && essence[..5].eq_ignore_ascii_case(b"text/"))
        || TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known))
        || ends(b"+json")
        || ends(b"+xml")
}

/// Gzips bytes. The same bytes give the same form: its header names no time and no system.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let out = Vec::with_capacity(bytes.len() / 3 + 32);
    let mut encoder = GzEncoder::new(out, Compression::new(GZIP_LEVEL));
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("writing to a vector does not fail")
}

/// Bytes that one call of a compressing puller takes in, and pieces: what compresses well gives little to send, and a
/// call must end all the same, so that its thread can see to others.
const GZIP_CALL_BYTES: usize = 256 * 1024;
const GZIP_CALL_PIECES: usize = 16;
/// Memory that a compressing puller keeps between its calls: the compressor's window and tables.
pub const GZIP_KEEPS_BYTES: usize = 384 * 1024;

/// Compresses a body while it is pulled; holds one piece and the compressor's window, whatever the body's length. A call
/// gives nothing only where the body it compresses does. What came before a cut can be read.
pub fn gzip_puller(mut pull: Puller) -> Puller {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    let mut ended = false;
    Box::new(move |out| {
        // IMPORTANT: both buffers end with the call. One record may be large, and nobody is charged for their capacity.
        let (mut piece, mut bytes, mut pieces) = (Vec::new(), 0, 0);
        // A piece may vanish in the compressor: go on until there is something to send.
        while !ended {
            piece.clear();
            let pulled = pull(&mut piece);
            encoder.write_all(&piece)?;
            if pulled.is_err() {
                encoder.flush()?;
                out.append(&mut std::mem::take(encoder.get_mut()));
            }
            let more = pulled?;
            (bytes, pieces) = (bytes + piece.len(), pieces + 1);
            if !more {
                encoder.try_finish()?;
                ended = true;
            } else if piece.is_empty() {
                // Whoever pulls waits a moment after nothing.
                break;
            } else if encoder.get_ref().is_empty() && (bytes >= GZIP_CALL_BYTES || pieces >= GZIP_CALL_PIECES) {
                encoder.flush()?;
            }
            if !encoder.get_ref().is_empty() {
                break;
            }
        }
        out.append(&mut std::mem::take(encoder.get_mut()));
        Ok(!ended)
    })
}

/// The coding of a request's body.
pub fn content_coding(head: &Head) -> Result<Coding, Problem> {
    if !head.has(HeaderName::ContentEncoding) {
        return Ok(Coding::Identity);
    }
    let mut coding = Coding::Identity;
    let unreadable = head.all(HeaderName::ContentEncoding).count() != head.count(HeaderName::ContentEncoding);
    let elements = head.all(HeaderName::ContentEncoding).flat_map(|line| line.split(','));
    for element in elements.map(|element| element.trim_matches([' ', '\t'])) {
        let gzip = element.eq_ignore_ascii_case("gzip") || element.eq_ignore_ascii_case("x-gzip");
        match coding {
            _ if element.is_empty() || element.eq_ignore_ascii_case("identity") => {}
            Coding::Identity if gzip => coding = Coding::Gzip,
            _ => return Err(unsupported_encoding()),
        }
    }
    if unreadable { Err(unsupported_encoding()) } else { Ok(coding) }
}

#[cold]
fn unsupported_encoding() -> Problem {
    Problem::new(415, "UNSUPPORTED_ENCODING", "Content-Encoding of a request may be gzip or identity, once")
        .field("Accept-Encoding", "gzip, identity")
}

/// Removes the content coding of a body that was read whole. `bytes_max` holds for the decoded size and is checked while
/// decoding: 413 `BODY_TOO_LARGE`. 415 `UNSUPPORTED_ENCODING` for a coding larder does not know; 400 `BAD_REQUEST` for
/// bytes that are not gzip, are cut, or have something behind them.
pub fn decode_body(head: &Head, body: Bytes, bytes_max: u64) -> Result<Bytes, Problem> {
    decode(head, body, bytes_max, "BODY_TOO_LARGE", "body")
}

/// As [`decode_body`], for a body that is one value: 413 `VALUE_TOO_LARGE`.
pub fn decode_value(head: &Head, body: Bytes, bytes_max: u64) -> Result<Bytes, Problem> {
    decode(head, body, bytes_max, "VALUE_TOO_LARGE", "value")
}

fn decode(head: &Head, body: Bytes, bytes_max: u64, code: &'static str, what: &str) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(413, code, format!("a {what} holds at most {bytes_max} bytes after decoding"));
    if content_coding(head)? == Coding::Identity {
        return if body.len() as u64 <= bytes_max { Ok(body) } else { Err(too_large()) };
    }
    // Growing from what came in keeps a small bomb from reserving the limit.
    let mut decoded = Vec::with_capacity(body.len().saturating_mul(3).min(usize::try_from(bytes_max).unwrap_or(0)));
    let mut decoder = MultiGzDecoder::new(&body[..]).take(bytes_max.saturating_add(1));
    decoder.read_to_end(&mut decoded).map_err(|_| bad_gzip())?;
    if decoded.len() as u64 > bytes_max { Err(too_large()) } else { Ok(decoded.into()) }
}

#[cold]
fn bad_gzip() -> Problem {
    Problem::new(
        400,
        "BAD_REQUEST",
        "the body is not the gzip that its Content-Encoding says, or it was cut; send it again",
    )
}

/// Removes the content coding of a body that is read as it comes (imports). Damage shows as an error of the reader.
pub fn decode_reader(head: &Head, body: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, Problem> {
    Ok(match content_coding(head)? {
        Coding::Identity => body,
        Coding::Gzip => Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(16 * 1024, body))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(name: &str, value: &str) -> Head {
        let mut head = Head::new("/");
        head.push(name.as_bytes(), value.as_bytes());
        head
    }

    fn accepted(value: &str) -> (bool, bool) {
        let accepted = accept_encoding(&head("Accept-Encoding", value));
        (accepted.gzip, accepted.identity)
    }

    fn decoded(coding: &str, body: &[u8], bytes_max: u64) -> Result<Bytes, Problem> {
        decode_body(&head("Content-Encoding", coding), Bytes::copy_from_slice(body), bytes_max)
    }

    #[test]
    fn gzip_is_used_where_it_is_wanted_at_least_as_much_as_identity() {
        for value in
            ["gzip", "GZip", "x-gzip", "*", "gzip;q=0.1", "br, gzip;q=0.5", "gzip;q=0.5, identity;q=0.5", "*;q=0.3"]
        {
            assert_eq!(accepted(value), (true, true), "{value}");
        }
        for value in
            ["", "identity", "br", "gzip;q=0", "gzip;q=0.5, identity", "gzip;q=0.2, *;q=0.7", "gzip;q=0, *", "deflate"]
        {
            assert_eq!(accepted(value), (false, true), "{value}");
        }
        assert_eq!(accept_encoding(&Head::new("/")), Accepted { gzip: false, identity: true });
    }

    #[test]
    fn identity_is_forbidden_only_by_a_zero() {
        assert_eq!(accepted("gzip, identity;q=0"), (true, false));
        assert_eq!(accepted("gzip;q=0.001, *;q=0"), (true, false));
        assert_eq!(accepted("identity;q=0"), (false, false));
        assert_eq!(accepted("*;q=0.000"), (false, false));
        assert_eq!(accepted("*;q=0, identity;q=0.5"), (false, true));
        assert_eq!(accepted("identity;q=0, *"), (true, false));
    }

    #[test]
    fn elements_that_cannot_be_understood_are_passed_over() {
        for value in [
            "gzip;q=2, identity",
            "gzip;q=0.1234",
            "gzip;q=",
            "gzip;q",
            "gzip;q=-1",
            "gzip;q=1.001",
            ";q=1",
            "gzip q=1",
        ] {
            assert_eq!(accepted(value), (false, true), "{value}");
        }
        assert_eq!(accepted("gzip ; Q=0.5"), (true, true));
    }

    #[test]
    fn the_form_follows_from_what_is_accepted_and_worth_it() {
        let choose = |gzip, identity, worth_it| Accepted { gzip, identity }.choose(worth_it);
        assert_eq!(choose(true, true, true).unwrap(), Coding::Gzip);
        assert_eq!(choose(true, true, false).unwrap(), Coding::Identity);
        assert_eq!(choose(false, true, true).unwrap(), Coding::Identity);
        assert_eq!(choose(true, false, false).unwrap(), Coding::Gzip);
        assert_eq!(choose(false, false, true).unwrap_err().status, 406);
    }

    #[test]
    fn text_like_types_are_compressible() {
        for text in
            ["text/plain", "TEXT/HTML; charset=utf-8", "application/json", "application/ld+json;x=y", "image/svg+xml"]
        {
            assert!(is_compressible(text.as_bytes()), "{text}");
        }
        for text in
            ["image/png", "application/octet-stream", "application/gzip", "textual/x", "", "+json", "application/zip"]
        {
            assert!(!is_compressible(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_gzip_form_is_deterministic_and_names_no_time() {
        let form = gzip(b"hello");
        assert_eq!(form, gzip(b"hello"));
        assert_eq!(&form[4..8], [0; 4]);
    }

    #[test]
    fn a_pulled_body_is_compressed_piece_by_piece_and_its_failure_passes_through() {
        let mut left = 50;
        let pieces: Puller = Box::new(move |out| {
            out.extend_from_slice(format!("line {left}\n").repeat(1000).as_bytes());
            left -= 1;
            Ok(left > 0)
        });
        let (mut pull, mut coded) = (gzip_puller(pieces), Vec::new());
        loop {
            let before = coded.len();
            let more = pull(&mut coded).unwrap();
            assert!(coded.len() > before, "a pull without bytes would look like the end");
            if !more {
                break;
            }
        }
        let body = decoded("gzip", &coded, 1 << 20).unwrap();
        assert!(body.starts_with(b"line 50\n") && body.ends_with(b"line 1\n"));
        let cut: Puller = Box::new(|out| io::Write::write_all(out, b"words").and(Err(io::Error::other("cut"))));
        let (mut coded, mut words) = (Vec::new(), Vec::new());
        assert!(gzip_puller(cut)(&mut coded).is_err());
        assert!(flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut words).is_err() && words == b"words");
    }

    #[test]
    fn a_call_of_a_compressing_puller_pulls_a_bounded_number_of_pieces() {
        let (one, much, none) = (vec![0; 1], vec![0; 64 * 1024], Vec::new());
        for (piece, pulls_max) in [(one, GZIP_CALL_PIECES), (much, GZIP_CALL_BYTES / (64 * 1024)), (none, 1)] {
            let pulls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let (counted, source) = (pulls.clone(), piece.clone());
            let pieces: Puller = Box::new(move |out| {
                out.extend_from_slice(&source);
                Ok(counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 99)
            });
            let (mut pull, mut coded, mut more) = (gzip_puller(pieces), Vec::new(), true);
            while more {
                let (length, pulled) = (coded.len(), pulls.load(std::sync::atomic::Ordering::Relaxed));
                more = pull(&mut coded).unwrap();
                let pulled = pulls.load(std::sync::atomic::Ordering::Relaxed) - pulled;
                assert!(pulled <= pulls_max, "{pulled} pieces of {} bytes in one call", piece.len());
                assert!(coded.len() > length || piece.is_empty());
            }
            assert_eq!(decoded("gzip", &coded, 1 << 30).unwrap(), piece.repeat(100));
        }
    }

    #[test]
    fn the_limit_holds_for_the_decoded_size() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 2000);
        assert_eq!(decoded("gzip", &bomb, 1 << 20).unwrap().len(), 1 << 20);
        let problem = decoded("gzip", &bomb, (1 << 20) - 1).unwrap_err();
        assert_eq!((problem.status, problem.code), (413, "BODY_TOO_LARGE"));
        assert_eq!(decoded("identity", b"abcd", 3).unwrap_err().status, 413);
        let value = decode_value(&head("Content-Encoding", "gzip"), bomb.into(), 5).unwrap_err();
        assert_eq!(value.code, "VALUE_TOO_LARGE");
    }

    #[test]
    fn unknown_and_stacked_codings_are_415() {
        for coding in ["br", "deflate", "gzip, gzip", "gzip, br", "compress"] {
            assert_eq!(decoded(coding, b"", 9).unwrap_err().code, "UNSUPPORTED_ENCODING", "{coding}");
        }
        for coding in ["", "identity", "Identity, identity"] {
            assert_eq!(decoded(coding, b"ab", 9).unwrap(), "ab", "{coding}");
        }
    }

    #[test]
    fn damaged_gzip_is_400_wherever_the_damage_is() {
        let form = gzip(b"some bytes that are long enough to be worth it, some bytes that are long enough");
        for cut in 0..form.len() {
            assert_eq!(decoded("gzip", &form[..cut], 999).unwrap_err().status, 400, "cut at {cut}");
        }
        let mut flipped = form.clone();
        let crc = form.len() - 8;
        flipped[crc] ^= 1;
        assert_eq!(decoded("gzip", &flipped, 999).unwrap_err().code, "BAD_REQUEST");
        for garbage in [&b"\0"[..], b"x", b"garbage behind it"] {
            assert_eq!(decoded("gzip", &[&form[..], garbage].concat(), 999).unwrap_err().status, 400);
        }
    }

    #[test]
    fn several_gzip_members_are_one_body() {
        let body = [gzip(b"ab"), gzip(b""), gzip(b"cd")].concat();
        assert_eq!(decoded("x-gzip", &body, 4).unwrap(), "abcd");
    }

    #[test]
    fn a_reader_is_decoded_as_it_comes() {
        let body: Box<dyn Read + Send> = Box::new(io::Cursor::new(gzip(b"line\n")));
        let mut text = String::new();
        decode_reader(&head("Content-Encoding", "gzip"), body).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\n");
        assert!(decode_reader(&head("Content-Encoding", "br"), Box::new(io::empty())).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_survive_gzip_both_ways(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(decoded("gzip", &gzip(&bytes), bytes.len() as u64).unwrap(), bytes);
        }

        #[test]
        fn random_bytes_never_decode_beyond_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(body) = decoded("gzip", &bytes, 100) {
                prop_assert!(body.len() <= 100);
            }
        }

        #[test]
        fn a_higher_weight_wins(gzip in 0u16..=1000, identity in 0u16..=1000) {
            let q = |w: u16| format!("{}.{:03}", w / 1000, w % 1000);
            let line = format!("gzip;q={}, identity;q={}", q(gzip), q(identity));
            prop_assert_eq!(accepted(&line), (gzip > 0 && gzip >= identity, identity > 0));
        }

        #[test]
        fn no_field_makes_the_parser_panic(line in "[a-z*;=, q.0-9é]{0,40}") {
            accepted(&line);
        }
    }
}
