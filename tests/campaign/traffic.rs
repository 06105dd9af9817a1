//! What one client does: writes of every kind to things of its own, and reads of them.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::ledger::{Found, Promise, Shared, State, Thing, bytes};
use crate::support::{Answer, Client, Seeded};

/// Refusals after which a client only reads.
const REFUSALS_MAX: u32 = 3;
const BASE: &str = "/api/v1/kv/n";

/// What a client mostly does in a life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// Something of everything.
    Mixed,
    /// Nothing durable.
    Relaxed,
    /// Nothing relaxed.
    Durable,
    /// So much that memtables are flushed and tables merged.
    Bulk,
    /// Imports.
    Imports,
    /// So much that journals are sealed, which takes 64 MiB.
    Flood,
}

impl Mood {
    /// Those that take little time.
    pub const QUICK: [Mood; 5] = [Mood::Mixed, Mood::Relaxed, Mood::Durable, Mood::Bulk, Mood::Imports];
}

/// The things of one client.
pub struct Things {
    name: String,
    pub all: Vec<Thing>,
    values: usize,
    /// Where the counter stands; the atomic batch is behind it, then what is imported and written in bulk.
    counter: usize,
    group: usize,
    imported: usize,
    bulk: usize,
}

const VALUES: usize = 6;
const IMPORTED: usize = 12;
const BULK: usize = 8;

impl Things {
    pub fn new(client: usize) -> Things {
        let one = |path: String| Thing::new(vec![path]);
        let mut all: Vec<Thing> = (0..VALUES).map(|n| one(format!("{BASE}/values/{client}-{n}"))).collect();
        all.push(one(format!("{BASE}/counters/{client}")));
        all.push(Thing::new(["x", "y", "odd", "count"].map(|key| format!("{BASE}/group{client}/{key}")).into()));
        all.extend((0..IMPORTED).map(|n| one(format!("{BASE}/imported{client}/{n}"))));
        all.extend((0..BULK).map(|n| one(format!("{BASE}/bulk{client}/{n}"))));
        let counter = VALUES;
        let imported = counter + 2;
        let (group, bulk) = (counter + 1, imported + IMPORTED);
        Things { name: client.to_string(), all, values: VALUES, counter, group, imported, bulk }
    }
}

/// How a write ended.
enum Outcome {
    Acknowledged(Answer, Instant),
    /// Not written, and the client was told.
    Refused,
    Unknown,
}

/// A client at work.
pub struct Hand<'a> {
    client: Client,
    drawn: Seeded,
    mood: Mood,
    things: &'a mut Things,
    shared: &'a Shared,
    /// Whether reads may fail: the card does not let itself be read.
    blind: bool,
    refusals: u32,
    /// Nobody answers any more.
    dark: Option<String>,
}

impl<'a> Hand<'a> {
    pub fn new(address: &str, seed: u64, mood: Mood, things: &'a mut Things, shared: &'a Shared, blind: bool) -> Self {
        let (client, drawn) = (Client::new(address), Seeded::new(seed));
        Hand { client, drawn, mood, things, shared, blind, refusals: 0, dark: None }
    }

    /// Does so many things, or as many as are answered. Tells why it ended earlier, if nobody answered.
    pub fn work(mut self, steps: u64) -> Option<String> {
        for _ in 0..steps {
            if self.refusals >= REFUSALS_MAX {
                self.read();
            } else {
                self.step();
            }
            if self.dark.is_some() {
                break;
            }
        }
        self.dark
    }

    fn step(&mut self) {
        let chance = self.drawn.below(100);
        match (self.mood, chance) {
            (Mood::Flood, 0..90) => self.flood(),
            (Mood::Bulk, 0..50) => self.bulk(),
            (Mood::Bulk, 50..60) => self.remove_bulk(),
            (Mood::Imports, 0..40) => self.import(),
            (_, 0..40) => self.put(),
            (_, 40..52) => self.delete(),
            (_, 52..67) => self.increment(),
            (_, 67..80) => self.batch(),
            (_, 80..83) => self.import(),
            (_, 83..86) => self.bulk(),
            (_, 86..87) => self.remove_bulk(),
            _ => self.read(),
        }
    }

    /// Whether the next write is to be durable.
    fn is_durable(&mut self) -> bool {
        match self.mood {
            Mood::Relaxed => false,
            Mood::Durable => true,
            _ => self.drawn.percent(60),
        }
    }

    fn length(&mut self) -> usize {
        let (first, last) = *self.drawn.one_of(&[(10, 100), (10, 100), (500, 5000), (3000, 30_000), (60_000, 300_000)]);
        self.drawn.between(first, last) as usize
    }

    fn value(&mut self) -> (State, Vec<u8>) {
        let (number, length) = (self.shared.next_number(), self.length());
        (State::Bytes { number, length, expires: None }, bytes(number, length))
    }

    /// One of several things that may be written.
    fn pick(&mut self, first: usize, count: usize) -> Option<usize> {
        let place = first + self.drawn.below(count as u64) as usize;
        (!self.things.all[place].is_in_doubt()).then_some(place)
    }

    fn put(&mut self) {
        let Some(place) = self.pick(0, self.things.values) else { return };
        let (mut state, body) = self.value();
        let durable = self.is_durable();
        let mut path = format!("{}?durability={}", self.things.all[place].keys[0], word(durable));
        if self.drawn.percent(20) {
            let seconds = *self.drawn.one_of(&[1, 2, 3600]);
            path.push_str(&format!("&ttl={seconds}"));
            if let State::Bytes { expires, .. } = &mut state {
                *expires = Some(Instant::now() + Duration::from_secs(seconds));
            }
        }
        let thing = &self.things.all[place];
        let has_expiry = matches!(thing.present(), Some([State::Bytes { expires: Some(_), .. }]));
        let version = thing.version.filter(|_| !has_expiry && thing.present() != Some(&[State::Absent]));
        let condition = self.drawn.below(100);
        let (field, fits) = match (version, condition) {
            (Some(version), 0..20) => (Some(("If-Match", format!("\"{version}\""))), true),
            (Some(version), 20..30) => (Some(("If-Match", format!("\"{}\"", version + 1))), false),
            (Some(_), 30..40) => (Some(("If-None-Match", "*".to_owned())), false),
            _ => (None, true),
        };
        let fields: Vec<(&str, &str)> = field.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let expected: &[u16] = if fits { &[201, 204] } else { &[412] };
        let ended = self.write("PUT", &path, &fields, &body, expected);
        if fits {
            self.note(place, vec![state], durable, ended, |answer| vec![Some(answer.version())]);
        } else if matches!(ended, Outcome::Unknown) {
            // Nothing of it can have been written.
        }
    }

    fn delete(&mut self) {
        let Some(place) = self.pick(0, self.things.values) else { return };
        let durable = self.is_durable();
        let thing = &self.things.all[place];
        let path = format!("{}?durability={}", thing.keys[0], word(durable));
        let expected: &[u16] = match thing.present() {
            Some([State::Absent]) => &[404],
            Some([State::Bytes { expires: Some(_), .. }]) => &[204, 404],
            _ => &[204],
        };
        match self.write("DELETE", &path, &[], b"", expected) {
            Outcome::Acknowledged(answer, _) if answer.status == 404 => {}
            ended => self.note(place, vec![State::Absent], durable, ended, |answer| {
                vec![answer.header("Larder-Version").and_then(|version| version.parse().ok())]
            }),
        }
    }

    fn increment(&mut self) {
        let place = self.things.counter;
        let thing = &self.things.all[place];
        let next = match thing.present() {
            Some([State::Count(count)]) => count + 1,
            Some(_) => 1,
            None => return,
        };
        let durable = self.is_durable();
        let path = format!("{}/incr?durability={}", self.things.all[place].keys[0], word(durable));
        let ended = self.write("POST", &path, &[], b"{\"by\": 1}", &[200]);
        if let Outcome::Acknowledged(answer, _) = &ended
            && answer.json()["value"] != next
        {
            self.shared.violation(format!("{path}: the counter is {}, not {next}", answer.text()));
        }
        self.note(place, vec![State::Count(next)], durable, ended, |answer| vec![answer.json()["version"].as_u64()]);
    }

    /// All keys of the group at once: two that are the same, one that is there with odd numbers only, a counter.
    fn batch(&mut self) {
        let place = self.things.group;
        let count = match self.things.all[place].present() {
            Some([.., State::Count(count)]) => count + 1,
            Some(_) => 1,
            None => return,
        };
        let (number, length) = (self.shared.next_number(), self.length() / 2 + 10);
        let value = State::Bytes { number, length, expires: None };
        let body = bytes(number, length);
        let is_odd = self.drawn.percent(50);
        let odd = if is_odd { set("odd", &body) } else { r#"{"op":"delete","key":"odd"}"#.to_owned() };
        let (x, y) = (set("x", &body), set("y", &body));
        let operations = [x, odd, r#"{"op":"incr","key":"count","by":1}"#.to_owned(), y];
        let text = batch_text(&format!("group{}", self.things.name), true, &operations);
        let durable = self.is_durable();
        let path = format!("/api/v1/batch?durability={}", word(durable));
        let ended = self.write("POST", &path, &[], text.as_bytes(), &[200]);
        let states =
            vec![value.clone(), value.clone(), if is_odd { value } else { State::Absent }, State::Count(count)];
        self.note(place, states, durable, ended, |answer| {
            let results = answer.json();
            [0, 3, 1, 2].map(|place: usize| results["results"][place]["version"].as_u64()).into()
        });
    }

    fn import(&mut self) {
        let places: Vec<usize> = (self.things.imported..self.things.bulk).collect();
        if places.iter().any(|place| self.things.all[*place].is_in_doubt()) {
            return;
        }
        let count = self.drawn.between(1, IMPORTED as u64) as usize;
        let (mut lines, mut states) = (String::new(), Vec::new());
        let from_version = if self.drawn.percent(15) { self.shared.highest() + 5 } else { 0 };
        for place in &places[..count] {
            let (state, body) = self.value();
            let key = self.things.all[*place].keys[0].rsplit('/').next().unwrap().to_owned();
            let (client, value) = (&self.things.name, STANDARD.encode(&body));
            lines.push_str(&format!(
                "{{\"namespace\":\"n\",\"collection\":\"imported{client}\",\"key\":\"{key}\",\"value_base64\":\"{value}\"}}\n"
            ));
            states.push(state);
        }
        lines.push_str(&format!("{}\n", json!({"end": true, "items": count, "version": from_version})));
        let fields = [("Content-Type", "application/x-ndjson")];
        let ended = self.write("POST", "/api/v1/import?durability=sync", &fields, lines.as_bytes(), &[200]);
        let is_whole = match &ended {
            Outcome::Acknowledged(answer, _) => {
                let report = answer.json();
                let failed = report["failed"].as_array().expect("a list");
                let is_busy = failed.iter().all(|line| line["code"] == "OVERLOADED");
                if !is_busy || report["imported"] != count - failed.len() {
                    self.shared.violation(format!("{count} lines were imported, and the answer is {report}"));
                }
                failed.is_empty()
            }
            _ => false,
        };
        for (place, state) in places.into_iter().zip(states) {
            let promise = match &ended {
                Outcome::Refused => continue,
                Outcome::Acknowledged(_, sent) if is_whole => {
                    self.shared.synced(*sent);
                    Promise::Synced
                }
                _ => Promise::Unknown,
            };
            self.things.all[place].version = None;
            self.things.all[place].wrote(vec![state], promise);
        }
    }

    /// Some large values in a batch of which each operation stands for itself.
    fn bulk(&mut self) {
        let durable = self.is_durable();
        let free = |place: &usize| !self.things.all[*place].is_in_doubt();
        let places: Vec<usize> = (self.things.bulk..self.things.all.len()).filter(free).collect();
        let (mut operations, mut states) = (Vec::new(), Vec::new());
        for place in &places {
            let (number, length) = (self.shared.next_number(), self.drawn.between(20_000, 160_000) as usize);
            let key = self.things.all[*place].keys[0].rsplit('/').next().unwrap();
            operations.push(set(key, &bytes(number, length)));
            states.push(State::Bytes { number, length, expires: None });
        }
        if places.is_empty() {
            return;
        }
        let body = batch_text(&format!("bulk{}", self.things.name), false, &operations);
        let path = format!("/api/v1/batch?durability={}", word(durable));
        let ended = self.write("POST", &path, &[], body.as_bytes(), &[200]);
        let results = match &ended {
            Outcome::Acknowledged(answer, _) => answer.json()["results"].take(),
            _ => Value::Null,
        };
        for (n, (place, state)) in places.into_iter().zip(states).enumerate() {
            let result = &results[n];
            let own = match (&ended, result["status"].as_u64(), result["written"].as_str()) {
                (Outcome::Acknowledged(answer, sent), Some(200..300), _) => {
                    Outcome::Acknowledged(answer.clone(), *sent)
                }
                (Outcome::Acknowledged(..), Some(500..), Some("no")) | (Outcome::Refused, ..) => Outcome::Refused,
                (Outcome::Acknowledged(..), Some(504), Some("unknown")) | (Outcome::Unknown, ..) => Outcome::Unknown,
                _ => return self.shared.violation(format!("{path}: {result}")),
            };
            self.note(place, vec![state], durable, own, |_| vec![result["version"].as_u64()]);
        }
    }

    /// A value as large as they may be, among those that are written in bulk.
    fn flood(&mut self) {
        let Some(place) = self.pick(self.things.bulk, BULK) else { return };
        let (number, length) = (self.shared.next_number(), 1 << 20);
        let durable = self.drawn.percent(20);
        let path = format!("{}?durability={}", self.things.all[place].keys[0], word(durable));
        let ended = self.write("PUT", &path, &[], &bytes(number, length), &[201, 204]);
        let state = State::Bytes { number, length, expires: None };
        self.note(place, vec![state], durable, ended, |answer| vec![Some(answer.version())]);
    }

    /// Removes all that was written in bulk, in steps.
    fn remove_bulk(&mut self) {
        let places: Vec<usize> = (self.things.bulk..self.things.all.len()).collect();
        if places.iter().any(|place| self.things.all[*place].is_in_doubt()) {
            return;
        }
        let path = format!("{BASE}/bulk{}?durability=sync", self.things.name);
        let ended = self.write("DELETE", &path, &[], b"", &[200]);
        for place in places {
            match &ended {
                Outcome::Acknowledged(answer, _) if answer.json()["complete"] == true => {
                    self.things.all[place].wrote(vec![State::Absent], Promise::Synced);
                }
                // Some of them may be gone.
                _ => self.things.all[place].wrote(vec![State::Absent], Promise::Unknown),
            }
            self.things.all[place].version = None;
        }
    }

    /// Reads one of the client's keys: what it acknowledged last, or, where that is not known, what may be there.
    fn read(&mut self) {
        let place = self.drawn.below(self.things.all.len() as u64) as usize;
        let key = self.drawn.below(self.things.all[place].keys.len() as u64) as usize;
        let thing = &self.things.all[place];
        let fields: &[(&str, &str)] = if self.drawn.percent(50) { &[("Cache-Control", "no-cache")] } else { &[] };
        match look(&mut self.client, &thing.keys[key], fields) {
            Ok(found) => {
                if let Err(text) = thing.may_show(key, &found) {
                    self.shared.violation(format!("a read shows something else: {text}"));
                }
            }
            Err(Dark::NoAnswer(text)) => self.dark = Some(text),
            Err(Dark::Answer(_)) if self.blind => {}
            Err(Dark::Answer(text)) => self.dark = Some(text),
        }
    }

    /// Sends a write.
    fn write(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8], expected: &[u16]) -> Outcome {
        let sent = Instant::now();
        let highest = self.shared.highest();
        let answer = match self.client.try_send(method, path, fields, body) {
            Ok(answer) => answer,
            Err(error) => {
                self.dark = Some(format!("{method} {path}: {error}"));
                return Outcome::Unknown;
            }
        };
        if expected.contains(&answer.status) {
            self.refusals = 0;
            if answer.header("ETag").is_some() && answer.status < 300 && answer.version() <= highest {
                self.shared.violation(format!("{path} got version {}, after {highest}", answer.version()));
            }
            return Outcome::Acknowledged(answer, sent);
        }
        let written = if answer.status >= 500 { answer.json()["written"].as_str().map(str::to_owned) } else { None };
        match written.as_deref() {
            Some("no") => {
                self.refusals += 1;
                Outcome::Refused
            }
            Some("unknown") => Outcome::Unknown,
            _ => {
                self.shared.violation(format!("{method} {path} is answered {}: {}", answer.status, answer.text()));
                Outcome::Unknown
            }
        }
    }

    /// Notes how a write of a thing ended.
    fn note(
        &mut self,
        place: usize,
        states: Vec<State>,
        durable: bool,
        ended: Outcome,
        versions: impl FnOnce(&Answer) -> Vec<Option<u64>>,
    ) {
        let thing = &mut self.things.all[place];
        match ended {
            Outcome::Refused => {}
            Outcome::Unknown => thing.wrote(states, Promise::Unknown),
            Outcome::Acknowledged(answer, sent) => {
                let promise = Promise::of(&answer, Instant::now()).unwrap_or_else(|text| {
                    self.shared.violation(format!("{:?}: {text}", thing.keys));
                    Promise::Synced
                });
                if durable && promise != Promise::Synced {
                    self.shared.violation(format!("{:?} was to be durable and is {promise:?}", thing.keys));
                }
                if promise == Promise::Synced {
                    self.shared.synced(sent);
                }
                self.shared.acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let versions = versions(&answer);
                thing.version = versions[0];
                for ((version, key), state) in versions.into_iter().zip(&thing.keys).zip(&states) {
                    if let Some(version) = version {
                        self.shared.saw(version, key, state);
                    }
                }
                thing.wrote(states, promise);
            }
        }
    }
}

/// An operation of a batch. Put together by hand: a JSON writer without optimisation takes most of a test's time.
fn set(key: &str, value: &[u8]) -> String {
    format!("{{\"op\":\"set\",\"key\":\"{key}\",\"value_base64\":\"{}\"}}", STANDARD.encode(value))
}

fn batch_text(collection: &str, atomic: bool, operations: &[String]) -> String {
    let operations = operations.join(",");
    format!("{{\"namespace\":\"n\",\"collection\":\"{collection}\",\"atomic\":{atomic},\"operations\":[{operations}]}}")
}

fn word(durable: bool) -> &'static str {
    if durable { "sync" } else { "relaxed" }
}

/// Why a read showed nothing.
pub enum Dark {
    NoAnswer(String),
    Answer(String),
}

/// Reads a key.
pub fn look(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Result<Found, Dark> {
    match client.try_send("GET", path, fields, b"") {
        Ok(answer) if answer.status == 200 => Ok(Found::Value(Box::new(answer))),
        Ok(answer) if answer.status == 404 => Ok(Found::Nothing),
        Ok(answer) => Err(Dark::Answer(format!("GET {path} is answered {}: {}", answer.status, answer.text()))),
        Err(error) => Err(Dark::NoAnswer(format!("GET {path}: {error}"))),
    }
}
