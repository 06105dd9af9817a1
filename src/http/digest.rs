//! Digests that a client sends with a body: `Content-Digest` and `Repr-Digest` (RFC 9530), and the older `Digest`.
//!
//! Both are of the bytes as they are sent, a content coding still on them: the body of a write is the whole of what it
//! represents. Invariant: a body that passed contradicts no digest that came with it, and one was checked if any came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha512};

use super::headers::{Head, HeaderName};
use super::problem::Problem;

const FIELDS: &[HeaderName] = &[HeaderName::ContentDigest, HeaderName::ReprDigest, HeaderName::Digest];

/// Refuses digests for a body that is used before its end is there. 400 `BAD_REQUEST`.
pub fn refuse(head: &Head) -> Result<(), Problem> {
    refuse_trailers(head)?;
    if head.has_any(FIELDS) {
        return Err(wrong("a digest of this body could be checked only after its use: leave it out"));
    }
    Ok(())
}

/// Holds a body against the digests that came with it. 400 `BAD_REQUEST` if one differs, or none can be checked. Without
/// any: two bit tests.
pub fn check(head: &Head, body: &[u8]) -> Result<(), Problem> {
    refuse_trailers(head)?;
    if !head.has_any(FIELDS) {
        return Ok(());
    }
    let mut checked = false;
    for &field in FIELDS {
        for line in head.all(field) {
            for member in line.split(',').map(|member| member.trim_matches([' ', '\t'])) {
                checked |= check_member(field, member, body)?;
            }
        }
    }
    let unreadable = FIELDS.iter().any(|field| head.all(*field).count() != head.count(*field));
    if checked && !unreadable { Ok(()) } else { Err(wrong("of digests only sha-256 and sha-512 can be checked here")) }
}

/// Trailers are not read.
fn refuse_trailers(head: &Head) -> Result<(), Problem> {
    let digests = ["content-digest", "repr-digest", "digest", "content-md5"];
    let is_digest = |name: &str| digests.iter().any(|known| known.eq_ignore_ascii_case(name.trim()));
    if head.has(HeaderName::Trailer) && head.all(HeaderName::Trailer).flat_map(|line| line.split(',')).any(is_digest) {
        return Err(wrong("a digest behind the body is not read here: send it in the head"));
    }
    Ok(())
}

/// Whether a member was one that can be checked; an error if it was and is wrong.
fn check_member(field: HeaderName, member: &str, body: &[u8]) -> Result<bool, Problem> {
    let (algorithm, value) = member.split_once('=').unwrap_or((member, ""));
    let digest: &[u8] = match algorithm {
        _ if algorithm.eq_ignore_ascii_case("sha-256") => &Sha256::digest(body),
        _ if algorithm.eq_ignore_ascii_case("sha-512") => &Sha512::digest(body),
        _ => return Ok(false),
    };
    let encoded = match field {
        HeaderName::Digest => Some(value),
        // A byte sequence of structured fields, perhaps with parameters.
        _ => value.split(';').next().and_then(|item| item.trim_end().strip_prefix(':')?.strip_suffix(':')),
    };
    match encoded.and_then(|encoded| STANDARD.decode(encoded).ok()) {
        Some(given) if given == digest => Ok(true),
        Some(given) if given.len() == digest.len() => Err(wrong(
            "the body is not the one of its digest: it was changed on its way, or the digest is of another form",
        )),
        _ => Err(wrong("a digest is not of its form, as in Content-Digest: sha-256=:…:, or Digest: sha-256=…")),
    }
}

#[cold]
fn wrong(reason: &str) -> Problem {
    Problem::new(400, "BAD_REQUEST", format!("{reason}. Nothing was written"))
        .field("Want-Content-Digest", "sha-256=10, sha-512=5")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"hello\": \"world\"}\n";
    // The examples of RFC 9530, appendix D.
    const SHA_256: &str = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=";
    const SHA_512: &str = "YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==";

    fn status(fields: &[(&str, String)]) -> u16 {
        let mut head = Head::new("/");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        assert!(refuse(&head).is_err());
        check(&head, BODY).map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn a_body_is_held_against_every_digest() {
        let other = SHA_256.replace("RK", "KR");
        for (name, value, expected) in [
            ("Content-Digest", format!("sha-256=:{SHA_256}:"), 200),
            ("Repr-Digest", format!("sha-512=:{SHA_512}:"), 200),
            ("Content-Digest", format!("sha-256=:{SHA_256}:, sha-512=:{SHA_512}:"), 200),
            ("Content-Digest", format!("md5=:AAAA:,\tsha-256=:{SHA_256}:;x=1"), 200),
            ("Digest", format!("SHA-256={SHA_256}"), 200),
            ("Digest", format!("md5=HUXZLQLMuI/KZ5KDcJPcOA==, sha-256={SHA_256}"), 200),
            ("Content-Digest", format!("sha-256=:{other}:"), 400),
            ("Content-Digest", format!("sha-256=:{SHA_256}:, sha-256=:{other}:"), 400),
            ("Content-Digest", format!("sha-256=:{SHA_256}:, sha-512=:{SHA_256}:"), 400),
            ("Repr-Digest", format!("sha-256=:{other}:"), 400),
            ("Digest", format!("sha-256={other}"), 400),
            ("Content-Digest", format!("sha-256={SHA_256}"), 400),
            ("Content-Digest", format!("sha-256=\"{SHA_256}\""), 400),
            ("Digest", format!("sha-256=:{SHA_256}:"), 400),
            ("Content-Digest", "sha-256=:AAAA:".into(), 400),
            ("Content-Digest", "sha-256=".into(), 400),
            ("Content-Digest", "sha-256".into(), 400),
            ("Content-Digest", "md5=:HUXZLQLMuI/KZ5KDcJPcOA==:".into(), 400),
            ("Content-Digest", "crc32c=:AAAAAA==:".into(), 400),
            ("Content-Digest", String::new(), 400),
        ] {
            assert_eq!(status(&[(name, value.clone())]), expected, "{name}: {value}");
        }
        let good = ("Content-Digest", format!("sha-256=:{SHA_256}:"));
        assert_eq!(status(&[good.clone(), ("Repr-Digest", format!("sha-256=:{SHA_256}:"))]), 200);
        assert_eq!(status(&[good.clone(), ("Repr-Digest", format!("sha-256=:{other}:"))]), 400);
        assert_eq!(status(&[good.clone(), ("Content-Digest", format!("sha-256=:{other}:"))]), 400);
        assert_eq!(status(&[("Trailer", "Expires, Content-Digest".into())]), 400);
        let mut head = Head::new("/");
        assert!(check(&head, BODY).is_ok() && refuse(&head).is_ok());
        head.push(b"Trailer", b"Expires");
        assert!(check(&head, BODY).is_ok() && refuse(&head).is_ok());
    }
}
