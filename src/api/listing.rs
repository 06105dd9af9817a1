//! The records of a collection in order: one page of them, or all of them as lines.
//!
//! It reads a snapshot that it is given and knows neither requests' heads nor threads.
//! A page is live: it shows the moment at which it was asked for. A list as a stream shows one moment from its first line
//! to its last, which only a complete stream has: `{"end":true,"items":n,"version":v}`. An export may go on from a later
//! moment where its view is taken away; its last line then has `"views":n`, and its version is that of the first.
//! All go on past what is damaged, and tell of it as [`super::damage`] says.
//!
//! Invariant: pages joined by their cursors show every record that stood throughout and can be read exactly once, in
//! order, however early each of them ended. Memory is bounded by one page, or one piece of a stream and one record.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::http::Problem;
use crate::http::query::Query;
use crate::http::wire::push_decimal;
use crate::limits::{LIST_ITEMS_DEFAULT, LIST_ITEMS_MAX, PAGE_BYTES};
use crate::store::bounds::{self, KeyRange};
use crate::store::{FullKey, Moment, Pair, Record, Snapshot, Space, StoreError};

use super::cursor;
use super::damage::{Damage, Found, LISTED_MAX};
use super::item::{ItemForm, ItemOptions, push_text, write_item};

/// Bytes of lines that a stream makes at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Records that a stream passes over between two looks at the clock.
const SKIPPED_BETWEEN_LOOKS: usize = 64;
/// Behind a value of this size a stream lets go of the store's blocks: the next ones are as large.
const LARGE_VALUE_BYTES: usize = 16 * 1024;
/// What makes a piece end before its bytes: whoever pulls waits a moment after a piece of nothing, and lets others run.
const SKIPPING: PageBudget =
    PageBudget { bytes_max: PIECE_BYTES, skipped_max: 16_384, time_max: Duration::from_millis(25) };

/// The parameters of a list.
pub const PARAMETERS: &[&str] = &["prefix", "start", "end", "reverse", "limit", "values", "cursor"];

/// What is asked of a collection. Empty texts ask nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Keys that begin so.
    pub prefix: String,
    /// Keys from this one on.
    pub start: String,
    /// Keys before this one.
    pub end: String,
    /// The same keys, backwards.
    pub reverse: bool,
    /// Items on a page.
    pub limit: usize,
    /// Whether items show their values.
    pub values: bool,
    /// The key after which to go on, from a cursor.
    pub after: Option<String>,
}

impl ListQuery {
    /// Reads the query of a list of this collection. 400 `INVALID_QUERY` or `INVALID_CURSOR`.
    pub fn parse(raw: &str, namespace: &str, collection: &str) -> Result<ListQuery, Problem> {
        let query = Query::parse(raw, PARAMETERS)?;
        let text = |name| query.get(name).unwrap_or_default().to_owned();
        let mut asked = ListQuery {
            prefix: text("prefix"),
            start: text("start"),
            end: text("end"),
            reverse: query.bool("reverse")?.unwrap_or(false),
            limit: query.u64("limit", 1..=LIST_ITEMS_MAX as u64)?.map_or(LIST_ITEMS_DEFAULT, |limit| limit as usize),
            values: query.bool("values")?.unwrap_or(true),
            after: None,
        };
        if let Some(cursor) = query.get("cursor") {
            asked.after = Some(cursor::decode(asked.question(namespace, collection), cursor)?);
        }
        Ok(asked)
    }

    /// As [`ListQuery::parse`], for a stream: it gives the whole range, so `limit` and `cursor` have no meaning there.
    pub fn parse_stream(raw: &str, namespace: &str, collection: &str) -> Result<ListQuery, Problem> {
        let query = Query::parse(raw, PARAMETERS)?;
        if query.get("limit").is_some() || query.get("cursor").is_some() {
            let message = "limit and cursor are for pages: a stream gives the whole range; leave them out";
            return Err(Problem::new(400, "INVALID_QUERY", message));
        }
        ListQuery::parse(raw, namespace, collection)
    }

    /// What a cursor of this list is tied to; a page may have another `limit` or `values` than the one before.
    fn question(&self, namespace: &str, collection: &str) -> u64 {
        cursor::question(&[namespace, collection, &self.prefix, &self.start, &self.end], self.reverse)
    }

    /// The range of full keys, or `None` if it is empty.
    pub fn bounds(&self, namespace: &str, collection: &str) -> Option<KeyRange> {
        let full = |key: &str| FullKey::new(namespace, collection, key).shared();
        let mut low = Bound::Included(full(self.prefix.as_str().max(&self.start)));
        let mut high = successor(&full(&self.prefix));
        if !self.end.is_empty() {
            high = high.min(full(&self.end));
        }
        if let Some(after) = self.after.as_deref().map(full) {
            match self.reverse {
                true => high = high.min(after),
                false if after >= *bounds::key_of(&low) => low = Bound::Excluded(after),
                false => {}
            }
        }
        (*bounds::key_of(&low) < high).then_some((low, Bound::Excluded(high)))
    }
}

/// The first text behind all that begin with this one. No stored key holds the byte 0xFF, so the last byte can grow.
pub fn successor(prefix: &[u8]) -> Bytes {
    let mut bytes = prefix.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = last.saturating_add(1);
    }
    bytes.into()
}

/// Walks a range of stored keys.
pub fn walk(
    snapshot: &dyn Snapshot,
    range: &KeyRange,
    reverse: bool,
) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
    snapshot.range(Space::Data, bounds::borrowed(range), reverse)
}

/// Gives the newest snapshot.
pub type Newest = Box<dyn Fn() -> Arc<dyn Snapshot> + Send>;

/// A walk that can be left and taken up again: a stream that waits for its client holds no blocks of the store.
pub struct Walk {
    snapshot: Arc<dyn Snapshot>,
    /// Where to go on from when the snapshot is taken away; `None`: the walk then fails.
    newest: Option<Newest>,
    /// How many snapshots it has seen.
    views: u64,
    /// What is left to walk; `None`: nothing.
    range: Option<KeyRange>,
    reverse: bool,
    pairs: Option<Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send>>,
    /// The last key that it came by, until the range begins there.
    at: Option<Bytes>,
    /// The last step met damage.
    is_at_damage: bool,
}

impl Walk {
    /// A walk through this range; through nothing if there is none.
    pub fn new(snapshot: Arc<dyn Snapshot>, range: Option<KeyRange>, reverse: bool) -> Walk {
        Walk { snapshot, newest: None, views: 1, range, reverse, pairs: None, at: None, is_at_damage: false }
    }

    /// The same, that goes on in the newest snapshot where the one it reads is taken away.
    pub fn through_all(self, newest: Newest) -> Walk {
        Walk { newest: Some(newest), ..self }
    }

    /// Lets go of the blocks at which it stands; the next step finds them again. Behind damage it cannot be left.
    fn rest(&mut self) {
        if !self.is_at_damage {
            self.stop();
        }
    }

    /// The next step begins behind the last key.
    fn stop(&mut self) {
        if let (Some(at), Some((low, high))) = (self.at.take(), &mut self.range) {
            let end = if self.reverse { high } else { low };
            *end = Bound::Excluded(at);
        }
        self.pairs = None;
    }

    /// Goes on in the newest snapshot behind the last key. False if that is the one that was taken away.
    fn renew(&mut self) -> bool {
        let Some(newest) = self.newest.as_ref().map(|newest| newest()) else { return false };
        if Arc::ptr_eq(&newest, &self.snapshot) {
            return false;
        }
        self.stop();
        self.snapshot = newest;
        self.views += 1;
        true
    }
}

impl Iterator for Walk {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Result<Pair, StoreError>> {
        loop {
            let range = self.range.as_ref().filter(|range| !bounds::is_empty(bounds::borrowed(range)))?;
            let pairs = self.pairs.get_or_insert_with(|| walk(&*self.snapshot, range, self.reverse));
            let pair = pairs.next();
            match &pair {
                Some(Err(StoreError::Revoked)) if self.renew() => continue,
                Some(Ok((key, _))) => self.at = Some(key.clone()),
                Some(Err(_)) | None => {}
            }
            self.is_at_damage = matches!(pair, Some(Err(_)));
            return pair;
        }
    }
}

/// What makes a page end before its limit.
#[derive(Clone, Copy, Debug)]
pub struct PageBudget {
    /// Bytes of the answer; one item may exceed them alone.
    pub bytes_max: usize,
    /// Expired records that are passed over.
    pub skipped_max: usize,
    /// Time spent reading.
    pub time_max: Duration,
}

impl Default for PageBudget {
    fn default() -> PageBudget {
        PageBudget { bytes_max: PAGE_BYTES, skipped_max: 10_000, time_max: Duration::from_millis(50) }
    }
}

/// One page as JSON: `{"items":[…],"next":"…"|null}`. `moment` is one after the snapshot.
pub fn page(
    snapshot: &dyn Snapshot,
    (namespace, collection): (&str, &str),
    query: &ListQuery,
    moment: &Moment,
    budget: PageBudget,
    mut damage: Damage,
) -> Result<Vec<u8>, StoreError> {
    let began_at = Instant::now();
    let options = ItemOptions { form: ItemForm::Page, values: query.values };
    let mut out = b"{\"items\":[".to_vec();
    let (mut items, mut skipped, mut last, mut more) = (0, 0, None, false);
    if let Some(after) = &query.after {
        damage.begin_behind(FullKey::new(namespace, collection, after));
    }
    let pairs = query.bounds(namespace, collection).map(|range| walk(snapshot, &range, query.reverse));
    for pair in pairs.into_iter().flatten() {
        let full = skipped >= budget.skipped_max || damage.places() >= LISTED_MAX;
        if last.is_some() && (full || began_at.elapsed() >= budget.time_max) {
            more = true;
            break;
        }
        let (key, record) = match damage.sift(pair)? {
            Found::Record(key, record) => (key, record),
            Found::Damaged(key) => {
                last = key.or(last);
                continue;
            }
        };
        if moment.is_expired(&record) {
            skipped += 1;
            last = Some(key);
            continue;
        }
        // A value that does not fit is not written first.
        let value_bytes = if query.values { record.value.len() } else { 0 };
        if items == query.limit || (items > 0 && out.len() + value_bytes > budget.bytes_max) {
            more = true;
            break;
        }
        let before = out.len();
        if items > 0 {
            out.push(b',');
        }
        let record = Record { expires_ms: moment.shown_ms(&record), ..record };
        write_item(&mut out, None, key.parts().2, &record, options);
        if items > 0 && out.len() > budget.bytes_max {
            out.truncate(before);
            more = true;
            break;
        }
        items += 1;
        last = Some(key);
    }
    out.push(b']');
    damage.push_members(&mut out);
    out.extend_from_slice(b",\"next\":");
    match last.filter(|_| more) {
        Some(last) => push_text(&mut out, &cursor::encode(query.question(namespace, collection), last.parts().2)),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(out)
}

/// What a stream of lines shows besides its range.
pub struct LineOptions {
    /// Lines name namespace and collection (exports).
    pub paths: bool,
    /// Lines show values.
    pub values: bool,
    /// Only records of later versions.
    pub since: u64,
    /// The version of the first snapshot, for the end line.
    pub version: u64,
}

/// All records of a range as NDJSON, made piece by piece, with the end line behind them.
pub struct Lines {
    pairs: Walk,
    moment: Box<dyn Fn() -> Moment + Send>,
    options: LineOptions,
    damage: Damage,
    items: u64,
}

impl Lines {
    /// Streams a walk. `moment` tells the time: what expires while the stream runs does not show. `damage` is
    /// told by the end line.
    pub fn new(pairs: Walk, moment: Box<dyn Fn() -> Moment + Send>, options: LineOptions, damage: Damage) -> Lines {
        Lines { pairs, moment, options, damage, items: 0 }
    }

    /// Appends the next lines, none if it has passed over many records, and says whether more will come. An error cuts
    /// the stream behind the lines that were appended: it then has no end line.
    pub fn pull(&mut self, out: &mut Vec<u8>) -> Result<bool, StoreError> {
        let began_at = Instant::now();
        let full = out.len() + SKIPPING.bytes_max;
        let options = ItemOptions { form: ItemForm::Line, values: self.options.values };
        let (mut skipped, mut is_large) = (0, false);
        while out.len() < full {
            let Some(pair) = self.pairs.next() else {
                self.push_end(out);
                return Ok(false);
            };
            let found = match self.damage.sift(pair)? {
                Found::Record(key, record) => Some((key, record)),
                Found::Damaged(_) => None,
            };
            // Taken behind each record: the walk may have gone on in a newer view.
            let moment = || (self.moment)();
            let is_expired = |record: &Record| record.expires_ms != 0 && moment().is_expired(record);
            let shows = |record: &Record| record.version > self.options.since && !is_expired(record);
            let Some((key, record)) = found.filter(|(_, record)| shows(record)) else {
                skipped += 1;
                let looks = skipped % SKIPPED_BETWEEN_LOOKS == 0;
                if skipped >= SKIPPING.skipped_max || (looks && began_at.elapsed() >= SKIPPING.time_max) {
                    break;
                }
                continue;
            };
            let (namespace, collection, name) = key.parts();
            let expires_ms = if record.expires_ms == 0 { 0 } else { moment().shown_ms(&record) };
            let record = Record { expires_ms, ..record };
            write_item(out, self.options.paths.then_some((namespace, collection)), name, &record, options);
            out.push(b'\n');
            self.items += 1;
            is_large = record.value.len() >= LARGE_VALUE_BYTES;
        }
        if is_large {
            self.pairs.rest();
        }
        Ok(true)
    }

    fn push_end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"end\":true,\"items\":");
        push_decimal(out, self.items);
        out.extend_from_slice(b",\"version\":");
        push_decimal(out, self.options.version);
        if self.pairs.views > 1 {
            out.extend_from_slice(b",\"views\":");
            push_decimal(out, self.pairs.views);
        }
        self.damage.push_members(out);
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
