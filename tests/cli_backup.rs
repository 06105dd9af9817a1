//! Backup and restore against a server that does what the test says: exports that are cut, stores that are not empty.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// A server with an answer for each path, which keeps what it was sent.
struct Fake {
    url: String,
    imported: Arc<Mutex<Vec<u8>>>,
}

/// How the export comes.
#[derive(Clone, Copy)]
enum Export {
    Whole(&'static str),
    /// Announces more than it sends.
    CutOnTheWire(&'static str),
}

impl Fake {
    fn start(export: Export, namespaces: &'static str) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let imported = Arc::new(Mutex::new(Vec::new()));
        let kept = imported.clone();
        // Ends with the test's process: it waits for connections that no longer come.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, export, namespaces, &kept);
            }
        });
        Fake { url, imported }
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        let Output { status, stdout, stderr } =
            command.args(words).env_clear().env("LARDER_URL", &self.url).output().expect("larder can be run");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code().expect("larder ends by itself"), text(stdout), text(stderr))
    }

    fn imported(&self) -> String {
        String::from_utf8(self.imported.lock().expect("the bytes").clone()).expect("text")
    }
}

fn answer(stream: TcpStream, export: Export, namespaces: &str, imported: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut first = String::new();
    input.read_line(&mut first)?;
    let mut chunked = false;
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        chunked |= line.eq_ignore_ascii_case("transfer-encoding: chunked\r\n");
        if line == "\r\n" {
            break;
        }
    }
    let (body, announced) = if first.contains("/api/v1/export") {
        match export {
            Export::Whole(text) => (text.to_owned(), text.len()),
            Export::CutOnTheWire(text) => (text.to_owned(), text.len() + 100),
        }
    } else if first.contains("/api/v1/import") {
        let bytes = if chunked { read_chunks(&mut input)? } else { Vec::new() };
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
        *imported.lock().expect("the bytes") = bytes;
        let text = format!("{{\"imported\":{},\"failed\":[]}}", lines.saturating_sub(1));
        (text.clone(), text.len())
    } else {
        (namespaces.to_owned(), namespaces.len())
    };
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n{body}")
}

fn read_chunks(input: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        input.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Ok(body);
        }
    }
}

const LINES: &str = "{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"1\",\"value\":1}\n\
                     {\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"2\",\"value\":2}\n\
                     {\"end\":true,\"items\":2,\"version\":77}\n";
const REASON: &str = "{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"1\",\"value\":1}\n\
    {\"status\":503,\"title\":\"Service Unavailable\",\"code\":\"DRAINING\",\"message\":\"larder is stopping\"}\n";
const SEVERAL: &str = "{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"1\",\"value\":1}\n\
    {\"end\":true,\"items\":1,\"version\":77,\"views\":3}\n";
const EMPTY: &str = "{\"items\":[],\"next\":null}";
const FULL: &str = "{\"items\":[\"a\"],\"next\":null}";

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("the folder").count()
}

#[test]
fn what_was_saved_comes_back_line_for_line() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("a.backup");
    let name = file.to_str().expect("text");
    let fake = Fake::start(Export::Whole(LINES), EMPTY);
    let (code, out, err) = fake.run(&["backup", name, "--json"]);
    assert_eq!(code, 0, "{err}");
    let said: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&said["items"], &said["version"]), (&2.into(), &77.into()));
    assert_eq!(said["bytes"], std::fs::metadata(&file).expect("the file").len());
    assert_eq!(count(folder.path()), 1);

    let (code, _, err) = fake.run(&["restore", "--check", name]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("2 values at version 77"), "{err}");
    assert_eq!(fake.imported(), "", "a check sends nothing");
    let (code, _, err) = fake.run(&["restore", name]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(fake.imported(), LINES);
}

#[test]
fn an_export_that_is_cut_leaves_no_backup() {
    for export in [
        Export::CutOnTheWire(LINES),
        Export::CutOnTheWire("{\"namespace\":\"a\",\"coll"),
        Export::Whole("{\"namespace\":\"a\"}\n"),
        Export::Whole("{\"namespace\":\"a\"}\n{\"end\":true,\"items\":2,\"version\":7}\n"),
        Export::Whole(""),
        Export::CutOnTheWire(REASON),
        Export::Whole(REASON),
    ] {
        // A cut behind the end line is no loss: the line itself says that all is there.
        let whole = matches!(export, Export::CutOnTheWire(text) if text == LINES);
        let folder = tempfile::tempdir().expect("a folder for the test");
        let file = folder.path().join("a.backup");
        std::fs::write(&file, "the last one").expect("a file for the test");
        let fake = Fake::start(export, EMPTY);
        for words in [&["backup", file.to_str().expect("text")][..], &["export", "-o", file.to_str().expect("text")]] {
            let (code, _, err) = fake.run(words);
            if whole {
                assert_eq!(code, 0, "{err}");
                continue;
            }
            assert!(code == 1 || code == 5, "{words:?} {code}: {err}");
            assert!(err.contains("the export was cut"), "{err}");
            let says_why = matches!(export, Export::Whole(REASON) | Export::CutOnTheWire(REASON));
            assert_eq!(
                err.contains("after 1 values the server says: larder is stopping (DRAINING)"),
                says_why,
                "{err}"
            );
            assert!(code == 1 || !says_why, "{err}");
            assert_eq!(std::fs::read(&file).expect("the file"), b"the last one", "{words:?}");
            assert_eq!(count(folder.path()), 1, "{words:?}");
        }
    }
}

#[test]
fn an_export_of_several_moments_says_so() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("a");
    let name = file.to_str().expect("text");
    for (lines, views) in [(SEVERAL, 3), (LINES, 1)] {
        let fake = Fake::start(Export::Whole(lines), EMPTY);
        for words in [["backup", name, "--json"], ["export", "--json", "-o"]] {
            let words: Vec<&str> = words.into_iter().chain((words[0] == "export").then_some(name)).collect();
            let (code, out, err) = fake.run(&words);
            assert_eq!(code, 0, "{err}");
            let said: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(said["views"], views);
            assert_eq!(err.contains("of 3 moments") && err.contains("--since 77"), views == 3, "{err}");
        }
    }
}

#[test]
fn a_damaged_file_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("a.backup");
    let name = file.to_str().expect("text");
    let fake = Fake::start(Export::Whole(LINES), EMPTY);
    assert_eq!(fake.run(&["backup", name]).0, 0);
    let good = std::fs::read(&file).expect("the file");
    let middle = good.len() / 2;
    let mut flipped = good.clone();
    flipped[middle] ^= 1;
    for damaged in [&flipped[..], &good[..middle], &good[..good.len() - 1], &[&good[..], b"x"].concat(), b""] {
        std::fs::write(&file, damaged).expect("the file can be changed");
        for words in [&["restore", "--check", name][..], &["restore", name], &["restore", "--merge", name]] {
            let (code, _, err) = fake.run(words);
            assert_eq!(code, 1, "{words:?}: {err}");
        }
    }
    assert_eq!(fake.imported(), "");
}

#[test]
fn a_store_that_is_not_empty_and_a_part_are_only_merged() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("a.backup");
    let name = file.to_str().expect("text");
    let full = Fake::start(Export::Whole(LINES), FULL);
    assert_eq!(full.run(&["backup", name]).0, 0);
    let (code, _, err) = full.run(&["restore", name]);
    assert_eq!(code, 1);
    assert!(err.contains("not empty") && err.contains("--merge"), "{err}");
    assert_eq!(full.imported(), "");
    assert_eq!(full.run(&["restore", name, "--merge"]).0, 0);
    assert_eq!(full.imported(), LINES);

    let empty = Fake::start(Export::Whole(LINES), EMPTY);
    assert_eq!(empty.run(&["backup", name, "--since", "70"]).0, 0);
    let (code, _, err) = empty.run(&["restore", name]);
    assert_eq!(code, 1);
    assert!(err.contains("after version 70") && err.contains("--merge"), "{err}");
    assert_eq!(empty.imported(), "");
    assert_eq!(empty.run(&["restore", name, "--merge"]).0, 0);
}
