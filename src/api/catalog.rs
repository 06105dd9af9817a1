//! The namespaces of the store, and the collections of a namespace: found by seeking from name to name, so that their
//! cost is that of the names and not of the records under them.
//!
//! A name shows as long as something under it has not expired; names under which everything has are passed over within
//! the budget of a page.
//!
//! A name whose keys the card has damaged may be missing: a page tells in how many places, `"unreadable":n`, if any.
//!
//! Invariant: pages joined by their cursors show every other name once, in byte order. A name that the asker may not see
//! leaves no trace, and none in a cursor, however a page ends: such names are jumped over.

use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;

use crate::http::Problem;
use crate::http::query::Query;
use crate::http::wire::push_decimal;
use crate::limits::{LIST_ITEMS_DEFAULT, LIST_ITEMS_MAX};
use crate::store::bounds::{self, KeyRange};
use crate::store::{Moment, Snapshot, StoreError, TYPE_RECORD, record};

use super::cursor;
use super::item::push_text;
use super::listing::{PageBudget, successor, walk};

/// What is asked of a list of names.
#[derive(Clone, Debug)]
pub struct NamesQuery<'a> {
    /// The namespace whose collections are asked for; `None`: the namespaces.
    pub namespace: Option<&'a str>,
    /// Names on a page.
    pub limit: usize,
    /// Where the page before ended, relative to what all the keys begin with.
    pub after: Option<String>,
}

impl<'a> NamesQuery<'a> {
    /// Reads the query (`limit`, `cursor`). 400 `INVALID_QUERY` or `INVALID_CURSOR`.
    pub fn parse(raw: &str, namespace: Option<&'a str>) -> Result<NamesQuery<'a>, Problem> {
        let query = Query::parse(raw, &["limit", "cursor"])?;
        let limit = query.u64("limit", 1..=LIST_ITEMS_MAX as u64)?.map_or(LIST_ITEMS_DEFAULT, |limit| limit as usize);
        let after = query.get("cursor").map(|text| cursor::decode(question(namespace), text)).transpose()?;
        Ok(NamesQuery { namespace, limit, after })
    }

    fn prefix(&self) -> Vec<u8> {
        let mut prefix = vec![TYPE_RECORD];
        if let Some(namespace) = self.namespace {
            prefix.extend_from_slice(namespace.as_bytes());
            prefix.push(0);
        }
        prefix
    }
}

fn question(namespace: Option<&str>) -> u64 {
    match namespace {
        None => cursor::question(&["namespaces"], false),
        Some(namespace) => cursor::question(&["collections", namespace], false),
    }
}

/// One page as JSON: `{"items":["…"],"next":"…"|null}`, with those of the names in `visible` that there are; `None`: all.
pub fn page(
    snapshot: &dyn Snapshot,
    query: &NamesQuery<'_>,
    visible: Option<&[String]>,
    moment: &Moment,
    budget: PageBudget,
) -> Result<Vec<u8>, StoreError> {
    let began_at = Instant::now();
    let prefix = query.prefix();
    let full = |rest: &str| Bytes::from([&prefix, rest.as_bytes()].concat());
    let mut low = query.after.as_deref().map_or(Bound::Included(full("")), |after| Bound::Excluded(full(after)));
    let high = successor(&prefix);
    let mut names: Vec<String> = Vec::new();
    let (mut place, mut skipped, mut more, mut unreadable) = (query.after.clone(), 0, false, 0);
    'seek: loop {
        let range: KeyRange = (low.clone(), Bound::Excluded(high.clone()));
        if *bounds::key_of(&low) >= high {
            break;
        }
        for pair in walk(snapshot, &range, false) {
            let (key, form) = match pair {
                Err(StoreError::Unreadable(_)) => {
                    unreadable += 1;
                    continue;
                }
                pair => pair?,
            };
            let rest = std::str::from_utf8(&key[prefix.len()..]).map_err(|_| foreign())?;
            let name = rest.split('\0').next().ok_or_else(foreign)?;
            if let Some(visible) = visible.filter(|visible| !visible.iter().any(|one| one == name)) {
                let Some(next) = visible.iter().filter(|one| one.as_str() > name).min() else { break 'seek };
                low = Bound::Included(full(next));
                continue 'seek;
            }
            let over = skipped >= budget.skipped_max || began_at.elapsed() >= budget.time_max;
            if names.len() == query.limit || (over && place != query.after) {
                more = true;
                break 'seek;
            }
            // A name with nothing but a damaged record shows, so that this can be found and removed.
            if record::peek_life(&form).is_ok_and(|life| moment.has_expired(&life)) {
                skipped += 1;
                place = Some(rest.to_owned());
                continue;
            }
            names.push(name.to_owned());
            let behind = format!("{name}\u{1}");
            low = Bound::Included(full(&behind));
            place = Some(behind);
            continue 'seek;
        }
        break;
    }
    Ok(render(
        &names,
        unreadable,
        place.filter(|_| more).map(|place| cursor::encode(question(query.namespace), &place)),
    ))
}

fn foreign() -> StoreError {
    StoreError::Corrupt("a key that larder does not write".into())
}

fn render(names: &[String], unreadable: u64, next: Option<String>) -> Vec<u8> {
    let mut out = b"{\"items\":[".to_vec();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_text(&mut out, name);
    }
    out.push(b']');
    if unreadable > 0 {
        out.extend_from_slice(b",\"unreadable\":");
        push_decimal(&mut out, unreadable);
    }
    out.extend_from_slice(b",\"next\":");
    match next {
        Some(next) => push_text(&mut out, &next),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{FullKey, Pair, Record, Space, Store};

    const PATIENT: PageBudget =
        PageBudget { bytes_max: 1 << 20, skipped_max: 10_000, time_max: Duration::from_secs(3600) };

    fn snapshot(keys: &[(&str, &str, &str, bool)]) -> Arc<dyn Snapshot> {
        let store = MemoryStore::new();
        let changes = keys.iter().map(|(namespace, collection, key, expired)| {
            let expires_ms = u64::from(*expired);
            let record =
                Record { version: 1, modified_ms: 0, expires_ms, content_type: Bytes::new(), value: Bytes::new() };
            (Space::Data, FullKey::new(namespace, collection, key).shared(), Some(record::encode(&record)))
        });
        store.commit(changes.collect(), true).unwrap();
        store.snapshot().unwrap()
    }

    /// All pages, joined, and how many there were.
    fn all(snapshot: &dyn Snapshot, namespace: Option<&str>, limit: usize, budget: PageBudget) -> (Vec<String>, usize) {
        seen(snapshot, namespace, None, limit, budget)
    }

    /// The same for somebody who may see these names only; no cursor on the way holds another.
    fn seen(
        snapshot: &dyn Snapshot,
        namespace: Option<&str>,
        visible: Option<&[String]>,
        limit: usize,
        budget: PageBudget,
    ) -> (Vec<String>, usize) {
        let (mut names, mut raw, mut pages) = (Vec::new(), format!("limit={limit}"), 0);
        loop {
            let query = NamesQuery::parse(&raw, namespace).unwrap();
            let answer = page(snapshot, &query, visible, &Moment::at(5), budget).unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            names.extend(answer["items"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
            pages += 1;
            match answer["next"].as_str() {
                Some(next) => {
                    let place = cursor::decode(question(namespace), next).unwrap();
                    let name = place.split(['\0', '\u{1}']).next().unwrap();
                    assert!(
                        visible.is_none_or(|visible| visible.iter().any(|one| one == name)),
                        "{place:?} in a cursor"
                    );
                    raw = format!("limit={limit}&cursor={next}");
                }
                None => return (names, pages),
            }
            assert!(pages < 1000, "no progress");
        }
    }

    const KEYS: &[(&str, &str, &str, bool)] = &[
        ("a", "x", "1", false),
        ("a", "x", "2", false),
        ("a", "x.y", "1", false),
        ("a", "z", "1", true),
        ("a-b", "x", "1", false),
        ("gone", "x", "1", true),
        ("gone", "y", "1", true),
        ("hidden", "x", "1", false),
        ("late", "x", "1", true),
        ("late", "y", "9", false),
    ];

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_show_once_if_something_under_them_lives() {
        let snapshot = snapshot(KEYS);
        assert_eq!(all(&*snapshot, None, 100, PATIENT), (owned(&["a", "a-b", "hidden", "late"]), 1));
        assert_eq!(all(&*snapshot, Some("a"), 100, PATIENT).0, ["x", "x.y"]);
        assert_eq!(all(&*snapshot, Some("late"), 100, PATIENT).0, ["y"]);
        assert!(all(&*snapshot, Some("nothing"), 100, PATIENT).0.is_empty());
    }

    #[test]
    fn pages_that_end_early_go_on_where_they_ended() {
        let snapshot = snapshot(KEYS);
        let budgets =
            [PATIENT, PageBudget { skipped_max: 1, ..PATIENT }, PageBudget { time_max: Duration::ZERO, ..PATIENT }];
        for budget in budgets {
            let (names, pages) = all(&*snapshot, None, 1, budget);
            assert_eq!(names, ["a", "a-b", "hidden", "late"]);
            assert!(pages >= 4);
        }
    }

    #[test]
    fn names_that_may_not_be_seen_leave_no_trace_however_a_page_ends() {
        let snapshot = snapshot(KEYS);
        let budgets = [
            PATIENT,
            PageBudget { skipped_max: 0, ..PATIENT },
            PageBudget { skipped_max: 1, ..PATIENT },
            PageBudget { time_max: Duration::ZERO, ..PATIENT },
        ];
        for (visible, expected) in [
            (&["late", "a"][..], &["a", "late"][..]),
            (&["a"], &["a"]),
            (&["a-b"], &["a-b"]),
            (&["late"], &["late"]),
            (&["gone"], &[]),
            (&["gone", "late"], &["late"]),
            (&["nothing", "a.b", "zz"], &[]),
            (&["a-", "hidde", "hiddeo"], &[]),
        ] {
            for budget in budgets {
                for limit in [1, 2, 100] {
                    let (names, _) = seen(&*snapshot, None, Some(&owned(visible)), limit, budget);
                    assert_eq!(names, expected, "{visible:?} {limit} {budget:?}");
                }
            }
        }
    }

    #[test]
    fn a_cursor_of_namespaces_is_none_of_collections() {
        let snapshot = snapshot(KEYS);
        let query = NamesQuery::parse("limit=1", None).unwrap();
        let answer = page(&*snapshot, &query, None, &Moment::at(5), PATIENT).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let raw = format!("cursor={}", answer["next"].as_str().unwrap());
        assert!(NamesQuery::parse(&raw, None).is_ok());
        assert_eq!(NamesQuery::parse(&raw, Some("a")).unwrap_err().code, "INVALID_CURSOR");
        assert_eq!(NamesQuery::parse("limit=0", None).unwrap_err().code, "INVALID_QUERY");
        assert_eq!(NamesQuery::parse("prefix=a", None).unwrap_err().code, "INVALID_QUERY");
    }

    /// Counts the pairs that are read.
    struct Counting(Arc<dyn Snapshot>, Arc<AtomicUsize>);

    impl Snapshot for Counting {
        fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.0.get(space, key)
        }

        fn range(
            &self,
            space: Space,
            range: (Bound<&[u8]>, Bound<&[u8]>),
            reverse: bool,
        ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
            let count = self.1.clone();
            Box::new(self.0.range(space, range, reverse).inspect(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }))
        }
    }

    #[test]
    fn the_cost_is_that_of_the_names_and_not_of_the_records() {
        let keys: Vec<String> = (0..5000).map(|n| format!("{n:05}")).collect();
        let many: Vec<_> =
            keys.iter().flat_map(|key| [("a", "c", key.as_str(), false), ("b", "c", key, false)]).collect();
        let count = Arc::new(AtomicUsize::new(0));
        let counting = Counting(snapshot(&many), count.clone());
        assert_eq!(all(&counting, None, 100, PATIENT).0, ["a", "b"]);
        assert!(count.load(Ordering::Relaxed) < 5, "{count:?} records were read for two names");
    }

    proptest! {
        #[test]
        fn any_store_lists_the_names_of_what_lives(
            keys in proptest::collection::btree_map(("[ab]{1,2}|a[.-]b", "[xy]{1,2}", "[k\u{1}é]{1,2}"), any::<bool>(), 0..30),
            visible in proptest::collection::vec("[ab]{1,2}|a[.-]b|c", 0..4),
            limit in 1usize..5, skipped_max in 1usize..4,
        ) {
            let content: Vec<_> = keys.iter().map(|((n, c, k), expired)| (n.as_str(), c.as_str(), k.as_str(), *expired)).collect();
            let snapshot = snapshot(&content);
            let budget = PageBudget { skipped_max, ..PATIENT };
            let live = || content.iter().filter(|(.., expired)| !expired);
            let namespaces: BTreeSet<&str> = live().map(|(namespace, ..)| *namespace).collect();
            prop_assert_eq!(all(&*snapshot, None, limit, budget).0, namespaces.iter().copied().collect::<Vec<_>>());
            let shown = namespaces.iter().filter(|name| visible.iter().any(|one| one == **name));
            prop_assert_eq!(seen(&*snapshot, None, Some(&visible), limit, budget).0, shown.copied().collect::<Vec<_>>());
            for namespace in namespaces {
                let collections: BTreeSet<&str> = live().filter(|(n, ..)| *n == namespace).map(|(_, c, ..)| *c).collect();
                prop_assert_eq!(all(&*snapshot, Some(namespace), limit, budget).0, collections.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
