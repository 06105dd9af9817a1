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
fn no_token_is_an_argument_of_the_session() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["token", "add", "session", "--scope", "write"])
        .env("LARDER_DATA_DIR", server.data())
        .output()
        .unwrap();
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    support::eventually("the token is needed", || server.get("/api/v1/kv").status == 401);
    // Stands before curl, and writes down what it is called with.
    let spy = format!("#!/bin/sh\necho \"$@\" >>'{}'\nPATH=${{PATH#*:}} exec curl \"$@\"\n", path("called").display());
    std::fs::write(path("curl"), spy).unwrap();
    std::fs::set_permissions(path("curl"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let session = |token: &str| {
        let mut command = Command::new("sh");
        command.args(["examples/clients/session.sh", &server.url()]).env("PATH", &search).env("TMPDIR", folder.path());
        command.env("LARDER_TOKEN", token).output().unwrap()
    };
    let said = session(&token);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(!session("").status.success(), "without the token it is refused");
    let called = std::fs::read_to_string(path("called")).unwrap();
    assert!(called.contains("/greeting") && !called.contains(&token) && !called.contains("Bearer"), "{called}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the file with the token is gone");
}

#[test]
fn no_text_tells_anyone_to_make_a_token_an_argument() {
    let mut files: Vec<std::path::PathBuf> = vec!["README.md".into(), "Makefile".into(), "src/cli/commands.rs".into()];
    for folder in ["examples/clients", "examples/load", "examples/monitoring", "examples/proxy", "systemd"] {
        files.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // ab and hey know no other way, and say so.
        if text.contains("takes header fields as arguments only") {
            assert!(text.contains("--expires 1h"), "{}", file.display());
            continue;
        }
        for line in text.lines() {
            let on_a_line = ["-H", "--header", "-u ", "-e LARDER_TOKEN"].iter().any(|option| line.contains(option));
            let a_token = line.contains("Bearer") || line.contains("$LARDER_TOKEN") || line.contains("-e LARDER_TOKEN");
            assert!(!on_a_line || !a_token || line.contains("-H @"), "{}: {line}", file.display());
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
