//! Lists against a filtered, sorted model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::metrics::Counter;
use crate::store::memory::MemoryStore;
use crate::store::{Store, record};

const NOW_MS: u64 = 1000;
const EXPIRED_MS: u64 = NOW_MS;
const WHERE: (&str, &str) = ("home", "sensors");
const PATIENT: PageBudget =
    PageBudget { bytes_max: PAGE_BYTES, skipped_max: 10_000, time_max: Duration::from_secs(3600) };

fn record(value: &str, expires_ms: u64) -> Record {
    let content_type = Bytes::from_static(b"text/plain");
    Record { version: 7, modified_ms: 0, expires_ms, content_type, value: Bytes::copy_from_slice(value.as_bytes()) }
}

/// A store with these keys in the collection, and others around it that must never show.
fn snapshot(records: &BTreeMap<String, Record>) -> Arc<dyn Snapshot> {
    let store = MemoryStore::new();
    let change = |key: FullKey, record: &Record| (Space::Data, key.shared(), Some(record::encode(record)));
    let mut changes: Vec<_> =
        records.iter().map(|(key, record)| change(FullKey::new(WHERE.0, WHERE.1, key), record)).collect();
    for (namespace, collection) in [("home", "sensor"), ("home", "sensorsx"), ("hom", "sensors"), ("home-2", "sensors")]
    {
        changes.push(change(FullKey::new(namespace, collection, "a"), &record("x", 0)));
    }
    store.commit(changes, true).unwrap();
    store.snapshot().unwrap()
}

fn no_damage() -> Damage {
    Damage::new(Counter::default(), false)
}

fn keys(count: usize) -> BTreeMap<String, Record> {
    (0..count).map(|n| (format!("{n:05}"), record("x", 0))).collect()
}

fn ask(records: &BTreeMap<String, Record>, raw: &str, budget: PageBudget) -> (Vec<String>, Option<String>) {
    let query = ListQuery::parse(raw, WHERE.0, WHERE.1).unwrap();
    let json = page(&*snapshot(records), WHERE, &query, &Moment::at(NOW_MS), budget, no_damage()).unwrap();
    let page: Value = serde_json::from_slice(&json).unwrap();
    let keys = page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect();
    (keys, page["next"].as_str().map(str::to_owned))
}

#[test]
fn a_page_has_its_limit_and_the_way_to_the_next() {
    let records = keys(250);
    let (first, next) = ask(&records, "", PATIENT);
    assert_eq!((first.len(), first[99].as_str()), (100, "00099"));
    let (last, end) = ask(&records, &format!("limit=1000&cursor={}", next.unwrap()), PATIENT);
    assert_eq!((last.len(), last[0].as_str(), end), (150, "00100", None));
    assert_eq!(ask(&records, "limit=250", PATIENT).1, None, "a page that holds all of it leads nowhere");
}

#[test]
fn a_page_ends_early_for_each_reason_and_goes_on_where_it_ended() {
    let mut records = keys(30);
    for n in 0..20 {
        records.insert(format!("{n:05}"), record("x", EXPIRED_MS));
    }
    let reasons = [
        PageBudget { skipped_max: 7, ..PATIENT },
        PageBudget { bytes_max: 300, ..PATIENT },
        PageBudget { time_max: Duration::ZERO, ..PATIENT },
    ];
    for budget in reasons {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (keys, next) = ask(&records, &cursor, budget);
            seen.extend(keys);
            pages += 1;
            let Some(next) = next else { break };
            cursor = format!("cursor={next}");
        }
        let expected: Vec<String> = (20..30).map(|n| format!("{n:05}")).collect();
        assert_eq!(seen, expected, "{budget:?}");
        assert!(pages > 2, "{budget:?}: {pages} pages");
    }
}

#[test]
fn an_item_larger_than_a_page_stands_alone() {
    let mut records = keys(3);
    records.insert("00001".into(), record(&"x".repeat(5000), 0));
    let budget = PageBudget { bytes_max: 1000, ..PATIENT };
    let (first, next) = ask(&records, "", budget);
    assert_eq!(first, ["00000"]);
    let (second, _) = ask(&records, &format!("cursor={}", next.unwrap()), budget);
    assert_eq!(second, ["00001"]);
}

#[test]
fn a_cursor_survives_the_removal_of_its_key_and_another_limit() {
    let mut records = keys(10);
    let (_, next) = ask(&records, "limit=5&values=true", PATIENT);
    records.remove("00004");
    let (rest, _) = ask(&records, &format!("limit=2&values=false&cursor={}", next.unwrap()), PATIENT);
    assert_eq!(rest, ["00005", "00006"]);
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let (_, next) = ask(&keys(10), "limit=5&prefix=0", PATIENT);
    let next = next.unwrap();
    for raw in ["", "prefix=00", "prefix=0&reverse=true", "prefix=0&start=1", "prefix=0&end=1"] {
        let problem = ListQuery::parse(&format!("{raw}&cursor={next}"), WHERE.0, WHERE.1).unwrap_err();
        assert_eq!(problem.code, "INVALID_CURSOR", "{raw}");
    }
    assert!(ListQuery::parse(&format!("prefix=0&cursor={next}"), "home", "other").is_err());
}

#[test]
fn bad_parameters_are_refused() {
    for raw in ["limit=0", "limit=1001", "limit=x", "reverse=1", "values=no", "prefix=%", "x=1", "limit=1&limit=1"] {
        assert_eq!(ListQuery::parse(raw, "n", "c").unwrap_err().code, "INVALID_QUERY", "{raw}");
    }
    assert_eq!(ListQuery::parse("cursor=x", "n", "c").unwrap_err().code, "INVALID_CURSOR");
    assert!(
        ListQuery::parse_stream("limit=5", "n", "c").is_err() && ListQuery::parse_stream("cursor=x", "n", "c").is_err()
    );
    assert!(ListQuery::parse_stream("prefix=a&reverse=true", "n", "c").is_ok());
}

fn lines(records: &BTreeMap<String, Record>, options: LineOptions) -> Lines {
    let range = ListQuery::default().bounds(WHERE.0, WHERE.1).unwrap();
    Lines::new(Walk::new(snapshot(records), Some(range), false), Box::new(|| Moment::at(NOW_MS)), options, no_damage())
}

fn line_options() -> LineOptions {
    LineOptions { paths: false, values: true, since: 0, version: 9120 }
}

#[test]
fn a_stream_ends_with_its_count_and_version() {
    let mut records = keys(3);
    records.insert("00001".into(), record("x", EXPIRED_MS));
    let mut out = Vec::new();
    assert!(!lines(&records, line_options()).pull(&mut out).unwrap());
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["key"], &lines[1]["key"]), (&"00000".into(), &"00002".into()));
    assert_eq!(lines[0]["value_base64"], "eA==");
    assert_eq!(lines[2], json!({"end": true, "items": 2, "version": 9120}));
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_stream_is_made_in_pieces_of_bounded_size() {
    let mut records = keys(0);
    for n in 0..500 {
        records.insert(format!("{n:05}"), record(&"x".repeat(1000), 0));
    }
    let mut lines = lines(&records, LineOptions { paths: true, ..line_options() });
    let (mut pieces, mut total) = (0, 0);
    loop {
        let mut piece = Vec::new();
        let more = lines.pull(&mut piece).unwrap();
        assert!(piece.len() < PIECE_BYTES + 2000);
        (pieces, total) = (pieces + 1, total + piece.iter().filter(|byte| **byte == b'\n').count());
        if !more {
            break;
        }
    }
    assert_eq!(total, 501);
    assert!(pieces > 5);
}

#[test]
fn a_stream_that_passes_over_many_records_pauses_between() {
    let count = 2 * SKIPPING.skipped_max + 1;
    let mut lines = lines(&keys(count), LineOptions { since: 7, ..line_options() });
    let (mut out, mut pulls) = (Vec::new(), 1);
    while lines.pull(&mut out).unwrap() {
        assert!(out.is_empty());
        pulls += 1;
    }
    assert!(pulls >= 3, "{pulls}");
    assert_eq!(out, b"{\"end\":true,\"items\":0,\"version\":9120}\n");
}

#[test]
fn a_stream_can_leave_out_what_is_old() {
    let mut out = Vec::new();
    lines(&keys(3), LineOptions { since: 7, ..line_options() }).pull(&mut out).unwrap();
    assert_eq!(out, b"{\"end\":true,\"items\":0,\"version\":9120}\n");
}

/// A snapshot in which the walk meets these errors instead of the records of these keys.
struct Holes(Arc<dyn Snapshot>, BTreeMap<&'static str, fn() -> StoreError>);

impl Snapshot for Holes {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(space, key)
    }

    fn range(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
        let holes = self.1.clone();
        Box::new(self.0.range(space, range, reverse).map(move |pair| {
            let pair = pair?;
            let name = FullKey::from_stored(pair.0.clone()).unwrap().parts().2.to_owned();
            holes.get(&*name).map_or(Ok(pair), |error| Err(error()))
        }))
    }
}

/// The keys 00000 to 00009, of which 2 and 3 are damaged and 5 is hidden.
fn damaged_snapshot() -> Holes {
    let store = MemoryStore::new();
    let form = |n: u32| if [2, 3].contains(&n) { Bytes::from_static(b"\xff") } else { record::encode(&record("x", 0)) };
    let change = |n: u32| (Space::Data, FullKey::new(WHERE.0, WHERE.1, &format!("{n:05}")).shared(), Some(form(n)));
    store.commit((0..10).map(change).collect(), true).unwrap();
    let hidden: fn() -> StoreError = || StoreError::Unreadable("a block".into());
    Holes(store.snapshot().unwrap(), BTreeMap::from([("00005", hidden)]))
}

#[test]
fn pages_go_on_past_damage_and_tell_of_it_once() {
    for (reverse, limit) in [(false, 100), (true, 100), (false, 1), (true, 3)] {
        let (mut seen, mut damaged, mut raw) = (Vec::new(), Vec::new(), format!("reverse={reverse}&limit={limit}"));
        for turn in 0.. {
            assert!(turn < 20, "no progress");
            let query = ListQuery::parse(&raw, WHERE.0, WHERE.1).unwrap();
            let json = page(&damaged_snapshot(), WHERE, &query, &Moment::at(NOW_MS), PATIENT, no_damage()).unwrap();
            let page: Value = serde_json::from_slice(&json).unwrap();
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()));
            damaged.extend(page.get("damaged").and_then(Value::as_array).cloned().unwrap_or_default());
            let Some(next) = page["next"].as_str() else { break };
            raw = format!("reverse={reverse}&limit={limit}&cursor={next}");
        }
        let mut readable: Vec<String> = [0, 1, 4, 6, 7, 8, 9].iter().map(|n| format!("{n:05}")).collect();
        let mut places = vec![json!({"key": "00002"}), json!({"key": "00003"}), json!({"after": "00004"})];
        if reverse {
            readable.reverse();
            places = vec![json!({"after": "00006"}), json!({"key": "00003"}), json!({"key": "00002"})];
        }
        assert_eq!(seen, readable);
        // What lies at the end of a page may be met by the next one too.
        damaged.dedup();
        assert_eq!(damaged, places);
    }
}

#[test]
fn a_stream_goes_on_past_damage_and_ends_with_word_of_it() {
    let snapshot = damaged_snapshot();
    let range = ListQuery::default().bounds(WHERE.0, WHERE.1).unwrap();
    let mut lines = Lines::new(
        Walk::new(Arc::new(snapshot), Some(range), false),
        Box::new(|| Moment::at(NOW_MS)),
        line_options(),
        no_damage(),
    );
    let mut out = Vec::new();
    assert!(!lines.pull(&mut out).unwrap());
    let end: Value = serde_json::from_str(std::str::from_utf8(&out).unwrap().lines().last().unwrap()).unwrap();
    let places = json!([{"key": "00002"}, {"key": "00003"}, {"after": "00004"}]);
    assert_eq!(end, json!({"end": true, "items": 7, "version": 9120, "damaged": places}));
}

#[test]
fn a_walk_that_ends_before_its_end_fails_a_page_and_cuts_a_stream() {
    let mut holes = damaged_snapshot();
    holes.1.insert("00007", || StoreError::Corrupt("an index".into()));
    let query = ListQuery::parse("", WHERE.0, WHERE.1).unwrap();
    assert!(page(&holes, WHERE, &query, &Moment::at(NOW_MS), PATIENT, no_damage()).is_err());
    let range = query.bounds(WHERE.0, WHERE.1).unwrap();
    let mut lines = Lines::new(
        Walk::new(Arc::new(holes), Some(range), false),
        Box::new(|| Moment::at(0)),
        line_options(),
        no_damage(),
    );
    assert!(lines.pull(&mut Vec::new()).is_err());
}

/// A snapshot that is taken away before this key, met forwards or backwards.
fn taken_away(records: &BTreeMap<String, Record>, at: &'static str) -> Arc<dyn Snapshot> {
    Arc::new(Holes(snapshot(records), BTreeMap::from([(at, (|| StoreError::Revoked) as fn() -> StoreError)])))
}

#[test]
fn a_walk_through_all_goes_on_in_newer_snapshots_and_meets_each_key_once() {
    for (reverse, first, second, late) in [(false, "00004", "00006", "00009a"), (true, "00006", "00004", "00000a")] {
        let mut changed = keys(10);
        changed.insert("00005".into(), record("new", 0));
        changed.insert("00000a".into(), record("new", 0));
        changed.insert("00009a".into(), record("new", 0));
        let newer = vec![snapshot(&changed), taken_away(&keys(10), second), taken_away(&keys(10), second)];
        let newer = parking_lot::Mutex::new(newer);
        let range = ListQuery::default().bounds(WHERE.0, WHERE.1);
        let first = taken_away(&keys(10), first);
        let walk = Walk::new(first, range, reverse).through_all(Box::new(move || newer.lock().pop().unwrap()));
        let mut lines = Lines::new(walk, Box::new(|| Moment::at(NOW_MS)), line_options(), no_damage());
        let mut out = Vec::new();
        assert!(!lines.pull(&mut out).unwrap());
        let lines: Vec<Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut seen: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
        assert_eq!(lines.last().unwrap(), &json!({"end": true, "items": 11, "version": 9120, "views": 4}));
        assert_eq!(seen.iter().filter(|key| **key == late).count(), 1);
        seen.retain(|key| *key != late);
        if reverse {
            seen.reverse();
        }
        let expected: Vec<String> = (0..10).map(|n| format!("{n:05}")).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_walk_whose_only_snapshot_is_taken_away_fails() {
    let one = taken_away(&keys(10), "00004");
    let range = || ListQuery::default().bounds(WHERE.0, WHERE.1);
    let same = one.clone();
    for walk in [
        Walk::new(one.clone(), range(), false),
        Walk::new(one.clone(), range(), false).through_all(Box::new(move || same.clone())),
    ] {
        let mut lines = Lines::new(walk, Box::new(|| Moment::at(NOW_MS)), line_options(), no_damage());
        let mut out = Vec::new();
        assert!(matches!(lines.pull(&mut out), Err(StoreError::Revoked)));
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 4, "what came before is there");
    }
}

fn any_key() -> impl Strategy<Value = String> {
    "[ab\u{1}é\u{10ffff}/]{1,4}"
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ab\u{1}é\u{10ffff}/]{0,3}"]
}

fn model(records: &BTreeMap<String, Record>, asked: &ListQuery) -> Vec<String> {
    let fits = |key: &str| {
        key.starts_with(&asked.prefix)
            && key >= asked.start.as_str()
            && (asked.end.is_empty() || key < asked.end.as_str())
    };
    let live = records.iter().filter(|(_, record)| record.expires_ms == 0).map(|(key, _)| key.clone());
    let mut keys: Vec<String> = live.filter(|key| fits(key)).collect();
    if asked.reverse {
        keys.reverse();
    }
    keys
}

proptest! {
    #[test]
    fn any_list_equals_the_filtered_sorted_model_also_when_paged(
        content in proptest::collection::btree_map(any_key(), any::<bool>(), 0..40),
        prefix in any_text(), start in any_text(), end in any_text(),
        reverse: bool, values: bool, limit in 1usize..12, skipped_max in 1usize..6, bytes_max in 50usize..2000,
    ) {
        let records: BTreeMap<String, Record> = content.into_iter()
            .map(|(key, expired)| (key, record("value", if expired { EXPIRED_MS } else { 0 })))
            .collect();
        let snapshot = snapshot(&records);
        let mut asked = ListQuery { prefix, start, end, reverse, limit, values, after: None };
        let budget = PageBudget { bytes_max, skipped_max, ..PATIENT };
        let question = asked.question(WHERE.0, WHERE.1);
        let mut seen = Vec::new();
        for turn in 0.. {
            prop_assert!(turn <= 2 * records.len(), "no progress");
            let json = page(&*snapshot, WHERE, &asked, &Moment::at(NOW_MS), budget, no_damage()).unwrap();
            let page: Value = serde_json::from_slice(&json).unwrap();
            let items = page["items"].as_array().unwrap();
            prop_assert!(items.len() <= limit);
            for item in items {
                prop_assert_eq!(item.get("value_base64").is_some(), values);
                seen.push(item["key"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => asked.after = Some(cursor::decode(question, next).unwrap()),
                None => break,
            }
        }
        prop_assert_eq!(seen, model(&records, &asked));
    }

    #[test]
    fn a_stream_equals_the_model(
        content in proptest::collection::btree_map(any_key(), any::<bool>(), 0..40),
        prefix in any_text(), start in any_text(), end in any_text(), reverse: bool,
    ) {
        let records: BTreeMap<String, Record> = content.into_iter()
            .map(|(key, expired)| (key, record("value", if expired { EXPIRED_MS } else { 0 })))
            .collect();
        let asked = ListQuery { prefix, start, end, reverse, ..ListQuery::default() };
        let expected = model(&records, &asked);
        let pairs = Walk::new(snapshot(&records), asked.bounds(WHERE.0, WHERE.1), reverse);
        let mut out = Vec::new();
        prop_assert!(!Lines::new(pairs, Box::new(|| Moment::at(NOW_MS)), line_options(), no_damage()).pull(&mut out).unwrap());
        let seen: Vec<String> = String::from_utf8(out).unwrap().lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().map(str::to_owned))
            .collect();
        prop_assert_eq!(seen, expected);
    }
}
