//! The cases. Names are unique: exceptions of an engine refer to them.

use super::Case;
use super::Expected::{self, Accepted, Refused, Silence};

const GET: &str = "GET /health/live HTTP/1.1\r\n";
const WHOLE: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
const PUT: &str = "PUT /api/v1/kv/corpus/c/k HTTP/1.1\r\nHost: localhost\r\n";

/// A GET with these field lines besides Host.
fn get(name: &'static str, fields: &str, expected: Expected) -> Case {
    raw(name, format!("{GET}Host: localhost\r\n{fields}\r\n"), expected)
}

/// A PUT with these field lines and this body.
fn put(name: &'static str, fields: &str, body: &str, expected: Expected) -> Case {
    raw(name, format!("{PUT}{fields}\r\n{body}"), expected)
}

/// A chunked PUT with this coded body.
fn chunked(name: &'static str, body: &str, expected: Expected) -> Case {
    put(name, "Transfer-Encoding: chunked\r\n", body, expected)
}

/// Any bytes.
fn raw(name: &'static str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name, bytes: bytes.into(), expected, is_cut: false }
}

/// Any bytes, and then nothing more.
fn cut(name: &'static str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { is_cut: true, ..raw(name, bytes, expected) }
}

/// The table.
pub fn cases() -> Vec<Case> {
    [versions(), request_lines(), targets(), line_ends(), fields(), hosts(), lengths(), codings(), chunks(), sizes()]
        .concat()
}

/// A request with this line, and a Host.
fn line(name: &'static str, line: &str, expected: Expected) -> Case {
    raw(name, format!("{line}\r\nHost: localhost\r\n\r\n"), expected)
}

fn versions() -> Vec<Case> {
    vec![
        raw("a plain request", WHOLE, Accepted(2)),
        raw("two pipelined requests", [WHOLE, WHOLE].concat(), Accepted(3)),
        line("HTTP/1.0", "GET /health/live HTTP/1.0", Accepted(1)),
        get("a request behind one that asks for the end", "Connection: close\r\n", Accepted(1)),
        line("a minor version above 1 is 1.1 (9110 2.5)", "GET /health/live HTTP/1.2", Accepted(2)),
        line("the largest minor version", "GET /health/live HTTP/1.9", Accepted(2)),
        line("HTTP/2.0", "GET /health/live HTTP/2.0", Refused(505)),
        line("HTTP/3.0", "GET /health/live HTTP/3.0", Refused(505)),
        line("HTTP/4.1", "GET /health/live HTTP/4.1", Refused(505)),
        line("HTTP/0.9 with a version", "GET /health/live HTTP/0.9", Refused(505)),
        raw("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(505)),
        raw("a request of HTTP/0.9", "GET /health/live\r\n", Refused(400)),
        line("no version", "GET /health/live", Refused(400)),
        line("a version without its minor part", "GET /health/live HTTP/1", Refused(400)),
        line("a version of three digits", "GET /health/live HTTP/1.10", Refused(400)),
        line("a version with a leading zero", "GET /health/live HTTP/01.1", Refused(400)),
        line("a version in lower case", "GET /health/live http/1.1", Refused(400)),
        line("another protocol", "GET /health/live ICY/1.1", Refused(400)),
        line("junk after the version", "GET /health/live HTTP/1.1 x", Refused(400)),
        line("a blank after the version", "GET /health/live HTTP/1.1 ", Refused(400)),
    ]
}

fn request_lines() -> Vec<Case> {
    vec![
        raw("one empty line before the request (9112 2.2)", format!("\r\n{WHOLE}"), Accepted(2)),
        raw("many empty lines before the request", format!("\r\n\r\n\r\n{WHOLE}"), Refused(400)),
        line("two blanks before the target", "GET  /health/live HTTP/1.1", Refused(400)),
        line("two blanks before the version", "GET /health/live  HTTP/1.1", Refused(400)),
        line("a tab as delimiter", "GET\t/health/live HTTP/1.1", Refused(400)),
        line("a blank before the method", " GET /health/live HTTP/1.1", Refused(400)),
        line("a tab before the method", "\tGET /health/live HTTP/1.1", Refused(400)),
        line("a method that is no token (9110 5.6.2)", "G(E)T /health/live HTTP/1.1", Refused(400)),
        line("a control character in the method", "G\x01ET /health/live HTTP/1.1", Refused(400)),
        line("no method", " /health/live HTTP/1.1", Refused(400)),
        line("no target", "GET HTTP/1.1", Refused(400)),
        line("CONNECT (9110 9.3.6)", "CONNECT localhost:80 HTTP/1.1", Refused(501)),
        line("CONNECT to a path", "CONNECT /health/live HTTP/1.1", Refused(501)),
        raw("bytes beyond ASCII in the method", b"G\xc3\x89T / HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused(400)),
        raw("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Refused(400)),
        cut("a head that is cut", "GET /health/live HTTP/1.1\r\nHost: local", Silence),
        cut("a head without its last line end", "GET /health/live HTTP/1.1\r\nHost: localhost\r\n", Silence),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        line("a control character in the target", "GET /health/\x01live HTTP/1.1", Refused(400)),
        line("NUL in the target", "GET /health/\0live HTTP/1.1", Refused(400)),
        line("DEL in the target", "GET /health/\x7flive HTTP/1.1", Refused(400)),
        raw("bytes beyond ASCII in the target", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused(400)),
        line("a fragment in the target (9112 3.2.1)", "GET /health/live#x HTTP/1.1", Refused(400)),
        line("a target that is no path", "GET health/live HTTP/1.1", Refused(400)),
        line("an authority with GET (9112 3.2.3)", "GET localhost:80 HTTP/1.1", Refused(400)),
        line("an asterisk with GET (9112 3.2.4)", "GET * HTTP/1.1", Refused(400)),
        line("an asterisk with OPTIONS", "OPTIONS * HTTP/1.1", Accepted(2)),
        line("an absolute target (9112 3.2.2)", "GET http://localhost/health/live HTTP/1.1", Accepted(2)),
        line("an absolute target in capitals", "GET HTTPS://LOCALHOST:80/health/live HTTP/1.1", Accepted(2)),
        line("an absolute target with user info", "GET http://u@localhost/health/live HTTP/1.1", Refused(400)),
        line("an absolute target without a host", "GET http:///health/live HTTP/1.1", Refused(400)),
        line("an absolute target with a bad port", "GET http://localhost:x/health/live HTTP/1.1", Refused(400)),
        line("an absolute target of another scheme", "GET ftp://localhost/health/live HTTP/1.1", Refused(400)),
    ]
}

fn line_ends() -> Vec<Case> {
    vec![
        raw("a bare LF in the request line", "GET /health/live HTTP/1.1\nHost: localhost\r\n\r\n", Refused(400)),
        raw("bare LFs throughout", "GET /health/live HTTP/1.1\nHost: localhost\n\n", Refused(400)),
        cut("bare LFs throughout, and nothing behind", "GET /health/live HTTP/1.1\nHost: localhost\n\n", Refused(400)),
        raw("a bare LF behind a field", format!("{GET}Host: localhost\nX-A: b\r\n\r\n"), Refused(400)),
        raw("a bare LF as the empty line", format!("{GET}Host: localhost\r\n\n"), Refused(400)),
        raw("a bare CR in the request line", "GET /health/live\rHTTP/1.1\r\nHost: localhost\r\n\r\n", Refused(400)),
        raw("a bare CR behind the version", "GET /health/live HTTP/1.1\r\0Host: localhost\r\n\r\n", Refused(400)),
        raw("a bare CR and a Host behind it", "GET /health/live HTTP/1.1\rXHost: localhost\r\n\r\n", Refused(400)),
        raw("a CR before the CRLF", "GET /health/live HTTP/1.1\r\r\nHost: localhost\r\n\r\n", Refused(400)),
        get("a CR before the CRLF of a field", "X-A: b\r\r\n", Refused(400)),
        get("a bare CR in a value (9110 5.5)", "X-A: b\rc\r\n", Refused(400)),
        get("a bare LF in a value", "X-A: b\nX-B: c\r\n", Refused(400)),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        get("a blank before the colon (9112 5.1)", "X-A : b\r\n", Refused(400)),
        get("a tab before the colon", "X-A\t: b\r\n", Refused(400)),
        get("a blank inside a name", "X A: b\r\n", Refused(400)),
        get("an empty name", ": b\r\n", Refused(400)),
        get("a name that is no token", "X(A): b\r\n", Refused(400)),
        get("NUL in a name", "X\0A: b\r\n", Refused(400)),
        raw(
            "bytes beyond ASCII in a name",
            [GET.as_bytes(), b"Host: localhost\r\n\xc3\xa9: b\r\n\r\n"].concat(),
            Refused(400),
        ),
        get("a line without a colon", "X-A\r\n", Refused(400)),
        get("a folded line (9112 5.2)", "X-A: b\r\n c\r\n", Refused(400)),
        get("a folded line with a tab", "X-A: b\r\n\tc\r\n", Refused(400)),
        get("a fold behind an empty value", "X-A:\r\n b\r\n", Refused(400)),
        get("a fold that looks like a field", "X-A: b\r\n X-B: c\r\n", Refused(400)),
        put("a fold that looks like a length", "X-A: b\r\n Content-Length: 5\r\n", "hello", Refused(400)),
        raw("a blank before the first field (9112 2.2)", format!("{GET} Host: localhost\r\n\r\n"), Refused(400)),
        raw("a line of blanks before the first field", format!("{GET} \r\nHost: localhost\r\n\r\n"), Refused(400)),
        get("NUL in a value", "X-A: b\0c\r\n", Refused(400)),
        get("a control character in a value", "X-A: b\x01c\r\n", Refused(400)),
        get("DEL in a value", "X-A: b\x7fc\r\n", Refused(400)),
        get("a vertical tab before a value", "X-A: \x0bb\r\n", Refused(400)),
        get("a form feed behind a value", "X-A: b\x0c\r\n", Refused(400)),
        raw(
            "bytes beyond ASCII in a value (9110 5.5)",
            [GET.as_bytes(), b"Host: localhost\r\nX-A: \xc3\xa9\r\n\r\n"].concat(),
            Accepted(2),
        ),
        get("an empty value", "X-A:\r\n", Accepted(2)),
        get("tabs and blanks around a value", "X-A: \t b \t\r\n", Accepted(2)),
        get("an unknown expectation (9110 10.1.1)", "Expect: 200-ok\r\n", Refused(417)),
        raw(
            "100-continue in HTTP/1.0 is ignored",
            "PUT /api/v1/kv/corpus/c/k HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            Accepted(1),
        ),
        get("an upgrade nobody asked for is ignored", "Connection: upgrade\r\nUpgrade: h2c\r\n", Accepted(2)),
        put(
            "an upgrade with a body",
            "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n",
            "hello",
            Accepted(2),
        ),
        put(
            "an upgrade with a chunked body",
            "Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            Accepted(2),
        ),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |name, value: &str, expected| raw(name, format!("{GET}Host: {value}\r\n\r\n"), expected);
    vec![
        raw("no Host in 1.1 (9112 3.2)", format!("{GET}\r\n"), Refused(400)),
        raw("no Host in 1.0", "GET /health/live HTTP/1.0\r\n\r\n", Accepted(1)),
        line("no Host but an absolute target", "GET http://localhost/health/live HTTP/1.1\r\nX-A: b", Accepted(2)),
        get("two Hosts", "Host: localhost\r\n", Refused(400)),
        get("two Hosts that differ", "host: other\r\n", Refused(400)),
        host("two Hosts in one line", "localhost,localhost", Refused(400)),
        host("an empty Host", "", Accepted(2)),
        host("a Host with a blank", "a b", Refused(400)),
        host("a Host with a path", "a/b", Refused(400)),
        host("a Host with user info", "a@b", Refused(400)),
        host("a Host with a port that is no number", "a:b", Refused(400)),
        host("an IPv6 Host", "[::1]:80", Accepted(2)),
        host("an IPv6 Host that does not end", "[::1", Refused(400)),
    ]
}

fn lengths() -> Vec<Case> {
    let wrong = |name, value: &str| put(name, &format!("Content-Length: {value}\r\n"), "hello", Refused(400));
    vec![
        put("a body with its length", "Content-Length: 5\r\n", "hello", Accepted(2)),
        put("a body with the length of a request", &format!("Content-Length: {}\r\n", WHOLE.len()), WHOLE, Accepted(2)),
        raw("a GET with a body", format!("{GET}Host: localhost\r\nContent-Length: 5\r\n\r\nhello"), Accepted(2)),
        put("a length with leading zeros", "Content-Length: 0005\r\n", "hello", Accepted(2)),
        put("a length with blanks around it", "Content-Length:  \t5 \t\r\n", "hello", Accepted(2)),
        put("a length of nothing", "Content-Length: 0\r\n", "", Accepted(2)),
        put("two lengths that differ (9112 6.3)", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello", Refused(400)),
        put("two lengths that agree", "Content-Length: 5\r\ncontent-length: 5\r\n", "hello", Refused(400)),
        put("a blank before the colon of a length", "Content-Length : 5\r\n", "hello", Refused(400)),
        wrong("a list of lengths", "5, 5"),
        wrong("a length with a sign", "+5"),
        wrong("a negative length", "-5"),
        wrong("a hexadecimal length", "0x5"),
        wrong("a length with a fraction", "5.0"),
        wrong("an empty length", ""),
        wrong("a length with a blank inside", "5 5"),
        wrong("a length beyond 64 bits", "18446744073709551621"),
        wrong("a length of a thousand digits", &"1".repeat(1000)),
        put("a length beyond the limit", "Content-Length: 30000000000\r\n", "hello", Refused(413)),
        put("the largest length there is", "Content-Length: 18446744073709551615\r\n", "hello", Refused(413)),
        cut("a body that is cut", format!("{PUT}Content-Length: 10\r\n\r\nhello"), Silence),
    ]
}

fn codings() -> Vec<Case> {
    let coded = |name, fields: &str, status| put(name, fields, "5\r\nhello\r\n0\r\n\r\n", Refused(status));
    let te = "Transfer-Encoding";
    vec![
        coded("length and coding (9112 6.1)", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        coded("coding and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        coded("coding and a wrong length", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", 400),
        coded("length and an unknown coding", "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n", 400),
        coded("chunked twice", &format!("{te}: chunked, chunked\r\n"), 400),
        coded("chunked on two lines", &format!("{te}: chunked\r\n{te}: chunked\r\n"), 400),
        coded("chunked that is not last (9112 6.3)", &format!("{te}: chunked, gzip\r\n"), 400),
        coded("chunked, then identity", &format!("{te}: chunked\r\n{te}: identity\r\n"), 400),
        coded("an empty coding", &format!("{te}:\r\n"), 400),
        coded("an empty element", &format!("{te}: ,chunked\r\n"), 400),
        coded("an unknown coding", &format!("{te}: xchunked\r\n"), 501),
        coded("gzip under chunked", &format!("{te}: gzip, chunked\r\n"), 501),
        coded("gzip and chunked on two lines", &format!("{te}: gzip\r\n{te}: chunked\r\n"), 501),
        coded("identity", &format!("{te}: identity\r\n"), 501),
        coded("chunked with a parameter", &format!("{te}: chunked;q=1\r\n"), 501),
        coded("chunked in quotes", &format!("{te}: \"chunked\"\r\n"), 501),
        coded("NUL before chunked", &format!("{te}: \0chunked\r\n"), 400),
        coded("a vertical tab before chunked", &format!("{te}: \x0bchunked\r\n"), 400),
        coded("a blank before the colon of the coding", &format!("{te} : chunked\r\n"), 400),
        coded("a folded coding", &format!("{te}:\r\n chunked\r\n"), 400),
        coded("a fold that looks like a coding", &format!("X-A: b\r\n {te}: chunked\r\n"), 400),
        put("chunked in capitals", &format!("{te}: CHUNKED\r\n"), "5\r\nhello\r\n0\r\n\r\n", Accepted(2)),
        raw(
            "a coding in HTTP/1.0 (9112 6.1)",
            "PUT /api/v1/kv/corpus/c/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    vec![
        chunked("two chunks", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", Accepted(2)),
        chunked("sizes in both cases", "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", Accepted(2)),
        chunked("a size with leading zeros", "0005\r\nhello\r\n000\r\n\r\n", Accepted(2)),
        chunked("extensions (9112 7.1.1)", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", Accepted(2)),
        chunked("trailers (9112 7.1.2)", "5\r\nhello\r\n0\r\nX-A: b\r\nContent-Length: 3\r\n\r\n", Accepted(2)),
        chunked("a size that is no number", "x\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a negative size", "-5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a blank before a size", " 5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a blank behind a size", "5 \r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("an empty size", "\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("an extension without a size", ";a\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n", Refused(400)),
        cut(
            "a size beyond the limit",
            format!("{PUT}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello"),
            Refused(413),
        ),
        cut("a chunk that is cut", format!("{PUT}Transfer-Encoding: chunked\r\n\r\n9\r\nhello"), Silence),
        cut("chunks without the last", format!("{PUT}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Silence),
        chunked("a bare LF behind a size", "5\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a bare CR behind a size", "5\rhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n", Refused(400)),
        chunked("a chunk that ends with LF", "5\r\nhello\n0\r\n\r\n", Refused(400)),
        chunked("a bad chunk, then a request", "5\r\nhelloX\r\n0\r\n\r\n", Refused(400)),
        chunked("a last chunk that ends with LF", "5\r\nhello\r\n0\r\n\n", Refused(400)),
        chunked("a folded trailer", "0\r\nX-A: b\r\n c\r\n\r\n", Refused(400)),
        chunked("a trailer without a name", "0\r\n: b\r\n\r\n", Refused(400)),
        chunked("a trailer line without a colon", "0\r\nGET /health/live HTTP/1.1\r\n\r\n", Refused(400)),
        chunked("endless extensions", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000)), Refused(400)),
        chunked("endless trailers", &format!("0\r\n{}\r\n", "X-A: b\r\n".repeat(20_000)), Refused(400)),
        chunked("endless zeros", &format!("{}\r\n\r\n", "0".repeat(100_000)), Refused(400)),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        line("a long target", &format!("GET /{} HTTP/1.1", "a".repeat(9000)), Refused(414)),
        cut("an endless request line", format!("GET /{}", "a".repeat(100_000)), Refused(414)),
        get("a long field", &format!("X-A: {}\r\n", "a".repeat(40_000)), Refused(431)),
        get("a long name", &format!("{}: b\r\n", "a".repeat(40_000)), Refused(431)),
        get("many fields that are long together", &format!("X-A: {}\r\n", "a".repeat(1000)).repeat(50), Refused(431)),
        cut("an endless field", format!("{GET}X-A: {}", "a".repeat(100_000)), Refused(431)),
        get("a hundred fields and more", &"X-A: b\r\n".repeat(101), Refused(431)),
        get("ninety-nine fields and Host", &"X-A: b\r\n".repeat(99), Accepted(2)),
    ]
}
