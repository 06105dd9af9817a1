//! `larder bench` from outside: against a real larder, and against servers of the test that misbehave on purpose.
//!
//! Nothing here asserts how fast anything is: targets are switched off, or set so that they must be missed.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::Server;

const NO_TARGETS: [&str; 12] = [
    "--target",
    "p95=off",
    "--target",
    "p99=off",
    "--target",
    "rss=off",
    "--target",
    "start=off",
    "--target",
    "requests_per_second=off",
    "--target",
    "errors=off",
];

fn bench(words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    let command = command.arg("bench").args(words).env_clear();
    let Output { status, stdout, stderr } = command.output().expect("larder can be run");
    let text = |bytes| String::from_utf8(bytes).expect("larder writes UTF-8");
    (status.code().expect("larder ends by itself"), text(stdout), text(stderr))
}

/// Against a server, with `--json`, no target judged.
fn measured(server: &Server, words: &[&str]) -> Value {
    let url = server.url();
    let (code, out, err) = bench(&[&["--json", "--url", &url], words, &NO_TARGETS[..]].concat());
    assert_eq!(code, 0, "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

fn scenario(folder: &Path, text: &str) -> String {
    let path = folder.join("scenario.toml");
    std::fs::write(&path, text).expect("a file for the test");
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_count_of_requests_is_sent_answered_and_cleaned_up_on_every_engine() {
    support::on_every_engine(|server| {
        let report = measured(server, &["--requests", "500", "--connections", "4", "--keys", "50"]);
        assert_eq!(report["passed"], true);
        let phases = report["phases"].as_array().expect("phases");
        assert_eq!((&phases[0]["name"], &phases[0]["requests"]), (&"fill".into(), &50.into()));
        assert_eq!((&phases[1]["requests"], &phases[1]["error_share"]), (&500.into(), &0.0.into()), "{report}");
        assert_eq!(phases[0]["statuses"]["201"], 50);
        let names: Vec<_> = report["requests"].as_array().expect("kinds").iter().map(|kind| &kind["name"]).collect();
        assert_eq!(names, ["read", "write"]);
        for figure in ["rss_bytes", "cpu_seconds", "cache_hits"] {
            assert!(report["server"]["after"][figure].is_number(), "{figure}: {report}");
        }
        assert!(report["server"]["cache_hit_ratio"].as_f64().is_some_and(|ratio| (0.0..=1.0).contains(&ratio)));
        assert_eq!(server.get("/api/v1/kv/larder-bench").json()["items"], Value::Array(Vec::new()));
    });
}

#[test]
fn an_open_loop_sends_all_that_is_due() {
    let server = Server::builder().start();
    let report = measured(&server, &["--rate", "50", "--duration", "2s", "--path", "/health"]);
    let phase = &report["phases"][0];
    assert_eq!((&phase["requests"], &phase["open_loop"]), (&100.into(), &true.into()));
    for quantile in ["p50", "p90", "p95", "p99", "p99.9", "max"] {
        assert!(phase["latency_ms"][quantile].as_f64().is_some_and(|ms| ms > 0.0), "{phase}");
    }
}

#[test]
fn a_scenario_of_every_kind_runs_and_its_checks_count() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    std::fs::write(folder.path().join("rows.csv"), "key,text\nä b,\"1\"\nc/d,2\n").expect("a file for the test");
    let file = scenario(
        folder.path(),
        r#"
think = "1ms..5ms"
requests_per_user = 2
[data]
file = "rows.csv"
[[request]]
name = "write"
method = "PUT"
path = "/api/v1/kv/t/{run}/{key}"
headers = { Content-Type = "application/json" }
body = '{"text": "{text}", "n": {n}}'
[[request]]
name = "read"
path = "/api/v1/kv/t/{run}/{key}"
status = 200
[[request]]
name = "missing"
path = "/api/v1/kv/t/{run}/none"
status = [404]
[[request]]
name = "wrong"
path = "/api/v1/kv/t/{run}/none"
[[phase]]
name = "fill"
connections = 1
requests = 2
only = ["write"]
[[phase]]
name = "ramp"
from = 10
to = 50
duration = "1s"
only = ["read", "missing"]
[[phase]]
name = "spike"
rate = 50
duration = "1s"
only = ["read"]
spike = true
[[phase]]
name = "calm"
rate = 10
duration = "1s"
only = ["read"]
[[phase]]
name = "after"
connections = 3
duration = "300ms"
only = ["read", "write"]
[[phase]]
name = "errors"
connections = 1
requests = 7
only = ["wrong"]
"#,
    );
    let report = measured(&server, &["--scenario", &file]);
    let phases = report["phases"].as_array().expect("phases");
    let requests: Vec<_> = phases.iter().map(|phase| phase["requests"].as_u64().expect("a number")).collect();
    assert_eq!((requests[0], requests[1], requests[2], requests[3], requests[5]), (2, 60, 100, 20, 7), "{report}");
    for phase in &phases[..5] {
        assert_eq!(phase["errors"], Value::Object(Default::default()), "{phase}");
    }
    assert_eq!(phases[2]["recovery_seconds"], 0, "nothing is judged, so nothing is out of target");
    assert_eq!((&phases[5]["errors"]["status 404"], &phases[5]["statuses"]["404"]), (&7.into(), &7.into()));
    let listed = server.get("/api/v1/kv/t").json();
    let collection = listed["items"][0].as_str().expect("one collection").to_owned();
    let items = server.get(&format!("/api/v1/kv/t/{collection}?values=true")).json();
    let keys: Vec<_> = items["items"].as_array().expect("items").iter().map(|item| &item["key"]).collect();
    assert_eq!(keys, ["c/d", "ä b"]);
    assert_eq!(items["items"][1]["value"]["text"], "1");
}

#[test]
fn a_scenario_can_be_shortened_by_time_and_by_requests() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = scenario(
        folder.path(),
        r#"
cleanup = ["/api/v1/kv/t/{run}"]

[[request]]
name = "fill"
method = "PUT"
path = "/api/v1/kv/t/{run}/k{n}"
body = "x"

[[request]]
name = "health"
path = "/health"

[[phase]]
name = "fill"
connections = 1
requests = 30
only = ["fill"]
measured = false

[[phase]]
name = "rate"
rate = 20
duration = "45m"
only = ["health"]

[[phase]]
name = "crowd"
connections = 2
duration = "15m"
requests = 1000000
only = ["health"]
"#,
    );
    let counts = |words: &[&str]| {
        let report = measured(&server, &[&["--scenario", &file], words].concat());
        let phases = report["phases"].as_array().expect("phases").clone();
        phases.iter().map(|phase| phase["requests"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(counts(&["-n", "10"]), [30, 10, 10]);
    assert_eq!(counts(&["--requests", "1"]), [30, 1, 1]);
    // Three quarters of 2 s at 20 a second; how many a crowd sends in the rest is its own affair.
    assert_eq!(counts(&["-d", "2s"])[..2], [30, 30]);
    assert_eq!(counts(&["--duration", "1h", "-n", "10"]), [30, 10, 10]);
}

#[test]
fn a_missed_target_is_exit_1_and_says_which() {
    let server = Server::builder().start();
    let url = server.url();
    let judged = |target: &str| {
        bench(&[&["--url", &url, "-n", "20", "--path", "/health"], &NO_TARGETS[..], &["--target", target]].concat())
    };
    for (target, word) in [("p95=0ms", "MISS p95"), ("p99=0ms", "MISS p99"), ("rss=1KB", "MISS rss")] {
        let (code, out, err) = judged(target);
        assert_eq!(code, 1, "{out}{err}");
        assert!(out.contains(word) && out.contains("a target was missed"), "{out}");
    }
    let (code, out, _) = judged("start=1s");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("--spawn measures it"), "{out}");
    let not_found = ["--url", &url, "-n", "20", "--path", "/none", "--target", "p95=off", "--target", "p99=off"];
    let (code, out, _) = bench(&not_found);
    assert_eq!(code, 1);
    assert!(out.contains("MISS errors") && out.contains("404: 20"), "{out}");
}

#[test]
fn a_server_of_its_own_is_started_measured_and_removed() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let data = folder.path().to_str().expect("text");
    for engine in support::engines() {
        let words = ["--spawn", "--engine", &engine, "--data", data, "-n", "300", "--connections", "100", "--json"];
        let (code, out, err) = bench(&[&words[..], &NO_TARGETS[..]].concat());
        assert_eq!(code, 0, "{out}{err}");
        let report: Value = serde_json::from_str(&out).expect("JSON");
        assert!(report["server"]["start_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
        assert_eq!((&report["phases"][1]["requests"], &report["phases"][1]["error_share"]), (&300.into(), &0.0.into()));
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing stays");
    }
}

#[test]
fn figures_that_may_not_be_read_are_a_note_and_no_failure() {
    let server = Server::builder().start();
    let url = server.url();
    let data = server.data().to_str().expect("text");
    let made = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["token", "add", "x", "--scope", "read", "--data", data])
        .env_clear()
        .status();
    assert!(made.is_ok_and(|status| status.success()));
    support::eventually("the token is needed", || server.get("/metrics").status == 401);
    let (code, out, err) = bench(&[&["--url", &url, "-n", "20", "--path", "/health"], &NO_TARGETS[..]].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("the server's figures are not known: UNAUTHORIZED"), "{out}");
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let wrong = scenario(folder.path(), "[[request]]\npath = \"/\"\n\n[[phase]]\nrte = 5\n");
    let cases: [(&[&str], i32, &str); 13] = [
        (&["--scenario", &wrong], 1, "scenario.toml:5: `phase.rte` means nothing here; did you mean `rate`?"),
        (&["--scenario", "/none.toml"], 1, "cannot read the scenario /none.toml"),
        (&["--scenario", &wrong, "-n", "0"], 1, "`phase.rte` means nothing here"),
        (&["--scenario", &wrong, "--rate", "5"], 2, "--rate and --scenario cannot go together"),
        (&["--rate", "0"], 2, "--rate: expected a number greater than 0"),
        (&["--rate", "5", "--requests", "5"], 2, "--requests goes without --rate"),
        (&["--connections", "0"], 2, "--connections: expected a whole number from 1 to 1024"),
        (&["--path", "health"], 2, "--path is a path such as /health"),
        (&["--path", "/{m}"], 2, "--path: `{m}` is neither"),
        (&["--target", "p95"], 2, "is not NAME=VALUE"),
        (&["--target", "p96=1s"], 2, "did you mean `p9"),
        (&["--spawn", "--url", "http://127.0.0.1:1"], 2, "--spawn starts a server of its own"),
        (&["--url", "http://127.0.0.1:1"], 5, "no answer from http://127.0.0.1:1"),
    ];
    for (words, code, part) in cases {
        let (found, out, err) = bench(words);
        assert_eq!((found, out.as_str()), (code, ""), "{words:?}: {err}");
        assert!(err.contains(part), "{words:?}: {err}");
    }
}

#[test]
fn an_interrupted_run_shows_what_it_has_and_cleans_up() {
    let server = Server::builder().start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(["bench", "--url", &server.url(), "--rate", "50", "--duration", "1h", "--json"]).env_clear();
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("larder can be run");
    support::eventually("the load has begun", || server.metric("larder_http_requests_total{") > 1100.0);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("larder ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["interrupted"], &report["passed"]), (&true.into(), &false.into()));
    assert!(report["phases"][1]["requests"].as_u64().is_some_and(|count| count > 0), "{report}");
    assert_eq!(server.get("/api/v1/kv/larder-bench").json()["items"], Value::Array(Vec::new()));
}

#[test]
fn the_distribution_is_written_for_plotters() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("latencies.hgrm");
    measured(&server, &["-n", "100", "--path", "/health", "--hdr", file.to_str().expect("text")]);
    let text = std::fs::read_to_string(file).expect("the file");
    assert!(text.lines().next().is_some_and(|line| line.contains("Percentile")), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.contains(" 100 ")), "{text}");
}

#[test]
fn the_card_is_measured_and_nothing_stays_on_it() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let data = folder.path().to_str().expect("text");
    let (code, out, err) = bench(&["--card", "--data", data, "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let measured: Value = serde_json::from_str(&out).expect("JSON");
    assert!(measured["syncs"].as_u64().is_some_and(|count| count > 0), "{measured}");
    let ms = |name: &str| measured["sync_ms"][name].as_f64().expect("a number");
    assert!(0.0 < ms("p50") && ms("p50") <= ms("p99") && ms("p99") <= ms("max"), "{measured}");
    let store = measured["store"].as_array().expect("a list");
    assert_eq!(store.len(), 3);
    for cost in store {
        assert!(cost["writes"].as_u64().is_some_and(|count| count > 0), "{cost}");
        // Every byte that was written had to reach the disk once, where the kernel counts.
        let amplification = &cost["write_amplification"];
        assert!(amplification.is_null() || amplification.as_f64().is_some_and(|factor| factor > 1.0), "{cost}");
    }
    let settings: Vec<_> = measured["advice"].as_array().expect("a list").iter().map(|one| &one["setting"]).collect();
    assert_eq!(settings, ["store.durability", "store.sync_interval", "cache.size"]);
    // What is recommended is taken as it stands.
    let mut config = String::new();
    for advice in measured["advice"].as_array().expect("a list") {
        let (section, key) = advice["setting"].as_str().expect("text").split_once('.').expect("a section");
        config.push_str(&format!("[{section}]\n{key} = {}\n", advice["value"].as_str().expect("text")));
    }
    let config = config.replacen("[store]\nsync_interval", "sync_interval", 1);
    let _ = Server::builder().config(&config).start();
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);

    assert_eq!(bench(&["--card", "--data", "/none"]).0, 1);
    assert_eq!(bench(&["--card", "--rate", "5"]).0, 2);
}

/// Runs a tool of `examples/load` for a moment; `None` where the tool is missing, which is said loudly.
fn tool(server: &Server, program: &str, words: &[&str]) -> Option<String> {
    if Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|out| !out.status.success())
    {
        support::skipped(&format!("{program} is not installed; its file in examples/load is not run"));
        return None;
    }
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/load"));
    command.env("LARDER_URL", server.url()).env("REQUESTS", "200").env("SECONDS_MAX", "1");
    let output = command.output().expect("the tool can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}{errors}");
    Some(text)
}

#[test]
fn the_files_for_other_tools_do_what_they_say() {
    let server = Server::builder().config("[limits]\nconnections_per_address_max = 300").start();
    for scenario in ["health", "users", "write"] {
        let Some(text) = tool(&server, "ab", &["./ab.sh", scenario]) else { break };
        assert!(text.contains("Failed requests:        0") && !text.contains("Non-2xx"), "ab {scenario}: {text}");
    }
    for scenario in ["steady", "health", "users", "growing", "spike"] {
        let Some(text) = tool(&server, "hey", &["./hey.sh", scenario]) else { break };
        assert!(text.contains("[200]") && !text.contains("Error distribution"), "hey {scenario}: {text}");
    }
    let url = server.url();
    if let Some(text) = tool(&server, "wrk", &["wrk", "-t", "1", "-c", "4", "-d", "1s", "-s", "wrk.lua", &url]) {
        assert!(text.contains("connect 0, read 0, write 0, ") && text.contains("p99.9 "), "wrk: {text}");
        let keys = server.get("/api/v1/kv/load/wrk?limit=1").json();
        assert_eq!(keys["items"].as_array().map(Vec::len), Some(1), "wrk has written: {keys}");
    }
}
