//! How a build learns which commit it is made from, in every form a checkout has.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

#[allow(dead_code)]
#[path = "../src/build.rs"]
mod build;

use build::Head;

const NAME: &str = "0123456789abcdef0123456789abcdef01234567";

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn read(files: &[(&str, &str)]) -> Option<String> {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), files);
    let head = Head::read(root.path())?;
    let missing: Vec<_> = head.watched.iter().filter(|path| !path.exists()).collect();
    assert_eq!(missing, Vec::<&std::path::PathBuf>::new(), "cargo would build every time");
    assert!(head.watched.len() <= 3, "{:?}", head.watched);
    Some(head.commit)
}

#[test]
fn the_commit_is_found_in_every_form_of_checkout() {
    let line = format!("{NAME}\n");
    let packed = format!("# pack-refs with: peeled\n{}\n{NAME} refs/heads/x/y\n", "f".repeat(40) + " refs/heads/x");
    for (form, files) in [
        ("a branch", vec![(".git/HEAD", "ref: refs/heads/main\n"), (".git/refs/heads/main", &line)]),
        ("no branch", vec![(".git/HEAD", &line)]),
        ("a packed branch", vec![(".git/HEAD", "ref: refs/heads/x/y\n"), (".git/packed-refs", &packed)]),
        (
            "a linked worktree",
            vec![
                (".git", "gitdir: main/.git/worktrees/w\n"),
                ("main/.git/worktrees/w/HEAD", "ref: refs/heads/w\n"),
                ("main/.git/worktrees/w/commondir", "../..\n"),
                ("main/.git/refs/heads/w", &line),
            ],
        ),
    ] {
        assert_eq!(read(&files).as_deref(), Some(&NAME[..12]), "{form}");
    }
}

#[test]
fn what_is_no_checkout_has_no_commit_and_is_no_error() {
    for (form, files) in [
        ("an archive", vec![("Cargo.toml", "")]),
        ("a branch without a commit", vec![(".git/HEAD", "ref: refs/heads/main\n")]),
        ("another form of branches", vec![(".git/HEAD", "ref: refs/heads/.invalid\n"), (".git/reftable/x", "")]),
        ("no name", vec![(".git/HEAD", "what is this\n")]),
        ("a broken link", vec![(".git", "gitdir: nowhere\n")]),
    ] {
        assert_eq!(read(&files), None, "{form}");
    }
}
