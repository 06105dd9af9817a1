//! What systemd gives `larder.service`, for the commands that an owner types on a board: `larder check` and
//! `larder token` should see the settings of the service, of which a drop-in or an environment file may hold some.
//!
//! Not here: what is in force with the unit that runs since before a change; systemd tells what the next start gets.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::complain;

/// The unit that deploys install.
pub const NAME: &str = "larder.service";

const PROPERTIES: &str = "LoadState,Environment,EnvironmentFiles,UnsetEnvironment,StateDirectory,ExecStart";

/// What larder would be started with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its environment, as far as it is written down.
    pub environment: Vec<(OsString, OsString)>,
    /// The words behind `larder serve`.
    pub words: Vec<OsString>,
}

/// Asks systemd; `None` where there is no systemd, or no such unit.
pub fn read() -> Option<Unit> {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["show", NAME, "--no-pager", "-p", PROPERTIES]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = systemctl.output().ok().filter(|output| output.status.success())?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Reads what `systemctl show` prints. Files are stronger than `Environment=`, later ones than earlier ones.
fn parse(shown: &str) -> Option<Unit> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let (mut loaded, mut words, mut unset) = (false, Vec::new(), Vec::new());
    for line in shown.lines() {
        let Some((property, value)) = line.split_once('=') else { continue };
        match property {
            "LoadState" => loaded = value == "loaded",
            "Environment" => {
                pairs.splice(0..0, split(value, true).iter().filter_map(|pair| pair_of(pair))).for_each(drop)
            }
            "EnvironmentFiles" => pairs.extend(file(value)),
            "UnsetEnvironment" => unset = split(value, true),
            // A folder of the state may be named twice, `name:other`.
            "StateDirectory" if !value.is_empty() => {
                let first = value.split([' ', ':']).next().unwrap_or_default();
                pairs.push(("STATE_DIRECTORY".to_owned(), format!("/var/lib/{first}")));
            }
            "ExecStart" => words = behind_serve(value),
            _ => {}
        }
    }
    let unwanted =
        |(name, value): &(String, String)| unset.contains(name) || unset.contains(&format!("{name}={value}"));
    pairs.retain(|pair| !unwanted(pair));
    let mut environment: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in pairs {
        environment.retain(|(earlier, _)| *earlier != *name);
        environment.push((name.into(), value.into()));
    }
    loaded.then_some(Unit { environment, words })
}

/// `{ path=… ; argv[]=/usr/local/bin/larder serve --engine epoll ; ignore_errors=no ; … }`
fn behind_serve(value: &str) -> Vec<OsString> {
    let line = value.split_once("argv[]=").map_or("", |(_, rest)| rest.split(" ; ").next().unwrap_or_default());
    line.split_whitespace().skip_while(|word| *word != "serve").skip(1).map(OsString::from).collect()
}

/// The variables of one `EnvironmentFile=`, shown as `/etc/default/larder (ignore_errors=yes)`.
fn file(shown: &str) -> Vec<(String, String)> {
    let path = Path::new(shown.rsplit_once(" (").map_or(shown, |(path, _)| path));
    match std::fs::read_to_string(path) {
        Ok(text) => variables(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            complain(&format!("{NAME} also reads {}, which does not count here: {error}", path.display()));
            Vec::new()
        }
    }
}

fn variables(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", "");
    let lines = joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let unquoted = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), split(value.trim(), false).concat()))
    };
    lines.filter_map(unquoted).collect()
}

fn pair_of(text: &str) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Takes quotes and backslashes away as systemd and shells do, and parts the text at white space outside of quotes if
/// that is asked for.
fn split(text: &str, at_spaces: bool) -> Vec<String> {
    let (mut words, mut word, mut within) = (Vec::new(), None::<String>, None::<char>);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (within, letter) {
            (None, ' ' | '\t') if at_spaces => words.extend(word.take()),
            (None, '"' | '\'') => {
                within = Some(letter);
                word.get_or_insert_default();
            }
            (Some(quote), _) if letter == quote => within = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(shown: &str) -> Vec<(String, String)> {
        let unit = parse(&format!("LoadState=loaded\n{shown}")).unwrap_or_default();
        let text = |text: OsString| text.into_string().unwrap_or_default();
        unit.environment.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// As systemd 252 shows them.
    #[test]
    fn the_quotes_of_systemctl_are_taken_away() {
        for (shown, name, value) in [
            ("Environment=A=b LARDER_SERVER_ENGINE=epoll", "LARDER_SERVER_ENGINE", "epoll"),
            ("Environment=\"A=b c\" B=d", "A", "b c"),
            ("Environment=\"C=q\\\"uo\"", "C", "q\"uo"),
            ("Environment=\"D=a\\\\b\" \"E=it's \\$x\"", "E", "it's $x"),
            ("Environment=A=1 A=2", "A", "2"),
            ("StateDirectory=larder other", "STATE_DIRECTORY", "/var/lib/larder"),
        ] {
            let found = environment(shown).into_iter().find(|(found, _)| found == name);
            assert_eq!(found.map(|(_, value)| value).as_deref(), Some(value), "{shown}");
        }
        assert_eq!(environment("Environment=A=1 B=2\nUnsetEnvironment=A B=3").len(), 1);
        assert_eq!(parse("LoadState=not-found\nEnvironment=A=1\n"), None);
    }

    #[test]
    fn files_of_variables_are_read_as_systemd_reads_them_and_are_stronger() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("larder");
        std::fs::write(&path, "# no\n; no\nA=file\nB=two words\n C = 'x y'z\nD=\"q\\\"\"\nE=a\\\nb\nnothing\n")
            .unwrap();
        let shown = format!(
            "EnvironmentFiles=/no/such (ignore_errors=yes)\nEnvironmentFiles={} (ignore_errors=no)\nEnvironment=A=unit F=6",
            path.display()
        );
        let found = environment(&shown);
        let expected = [("F", "6"), ("A", "file"), ("B", "two words"), ("C", "x yz"), ("D", "q\""), ("E", "ab")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_words_of_the_command_line_are_those_behind_serve() {
        let shown = "ExecStart={ path=/usr/local/bin/larder ; argv[]=/usr/local/bin/larder serve --engine epoll ; \
                     ignore_errors=no ; start_time=[n/a] ; pid=0 }";
        assert_eq!(behind_serve(shown), ["--engine", "epoll"]);
        assert_eq!(behind_serve("{ path=/bin/sleep ; argv[]=/bin/sleep 3 ; pid=0 }"), Vec::<OsString>::new());
        assert_eq!(behind_serve(""), Vec::<OsString>::new());
    }
}
