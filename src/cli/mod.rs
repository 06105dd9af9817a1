//! The command line: one table of commands, one function a command, and the exit codes.
//!
//! Data goes to stdout, everything else to stderr. Not here: what a server does once it is configured (`app`).

pub mod backup;
pub mod bench;
pub mod clean;
pub mod client;
pub mod commands;
pub mod completions;
pub mod exit;
pub mod frames;
pub mod help;
pub mod list;
pub mod man;
pub mod output;
pub mod page;
pub mod parse;
pub mod path;
pub mod progress;
pub mod proof;
pub mod secret;
pub mod server;
pub mod token;
pub mod transfer;
pub mod unfinished;
pub mod unit;
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
        return print(&help::render(&invocation.path));
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
        "larder man" => print(&man::render()),
        "larder version" => version(),
        "larder" if invocation.has("version") => version(),
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

fn version() -> Result<ExitCode, Failure> {
    let commit = crate::board::process::COMMIT;
    let comma = if commit.is_empty() { "" } else { ", " };
    print(&format!("larder {} ({commit}{comma}{}, fjall {FJALL})\n", env!("CARGO_PKG_VERSION"), target()))
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    say(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes text for people to stdout, to the last byte: what did not arrive there is a failure, whoever was to read it.
pub fn say(text: &str) -> Result<(), Failure> {
    write_out(&clean::text(text))
}

/// Writes one JSON document as a line to stdout.
pub fn say_json(document: &serde_json::Value) -> Result<(), Failure> {
    write_out(&json_line(document))
}

/// A document as its line.
pub fn json_line(document: &serde_json::Value) -> String {
    format!("{}\n", clean::json(&document.to_string()))
}

fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output::wrote)
}

/// Writes a line to stderr, which may be gone.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "larder: {}", clean::line(line));
}
