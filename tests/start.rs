//! What a start meets that only a person can mend: folders and files of another user, at any depth, links that lead to
//! nothing, tokens that something has emptied. `check` and `serve` say the same, with exit 78.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use support::{Server, binary, eventually};

/// Nobody in particular.
const USER: &str = "61234";

/// Runs larder as another user than root, if this is root; as this one otherwise.
fn as_user(words: &[&str], data: &Path) -> Output {
    let is_root = rustix::process::geteuid().is_root();
    let user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"];
    let all: Vec<&str> = user.into_iter().filter(|_| is_root).collect();
    let binary = binary();
    let all = [&all[..], &[&binary], words].concat();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).current_dir("/").env("LARDER_DATA_DIR", data).env("LARDER_LISTEN", "127.0.0.1:0");
    command.env("LARDER_STORE_RESERVE", "1MiB").output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A folder for everyone, in which a larder of that user has been.
fn used_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::builder().data(&data).start();
    server.put("/api/v1/kv/a/b/c", b"x").expect(201);
    assert!(server.stop().success());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let all = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&data).status().unwrap();
    assert!(all.success() || !rustix::process::geteuid().is_root());
    folder
}

/// Both commands refuse, and name the place and the user.
fn refused(data: &Path, place: &Path, why: &str, case: &str) {
    for command in ["check", "serve"] {
        let output = as_user(&[command], data);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{case}, {command}: {said}");
        assert!(said.contains(&place.display().to_string()) && said.contains(why), "{case}, {command}: {said}");
    }
}

#[test]
fn what_another_user_has_left_is_found_at_every_level_and_named_with_path_and_user() {
    if !rustix::process::geteuid().is_root() {
        return support::skipped("only root can give files to others");
    }
    for (name, owner, mode) in [
        ("", "0", 0o755),
        ("", USER, 0o600),
        ("larder.lock", "0", 0o644),
        ("fjall", "0", 0o755),
        ("fjall", USER, 0o600),
        ("fjall/0.jnl", "0", 0o644),
        ("fjall/keyspaces", "0", 0o755),
        ("fjall/keyspaces/1", "0", 0o755),
        ("fjall/keyspaces/1/tables", "0", 0o700),
        ("fjall/keyspaces/1/current", "0", 0o600),
        ("tokens.jsonl", "0", 0o600),
    ] {
        let folder = used_folder();
        let data = folder.path().join("data");
        let place = if name.is_empty() { data.clone() } else { data.join(name) };
        if name == "tokens.jsonl" {
            fs::write(&place, "").unwrap();
        }
        assert_eq!(as_user(&["check"], &data).status.code(), Some(if name == "tokens.jsonl" { 78 } else { 0 }));
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        assert!(Command::new("chown").arg(format!("{owner}:{owner}")).arg(&place).status().unwrap().success());
        refused(&data, &place, &format!("uid {USER}"), &format!("{name} {owner} {mode:o}"));
    }
}

#[test]
fn a_link_that_leads_to_nothing_is_no_data_folder() {
    let folder = used_folder();
    let path = |name: &str| folder.path().join(name);
    symlink("gone", path("dangling")).unwrap();
    symlink("dangling/further", path("twice")).unwrap();
    symlink("loop", path("loop")).unwrap();
    symlink("data/larder.lock/x", path("through-a-file")).unwrap();
    for (data, place) in [
        ("dangling", "dangling"),
        ("dangling/deep/er", "dangling"),
        ("twice", "twice"),
        ("loop", "loop"),
        ("through-a-file", "through-a-file"),
    ] {
        refused(&path(data), &path(place), "is a link that leads to nothing", data);
    }
    symlink("data", path("good")).unwrap();
    assert_eq!(as_user(&["check"], &path("good")).status.code(), Some(0));
}

#[test]
fn a_token_cannot_be_added_in_a_folder_of_another_user_and_the_reason_is_told() {
    if !rustix::process::geteuid().is_root() {
        return support::skipped("only root can give files to others");
    }
    let folder = used_folder();
    let closed = folder.path().join("closed");
    fs::create_dir_all(closed.join("data")).unwrap();
    symlink("closed/data", folder.path().join("link")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    for (data, why) in [
        (closed.join("data"), "permission denied, uid"),
        (folder.path().join("link"), "permission denied, uid"),
        (closed.clone(), "permission denied, uid"),
        (folder.path().join("new"), "permission denied, uid"),
        (folder.path().join("file"), "is not a folder"),
    ] {
        let output = as_user(&["token", "add", "one", "--scope", "read"], &data);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{data:?}: {said}");
        assert!(said.contains(why), "{data:?}: {said}");
    }
}

#[test]
fn emptied_tokens_let_nobody_in_neither_while_larder_runs_nor_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let tokens = data.join("tokens.jsonl");
    let token = |words: &[&str]| {
        let output = Command::new(binary()).arg("token").args(words).env("LARDER_DATA_DIR", &data).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let server = Server::builder().data(&data).start();
    let status = |server: &Server, token: Option<&str>| {
        let value = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = value.iter().map(|value| ("Authorization", value.as_str())).collect();
        server.send("GET", "/api/v1/kv/a/b/c", &fields, b"").status
    };
    assert_eq!(status(&server, None), 404);
    let one = token(&["add", "one", "--scope", "read"]);
    eventually("the token counts", || status(&server, None) == 401);
    let kept = fs::read(&tokens).unwrap();
    for emptied in ["", "\n"] {
        fs::write(&tokens, emptied).unwrap();
        let complaints = || server.log().matches("has been emptied").count();
        let before = complaints();
        server.signal("HUP");
        eventually("it is told", || complaints() > before);
        assert_eq!((status(&server, None), status(&server, Some(&one))), (401, 404), "{emptied:?}");
    }
    assert!(server.stop().success());
    for command in ["check", "serve"] {
        let output = larder(&[command], &data);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{command}: {said}");
        assert!(said.contains(&format!("{} has been emptied", tokens.display())), "{command}: {said}");
    }
    fs::write(&tokens, &kept).unwrap();
    let server = Server::builder().data(&data).start();
    assert_eq!((status(&server, None), status(&server, Some(&one))), (401, 404), "put back");
    token(&["rm", "one"]);
    eventually("without tokens this machine is served", || status(&server, None) == 404);
    token(&["add", "two", "--scope", "read"]);
    eventually("a token counts again", || status(&server, None) == 401);
}

#[test]
fn a_mark_of_the_byte_order_before_settings_or_tokens_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(larder(&["token", "add", "one", "--scope", "read"], &path("data")).status.success());
    let tokens = fs::read_to_string(path("data/tokens.jsonl")).unwrap();
    fs::write(path("data/tokens.jsonl"), format!("\u{feff}{tokens}")).unwrap();
    let config = path("larder.toml");
    for (text, code, said) in [
        ("\u{feff}[server]\r\nworkers = 7\r\n", 0, "larder.toml:2"),
        ("\u{feff}# nothing", 0, "the configuration is good"),
        ("\u{feff}[server]\nworkers = 0", 78, "larder.toml:2: server.workers: 0 is outside"),
        ("[server]\n\u{feff}workers = 7", 78, "larder.toml:2"),
    ] {
        fs::write(&config, text).unwrap();
        let output = larder(&["check", "--config", config.to_str().unwrap()], &path("data"));
        assert_eq!(output.status.code(), Some(code), "{text:?}: {}", self::text(&output));
        assert!(self::text(&output).contains(said), "{text:?}: {}", self::text(&output));
    }
    let listed = larder(&["token", "ls"], &path("data"));
    assert!(text(&listed).contains("one"), "{}", text(&listed));
}

#[test]
fn a_folder_of_an_earlier_release_goes_on_working_and_is_guarded_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = larder(&["token", "add", "one", "--scope", "read"], &data);
    let secret = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let tokens = data.join("tokens.jsonl");
    let note = data.join("tokens.jsonl.kept");
    // Earlier ones made no note.
    fs::remove_file(&note).unwrap();
    let server = Server::builder().data(&data).start();
    server.get("/api/v1/kv/a/b/c").expect(401);
    let bearer = format!("Bearer {secret}");
    server.send("GET", "/api/v1/kv/a/b/c", &[("Authorization", &bearer)], b"").expect(404);
    assert!(server.stop().success() && note.exists());
    // They left an empty file behind the last token.
    fs::remove_file(&note).unwrap();
    fs::write(&tokens, "").unwrap();
    let server = Server::builder().data(&data).start();
    server.get("/api/v1/kv/a/b/c").expect(404);
    assert!(server.stop().success() && !note.exists());
    assert!(larder(&["token", "add", "two", "--scope", "read"], &data).status.success());
    fs::write(&tokens, "").unwrap();
    assert_eq!(larder(&["check"], &data).status.code(), Some(78));
}

fn larder(words: &[&str], data: &Path) -> Output {
    Command::new(binary()).args(words).env("LARDER_DATA_DIR", data).output().unwrap()
}

#[test]
fn settings_that_could_never_work_together_are_told_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (environment, part) in [
        (&[("LARDER_STORE_RESERVE", "500000GiB")][..], "no write would ever be taken"),
        (&[("LARDER_STORE_RESERVE", "900000GiB"), ("LARDER_ENGINE_KIND", "")], "LARDER_ENGINE_KIND"),
        (&[("LARDER_LISTEN", "8080")], "server.listen: expected an address with a port"),
        (&[("LARDER_LISTEN", "[\"127.0.0.1:8080\", \"[::1]:8080\"]")], "neither brackets nor quotes"),
        (&[("LARDER_AUTH_PUBLIC_READ", "[\"site\"]")], "auth.public_read: outside of the file a list has neither"),
        (&[("LARDER_CORS_ORIGINS", "\"https://app.example\"")], "neither brackets nor quotes: https://app.example"),
        (&[("LARDER_LISTEN", "0.0.0.0:80,127.0.0.1:80"), ("LARDER_AUTH_MODE", "open")], "takes what comes to"),
        (
            &[("LARDER_LIMITS_HEADS_BYTES_MAX", "64KiB"), ("LARDER_LIMITS_HEAD_BYTES_MAX", "1MiB")],
            "the memory for all heads",
        ),
        (&[("LARDER_PORT", "8080")], "LARDER_PORT"),
    ] {
        for command in ["check", "serve"] {
            let mut larder = Command::new(binary());
            let output =
                larder.arg(command).env("LARDER_DATA_DIR", &data).envs(environment.iter().copied()).output().unwrap();
            let said = text(&output);
            assert_eq!(output.status.code(), Some(78), "{command} {environment:?}: {said}");
            assert!(said.contains(part), "{command} {environment:?}: {said}");
        }
    }
    let mut larder = Command::new(binary());
    larder.arg("check").env("LARDER_DATA_DIR", &data).env("LARDER_LISTEN", "127.0.0.1:0");
    larder.env("LARDER_PORT", "tcp://10.0.0.9:8080").env("LARDER_SERVICE_HOST", "10.0.0.9");
    let output = larder.env("LARDER_PORT_8080_TCP_ADDR", "10.0.0.9").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}
