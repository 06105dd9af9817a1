//! Where a value is, as the command line writes it: `namespace/collection/key`. What follows the second slash is the
//! key, slashes and all.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::exit::Failure;
use super::parse::{Invocation, usage};

/// Everything but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An operand of one, two or three parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The namespace.
    pub namespace: Option<&'a str>,
    /// The collection.
    pub collection: Option<&'a str>,
    /// The key, or its beginning.
    pub key: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Takes an operand apart. A part that is empty is not there.
    pub fn parse(text: &'a str) -> Place<'a> {
        let mut parts = text.splitn(3, '/').map(|part| Some(part).filter(|part| !part.is_empty()));
        let mut next = || parts.next().flatten();
        Place { namespace: next(), collection: next(), key: next() }
    }

    /// The target of its namespace and collection, and of nothing if neither is there.
    pub fn collection_target(&self) -> String {
        let mut target = "/api/v1/kv".to_owned();
        for part in [self.namespace, self.collection].into_iter().flatten() {
            target.push('/');
            target.push_str(&encode(part));
        }
        target
    }
}

/// The target of a value: the first operand, which must have all three parts.
pub fn value_target(invocation: &Invocation) -> Result<String, Failure> {
    let text = invocation.operand(0)?.unwrap_or_default();
    let place = Place::parse(text);
    let (Some(_), Some(_), Some(key)) = (place.namespace, place.collection, place.key) else {
        return Err(usage(invocation, format!("`{text}` is not NAMESPACE/COLLECTION/KEY")));
    };
    Ok(format!("{}/{}", place.collection_target(), encode(key)))
}

/// One segment of a path, or one value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A target with its query.
pub fn with_query(target: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut whole = target.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            whole.push_str(&format!("{separator}{name}={}", encode(value)));
            separator = '&';
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_slashes() {
        let place = Place::parse("home/sensors/kitchen/temp 1");
        assert_eq!(
            (place.namespace, place.collection, place.key),
            (Some("home"), Some("sensors"), Some("kitchen/temp 1"))
        );
        assert_eq!(place.collection_target(), "/api/v1/kv/home/sensors");
        assert_eq!(encode("kitchen/temp 1%ü~"), "kitchen%2Ftemp%201%25%C3%BC~");
    }

    #[test]
    fn parts_that_are_missing_are_not_there() {
        assert_eq!(Place::parse("home"), Place { namespace: Some("home"), ..Place::default() });
        assert_eq!(Place::parse("home/"), Place { namespace: Some("home"), ..Place::default() });
        assert_eq!(Place::parse(""), Place::default());
    }

    #[test]
    fn a_query_holds_what_is_there() {
        let parameters = [("prefix", Some("a&b".to_owned())), ("cursor", None), ("limit", Some("5".to_owned()))];
        assert_eq!(with_query("/x", &parameters), "/x?prefix=a%26b&limit=5");
        assert_eq!(with_query("/x", &[]), "/x");
    }
}
