//! The simulated SD card as a program: `card BACKING MOUNTPOINT [SYNC_DELAY_MS]`.
//!
//! It says `mounted`, answers each line on its standard input with its figures so far as one line of JSON, and
//! unmounts when its input ends; so it never outlives the program that uses it.
#![allow(missing_docs)]

#[path = "../../tests/support/card/mod.rs"]
#[allow(dead_code, unused_imports)]
mod card;

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use card::{Card, CardOptions};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let delay_ms = arguments.get(2).map_or(Ok(8.0), |text| text.parse::<f64>());
    let ([backing, mountpoint] | [backing, mountpoint, _], Ok(delay_ms)) = (arguments.as_slice(), delay_ms) else {
        eprintln!("usage: card BACKING MOUNTPOINT [SYNC_DELAY_MS]");
        return ExitCode::from(64);
    };
    let options = CardOptions { sync_delay: Duration::from_secs_f64(delay_ms / 1000.0), ..CardOptions::default() };
    let card = match Card::mount_at(Path::new(backing), Path::new(mountpoint), None, options) {
        Ok(card) => card,
        Err(error) => {
            eprintln!("card: no FUSE here: {error}");
            return ExitCode::FAILURE;
        }
    };
    say("mounted");
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let stats = card.stats();
        say(&format!(
            r#"{{"bytes_written": {}, "bytes_to_card": {}, "syncs": {}}}"#,
            stats.bytes_written, stats.bytes_to_card, stats.syncs
        ));
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
