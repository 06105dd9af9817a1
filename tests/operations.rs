//! What the person who keeps the board sees of a running larder: its log and its files.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Server, engines};

#[test]
fn a_slow_request_is_logged_with_its_phases_unless_that_is_off() {
    let operations: Vec<String> = (0..1000).map(|n| format!(r#"{{"op":"set","key":"{n}","value":{n}}}"#)).collect();
    let batch = format!(r#"{{"namespace":"a","collection":"b","operations":[{}]}}"#, operations.join(","));
    let fields = [("Content-Type", "application/json"), ("X-Request-Id", "slow-1")];
    for engine in engines() {
        for (setting, logged) in [("1ms", true), ("0s", false)] {
            let config = format!("[log]\nslow_request = \"{setting}\"");
            let server = Server::builder().engine(&engine).config(&config).start();
            // How fast the machine is must not matter: of many large batches one takes a millisecond.
            for _ in 0..if logged { 200 } else { 5 } {
                server.send("POST", "/api/v1/batch", &fields, batch.as_bytes()).expect(200);
                if server.log().contains("slow request") {
                    break;
                }
            }
            let log = server.log();
            let line = log.lines().find(|line| line.contains("slow request")).unwrap_or_default();
            assert_eq!(!line.is_empty(), logged, "{engine} {setting}: {log}");
            for part in ["method=POST route=/api/v1/batch status=200 bytes=", " request_id=slow-1 ", " commit_ms="] {
                assert!(!logged || line.contains(part), "{engine}: {line}");
            }
        }
    }
}
