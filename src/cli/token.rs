//! `larder token add|ls|rm`: the tokens file of this machine.
//!
//! SECURITY: a secret is printed once, to stdout, and is never an argument: arguments show in the process list.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;
use serde_json::{Value, json};

use super::exit::{Failure, NOT_FOUND};
use super::parse::{Invocation, usage};
use super::server::{failure, inputs_with_unit};
use super::{complain, say, say_json};
use crate::api::access::{Scope, Token, file};
use crate::config::{AuthMode, load, units};
use crate::store::clock::PLAUSIBLE_MS;

/// Makes a token.
pub fn add(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let name = invocation.operand(0)?.unwrap_or_default();
    let scope = invocation.text("scope")?.and_then(Scope::parse);
    let scope = scope.ok_or_else(|| usage(invocation, "say what the token may do: --scope read|write|admin".into()))?;
    let namespaces: Vec<String> = invocation.texts("namespace")?.into_iter().map(str::to_owned).collect();
    let lifetime = invocation.text("expires")?.map(units::parse_duration).transpose();
    let lifetime = lifetime.map_err(|message| usage(invocation, format!("--expires: {message}")))?;
    let path = tokens_path(invocation)?;

    let created = seconds(SystemTime::now());
    if lifetime.is_some() && created < PLAUSIBLE_MS / 1000 {
        let message =
            "the clock of this machine was never set, so --expires would end at a wrong time: set it, or do without";
        return Err(Failure::plain(message));
    }
    let (mut token, text) = Token::generate(name, scope, namespaces, created).map_err(Failure::plain)?;
    token.expires = lifetime.map(|lifetime| created.saturating_add(lifetime.as_secs()));
    let json = invocation.has("json");
    let mut shown = describe(&token);
    shown["token"] = text.as_str().into();
    let change = |tokens: &mut Vec<Token>| {
        file::check(&token, tokens)?;
        // IMPORTANT: shown before it is kept: no token is in force whose secret nobody has.
        refuse_nowhere()?;
        let said = if json { say_json(&shown) } else { say(&format!("{text}\n")) };
        said.map_err(|failure| format!("{}; no token was made", failure.message))?;
        tokens.push(token.clone());
        Ok(())
    };
    file::change(&path, change).map_err(Failure::plain)?;
    if !json {
        complain("this is the only time the token is shown; a running larder takes it up within seconds");
        complain(&format!("it is kept, as a hash, in {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is written to the null device is seen by nobody; it also stands where stdout was closed.
fn refuse_nowhere() -> Result<(), String> {
    let null = fs::metadata("/dev/null").map(|meta| meta.rdev());
    let is_nowhere = rustix::fs::fstat(std::io::stdout()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && null.is_ok_and(|null| null == stat.st_rdev)
    });
    match is_nowhere {
        true => Err("stdout leads nowhere, and the token is shown only once; no token was made".to_owned()),
        false => Ok(()),
    }
}

/// Lists the tokens.
pub fn list(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let tokens = file::read(&tokens_path(invocation)?).map_err(|error| Failure::plain(error.to_string()))?;
    let tokens = tokens.unwrap_or_default();
    if invocation.has("json") {
        say_json(&Value::Array(tokens.iter().map(describe).collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["NAME", "ID", "SCOPE", "NAMESPACES", "CREATED", "EXPIRES"].map(str::to_owned)];
    for token in &tokens {
        let namespaces = if token.namespaces.is_empty() { "all".to_owned() } else { token.namespaces.join(",") };
        let expires = token.expires.map_or_else(|| "never".to_owned(), date);
        let (name, id) = (token.name.clone(), token.id.clone());
        rows.push([name, id, token.scope.to_string(), namespaces, date(token.created), expires]);
    }
    say(&columns(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes a token by its name or id.
pub fn remove(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let wanted = invocation.operand(0)?.unwrap_or_default();
    let mut left = 0;
    let removed = file::change(&tokens_path(invocation)?, |tokens| {
        let found = tokens.iter().position(|token| token.name == wanted || token.id == wanted);
        let removed = found.map(|index| tokens.remove(index));
        left = tokens.len();
        Ok(removed)
    });
    let Some(token) = removed.map_err(Failure::plain)? else {
        return Err(Failure::new(NOT_FOUND, format!("there is no token `{wanted}`; `larder token ls` lists them")));
    };
    if invocation.has("json") {
        say_json(&describe(&token))?;
    } else {
        complain(&format!("removed {} ({}); a running larder refuses it within seconds", token.name, token.id));
    }
    if left == 0 {
        complain(
            "that was the last token: whoever is on this machine is served without one now, others are not, and larder \
             will not start on a network address until there is a token again",
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the tokens are, by the same configuration that the server reads.
fn tokens_path(invocation: &Invocation) -> Result<PathBuf, Failure> {
    let config = load(&inputs_with_unit(invocation)?).map_err(failure)?.config;
    if config.auth_mode == AuthMode::Open {
        complain("note: auth.mode is \"open\": larder asks nobody for a token");
    }
    Ok(config.tokens_path())
}

fn describe(token: &Token) -> Value {
    json!({
        "id": token.id, "name": token.name, "scope": token.scope.as_str(), "namespaces": token.namespaces,
        "created": token.created, "expires": token.expires,
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `21 Nov 2026`, in UTC.
fn date(seconds: u64) -> String {
    // The formatter knows years of four digits only.
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(250_000_000_000));
    httpdate::fmt_http_date(time)[5..16].to_owned()
}

/// Rows as columns of text.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
