//! What the heads of values say by namespace and collection: for how long they may be kept elsewhere, and whether scripts
//! in them may run on larder's own origin, which is that of `www.dir`.
//!
//! Without a rule it is `no-cache`: clients may keep a value but must ask whether it still holds. A rule may allow more,
//! but never longer than the value lives, and never to shared caches what needs a token. Scripts run only where
//! `[[unsandboxed]]` says so.

use std::sync::Arc;

use crate::config::{AuthMode, Config, Place};
use crate::http::cache_control::ResponseRule;
use crate::http::media;
use crate::store::Record;

use super::cached::Cached;

/// What values say when no rule is for them.
const DEFAULT: &str = "no-cache";

/// All rules, shared.
#[derive(Clone)]
pub struct ValueRules(Arc<Rules>);

struct Rules {
    /// The first that fits counts.
    cache_control: Vec<Rule>,
    unsandboxed: Vec<Place>,
}

struct Rule {
    namespace: Option<String>,
    collection: Option<String>,
    rule: ResponseRule,
    /// For values that do not expire.
    text: String,
    /// Whether values that expire get another text.
    bounded: bool,
}

impl ValueRules {
    /// Takes the rules of the configuration.
    pub fn new(config: &Config) -> ValueRules {
        let mut rules = Vec::new();
        for given in &config.cache_control {
            let public =
                |namespace: &String| config.auth_mode == AuthMode::Open || config.public_read.contains(namespace);
            let mut push = |namespace: Option<&String>, rule: ResponseRule| {
                let (text, collection) = (rule.render(None), given.collection.clone());
                let bounded = rule.render(Some(0)) != text;
                rules.push(Rule { namespace: namespace.cloned(), collection, rule, text, bounded });
            };
            match &given.namespace {
                Some(namespace) if !public(namespace) => push(Some(namespace), given.value.clone().for_protected()),
                None if config.auth_mode != AuthMode::Open => {
                    config.public_read.iter().for_each(|namespace| push(Some(namespace), given.value.clone()));
                    push(None, given.value.clone().for_protected());
                }
                namespace => push(namespace.as_ref(), given.value.clone()),
            }
        }
        ValueRules(Arc::new(Rules { cache_control: rules, unsandboxed: config.unsandboxed.clone() }))
    }

    fn find(&self, namespace: &str, collection: &str) -> Option<&Rule> {
        self.0.cache_control.iter().find(|rule| {
            rule.namespace.as_deref().is_none_or(|name| name == namespace)
                && rule.collection.as_deref().is_none_or(|name| name == collection)
        })
    }

    /// `Cache-Control` if it is the same for every moment: the rule grants no age, or the record does not expire.
    pub fn fixed(&self, namespace: &str, collection: &str, expires: bool) -> Option<&str> {
        match self.find(namespace, collection) {
            None => Some(DEFAULT),
            Some(rule) => (!expires || !rule.bounded).then_some(&rule.text),
        }
    }

    /// `Cache-Control` of a value with so many seconds left.
    pub fn bounded(&self, namespace: &str, collection: &str, left_s: u64) -> String {
        self.find(namespace, collection).map_or_else(|| DEFAULT.to_owned(), |rule| rule.rule.render(Some(left_s)))
    }

    /// Whether values of this type are sent with a policy under which their scripts do not run.
    pub fn sandboxes(&self, namespace: &str, collection: &str, content_type: &[u8]) -> bool {
        let lifted = |place: &Place| {
            place.namespace == namespace && place.collection.as_deref().is_none_or(|name| name == collection)
        };
        media::can_run_scripts(content_type) && !self.0.unsandboxed.iter().any(lifted)
    }

    /// Makes a record ready for the cache.
    pub fn prepare(&self, namespace: &str, collection: &str, record: Record) -> Arc<Cached> {
        let fixed = self.fixed(namespace, collection, record.expires_ms != 0);
        let sandbox = self.sandboxes(namespace, collection, &record.content_type);
        Cached::new(record, fixed, sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheControlRule;

    fn rules(auth_mode: AuthMode, given: &[(Option<&str>, Option<&str>, &str)]) -> ValueRules {
        let rule = |(namespace, collection, value): &(Option<&str>, Option<&str>, &str)| CacheControlRule {
            namespace: namespace.map(str::to_owned),
            collection: collection.map(str::to_owned),
            value: ResponseRule::parse(value).unwrap(),
        };
        ValueRules::new(&Config {
            auth_mode,
            public_read: vec!["www".into()],
            cache_control: given.iter().map(rule).collect(),
            ..Config::defaults(512 << 20, 1)
        })
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_never_outlives_the_value() {
        let rules = rules(
            AuthMode::Tokens,
            &[(Some("www"), Some("live"), "no-store"), (Some("www"), None, "public, max-age=60, s-maxage=300")],
        );
        assert_eq!(rules.fixed("www", "live", true), Some("no-store"));
        assert_eq!(rules.fixed("home", "x", true), Some("no-cache"));
        assert_eq!(rules.fixed("www", "img", false), Some("public, max-age=60, s-maxage=300"));
        assert_eq!(rules.fixed("www", "img", true), None);
        assert_eq!(rules.bounded("www", "img", 100), "public, max-age=60, s-maxage=100");
        assert_eq!(rules.bounded("www", "img", 0), "public, max-age=0, s-maxage=0");
    }

    #[test]
    fn what_a_token_protects_is_kept_out_of_shared_caches() {
        let given = [(Some("home"), Some("c"), "max-age=5"), (None, Some("c"), "max-age=60"), (None, None, "no-cache")];
        for (auth_mode, own, other, public) in [
            (AuthMode::Tokens, "private, max-age=5", "private, max-age=60", "max-age=60"),
            (AuthMode::Open, "max-age=5", "max-age=60", "max-age=60"),
        ] {
            let rules = rules(auth_mode, &given);
            assert_eq!(rules.fixed("home", "c", false), Some(own));
            assert_eq!(rules.fixed("other", "c", false), Some(other));
            assert_eq!(rules.fixed("www", "c", false), Some(public));
            assert_eq!(rules.bounded("other", "c", 7), other.replace("60", "7"));
            assert_eq!(rules.fixed("www", "d", true), Some("no-cache"));
        }
    }

    #[test]
    fn a_sandbox_is_lifted_where_that_was_chosen_and_nowhere_else() {
        let place =
            |collection: Option<&str>| Place { namespace: "www".into(), collection: collection.map(str::to_owned) };
        for (unsandboxed, pages, other) in
            [(vec![], true, true), (vec![place(Some("pages"))], false, true), (vec![place(None)], false, false)]
        {
            let rules = ValueRules::new(&Config { unsandboxed, ..Config::defaults(512 << 20, 1) });
            assert_eq!(rules.sandboxes("www", "pages", b"text/html"), pages);
            assert_eq!(rules.sandboxes("www", "page", b"image/svg+xml"), other);
            assert!(rules.sandboxes("ww", "pages", b"text/html"));
            assert!(!rules.sandboxes("ww", "pages", b"text/plain"));
        }
    }

    #[test]
    fn a_rule_without_an_age_is_bounded_too_for_what_expires() {
        let rules = rules(AuthMode::Tokens, &[(Some("www"), None, "public, stale-while-revalidate=600, immutable")]);
        assert_eq!(rules.fixed("www", "x", false), Some("public, stale-while-revalidate=600, immutable"));
        assert_eq!(rules.fixed("www", "x", true), None);
        assert_eq!(rules.bounded("www", "x", 5), "public, stale-while-revalidate=5, max-age=0");
    }
}
