//! A store on a simulated card, its clients, and what they know; it outlives servers and power cuts.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::ledger::{End, Shared};
use crate::support::{Card, CardOptions, Client, Names, Seeded, Server, engines};
use crate::traffic::{Dark, Hand, Mood, Things, look};

const CLIENTS: usize = 4;
/// Small, so that a life of a second sees flushes, merges, syncs of relaxed writes and the sweeper.
const CONFIG: &str = "[server]\nworkers = 4\n[store]\nmemtable = \"1MiB\"\nblock_cache = \"256KiB\"\n\
    sync_interval = \"200ms\"\n[cache]\nsize = \"64KiB\"\n[expiry]\nscan_rate = 10000\n\
    [limits]\ndrain_timeout = \"10s\"\n[log]\nslow_request = \"0s\"\n";

/// The store.
pub struct Scene {
    pub card: Card,
    _backing: tempfile::TempDir,
    began: Instant,
    engine: String,
    pub shared: Shared,
    things: Vec<Things>,
    /// What happened, for whoever reads of a violation.
    story: Vec<String>,
    log: String,
    is_log_kept: bool,
}

impl Scene {
    /// An empty card.
    pub fn new(seed: u64, names: Names) -> io::Result<Scene> {
        let mut drawn = Seeded::new(seed);
        let backing = tempfile::tempdir()?;
        let options = CardOptions {
            power_cuts: true,
            names,
            untyped_entries: drawn.percent(50),
            failed_syncs_forget: true,
            ..CardOptions::default()
        };
        let card = Card::mount(backing.path(), options)?;
        let engine = drawn.one_of(&engines()).clone();
        let story = vec![format!("{names:?}, {engine}, entries without types: {}", options.untyped_entries)];
        let things = (0..CLIENTS).map(Things::new).collect();
        let (began, shared, log) = (Instant::now(), Shared::default(), String::new());
        Ok(Scene { card, _backing: backing, began, engine, shared, things, story, log, is_log_kept: false })
    }

    fn data(&self) -> PathBuf {
        self.card.path().join("data")
    }

    /// Adds to the story.
    pub fn tell(&mut self, what: impl Into<String>) {
        let seconds = self.began.elapsed().as_secs_f32();
        self.story.push(format!("{seconds:.2} s: {}", what.into()));
    }

    /// Starts the server; `Err`: it ended by itself, with these words.
    pub fn start(&self) -> Result<Server, String> {
        Server::builder().engine(&self.engine).config(CONFIG).data(&self.data()).try_start()
    }

    /// Has all clients work at once. Tells of one that was not answered.
    pub fn work(&mut self, server: &Server, drawn: &mut Seeded, mood: Mood, steps: u64, blind: bool) -> Option<String> {
        let (address, shared) = (server.address(), &self.shared);
        std::thread::scope(|scope| {
            let work = |things| {
                let hand = Hand::new(address, drawn.number(), mood, things, shared, blind);
                scope.spawn(move || hand.work(steps))
            };
            let hands: Vec<_> = self.things.iter_mut().map(work).collect();
            hands.into_iter().filter_map(|hand| hand.join().expect("a client does not panic")).last()
        })
    }

    /// Reads everything and compares. `Err`: something was not answered.
    pub fn verify(&mut self, server: &Server) -> Result<(), String> {
        let mut client = server.client();
        for thing in self.things.iter_mut().flat_map(|things| &mut things.all) {
            let found: Result<Vec<_>, _> = thing.keys.iter().map(|key| look(&mut client, key, &[])).collect();
            let found = found.map_err(|(Dark::NoAnswer(text) | Dark::Answer(text))| text)?;
            let keys = thing.keys.clone();
            match thing.found(&found) {
                Err(text) => self.shared.violation(text),
                Ok(states) => {
                    for ((state, found), key) in states.iter().zip(&found).zip(&keys) {
                        if let crate::ledger::Found::Value(answer) = found {
                            self.shared.saw(answer.version(), key, state);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads everything in the life in which it was written. `Err`: something was not answered, though the card lets
    /// itself be read.
    pub fn read_all(&mut self, server: &Server, blind: bool) -> Result<(), String> {
        let mut client = server.client();
        for thing in self.things.iter().flat_map(|things| &things.all) {
            for (place, key) in thing.keys.iter().enumerate() {
                match look(&mut client, key, &[]) {
                    Ok(found) => {
                        let shown = thing.may_show(place, &found);
                        shown.unwrap_or_else(|text| {
                            self.shared.violation(format!("a read shows something else: {text}"))
                        });
                    }
                    Err(Dark::Answer(_)) if blind => {}
                    Err(Dark::NoAnswer(text) | Dark::Answer(text)) => return Err(text),
                }
            }
        }
        Ok(())
    }

    /// What must be true of a store that is well after its start, whatever happened before it.
    pub fn is_well(&mut self, client: &mut Client) -> Result<(), String> {
        let answer = client.try_send("GET", "/health", &[], b"").map_err(|error| format!("GET /health: {error}"))?;
        match answer.status {
            200 => Ok(()),
            _ => Err(format!("/health is {}: {}", answer.status, answer.text())),
        }
    }

    /// Compares the lists with what was found under each key.
    pub fn verify_lists(&mut self, server: &Server) {
        let mut listed = Vec::new();
        for collection in server.list("/api/v1/kv/n")["items"].as_array().expect("the collections") {
            let path = format!("/api/v1/kv/n/{}", collection.as_str().expect("a name"));
            let items = server.list(&format!("{path}?values=false&limit=1000"));
            let items = items["items"].as_array().expect("the items").clone();
            listed.extend(items.iter().map(|item| format!("{path}/{}", item["key"].as_str().expect("a key"))));
        }
        let mut client = server.client();
        for key in self.things.iter().flat_map(|things| &things.all).flat_map(|thing| &thing.keys) {
            let found = look(&mut client, key, &[]);
            let is_listed = listed.iter().position(|other| other == key).map(|place| listed.swap_remove(place));
            if matches!(found, Ok(crate::ledger::Found::Value(_))) && is_listed.is_none() {
                self.shared.violation(format!("{key} is there and not listed"));
            }
        }
        if !listed.is_empty() {
            self.shared.violation(format!("nobody wrote {listed:?}"));
        }
    }

    /// Notes how the server ended, and keeps its log.
    pub fn ended(&mut self, end: End, log: &str) {
        let synced = self.shared.take_synced();
        self.things.iter_mut().flat_map(|things| &mut things.all).for_each(|thing| thing.after(end, synced));
        // That of the life in which it came to a violation is kept.
        if !std::mem::replace(&mut self.is_log_kept, self.shared.has_violations()) {
            let lines: Vec<&str> = log.lines().collect();
            self.log = lines[lines.len().saturating_sub(40)..].join("\n");
        }
        if log.contains("panicked") {
            self.shared.violation("a thread panicked");
        }
    }

    /// Everything that was not as promised so far, with the story.
    pub fn report(&mut self, seed: &str) -> Vec<String> {
        let violations = self.shared.take_violations();
        if !violations.is_empty() || std::env::var_os("CAMPAIGN_STORY").is_some() {
            let story = self.story.join("\n  ");
            // In one piece: stores are tried side by side.
            eprintln!("{seed}:\n  {story}\n  {}\nthe log:\n{}\n", violations.join("\n  "), self.log);
        }
        violations.into_iter().map(|violation| format!("{seed}: {violation}")).collect()
    }
}
