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
