//! `Cache-Control` in both directions: what a request asks of larder's cache, and the rules by which values are cacheable
//! elsewhere.
//!
//! Invariant: a rule never lets a shared answer outlive the time that is left to its value.

use std::fmt::Write;

use super::headers::{Head, HeaderName};

/// What larder heeds of a request's `Cache-Control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `no-cache`, or `max-age=0` as browsers send it: read past the cache.
    pub no_cache: bool,
    /// `no-store`: do not keep what was read in the cache.
    pub no_store: bool,
}

impl RequestDirectives {
    /// Reads the field, all its lines. What larder does not know is passed over. Without the field: one bit test.
    pub fn parse(head: &Head) -> RequestDirectives {
        let mut found = RequestDirectives::default();
        if !head.has(HeaderName::CacheControl) {
            return found;
        }
        let lines = head.all(HeaderName::CacheControl);
        for directive in lines.flat_map(|line| line.split(',')).map(|text| text.trim_matches([' ', '\t'])) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let value = value.trim_matches('"');
            found.no_cache |= name.eq_ignore_ascii_case("no-cache");
            found.no_cache |= name.eq_ignore_ascii_case("max-age") && value.parse() == Ok(0u64);
            found.no_store |= name.eq_ignore_ascii_case("no-store");
        }
        found
    }
}

/// A configured `Cache-Control` for answers (`[[cache_control]]`), read once at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseRule {
    /// Directives without a number, in the order given.
    flags: Vec<&'static str>,
    /// Directives with seconds, in the order given, behind the flags.
    seconds: Vec<(&'static str, u64)>,
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

impl ResponseRule {
    /// Reads a rule as `public, max-age=60, s-maxage=300`. The error is a sentence for whoever wrote the configuration.
    pub fn parse(text: &str) -> Result<ResponseRule, String> {
        let mut rule = ResponseRule::default();
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (directive, None),
            };
            let known = |list: &[&'static str]| list.iter().copied().find(|known| known.eq_ignore_ascii_case(name));
            match (known(FLAGS), known(SECONDS), value) {
                (Some(flag), _, None) if !rule.flags.contains(&flag) => rule.flags.push(flag),
                (_, Some(name), Some(value)) if rule.get(name).is_none() => {
                    let seconds = value.parse().map_err(|_| format!("{name} wants whole seconds, as in {name}=60"))?;
                    rule.seconds.push((name, seconds));
                }
                (Some(name), ..) | (_, Some(name), _) => {
                    return Err(format!("{name} is repeated or has the wrong form"));
                }
                (None, None, _) => {
                    let all = [FLAGS, SECONDS].concat().join(", ");
                    return Err(format!("{name} is no directive of Cache-Control that larder knows: {all}"));
                }
            }
        }
        if rule.is_public() && rule.flags.contains(&"private") {
            return Err("public and private exclude each other".to_owned());
        }
        if rule.flags.is_empty() && rule.seconds.is_empty() {
            return Err("a rule needs at least one directive".to_owned());
        }
        Ok(rule)
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.seconds.iter().find(|(known, _)| *known == name).map(|(_, seconds)| *seconds)
    }

    /// Whether shared caches may keep the answer although a token was needed: `public` or `s-maxage` (RFC 9111 §3.5);
    /// `must-revalidate` opens that door, too.
    pub fn is_public(&self) -> bool {
        self.flags.contains(&"public") || self.flags.contains(&"must-revalidate") || self.get("s-maxage").is_some()
    }

    /// The field value for a value with so many seconds left (`None`: it does not expire). No age exceeds what is left, and
    /// a stale answer may not be used beyond it either.
    pub fn render(&self, left_s: Option<u64>) -> String {
        let mut text = self.flags.join(", ");
        let fresh_s = self.seconds.iter().filter(|(name, _)| !name.starts_with("stale")).map(|(_, seconds)| *seconds);
        let stale_left_s = left_s.map(|left| left - left.min(fresh_s.max().unwrap_or(0)));
        for (name, seconds) in &self.seconds {
            let most = if name.starts_with("stale") { stale_left_s } else { left_s };
            let seconds = most.map_or(*seconds, |most| most.min(*seconds));
            let separator = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}{name}={seconds}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(lines: &[&str]) -> (bool, bool) {
        let mut head = Head::new("/");
        for line in lines {
            head.push(b"cache-control", line.as_bytes());
        }
        let found = RequestDirectives::parse(&head);
        (found.no_cache, found.no_store)
    }

    #[test]
    fn a_request_may_go_past_the_cache() {
        assert_eq!(request(&["no-cache"]), (true, false));
        assert_eq!(request(&["foo, No-Cache=\"x\" ,bar"]), (true, false));
        assert_eq!(request(&["max-age=0"]), (true, false));
        assert_eq!(request(&["max-age=\"0\"", "no-store"]), (true, true));
        for line in ["", "max-age=10", "no-cachex", "xno-cache", "min-fresh=0", "max-age"] {
            assert_eq!(request(&[line]), (false, false), "{line}");
        }
        assert_eq!(request(&[]), (false, false));
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        let rule = ResponseRule::parse("Public, max-age=60, s-maxage=300").unwrap();
        assert_eq!(rule.render(None), "public, max-age=60, s-maxage=300");
        assert!(rule.is_public());
        assert!(!ResponseRule::parse("private, max-age=5").unwrap().is_public());
        assert_eq!(ResponseRule::parse("no-cache").unwrap().render(Some(0)), "no-cache");
    }

    #[test]
    fn no_age_exceeds_the_time_left() {
        let rule = ResponseRule::parse("max-age=60, s-maxage=300, stale-if-error=1000").unwrap();
        assert_eq!(rule.render(Some(100)), "max-age=60, s-maxage=100, stale-if-error=0");
        assert_eq!(rule.render(Some(0)), "max-age=0, s-maxage=0, stale-if-error=0");
        assert_eq!(rule.render(Some(500)), "max-age=60, s-maxage=300, stale-if-error=200");
    }

    #[test]
    fn mistakes_in_a_rule_are_explained() {
        let texts = [
            "",
            ",",
            "max-age",
            "max-age=x",
            "max-age=-1",
            "public=1",
            "public, public",
            "max-age=1, max-age=2",
            "publik",
        ];
        for text in texts.iter().chain(&["public, private", "max-age=1;x"]) {
            assert!(!ResponseRule::parse(text).unwrap_err().is_empty(), "{text}");
        }
        assert!(ResponseRule::parse("publik").unwrap_err().contains("publik"));
    }

    proptest! {
        #[test]
        fn rendered_rules_read_back_within_the_time_left(age: u64, shared: u64, left in proptest::option::of(any::<u64>())) {
            let rule = ResponseRule::parse(&format!("public, max-age={age}, s-maxage={shared}")).unwrap();
            let back = ResponseRule::parse(&rule.render(left)).unwrap();
            let most = left.unwrap_or(u64::MAX);
            prop_assert_eq!(back.get("max-age"), Some(age.min(most)));
            prop_assert_eq!(back.get("s-maxage"), Some(shared.min(most)));
        }
    }
}
