//! The committer on a card that syncs in 8 ms (the memory store with a delay): writes a second, requests a group and
//! the time spent gathering, at 1, 8 and 64 clients that each wait for their answer before they write again.
//!
//! Not a criterion bench: what is measured is a steady state of many threads, not the time of a call.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::metrics::Registry;
use larder::store::{
    Action, Database, DatabaseOptions, Durability, FullKey, MemoryStore, NoObserver, Precondition, Ttl, WriteOp,
    WriteRequest,
};

const SYNC: Duration = Duration::from_millis(8);
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);

fn put(key: FullKey, value: Bytes, reply: larder::store::Reply) -> WriteRequest {
    let action = Action::Put { content_type: Bytes::from_static(b"text/plain"), value, ttl: Ttl::Clear };
    WriteRequest {
        ops: vec![WriteOp { key, action, precondition: Precondition::default(), preread: None }],
        atomic: true,
        durability: Durability::Sync,
        deadline: None,
        reply,
    }
}

fn client(number: usize, db: &Database, done: &AtomicU64, ended: &AtomicBool) {
    let (tell, told) = sync_channel(1);
    let value = Bytes::from(vec![b'v'; 1024]);
    for round in 0.. {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let key = FullKey::new("bench", "commit", &format!("{number}-{}", round % 100));
        let tell = tell.clone();
        db.submit(put(
            key,
            value.clone(),
            Box::new(move |outcome| {
                let _ = tell.send(outcome.is_ok());
            }),
        ));
        assert!(told.recv().unwrap(), "a write failed");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sum and count of a distribution, from the page.
fn figures(registry: &Registry, name: &str) -> (f64, f64) {
    let page = registry.expose();
    let of = |suffix: &str| {
        let start = format!("{name}{suffix} ");
        page.lines().find_map(|line| line.strip_prefix(&start)).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    (of("_sum"), of("_count"))
}

fn run(clients: usize) {
    let registry = Registry::default();
    let store = MemoryStore::with_sync_delay(SYNC);
    let db = Database::start(store.clone(), Arc::new(NoObserver), &registry, DatabaseOptions::default()).unwrap();
    let (done, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (db, done, ended) = (&*db, &done, &ended);
            scope.spawn(move || client(number, db, done, ended));
        }
        std::thread::sleep(WARM_UP);
        let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
        let (group_before, gather_before) =
            (figures(&registry, "larder_commit_group_requests"), figures(&registry, "larder_commit_gather_seconds"));
        std::thread::sleep(MEASURED);
        let (writes, took) = (done.load(Ordering::Relaxed) - before, began.elapsed().as_secs_f64());
        let (group, gather) =
            (figures(&registry, "larder_commit_group_requests"), figures(&registry, "larder_commit_gather_seconds"));
        ended.store(true, Ordering::Relaxed);
        let groups = group.1 - group_before.1;
        println!(
            "{clients:3} clients: {:7.0} writes/s, {:6.1} a group, {:5.1} groups/s, {:5.2} ms gathering a group",
            writes as f64 / took,
            (group.0 - group_before.0) / groups.max(1.0),
            groups / took,
            (gather.0 - gather_before.0) * 1000.0 / groups.max(1.0),
        );
    });
    db.stop().unwrap();
}

fn main() {
    println!("committer on a card that syncs in {} ms, durable writes of 1 KiB", SYNC.as_millis());
    for clients in [1, 8, 64] {
        run(clients);
    }
}
