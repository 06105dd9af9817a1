//! The tokens file: JSON Lines, one token a line, mode 0600, replaced as a whole.
//!
//! Invariant: a reader sees the old file or the new one, never a part; after [`change`] returned, the new one is on
//! the card.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::token::Token;
use crate::board::folder::make_private;
use crate::config::settings::is_name;
use crate::config::{ConfigError, Source};
use crate::http::json;

/// More than anyone needs on one board; a longer file is a mistake, and would be held in memory.
pub const TOKENS_MAX: usize = 10_000;

/// Reads the tokens; `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<Vec<Token>>, ConfigError> {
    let fail = |message: String| ConfigError { source: None, message };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(format!("cannot read the tokens in {}: {error}", path.display()))),
    };
    let meta = fs::metadata(path).map_err(|error| fail(format!("cannot look at {}: {error}", path.display())))?;
    // SECURITY: who can write this file can let himself in; who can read it learns names and hashes.
    if meta.mode() & 0o037 != 0 {
        let (path, mode) = (path.display(), meta.mode() & 0o777);
        return Err(fail(format!("{path} has mode {mode:04o}, open to others: chmod 0600 {path}")));
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !json::is_blank(line.as_bytes())) {
        let source = Source::File(path.to_owned(), index + 1);
        let token: Token =
            json::object(line.as_bytes()).map_err(|error| ConfigError::at(&source, format!("no token: {error}")))?;
        check(&token, &tokens).map_err(|message| ConfigError::at(&source, message))?;
        tokens.push(token);
    }
    Ok(Some(tokens))
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
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = |what: &str, error: io::Error| format!("cannot {what} {}: {error}", folder.display());
    make_private(folder).map_err(|error| shown("make the folder", error))?;
    let locked = File::open(folder).map_err(|error| shown("open", error))?;
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| shown("lock", error.into()))?;
    let mut tokens = read(path).map_err(|error| error.to_string())?.unwrap_or_default();
    let result = edit(&mut tokens)?;
    replace(path, &tokens).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    locked.sync_all().map_err(|error| shown("sync", error))?;
    Ok(result)
}

fn replace(path: &Path, tokens: &[Token]) -> io::Result<()> {
    let mut text = String::new();
    for token in tokens {
        text.push_str(&serde_json::to_string(token).map_err(io::Error::other)?);
        text.push('\n');
    }
    let temporary = temporary(path);
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
    fs::rename(&temporary, path)
}

/// The file and the one that takes its place at a change.
pub fn names(path: &Path) -> [PathBuf; 2] {
    [path.to_owned(), temporary(path)]
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// A file that root writes must stay readable for the user the server runs as: the owner of the old file, or of the
/// folder.
fn keep_owner(file: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder))?;
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
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_temporary_file_of_a_crash_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        fs::write(temporary(&path), "half a li").unwrap();
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
