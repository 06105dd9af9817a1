//! JSON merge patches (RFC 7396). Pure; [`Patch::apply`] runs on the committer's thread.
//!
//! It works on the text, not on a tree of values: what a patch does not touch stays verbatim, numbers of any precision
//! included, and an object of the present document is taken apart only where the patch has an object too.
//!
//! Invariant: no document overflows the stack. Objects of a patch nest at most [`DEPTH_MAX`] deep; everything else is
//! scanned without recursion.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::{Problem, media};
use crate::store::{NewValue, Record, Update, UpdateRefused};

/// How deep the objects of a patch may nest.
pub const DEPTH_MAX: usize = 64;

/// The content type of a value that a patch made from nothing.
const CONTENT_TYPE: &str = "application/json";

/// A merge patch, taken apart once.
#[derive(Debug)]
pub enum Patch {
    /// An object: its members in order, each once.
    Object(Vec<(String, Patch)>),
    /// Removes a member.
    Null,
    /// Anything else replaces what is there; the text as sent.
    Other(Box<str>),
}

/// Members of an object in order, repeated names included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The members of an object, the last of repeated names winning in the place of the first. `None` if it is no object.
fn members(json: &str) -> Result<Option<Vec<(String, &str)>>, serde_json::Error> {
    if !json.trim_start().starts_with('{') {
        return Ok(None);
    }
    let Members(all) = serde_json::from_str(json)?;
    let mut places = HashMap::with_capacity(all.len());
    let mut members: Vec<(String, &str)> = Vec::with_capacity(all.len());
    for (name, value) in all {
        match places.get(&name) {
            Some(&place) => {
                let (_, earlier): &mut (String, &str) = &mut members[place];
                *earlier = value.get();
            }
            None => {
                places.insert(name.clone(), members.len());
                members.push((name, value.get()));
            }
        }
    }
    Ok(Some(members))
}

/// The text of a JSON document without blanks around it, if the bytes are one.
fn document(bytes: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(bytes).ok().map(RawValue::get)
}

impl Patch {
    /// Reads a patch. 400 `INVALID_JSON` if it is no JSON, or nests too deep.
    pub fn parse(body: &[u8]) -> Result<Patch, Problem> {
        let text = document(body).ok_or_else(|| invalid("the body is not a JSON document"))?;
        Patch::take_apart(text, DEPTH_MAX)
    }

    fn take_apart(text: &str, depth_left: usize) -> Result<Patch, Problem> {
        let Some(members) = members(text).map_err(|_| invalid("a name in the body is not valid text"))? else {
            return Ok(if text == "null" { Patch::Null } else { Patch::Other(text.into()) });
        };
        let deeper = depth_left.checked_sub(1).ok_or_else(|| invalid("the objects of the patch nest too deep"))?;
        let taken = members.into_iter().map(|(name, text)| Ok((name, Patch::take_apart(text, deeper)?)));
        taken.collect::<Result<_, Problem>>().map(Patch::Object)
    }

    /// What the patch makes of a document (`None`: absent, which counts as `{}`).
    pub fn apply(&self, present: Option<&[u8]>) -> Result<Vec<u8>, UpdateRefused> {
        let present = match present {
            None => None,
            Some(bytes) => Some(document(bytes).ok_or(UpdateRefused::NotJson)?),
        };
        let mut out = Vec::with_capacity(present.map_or(0, str::len) + 64);
        self.merge(present, &mut out)?;
        Ok(out)
    }

    fn merge(&self, present: Option<&str>, out: &mut Vec<u8>) -> Result<(), UpdateRefused> {
        let changes = match self {
            Patch::Object(changes) => changes,
            Patch::Null => {
                out.extend_from_slice(b"null");
                return Ok(());
            }
            Patch::Other(text) => {
                out.extend_from_slice(text.as_bytes());
                return Ok(());
            }
        };
        let kept = present.map_or(Ok(None), members).map_err(|_| UpdateRefused::NotJson)?.unwrap_or_default();
        let by_name: HashMap<&str, &Patch> = changes.iter().map(|(name, patch)| (name.as_str(), patch)).collect();
        let known: std::collections::HashSet<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();

        let mut object = ObjectWriter { out, is_empty: true };
        for (name, text) in &kept {
            match by_name.get(name.as_str()) {
                None => object.name(name).extend_from_slice(text.as_bytes()),
                Some(Patch::Null) => {}
                Some(patch) => patch.merge(Some(text), object.name(name))?,
            }
        }
        for (name, patch) in changes.iter().filter(|(name, _)| !known.contains(name.as_str())) {
            if !matches!(patch, Patch::Null) {
                patch.merge(None, object.name(name))?;
            }
        }
        object.finish();
        Ok(())
    }

    /// The update that the committer applies. The content type stays if it says JSON.
    pub fn into_update(self, value_bytes_max: u64) -> Update {
        Box::new(move |present: Option<&Record>| {
            let value = self.apply(present.map(|record| &record.value[..]))?;
            if value.len() as u64 > value_bytes_max {
                return Err(UpdateRefused::TooLarge);
            }
            let json_type = present.map(|record| &record.content_type).filter(|known| media::is_json(known));
            let content_type = json_type.cloned().unwrap_or(Bytes::from_static(CONTENT_TYPE.as_bytes()));
            Ok(NewValue { content_type, value: value.into() })
        })
    }
}

struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl ObjectWriter<'_> {
    /// Writes a name; its value is to be appended to what this returns.
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.push(if self.is_empty { b'{' } else { b',' });
        self.is_empty = false;
        super::item::push_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn finish(self) {
        self.out.extend_from_slice(if self.is_empty { b"{}" } else { b"}" });
    }
}

fn invalid(message: &'static str) -> Problem {
    Problem::new(400, "INVALID_JSON", message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn merged(present: &str, patch: &str) -> String {
        let patch = Patch::parse(patch.as_bytes()).unwrap();
        String::from_utf8(patch.apply(Some(present.as_bytes())).unwrap()).unwrap()
    }

    #[test]
    fn the_examples_of_the_rfc_come_out_as_printed_there() {
        for (present, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(present, patch), expected, "{present} with {patch}");
        }
        let document = r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}"#;
        let patch =
            r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#;
        let expected = r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}"#;
        assert_eq!(merged(document, patch), expected);
    }

    #[test]
    fn what_is_not_touched_stays_verbatim() {
        let present =
            "{\"n\": 1.10e400, \"big\":123456789012345678901234567890, \"s\":\"\\u00e9\\/\", \"l\":[ 1, null ]}";
        let out = merged(present, r#"{"x":-0.0}"#);
        for text in ["1.10e400", "123456789012345678901234567890", "\"\\u00e9\\/\"", "[ 1, null ]", "-0.0"] {
            assert!(out.contains(text), "{out}");
        }
        let odd = r#"{"$serde_json::private::Number":"1","$serde_json::private::RawValue":"2"}"#;
        assert_eq!(merged(odd, r#"{"a":1}"#), format!("{},\"a\":1}}", &odd[..odd.len() - 1]));
    }

    #[test]
    fn names_are_compared_decoded_and_the_last_of_repeated_ones_wins() {
        assert_eq!(merged(r#"{"a":1,"b":2}"#, r#"{"\u0061":null}"#), r#"{"b":2}"#);
        assert_eq!(merged(r#"{"a":1,"b":2,"a":3}"#, r#"{"c":4}"#), r#"{"a":3,"b":2,"c":4}"#);
        assert_eq!(merged(r#"{"a":1}"#, r#"{"a":2,"a":null}"#), "{}");
        assert_eq!(merged("{}", r#"{"\"\n":1}"#), r#"{"\"\n":1}"#);
    }

    #[test]
    fn an_absent_document_counts_as_an_empty_object() {
        let apply = |patch: &str| Patch::parse(patch.as_bytes()).unwrap().apply(None).unwrap();
        assert_eq!(apply(r#"{"a":1,"b":null}"#), b"{\"a\":1}");
        assert_eq!(apply("{}"), b"{}");
        assert_eq!(apply("5"), b"5");
    }

    #[test]
    fn values_that_are_no_json_are_refused() {
        let patch = Patch::parse(b"{}").unwrap();
        for value in ["", "{", "text", "{} x", "\u{feff}{}"] {
            assert_eq!(patch.apply(Some(value.as_bytes())), Err(UpdateRefused::NotJson), "{value}");
        }
        assert_eq!(patch.apply(Some(b"\"\xff\"")), Err(UpdateRefused::NotJson));
        assert_eq!(Patch::parse(b"{").unwrap_err().code, "INVALID_JSON");
        assert_eq!(Patch::parse(br#"{"\ud800":1}"#).unwrap_err().code, "INVALID_JSON");
    }

    #[test]
    fn deep_documents_neither_overflow_the_stack_nor_get_lost() {
        let deep_list = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(merged(&deep_list, r#"{"a":1}"#), r#"{"a":1}"#);
        assert_eq!(merged("{}", &format!("{{\"a\":{deep_list}}}")), format!("{{\"a\":{deep_list}}}"));
        let deep_object = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(Patch::parse(deep_object(200_000).as_bytes()).unwrap_err().message.contains("deep"));
        assert!(Patch::parse(deep_object(DEPTH_MAX + 1).as_bytes()).is_err());
        let deepest = deep_object(DEPTH_MAX);
        assert_eq!(merged(&deep_object(20_000), &deepest), deepest);
    }

    #[test]
    fn removing_many_members_of_a_large_object_takes_no_quadratic_time() {
        let all = |value: &str| {
            let members: Vec<String> = (0..60_000).map(|n| format!("\"{n}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert_eq!(merged(&all("1"), &all("null")), "{}");
    }

    #[test]
    fn the_update_keeps_a_json_type_and_the_size_limit() {
        let record = |content_type: &'static str| Record {
            version: 1,
            modified_ms: 0,
            expires_ms: 0,
            content_type: Bytes::from_static(content_type.as_bytes()),
            value: Bytes::from_static(b"{}"),
        };
        let update = |max| Patch::parse(br#"{"a":1}"#).unwrap().into_update(max);
        let made_of = |content_type| update(100)(Some(&record(content_type))).unwrap_or_else(|_| panic!()).content_type;
        assert_eq!(made_of("application/ld+json"), "application/ld+json");
        assert_eq!(made_of("text/plain"), "application/json");
        assert_eq!(update(6)(None).err(), Some(UpdateRefused::TooLarge));
        assert!(update(7)(None).is_ok());
    }

    /// The pseudo code of RFC 7396 §2, as it stands there.
    fn reference(target: Value, patch: Value) -> Value {
        let Value::Object(changes) = patch else { return patch };
        let mut object = if let Value::Object(object) = target { object } else { serde_json::Map::new() };
        for (name, value) in changes {
            if value.is_null() {
                object.shift_remove(&name);
            } else {
                let before = object.get(&name).cloned().unwrap_or(Value::Null);
                object.insert(name, reference(before, value));
            }
        }
        Value::Object(object)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            2 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => "\\PC{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => proptest::collection::vec(("[a-d\"\\\\é]{1,2}", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_result_is_that_of_the_rfc(target in any_json(), patch in any_json()) {
            let out = merged(&target.to_string(), &patch.to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), reference(target, patch));
        }

        #[test]
        fn a_patch_applied_twice_changes_nothing_more(target in any_json(), patch in any_json()) {
            let once = merged(&target.to_string(), &patch.to_string());
            prop_assert_eq!(merged(&once, &patch.to_string()), once);
        }
    }

    #[test]
    fn a_reference_that_forgets_would_be_noticed() {
        assert_eq!(reference(json!({"a": {"b": 1}}), json!({"a": {"b": null}})), json!({"a": {}}));
    }
}
