//! JSON merge patches (RFC 7396). Pure; made on a worker, and once more by the committer if another write came between.
//!
//! It works on the text, not on a tree of values: what a patch does not touch stays verbatim, numbers of any precision
//! included, and an object of the present document is taken apart only where the patch has an object too. That is read
//! member by member; of its names only hashes are kept, so that repeated ones are known.
//!
//! Invariant: no document overflows the stack, and none takes many times its own memory. Objects of a patch nest at most
//! [`DEPTH_MAX`] deep and have [`MEMBERS_MAX`] members together; everything else is scanned without recursion.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::RandomState;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::{Problem, json, media};
use crate::store::{NewValue, Record, Update, UpdateRefused};

/// How deep the objects of a patch may nest.
pub const DEPTH_MAX: usize = 64;
/// How many members the objects of a patch may have together.
pub const MEMBERS_MAX: usize = 10_000;

/// The content type of a value that a patch made from nothing.
const CONTENT_TYPE: &str = "application/json";

/// A merge patch, taken apart once. It borrows what it was read from.
#[derive(Debug)]
pub enum Patch<'a> {
    /// An object: its members in order, each once.
    Object(Vec<(Cow<'a, str>, Patch<'a>)>),
    /// Removes a member.
    Null,
    /// Anything else replaces what is there; the text as sent.
    Other(&'a str),
}

/// A name, borrowed unless it holds escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name<'de>, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// Calls a function with each member of an object in order, repeated names included.
struct Each<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de str) -> Result<(), UpdateRefused>> DeserializeSeed<'de> for Each<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(Cow<'de, str>, &'de str) -> Result<(), UpdateRefused>> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            (self.0)(name, value.get()).map_err(|_| A::Error::custom("a member was refused"))?;
        }
        Ok(())
    }
}

fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// Goes through the members of a text that is an object.
fn each_member<'a>(
    object: &'a str,
    act: impl FnMut(Cow<'a, str>, &'a str) -> Result<(), UpdateRefused>,
) -> Result<(), UpdateRefused> {
    let mut text = serde_json::Deserializer::from_str(object);
    Each(act).deserialize(&mut text).map_err(|_| UpdateRefused::NotJson)
}

/// The members of an object whose names are repeated: of those the last counts, in the place of the first.
struct Repeated<'a> {
    hasher: RandomState,
    hashes: HashSet<u64>,
    last: HashMap<Cow<'a, str>, &'a str>,
}

impl<'a> Repeated<'a> {
    fn of(object: &'a str) -> Result<Repeated<'a>, UpdateRefused> {
        let hasher = RandomState::default();
        let mut all = Vec::new();
        each_member(object, |name, _| {
            all.push(hasher.hash_one(&name));
            Ok(())
        })?;
        all.sort_unstable();
        let hashes: HashSet<u64> = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        drop(all);
        let mut last = HashMap::new();
        if !hashes.is_empty() {
            each_member(object, |name, text| {
                if hashes.contains(&hasher.hash_one(&name)) {
                    last.insert(name, text);
                }
                Ok(())
            })?;
        }
        Ok(Repeated { hasher, hashes, last })
    }

    /// What counts in this place; nothing if the name stood before.
    fn counts(&mut self, name: &str, text: &'a str) -> Option<&'a str> {
        let may_be = !self.hashes.is_empty() && self.hashes.contains(&self.hasher.hash_one(name));
        if may_be { self.last.remove(name) } else { Some(text) }
    }
}

/// The text of a JSON document without blanks around it, if the bytes are one.
fn document(bytes: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(bytes).ok().map(RawValue::get)
}

impl<'a> Patch<'a> {
    /// Reads a patch. 400 `INVALID_JSON` if it is no JSON, nests too deep, or has too many members.
    pub fn parse(body: &'a [u8]) -> Result<Patch<'a>, Problem> {
        let text = document(json::without_mark(body)).ok_or_else(|| invalid("the body is not a JSON document"))?;
        Patch::take_apart(text, DEPTH_MAX, &mut 0)
    }

    fn take_apart(text: &'a str, depth_left: usize, members: &mut usize) -> Result<Patch<'a>, Problem> {
        if !is_object(text) {
            return Ok(if text == "null" { Patch::Null } else { Patch::Other(text) });
        }
        let deeper = depth_left.checked_sub(1).ok_or_else(|| invalid("the objects of the patch nest too deep"))?;
        let (mut places, mut all) = (HashMap::new(), Vec::<(Cow<'a, str>, &'a str)>::new());
        let read = each_member(text, |name, text| {
            *members += 1;
            if *members > MEMBERS_MAX {
                return Err(UpdateRefused::TooLarge);
            }
            match places.get(&name) {
                Some(&place) => {
                    let (_, earlier): &mut (_, &str) = &mut all[place];
                    *earlier = text;
                }
                None => {
                    places.insert(name.clone(), all.len());
                    all.push((name, text));
                }
            }
            Ok(())
        });
        if *members > MEMBERS_MAX {
            return Err(invalid("the objects of the patch have more than 10000 members; send several patches"));
        }
        read.map_err(|_| invalid("a name in the body is not valid text"))?;
        drop(places);
        let taken = all.into_iter().map(|(name, text)| Ok((name, Patch::take_apart(text, deeper, members)?)));
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
        let by_name: HashMap<&str, usize> = changes.iter().enumerate().map(|(at, (name, _))| (&**name, at)).collect();
        let mut is_known = vec![false; changes.len()];
        let mut object = ObjectWriter { out, is_empty: true };
        if let Some(present) = present.filter(|present| is_object(present)) {
            let mut repeated = Repeated::of(present)?;
            each_member(present, |name, text| {
                let Some(text) = repeated.counts(&name, text) else { return Ok(()) };
                match by_name.get(&*name).map(|at| (at, &changes[*at].1)) {
                    None => object.name(&name).extend_from_slice(text.as_bytes()),
                    Some((at, Patch::Null)) => is_known[*at] = true,
                    Some((at, patch)) => {
                        is_known[*at] = true;
                        patch.merge(Some(text), object.name(&name))?;
                    }
                }
                Ok(())
            })?;
        }
        for ((name, patch), _) in changes.iter().zip(is_known).filter(|(_, is_known)| !is_known) {
            if !matches!(patch, Patch::Null) {
                patch.merge(None, object.name(name))?;
            }
        }
        object.finish();
        Ok(())
    }
}

/// The update that a patch is. The content type stays if it says JSON. It holds the text alone, which was read before.
pub fn update(body: Bytes, value_bytes_max: u64) -> Update {
    Box::new(move |present: Option<&Record>| {
        let patch = Patch::parse(&body).map_err(|_| UpdateRefused::NotJson)?;
        let value = patch.apply(present.map(|record| &record.value[..]))?;
        if value.len() as u64 > value_bytes_max {
            return Err(UpdateRefused::TooLarge);
        }
        let json_type = present.map(|record| &record.content_type).filter(|known| media::is_json(known));
        let content_type = json_type.cloned().unwrap_or(Bytes::from_static(CONTENT_TYPE.as_bytes()));
        Ok(NewValue { content_type, value: value.into_boxed_slice().into() })
    })
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
        let nulls: Vec<String> = (0..MEMBERS_MAX).map(|n| format!("\"{n}\":null")).collect();
        let left = merged(&all("1"), &format!("{{{}}}", nulls.join(",")));
        assert_eq!(left.matches(":1").count(), 60_000 - MEMBERS_MAX);
        assert!(left.starts_with("{\"10000\":1,"));
    }

    #[test]
    fn the_members_of_a_patch_are_bounded_at_every_depth_together() {
        let members = |n: usize, value: &str| {
            let members: Vec<String> = (0..n).map(|n| format!("\"{n}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let code = |patch: &str| Patch::parse(patch.as_bytes()).map_or_else(|problem| problem.code, |_| "ok");
        assert_eq!(code(&members(MEMBERS_MAX, "1")), "ok");
        assert_eq!(code(&members(MEMBERS_MAX + 1, "1")), "INVALID_JSON");
        assert_eq!(code(&members(MEMBERS_MAX / 2, "{\"a\":1}")), "ok");
        assert_eq!(code(&members(MEMBERS_MAX / 2 + 1, "{\"a\":1}")), "INVALID_JSON");
        assert_eq!(
            code(&format!("{{\"a\":[{}]}}", vec!["{\"a\":1}"; MEMBERS_MAX + 1].join(","))),
            "ok",
            "a list is a value"
        );
        assert_eq!(code(&format!("{{{}}}", vec!["\"a\":1"; MEMBERS_MAX + 1].join(","))), "INVALID_JSON");
    }

    #[test]
    fn many_repeated_names_in_a_document_count_once_each() {
        let pairs: Vec<String> = (0..50_000).map(|n| format!("\"{}\":{n}", n % 25_000)).collect();
        let merged = merged(&format!("{{{}}}", pairs.join(",")), r#"{"7":null}"#);
        assert_eq!(merged.matches(':').count(), 24_999);
        assert!(merged.starts_with("{\"0\":25000,\"1\":25001,") && !merged.contains("\"7\":"), "{merged:.99}");
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
        let update = |max| update(Bytes::from_static(br#"{"a":1}"#), max);
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
