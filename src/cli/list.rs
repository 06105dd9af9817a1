//! `larder ls`: namespaces, collections, keys; page by page, so that memory does not follow the store.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::clean;
use super::client::Client;
use super::exit::{Failure, NOT_FOUND};
use super::output::wrote;
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
    let limit = limit.unwrap_or(u64::MAX);
    let mut lines = Lines { out: BufWriter::new(std::io::stdout().lock()), left: limit };
    if place.collection.is_some() {
        list_keys(invocation, &client, &place, &mut lines)?;
    } else {
        list_names(invocation, &client, &place, &mut lines)?;
    }
    lines.out.flush().map_err(wrote)?;
    // Nothing at all may be a word that was mistyped.
    if limit > 0 && lines.left == limit {
        refuse_unknown(&client, &place)?
    }
    Ok(ExitCode::SUCCESS)
}

/// A namespace or collection is there as long as it holds a value. That no key begins with a prefix is an answer.
fn refuse_unknown(client: &Client, place: &Place<'_>) -> Result<(), Failure> {
    let shown = match (place.namespace, place.collection) {
        (None, _) => return Ok(()),
        (Some(namespace), None) => format!("namespace `{namespace}`"),
        (Some(namespace), Some(collection)) => format!("collection `{namespace}/{collection}`"),
    };
    let mut beside = Lines { out: std::io::sink(), left: 1 };
    if place.key.is_some() {
        list_pages(client, place, &[], &mut beside, |_| String::new())?;
    }
    match beside.left {
        0 => Ok(()),
        _ => Err(Failure::new(NOT_FOUND, format!("NOT_FOUND: there is no {shown}, or nothing in it"))),
    }
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
        writeln!(self.out, "{line}").map_err(wrote)?;
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
        if json { json_line(&name.into()) } else { clean::name(name).into_owned() }
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
        (true, _) => json_line(item),
        (false, true) => long_line(item),
        (false, false) => clean::name(item["key"].as_str().unwrap_or_default()).into_owned(),
    })
}

fn json_line(item: &Value) -> String {
    clean::json(&item.to_string()).into_owned()
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
        let page = client.page(&with_query(&place.collection_target(), &parameters))?;
        for item in &page.items {
            lines.push(&line(item))?;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
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
    let text = |name: &str| clean::line(&text(name)).into_owned();
    let key = clean::name(item["key"].as_str().unwrap_or_default());
    format!("{:>12} {:>9}  {}  {:<24}  {key}", text("version"), text("size"), text("modified"), text("content_type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_lines_than_asked_for() {
        let mut lines = Lines { out: Vec::new(), left: 2 };
        assert!(lines.push("a").unwrap());
        assert!(!lines.push("b").unwrap());
        assert!(!lines.push("c").unwrap());
        assert_eq!(lines.out, b"a\nb\n");
    }
}
