//! Many writers at once against a sequential model.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::support::*;
use crate::store::*;

/// A source of numbers that is the same in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn preread(database: &Database, mut op: WriteOp) -> WriteOp {
    let view = database.view();
    let record = view.read(&op.key).unwrap();
    op.preread = Some(Preread { instant: view.instant, record });
    op
}

#[test]
fn of_all_writers_with_the_same_version_exactly_one_wins() {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 30;
    let store = MemoryStore::with_sync_delay(Duration::from_micros(300));
    let database = start(store, options());
    one(&database, put("k", "start"));
    for round in 0..ROUNDS {
        let present = database.view().read(&key("k")).unwrap().unwrap().version;
        let barrier = Arc::new(std::sync::Barrier::new(WRITERS));
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (database, barrier) = (database.clone(), barrier.clone());
                thread::spawn(move || {
                    let write = if_version(put("k", &format!("{round}-{n}")), present);
                    let write = if n % 2 == 0 { preread(&database, write) } else { write };
                    barrier.wait();
                    one(&database, write)
                })
            })
            .collect();
        let outcomes: Vec<OpOutcome> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let won = outcomes.iter().filter(|outcome| matches!(outcome, OpOutcome::Stored { .. })).count();
        let lost = outcomes.iter().filter(|outcome| matches!(outcome, OpOutcome::PreconditionFailed)).count();
        assert_eq!((won, lost), (1, WRITERS - 1));
    }
}

#[test]
fn counters_lose_no_addition() {
    let database = start(MemoryStore::with_sync_delay(Duration::from_micros(200)), options());
    let adders: Vec<_> = (0..8_u64)
        .map(|seed| {
            let database = database.clone();
            thread::spawn(move || {
                let mut random = Seeded(seed);
                for _ in 0..100 {
                    let add = add(&format!("n{}", random.below(3)), 1);
                    // Pre-reads grow stale between here and the committer: it must notice.
                    one(&database, preread(&database, add));
                }
            })
        })
        .collect();
    adders.into_iter().for_each(|adder| adder.join().unwrap());
    let sum: u64 = (0..3).map(|n| read(&database, &format!("n{n}")).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 800);
}

#[test]
fn a_history_of_many_writers_is_explained_by_the_order_of_its_versions() {
    let database = start(MemoryStore::with_sync_delay(Duration::from_micros(200)), options());
    let writers: Vec<_> = (0..8_u64)
        .map(|seed| {
            let database = database.clone();
            thread::spawn(move || {
                let (mut random, mut history) = (Seeded(seed + 100), Vec::new());
                for n in 0..150 {
                    let name = format!("k{}", random.below(5));
                    let value = format!("{seed}-{n}");
                    let write = match random.below(4) {
                        0 => op(&name, Action::Delete),
                        1 => if_absent(put(&name, &value)),
                        _ => put(&name, &value),
                    };
                    let removes = matches!(write.action, Action::Delete);
                    let write = if random.below(2) == 0 { preread(&database, write) } else { write };
                    let relaxed = random.below(3) == 0;
                    let ops = vec![write];
                    let outcome =
                        end(if relaxed { send_relaxed(&database, ops) } else { send(&database, ops) }).unwrap();
                    match &outcome.results[0] {
                        OpOutcome::Stored { version, created } => history.push((*version, name, Some(value), *created)),
                        OpOutcome::Deleted { version } => history.push((*version, name, None, false)),
                        OpOutcome::NotFound => assert!(removes),
                        OpOutcome::PreconditionFailed => {}
                        other => panic!("{other:?}"),
                    }
                }
                history
            })
        })
        .collect();
    let mut history = Vec::new();
    for writer in writers {
        let own = writer.join().unwrap();
        assert!(own.windows(2).all(|pair| pair[0].0 < pair[1].0), "versions grow for each writer");
        history.extend(own);
    }
    history.sort();
    assert!(history.windows(2).all(|pair| pair[0].0 < pair[1].0), "no version twice");
    let mut model = std::collections::BTreeMap::new();
    for (version, name, value, created) in history {
        match value {
            Some(value) => assert_eq!(model.insert(name, value).is_none(), created, "created at {version}"),
            None => assert!(model.remove(&name).is_some(), "deleted at {version}"),
        }
    }
    assert_eq!(super::scene::contents(&database), model);
}

#[test]
fn readers_never_see_half_of_a_batch() {
    let database = start(MemoryStore::with_sync_delay(Duration::from_micros(100)), options());
    write(&database, vec![put("a", "0"), put("b", "0")]);
    let writer = {
        let database = database.clone();
        thread::spawn(move || {
            for n in 1..300 {
                write(&database, vec![put("a", &n.to_string()), put("b", &n.to_string())]);
            }
        })
    };
    let mut looks = 0;
    while !writer.is_finished() || looks == 0 {
        let view = database.view();
        let (a, b) = (view.read(&key("a")).unwrap().unwrap(), view.read(&key("b")).unwrap().unwrap());
        assert_eq!(a.value, b.value);
        looks += 1;
    }
    writer.join().unwrap();
}
