//! Memory under load.

use super::support::{Server, engines, is_optimised};
use super::{BOARD, value_text};

const PEAK_KIB_MAX: u64 = 64 * 1024;
const CLIENTS: u64 = 8;
const VALUE_BYTES: usize = 1024;
/// Of 1 KiB each. Unoptimised code gets a tenth: the same paths, in bearable time.
fn values() -> u64 {
    if is_optimised() { 200_000 } else { 20_000 }
}

fn peak_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One client's share: every tenth hundred as single PUTs, the rest as batches of a hundred. Relaxed, since a sync for
/// each would only make it slower, not larger.
fn load(server: &Server, client: u64) {
    let mut connection = server.client();
    for hundred in (client..values() / 100).step_by(CLIENTS as usize) {
        let numbers = hundred * 100..(hundred + 1) * 100;
        if hundred % 10 == 0 {
            for number in numbers {
                let path = format!("/api/v1/kv/load/values/{number:08}?durability=relaxed");
                connection.send("PUT", &path, &[], value_text(number, VALUE_BYTES).as_bytes()).expect(201);
            }
            continue;
        }
        let operations: Vec<String> = numbers
            .map(|number| {
                format!(r#"{{"op":"set","key":"{number:08}","value":"{}"}}"#, value_text(number, VALUE_BYTES - 2))
            })
            .collect();
        let body = format!(r#"{{"namespace":"load","collection":"values","operations":[{}]}}"#, operations.join(","));
        let json = [("Content-Type", "application/json")];
        connection.send("POST", "/api/v1/batch?durability=relaxed", &json, body.as_bytes()).expect(200);
    }
}

#[test]
fn two_hundred_megabytes_go_through_in_sixty_four() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).config(BOARD).start();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let server = &server;
                scope.spawn(move || load(server, client));
            }
        });
        for number in (0..values()).step_by(997) {
            let answer = server.get(&format!("/api/v1/kv/load/values/{number:08}")).expect(200);
            let text = answer.text();
            let single = number / 100 % 10 == 0;
            let wanted = value_text(number, if single { VALUE_BYTES } else { VALUE_BYTES - 2 });
            assert_eq!(text.trim_matches('"'), wanted, "{engine}: value {number}");
        }
        let peak = peak_kib(&server);
        println!("{engine}: {} values of {VALUE_BYTES} bytes, peak RSS {} MiB", values(), peak / 1024);
        assert!(peak <= PEAK_KIB_MAX, "{engine}: peak RSS {peak} KiB");
    }
}
