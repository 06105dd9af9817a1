//! `Cache-Control` of values, by namespace and collection.
//!
//! Without a rule it is `no-cache`: clients may keep a value but must ask whether it still holds. A rule may allow more,
//! but never longer than the value lives.

use std::sync::Arc;

use crate::config::CacheControlRule;

/// What values say when no rule is for them.
const DEFAULT: &str = "no-cache";

/// All rules; the first that fits counts.
#[derive(Clone, Default)]
pub struct CacheRules(Arc<[CacheControlRule]>);

impl CacheRules {
    /// Takes the rules of the configuration.
    pub fn new(rules: &[CacheControlRule]) -> CacheRules {
        CacheRules(rules.into())
    }

    fn find(&self, namespace: &str, collection: &str) -> &str {
        let fits = |rule: &&CacheControlRule| {
            rule.namespace.as_deref().is_none_or(|name| name == namespace)
                && rule.collection.as_deref().is_none_or(|name| name == collection)
        };
        self.0.iter().find(fits).map_or(DEFAULT, |rule| &rule.value)
    }

    /// The value if it is the same for every moment: the rule names no age, or the record does not expire.
    pub fn fixed(&self, namespace: &str, collection: &str, expires: bool) -> Option<&str> {
        let value = self.find(namespace, collection);
        (!expires || !value.contains("max")).then_some(value)
    }

    /// The value with no age beyond the seconds left.
    pub fn bounded(&self, namespace: &str, collection: &str, left_s: u64) -> String {
        let bound = |directive: &str| match directive.split_once('=') {
            Some((name, age)) if matches!(name.trim(), "max-age" | "s-maxage") => {
                let age_s: u64 = age.trim().trim_matches('"').parse().unwrap_or(0);
                format!("{}={}", name.trim(), age_s.min(left_s))
            }
            _ => directive.trim().to_owned(),
        };
        self.find(namespace, collection).split(',').map(bound).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts_and_never_outlives_the_value() {
        let rule = |namespace: Option<&str>, collection: Option<&str>, value: &str| CacheControlRule {
            namespace: namespace.map(str::to_owned),
            collection: collection.map(str::to_owned),
            value: value.to_owned(),
        };
        let rules = CacheRules::new(&[
            rule(Some("www"), Some("live"), "no-store"),
            rule(Some("www"), None, "public, max-age=60, s-maxage=300"),
        ]);
        assert_eq!(rules.fixed("www", "live", true), Some("no-store"));
        assert_eq!(rules.fixed("home", "x", true), Some("no-cache"));
        assert_eq!(rules.fixed("www", "img", false), Some("public, max-age=60, s-maxage=300"));
        assert_eq!(rules.fixed("www", "img", true), None);
        assert_eq!(rules.bounded("www", "img", 100), "public, max-age=60, s-maxage=100");
        assert_eq!(rules.bounded("www", "img", 0), "public, max-age=0, s-maxage=0");
    }
}
