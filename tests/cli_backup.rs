//! Backup and restore against a server that does what the test says: exports that are cut, stores that are not empty.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
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
    /// Sends this, and no end of it.
    Hangs(&'static str),
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

    fn run_with(&self, words: &[&str], stdin: &[u8]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(words).env_clear().env("LARDER_URL", &self.url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("larder can be run");
        let _ = child.stdin.take().expect("a pipe").write_all(stdin);
        let Output { status, stdout, stderr } = child.wait_with_output().expect("larder ends");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
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
            Export::Hangs(text) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{text}")?;
                // Until the client goes.
                return std::io::copy(&mut input, &mut std::io::sink()).map(drop);
            }
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
    let status = if body.contains("\"status\":400") { "400 Bad Request" } else { "200 OK" };
    write!(out, "HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n{body}")
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
        for words in
            [&["backup", "--force", file.to_str().expect("text")][..], &["export", "-o", file.to_str().expect("text")]]
        {
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
        for words in [&["backup", "--force", name, "--json"][..], &["export", "--json", "-o", name]] {
            let (code, out, err) = fake.run(words);
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
    for damaged in [&flipped[..], &good[..middle], &good[..good.len() - 1], &[&good[..], b"x"].concat(), b"", b"{}"] {
        // What comes by a pipe is cut off where it is damaged, which is no silence of the server's.
        for words in [&["restore", "--check", "-"][..], &["restore", "-"], &["restore", "--merge", "-"]] {
            let (code, _, err) = fake.run_with(words, damaged);
            assert_eq!(code, 1, "{words:?}: {err}");
            assert!(!err.contains("no answer") && err.contains("at byte"), "{words:?}: {err}");
        }
        assert!(!fake.imported().contains("\"end\":true"), "{}", fake.imported());
    }
    for words in [&["import", "/"][..], &["import", "--partial", "/"], &["restore", "/"], &["put", "a/b/c", "-f", "/"]]
    {
        let (code, _, err) = fake.run(words);
        assert!(code == 1 && err.contains("Is a directory"), "{words:?} {code}: {err}");
    }
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
    assert_eq!(empty.run(&["backup", name, "--since", "70", "--force"]).0, 0);
    let (code, _, err) = empty.run(&["restore", name]);
    assert_eq!(code, 1);
    assert!(err.contains("after version 70") && err.contains("--merge"), "{err}");
    assert_eq!(empty.imported(), "");
    assert_eq!(empty.run(&["restore", name, "--merge"]).0, 0);
}

#[test]
fn a_backup_takes_no_other_files_place_unless_that_is_said() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (file, link, empty) = (path("file"), path("link"), path("empty"));
    std::fs::write(&file, "the last one").expect("a file for the test");
    std::os::unix::fs::symlink("file", &link).expect("a link");
    std::fs::write(&empty, "").expect("a file for the test");
    let fake = Fake::start(Export::Whole(LINES), EMPTY);
    for words in [&["backup", &file][..], &["backup", &link], &["backup", &file, "--json"]] {
        let (code, out, err) = fake.run(words);
        assert_eq!((code, out.as_str()), (1, ""), "{words:?}: {err}");
        assert!(err.contains("is there already; --force replaces it"), "{words:?}: {err}");
        assert_eq!(std::fs::read(&file).expect("the file"), b"the last one", "{words:?}");
    }
    for words in [&["backup", &empty][..], &["backup", &path("new")], &["backup", "--force", &link]] {
        assert_eq!(fake.run(words).0, 0, "{words:?}");
    }
    for name in [&file, &empty] {
        assert_eq!(fake.run(&["restore", "--check", name]).0, 0, "{name}");
    }
    assert_eq!(count(folder.path()), 4);
    // An output is what it is elsewhere: it is replaced, and stays if the new one does not come to its end.
    assert_eq!(fake.run(&["export", "-o", &file]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), LINES);
}

/// Waits until something has been begun in a folder, then sends signals, and says which one ended the child.
fn ended_by(mut child: Child, folder: &Path, files: usize, signals: &[&str]) -> Option<i32> {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while count(folder) < files {
        assert!(std::time::Instant::now() < give_up, "it never began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for signal in signals {
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }
    child.wait().expect("larder ends").signal()
}

#[test]
fn a_signal_leaves_nothing_unfinished_behind() {
    let fake = Fake::start(Export::Hangs("{\"namespace\":\"a\"}\n"), EMPTY);
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        for words in [&["backup"][..], &["export", "-o"]] {
            let folder = tempfile::tempdir().expect("a folder for the test");
            let file = folder.path().join("out");
            std::fs::write(&file, "").expect("a file for the test");
            let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
            command.args(words).arg(&file).env_clear().env("LARDER_URL", &fake.url).stderr(Stdio::null());
            let child = command.spawn().expect("larder can be run");
            assert_eq!(ended_by(child, folder.path(), 2, &[signal]), Some(number), "{words:?}");
            assert_eq!(count(folder.path()), 1, "{words:?} {signal}");
            assert_eq!(std::fs::read(&file).expect("the file"), b"");
        }
    }
}

#[test]
fn a_signal_that_is_ignored_ends_nothing() {
    let fake = Fake::start(Export::Hangs("{\"namespace\":\"a\"}\n"), EMPTY);
    let folder = tempfile::tempdir().expect("a folder for the test");
    let line = format!("trap '' HUP INT; exec '{}' backup out", env!("CARGO_BIN_EXE_larder"));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]).current_dir(folder.path()).env("LARDER_URL", &fake.url).stderr(Stdio::null());
    let child = command.spawn().expect("a shell");
    // Had one before the last been heeded, it would have been that which ended it.
    assert_eq!(ended_by(child, folder.path(), 1, &["HUP", "INT", "TERM"]), Some(15));
    assert_eq!(count(folder.path()), 0);
}

/// What a server of before, or one that means ill, answers to every request.
fn told(answer: String, words: &[&str]) -> (i32, String, String) {
    let (code, out, err) = Fake::start(Export::Whole(LINES), answer.leak()).run(words);
    for text in [&out, &err] {
        let bad = text.chars().find(|c| c.is_control() && *c != '\n' || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(bad, None, "{words:?}: {text:?}");
    }
    (code, out, err)
}

#[test]
fn what_a_server_says_steers_no_terminal() {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    for evil in ["\u{1b}[2Jx", "\u{9b}31mx", "\r\u{8}x", "\u{202e}x", "\u{7}\u{7f}x", "a\nlarder: all is wellx"] {
        let name = json(evil);
        let names = format!("{{\"items\":[{name}],\"next\":null}}");
        let item = format!(
            "\"key\":{name},\"version\":{name},\"size\":1,\"modified\":{name},\"content_type\":{name},\"value\":{name}"
        );
        let keys = format!("{{\"items\":[{{{item}}}],\"next\":null}}");
        for words in [&["ls"][..], &["ls", "--json"]] {
            let (code, out, _) = told(names.clone(), words);
            assert_eq!((code, out.lines().count()), (0, 1), "{out:?}");
            assert_eq!(serde_json::from_str::<String>(out.trim_end()).expect("a JSON string"), evil);
        }
        for words in [&["ls", "a/b"][..], &["ls", "-l", "a/b"], &["ls", "a/b", "--json", "--values"]] {
            let (code, out, _) = told(keys.clone(), words);
            assert_eq!((code, out.lines().count()), (0, 1), "{words:?}: {out:?}");
        }
        let (_, out, _) = told(format!("{{\"value\":{name}}}"), &["incr", "a/b/c"]);
        assert_eq!(serde_json::from_str::<String>(out.trim_end()).expect("a JSON string"), evil);
        let problem = format!("{{\"status\":400,\"code\":{name},\"message\":{name}}}");
        for words in [&["ls"][..], &["get", "a/b/c"], &["put", "a/b/c", "1"], &["del", "a/b/c"], &["incr", "a/b/c"]] {
            let (code, out, err) = told(problem.clone(), words);
            assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{words:?}: {err:?}");
            assert!(err.contains("\\u{") && err.ends_with("x\n"), "{err:?}");
        }
    }
}

#[test]
fn a_deep_value_from_a_server_of_before_costs_no_other() {
    for depth in [64, 65, 127, 128, 200, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let item = format!("{{\"key\":\"b\",\"value\":{deep}}}");
        let page = |items: &str| format!("{{\"items\":[{items}],\"next\":null}}");
        let (before, after) = ("{\"key\":\"a\",\"value\":1.50}", "{\"key\":\"c\",\"value\":3}");
        let (code, out, err) = told(page(&format!("{before},{item},{after}")), &["ls", "x/y", "--json", "--values"]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((code, lines.len()), (0, 3), "{depth}: {err}");
        assert_eq!((lines[0], lines[2]), (before, after));
        assert_eq!(lines[1].starts_with("{\"key\":\"b\",\"value_base64\":\"W1tb"), depth > 64, "{depth}");
        let (code, out, err) = told(page(&item), &["get", "x/y/b", "--json"]);
        assert_eq!((code, out.trim_end()), (0, lines[1]), "{depth}: {err}");
    }
}

#[test]
fn what_is_left_of_a_removal_is_told() {
    for (answer, more, expected, part) in [
        ("{\"deleted\":7}", &[][..], 0, "removed 7 values"),
        ("{\"deleted\":7,\"complete\":true}", &[], 0, "removed 7 values"),
        ("{\"deleted\":0,\"complete\":false}", &[], 1, "removed 0 values, and more are left"),
        ("{\"deleted\":0,\"complete\":false}", &["--json"], 1, "more are left"),
    ] {
        let (code, _, err) = told(answer.to_owned(), &[&["del", "a/b", "--all"], more].concat());
        assert!(code == expected && err.contains(part), "{answer}: {code} {err}");
    }
}

/// A frame as it lies in the file.
fn frame(kind: u8, number: u32, plain: usize, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![kind];
    for word in [number, plain as u32, payload.len() as u32] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.extend_from_slice(payload);
    let sum = crc32fast::hash(&body);
    [b"LDRF".as_slice(), &body, &sum.to_le_bytes()].concat()
}

/// A frame of lines that are mostly one byte, over and over.
fn packed(before: &str, filler: u8, count: u64, after: &str) -> Vec<u8> {
    let plain = before.as_bytes().chain(std::io::repeat(filler).take(count)).chain(after.as_bytes());
    let mut payload = Vec::new();
    let mut encoder = flate2::read::DeflateEncoder::new(plain, flate2::Compression::fast());
    encoder.read_to_end(&mut payload).expect("it can be packed");
    frame(b'D', 1, before.len() + count as usize + after.len(), &payload)
}

#[test]
fn a_check_holds_little_whatever_the_file_unpacks_to() {
    let header = br#"{"format":1,"larder":"0.1.0","created":1,"since":0,"namespace":null}"#;
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("crafted");
    let filled: u64 = 50 << 20;
    for (data, items, code, part) in [
        (packed("{\"v\":\"", b'0', filled, "\"}\n"), 1, 0, "1 values"),
        (packed("{\"v\":", b'[', filled, "\n"), 1, 1, "beyond measure"),
        (packed("{}\n", b'\n', filled, ""), 1 + filled, 0, "the file is whole"),
        (packed("", b' ', filled, "{}\n"), 1, 0, "1 values"),
        (packed("{\"v\":\"", b'0', filled, ""), 1, 1, "whole lines"),
    ] {
        let end = format!("{{\"items\":{items},\"version\":9}}");
        let end = frame(b'E', 2, 0, end.as_bytes());
        let whole = [frame(b'H', 0, header.len(), header), data, end].concat();
        assert!(whole.len() < 2 << 20, "{part}: it is crafted to be small");
        std::fs::write(&file, &whole).expect("a file for the test");
        let line = format!("ulimit -v 48000; exec '{}' restore --check -", env!("CARGO_BIN_EXE_larder"));
        let stdin = std::fs::File::open(&file).expect("the file");
        let output = Command::new("/bin/sh").args(["-c", &line]).stdin(stdin).output().expect("a shell");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{part}: {err}");
        assert!(err.contains(part), "{part}: {err}");
    }
}
