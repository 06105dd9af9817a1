//! The build script: tells the program which commit it is built from, as `LARDER_COMMIT`, and writes the table of media
//! types for it.
//!
//! The variable of that name in the build's environment wins (packagers build from archives); else the checkout's own
//! files are read, without git. Empty where neither tells. Never a reason for a build to fail.
//!
//! The types are `mime_guess`'s, written as one text: as the list of lists that it is they would take five times the room.
//!
//! NOTE: a debug build does not look: it would be built anew after every commit, for a name that nobody asks it for.

use std::fs;
use std::path::{Path, PathBuf};

/// As many digits as stay unique in any repository of this size.
const DIGITS: usize = 12;

fn main() {
    write_types();
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=LARDER_COMMIT");
    let named = std::env::var("LARDER_COMMIT").ok().filter(|name| !name.trim().is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = named.unwrap_or_else(|| {
        let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|_| is_release);
        let head = root.and_then(|root| Head::read(&root)).unwrap_or_default();
        for path in &head.watched {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        head.commit
    });
    println!("cargo::rustc-env=LARDER_COMMIT={}", commit.lines().next().unwrap_or_default().trim());
}

/// All known extensions with their types: a line each, `extension<TAB>type`, one line feed before the first.
pub fn types() -> String {
    let mut text = String::from("\n");
    for extension in mime_guess::get_extensions("*", "*").into_iter().flatten() {
        if let Some(kind) = mime_guess::from_ext(extension).first_raw() {
            text.push_str(&format!("{}\t{kind}\n", extension.to_ascii_lowercase()));
        }
    }
    text
}

fn write_types() {
    // Without it there is no build: cargo always says where.
    if let Some(folder) = std::env::var_os("OUT_DIR") {
        fs::write(PathBuf::from(folder).join("types.txt"), types()).expect("the build's folder can be written to");
    }
}

/// What is checked out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The beginning of the commit's name.
    pub commit: String,
    /// Files and folders that change when it does. All exist: cargo would build every time for one that does not.
    pub watched: Vec<PathBuf>,
}

impl Head {
    /// Reads the checkout in a folder; `None` if it is none, or of a form that is not known here.
    pub fn read(root: &Path) -> Option<Head> {
        let folder = git_folder(root)?;
        // Linked worktrees share the branches of the first one.
        let shared = match fs::read_to_string(folder.join("commondir")) {
            Ok(path) => folder.join(path.trim()),
            Err(_) => folder.clone(),
        };
        let mut watched = vec![folder.join("HEAD")];
        let head = fs::read_to_string(&watched[0]).ok()?;
        let name = match head.strip_prefix("ref: ") {
            None => head,
            Some(branch) => {
                let branch = branch.trim();
                let loose = shared.join(branch);
                watched.extend(loose.ancestors().find(|path| path.exists()).map(Path::to_owned));
                fs::read_to_string(&loose).ok().or_else(|| packed(&shared, branch, &mut watched))?
            }
        };
        let name = name.trim();
        let is_name = name.len() >= 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| Head { commit: name[..DIGITS].to_owned(), watched })
    }
}

/// `.git`, or where a linked worktree's `.git` file points to.
fn git_folder(root: &Path) -> Option<PathBuf> {
    let path = root.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    let text = fs::read_to_string(path).ok()?;
    Some(root.join(text.strip_prefix("gitdir: ")?.trim()))
}

/// A branch that git has put into its one file of all branches.
fn packed(folder: &Path, branch: &str, watched: &mut Vec<PathBuf>) -> Option<String> {
    let path = folder.join("packed-refs");
    let text = fs::read_to_string(&path).ok()?;
    watched.push(path);
    let line = text.lines().find(|line| line.split(' ').nth(1) == Some(branch))?;
    line.split(' ').next().map(str::to_owned)
}
