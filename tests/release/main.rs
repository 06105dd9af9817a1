//! What only the whole program can show: its memory under load, and what it promises when the card is slow, fails,
//! fills up or loses power. `make test` runs it on optimised code.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod card;
mod fresh;
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
    // Cargo hands on to tests what the build script has set, or was given.
    let built = std::env::var("LARDER_COMMIT").unwrap_or_default();
    let words = ["-c", "safe.directory=*", "rev-parse", "HEAD"];
    let git = std::process::Command::new("git").args(words).current_dir(root).output();
    // Debug builds do not look, so as not to be made anew after every commit.
    let looks = std::path::Path::new(root).join(".git").exists() && support::is_optimised();
    let expected = match git.ok().filter(|git| git.status.success() && looks) {
        Some(git) => {
            let head = String::from_utf8(git.stdout).unwrap();
            if head.starts_with(&built) { head[..12].to_owned() } else { built }
        }
        // Only who builds can know the commit.
        None => built,
    };
    let version = std::process::Command::new(support::binary()).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let comma = if expected.is_empty() { "" } else { ", " };
    let named = format!("({expected}{comma}{}", std::env::consts::ARCH);
    assert!(version.contains(&named), "{version} does not have {named}");
}
