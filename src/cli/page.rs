//! A page of a list, as the commands read it: one value that no parser takes must not cost the whole collection.
//!
//! Servers of today send what is nested deeper than [`DEPTH_MAX`] as `value_base64`. Those of before did not: here the
//! page is taken apart without recursion, and such a value becomes what they would have sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::http::json;

/// A value with more brackets around one another is shown as its bytes: JSON parsers give up somewhere, many at 128.
pub const DEPTH_MAX: usize = 64;

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Names, or values with their key; nothing in them is deeper than [`DEPTH_MAX`].
    pub items: Vec<Value>,
    /// What the next page begins with.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next: Option<String>,
}

impl Page {
    /// Reads a page; the error says what it is instead.
    pub fn parse(body: &[u8]) -> Result<Page, String> {
        let page: RawPage<'_> = json::object(body).map_err(|error| format!("the answer is no list: {error}"))?;
        let items = page.items.into_iter().map(|item| shallow(item.get()));
        let items: Result<_, serde_json::Error> = items.collect();
        Ok(Page { items: items.map_err(|error| format!("the list is not understood: {error}"))?, next: page.next })
    }
}

/// An item whose members are no deeper than they may be.
fn shallow(item: &str) -> Result<Value, serde_json::Error> {
    if depth(item) <= DEPTH_MAX {
        return serde_json::from_str(item);
    }
    let mut shown = Map::new();
    for (name, member) in serde_json::from_str::<Members<'_>>(item)?.0 {
        match depth(member.get()) {
            deep if deep > DEPTH_MAX => shown.insert(format!("{name}_base64"), STANDARD.encode(member.get()).into()),
            _ => shown.insert(name, serde_json::from_str(member.get())?),
        };
    }
    Ok(shown.into())
}

/// The members of an object in their order, not yet looked at.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// How many brackets are open at once, at most, in text that is JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn a_deep_value_costs_no_other() {
        for (depth, deep) in [(1, false), (64, false), (65, true), (127, true), (128, true), (500_000, true)] {
            let value = nested(depth);
            let body = format!(
                r#"{{"items":[{{"key":"a","value":1.50}},{{"key":"b","value":{value},"size":3}},{{"key":"c"}}],"next":"n"}}"#
            );
            let page = Page::parse(body.as_bytes()).unwrap();
            assert_eq!((page.items.len(), page.next.as_deref()), (3, Some("n")));
            assert_eq!(page.items[0].to_string(), r#"{"key":"a","value":1.50}"#);
            let names: Vec<&String> = page.items[1].as_object().unwrap().keys().collect();
            assert_eq!(names, ["key", if deep { "value_base64" } else { "value" }, "size"]);
            if deep {
                assert_eq!(page.items[1]["value_base64"], STANDARD.encode(&value));
            }
        }
    }

    #[test]
    fn brackets_in_strings_are_not_deep() {
        assert_eq!(depth(r#"{"a":["[[[[",{"\"{{":"\\"},"]"]}"#), 3);
        assert_eq!(depth("\"[\""), 0);
        for body in [
            "",
            "[]",
            r#"[["a"],null]"#,
            "{}",
            r#"{"items":1}"#,
            r#"{"items":[1,]}"#,
            &format!(r#"{{"items":[{}]}}"#, nested(70)),
        ] {
            assert!(Page::parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Page::parse(br#"{"items":["a"],"next":null}"#).unwrap().next.is_none());
    }
}
