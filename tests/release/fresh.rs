//! Nothing stale is read and no increment is lost, while others write so much that journals are sealed, memtables
//! flushed and tables merged all the time.
//!
//! Each client knows what it may see of its own keys; what all of them see of common keys must fit one order.
//! `FRESH_ROTATIONS` asks for more than a few sealed journals (`make torture`).

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::support::history::{self, Seen};
use super::support::{Client, Ends, Server, engines, is_optimised};
use super::value_text;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
const NO_CACHE: [(&str, &str); 1] = [("Cache-Control", "no-cache")];
const CLIENTS: u64 = 4;
const COMMON_KEYS: u64 = 3;
/// There only so that nothing hangs for ever.
const GIVE_UP: Duration = Duration::from_secs(600);

/// Batches of 50 values of 4 kB, as fast as they are taken.
fn write_noise(address: &str, writer: u64, ended: &AtomicBool) {
    let mut client = Client::new(address);
    for number in 0.. {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let operations: Vec<String> = (0..50)
            .map(|n| {
                let key = format!("{writer}-{}", (number * 50 + n) % 2000);
                format!(r#"{{"op":"set","key":"{key}","value":"{}"}}"#, value_text(number * 50 + n, 4000))
            })
            .collect();
        let body = format!(r#"{{"namespace":"n","collection":"noise","operations":[{}]}}"#, operations.join(","));
        client.send("POST", "/api/v1/batch?durability=relaxed", &JSON, body.as_bytes()).expect(200);
    }
}

/// One client: what it asks, and what it saw of the common keys.
struct Reader<'a> {
    client: Client,
    name: u64,
    random: u64,
    seen: Vec<Seen>,
    durability: &'a str,
    /// What stands under its own keys.
    own: Own,
}

#[derive(Default)]
struct Own {
    value: String,
    version: u64,
    count: u64,
}

impl Reader<'_> {
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Notes what was seen of a common key.
    fn note(
        &mut self,
        by: &'static str,
        key: String,
        began: Instant,
        version: u64,
        value: Option<String>,
        wrote: bool,
    ) {
        self.seen.push(Seen { key, by, began, ended: Instant::now(), version, value, wrote });
    }

    /// A whole page of a collection: one that ran out of time ends early, and is asked for again.
    fn page(&mut self, collection: &str, query: &str) -> serde_json::Value {
        loop {
            let path = format!("/api/v1/kv/n/{collection}?{query}");
            let mut page = self.client.send("GET", &path, &[], b"").expect(200).json();
            if page["next"].is_null() {
                return page["items"].take();
            }
        }
    }

    fn write_own(&mut self, number: u64) {
        let value = format!("{}-{number}", self.name);
        let path = format!("/api/v1/kv/n/own/{}?durability={}", self.name, self.durability);
        let tag = format!("\"{}\"", self.own.version);
        // With its own last tag it must get through, always: nobody else writes this key.
        let headers = [("If-Match", tag.as_str())];
        let headers = if self.own.version > 0 && number.is_multiple_of(2) { &headers[..] } else { &[] };
        let answer = self.client.send("PUT", &path, headers, value.as_bytes());
        assert!(answer.status / 100 == 2, "{answer:?} with {headers:?} after {}", self.own.version);
        (self.own.version, self.own.value) = (answer.version(), value);
    }

    fn read_own(&mut self, how: u64) {
        let path = format!("/api/v1/kv/n/own/{}", self.name);
        let (by, value, version) = match how {
            0 | 1 => {
                let answer = self.client.send("GET", &path, if how == 0 { &[] } else { &NO_CACHE }, b"").expect(200);
                (["GET", "no-cache"][how as usize], Some(answer.text()), answer.version())
            }
            2 => ("HEAD", None, self.client.send("HEAD", &path, &NO_CACHE, b"").expect(200).version()),
            3 => {
                let body = format!(
                    r#"{{"namespace":"n","collection":"own","operations":[{{"op":"get","key":"{}"}}]}}"#,
                    self.name
                );
                let answer = self.client.send("POST", "/api/v1/batch", &JSON, body.as_bytes()).expect(200).json();
                ("batch", None, answer["results"][0]["version"].as_u64().unwrap_or(0))
            }
            4 => {
                let query = format!("prefix={}", self.name);
                let items = self.page("own", &query);
                ("list", None, items[0]["version"].as_u64().unwrap_or(0))
            }
            _ => {
                let accept = [("Accept", "application/x-ndjson")];
                let text = self.client.send("GET", "/api/v1/kv/n/own", &accept, b"").expect(200).text();
                let own = format!(r#""key":"{}""#, self.name);
                let line = text.lines().find(|line| line.contains(&own)).unwrap_or("{}");
                let item: serde_json::Value = serde_json::from_str(line).unwrap();
                ("stream", None, item["version"].as_u64().unwrap_or(0))
            }
        };
        assert_eq!(version, self.own.version, "{by} of client {}: stale", self.name);
        assert!(value.is_none_or(|value| value == self.own.value), "{by} of client {}", self.name);
    }

    fn count_own(&mut self) {
        let path = format!("/api/v1/kv/n/own/c{}/incr?durability={}", self.name, self.durability);
        let answer = self.client.send("POST", &path, &[], b"").expect(200).json();
        self.own.count += 1;
        assert_eq!(answer["value"], self.own.count, "client {}: an increment was lost", self.name);
    }

    fn write_common(&mut self, number: u64) {
        let key = format!("k{}", self.draw(COMMON_KEYS));
        let value = format!("{}-{number}", self.name);
        let path = format!("/api/v1/kv/n/common/{key}?durability={}", self.durability);
        let began = Instant::now();
        let answer = self.client.send("PUT", &path, &[], value.as_bytes());
        assert!(answer.status / 100 == 2, "{answer:?}");
        self.note("PUT", key, began, answer.version(), Some(value), true);
    }

    fn count_common(&mut self) {
        let path = format!("/api/v1/kv/n/common/count/incr?durability={}", self.durability);
        let began = Instant::now();
        let answer = self.client.send("POST", &path, &[], b"").expect(200).json();
        let (version, value) = (answer["version"].as_u64().unwrap(), answer["value"].to_string());
        self.note("incr", "count".into(), began, version, Some(value), true);
    }

    fn read_common(&mut self, how: u64) {
        let began = Instant::now();
        if how < 2 {
            let key = format!("k{}", self.draw(COMMON_KEYS));
            let headers = if how == 0 { &[][..] } else { &NO_CACHE };
            let answer = self.client.send("GET", &format!("/api/v1/kv/n/common/{key}"), headers, b"");
            match answer.status {
                404 => self.note("GET", key, began, 0, None, false),
                _ => {
                    let (version, value) = (answer.version(), answer.expect(200).text());
                    self.note("GET", key, began, version, Some(value), false);
                }
            }
            return;
        }
        let items = if how == 2 {
            self.page("common", "")
        } else {
            let gets: Vec<String> = (0..COMMON_KEYS).map(|n| format!(r#"{{"op":"get","key":"k{n}"}}"#)).collect();
            let body = format!(r#"{{"namespace":"n","collection":"common","operations":[{}]}}"#, gets.join(","));
            self.client.send("POST", "/api/v1/batch", &JSON, body.as_bytes()).expect(200).json()["results"].take()
        };
        for n in 0..COMMON_KEYS {
            let key = format!("k{n}");
            let of_key = |item: &&serde_json::Value| how != 2 || item["key"] == key.as_str();
            let mut of_key = items.as_array().unwrap().iter().filter(of_key);
            let item = if how == 2 { of_key.next() } else { of_key.nth(n as usize) };
            let version = item.and_then(|item| item["version"].as_u64()).unwrap_or(0);
            self.note(if how == 2 { "list" } else { "batch" }, key, began, version, None, false);
        }
    }

    fn run(&mut self, ended: &AtomicBool) {
        for number in 1.. {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            self.write_own(number);
            let how = self.draw(6);
            self.read_own(how);
            self.count_own();
            self.write_common(number);
            self.count_common();
            let how = self.draw(4);
            self.read_common(how);
        }
    }
}

/// How often journals were sealed in this folder: they are numbered.
fn rotations(data: &Path) -> u64 {
    let entries = std::fs::read_dir(data.join("fjall")).unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".jnl")?.parse().ok());
    numbers.max().unwrap_or(0)
}

fn nothing_is_stale(engine: &str, config: &str, durability: &str, wanted: u64) {
    let server = Server::builder().engine(engine).config(config).start();
    let (ended, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let history = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (ended, history, address, answers) = (&ended, &history, server.address(), &answers);
        for writer in 0..2 {
            scope.spawn(move || write_noise(address, writer, ended));
        }
        for name in 0..CLIENTS {
            scope.spawn(move || {
                let _ends = Ends(ended);
                let (client, random) = (Client::new(address), 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(name + 1));
                let mut reader = Reader { client, name, random, seen: Vec::new(), durability, own: Own::default() };
                reader.run(ended);
                answers.fetch_add(reader.own.count, Ordering::Relaxed);
                history.lock().unwrap().append(&mut reader.seen);
            });
        }
        let _ends = Ends(ended);
        let began = Instant::now();
        while rotations(server.data()) < wanted && !ended.load(Ordering::Relaxed) {
            assert!(began.elapsed() < GIVE_UP, "journals are not sealed");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let judged = history::check(&history.into_inner().unwrap()).unwrap_or_else(|error| panic!("{engine}: {error}"));
    let count = server.get("/api/v1/kv/n/common/count").text();
    assert_eq!(count, answers.load(Ordering::Relaxed).to_string(), "{engine}: increments were lost");
    println!(
        "trial: {engine}, {durability}: {judged} answers fit one order, {} journals sealed",
        rotations(server.data())
    );
}

#[test]
fn nothing_stale_is_read_while_journals_are_sealed() {
    let wanted: Option<u64> = std::env::var("FRESH_ROTATIONS").ok().and_then(|n| n.parse().ok());
    // Without a cache every read is the store's; with one it is filled by misses that overtake writes.
    let all = [("sync", "0"), ("relaxed", "1MiB"), ("relaxed", "0"), ("sync", "1MiB")];
    for (n, engine) in engines().iter().enumerate() {
        let ways = if wanted.is_some() { &all[..] } else { &all[n % all.len()..][..1] };
        for (durability, cache) in ways {
            let config = format!("[store]\nmemtable = \"1MiB\"\n[cache]\nsize = \"{cache}\"\n");
            nothing_is_stale(engine, &config, durability, wanted.unwrap_or(if is_optimised() { 5 } else { 2 }));
        }
    }
}
