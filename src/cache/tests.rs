//! Tests of the cache on one thread and under stress; the interleavings are in `tests/cache_model`.

use std::time::Duration;

use super::*;

fn cache(budget_bytes: u64) -> Cache<u64> {
    Cache::new(budget_bytes, 1, &Registry::default())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn ticket<'a>(cache: &'a Cache<u64>, key: &[u8]) -> Ticket<'a, u64> {
    match cache.load(key, soon()) {
        Load::Ticket(ticket) => ticket,
        Load::Hit(_) => panic!("a hit where a ticket was expected"),
        Load::Bypass => panic!("a bypass where a ticket was expected"),
    }
}

fn fill(cache: &Cache<u64>, key: &[u8], value: u64) -> Arc<u64> {
    let value = Arc::new(value);
    assert!(ticket(cache, key).fill(value.clone(), 100));
    value
}

#[test]
fn a_filled_value_is_hit_and_counted() {
    let cache = cache(1 << 20);
    assert!(cache.get(b"a").is_none());
    fill(&cache, b"a", 1);
    assert_eq!(cache.get(b"a").as_deref(), Some(&1));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries, stats.rejected_fills), (1, 1, 1, 0));
    assert_eq!(stats.bytes as usize, 1 + 100 + entry_overhead_bytes::<u64>());
}

#[test]
fn a_ticket_that_was_announced_away_fills_nothing() {
    let cache = cache(1 << 20);
    let stale = ticket(&cache, b"a");
    cache.announce(b"a");
    assert!(matches!(cache.load(b"a", soon()), Load::Bypass));
    cache.publish(b"a", None);
    assert!(!stale.fill(Arc::new(1), 100));
    assert!(cache.get(b"a").is_none());
    assert_eq!(cache.stats().rejected_fills, 1);
}

#[test]
fn a_write_is_wanted_if_its_key_was_cached_or_being_loaded_when_it_was_announced() {
    let cache = cache(1 << 20);
    cache.announce(b"unread");
    assert!(matches!(cache.load(b"unread", soon()), Load::Bypass));
    assert!(!cache.wants(b"unread"));
    cache.publish(b"unread", None);

    fill(&cache, b"cached", 1);
    cache.announce(b"cached");
    assert!(cache.wants(b"cached"));

    let loading = ticket(&cache, b"loading");
    cache.announce(b"loading");
    assert!(cache.wants(b"loading") && !loading.fill(Arc::new(1), 100));
    for key in [&b"cached"[..], b"loading"] {
        cache.publish(key, Some((Arc::new(2), 100)));
        assert_eq!(cache.get(key).as_deref(), Some(&2));
    }
}

#[test]
fn an_old_ticket_does_not_fill_in_place_of_a_new_one() {
    let cache = cache(1 << 20);
    let old = ticket(&cache, b"a");
    cache.announce(b"a");
    cache.abort(b"a");
    let new = ticket(&cache, b"a");
    assert!(!old.fill(Arc::new(1), 100));
    assert!(cache.get(b"a").is_none());
    assert!(new.fill(Arc::new(2), 100));
    assert_eq!(cache.get(b"a").as_deref(), Some(&2));
}

#[test]
fn a_dropped_ticket_leaves_the_next_reader_a_ticket() {
    let cache = cache(1 << 20);
    drop(ticket(&cache, b"a"));
    fill(&cache, b"a", 1);
}

#[test]
fn a_write_is_taken_over_where_the_key_was_cached_or_being_loaded_and_nowhere_else() {
    let cache = cache(1 << 20);
    fill(&cache, b"cached", 1);
    let loading = ticket(&cache, b"loading");
    for key in [&b"cached"[..], b"loading", b"cold"] {
        cache.announce(key);
        assert!(cache.get(key).is_none());
        cache.publish(key, Some((Arc::new(2), 100)));
    }
    assert!(!loading.fill(Arc::new(1), 100));
    assert_eq!(cache.get(b"cached").as_deref(), Some(&2));
    assert_eq!(cache.get(b"loading").as_deref(), Some(&2));
    assert!(cache.get(b"cold").is_none());
}

#[test]
fn a_deleted_or_failed_write_leaves_nothing_cached() {
    let cache = cache(1 << 20);
    for end in [|cache: &Cache<u64>| cache.publish(b"a", None), |cache: &Cache<u64>| cache.abort(b"a")] {
        fill(&cache, b"a", 1);
        cache.announce(b"a");
        end(&cache);
        assert!(cache.get(b"a").is_none());
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }
}

#[test]
fn a_key_stays_marked_until_the_last_of_its_writes_has_ended() {
    let cache = cache(1 << 20);
    fill(&cache, b"a", 1);
    cache.announce(b"a");
    cache.announce(b"a");
    cache.publish(b"a", Some((Arc::new(2), 100)));
    assert!(cache.get(b"a").is_none());
    assert!(matches!(cache.load(b"a", soon()), Load::Bypass));
    cache.publish(b"a", Some((Arc::new(3), 100)));
    // Which of two overlapping writes is the newer is not known here, so the next reader asks the store.
    assert!(cache.get(b"a").is_none());
    fill(&cache, b"a", 3);
}

#[test]
fn a_write_that_was_never_announced_is_not_cached() {
    let cache = cache(1 << 20);
    cache.publish(b"a", Some((Arc::new(1), 100)));
    assert!(cache.get(b"a").is_none());
}

#[test]
fn a_value_above_an_eighth_of_a_shard_is_handed_over_but_not_cached() {
    let cache = cache(4 * 8 * 1000);
    assert!(!ticket(&cache, b"a").fill(Arc::new(1), 1000));
    assert!(cache.get(b"a").is_none());
    let fits = 1000 - 1 - entry_overhead_bytes::<u64>();
    assert!(ticket(&cache, b"a").fill(Arc::new(1), fits));
    cache.announce(b"a");
    cache.publish(b"a", Some((Arc::new(2), fits + 1)));
    assert!(cache.get(b"a").is_none());
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_cache_without_budget_keeps_nothing_and_still_gives_tickets() {
    let cache = cache(0);
    assert!(!ticket(&cache, b"a").fill(Arc::new(1), 0));
    assert!(!ticket(&cache, b"a").fill(Arc::new(1), 0));
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn growing_is_accounted_only_for_the_very_value() {
    let cache = cache(1 << 20);
    let first = fill(&cache, b"a", 1);
    let before = cache.stats().bytes;
    assert!(cache.grow(b"a", &first, 50));
    assert_eq!(cache.stats().bytes, before + 50);
    assert!(!cache.grow(b"a", &Arc::new(1), 50));
    assert!(!cache.grow(b"b", &first, 50));
    assert!(!cache.grow(b"a", &first, 1 << 20));
    assert_eq!(cache.stats().bytes, before + 50);
    cache.announce(b"a");
    assert!(!cache.grow(b"a", &first, 50));
    cache.abort(b"a");
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_smaller_budget_is_kept_at_once_and_a_larger_one_used() {
    let cache = cache(1 << 20);
    for n in 0..2000u64 {
        fill(&cache, &n.to_le_bytes(), n);
    }
    let full = cache.stats();
    cache.set_budget(1 << 16);
    let shrunk = cache.stats();
    assert!(full.bytes > 1 << 17 && shrunk.bytes <= 1 << 16, "{full:?} {shrunk:?}");
    assert_eq!(shrunk.evictions - full.evictions, full.entries - shrunk.entries);
    cache.set_budget(1 << 20);
    for n in 0..2000u64 {
        if cache.get(&n.to_le_bytes()).is_none() {
            fill(&cache, &n.to_le_bytes(), n);
        }
    }
    assert!(cache.stats().bytes > 1 << 17);
}

#[test]
fn clearing_forgets_values_and_tickets_but_not_marks() {
    let cache = cache(1 << 20);
    fill(&cache, b"a", 1);
    cache.announce(b"marked");
    let loading = ticket(&cache, b"loading");
    cache.clear();
    assert!(cache.get(b"a").is_none());
    assert!(!loading.fill(Arc::new(1), 100));
    assert!(matches!(cache.load(b"marked", soon()), Load::Bypass));
    assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
}

#[test]
fn the_hottest_keys_are_those_that_were_hit() {
    let cache = cache(1 << 20);
    for n in 0..100u64 {
        fill(&cache, &n.to_le_bytes(), n);
    }
    let hit: Vec<u64> = (0..100).filter(|n| n % 10 == 3).collect();
    for n in &hit {
        cache.get(&n.to_le_bytes());
    }
    assert_eq!(cache.hottest(1000).len(), 100);
    assert!(cache.hottest(0).is_empty());
    let warm = cache.hottest(60);
    assert_eq!(warm.len(), 60);
    assert!(hit.iter().all(|n| warm.iter().any(|key| **key == n.to_le_bytes())));
}

#[test]
fn those_who_wait_for_a_ticket_get_the_one_value_that_was_read() {
    let cache = cache(1 << 20);
    std::thread::scope(|scope| {
        let holder = ticket(&cache, b"a");
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| match cache.load(b"a", soon()) {
                    Load::Hit(value) => Some(value),
                    Load::Ticket(_) | Load::Bypass => None,
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        let value = Arc::new(1);
        assert!(holder.fill(value.clone(), 100));
        for reader in waiting {
            let got = reader.join().unwrap().expect("every one of them gets the value");
            assert!(Arc::ptr_eq(&got, &value));
        }
    });
}

#[test]
fn a_wait_ends_with_its_deadline_or_with_the_holder() {
    let cache = cache(1 << 20);
    let holder = ticket(&cache, b"a");
    assert!(matches!(cache.load(b"a", Instant::now()), Load::Bypass));
    assert!(matches!(cache.load(b"a", Instant::now() + Duration::from_millis(5)), Load::Bypass));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| matches!(cache.load(b"a", soon()), Load::Hit(_)));
        std::thread::sleep(Duration::from_millis(20));
        drop(holder);
        // Woken to a bypass, or come so late that it got a ticket of its own: never a value.
        assert!(!waiting.join().unwrap());
    });
}

/// What a reader, the committer and a checker share in the stress test.
struct Stress {
    cache: Cache<u64>,
    /// The shared snapshot: the version of each key.
    snapshot: parking_lot::RwLock<Arc<Vec<u64>>>,
    /// The version of each key whose writer has been told.
    told: Vec<AtomicU64>,
}

impl Stress {
    fn read(&self, key: usize) -> u64 {
        let name = key.to_le_bytes();
        if let Some(value) = self.cache.get(&name) {
            return *value;
        }
        match self.cache.load(&name, soon()) {
            Load::Hit(value) => *value,
            Load::Bypass => self.snapshot.read()[key],
            Load::Ticket(ticket) => {
                let version = self.snapshot.read().clone()[key];
                ticket.fill(Arc::new(version), 100 + key);
                version
            }
        }
    }

    /// Commits one group; every seventh fails, every fifth deletes as far as the cache can tell.
    fn write(&self, group: u64, keys: &[usize]) {
        for key in keys {
            self.cache.announce(&key.to_le_bytes());
        }
        let failed = group.is_multiple_of(7);
        if !failed {
            let mut next = (**self.snapshot.read()).clone();
            keys.iter().for_each(|&key| next[key] += 1);
            *self.snapshot.write() = Arc::new(next);
        }
        let now = self.snapshot.read().clone();
        for &key in keys {
            let value = (!group.is_multiple_of(5)).then(|| (Arc::new(now[key]), 100 + key));
            match failed {
                true => self.cache.abort(&key.to_le_bytes()),
                false => self.cache.publish(&key.to_le_bytes(), value),
            }
            self.told[key].store(now[key], Ordering::Release);
        }
    }
}

#[test]
fn readers_beside_a_committer_never_see_less_than_its_writers_were_told() {
    const KEYS: usize = 64;
    const GROUPS: u64 = 20_000;
    let stress = Stress {
        // Room for some of the keys, so that evictions take part.
        cache: cache(4 * 8 * 320),
        snapshot: parking_lot::RwLock::new(Arc::new(vec![0; KEYS])),
        told: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
    };
    let running = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for reader in 0..4usize {
            let (stress, running) = (&stress, &running);
            scope.spawn(move || {
                let mut seen = [0; KEYS];
                let mut key = reader;
                let mut reads = 0;
                // At least so many, so that there are hits and evictions even if the committer was quicker.
                while running.load(Ordering::Relaxed) || reads < 10_000 {
                    reads += 1;
                    key = (key * 5 + 1 + reader) % KEYS;
                    let told = stress.told[key].load(Ordering::Acquire);
                    let read = stress.read(key);
                    assert!(read >= told && read >= seen[key], "read {read}, told {told}, seen {}", seen[key]);
                    seen[key] = read;
                }
            });
        }
        for group in 0..GROUPS {
            let first = (group as usize * 7) % KEYS;
            stress.write(group, &[first, (first + 1) % KEYS]);
        }
        running.store(false, Ordering::Relaxed);
    });
    let now = stress.snapshot.read().clone();
    for (key, &version) in now.iter().enumerate() {
        if let Some(cached) = stress.cache.get(&key.to_le_bytes()) {
            assert_eq!(*cached, version, "key {key} is stale at rest");
        }
    }
    let stats = stress.cache.stats();
    assert!(stats.hits > 0 && stats.evictions > 0 && stats.bytes <= stats.budget_bytes, "{stats:?}");
}
