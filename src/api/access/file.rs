//! The tokens file: JSON Lines, one token a line, mode 0600, replaced as a whole.
//!
//! Invariant: a reader sees the old file or the new one, never a part; after [`change`] returned, the new one is on
//! the card.
//!
//! SECURITY: without any token this machine is served, so a file that something has emptied must not pass for one whose
//! tokens were all removed. Removing the last one leaves the line [`NONE_LEFT`]. An empty file is damage where tokens have
//! been kept by a release that does so, of which [`KEPT_NOTE`] beside it tells: earlier ones left an empty file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::token::Token;
use crate::board::folder::{self, make_private, user};
use crate::config::settings::is_name;
use crate::config::{ConfigError, Source};
use crate::http::json;

/// More than anyone needs on one board; a longer file is a mistake, and would be held in memory.
pub const TOKENS_MAX: usize = 10_000;

/// All that stands in the file after its last token was removed.
const NONE_LEFT: &str = "{\"tokens\":0}";
/// What the name of the note beside the file ends with.
const KEPT_NOTE: &str = ".kept";
/// The same for the file that takes its place.
const TEMPORARY: &str = ".new";
const KEPT_TEXT: &str = "larder keeps tokens in the file of this name without .kept: if that is empty it is damaged.\n";

/// What is in the file.
#[derive(Debug, PartialEq)]
pub enum Kept {
    /// There is no file.
    NoFile,
    /// These; none if the last one was removed.
    Tokens(Vec<Token>),
    /// It is empty, and nothing says that it may be.
    Emptied,
}

impl Kept {
    /// The tokens; `None` if there is no file. `had`: there were some a moment ago.
    pub fn tokens(self, path: &Path, had: bool) -> Result<Option<Vec<Token>>, ConfigError> {
        match self {
            Kept::NoFile => {
                if beside(path, KEPT_NOTE).exists() {
                    log::warn!(
                        "there have been tokens in {}, and now there is no such file: without tokens everyone on this machine is let in",
                        path.display()
                    );
                }
                Ok(None)
            }
            Kept::Tokens(tokens) => Ok(Some(tokens)),
            // Of an earlier release, that had none.
            Kept::Emptied if !had && !beside(path, KEPT_NOTE).exists() => Ok(Some(Vec::new())),
            Kept::Emptied => {
                let path = path.display();
                let message = format!(
                    "the tokens file {path} has been emptied, and not by `larder token rm`: put it back from a copy, or remove it and make new tokens"
                );
                Err(ConfigError { source: None, message })
            }
        }
    }
}

/// Reads the tokens; `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<Vec<Token>>, ConfigError> {
    look(path)?.tokens(path, false)
}

/// Reads the file.
pub fn look(path: &Path) -> Result<Kept, ConfigError> {
    let fail = |message: String| ConfigError { source: None, message };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // SECURITY: a link into what is not mounted yet must not open the store.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            return Err(fail(format!("the tokens file {} is a link that leads to nothing", path.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::NoFile),
        Err(error) => {
            return Err(fail(format!("cannot read the tokens in {} as {}: {error}", path.display(), user())));
        }
    };
    // Some editors begin a file with it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let meta = fs::metadata(path).map_err(|error| fail(format!("cannot look at {}: {error}", path.display())))?;
    // SECURITY: who can write this file can let himself in; who can read it learns names and hashes.
    if meta.mode() & 0o037 != 0 {
        let (path, mode) = (path.display(), meta.mode() & 0o777);
        return Err(fail(format!("{path} has mode {mode:04o}, open to others: chmod 0600 {path}")));
    }
    // Zeros are what a power cut may leave of a file.
    match text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0') {
        "" => return Ok(Kept::Emptied),
        NONE_LEFT => return Ok(Kept::Tokens(Vec::new())),
        _ => {}
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let source = Source::File(path.to_owned(), index + 1);
        let token: Token =
            json::object(line.as_bytes()).map_err(|error| ConfigError::at(&source, format!("no token: {error}")))?;
        check(&token, &tokens).map_err(|message| ConfigError::at(&source, message))?;
        tokens.push(token);
    }
    Ok(Kept::Tokens(tokens))
}

/// Whether a token can stand beside others.
pub fn check(token: &Token, others: &[Token]) -> Result<(), String> {
    if !is_name(&token.name) {
        return Err(format!(
            "`{}` is no name for a token: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or _",
            token.name
        ));
    }
    if let Some(bad) = token.namespaces.iter().find(|namespace| !is_name(namespace)) {
        return Err(format!("`{bad}` cannot be the name of a namespace"));
    }
    if let Some(twin) = others.iter().find(|other| other.name == token.name || other.id == token.id) {
        return Err(format!("there is a token `{}` already ({})", twin.name, twin.id));
    }
    if others.len() >= TOKENS_MAX {
        return Err(format!("there are {TOKENS_MAX} tokens already, and no room for more"));
    }
    Ok(())
}

/// Changes the file under a lock: nobody else's change is lost. The closure gets the tokens as they are.
pub fn change<T>(path: &Path, edit: impl FnOnce(&mut Vec<Token>) -> Result<T, String>) -> Result<T, String> {
    let folder = folder_of(path);
    let shown = |what: &str, error: io::Error| format!("cannot {what} {}: {error}", folder.display());
    folder::look(folder).map_err(|obstacle| obstacle.to_string())?;
    make_private(folder).map_err(|error| shown("make the folder", error))?;
    let locked = File::open(folder).map_err(|error| shown("open", error))?;
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| shown("lock", error.into()))?;
    let mut tokens = read(path).map_err(|error| error.to_string())?.unwrap_or_default();
    let result = edit(&mut tokens)?;
    note_kept(path)
        .and_then(|()| replace(path, &tokens))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    locked.sync_all().map_err(|error| shown("sync", error))?;
    Ok(result)
}

/// Makes the note that an empty file would be damage from now on.
pub fn note_kept(path: &Path) -> io::Result<()> {
    // SECURITY: root makes this in a folder of the service's. Whatever stands there is not followed.
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside(path, KEPT_NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    };
    file.write_all(KEPT_TEXT.as_bytes())?;
    keep_owner(&file, path)?;
    file.sync_all()
}

fn replace(path: &Path, tokens: &[Token]) -> io::Result<()> {
    // A link stays one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut text = String::new();
    if tokens.is_empty() {
        text = format!("{NONE_LEFT}\n");
    }
    for token in tokens {
        text.push_str(&serde_json::to_string(token).map_err(io::Error::other)?);
        text.push('\n');
    }
    let temporary = beside(path, TEMPORARY);
    // A crash may have left one; the lock says that nobody is writing it.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    keep_owner(&file, path)?;
    file.sync_all()?;
    // IMPORTANT: the content is synced before the name points to it.
    fs::rename(&temporary, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// The file, the one that takes its place at a change, and the note.
pub fn names(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), beside(path, TEMPORARY), beside(path, KEPT_NOTE)]
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// A file that root writes must stay readable for the user the server runs as: the owner of the old file, or of the
/// folder.
fn keep_owner(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder_of(path)))?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Scope;
    use std::os::unix::fs::PermissionsExt;

    fn add(path: &Path, name: &str) -> Result<(), String> {
        let (token, _) = Token::generate(name, Scope::Read, Vec::new(), 1)?;
        change(path, |tokens| {
            check(&token, tokens)?;
            tokens.push(token);
            Ok(())
        })
    }

    #[test]
    fn a_line_is_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        add(&path, "one").unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let token: serde_json::Value = serde_json::from_str(&good).unwrap();
        let list: Vec<&serde_json::Value> = token.as_object().unwrap().values().collect();
        let list = serde_json::to_string(&list).unwrap();
        for text in [list.as_str(), "[]", "5", "\"one\"", "null", "{}"] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("no token") && !error.contains("struct"), "{error}");
        }
    }

    #[test]
    fn tokens_are_added_in_a_file_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("tokens.jsonl");
        assert_eq!(read(&path).unwrap(), None);
        add(&path, "one").unwrap();
        add(&path, "two").unwrap();
        assert!(add(&path, "one").is_err());
        assert!(add(&path, "o/ne").is_err());
        let names: Vec<String> = read(&path).unwrap().unwrap().into_iter().map(|token| token.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(!beside(&path, TEMPORARY).exists(), "no temporary file stays");
    }

    #[test]
    fn a_temporary_file_of_a_crash_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        fs::write(beside(&path, TEMPORARY), "half a li").unwrap();
        add(&path, "one").unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_others_may_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        add(&path, "one").unwrap();
        for (mode, good) in
            [(0o600, true), (0o640, true), (0o400, true), (0o644, false), (0o620, false), (0o606, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn a_link_is_followed_stays_one_and_where_it_leads_to_nothing_is_no_lack_of_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, path) = (folder.path().join("elsewhere"), folder.path().join("tokens.jsonl"));
        fs::create_dir(&elsewhere).unwrap();
        let target = elsewhere.join("secret");
        std::os::unix::fs::symlink("elsewhere/secret", &path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("leads to nothing"));
        assert!(add(&path, "one").is_err() && !target.exists());
        fs::write(&target, "").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        add(&path, "one").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(read(&target).unwrap().map(|tokens| tokens.len()), Some(1));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(read(&path).is_err(), "a loop");
    }

    #[test]
    fn an_empty_file_is_damage_unless_the_last_token_was_removed_or_an_earlier_release_left_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        let count = || read(&path).map(|tokens| tokens.map(|tokens| tokens.len())).ok();
        let remove = || {
            change(&path, |tokens| {
                tokens.clear();
                Ok(())
            })
        };
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(count(), Some(Some(0)), "of an earlier release");
        assert!(look(&path).unwrap().tokens(&path, true).is_err(), "but not where there were tokens a moment ago");
        add(&path, "one").unwrap();
        let kept = fs::read(&path).unwrap();
        for emptied in ["", "\n", " \r\n\n", "\u{feff}", "\0\0\0\0", "\0\n\0"] {
            fs::write(&path, emptied).unwrap();
            assert_eq!(count(), None, "{emptied:?}");
            assert!(add(&path, "two").is_err() && remove().is_err(), "{emptied:?}");
        }
        // As from a copy.
        fs::write(&path, &kept).unwrap();
        assert_eq!(count(), Some(Some(1)));
        remove().unwrap();
        assert_eq!(count(), Some(Some(0)));
        let none_left = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(count(), None);
        fs::write(&path, none_left).unwrap();
        add(&path, "two").unwrap();
        assert_eq!(count(), Some(Some(1)));
        fs::remove_file(&path).unwrap();
        assert_eq!(count(), Some(None));
        add(&path, "three").unwrap();
        assert_eq!(count(), Some(Some(1)));
    }

    #[test]
    fn a_mark_of_the_byte_order_is_passed_over_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        add(&path, "one").unwrap();
        let line = fs::read_to_string(&path).unwrap();
        for (text, good) in [
            (format!("\u{feff}{line}"), true),
            (format!("\u{feff}{NONE_LEFT}"), true),
            (format!("{line}\u{feff}nonsense"), false),
            (format!("\u{feff}\u{200b}{line}"), false),
            (format!("\u{200b}{line}"), false),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        add(&path, "one").unwrap();
        let line = fs::read_to_string(&path).unwrap();
        for (text, part) in
            [(format!("{line}\nnonsense\n"), ":3: no token"), (format!("{line}{line}"), ":2: there is a token")]
        {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_note_is_made_where_nothing_stands_and_nothing_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aim) = (folder.path().join("tokens.jsonl"), folder.path().join("aim"));
        std::os::unix::fs::symlink(&aim, beside(&path, KEPT_NOTE)).unwrap();
        add(&path, "a").unwrap();
        assert!(!aim.exists() && read(&path).unwrap().unwrap().len() == 1);
    }

    #[test]
    fn changes_at_the_same_time_all_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d", "e", "f"] {
                let path = &path;
                scope.spawn(move || add(path, name).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().unwrap().len(), 6);
    }
}
