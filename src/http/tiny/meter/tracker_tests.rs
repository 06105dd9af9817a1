//! Where the bytes of a connection stand, however they are cut.

use super::*;

const CHUNKS: Fault = Fault::Malformed("the chunks are none");

/// Follows a part, and the bodies in it that larder reads itself. What tiny_http is given comes to `given`.
fn follow(tracker: &mut Tracker, part: &[u8], given: &mut Vec<u8>) -> Option<Fault> {
    let mut left = part.to_vec();
    while !left.is_empty() {
        let found = tracker.follow(&mut left, &Limits::default());
        given.extend_from_slice(&left[..found.given]);
        if found.fault.is_some() {
            return found.fault;
        }
        left = left[found.given..found.end].to_vec();
        if !left.is_empty() {
            let Ok((used, _)) = tracker.follow_own(&left, |_| {}) else { return Some(CHUNKS) };
            left.drain(..used);
        }
    }
    None
}

/// However it is cut, it comes to the same.
fn followed(all: impl AsRef<[u8]>) -> Result<Tracker, Fault> {
    let mut trackers = Vec::new();
    for size in [1, 2, 7, 100, 1024, usize::MAX] {
        let (mut tracker, mut given) = (Tracker::default(), Vec::new());
        let mut parts = all.as_ref().chunks(size.min(all.as_ref().len().max(1)));
        let fault = parts.find_map(|part| follow(&mut tracker, part, &mut given));
        trackers.push(fault.map_or(Ok(tracker), Err));
    }
    let told = |tracker: &Result<Tracker, Fault>| {
        tracker.as_ref().map(|tracker| (tracker.heads, tracker.bytes, tracker.lines)).map_err(std::mem::discriminant)
    };
    assert!(
        trackers.windows(2).all(|pair| told(&pair[0]) == told(&pair[1])),
        "{:?}",
        trackers.iter().map(told).collect::<Vec<_>>()
    );
    trackers.pop().unwrap()
}

fn malformed(text: &str) -> bool {
    matches!(followed(text), Err(Fault::Malformed(_)))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn bodies_may_hold_anything_and_what_follows_is_a_head_again() {
    let evil = "GET / HTTP/2.0\r\nExpect: rain\r\nContent-Length: 7\r\n\r\n\r\n\0\u{e9} PRI * HTTP/2.0\r\n\r\n";
    for times in [1, 30, 300] {
        let body = evil.repeat(times);
        let length = body.len();
        let put = |fields: &str, body: &str| format!("PUT / HTTP/1.1\r\n{fields}\r\n\r\n{body}");
        let chunked = format!("5;a=b\r\nhello\r\n{length:X}\r\n{body}\r\n0\r\nX: y\r\n\r\n");
        let blanks = " ".repeat(100);
        for message in [
            put(&format!("content-LENGTH:\t {length} "), &body),
            put(&format!("Content-Length:{blanks}{length}\r\nContent-Length: 1"), &body),
            put(&format!("Expect: 100-Continue\r\nContent-Length: {length}"), &body),
            put("Transfer-Encoding: chunked\r\nContent-Length: 3", &chunked),
            put("Content-Length: 0", ""),
            put("Content-Length: -1", ""),
        ] {
            let tracker = followed([GET, &message, GET, "GET / HT"].concat()).unwrap();
            assert_eq!((tracker.heads, tracker.bytes, tracker.lines), (3, 8, 0), "{:?}", &message[..60]);
            assert_eq!(followed([&message, "GET / HTTP/2.0\r\n"].concat()).err(), Some(Fault::Version));
        }
    }
}

#[test]
fn tiny_http_is_given_neither_bodies_that_larder_reads_nor_empty_lines_nor_upgrades() {
    let chunked = "PUT / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nTransfer-Encoding: chunked\r\n\r\n";
    let told = chunked.replace("Upgrade,", "Upgrad\x05,");
    let put = "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok";
    let long = "PUT / HTTP/1.1\r\nContent-Length: 67108865\r\n\r\n";
    let all = ["\r\n", chunked, "3\r\n\r\n\0\r\n0\r\nX: y\r\n\r\n", put, "\r\n", GET, chunked, "0\r\n\r\n\r\n", long];
    let all = all.concat();
    for size in [1, 2, 3, 5, 64, 1024] {
        let (mut tracker, mut given) = (Tracker::default(), Vec::new());
        let fault = all.as_bytes().chunks(size).find_map(|part| follow(&mut tracker, part, &mut given));
        assert_eq!(fault, None);
        let expected = [&told, put, GET, &told, &long.replace('5', "\x15")].concat();
        assert_eq!(String::from_utf8_lossy(&given), expected, "in pieces of {size}");
        assert_eq!((tracker.heads, tracker.skipped_bytes, tracker.body_left()), (5, 6, 67_108_865));
        assert!(tracker.is_at_own());
    }
    assert!(malformed("\r\n\r\n") && malformed("\rG") && malformed("\n") && !malformed("\r\nG"));
    assert_eq!(followed(b"\x16\x03\x01").err(), Some(Fault::Tls));
    assert!(matches!(followed([GET, "\x16"].concat()), Err(Fault::Malformed(_))), "not in the middle");
}

#[test]
fn what_came_before_a_faulty_head_is_told() {
    let before = "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let follow = |tracker: &mut Tracker, text: &str| {
        let found = tracker.follow(&mut text.as_bytes().to_vec(), &Limits::default());
        (found.before, found.given, found.fault)
    };
    let (count, version) = (before.len(), Some(Fault::Version));
    let mut tracker = Tracker::default();
    assert_eq!(follow(&mut tracker, &[before, "PRI * HTTP/2.0\r\n"].concat()), (count, count, version));
    let mut tracker = Tracker::default();
    assert_eq!(follow(&mut tracker, &[before, "P"].concat()), (count, count + 1, None));
    assert_eq!(follow(&mut tracker, "RI * HTTP/2.0\r\n"), (0, 0, version));
}

#[test]
fn what_tiny_http_would_misread_is_refused_by_the_letter() {
    let long = "x".repeat(5000);
    for line in ["PRI * HTTP/2.0", " \tPRI * HTTP/3.0 more", "A  HTTP/4.1 \t", &format!("GET /{long} HTTP/2.0")] {
        assert_eq!(followed(format!("{line}\r\n")).err(), Some(Fault::Version), "{line:?}");
    }
    for line in
        ["GET / HTTP/1.12", "GET HTTP/2.0 *", "GET / HTTP/1.1 x", " GET / HTTP/1.1", "GET / HTTP/1.1 ", "GET", "\r\n"]
    {
        assert!(malformed(&format!("{line}\r\n")), "{line:?}");
    }
    for line in ["GET / HTTP/1.2", "GET / HTTP/0.7", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r"] {
        assert!(malformed(&format!("{line}\r\n")), "{line:?}");
    }
    assert!(followed("GET / HTTP/1.0\r\n").is_ok() && followed("G(E)T / HTTP/1.1\r\n").is_ok());
    let fields = [
        " a:b",
        "\ta:b",
        "a: b\r\n c",
        "a: \u{e9}",
        "a:\x0bb",
        "a: b\r\r\n",
        "a: \0",
        "a: \x7f",
        "a\r\n",
        ":b\r\n",
        "a :b\r\n",
        "\ra:b\r\n",
        "a:b\n",
        "\n",
        &format!("{long}\r\n"),
        &format!("{long} a:b\r\n"),
        &format!("Content-Length:{}5\r\n", " ".repeat(300)),
        &format!("connection: {long}\r\n"),
    ];
    for field in fields {
        assert!(malformed(&format!("GET / HTTP/1.1\r\n{field}")), "{field:?}");
    }
    assert_eq!(followed("GET / HTTP/1.1\r\nexpect: all\r\n").err(), Some(Fault::Expectation));
    for field in ["a:\tb ", "Expect: 100-Continue", "a:", "x-a:", &format!("{long}:b"), &format!("x: {long}")] {
        assert!(followed(format!("GET / HTTP/1.1\r\n{field}\r\n")).is_ok(), "{field:?}");
    }
    let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in ["+5\r\n", " 5\r\n", "5\r\nhelloX", "0\r\n\n", &"0".repeat(100_000)] {
        assert_eq!(followed([chunked, body].concat()).err(), Some(CHUNKS), "{:?}", &body[..3]);
    }
}

#[test]
fn a_head_is_held_against_its_limits_as_it_comes() {
    let start = "GET / HTTP/1.1\r\n";
    let limits = Limits::default();
    assert!(followed(format!("{start}{}", "a:b\r\n".repeat(limits.head_fields_max))).is_ok());
    let many = "a:b\r\n".repeat(limits.head_fields_max + 9);
    assert_eq!(followed(format!("{start}{many}")).err(), Some(Fault::TooLarge));
    assert!(followed(format!("{start}a:{}", "b".repeat(limits.head_bytes_max))).is_ok());
    let long = "b".repeat(limits.head_bytes_max + 1100);
    assert_eq!(followed(format!("{start}a:{long}")).err(), Some(Fault::TooLarge));
    assert_eq!(followed(format!("GET /{}", "y".repeat(10_000))).err(), Some(Fault::TargetTooLong));
}
