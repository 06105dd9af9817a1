//! Prints what part of reads the cache answers: on seeded traces beside `quick_cache` and an exact LRU, and under
//! durable writes beside none. Time plays no part in it; the second table has a simulated clock.
//!
//! All three get the same number of bytes and the same cost for each entry. Sharded caches lose a little to an exact
//! one because their shards are never equally full.
#![allow(missing_docs)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use larder::cache::{Cache, Load, entry_overhead_bytes};
use larder::metrics::Registry;

const KEYS: usize = 100_000;
const READS: usize = 2_000_000;
/// This part of a trace fills the cache and is not counted.
const WARM_UP_READS: usize = READS / 5;
const VALUE_BYTES: usize = 100;
const CORES: usize = 4;

fn main() {
    println!("hit ratio in %, {KEYS} keys, {READS} reads, the first fifth not counted\n");
    println!("| trace | entries cached | larder (SIEVE) | quick_cache 0.7 | exact LRU |");
    println!("|---|---|---|---|---|");
    for (name, trace) in traces() {
        for entries in [500, 1_000, 5_000, 10_000, 20_000] {
            let ours = ratio(&trace, Larder::new(entries));
            let quick = ratio(&trace, Quick::new(entries));
            let lru = ratio(&trace, Lru::new(entries));
            println!("| {name} | {entries} | {ours:.2} | {quick:.2} | {lru:.2} |");
        }
    }
    writes::table();
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks drawn by Zipf's law.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: usize, s: f64) -> Zipf {
        let mut sum = 0.0;
        let mut cumulated: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        cumulated.iter_mut().for_each(|part| *part /= sum);
        Zipf(cumulated)
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let at = random.unit();
        self.0.partition_point(|&part| part <= at).min(self.0.len() - 1) as u64
    }
}

fn traces() -> Vec<(&'static str, Vec<u64>)> {
    let zipf = |s: f64| {
        let (law, mut random) = (Zipf::new(KEYS, s), Random(s.to_bits()));
        (0..READS).map(|_| law.draw(&mut random)).collect::<Vec<u64>>()
    };
    // An export every 100 000 reads: 20 000 keys in a row that nobody else asks for.
    let mut scanned = Vec::with_capacity(READS);
    for (n, chunk) in zipf(1.0).chunks(80_000).enumerate() {
        scanned.extend_from_slice(chunk);
        let first = (KEYS + n * 20_000) as u64;
        scanned.extend(first..first + 20_000);
    }
    scanned.truncate(READS);
    vec![
        ("Zipf 0.8", zipf(0.8)),
        ("Zipf 1.0", zipf(1.0)),
        ("Zipf 1.2", zipf(1.2)),
        ("Zipf 1.0 with a fifth of scans", scanned),
    ]
}

/// A cache under trial: says whether it had the key, and has it afterwards if it wants.
trait Trial {
    fn read(&mut self, key: u64) -> bool;
}

fn ratio(trace: &[u64], mut trial: impl Trial) -> f64 {
    let mut hits = 0;
    for (n, &key) in trace.iter().enumerate() {
        let hit = trial.read(key);
        hits += usize::from(hit && n >= WARM_UP_READS);
    }
    hits as f64 * 100.0 / (trace.len() - WARM_UP_READS) as f64
}

/// What an entry costs in larder's own accounting; the others are charged the same.
fn cost_bytes(value_bytes: usize) -> u64 {
    (entry_overhead_bytes::<u64>() + size_of::<u64>() + value_bytes) as u64
}

struct Larder(Cache<u64>);

impl Larder {
    fn new(entries: u64) -> Larder {
        Larder(Cache::new(entries * cost_bytes(VALUE_BYTES), CORES, &Registry::default()))
    }
}

impl Trial for Larder {
    fn read(&mut self, key: u64) -> bool {
        read_through(&self.0, key, VALUE_BYTES)
    }
}

fn read_through(cache: &Cache<u64>, key: u64, value_bytes: usize) -> bool {
    let name = key.to_le_bytes();
    if cache.get(&name).is_some() {
        return true;
    }
    if let Load::Ticket(ticket) = cache.load(&name, Instant::now()) {
        ticket.fill(Arc::new(key), value_bytes);
    }
    false
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<u64, u64> for Weight {
    fn weight(&self, _: &u64, _: &u64) -> u64 {
        cost_bytes(VALUE_BYTES)
    }
}

struct Quick(quick_cache::sync::Cache<u64, u64, Weight>);

impl Quick {
    fn new(entries: u64) -> Quick {
        let bytes = entries * cost_bytes(VALUE_BYTES);
        Quick(quick_cache::sync::Cache::with_weighter(entries as usize, bytes, Weight))
    }
}

impl Trial for Quick {
    fn read(&mut self, key: u64) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, key);
        }
        hit
    }
}

/// An exact LRU: a queue of uses, of which only a key's last counts.
struct Lru {
    entries_max: usize,
    last_use: HashMap<u64, u64>,
    uses: VecDeque<(u64, u64)>,
    now: u64,
}

impl Lru {
    fn new(entries: u64) -> Lru {
        Lru { entries_max: entries as usize, last_use: HashMap::new(), uses: VecDeque::new(), now: 0 }
    }
}

impl Trial for Lru {
    fn read(&mut self, key: u64) -> bool {
        self.now += 1;
        let hit = self.last_use.insert(key, self.now).is_some();
        self.uses.push_back((key, self.now));
        while self.last_use.len() > self.entries_max {
            let Some((oldest, used)) = self.uses.pop_front() else { break };
            if self.last_use.get(&oldest) == Some(&used) {
                self.last_use.remove(&oldest);
            }
        }
        hit
    }
}

/// Reads beside durable writes, on a simulated clock.
mod writes {
    use super::*;

    const CACHE_BYTES: u64 = 16 << 20;
    const RECORD_BYTES: usize = 1024;
    const SECONDS: u64 = 60;
    const READS_PER_SECOND: u64 = 20_000;
    const WRITES_PER_SECOND: u64 = 1_000;
    const COMMIT_US: u64 = 8_000;
    /// Opening a snapshot and putting it in place.
    const SWAP_US: u64 = 50;

    #[derive(Clone, Copy, PartialEq)]
    enum Announce {
        BeforeCommit,
        BeforeSwap,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Keys {
        None,
        Uniform,
        Zipf,
    }

    pub fn table() {
        println!(
            "\nhit ratio in % under {WRITES_PER_SECOND} durable PUT/s: {READS_PER_SECOND} reads/s by Zipf 1.0 over \
             {KEYS} keys of {RECORD_BYTES} bytes, {} MiB of cache, a commit takes {} ms\n",
            CACHE_BYTES >> 20,
            COMMIT_US / 1000
        );
        println!("| keys written | announced | written values | hit ratio | of that without writes |");
        println!("|---|---|---|---|---|");
        let without = simulate(Keys::None, Announce::BeforeCommit, true);
        println!("| none | | | {without:.2} | 100 |");
        for (keys, keys_text) in [(Keys::Uniform, "uniform"), (Keys::Zipf, "by the readers' Zipf")] {
            for (announce, announce_text) in
                [(Announce::BeforeCommit, "before the commit"), (Announce::BeforeSwap, "between commit and swap")]
            {
                for (through, through_text) in [(true, "taken over if hot"), (false, "dropped")] {
                    let with = simulate(keys, announce, through);
                    let part = with * 100.0 / without;
                    println!("| {keys_text} | {announce_text} | {through_text} | {with:.2} | {part:.1} |");
                }
            }
        }
    }

    /// One committer that takes all that waits, as soon as the group before is done.
    struct Committer {
        waiting: Vec<u64>,
        group: Vec<u64>,
        announced: bool,
        swap_at_us: u64,
        publish_at_us: u64,
        announce: Announce,
        through: bool,
    }

    impl Committer {
        fn tick(&mut self, cache: &Cache<u64>, now_us: u64) {
            if !self.group.is_empty() && !self.announced && now_us >= self.swap_at_us {
                self.announce_group(cache);
            }
            if !self.group.is_empty() && now_us >= self.publish_at_us {
                for key in self.group.drain(..) {
                    let value = self.through.then(|| (Arc::new(key), RECORD_BYTES));
                    cache.publish(&key.to_le_bytes(), value);
                }
            }
            if self.group.is_empty() && !self.waiting.is_empty() {
                self.group = self.waiting.drain(..).collect::<HashSet<u64>>().into_iter().collect();
                self.swap_at_us = now_us + COMMIT_US;
                self.publish_at_us = self.swap_at_us + SWAP_US;
                self.announced = false;
                if self.announce == Announce::BeforeCommit {
                    self.announce_group(cache);
                }
            }
        }

        fn announce_group(&mut self, cache: &Cache<u64>) {
            self.group.iter().for_each(|key| cache.announce(&key.to_le_bytes()));
            self.announced = true;
        }
    }

    fn simulate(keys: Keys, announce: Announce, through: bool) -> f64 {
        let cache = Cache::new(CACHE_BYTES, CORES, &Registry::default());
        let law = Zipf::new(KEYS, 1.0);
        let (mut readers, mut writers) = (Random(1), Random(2));
        let mut committer = Committer {
            waiting: Vec::new(),
            group: Vec::new(),
            announced: false,
            swap_at_us: 0,
            publish_at_us: 0,
            announce,
            through,
        };
        let (mut hits, mut reads) = (0u64, 0u64);
        // In steps of 10 µs.
        for now_us in (0..SECONDS * 1_000_000).step_by(10) {
            if now_us % (1_000_000 / WRITES_PER_SECOND) == 0 {
                match keys {
                    Keys::None => {}
                    Keys::Uniform => committer.waiting.push(writers.next() % KEYS as u64),
                    Keys::Zipf => committer.waiting.push(law.draw(&mut writers)),
                }
            }
            committer.tick(&cache, now_us);
            if now_us % (1_000_000 / READS_PER_SECOND) == 0 {
                let hit = read_through(&cache, law.draw(&mut readers), RECORD_BYTES);
                if now_us >= SECONDS * 1_000_000 / 5 {
                    reads += 1;
                    hits += u64::from(hit);
                }
            }
        }
        hits as f64 * 100.0 / reads as f64
    }
}
