//! The example clients, run as they stand against the real binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Output};

use support::{Server, engines};

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            support::skipped(&format!("{program} cannot be run: {error}"));
            None
        }
    }
}

fn succeed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[test]
fn the_curl_python_and_javascript_sessions_come_through() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        if let Some(said) = succeed("sh", &["examples/clients/session.sh", &server.url()]) {
            assert!(said.ends_with("done\n"), "{said}");
        }
        if let Some(said) = succeed("python3", &["examples/clients/client.py", &server.url()]) {
            assert!(said.contains("{\"on\": true, \"watts\": 7}"), "{said}");
        }
        if let Some(said) = succeed("node", &["examples/clients/client.mjs", &server.url()]) {
            assert!(said.contains("\"watts\":7"), "{said}");
        }
    }
}

#[test]
fn the_sensor_delivers_each_reading_once_also_when_the_server_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::builder().data(folder.path()).start();
    let (host, port) = first.address().split_once(':').unwrap();
    let (host, port) = (host.to_owned(), port.to_owned());
    let Ok(mut sensor) = Command::new("python3")
        .args(["examples/clients/sensor.py", &host, &port, "s1", "40"])
        .stdout(std::process::Stdio::null())
        .spawn()
    else {
        return support::skipped("python3 is not installed");
    };
    support::eventually("the first reading", || first.get("/api/v1/kv/field/s1/0000000003").status == 200);
    let listen = format!("{host}:{port}");
    first.kill();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let again = Server::builder().data(folder.path()).argument("--listen").argument(&listen).try_start();
    let Ok(again) = again else {
        let _ = sensor.kill();
        panic!("the port was taken meanwhile");
    };
    assert!(sensor.wait().unwrap().success());
    let client = support::Client::new(&listen);
    let mut client = client;
    let items = client.send("GET", "/api/v1/kv/field/s1?limit=1000", &[], b"").expect(200).json();
    assert_eq!(items["items"].as_array().unwrap().len(), 40);
    drop(again);
}
