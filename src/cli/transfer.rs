//! `larder export` and `import`: NDJSON as the server writes and reads it, in constant memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use super::clean;
use super::client::{Client, Payload};
use super::exit::{FAILED, Failure, UNREACHABLE};
use super::output::{Output, open_input, wrote};
use super::parse::{Invocation, usage};
use super::path::with_query;
use super::progress::Progress;
use super::{complain, say_json};
use crate::http::json;

/// Failed lines that are told one by one.
const FAILURES_SHOWN: usize = 20;
/// A longer line is no value of larder.
const LINE_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// The last line of an export.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct EndLine {
    /// Always true.
    pub end: bool,
    /// Values before it.
    pub items: u64,
    /// The version of the store at its moment, the first if there were several.
    pub version: u64,
    /// How many moments of the store the values are of.
    #[serde(default = "one")]
    pub views: u64,
    /// What the server could not read.
    #[serde(default)]
    pub damaged: Vec<Value>,
    /// How much that is, if it is not all listed.
    #[serde(default)]
    pub damaged_total: u64,
}

fn one() -> u64 {
    1
}

/// What a server says that cuts an export, in place of the end line.
#[derive(Deserialize)]
struct CutLine {
    code: String,
    message: String,
}

impl EndLine {
    /// That the values are of several moments, if they are.
    pub fn complain_of_views(&self) {
        if self.views > 1 {
            complain(&format!(
                "the store was written to meanwhile: the values are of {} moments; what changed since the first is in the next --since {}, but not what was removed",
                self.views, self.version
            ));
        }
    }

    /// That there is nothing in what was asked for, which may be a word that was mistyped.
    pub fn complain_of_nothing(&self, invocation: &Invocation) -> Result<(), Failure> {
        if let Some(namespace) = invocation.text("namespace")?.filter(|_| self.items == 0) {
            complain(&format!("note: nothing that was asked for is in namespace `{namespace}`"));
        }
        Ok(())
    }

    /// The exit code: what was damaged in the store is missing in the file, which whoever made it must hear of.
    pub fn exit_code(&self) -> ExitCode {
        let places = self.damaged_total.max(self.damaged.len() as u64);
        if places == 0 {
            return ExitCode::SUCCESS;
        }
        for place in self.damaged.iter().take(FAILURES_SHOWN) {
            complain(&format!("damaged in the store, and not in the file: {place}"));
        }
        complain(&format!("{places} places in the store are damaged: what stood there is missing in the file"));
        complain(
            "keep this file, and restore it into a new data folder soon: the store may fail at its next merge of tables",
        );
        ExitCode::from(FAILED)
    }
}

/// An export on its way, line by line.
pub struct ExportLines {
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    items: u64,
    /// The version after which the lines begin, which is not the one asked for if the server has more to tell.
    pub since: u64,
}

/// A line of an export.
pub enum ExportLine<'a> {
    /// A value, with its line break.
    Item(&'a [u8]),
    /// The end: the export is complete.
    End(EndLine, &'a [u8]),
}

impl ExportLines {
    /// Asks for an export.
    pub fn request(client: &Client, invocation: &Invocation, collections: bool) -> Result<ExportLines, Failure> {
        let text = |name: &str| Ok::<_, Failure>(invocation.text(name)?.map(str::to_owned));
        let since = invocation.text("since")?.map(str::parse::<u64>).transpose();
        let since = since.map_err(|_| usage(invocation, "--since takes a version: a whole number".to_owned()))?;
        let collection = if collections { text("collection")? } else { None };
        if collection.is_some() && invocation.text("namespace")?.is_none() {
            return Err(usage(invocation, "--collection goes with --namespace".to_owned()));
        }
        let parameters = [
            ("namespace", text("namespace")?),
            ("collection", collection),
            ("since", since.map(|since| since.to_string())),
        ];
        let target = with_query("/api/v1/export", &parameters);
        let fields = [("Accept", "application/x-ndjson"), ("Accept-Encoding", "gzip")];
        let reply = client.send(Method::GET, &target, &fields, Payload::None)?;
        let asked = since.unwrap_or(0);
        let since = reply.field("Larder-Since").and_then(|since| since.parse().ok()).unwrap_or(asked);
        if since != asked {
            complain(&format!("values were imported or restored after version {asked}: this holds everything"));
        }
        let gzip = reply.field("Content-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
        let reader = reply.into_reader();
        let input: Box<dyn BufRead> = match gzip {
            true => Box::new(BufReader::with_capacity(64 * 1024, flate2::read::GzDecoder::new(reader))),
            false => Box::new(BufReader::with_capacity(64 * 1024, reader)),
        };
        Ok(ExportLines { input, line: Vec::new(), items: 0, since })
    }

    /// The next line. An export that stops before its end line is a failure.
    pub fn next_line(&mut self) -> Result<ExportLine<'_>, Failure> {
        self.line.clear();
        let cut = |why: String| Failure::plain(format!("the export was cut: {why}"));
        let read = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        read.map_err(|error| Failure::new(UNREACHABLE, format!("the export was cut: {error}")))?;
        if self.line.last() != Some(&b'\n') {
            return Err(cut(format!("it stops after {} values", self.items)));
        }
        // A value's line begins with its namespace or key: only the last one has to be looked at as a whole.
        if self.line.starts_with(b"{\"status\":")
            && let Ok(CutLine { code, message }) = json::object(&self.line)
        {
            let said = format!("{message} ({code})");
            return Err(cut(format!("after {} values the server says: {}", self.items, clean::line(&said))));
        }
        if !self.line.starts_with(b"{\"end\":true") {
            self.items += 1;
            return Ok(ExportLine::Item(&self.line));
        }
        let end: EndLine = json::object(&self.line).map_err(cut)?;
        if end.items != self.items {
            return Err(cut(format!("its end speaks of {} values, and {} came", end.items, self.items)));
        }
        Ok(ExportLine::End(end, &self.line))
    }
}

/// Writes the store as NDJSON.
pub fn export(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation)?;
    let mut lines = ExportLines::request(&client, invocation, true)?;
    let name = invocation.text("output")?.unwrap_or("-");
    let mut output = Output::open(name)?;
    let mut progress = Progress::new("export");
    let end = loop {
        match lines.next_line()? {
            ExportLine::Item(line) => {
                output.write_all(line).map_err(wrote)?;
                progress.add(1, line.len() as u64);
            }
            ExportLine::End(end, line) => {
                output.write_all(line).map_err(wrote)?;
                break end;
            }
        }
    };
    output.finish()?;
    drop(progress);
    end.complain_of_views();
    end.complain_of_nothing(invocation)?;
    // Stdout is the data itself: a summary there would spoil it.
    if name != "-" && invocation.has("json") {
        say_json(&json!({"items": end.items, "version": end.version, "views": end.views}))?;
    } else if name != "-" {
        complain(&format!("{} values at version {}", end.items, end.version));
    }
    Ok(end.exit_code())
}

/// Reads NDJSON into the store.
pub fn import(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let input = open_input(invocation.operand(0)?.unwrap_or("-"))?;
    let answer = send_import(&Client::new(invocation)?, Counted::new(input, "import"), invocation.has("partial"))?;
    report_import(invocation, &answer)
}

/// Sends lines to be imported.
pub fn send_import(client: &Client, lines: impl Read + 'static, partial: bool) -> Result<Value, Failure> {
    let fields = [("Content-Type", "application/x-ndjson")];
    // An import of nothing first: a refusal that comes while a body is on its way shows only as a broken connection.
    client.send(Method::POST, "/api/v1/import?partial=true", &fields, Payload::Bytes(Vec::new()))?;
    let target = with_query("/api/v1/import", &[("partial", partial.then(|| "true".to_owned()))]);
    client.send(Method::POST, &target, &fields, Payload::Stream(Box::new(lines)))?.into_json()
}

/// Tells how an import went; any line that failed makes it a failure.
pub fn report_import(invocation: &Invocation, answer: &Value) -> Result<ExitCode, Failure> {
    let none = Vec::new();
    let failed = answer["failed"].as_array().unwrap_or(&none);
    if invocation.has("json") {
        say_json(answer)?;
    } else {
        for line in failed.iter().take(FAILURES_SHOWN) {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            complain(&format!("line {}: {}: {}", line["line"], text("code"), text("message")));
        }
        if failed.len() > FAILURES_SHOWN {
            complain(&format!("… and {} more", failed.len() - FAILURES_SHOWN));
        }
        complain(&format!("{} values imported, {} failed", answer["imported"], failed.len()));
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// A reader that shows how much has passed.
pub struct Counted<R> {
    input: R,
    progress: Progress,
}

impl<R: Read> Counted<R> {
    /// Counts what is read.
    pub fn new(input: R, what: &'static str) -> Counted<R> {
        Counted { input, progress: Progress::new(what) }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.progress.add(0, count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Result<(u64, EndLine), Failure> {
        let mut lines = ExportLines { input: Box::new(text.as_bytes()), line: Vec::new(), items: 0, since: 0 };
        let mut items = 0;
        loop {
            match lines.next_line()? {
                ExportLine::Item(_) => items += 1,
                ExportLine::End(end, _) => return Ok((items, end)),
            }
        }
    }

    #[test]
    fn an_export_is_complete_with_its_end_line_and_not_before() {
        let end = lines("{\"key\":\"a\"}\n{\"end\":true,\"items\":1,\"version\":9}\n").unwrap();
        assert_eq!(
            end,
            (1, EndLine { end: true, items: 1, version: 9, views: 1, damaged: Vec::new(), damaged_total: 0 })
        );
        for text in [
            "",
            "{\"key\":\"a\"}\n",
            "{\"key\":\"a\"}",
            "{\"end\":true,\"items\":1,\"version\":9}\n",
            "{\"end\":true,\"items\":0,\"version\":9}",
            "{\"end\":true}\n",
        ] {
            assert!(lines(text).is_err(), "{text}");
        }
        let said = "{\"key\":\"a\"}\n{\"status\":503,\"title\":\"x\",\"code\":\"DRAINING\",\"message\":\"it stops\"}\n";
        assert_eq!(
            lines(said).unwrap_err().message,
            "the export was cut: after 1 values the server says: it stops (DRAINING)"
        );
    }
}
