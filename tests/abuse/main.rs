//! Clients that take memory and give nothing: each takes what it can from a server with a 512 MB board's settings, while
//! a well-behaved neighbour works on. No request of his may fail, and memory stays within what the settings declare.
//!
//! Each scenario takes a few seconds here. `ABUSE_SECONDS` holds every attack for longer.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod amplifiers;
mod scenarios;
mod scene;
mod storms;

use scene::Scene;
use support::engines;

/// What larder takes beside its budgets: code, threads, the store's own, and a debug build's part.
const BESIDE_MIB: u64 = 48;

/// Runs an attack on every engine, with a neighbour beside it, and holds memory against a bound.
fn endure(name: &str, grows_mib: u64, attack: fn(&Scene) -> scene::Held) {
    for engine in engines() {
        let scene = Scene::start(&engine);
        let neighbour = scene.neighbour();
        let before = scene.resident_mib();
        scene.watch();
        let held = attack(&scene);
        scene.hold();
        let failures = neighbour.stop();
        let grown = scene.peak_mib().saturating_sub(before);
        println!("trial: {name:20} {engine:10} {before:4} MiB, {grown:4} more at the peak, {} unanswered", held.len());
        let first = failures.first();
        assert!(first.is_none(), "{name} on {engine}: the neighbour's {first:?}; the log:\n{}", scene.server.log());
        assert!(grown <= grows_mib + BESIDE_MIB, "{name} on {engine}: {grown} MiB more than the {before} before");
        drop(held);
        scene.is_well();
    }
}

#[test]
fn bodies_without_a_token_cost_nothing() {
    endure("options, gzip", 0, scenarios::promised_gzip);
    endure("chunks for /health", 0, scenarios::chunks_for_nothing);
    endure("chunk sizes", 16, scenarios::endless_chunk_sizes);
}

#[test]
fn bodies_that_stop_before_their_end_make_way() {
    endure("promised bodies", 32, scenarios::promised_bodies);
    endure("stalled bodies", 32, scenarios::stalled_bodies);
    endure("gzip bombs", 32, scenarios::gzip_bombs);
}

#[test]
fn heads_and_small_bodies_that_do_not_end_make_way() {
    endure("partial heads", 32, scenarios::partial_heads);
    endure("small bodies", 32, scenarios::small_bodies);
}

#[test]
fn heads_of_any_shape_stay_within_their_budget() {
    endure("many fields", 32, scenarios::many_fields);
    endure("full heads", 32, scenarios::full_heads);
    endure("endless lines", 32, scenarios::endless_lines);
    endure("pipelined heads", 32, scenarios::pipelined_heads);
}

#[test]
fn answers_that_nobody_reads_stay_within_their_budget() {
    endure("values", 32, scenarios::unread_values);
    endure("ranges", 32, scenarios::unread_ranges);
    endure("pages", 48, scenarios::unread_pages);
    endure("batches", 32, scenarios::unread_batches);
    endure("small answers", 32, scenarios::unread_small_answers);
}

#[test]
fn streams_that_nobody_reads_leave_room_and_places_for_an_admin() {
    endure("streams", 32, scenarios::unread_streams);
}

#[test]
fn a_patch_takes_little_more_than_its_own_memory() {
    endure("patches", 32, scenarios::patches_of_many_members);
    endure("patched documents", 32, scenarios::patches_of_documents_with_many_members);
    endure("operations", 32, scenarios::batches_of_too_many_operations);
}

#[test]
fn little_that_could_become_much_does_not() {
    endure("imported values", 16, amplifiers::imported_values);
    endure("imported faults", 16, amplifiers::imported_faults);
    endure("faulty batches", 16, amplifiers::faulty_batches);
    endure("tags", 16, amplifiers::many_tags);
    endure("cursors", 16, amplifiers::long_cursors);
    endure("gzipped files", 32, amplifiers::unread_compressed_files);
}

/// What as many connections as there may be take on tiny_http, which has a thread for each.
const CONNECTIONS_MIB: u64 = 64;

#[test]
fn storms_of_the_wrong_and_the_gone_pass() {
    endure("resets", CONNECTIONS_MIB, storms::resets);
    endure("TLS", CONNECTIONS_MIB, storms::tls);
    endure("HTTP/2", CONNECTIONS_MIB, storms::http_2);
    endure("idle flood", CONNECTIONS_MIB, storms::idle_flood);
    endure("bursts", CONNECTIONS_MIB, storms::bursts);
}
