//! The command line as a client of a real larder: what it prints, and the exit codes that scripts rely on.

mod support;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

use support::Server;

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.text(), self.err))
    }

    #[track_caller]
    fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }
}

/// Runs a client command with something on stdin.
fn run(environment: &[(&str, &str)], words: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(words).env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("larder can be run");
    // A command that does not read stdin may end before it is written.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("larder ends");
    let err = String::from_utf8(stderr).expect("larder writes UTF-8");
    Ran { code: status.code().expect("larder ends by itself"), out: stdout, err }
}

fn at(server: &Server, words: &[&str]) -> Ran {
    run(&[("LARDER_URL", &server.url())], words, b"")
}

#[test]
fn values_go_in_and_come_out_as_they_are() {
    let server = Server::builder().start();
    let bytes: Vec<u8> = (0..=255).collect();
    run(&[("LARDER_URL", &server.url())], &["put", "a/b/bytes"], &bytes).ok();
    assert_eq!(at(&server, &["get", "a/b/bytes"]).ok().out, bytes);
    run(&[("LARDER_URL", &server.url())], &["put", "a/b/stdin", "-"], b"").ok();
    assert_eq!(at(&server, &["get", "a/b/stdin"]).ok().out, b"");

    at(&server, &["put", "a/b/kitchen/temp 1", "{\"c\": 21}"]).ok();
    let shown = at(&server, &["get", "a/b/kitchen/temp 1", "--json"]).ok().json();
    assert_eq!((&shown["content_type"], &shown["value"]["c"]), (&"application/json".into(), &21.into()));
    at(&server, &["put", "a/b/text", "hello", "--ttl", "1h"]).ok();
    let shown = at(&server, &["get", "a/b/text", "--json"]).ok().json();
    assert_eq!((&shown["content_type"], &shown["size"]), (&"text/plain; charset=utf-8".into(), &5.into()));
    assert!(shown["expires"].as_str().is_some_and(|at| at.ends_with('Z')), "{shown}");
    let shown = at(&server, &["get", "a/b/bytes", "--json"]).ok().json();
    assert!(shown["value_base64"].as_str().is_some_and(|text| text.starts_with("AAECAw")), "{shown}");
}

#[test]
fn get_and_ls_write_the_same_of_a_value() {
    let server = Server::builder().start();
    for (key, value) in [("a", "1"), ("ab", "text"), ("b&=/ü", "{\"deep\": [1.0, 12345678901234567890]}")] {
        at(&server, &["put", &format!("n/c/{key}"), value]).ok();
        let got = at(&server, &["get", &format!("n/c/{key}"), "--json"]).ok();
        let listed = at(&server, &["ls", &format!("n/c/{key}"), "--json", "--values", "--limit", "1"]).ok();
        assert_eq!(got.text(), listed.text(), "{key}");
        assert_eq!(got.json()["key"], key);
    }
    assert_eq!(at(&server, &["del", "n/c/a"]).code, 0);
    let gone = at(&server, &["get", "n/c/a", "--json"]);
    assert_eq!((gone.code, gone.text()), (3, ""), "another key begins with this one: {}", gone.err);
    assert!(gone.err.contains("NOT_FOUND: "), "{}", gone.err);
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let (source, target) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&source, "from a file").expect("a file for the test");
    let (source, target) = (source.to_str().expect("text"), target.to_str().expect("text"));
    at(&server, &["put", "a/b/c", "--file", source, "--type", "text/markdown"]).ok();
    at(&server, &["get", "a/b/c", "--output", target]).ok();
    assert_eq!(std::fs::read(target).expect("the file"), b"from a file");
    assert_eq!(at(&server, &["get", "a/b/none", "-o", target]).code, 3);
    assert_eq!(std::fs::read(target).expect("the file"), b"from a file");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 2);
}

#[test]
fn exit_codes_tell_apart_what_went_wrong() {
    let server = Server::builder().start();
    at(&server, &["put", "a/b/c", "1"]).ok();
    let version = at(&server, &["get", "a/b/c", "--json"]).ok().json()["version"].to_string();
    for (words, code, part) in [
        (&["get", "a/b/none"][..], 3, "NOT_FOUND: "),
        (&["del", "a/b/none"], 3, "NOT_FOUND: "),
        (&["put", "a/b/c", "2", "--if-version", "0"], 4, "PRECONDITION_FAILED: "),
        (&["put", "a/b/c", "2", "--if-version", "999999"], 4, "PRECONDITION_FAILED: "),
        (&["del", "a/b/c", "--if-version", "999999"], 4, "PRECONDITION_FAILED: "),
        (&["put", "a/b/c", "2", "--ttl", "0s"], 1, "INVALID_TTL: "),
        (&["get", "a/_b/c"], 1, "INVALID_COLLECTION: "),
        (&["get", "a/b"], 2, "NAMESPACE/COLLECTION/KEY"),
        (&["put", "a/b/c", "2", "--if-version", "x"], 2, "--if-version"),
        (&["put", "a/b/c", "2", "--file", "x"], 2, "two values"),
        (&["del", "a/b"], 2, "--prefix TEXT or --all"),
        (&["del", "a/b", "--prefix", ""], 2, "an empty --prefix would remove everything"),
        (&["del", "a/b", "--prefix="], 2, "an empty --prefix would remove everything"),
        (&["del", "a/b/c", "--all"], 2, "--prefix TEXT or --all"),
        (&["get", "a/b/c", "--url", "https://x"], 2, "plain http"),
        (&["get", "a/b/c", "--url", "http://127.0.0.1:1"], 5, "no answer from http://127.0.0.1:1"),
        (&["get", "a/b/c", "--token-file", "/none"], 1, "cannot read the token file"),
    ] {
        let ran = at(&server, words);
        assert_eq!((ran.code, ran.text()), (code, ""), "{words:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
    }
    let put = at(&server, &["put", "a/b/c", "2", "--if-version", &version, "--json"]).ok().json();
    assert_eq!((&put["created"], &put["durability"]), (&false.into(), &"synced".into()));
    assert_eq!(at(&server, &["get", "a/b/c"]).ok().text(), "2");
    assert!(at(&server, &["del", "a/b/c", "--json"]).ok().json()["version"].is_u64());
    at(&server, &["put", "a/b/c", "3", "--if-version", "0"]).ok();
}

#[test]
fn a_counter_counts_up_and_down() {
    let server = Server::builder().start();
    for (words, value) in [
        (&["incr", "a/b/n"][..], "1\n"),
        (&["incr", "a/b/n", "41"], "42\n"),
        (&["incr", "a/b/n", "-50"], "-8\n"),
        (&["incr", "a/b/n", "--durability", "relaxed", "-1"], "-9\n"),
    ] {
        assert_eq!(at(&server, words).ok().text(), value, "{words:?}");
    }
    assert_eq!(at(&server, &["incr", "a/b/n", "many"]).code, 2);
    at(&server, &["put", "a/b/text", "no number"]).ok();
    let ran = at(&server, &["incr", "a/b/text"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("NOT_AN_INTEGER"), "{}", ran.err);
}

#[test]
fn a_token_opens_what_it_is_for_and_is_taken_up_while_larder_runs() {
    let server = Server::builder().start();
    let url = server.url();
    let data = server.data().to_str().expect("text");
    let token = |words: &[&str]| run(&[("LARDER_DATA_DIR", data)], words, b"").ok();
    let made = token(&["token", "add", "reader", "--scope", "read", "--namespace", "home"]).text().trim().to_owned();
    let everything = token(&["token", "add", "boss", "--scope", "admin"]).text().trim().to_owned();
    let refused = || at(&server, &["get", "home/b/c"]);
    let boss = |words: &[&str]| run(&[("LARDER_URL", &url), ("LARDER_TOKEN", &everything)], words, b"");
    // The file is looked at every few seconds, and may have been between the first token and the second.
    for _ in 0..300 {
        if refused().err.contains("UNAUTHORIZED") && !boss(&["ls"]).err.contains("UNAUTHORIZED") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let ran = refused();
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("UNAUTHORIZED"), "{}", ran.err);

    boss(&["put", "home/b/c", "1"]).ok();
    boss(&["put", "other/b/c", "1"]).ok();
    let file = server.data().join("token");
    std::fs::write(&file, format!("{made}\n")).expect("a file for the test");
    let reader =
        |words: &[&str]| run(&[("LARDER_URL", &url), ("LARDER_TOKEN_FILE", file.to_str().expect("text"))], words, b"");
    assert_eq!(reader(&["get", "home/b/c"]).ok().text(), "1");
    for words in [&["get", "other/b/c"][..], &["put", "home/b/c", "2"], &["del", "home/b/c"]] {
        let ran = reader(words);
        assert_eq!(ran.code, 1, "{words:?}");
        assert!(ran.err.contains("FORBIDDEN"), "{words:?}: {}", ran.err);
        assert!(!ran.err.contains(&made[4..]), "{}", ran.err);
    }
    assert!(!server.log().contains(&made[20..]), "no secret in the log");
}

#[test]
fn lists_show_every_name_once_whatever_the_pages() {
    let server = Server::builder().start();
    let mut client = server.client();
    for number in 0..1203 {
        client.send("PUT", &format!("/api/v1/kv/big/keys/k{number:05}?durability=relaxed"), &[], b"1");
    }
    client.send("PUT", "/api/v1/kv/big/other/a%0Ab", &[], b"12345");
    client.send("PUT", "/api/v1/kv/small/keys/x", &[], b"1");
    let lines = |words: &[&str]| at(&server, words).ok().text().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&["ls"]), ["big", "small"]);
    assert_eq!(lines(&["ls", "big"]), ["keys", "other"]);
    let all = lines(&["ls", "big/keys"]);
    assert_eq!(all.len(), 1203);
    assert_eq!((all[0].as_str(), all[1202].as_str()), ("k00000", "k01202"));
    assert_eq!(lines(&["ls", "big/keys", "--limit", "1001"]).len(), 1001);
    assert_eq!(lines(&["ls", "big/keys/k0120"]), ["k01200", "k01201", "k01202"]);
    assert_eq!(lines(&["ls", "big/other"]), ["\"a\\nb\""]);
    let long = lines(&["ls", "-l", "big/other"]);
    assert!(long[0].contains(" 5 ") && long[0].contains("application/octet-stream"), "{long:?}");
    let item: serde_json::Value =
        serde_json::from_str(&lines(&["ls", "big/other", "--json", "--values"])[0]).expect("JSON");
    assert_eq!((&item["key"], &item["value_base64"]), (&"a\nb".into(), &"MTIzNDU=".into()));
    assert_eq!(at(&server, &["ls", "big", "--values"]).code, 2);
    // No key begins so: that is an answer. No collection or namespace is none.
    assert_eq!(lines(&["ls", "big/keys/z"]), Vec::<String>::new());
    assert_eq!(lines(&["ls", "none", "--limit", "0"]), Vec::<String>::new());
    for place in ["none", "none/keys", "big/none", "big/none/k", "big/key"] {
        for more in [&[][..], &["--json"], &["-l"]] {
            let ran = at(&server, &[&["ls", place][..], more].concat());
            assert_eq!((ran.code, ran.text()), (3, ""), "{place}: {}", ran.err);
            assert!(ran.err.contains("NOT_FOUND: there is no "), "{place}: {}", ran.err);
        }
    }

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("item.json");
    let shown = at(&server, &["get", "big/keys/k00001", "--json"]).ok().text().to_owned();
    let name = file.to_str().expect("text");
    assert_eq!(at(&server, &["get", "big/keys/k00001", "--json", "-o", name]).ok().text(), "");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), shown);

    let removed = at(&server, &["del", "big/keys", "--prefix", "k001", "--json"]).ok().json();
    assert_eq!((&removed["deleted"], &removed["complete"]), (&100.into(), &true.into()));
    at(&server, &["del", "big/keys", "--all"]).ok();
    assert_eq!(lines(&["ls", "big"]), ["other"]);
    assert_eq!(at(&server, &["ls", "big/keys"]).code, 3, "it went with its last value");
    assert_eq!(at(&Server::builder().start(), &["ls"]).ok().text(), "", "a store without anything");
}

#[test]
fn a_store_moves_to_another_by_backup_and_by_export() {
    let from = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    run(&[("LARDER_URL", &from.url())], &["put", "a/b/bytes", "--type", "image/png"], &bytes).ok();
    at(&from, &["put", "a/b/json", "{\"x\": [1, 2.50]}"]).ok();
    at(&from, &["put", "a/b/gone", "1", "--ttl", "1h"]).ok();
    run(&[("LARDER_URL", &from.url())], &["put", "other/c/k ü", "-"], b"").ok();

    let saved = at(&from, &["backup", &path("full"), "--json"]).ok().json();
    assert_eq!(saved["items"], 4);
    let version = saved["version"].to_string();
    at(&from, &["put", "a/b/later", "2"]).ok();
    let part = at(&from, &["backup", &path("part"), "--since", &version, "--json"]).ok().json();
    assert_eq!(part["items"], 1, "only what was written since");
    at(&from, &["restore", "--check", &path("full")]).ok();

    let to = Server::builder().engine("epoll").start();
    at(&to, &["restore", &path("full")]).ok();
    assert_eq!(at(&to, &["get", "a/b/later"]).code, 3);
    assert_eq!(at(&to, &["restore", &path("full")]).code, 1, "the store is not empty any more");
    at(&to, &["restore", "--merge", &path("part")]).ok();
    assert_eq!(at(&to, &["get", "a/b/bytes"]).ok().out, bytes);
    for name in ["a/b/bytes", "a/b/json", "a/b/later", "other/c/k ü"] {
        let shown = |server| {
            let mut shown = at(server, &["get", name, "--json"]).ok().json();
            shown["version"].take();
            shown
        };
        assert_eq!(shown(&from)["value"], shown(&to)["value"], "{name}");
        assert_eq!(shown(&from)["content_type"], shown(&to)["content_type"], "{name}");
    }
    let expires = |server| at(server, &["get", "a/b/gone", "--json"]).ok().json()["expires"].take();
    assert!(expires(&to).is_string());
    assert_eq!(expires(&from), expires(&to));

    at(&from, &["export", "--output", &path("lines"), "--namespace", "a"]).ok();
    let third = Server::builder().start();
    at(&third, &["import", &path("lines")]).ok();
    assert_eq!(at(&third, &["get", "a/b/bytes"]).ok().out, bytes);
    assert_eq!(at(&third, &["ls"]).ok().text(), "a\n");
    let piped = at(&from, &["export"]).ok();
    run(&[("LARDER_URL", &third.url())], &["import", "-"], &piped.out).ok();
    assert_eq!(at(&third, &["ls"]).ok().text(), "a\nother\n");
}

#[test]
fn an_import_tells_what_failed_and_refuses_a_file_that_was_cut() {
    let server = Server::builder().start();
    let import = |words: &[&str], text: &str| run(&[("LARDER_URL", &server.url())], words, text.as_bytes());
    let good = "{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"k\",\"value\":1}\n";
    let cut = import(&["import"], good);
    assert_eq!(cut.code, 1, "{}", cut.err);
    import(&["import", "--partial"], good).ok();
    let mixed = format!("{good}{{\"namespace\":\"_\",\"collection\":\"b\",\"key\":\"k\",\"value\":1}}\n");
    let ran = import(&["import", "--partial"], &mixed);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("line 2: INVALID_NAMESPACE"), "{}", ran.err);
    assert!(ran.err.contains("1 values imported, 1 failed"), "{}", ran.err);
}

#[test]
fn every_client_command_works_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let url = format!("unix:{}", folder.path().join("l.sock").display());
    let _server = Server::builder().engine("epoll").argument("--listen").argument(&url).start();
    let via = |words: &[&str], stdin: &[u8]| run(&[("LARDER_URL", &url)], words, stdin);
    let large = vec![b'x'; 900_000];
    via(&["put", "a/b/large"], &large).ok();
    assert!(via(&["get", "a/b/large"], b"").ok().out == large);
    via(&["put", "a/b/c", "1"], b"").ok();
    assert_eq!(via(&["ls", "a/b"], b"").ok().text(), "c\nlarge\n");
    assert_eq!(via(&["incr", "a/b/c", "41"], b"").ok().text(), "42\n");
    let export = via(&["export"], b"").ok().out;
    via(&["import", "-"], &export).ok();
    via(&["del", "a/b/c"], b"").ok();
    assert_eq!(via(&["get", "a/b/c"], b"").code, 3);
    let bench = via(&["bench", "--requests", "1"], b"");
    assert!(bench.code == 2 && bench.err.contains("TCP only"), "{}", bench.err);
    let nowhere = run(&[], &["get", "a/b/c", "--url", "unix:/none/l.sock"], b"");
    assert!(nowhere.code == 5 && nowhere.err.contains("no answer from unix:/none/l.sock: "), "{}", nowhere.err);
}

#[test]
fn a_backup_since_a_version_from_before_a_restore_holds_everything_and_says_so() {
    let (old, new) = (Server::builder().start(), Server::builder().start());
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (full, part, later) = (path("full"), path("part"), path("later"));
    for n in 0..21 {
        old.put(&format!("/api/v1/kv/n/c/{}", n % 7), b"x");
    }
    at(&old, &["backup", &full]).ok();
    let refused = at(&old, &["backup", &part, "--since", "22"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("beyond the last version of this store, which is 21"), "{}", refused.err);
    assert!(!std::path::Path::new(&part).exists());

    at(&new, &["restore", &full]).ok();
    let told = at(&new, &["backup", &part, "--since", "20", "--json"]).ok();
    assert!(told.err.contains("this holds everything"), "{}", told.err);
    let said = told.json();
    assert_eq!((&said["items"], &said["since"]), (&7.into(), &0.into()));
    // It is no part of a chain: it can be restored alone.
    let third = Server::builder().start();
    at(&third, &["restore", &part]).ok();
    let version = said["version"].as_u64().expect("a version").to_string();
    new.put("/api/v1/kv/n/c/8", b"x").expect(201);
    let said = at(&new, &["backup", &later, "--since", &version, "--json"]).ok();
    assert_eq!((said.json()["items"].as_u64(), said.err.as_str()), (Some(1), ""));
    assert!(at(&third, &["restore", &later]).err.contains("--merge"));
    at(&third, &["restore", &later, "--merge"]).ok();
    third.get("/api/v1/kv/n/c/8").expect(200);
    let everything = at(&new, &["export", "--since", "20"]).ok();
    assert!(everything.err.contains("this holds everything"), "{}", everything.err);
}

/// Runs a client command whose stdout is a device that takes nothing.
fn into_full(server: &Server, words: &[&str]) -> (Option<i32>, String) {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(words).env_clear().env("LARDER_URL", server.url()).stdin(Stdio::null());
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("larder can be run");
    let Output { status, stderr, .. } = child.wait_with_output().expect("larder ends");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn no_client_command_loses_output_in_silence() {
    let server = Server::builder().start();
    at(&server, &["put", "a/b/c", "1"]).ok();
    let export = at(&server, &["export"]).ok();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (lines, backup, other) = (path("lines"), path("backup"), path("other"));
    std::fs::write(&lines, &export.out).expect("a file for the test");
    at(&server, &["backup", &backup]).ok();
    for words in [
        &["get", "a/b/c"][..],
        &["get", "a/b/c", "--json"],
        &["get", "a/b/c", "-o", "/dev/full"],
        &["get", "a/b/c", "-o", "/dev/stdout"],
        &["put", "a/b/d", "1", "--json"],
        &["put", "a/b/n", "1", "--json"],
        &["incr", "a/b/n"],
        &["incr", "a/b/n", "--json"],
        &["del", "a/b/d", "--json"],
        &["del", "a/none", "--all", "--json"],
        &["ls"],
        &["ls", "a/b", "-l"],
        &["ls", "a/b", "--json", "--values"],
        &["export"],
        &["export", "-o", "/dev/full"],
        &["export", "-o", &other, "--json"],
        &["import", &lines, "--json"],
        &["backup", "-"],
        &["backup", "/dev/full"],
        &["backup", &backup, "--force", "--json"],
        &["restore", "--check", &backup, "--json"],
        &["restore", "--merge", &backup, "--json"],
        &["bench", "-n", "1", "--keys", "1", "--json"],
        &["bench", "-n", "1", "--keys", "1"],
        &["bench", "-n", "1", "--keys", "1", "--hdr", "/dev/full"],
    ] {
        let (code, err) = into_full(&server, words);
        assert_eq!(code, Some(1), "{words:?}: {err}");
        assert!(err.contains("cannot write: No space left"), "{words:?}: {err}");
    }
    assert!(std::fs::metadata("/dev/full").expect("the device").file_type().is_char_device());
}

#[test]
fn devices_pipes_and_links_are_written_to_and_stay_what_they_are() {
    let server = Server::builder().start();
    at(&server, &["put", "a/b/c", "the value"]).ok();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let at_path = |name: &str| folder.path().join(name);
    let words = |command: &str, name: &str| -> Vec<String> {
        let target = at_path(name).to_str().expect("text").to_owned();
        match command {
            "get" => vec!["get".into(), "a/b/c".into(), "-o".into(), target],
            "export" => vec!["export".into(), "-o".into(), target],
            _ => vec!["backup".into(), "--force".into(), target],
        }
    };
    std::fs::write(at_path("file"), "old").expect("a file for the test");
    std::fs::set_permissions(at_path("file"), std::fs::Permissions::from_mode(0o666)).expect("its mode");
    symlink("file", at_path("link")).expect("a link");
    symlink("/dev/null", at_path("null")).expect("a link");
    let made = Command::new("mkfifo").arg(at_path("fifo")).status().expect("mkfifo");
    assert!(made.success());
    for command in ["get", "export", "backup"] {
        let run = |name: &str| {
            let words = words(command, name);
            at(&server, &words.iter().map(String::as_str).collect::<Vec<_>>()).ok()
        };
        for name in ["link", "null", "file"] {
            run(name);
        }
        let meta = std::fs::metadata(at_path("file")).expect("the file");
        assert_eq!(meta.mode() & 0o777, 0o600, "{command}: whatever it was before");
        let written = std::fs::read(at_path("file")).expect("the file");
        let fifo = at_path("fifo");
        let reader = std::thread::spawn(move || std::fs::read(fifo).expect("a pipe"));
        run("fifo");
        let piped = reader.join().expect("the reader");
        // A backup says when it was made.
        assert!(piped == written || command == "backup" && piped.len() == written.len(), "{command}");
        assert!(std::fs::symlink_metadata(at_path("fifo")).expect("the pipe").file_type().is_fifo());
        for name in ["link", "null"] {
            assert!(std::fs::symlink_metadata(at_path(name)).expect("the link").is_symlink(), "{command} {name}");
        }
    }
    assert_eq!(at(&server, &["get", "a/b/c", "-o", "/dev/stdout"]).ok().text(), "the value");
    for name in ["", "none/x", ".", "new/"] {
        let target = if name.is_empty() { String::new() } else { at_path(name).to_str().expect("text").to_owned() };
        let ran = at(&server, &["get", "a/b/c", "-o", &target]);
        assert!(ran.code == 1 && ran.err.contains("cannot write"), "{name}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 4);
}

#[test]
fn a_token_file_is_read_as_editors_write_it_and_an_open_one_is_told_of() {
    let server = Server::builder().start();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("token");
    let name = file.to_str().expect("text");
    at(&server, &["put", "a/b/c", "1"]).ok();
    for (bytes, mode, code, part) in [
        (&b"ldr_a_b\n"[..], 0o600, 0, ""),
        (b"\xef\xbb\xbfldr_a_b\r\n", 0o600, 0, ""),
        (b"\xff\xfel\0d\0r\0\n\0", 0o640, 0, ""),
        (b"ldr_a_b", 0o644, 0, "has mode 0644, open to others"),
        (b"ldr_a_b", 0o660, 0, "has mode 0660, open to others"),
        (b"\xef\xbb\xbf\n", 0o600, 1, "holds no token: it is empty"),
        (b"Bearer ldr_a_b", 0o600, 1, "more than one word"),
    ] {
        std::fs::write(&file, bytes).expect("a file for the test");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
        for ran in [
            at(&server, &["ls", "--token-file", name]),
            run(&[("LARDER_URL", &server.url()), ("LARDER_TOKEN_FILE", name)], &["ls"], b""),
        ] {
            // No token is known here, and so whoever is on this machine is served: 401 would be a token that was sent.
            let refused = ran.err.contains("UNAUTHORIZED");
            assert!(ran.code == code || refused && code == 0, "{bytes:?} {mode:o}: {}", ran.err);
            assert_eq!(ran.err.contains("note: the token file"), part.contains("open to"), "{mode:o}: {}", ran.err);
            assert!(ran.err.contains(part), "{bytes:?}: {}", ran.err);
        }
    }
}

#[test]
fn a_deep_value_costs_no_other_its_place_in_a_list() {
    let server = Server::builder().start();
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    at(&server, &["put", "a/b/before", "{\"x\":1.50}"]).ok();
    run(&[("LARDER_URL", &server.url())], &["put", "a/b/deep", "--type", "application/json"], deep.as_bytes()).ok();
    at(&server, &["put", "a/b/later", "2"]).ok();
    let listed = at(&server, &["ls", "a/b", "--json", "--values"]).ok();
    let lines: Vec<serde_json::Value> =
        listed.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(
        lines.iter().map(|line| line["key"].as_str()).collect::<Vec<_>>(),
        [Some("before"), Some("deep"), Some("later")]
    );
    assert!(lines[1]["value_base64"].as_str().is_some_and(|text| text.starts_with("W1tb")), "{}", lines[1]);
    assert_eq!(at(&server, &["get", "a/b/deep", "--json"]).ok().json(), lines[1]);
    assert_eq!(at(&server, &["get", "a/b/deep"]).ok().text(), deep);
    // As a whole it goes out and comes back.
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("saved");
    let path = path.to_str().expect("text");
    at(&server, &["backup", path]).ok();
    at(&server, &["restore", "--check", path]).ok();
    at(&server, &["restore", "--merge", path]).ok();
    assert_eq!(at(&server, &["get", "a/b/deep"]).ok().text(), deep);
}
