//! The command line: one table of commands, one function a command, and the exit codes.
//!
//! Data goes to stdout, everything else to stderr. Not here: what a server does once it is configured (`app`).

pub mod backup;
pub mod bench;
pub mod client;
pub mod commands;
pub mod completions;
pub mod exit;
pub mod frames;
pub mod help;
pub mod list;
pub mod man;
pub mod output;
pub mod parse;
pub mod path;
pub mod progress;
pub mod server;
pub mod token;
pub mod transfer;
pub mod unix;
pub mod values;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use exit::{Failure, USAGE};
use parse::Invocation;

use crate::board::process::raise_descriptors_max;

/// Runs the command that the words after the program's name ask for.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    raise_descriptors_max();
    match parse::parse(words).and_then(|invocation| dispatch(&invocation)) {
        Ok(code) => code,
        Err(failure) => {
            for line in failure.message.lines() {
                complain(line);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(invocation: &Invocation) -> Result<ExitCode, Failure> {
    if invocation.help {
        say(&help::render(&invocation.path));
        return Ok(ExitCode::SUCCESS);
    }
    match invocation.name().as_str() {
        "larder serve" => server::serve(invocation),
        "larder check" => server::check(invocation),
        "larder token add" => token::add(invocation),
        "larder token ls" => token::list(invocation),
        "larder token rm" => token::remove(invocation),
        "larder get" => values::get(invocation),
        "larder put" => values::put(invocation),
        "larder del" => values::del(invocation),
        "larder incr" => values::incr(invocation),
        "larder ls" => list::ls(invocation),
        "larder export" => transfer::export(invocation),
        "larder import" => transfer::import(invocation),
        "larder backup" => backup::backup(invocation),
        "larder restore" => backup::restore(invocation),
        "larder bench" => bench::bench(invocation),
        "larder completions" => completions::print(invocation),
        "larder man" => Ok(print(&man::render())),
        "larder version" => Ok(version()),
        "larder" if invocation.has("version") => Ok(version()),
        _ => Ok(ask_for_more(invocation)),
    }
}

/// A group of commands by itself asks for nothing: its help goes to stderr, as it is.
fn ask_for_more(invocation: &Invocation) -> ExitCode {
    let _ = std::io::stderr().lock().write_all(help::render(&invocation.path).as_bytes());
    ExitCode::from(USAGE)
}

/// The pinned version of the store below.
const FJALL: &str = "3.1.13";

/// What this program was built for, such as `aarch64-unknown-linux-gnu`.
pub fn target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-{}-{libc}", std::env::consts::ARCH, std::env::consts::OS)
}

fn version() -> ExitCode {
    let commit = crate::board::process::COMMIT;
    let comma = if commit.is_empty() { "" } else { ", " };
    print(&format!("larder {} ({commit}{comma}{}, fjall {FJALL})\n", env!("CARGO_PKG_VERSION"), target()))
}

fn print(text: &str) -> ExitCode {
    say(text);
    ExitCode::SUCCESS
}

/// Writes to stdout. A reader that went away is no failure of ours.
pub fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a line to stderr, which may be gone.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "larder: {line}");
}
