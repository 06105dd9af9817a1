//! What only the whole program can show: its memory under load, and what it promises when the card is slow, fails,
//! fills up or loses power. `make test` runs it on optimised code.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod card;
mod memory;
mod together;

/// What a board with 512 MB has by default, whatever this machine has.
const BOARD: &str = "[cache]\nsize = \"16MiB\"\n[store]\nblock_cache = \"4MiB\"\nmemtable = \"4MiB\"\n";

/// A value as JSON text that does not compress to nothing.
fn value_text(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(length + 13);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(length);
    text
}

#[test]
fn the_program_names_the_commit_it_was_built_from() {
    let root = env!("CARGO_MANIFEST_DIR");
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output();
    let Some(git) = git.ok().filter(|git| git.status.success()) else {
        return support::skipped("this is no checkout");
    };
    let commit = String::from_utf8(git.stdout).unwrap();
    // Cargo hands on to tests what the build script has set, so it is there also when nobody gave it.
    if std::env::var("LARDER_COMMIT").is_ok_and(|built| !commit.starts_with(&built)) {
        return support::skipped("the build was told another commit");
    }
    let version = std::process::Command::new(env!("CARGO_BIN_EXE_larder")).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains(&format!(" ({}, ", &commit[..12])), "{version}");
}
