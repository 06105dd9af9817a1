//! `Cache-Control` in both directions: what a request asks of larder's cache, and the rules by which values may be kept
//! elsewhere. The one reader of this grammar: exact in what a client sends, strict in what the owner configures.
//!
//! Invariant: what a rule says of a value that expires outlives it in no cache, and a rule for what a token protects
//! ([`ResponseRule::for_protected`]) lets no shared cache keep an answer.

use std::fmt::Write;

use super::headers::{Head, HeaderName};

/// The largest age that all caches can count (RFC 9111 §1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// Whether a request is to be answered past larder's cache: it says `no-cache`, or `max-age=0` as browsers do when they
/// load anew. What else it says is passed over. Without the field: one bit test.
pub fn asks_past_the_cache(head: &Head) -> bool {
    head.has(HeaderName::CacheControl)
        && head.all(HeaderName::CacheControl).flat_map(elements).any(|element| {
            let (name, value) = element.split_once('=').unwrap_or((element, ""));
            let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
            let is_zero = !value.is_empty() && value.bytes().all(|digit| digit == b'0');
            name.eq_ignore_ascii_case("no-cache") || (name.eq_ignore_ascii_case("max-age") && is_zero)
        })
}

/// The elements of a list. A comma within quotes separates nothing.
fn elements(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = move |c: char| {
        let plain = !std::mem::take(&mut escaped);
        escaped = plain && quoted && c == '\\';
        quoted ^= plain && c == '"';
        c == ',' && !quoted
    };
    line.split(separates).map(|element| element.trim_matches([' ', '\t']))
}

/// A configured `Cache-Control` for answers (`[[cache_control]]`), read once at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseRule(
    /// The directives in the order given, with their seconds where they have any.
    Vec<(&'static str, Option<u64>)>,
);

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// It holds a directive of a name that larder does not know.
    Unknown(String),
    /// What else is wrong, as a sentence for whoever wrote it.
    Wrong(String),
}

const FLAGS: &[&str] = &[
    "public",
    "private",
    "no-cache",
    "no-store",
    "no-transform",
    "must-revalidate",
    "proxy-revalidate",
    "must-understand",
    "immutable",
];
const SECONDS: &[&str] = &["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"];

/// Directives of which one takes back what the other grants. An age of 0 grants nothing.
const CONTRADICTIONS: &[(&str, &[&str])] = &[
    ("private", &["public", "s-maxage"]),
    ("no-store", &["public", "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "immutable"]),
    ("no-cache", &["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "immutable"]),
    ("must-revalidate", &["stale-while-revalidate", "stale-if-error"]),
];

/// What lets a shared cache keep the answer to a request with `Authorization` (RFC 9111 §3.5; RFC 2616 §14.8 for the last).
const OPENERS: &[&str] = &["public", "s-maxage", "must-revalidate", "proxy-revalidate"];

/// The names of all directives, for a hint.
pub fn directives() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().chain(SECONDS).copied()
}

impl ResponseRule {
    /// Reads a rule as `public, max-age=60, s-maxage=300`.
    pub fn parse(text: &str) -> Result<ResponseRule, RuleError> {
        let mut rule = ResponseRule::default();
        for element in text.split(',') {
            let (name, value) = read(element.trim())?;
            if rule.has(name) {
                return Err(RuleError::Wrong(format!("{name} stands twice")));
            }
            rule.0.push((name, value));
        }
        for (one, others) in CONTRADICTIONS {
            if let Some(other) = others.iter().find(|other| rule.grants(one) && rule.grants(other)) {
                return Err(RuleError::Wrong(format!("{one} and {other} contradict each other")));
            }
        }
        Ok(rule)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// Whether a directive stands there, and with more than 0 seconds where it has any.
    fn grants(&self, name: &str) -> bool {
        self.0.iter().any(|(known, seconds)| *known == name && *seconds != Some(0))
    }

    /// The directive, if any, by which a shared cache may keep what was answered to a request with a token.
    pub fn opens(&self) -> Option<&'static str> {
        let closed = self.has("private") || self.has("no-store");
        OPENERS.iter().copied().find(|name| self.has(name) && !closed)
    }

    /// The rule for what a token protects: `private` where nothing else keeps the answer out of shared caches, since many
    /// of them do not look at `Authorization`.
    pub fn for_protected(mut self) -> ResponseRule {
        if !["private", "no-store", "no-cache"].iter().any(|name| self.has(name)) {
            self.0.insert(0, ("private", None));
        }
        self
    }

    /// The field value for a value with so many seconds left (`None`: it does not expire). No age exceeds what is left, a
    /// stale answer may not be used beyond it either, nothing that expires is immutable, and no cache is left to guess
    /// an age.
    pub fn render(&self, left_s: Option<u64>) -> String {
        let fresh_s = ["max-age", "s-maxage"].into_iter().filter_map(|name| self.seconds(name)).max().unwrap_or(0);
        let stale_left_s = left_s.map(|left| left - left.min(fresh_s));
        let mut text = String::new();
        for (name, seconds) in self.0.iter().filter(|(name, _)| left_s.is_none() || *name != "immutable") {
            let separator = if text.is_empty() { "" } else { ", " };
            let most = if name.starts_with("stale") { stale_left_s } else { left_s };
            // Writing to a string does not fail.
            let _ = match seconds.map(|seconds| most.map_or(seconds, |most| most.min(seconds))) {
                Some(seconds) => write!(text, "{separator}{name}={seconds}"),
                None => write!(text, "{separator}{name}"),
            };
        }
        if left_s.is_some() && !["max-age", "no-cache", "no-store"].iter().any(|name| self.has(name)) {
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}max-age=0");
        }
        text
    }

    fn seconds(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == name).and_then(|(_, seconds)| *seconds)
    }
}

/// One directive of a rule.
fn read(element: &str) -> Result<(&'static str, Option<u64>), RuleError> {
    let wrong = |message: String| Err(RuleError::Wrong(message));
    if element.is_empty() {
        return wrong("a directive is missing: before, behind or between commas".to_owned());
    }
    let (name, value) = match element.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value)),
        None => (element, None),
    };
    if element.contains(';') || name.contains(' ') {
        return wrong(format!("`{element}`: directives are separated by commas"));
    }
    let known = |list: &[&'static str]| list.iter().copied().find(|known| known.eq_ignore_ascii_case(name));
    match (known(FLAGS), known(SECONDS), value) {
        (None, None, _) => Err(RuleError::Unknown(name.to_owned())),
        (Some(flag), _, Some(_)) => wrong(format!("`{element}`: {flag} stands alone, without a value")),
        (Some(flag), _, None) => Ok((flag, None)),
        (_, Some(name), value) => {
            let digits = value.filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse().ok()).filter(|seconds| *seconds <= SECONDS_MAX) {
                Some(seconds) if !element.contains(' ') => Ok((name, Some(seconds))),
                _ => wrong(format!("`{element}`: {name} wants whole seconds up to {SECONDS_MAX}, as in {name}=60")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past(lines: &[&str]) -> bool {
        let mut head = Head::new("/");
        for line in lines {
            head.push(b"cache-control", line.as_bytes());
        }
        asks_past_the_cache(&head)
    }

    #[test]
    fn a_request_may_go_past_the_cache() {
        for lines in [
            &["no-cache"][..],
            &["No-Cache"],
            &["foo, No-Cache=\"x\" ,bar"],
            &["max-age=0"],
            &["Max-Age=000"],
            &["max-age=\"0\"", "no-store"],
            &["max-stale=5", "\tno-cache"],
            &["foo=\"a\\\"b, c\", no-cache"],
            &[",,no-cache"],
        ] {
            assert!(past(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["x-no-cache-please"],
            &["no-cachex"],
            &["no-cache-x"],
            &["xno-cache"],
            &["foo=\"a, no-cache\""],
            &["foo=\"a\\\", no-cache\""],
            &["foo=\"a, no-cache"],
            &["foo=no-cache"],
            &["no cache"],
            &["max-age=10"],
            &["max-age"],
            &["max-age="],
            &["max-age=+0"],
            &["max-age=-0"],
            &["max-age=0.0"],
            &["max-age=0x"],
            &["s-maxage=0"],
            &["min-fresh=0"],
            &["no-store"],
        ] {
            assert!(!past(lines), "{lines:?}");
        }
    }

    fn rule(text: &str) -> ResponseRule {
        ResponseRule::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        for (text, written) in [
            ("Public, max-age=60, s-maxage=300", "public, max-age=60, s-maxage=300"),
            (" max-age=60 ,Private", "max-age=60, private"),
            ("no-store, no-cache, must-revalidate, private, max-age=0", ""),
            ("private, no-cache, proxy-revalidate, s-maxage=0", ""),
            ("public, no-cache", ""),
            ("public, max-age=2147483648, immutable", ""),
            ("no-transform", ""),
        ] {
            assert_eq!(rule(text).render(None), if written.is_empty() { text } else { written });
        }
    }

    #[test]
    fn nothing_outlives_the_time_that_is_left() {
        for (text, left_s, written) in [
            ("max-age=60, s-maxage=300, stale-if-error=1000", 100, "max-age=60, s-maxage=100, stale-if-error=0"),
            ("max-age=60, s-maxage=300, stale-if-error=1000", 0, "max-age=0, s-maxage=0, stale-if-error=0"),
            ("max-age=60, s-maxage=300, stale-if-error=1000", 500, "max-age=60, s-maxage=300, stale-if-error=200"),
            ("public, max-age=60, stale-while-revalidate=600", 5, "public, max-age=5, stale-while-revalidate=0"),
            ("public, max-age=3, stale-while-revalidate=600", 5, "public, max-age=3, stale-while-revalidate=2"),
            ("public, stale-while-revalidate=600", 5, "public, stale-while-revalidate=5, max-age=0"),
            ("public, s-maxage=9", 5, "public, s-maxage=5, max-age=0"),
            ("public, max-age=60, immutable", 5, "public, max-age=5"),
            ("immutable", 5, "max-age=0"),
            ("public", 5, "public, max-age=0"),
            ("no-cache", 0, "no-cache"),
            ("private, no-store", 5, "private, no-store"),
        ] {
            assert_eq!(rule(text).render(Some(left_s)), written, "{text} {left_s}");
        }
    }

    #[test]
    fn a_rule_tells_what_it_opens_and_can_be_closed() {
        for (text, opens, closed) in [
            ("max-age=60, must-revalidate", Some("must-revalidate"), "private, max-age=60, must-revalidate"),
            ("max-age=60, proxy-revalidate", Some("proxy-revalidate"), "private, max-age=60, proxy-revalidate"),
            ("s-maxage=0", Some("s-maxage"), "private, s-maxage=0"),
            ("no-cache, must-revalidate", Some("must-revalidate"), "no-cache, must-revalidate"),
            ("private, must-revalidate, max-age=5", None, "private, must-revalidate, max-age=5"),
            ("no-store, must-revalidate", None, "no-store, must-revalidate"),
            ("max-age=60", None, "private, max-age=60"),
            ("no-transform", None, "private, no-transform"),
            ("no-cache", None, "no-cache"),
        ] {
            assert_eq!(rule(text).opens(), opens, "{text}");
            assert_eq!(rule(text).for_protected().render(None), closed, "{text}");
        }
        assert_eq!(rule("public, max-age=9").opens(), Some("public"));
    }

    #[test]
    fn mistakes_in_a_rule_are_explained() {
        for (text, part) in [
            ("", "missing"),
            (",", "missing"),
            ("private,", "missing"),
            ("private,,max-age=1", "missing"),
            ("max-age", "whole seconds"),
            ("max-age=", "whole seconds"),
            ("max-age=x", "whole seconds"),
            ("max-age=-1", "whole seconds"),
            ("max-age=+1", "whole seconds"),
            ("max-age=1.5", "whole seconds"),
            ("max-age=\"60\"", "whole seconds"),
            ("max-age = 60", "whole seconds"),
            ("max-age= 60", "whole seconds"),
            ("max-age =60", "whole seconds"),
            ("max-age=2147483649", "whole seconds"),
            ("max-age=99999999999999999999999", "whole seconds"),
            ("public=1", "stands alone"),
            ("public =1", "stands alone"),
            ("private=\"Set-Cookie\"", "stands alone"),
            ("public;max-age=9", "commas"),
            ("max-age=9;public", "commas"),
            ("private max-age=60", "commas"),
            ("public, Public", "public stands twice"),
            ("max-age=1, MAX-AGE=2", "max-age stands twice"),
            ("public, private", "contradict"),
            ("private, s-maxage=5", "contradict"),
            ("no-store, max-age=60", "contradict"),
            ("no-store, public", "contradict"),
            ("no-cache, max-age=60", "contradict"),
            ("no-cache, immutable", "contradict"),
            ("private, must-revalidate, stale-if-error=5", "contradict"),
        ] {
            match ResponseRule::parse(text) {
                Err(RuleError::Wrong(message)) => assert!(message.contains(part), "{text}: {message}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for (text, name) in [("privat, max-agge=60", "privat"), ("x=1", "x"), ("x =1", "x")] {
            assert_eq!(ResponseRule::parse(text), Err(RuleError::Unknown(name.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rendered_rules_read_back_within_the_time_left(
            age in 0..=SECONDS_MAX, shared in 0..=SECONDS_MAX, stale in 0..=SECONDS_MAX, left in proptest::option::of(0..=SECONDS_MAX),
        ) {
            let text = format!("public, max-age={age}, s-maxage={shared}, stale-while-revalidate={stale}");
            let back = rule(&rule(&text).render(left));
            let most = left.unwrap_or(u64::MAX);
            prop_assert_eq!(back.seconds("max-age"), Some(age.min(most)));
            prop_assert_eq!(back.seconds("s-maxage"), Some(shared.min(most)));
            let in_all = |name| back.seconds(name).unwrap_or(0) + back.seconds("stale-while-revalidate").unwrap_or(0);
            prop_assert!(left.is_none_or(|left| in_all("max-age") <= left && in_all("s-maxage") <= left));
        }
    }
}
