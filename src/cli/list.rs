//! `larder ls`: namespaces, collections, keys; page by page, so that memory does not follow the store.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::client::Client;
use super::exit::Failure;
use super::parse::{Invocation, usage};
use super::path::{Place, with_query};

const PAGE_ITEMS: u64 = 1000;

/// Lists.
pub fn ls(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let place = Place::parse(invocation.operand(0)?.unwrap_or_default());
    let limit = invocation.text("limit")?.map(str::parse::<u64>).transpose();
    let limit = limit.map_err(|_| usage(invocation, "--limit takes a whole number".to_owned()))?;
    if invocation.has("values") && !invocation.has("json") {
        return Err(usage(invocation, "--values goes with --json".to_owned()));
    }
    let client = Client::new(invocation)?;
    let mut lines = Lines { out: BufWriter::new(std::io::stdout().lock()), left: limit.unwrap_or(u64::MAX) };
    if place.collection.is_some() {
        list_keys(invocation, &client, &place, &mut lines)?;
    } else {
        list_names(invocation, &client, &place, &mut lines)?;
    }
    lines.out.flush().map_err(|error| Failure::plain(format!("cannot write: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// What is written, and how much may still be.
struct Lines<W: Write> {
    out: W,
    left: u64,
}

impl<W: Write> Lines<W> {
    /// Writes a line; `false` if there may be no more.
    fn push(&mut self, line: &str) -> Result<bool, Failure> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        writeln!(self.out, "{line}").map_err(|error| Failure::plain(format!("cannot write: {error}")))?;
        Ok(self.left > 0)
    }
}

/// The namespaces, or the collections of one.
fn list_names<W: Write>(
    invocation: &Invocation,
    client: &Client,
    place: &Place<'_>,
    lines: &mut Lines<W>,
) -> Result<(), Failure> {
    let json = invocation.has("json");
    list_pages(client, place, &[], lines, |name| {
        let name = name.as_str().unwrap_or_default();
        if json { Value::from(name).to_string() } else { name.to_owned() }
    })
}

fn list_keys<W: Write>(
    invocation: &Invocation,
    client: &Client,
    place: &Place<'_>,
    lines: &mut Lines<W>,
) -> Result<(), Failure> {
    let parameters = [("prefix", place.key.map(str::to_owned)), ("values", Some(invocation.has("values").to_string()))];
    list_pages(client, place, &parameters, lines, |item| match (invocation.has("json"), invocation.has("long")) {
        (true, _) => item.to_string(),
        (false, true) => long_line(item),
        (false, false) => plain(item["key"].as_str().unwrap_or_default()),
    })
}

/// Asks for page after page and writes each item.
fn list_pages<W: Write>(
    client: &Client,
    place: &Place<'_>,
    parameters: &[(&str, Option<String>)],
    lines: &mut Lines<W>,
    line: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let mut cursor: Option<String> = None;
    while lines.left > 0 {
        let mut parameters = parameters.to_vec();
        parameters.push(("limit", Some(PAGE_ITEMS.min(lines.left).to_string())));
        parameters.push(("cursor", cursor));
        let mut page = client.document(&with_query(&place.collection_target(), &parameters))?;
        let items = page["items"].as_array().ok_or_else(|| Failure::plain("the answer is no list"))?;
        for item in items {
            lines.push(&line(item))?;
        }
        match page["next"].take() {
            Value::String(next) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(())
}

fn long_line(item: &Value) -> String {
    let text = |name: &str| match &item[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let key = plain(item["key"].as_str().unwrap_or_default());
    format!("{:>12} {:>9}  {}  {:<24}  {key}", text("version"), text("size"), text("modified"), text("content_type"))
}

/// A key as one line: with control characters in it, as a JSON string.
fn plain(key: &str) -> String {
    if key.chars().any(char::is_control) { Value::from(key).to_string() } else { key.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_whatever_it_holds() {
        assert_eq!(plain("a b"), "a b");
        assert_eq!(plain("a\nb\x1b"), "\"a\\nb\\u001b\"");
    }

    #[test]
    fn no_more_lines_than_asked_for() {
        let mut lines = Lines { out: Vec::new(), left: 2 };
        assert!(lines.push("a").unwrap());
        assert!(!lines.push("b").unwrap());
        assert!(!lines.push("c").unwrap());
        assert_eq!(lines.out, b"a\nb\n");
    }
}
