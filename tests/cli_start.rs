//! The binary before it serves: help, usage errors, `larder check`, tokens, and the exit codes that scripts rely on.

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs larder in a folder, with nothing of this process's environment but what is given.
fn larder_in(folder: &Path, environment: &[(&str, &str)], words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(words).current_dir(folder).env_clear().envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().expect("larder can be run");
    let text = |bytes| String::from_utf8(bytes).expect("larder writes UTF-8");
    Ran { code: status.code().expect("larder ends by itself"), out: text(stdout), err: text(stderr) }
}

fn larder(words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a folder for the test");
    larder_in(folder.path(), &[], words)
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    for (words, part) in [
        (&["--help"][..], "Usage: larder"),
        (&["--help"], "75: serve wants"),
        (&["-h"], "serve"),
        (&["serve", "--help"], "--listen ADDR"),
        (&["check", "-h"], "Usage: larder check"),
        (&["token", "--help"], "rm"),
        (&["token", "add", "--help"], "--scope SCOPE"),
        (&["--version"], "fjall 3.1.13)"),
        (&["-V"], concat!("larder ", env!("CARGO_PKG_VERSION"), " (")),
        (&["version"], "fjall 3.1.13)"),
        (&["help"], "Usage: larder [OPTIONS] COMMAND"),
        (&["help", "serve"], "--listen ADDR"),
        (&["help", "token", "add"], "--scope SCOPE"),
        (&["token", "help", "rm"], "Usage: larder token rm"),
        (&["help", "help"], "Usage: larder help"),
    ] {
        let ran = larder(words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}");
        assert!(ran.out.contains(part), "{words:?}: {}", ran.out);
    }
}

#[test]
fn a_token_file_is_named_from_where_one_stands() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    std::fs::create_dir(folder.path().join("below")).expect("a folder");
    for name in ["tokens.jsonl", "./other.jsonl", "below/tokens.jsonl", "below/../third.jsonl"] {
        let environment = [("LARDER_AUTH_TOKENS_FILE", name)];
        for token in ["a", "b"] {
            let ran = larder_in(folder.path(), &environment, &["token", "add", token, "--scope", "read"]);
            assert_eq!(ran.code, 0, "{name}: {}", ran.err);
        }
        let listed = larder_in(folder.path(), &environment, &["token", "ls", "--json"]).out;
        assert_eq!(listed.matches("\"name\"").count(), 2, "{name}: {listed}");
        assert!(folder.path().join(name).is_file());
    }
}

#[test]
fn output_that_does_not_arrive_is_a_failure() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    for words in [
        &["--help"][..],
        &["help", "token", "add"],
        &["--version"],
        &["version"],
        &["man"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["check"],
        &["token", "add", "x", "--scope", "read"],
        &["token", "add", "x", "--scope", "read", "--json"],
        &["token", "ls"],
        &["token", "ls", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        for (stdout, part) in [(Stdio::from(full), "No space left"), (Stdio::from(writer), "Broken pipe")] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
            command.args(words).current_dir(folder.path()).env_clear().env("LARDER_DATA_DIR", folder.path());
            let output = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("larder can be run");
            let output = output.wait_with_output().expect("larder ends");
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?} {part}: {err}");
            assert!(err.contains("cannot write: ") && err.contains(part), "{words:?}: {err}");
        }
    }
    let environment = [("LARDER_DATA_DIR", folder.path().to_str().expect("text"))];
    assert_eq!(
        larder_in(folder.path(), &environment, &["token", "ls", "--json"]).out,
        "[]\n",
        "no token that nobody has"
    );
    // A closed stdout is the null device by the time larder runs.
    for redirection in [">&-", ">/dev/null"] {
        let line = format!("exec '{}' token add x --scope read {redirection}", env!("CARGO_BIN_EXE_larder"));
        let mut command = Command::new("/bin/sh");
        let output = command.args(["-c", &line]).current_dir(folder.path()).envs(environment).output();
        let output = output.expect("a shell");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && err.contains("no token was made"), "{redirection}: {err}");
    }
    let made = larder_in(folder.path(), &environment, &["token", "add", "x", "--scope", "read"]);
    assert!(made.code == 0 && made.out.starts_with("ldr_"), "{}", made.err);
    let removed = larder_in(folder.path(), &environment, &["token", "rm", "x", "--json"]);
    assert!(!removed.out.contains("\"token\""), "{}", removed.out);
}

#[test]
fn usage_errors_end_with_2_and_say_what_was_meant() {
    for (words, part) in [
        (&[][..], "Usage: larder"),
        (&["srve"], "did you mean `serve`?"),
        (&["serve", "--lisen", "x"], "did you mean `--listen`?"),
        (&["serve", "--listen"], "--listen"),
        (&["serve", "--engine", "epol"], "did you mean `epoll`?"),
        (&["serve", "here"], "one operand too many"),
        (&["serve", "--data", ""], "--data is empty"),
        (&["check", "--workers", "1", "--workers", "2"], "stands twice"),
        (&["help", "srve"], "did you mean `serve`?"),
        (&["hepl"], "did you mean `help`?"),
        (&["token"], "Usage: larder token"),
        (&["token", "add"], "needs NAME"),
        (&["token", "add", "x"], "--scope read|write|admin"),
        (&["token", "add", "x", "--scope", "root"], "--scope is one of"),
        (&["token", "add", "x", "--scope", "read", "--expires", "soon"], "--expires: expected a duration"),
    ] {
        let ran = larder(words);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?}");
        assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
    }
}

#[test]
fn help_that_nobody_asked_for_is_plain_help_on_stderr() {
    for (words, group) in [(&[][..], &["--help"][..]), (&["token"], &["token", "--help"])] {
        let (bare, asked) = (larder(words), larder(group));
        assert_eq!((bare.code, bare.out.as_str(), &bare.err), (2, "", &asked.out), "{words:?}");
    }
}

#[test]
fn check_shows_what_is_in_force_and_where_it_came_from() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    std::fs::write(folder.path().join("l.toml"), "[server]\n\nworkers = 7\n").expect("a file for the test");
    let environment = [("LARDER_LOG", "warn")];
    let ran = larder_in(folder.path(), &environment, &["check", "--config", "l.toml", "--cache-size", "3MiB"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let row = |name: &str| {
        let line = ran.out.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    assert_eq!(row("server.workers"), "7 l.toml:3");
    assert_eq!(row("log.level"), "\"warn\" environment LARDER_LOG");
    assert_eq!(row("cache.size"), "\"3MiB\" flag --cache-size");
    assert_eq!(row("store.durability"), "\"sync\" default");
    assert!(ran.out.contains("for trusted networks") && ran.out.contains("server.engine = \"epoll\""), "{}", ran.out);
    let epoll = larder(&["check", "--engine", "epoll"]);
    assert!(!epoll.out.contains("trusted networks"), "{}", epoll.out);
}

#[test]
fn what_cannot_be_in_force_stops_check_and_serve_with_78() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    std::fs::write(folder.path().join("bad.toml"), "[server]\nlistn = \"x\"\n").expect("a file for the test");
    for (environment, words, part) in [
        (
            &[][..],
            &["--config", "bad.toml"][..],
            "bad.toml:2: `server.listn` is not a setting; did you mean `server.listen`?",
        ),
        (&[], &["--config", "none.toml"], "cannot read the configuration file none.toml"),
        (&[("LARDER_CONFIG", "none.toml")], &[], "cannot read the configuration file none.toml"),
        (&[("LARDER_LISTN", "x")], &[], "did you mean `LARDER_LISTEN`?"),
        (
            &[("LARDER_SERVER_WORKERS", "many")],
            &[],
            "environment LARDER_SERVER_WORKERS: server.workers: expected a whole number",
        ),
        (&[], &["--workers", "0"], "flag --workers: server.workers: 0 is outside of 1 to 1024"),
        (&[], &["--listen", "unix:/tmp/x.sock"], "tiny_http has TCP only"),
        (&[], &["--listen", "0.0.0.0:0"], "larder token add"),
        (&[], &["--listen", "[::]:0"], "auth.mode = \"open\""),
        (&[("LARDER_AUTH_TOKENS_FILE", "none.jsonl")], &[], "does not exist"),
    ] {
        for command in ["check", "serve"] {
            let all: Vec<&str> = [command].iter().chain(words).copied().collect();
            let ran = larder_in(folder.path(), environment, &all);
            assert_eq!((ran.code, ran.out.as_str()), (78, ""), "{all:?}: {}", ran.err);
            assert!(ran.err.contains(part), "{all:?}: {}", ran.err);
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder is there").collect();
    assert_eq!(left.len(), 1, "a refused start leaves nothing behind: {left:?}");
}

#[test]
fn the_network_is_open_to_larder_once_there_is_a_token_or_it_was_chosen() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let check = |environment| larder_in(folder.path(), environment, &["check", "--listen", "0.0.0.0:0"]).code;
    assert_eq!(check(&[]), 78);
    assert_eq!(check(&[("LARDER_AUTH_MODE", "open")]), 0);
    assert_eq!(larder_in(folder.path(), &[], &["token", "add", "pi", "--scope", "read"]).code, 0);
    assert_eq!(check(&[]), 0);
    assert_eq!(larder_in(folder.path(), &[], &["token", "rm", "pi"]).code, 0);
    assert_eq!(check(&[]), 78);
}

#[test]
fn a_token_is_shown_once_and_kept_as_a_hash() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let run = |words: &[&str]| larder_in(folder.path(), &[("LARDER_DATA_DIR", "data")], words);
    let added = run(&["token", "add", "sensor", "--scope", "write", "--namespace", "home", "--expires", "90d"]);
    assert_eq!(added.code, 0, "{}", added.err);
    let text = added.out.trim_end();
    assert!(text.starts_with("ldr_") && !text.contains(char::is_whitespace), "{text}");
    let kept = std::fs::read_to_string(folder.path().join("data/tokens.jsonl")).expect("the file is there");
    // The secret may hold underscores itself: it is all that follows the id.
    let secret = text.splitn(3, '_').last().filter(|secret| secret.len() == 43).expect("ldr_<id>_<secret>");
    assert!(!kept.contains(secret), "{kept}");
    let listed = run(&["token", "ls"]);
    assert!(
        listed.out.contains("sensor") && listed.out.contains("write") && !listed.out.contains(secret),
        "{}",
        listed.out
    );
    assert_eq!(run(&["token", "add", "sensor", "--scope", "read"]).code, 1);
    assert_eq!(run(&["token", "rm", "nobody"]).code, 3);
    assert_eq!(run(&["token", "rm", "sensor"]).code, 0);
    assert_eq!(run(&["token", "ls", "--json"]).out, "[]\n");
}

#[test]
fn bash_completes_commands_options_and_choices() {
    let script = larder(&["completions", "bash"]);
    assert_eq!(script.code, 0, "{}", script.err);
    let complete = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let count = words.len() - 1;
        let line = format!(
            "{}\nCOMP_WORDS=({}); COMP_CWORD={count}; _larder; printf '%s ' \"${{COMPREPLY[@]}}\"",
            script.out,
            words.join(" ")
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().expect("bash");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    assert_eq!(complete(&["larder", "s"]), "serve");
    assert_eq!(complete(&["larder", "serve", "--engine", ""]), "tiny_http epoll");
    assert_eq!(complete(&["larder", "serve", "--l"]), "--listen");
    assert_eq!(complete(&["larder", "token", "a"]), "add");
    assert_eq!(complete(&["larder", "token", "add", "x", "--scope", "w"]), "write");
    assert_eq!(complete(&["larder", "completions", ""]), "bash zsh fish --help");
    assert_eq!(larder(&["completions", "tcsh"]).code, 2);
}

#[test]
fn the_manual_page_names_every_command() {
    let page = larder(&["man"]);
    assert_eq!(page.code, 0, "{}", page.err);
    assert!(page.out.starts_with(".TH LARDER 1"), "{}", page.out);
    for command in
        ["serve", "check", "token add", "get", "put", "del", "ls", "incr", "export", "import", "backup", "restore"]
    {
        assert!(page.out.contains(&format!(".SS larder {command}\n")), "{command}");
    }
}
