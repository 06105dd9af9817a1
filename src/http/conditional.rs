//! Conditional requests: reading the four precondition fields and judging a read by them (RFC 9110 §13).
//!
//! Writes are not judged here: what they compare with must be the state they change, so their tag lists are turned into
//! sets of versions ([`versions_strong`], [`versions_weak`]) that travel with the write.
//!
//! Invariant: a precondition that cannot be understood never counts as absent where that could let a write through:
//! a malformed tag list is an error. Malformed dates are ignored, as RFC 9110 demands.

use super::etag::{Tag, write_etag, write_gzip_etag};
use super::headers::{Head, HeaderName};
use super::problem::Problem;

pub use super::etag::TagSet;

/// The precondition fields of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<TagSet>,
    /// `If-None-Match`.
    pub if_none_match: Option<TagSet>,
    /// `If-Modified-Since`, seconds since 1970.
    pub if_modified_since_s: Option<u64>,
    /// `If-Unmodified-Since`, seconds since 1970.
    pub if_unmodified_since_s: Option<u64>,
}

impl Conditions {
    /// Reads the fields of a head; the lines of one field are one list. 400 `BAD_REQUEST` for a malformed tag list.
    pub fn parse(head: &Head) -> Result<Conditions, Problem> {
        use HeaderName::{IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
        if !head.has_any(&[IfMatch, IfNoneMatch, IfModifiedSince, IfUnmodifiedSince]) {
            return Ok(Conditions::default());
        }
        Ok(Conditions {
            if_match: tags(head, HeaderName::IfMatch, "If-Match")?,
            if_none_match: tags(head, HeaderName::IfNoneMatch, "If-None-Match")?,
            if_modified_since_s: date(head, HeaderName::IfModifiedSince),
            if_unmodified_since_s: date(head, HeaderName::IfUnmodifiedSince),
        })
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none()
            && self.if_none_match.is_none()
            && self.if_modified_since_s.is_none()
            && self.if_unmodified_since_s.is_none()
    }
}

/// A weak tag of `If-Match`, which compares strongly: it matches nothing, whatever it names (RFC 9110 §13.1.1).
pub fn weak_if_match(head: &Head) -> Option<String> {
    if !head.has(HeaderName::IfMatch) {
        return None;
    }
    let Ok(TagSet::Tags(tags)) = TagSet::parse(head.all(HeaderName::IfMatch)) else { return None };
    let weak = tags.into_iter().find(|tag| tag.weak)?;
    Some(format!("W/\"{}\"", weak.opaque))
}

fn tags(head: &Head, name: HeaderName, text: &str) -> Result<Option<TagSet>, Problem> {
    if !head.has(name) {
        return Ok(None);
    }
    // `Head::all` passes over lines that are not UTF-8; a condition must not get lost that way.
    let readable = head.all(name).count() == head.count(name);
    match TagSet::parse(head.all(name)) {
        Ok(set) if readable => Ok(Some(set)),
        _ => Err(malformed(text)),
    }
}

#[cold]
fn malformed(name: &str) -> Problem {
    let message = format!("{name} must be * or a list of entity tags, each in double quotes, as in {name}: \"41\"");
    Problem::new(400, "BAD_REQUEST", message)
}

fn date(head: &Head, name: HeaderName) -> Option<u64> {
    // More than one line is no date.
    if !head.has(name) || head.count(name) != 1 {
        return None;
    }
    parse_date(head.get(name)?)
}

/// A date of HTTP, in any of its three forms, as seconds since 1970. Earlier dates cannot be told and are `None`.
pub fn parse_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
}

/// Seconds since 1970 as a date of HTTP.
pub fn write_date(seconds: u64) -> String {
    // httpdate can write years up to 9999 and panics above.
    const LAST: u64 = 253_402_300_799;
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.min(LAST)))
}

/// What names the present state of the thing that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentTag<'a> {
    /// A version: its identity and its gzip form have tags, and a condition may name either.
    Version(u64),
    /// A strong tag of its own, without the quotes.
    Opaque(&'a str),
}

/// The present state of the thing that is read.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// Its tag.
    pub tag: CurrentTag<'a>,
    /// The answer would be the gzip form (versions only): its tag is repeated where no tag of the request decides.
    pub gzip: bool,
    /// When it was modified, seconds since 1970; `None` if that is not known, then dates are ignored.
    pub modified_s: Option<u64>,
}

impl Current<'static> {
    /// The state of a version.
    pub fn version(version: u64, gzip: bool, modified_s: Option<u64>) -> Current<'static> {
        Current { tag: CurrentTag::Version(version), gzip, modified_s }
    }
}

impl Current<'_> {
    /// The tag, with quotes, that a 200 would carry.
    fn own_tag(&self) -> String {
        match self.tag {
            CurrentTag::Version(version) => version_tag(version, self.gzip),
            CurrentTag::Opaque(opaque) => format!("\"{opaque}\""),
        }
    }

    /// The tag, with quotes, that `tag` means here, if it means the present state; weakness left aside.
    fn matched_by(&self, tag: &Tag) -> Option<String> {
        match self.tag {
            CurrentTag::Version(version) => {
                let (named, gzip) = tag.version()?;
                (named == version).then(|| version_tag(version, gzip))
            }
            CurrentTag::Opaque(opaque) => (tag.opaque == opaque).then(|| self.own_tag()),
        }
    }
}

fn version_tag(version: u64, gzip: bool) -> String {
    if gzip { write_gzip_etag(version).to_string() } else { write_etag(version).to_string() }
}

/// What the preconditions make of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304 with this tag (quotes included).
    NotModified {
        /// The tag of the request that matched, or the one that a 200 would carry.
        tag: String,
    },
    /// 412.
    PreconditionFailed,
}

/// Judges a GET or HEAD, in the order of RFC 9110 §13.2.2. `current` is `None` if the thing is absent: then the answer is
/// 404 whatever the conditions say.
pub fn evaluate_read(conditions: &Conditions, current: Option<Current<'_>>) -> Verdict {
    let Some(current) = current else { return Verdict::Proceed };
    let modified_after = |since: Option<u64>| Some(current.modified_s? > since?);

    match &conditions.if_match {
        Some(TagSet::Any) => {}
        Some(TagSet::Tags(tags)) if tags.iter().all(|tag| tag.weak || current.matched_by(tag).is_none()) => {
            return Verdict::PreconditionFailed;
        }
        Some(TagSet::Tags(_)) => {}
        None if modified_after(conditions.if_unmodified_since_s) == Some(true) => return Verdict::PreconditionFailed,
        None => {}
    }
    match &conditions.if_none_match {
        Some(TagSet::Any) => Verdict::NotModified { tag: current.own_tag() },
        Some(TagSet::Tags(tags)) => {
            let own = current.own_tag();
            let mut matched: Vec<String> = tags.iter().filter_map(|tag| current.matched_by(tag)).collect();
            match matched.iter().position(|tag| *tag == own).or((!matched.is_empty()).then_some(0)) {
                Some(index) => Verdict::NotModified { tag: matched.swap_remove(index) },
                None => Verdict::Proceed,
            }
        }
        None if modified_after(conditions.if_modified_since_s) == Some(false) => {
            Verdict::NotModified { tag: current.own_tag() }
        }
        None => Verdict::Proceed,
    }
}

/// The versions that a tag list of a write names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// `*`.
    Any,
    /// These; empty if no tag of the list can match.
    List(Vec<u64>),
}

/// The versions that `If-Match` names, by strong comparison: weak tags name none, and the gzip form counts as its version.
pub fn versions_strong(tags: &TagSet) -> VersionMatch {
    versions(tags, |tag| !tag.weak)
}

/// The versions that `If-None-Match` names, by weak comparison (RFC 9110 §13.1.2).
pub fn versions_weak(tags: &TagSet) -> VersionMatch {
    versions(tags, |_| true)
}

fn versions(tags: &TagSet, counts: impl Fn(&Tag) -> bool) -> VersionMatch {
    match tags {
        TagSet::Any => VersionMatch::Any,
        TagSet::Tags(tags) => VersionMatch::List(
            tags.iter().filter(|tag| counts(tag)).filter_map(|tag| tag.version()).map(|(version, _)| version).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODIFIED_S: u64 = 784_111_777;
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn conditions(fields: &[(&str, &str)]) -> Result<Conditions, Problem> {
        let mut head = Head::new("/");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        Conditions::parse(&head)
    }

    fn judge(fields: &[(&str, &str)]) -> Verdict {
        let current = Current::version(41, false, Some(MODIFIED_S));
        evaluate_read(&conditions(fields).unwrap(), Some(current))
    }

    fn not_modified(tag: &str) -> Verdict {
        Verdict::NotModified { tag: tag.to_owned() }
    }

    #[test]
    fn a_head_without_conditions_is_empty() {
        assert!(conditions(&[("Host", "a")]).unwrap().is_empty());
        assert_eq!(judge(&[]), Verdict::Proceed);
    }

    #[test]
    fn if_match_compares_strongly_and_ignores_the_gzip_suffix() {
        assert_eq!(judge(&[("If-Match", "\"41\"")]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Match", "\"41-gzip\"")]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Match", "*")]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Match", "\"7\", \"41\"")]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Match", "W/\"41\"")]), Verdict::PreconditionFailed);
        assert_eq!(judge(&[("If-Match", "\"40\"")]), Verdict::PreconditionFailed);
        assert_eq!(judge(&[("If-Match", "")]), Verdict::PreconditionFailed);
    }

    #[test]
    fn if_none_match_compares_weakly_and_the_304_repeats_the_tag_that_matched() {
        assert_eq!(judge(&[("If-None-Match", "\"41\"")]), not_modified("\"41\""));
        assert_eq!(judge(&[("If-None-Match", "W/\"41\"")]), not_modified("\"41\""));
        assert_eq!(judge(&[("If-None-Match", "\"40\", \"41-gzip\"")]), not_modified("\"41-gzip\""));
        assert_eq!(judge(&[("If-None-Match", "\"41-gzip\", \"41\"")]), not_modified("\"41\""));
        assert_eq!(judge(&[("If-None-Match", "\"40\"")]), Verdict::Proceed);
        let star = conditions(&[("If-None-Match", "*")]).unwrap();
        let gzipped = Current::version(41, true, None);
        assert_eq!(evaluate_read(&star, Some(gzipped)), not_modified("\"41-gzip\""));
    }

    #[test]
    fn dates_compare_whole_seconds() {
        assert_eq!(judge(&[("If-Modified-Since", MODIFIED)]), not_modified("\"41\""));
        assert_eq!(judge(&[("If-Modified-Since", EARLIER)]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Unmodified-Since", MODIFIED)]), Verdict::Proceed);
        assert_eq!(judge(&[("If-Unmodified-Since", EARLIER)]), Verdict::PreconditionFailed);
    }

    #[test]
    fn obsolete_date_forms_are_understood() {
        assert_eq!(parse_date("Sunday, 06-Nov-94 08:49:37 GMT"), Some(MODIFIED_S));
        assert_eq!(parse_date("Sun Nov  6 08:49:37 1994"), Some(MODIFIED_S));
        assert_eq!(write_date(MODIFIED_S), MODIFIED);
        assert!(write_date(u64::MAX).contains("9999"));
    }

    #[test]
    fn tags_win_over_dates() {
        assert_eq!(judge(&[("If-Match", "\"41\""), ("If-Unmodified-Since", EARLIER)]), Verdict::Proceed);
        assert_eq!(judge(&[("If-None-Match", "\"40\""), ("If-Modified-Since", MODIFIED)]), Verdict::Proceed);
    }

    #[test]
    fn if_match_is_judged_before_if_none_match() {
        let fields = [("If-None-Match", "\"41\""), ("If-Match", "\"40\"")];
        assert_eq!(judge(&fields), Verdict::PreconditionFailed);
        assert_eq!(judge(&[("If-None-Match", "\"41\""), ("If-Match", "\"41\"")]), not_modified("\"41\""));
    }

    #[test]
    fn malformed_and_repeated_dates_are_ignored() {
        assert!(conditions(&[("If-Modified-Since", "yesterday")]).unwrap().is_empty());
        assert!(conditions(&[("If-Unmodified-Since", MODIFIED), ("If-Unmodified-Since", EARLIER)]).unwrap().is_empty());
    }

    #[test]
    fn dates_are_ignored_while_the_modification_time_is_unknown() {
        let current = Current::version(41, false, None);
        for name in ["If-Modified-Since", "If-Unmodified-Since"] {
            let conditions = conditions(&[(name, EARLIER)]).unwrap();
            assert_eq!(evaluate_read(&conditions, Some(current)), Verdict::Proceed);
        }
    }

    #[test]
    fn a_malformed_tag_list_is_refused_even_if_it_is_not_utf8() {
        assert_eq!(conditions(&[("If-Match", "41")]).unwrap_err().code, "BAD_REQUEST");
        let mut head = Head::new("/");
        head.push(b"If-Match", b"\"\xff\"");
        assert_eq!(Conditions::parse(&head).unwrap_err().status, 400);
    }

    #[test]
    fn an_absent_thing_is_not_found_whatever_the_conditions() {
        for fields in [[("If-Match", "*")], [("If-Match", "\"1\"")], [("If-None-Match", "*")]] {
            assert_eq!(evaluate_read(&conditions(&fields).unwrap(), None), Verdict::Proceed);
        }
    }

    #[test]
    fn opaque_tags_match_whole() {
        let current = Current { tag: CurrentTag::Opaque("ab-br"), gzip: false, modified_s: None };
        let ask = |tags| evaluate_read(&conditions(&[("If-None-Match", tags)]).unwrap(), Some(current));
        assert_eq!(ask("\"x\", W/\"ab-br\""), not_modified("\"ab-br\""));
        assert_eq!(ask("\"ab\""), Verdict::Proceed);
    }

    #[test]
    fn writes_compare_versions() {
        let set = conditions(&[("If-Match", "\"1\", W/\"2\", \"3-gzip\", \"x\"")]).unwrap().if_match.unwrap();
        assert_eq!(versions_strong(&set), VersionMatch::List(vec![1, 3]));
        assert_eq!(versions_weak(&set), VersionMatch::List(vec![1, 2, 3]));
        assert_eq!(versions_weak(&TagSet::Any), VersionMatch::Any);
    }

    proptest! {
        #[test]
        fn exactly_the_named_versions_match(list in proptest::collection::vec((0u64..8, any::<bool>(), any::<bool>()), 0..6),
                                            version in 0u64..8) {
            let line: Vec<String> = list.iter()
                .map(|(v, gzip, weak)| format!("{}\"{v}{}\"", if *weak { "W/" } else { "" }, if *gzip { "-gzip" } else { "" }))
                .collect();
            let line = line.join(",");
            let current = Some(Current::version(version, false, None));
            let passes = evaluate_read(&conditions(&[("If-Match", &line)]).unwrap(), current) == Verdict::Proceed;
            prop_assert_eq!(passes, list.iter().any(|(v, _, weak)| *v == version && !weak));
            let fresh = evaluate_read(&conditions(&[("If-None-Match", &line)]).unwrap(), current) == Verdict::Proceed;
            prop_assert_eq!(fresh, !list.iter().any(|(v, ..)| *v == version));
        }
    }
}
