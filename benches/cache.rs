//! What the cache's calls cost on one thread. Numbers for the eye, no limits.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use larder::cache::{Cache, Load};
use larder::metrics::Registry;

/// Keys as the store has them: a type byte, namespace, collection and key.
fn name(key: usize) -> Vec<u8> {
    format!("\x01default\0sensors\0device-{key:05}").into_bytes()
}

fn filled(keys: usize) -> (Cache<[u8; 64]>, Vec<Vec<u8>>) {
    let cache = Cache::new(64 << 20, 4, &Registry::default());
    let names: Vec<_> = (0..keys).map(name).collect();
    for name in &names {
        if let Load::Ticket(ticket) = cache.load(name, Instant::now()) {
            ticket.fill(Arc::new([0; 64]), 100);
        }
    }
    (cache, names)
}

fn next<'a>(names: &'a [Vec<u8>], at: &mut usize) -> &'a [u8] {
    // A stride that visits all of them in no order a prefetcher knows.
    *at = (*at + 7919) % names.len();
    &names[*at]
}

fn benches(c: &mut Criterion) {
    for keys in [100, 10_000] {
        let (cache, names) = filled(keys);
        let mut at = 0;
        c.bench_function(&format!("get hit, {keys} keys"), |b| {
            b.iter(|| cache.get(black_box(next(&names, &mut at))));
        });
    }
    let (cache, names) = filled(10_000);
    c.bench_function("get miss", |b| b.iter(|| cache.get(black_box(b"\x01default\0sensors\0nobody"))));
    // A budget that holds a tenth of the keys, so that most rounds load, fill and evict.
    cache.set_budget(cache.stats().bytes / 10);
    let mut at = 0;
    c.bench_function("get, load, fill, evict", |b| {
        b.iter(|| {
            let name = next(&names, &mut at);
            if cache.get(name).is_none()
                && let Load::Ticket(ticket) = cache.load(name, Instant::now())
            {
                ticket.fill(Arc::new([0; 64]), 100);
            }
        });
    });
    let (cache, names) = filled(10_000);
    let value = Arc::new([0; 64]);
    let mut at = 0;
    c.bench_function("announce, publish, hot key", |b| {
        b.iter(|| {
            let name = next(&names, &mut at);
            cache.announce(name);
            cache.publish(name, Some((value.clone(), 100)));
        });
    });
    cache.clear();
    c.bench_function("announce, publish, cold key", |b| {
        b.iter(|| {
            let name = next(&names, &mut at);
            cache.announce(name);
            cache.publish(name, Some((value.clone(), 100)));
        });
    });
}

criterion_group!(all, benches);
criterion_main!(all);
