//! `larder get`, `put`, `del`, `incr`: one value.

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Client, Payload, copy};
use super::exit::{FAILED, Failure, NOT_FOUND};
use super::output::{Output, open_input, wrote};
use super::parse::{Invocation, usage};
use super::path::{Place, value_target, with_query};
use super::{complain, json_line, say_json};
use crate::config::units::parse_duration;

/// So many requests in a row may wait in vain for their turn to remove.
const FRUITLESS_MAX: u32 = 5;

/// Reads a value.
pub fn get(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let target = value_target(invocation)?;
    let client = Client::new(invocation)?;
    let name = invocation.text("output")?.unwrap_or("-");
    let mut output;
    if invocation.has("json") {
        let line = json_line(&described(invocation, &client)?);
        output = Output::open(name)?;
        output.write_all(line.as_bytes()).map_err(wrote)?;
    } else {
        let reply = client.send(Method::GET, &target, &[], Payload::None)?;
        output = Output::open(name)?;
        copy(&mut reply.into_reader(), &mut output, |_| {})?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The value as `larder ls --json --values` shows it: asked of the list, so that both come from one place.
fn described(invocation: &Invocation, client: &Client) -> Result<Value, Failure> {
    let place = Place::parse(invocation.operand(0)?.unwrap_or_default());
    let text = |text: &str| Some(text.to_owned());
    // Of all keys that begin with this one, it is the first itself.
    let parameters = [("prefix", place.key.map(str::to_owned)), ("limit", text("1")), ("values", text("true"))];
    let page = client.page(&with_query(&place.collection_target(), &parameters))?;
    let item = page.items.into_iter().next().filter(|item| item["key"].as_str() == place.key);
    item.ok_or_else(|| Failure::new(NOT_FOUND, "NOT_FOUND: there is no value under this key"))
}

/// Writes a value.
pub fn put(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let target = with_query(&value_target(invocation)?, &write_parameters(invocation)?);
    let (value, guessed) = value_to_put(invocation)?;
    let content_type = invocation.text("type")?.unwrap_or(guessed);
    let condition = condition(invocation)?;
    let mut fields = vec![("Content-Type", content_type)];
    fields.extend(condition.as_ref().map(|(name, value)| (*name, value.as_str())));
    let reply = Client::new(invocation)?.send(Method::PUT, &target, &fields, Payload::Bytes(value))?;
    if invocation.has("json") {
        let created = reply.status() == 201;
        let durability = reply.field("Larder-Durability");
        say_json(&json!({"created": created, "version": reply.version(), "durability": durability}))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The value and the type it seems to have.
fn value_to_put(invocation: &Invocation) -> Result<(Vec<u8>, &'static str), Failure> {
    let (file, operand) = (invocation.text("file")?, invocation.operands.get(1));
    let input = match (file, operand) {
        (Some(_), Some(_)) => return Err(usage(invocation, "VALUE and --file are two values".to_owned())),
        (Some(file), None) => open_input(file)?,
        (None, Some(value)) if value != "-" => {
            let value = value.as_encoded_bytes().to_vec();
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&value).is_ok();
            return Ok((value, if is_json { "application/json" } else { "text/plain; charset=utf-8" }));
        }
        (None, _) => open_input("-")?,
    };
    let mut value = Vec::new();
    let mut input = input;
    input.read_to_end(&mut value).map_err(|error| Failure::plain(format!("cannot read the value: {error}")))?;
    Ok((value, "application/octet-stream"))
}

/// The query of a write.
fn write_parameters(invocation: &Invocation) -> Result<[(&'static str, Option<String>); 2], Failure> {
    let ttl = invocation.text("ttl")?.map(parse_duration).transpose();
    let ttl = ttl.map_err(|message| usage(invocation, format!("--ttl: {message}")))?;
    let durability = invocation.text("durability")?.map(str::to_owned);
    Ok([("ttl", ttl.map(|ttl| ttl.as_secs_f64().to_string())), ("durability", durability)])
}

/// The precondition that `--if-version` asks for.
fn condition(invocation: &Invocation) -> Result<Option<(&'static str, String)>, Failure> {
    let Some(text) = invocation.text("if-version")? else { return Ok(None) };
    let version: u64 =
        text.parse().map_err(|_| usage(invocation, format!("--if-version: `{text}` is no version: a whole number")))?;
    Ok(Some(match version {
        0 => ("If-None-Match", "*".to_owned()),
        version => ("If-Match", format!("\"{version}\"")),
    }))
}

/// Removes a value, or those with a prefix, or a collection.
pub fn del(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let text = invocation.operand(0)?.unwrap_or_default();
    let place = Place::parse(text);
    let (prefix, all) = (invocation.text("prefix")?, invocation.has("all"));
    if prefix == Some("") {
        // `--prefix "$UNSET"` in a script must not empty a collection.
        return Err(usage(
            invocation,
            "an empty --prefix would remove everything; say --all if that is meant".to_owned(),
        ));
    }
    if prefix.is_none() && !all {
        if place.key.is_none() {
            let message = format!("`{text}` names no single value; --prefix TEXT or --all removes many");
            return Err(usage(invocation, message));
        }
        return del_one(invocation);
    }
    if place.key.is_some() || place.collection.is_none() || (prefix.is_some() && all) || invocation.has("if-version") {
        let message = "many values are removed by NAMESPACE/COLLECTION with either --prefix TEXT or --all";
        return Err(usage(invocation, message.to_owned()));
    }
    let durability = invocation.text("durability")?.map(str::to_owned);
    let parameters = [("prefix", prefix.map(str::to_owned)), ("durability", durability)];
    let target = with_query(&place.collection_target(), &parameters);
    let answer = remove_all(&Client::new(invocation)?, &target)?;
    if invocation.has("json") {
        say_json(&answer)?;
    } else {
        complain(&format!("removed {} values", answer["deleted"]));
    }
    Ok(ExitCode::SUCCESS)
}

/// Goes on until all is removed: one request takes as much as fits its time.
fn remove_all(client: &Client, target: &str) -> Result<Value, Failure> {
    let (mut removed, mut fruitless) = (0, 0);
    loop {
        let mut answer = client.send(Method::DELETE, target, &[], Payload::None)?.into_json()?;
        let count = answer["deleted"].as_u64().unwrap_or(0);
        removed += count;
        answer["deleted"] = json!(removed);
        // A server of before does not say it.
        if answer["complete"].as_bool() != Some(false) {
            return Ok(answer);
        }
        fruitless = if count == 0 { fruitless + 1 } else { 0 };
        if fruitless == FRUITLESS_MAX {
            let message = format!("removed {removed} values, and more are left: other deletes go first; try again");
            return Err(Failure::new(FAILED, message));
        }
    }
}

fn del_one(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let durability = invocation.text("durability")?.map(str::to_owned);
    let target = with_query(&value_target(invocation)?, &[("durability", durability)]);
    let condition = condition(invocation)?;
    let fields: Vec<_> = condition.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = Client::new(invocation)?.send(Method::DELETE, &target, &fields, Payload::None)?;
    if invocation.has("json") {
        let version = reply.field("Larder-Version").and_then(|version| version.parse::<u64>().ok());
        say_json(&json!({"deleted": 1, "version": version}))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds to a counter.
pub fn incr(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let target = format!("{}/incr", value_target(invocation)?);
    let target = with_query(&target, &write_parameters(invocation)?);
    let by = invocation.operand(1)?.unwrap_or("1");
    let by: i64 = by.parse().map_err(|_| usage(invocation, format!("`{by}` is no whole number of 64 bits")))?;
    let body = Payload::Bytes(json!({"by": by}).to_string().into_bytes());
    let fields = [("Content-Type", "application/json")];
    let answer = Client::new(invocation)?.send(Method::POST, &target, &fields, body)?.into_json()?;
    say_json(if invocation.has("json") { &answer } else { &answer["value"] })?;
    Ok(ExitCode::SUCCESS)
}
