//! The metrics page as Prometheus's own checker sees it.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use larder::board::process;
use larder::metrics::Registry;

/// A registry with a series of every kind, awkward labels included.
fn full() -> Registry {
    let registry = Registry::default();
    process::register(&registry, &std::env::temp_dir());
    process::register_build(&registry, "tiny_http");
    registry.counter("larder_cache_hits_total", "Reads answered from the cache.", &[]).add(12);
    registry.gauge("larder_queue_depth", "Items that wait.", &[("queue", "commit")]).set(3);
    registry.sampled_counter("larder_compactions_total", "Compactions.", &[], Box::new(|| 4.0));
    registry.gauge_with("larder_degraded", "Why.", vec![("reason", "a \"quoted\"\\\nreason".to_owned())]).set(1);
    registry.distribution("larder_commit_group_size", "Operations in a group.", &[]).record(17);
    registry.distribution("larder_import_size_bytes", "Bytes of an import.", &[]).record(70_000);
    let sync = registry.distribution("larder_sync_duration_seconds", "Time of a sync.", &[("store", "fjall")]);
    sync.record_duration(Duration::from_millis(8));
    for (method, status, code) in [("GET", 200, None), ("PUT", 201, None), ("GET", 404, Some("KEY_NOT_FOUND"))] {
        for micros in 1..1000 {
            registry.request("/api/v1/{namespace}/{key}", method, status, code, Duration::from_micros(micros), true);
        }
    }
    registry.request("/api/v1/changes", "GET", 200, None, Duration::from_secs(30), false);
    registry
}

#[test]
fn promtool_has_nothing_to_say() {
    let page = full().expose();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "promtool must be installed: {error}");
            // Past the capture of the test harness, which hides what a passing test prints.
            writeln!(std::io::stderr(), "SKIPPED: promtool is not installed").unwrap();
            return;
        }
    };
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\nabout\n{page}", String::from_utf8_lossy(&said));
}
