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
    let scripts =
        ["systemd/build-for.sh", "systemd/deploy.sh", "systemd/board.sh", "tests/board/run.sh", "tests/board/arm.sh"];
    for script in scripts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let shell = if script.starts_with("systemd") { "sh" } else { "bash" };
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

#[test]
fn a_deploy_without_a_board_says_what_is_missing_and_touches_nothing() {
    let script = format!("{FOLDER}/deploy.sh");
    for (environment, part) in [
        (&[("HOST", "")][..], "HOST=user@board"),
        (&[("HOST", "x"), ("ENGINE", "nginx")], "ENGINE is tiny_http or epoll"),
        (&[("HOST", "x"), ("WAIT", "long")], "WAIT is a number"),
        // Port 1 of this machine refuses.
        (&[("HOST", "127.0.0.1"), ("PORT", "1")], "cannot reach 127.0.0.1 on port 1"),
    ] {
        let output = Command::new(&script).arg("deploy").envs(environment.iter().copied()).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_socket_that_the_help_names_lies_where_the_service_may_make_it() {
    let unit = std::fs::read_to_string(Path::new(FOLDER).join("larder.service")).unwrap();
    let folder = unit.lines().find_map(|line| line.strip_prefix("RuntimeDirectory=")).unwrap();
    let index = larder::config::settings::find("server", "listen").unwrap();
    let help = larder::config::settings::SETTINGS[index].help;
    assert!(help.contains(&format!("unix:/run/{folder}/larder.sock")), "{help}");
}
