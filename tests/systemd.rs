//! The files of `systemd/`: what systemd itself says of them, and that they agree with the program.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
/// Exposure as `systemd-analyze security` counts it, in tenths: 0 is none, 100 is all. Above 20 it is no longer "OK".
const EXPOSURE_MAX: u32 = 12;

/// The output of a tool, or `None` where it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            support::skipped(&format!("{tool} is not installed"));
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The units in a folder of their own, the service starting the program under test where the installed one would be.
fn units(folder: &Path) -> Vec<PathBuf> {
    let copy = |name: &str| {
        let unit = std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, unit.replace("/usr/local/bin/larder", env!("CARGO_BIN_EXE_larder"))).unwrap();
        path
    };
    ["larder.service", "larder.socket"].map(copy).to_vec()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let units = units(folder.path());
    let mut arguments = vec!["verify", "--man=no"];
    arguments.extend(units.iter().map(|path| path.to_str().unwrap()));
    let Some(output) = run("systemd-analyze", &arguments) else { return };
    // Only what is said of ours counts: it also looks at the units of this machine that ours name.
    let said: Vec<String> = text(&output).lines().filter(|line| line.contains("larder")).map(str::to_owned).collect();
    assert_eq!(said, Vec::<String>::new());
}

#[test]
fn the_service_exposes_little() {
    let folder = tempfile::tempdir().unwrap();
    let unit = units(folder.path()).swap_remove(0);
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold, unit.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &arguments) else { return };
    let said = text(&output);
    assert!(said.contains("Overall exposure level"), "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_scripts_are_good_shell() {
    let scripts = [
        "systemd/build-for.sh",
        "systemd/deploy.sh",
        "systemd/board.sh",
        "tests/tools/test-32.sh",
        "tests/board/run.sh",
        "tests/board/arm.sh",
    ];
    for script in scripts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let shell = if script.starts_with("tests/board") { "bash" } else { "sh" };
        let output = run(shell, &["-n", path.to_str().unwrap()]).unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
        assert!(
            std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o111 != 0,
            "{script}"
        );
    }
}

#[test]
fn exit_codes_that_no_restart_helps_are_those_of_the_program() {
    let unit = std::fs::read_to_string(Path::new(FOLDER).join("larder.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
    let listed: Vec<i32> = line.split(' ').map(|code| code.parse().unwrap()).collect();
    let exit = |arguments: &[&str]| run(env!("CARGO_BIN_EXE_larder"), arguments).unwrap().status.code().unwrap();
    assert_eq!(listed, [exit(&["serve", "--no-such-flag"]), exit(&["serve", "--config", "/no/such/file"])]);
}

/// Runs `deploy.sh` with an `ssh` that notes its calls in a file and says that it is a board of some kind.
fn deploy(folder: &Path, action: &str, environment: &[(&str, &str)], machine: &str) -> (String, String) {
    let facts = format!("fact machine {machine}\nfact bits 64\nfact systemd yes\nfact root direct");
    let calls = folder.join("calls");
    std::fs::write(&calls, "").unwrap();
    // The end of its connection is no call.
    let body = format!(
        "case \"$*\" in *'-O exit'*) exit ;; esac\ncat >/dev/null\necho call >>'{}'\necho '{facts}'",
        calls.display()
    );
    script(folder, "ssh", &body);
    let mut command = Command::new(format!("{FOLDER}/deploy.sh"));
    command.arg(action).env_remove("BIN").env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    let output = command.envs(environment.iter().copied()).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{environment:?}: {}", text(&output));
    (text(&output), std::fs::read_to_string(calls).unwrap())
}

#[test]
fn a_deploy_looks_at_all_that_was_asked_for_before_it_touches_anything() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let empty = folder.path().join("empty").display().to_string();
    for (name, value, part) in [
        ("HOST", "", "HOST=user@board"),
        ("HOST", "-oProxyCommand=x", "HOST is user@board, not an option"),
        ("HOST", "pi@board; reboot", "HOST is user@board or what your ssh calls it"),
        ("HOST", "it's", "HOST is user@board or what your ssh calls it"),
        ("HOST", "pi@board\n", "HOST is user@board or what your ssh calls it"),
        ("ENGINE", "nginx", "ENGINE is tiny_http or epoll"),
        ("ENGINE", "Epoll", "ENGINE is tiny_http or epoll"),
        ("TUNE", "yes", "TUNE is 1"),
        ("TUNE", "'; reboot; '", "TUNE is 1"),
        ("TUNE", "11", "TUNE is 1"),
        ("WAIT", "long", "WAIT is a number of seconds"),
        ("WAIT", "0", "WAIT is a number of seconds from 1 to 3600"),
        ("WAIT", "2m", "WAIT is a number"),
        ("WAIT", "08", "WAIT is a number"),
        ("PORT", "022", "PORT is a port"),
        ("WAIT", "-5", "WAIT is a number"),
        ("WAIT", "99999999999999999999", "WAIT is a number"),
        ("PORT", "ssh", "PORT is a port"),
        ("PORT", "0", "PORT is a port from 1 to 65535"),
        ("PORT", "65536", "PORT is a port"),
        ("PORT", "22 -v", "PORT is a port"),
        ("BIN", "/no/such/larder", "there is no file /no/such/larder"),
        ("BIN", "/tmp", "there is no file /tmp"),
        ("BIN", &empty, "is empty"),
    ] {
        let (said, calls) = deploy(folder.path(), "deploy", &[("HOST", "board"), (name, value)], "x86_64");
        assert!(said.contains(part), "{name}={value}: {said}");
        assert_eq!(calls, "", "{name}={value}");
    }
    for action in ["rolback", "Deploy", "--help"] {
        let (said, calls) = deploy(folder.path(), action, &[("HOST", "board")], "x86_64");
        assert!(said.contains("deploy or rollback, not") && calls.is_empty(), "{action}: {said}");
    }
}

/// The first 20 bytes of a program for a machine.
fn head_of_a_program(machine: u16, big_endian: bool) -> Vec<u8> {
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    head[5] = if big_endian { 2 } else { 1 };
    head.extend(if big_endian { machine.to_be_bytes() } else { machine.to_le_bytes() });
    head
}

#[test]
fn a_program_for_another_machine_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larder");
    let bin = path.display().to_string();
    // 62 is x86-64, 3 i386, 183 aarch64, 40 ARM, 243 RISC-V, 8 MIPS.
    for (machine, program, big_endian, fits) in [
        ("x86_64", 62, false, true),
        ("x86_64", 3, false, true),
        ("x86_64", 183, false, false),
        ("aarch64", 183, false, true),
        ("aarch64", 40, false, true),
        ("aarch64", 62, false, false),
        ("armv7l", 40, false, true),
        ("armv7l", 183, false, false),
        ("armv7l", 40, true, true),
        ("armv7l", 62, true, false),
        ("riscv64", 62, false, false),
        // Of a machine that is not known here the board itself says whether it runs.
        ("loongarch64", 8, false, true),
    ] {
        std::fs::write(&path, head_of_a_program(program, big_endian)).unwrap();
        let (said, calls) = deploy(folder.path(), "deploy", &[("HOST", "board"), ("BIN", &bin)], machine);
        assert_eq!(said.contains("for another kind of machine"), !fits, "{machine} {program}: {said}");
        assert_eq!(calls.lines().count() > 1, fits, "{machine} {program}: asked once, and copied if it fits");
    }
}

#[test]
fn a_board_that_does_not_answer_is_named() {
    // Port 1 of this machine refuses.
    let mut command = Command::new(format!("{FOLDER}/deploy.sh"));
    let output = command.arg("rollback").envs([("HOST", "127.0.0.1"), ("PORT", "1")]).output().unwrap();
    assert!(text(&output).contains("cannot reach 127.0.0.1 on port 1"), "{}", text(&output));
}

#[test]
fn the_socket_that_the_help_names_lies_where_the_service_may_make_it() {
    let unit = std::fs::read_to_string(Path::new(FOLDER).join("larder.service")).unwrap();
    let folder = unit.lines().find_map(|line| line.strip_prefix("RuntimeDirectory=")).unwrap();
    let index = larder::config::settings::find("server", "listen").unwrap();
    let help = larder::config::settings::SETTINGS[index].help;
    assert!(help.contains(&format!("unix:/run/{folder}/larder.sock")), "{help}");
}

/// A `systemctl` that shows a service with settings of its own, in a folder for `PATH`.
fn systemctl_that_shows(folder: &Path, properties: &str) -> String {
    let shown = folder.join("shown");
    std::fs::write(&shown, properties).unwrap();
    script(folder, "systemctl", &format!("[ \"$1 $2\" = 'show larder.service' ] && cat '{}'", shown.display()));
    format!("{}:/usr/bin:/bin", folder.display())
}

fn script(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn check_and_token_see_what_systemd_gives_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let file = folder.path().join("environment");
    std::fs::write(&file, "# of the board\nLARDER_SERVER_WORKERS='7'\n").unwrap();
    let path = systemctl_that_shows(
        folder.path(),
        &format!(
            "LoadState=loaded\nEnvironment=MALLOC_ARENA_MAX=1 LARDER_SERVER_ENGINE=epoll \"LARDER_STORE_DIR={}\"\n\
             EnvironmentFiles={} (ignore_errors=no)\nExecStart={{ path=/x ; argv[]=/x serve --listen \
             unix:/run/larder/larder.sock ; ignore_errors=no ; pid=0 }}\n",
            data.display(),
            file.display()
        ),
    );
    let ran = |environment: &[(&str, &str)], words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(words).current_dir(folder.path()).env_clear().env("PATH", &path);
        text(&command.envs(environment.iter().copied()).output().unwrap())
    };
    // A Unix socket is for epoll only: without the environment this would be refused.
    let said = ran(&[], &["check"]);
    for part in ["unit: larder.service", "environment LARDER_SERVER_ENGINE", "environment LARDER_SERVER_WORKERS"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("unix:/run/larder/larder.sock") && said.contains("the configuration is good"), "{said}");
    // What is said on the spot is stronger; who names a file or a folder means that alone.
    assert!(ran(&[("LARDER_SERVER_WORKERS", "9")], &["check"]).contains("environment LARDER_SERVER_WORKERS"));
    assert!(ran(&[], &["check", "--workers", "3"]).contains("flag --workers"));
    std::fs::write(folder.path().join("own.toml"), "").unwrap();
    for (environment, words) in [
        (&[][..], &["check", "--config", "own.toml"][..]),
        (&[("LARDER_CONFIG", "own.toml")], &["check"]),
        (&[], &["check", "--data", "mine"]),
    ] {
        assert!(!ran(environment, words).contains("larder.service"), "{words:?}");
    }
    // The tokens of the service, not those of the folder in which one happens to stand.
    ran(&[], &["token", "add", "phone", "--scope", "read"]);
    assert!(data.join("tokens.jsonl").exists());
    assert!(ran(&[], &["token", "ls"]).contains("phone"));
    assert!(ran(&[], &["token", "rm", "phone"]).contains("phone"));
    ran(&[], &["token", "add", "phone", "--scope", "read", "--data", other.to_str().unwrap()]);
    assert!(other.join("tokens.jsonl").exists());
}

/// The units that the README shows, by name.
fn units_of_the_readme() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = readme.split("```ini\n# /etc/systemd/system/").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.split_once('\n').unwrap()).map(|(name, unit)| (name.to_owned(), unit.to_owned())).collect()
}

#[test]
fn the_timer_of_the_readme_makes_backups_that_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let units = units_of_the_readme();
    assert_eq!(
        units.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["larder-backup.service", "larder-backup.timer"]
    );
    let paths: Vec<PathBuf> = units.iter().map(|(name, _)| folder.path().join(name)).collect();
    for ((_, unit), path) in units.iter().zip(&paths) {
        std::fs::write(path, unit).unwrap();
    }
    let arguments = ["verify", "--man=no", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()];
    if let Some(output) = run("systemd-analyze", &arguments) {
        let said: Vec<String> =
            text(&output).lines().filter(|line| line.contains("larder")).map(str::to_owned).collect();
        assert_eq!(said, Vec::<String>::new());
    }
    // The line itself, as systemd would hand it to the shell; twice, since a week later the file is there.
    let line = units[0].1.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '")).unwrap();
    let line = line.trim_end_matches('\'').replace("$$", "$").replace("%%", "%");
    let line = line.replace("/mnt/stick", folder.path().to_str().unwrap());
    let program = env!("CARGO_BIN_EXE_larder");
    let line = line.replace("larder backup", &format!("{program} backup"));
    let server = support::Server::builder().start();
    server.put("/api/v1/kv/home/notes/first", b"saved");
    for _ in 0..2 {
        let output = run("env", &[&format!("LARDER_URL={}", server.url()), "sh", "-c", &line]).unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    let files: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let backups: Vec<&PathBuf> =
        files.iter().filter(|path| path.extension().is_some_and(|end| end == "backup")).collect();
    assert_eq!(backups.len(), 1, "{files:?}");
    let output = run(program, &["restore", "--check", backups[0].to_str().unwrap()]).unwrap();
    assert!(output.status.success() && text(&output).contains('1'), "{}", text(&output));
}
