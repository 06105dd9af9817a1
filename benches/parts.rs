//! What the small parts on every request's way cost: the record's stored form and the router. Numbers for the eye.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use larder::api::routes::ROUTES;
use larder::http::router;
use larder::store::record::{self, Record};

fn record_of(bytes: usize) -> Record {
    Record {
        version: 123_456_789,
        modified_ms: 1_800_000_000_000,
        expires_ms: 0,
        content_type: Bytes::from_static(b"application/json"),
        value: vec![b'v'; bytes].into(),
    }
}

fn codec(c: &mut Criterion) {
    for bytes in [100, 1024, 65_536] {
        let one = record_of(bytes);
        c.bench_function(&format!("record encode, {bytes} B"), |b| b.iter(|| record::encode(black_box(&one))));
        let form = record::encode(&one);
        c.bench_function(&format!("record decode, {bytes} B"), |b| {
            b.iter(|| record::decode(black_box(form.clone())).unwrap());
        });
        c.bench_function(&format!("record peek version, {bytes} B"), |b| {
            b.iter(|| record::peek_version(black_box(&form)).unwrap());
        });
    }
}

fn routes(c: &mut Criterion) {
    for path in ["/health", "/api/v1/kv/home/sensors/device-00042", "/api/v1/kv/home/n/clicks/incr", "/no/such/path"] {
        c.bench_function(&format!("route {path}"), |b| {
            b.iter(|| router::find(&ROUTES, black_box(path)).map(|found| found.parameters));
        });
    }
}

criterion_group!(groups, codec, routes);
criterion_main!(groups);
