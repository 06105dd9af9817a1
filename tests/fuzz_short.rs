//! Replays the fuzz corpus and runs seeded mutations of it: the same ones each time, so that a failure repeats.
//!
//! `FUZZ_SECONDS=600 cargo test --profile fast --test fuzz_short` goes on with new seeds for ten minutes a target. A
//! coverage-guided run of the same targets is `make fuzz` (see `tests/fuzz/Cargo.toml`).
#![allow(clippy::unwrap_used)]

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use targets::TARGETS;

/// Mutations a target without `FUZZ_SECONDS`.
const MUTATIONS: u64 = 6_000;
/// No input grows past this.
const INPUT_BYTES_MAX: usize = 4096;
/// Bytes at which parsers change their mind.
const MARKS: &[u8] = b"\r\n \t\0:;,=%/\\\"{}[]()<>+-.?*#&019aAfFzZ_~\x7f\x80\xc3\xed\xff";

/// xorshift64*: small, seeded, and good enough to choose with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(6) {
        let at = dice.below(input.len() + 1);
        let len = 1 + dice.below(8);
        let end = (at + len).min(input.len());
        match dice.below(8) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = MARKS[dice.below(MARKS.len())],
            2 => input.insert(at, MARKS[dice.below(MARKS.len())]),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let times = 1 + dice.below(16);
                input.splice(at..at, piece.repeat(times));
            }
            5 => {
                let from = dice.below(other.len() + 1);
                let piece = other[from..(from + 4 * len).min(other.len())].to_vec();
                input.splice(at..end, piece);
            }
            6 => input.truncate(at),
            _ => input.insert(at, dice.roll() as u8),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn try_one(name: &str, run: fn(&[u8]), input: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
        println!("{name} fails on {origin}: {:?}", String::from_utf8_lossy(input));
        println!("as bytes: {input:?}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_parser_keeps_its_promises_on_the_corpus_and_on_what_is_near_it() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let only = std::env::var("FUZZ_TARGET").ok();
    for (name, run) in TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let seeds = corpus(name);
        for (path, input) in &seeds {
            try_one(name, *run, input, path);
        }
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut round = 0;
        while end.map_or(round < MUTATIONS, |end| Instant::now() < end) {
            round += 1;
            let mut dice = Dice(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut input = seeds[dice.below(seeds.len())].1.clone();
            let other = &seeds[dice.below(seeds.len())].1;
            mutate(&mut input, other, &mut dice);
            try_one(name, *run, &input, &format!("seed {round}"));
        }
        println!("{name}: {} files, {round} mutations", seeds.len());
    }
}
