//! `larder backup` and `restore`: the whole store in a file that proves itself.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::client::Client;
use super::exit::{FAILED, Failure};
use super::frames::{Damaged, End, FORMAT, Frame, FrameReader, FrameWriter, Header};
use super::output::{Output, open_input};
use super::parse::Invocation;
use super::path::with_query;
use super::progress::Progress;
use super::transfer::{Counted, ExportLine, ExportLines, report_import, send_import};
use super::{complain, say};

/// Saves the store.
pub fn backup(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let name = invocation.operand(0)?.unwrap_or("-");
    let client = Client::new(invocation)?;
    let mut lines = ExportLines::request(&client, invocation, false)?;
    let header = Header {
        format: FORMAT,
        larder: env!("CARGO_PKG_VERSION").to_owned(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        since: lines.since,
        namespace: invocation.text("namespace")?.map(str::to_owned),
    };
    let wrote = |error: io::Error| Failure::plain(format!("cannot write the backup: {error}"));
    let mut writer = FrameWriter::new(Output::open(name)?, &header).map_err(wrote)?;
    let mut progress = Progress::new("backup");
    let last = loop {
        match lines.next_line()? {
            ExportLine::Item(line) => {
                progress.add(1, line.len() as u64);
                writer.line(line).map_err(wrote)?;
            }
            ExportLine::End(end, _) => break end,
        }
    };
    let (output, end, bytes) = writer.finish(last.version).map_err(wrote)?;
    output.finish()?;
    drop(progress);
    last.complain_of_views();
    if name != "-" && invocation.has("json") {
        say(&format!(
            "{}\n",
            json!({"items": end.items, "version": end.version, "views": last.views, "since": header.since, "bytes": bytes})
        ));
    } else {
        complain(&format!(
            "saved {} values, {bytes} bytes; the next may begin here: --since {}",
            end.items, end.version
        ));
    }
    Ok(last.exit_code())
}

/// Brings a backup back, or proves it.
pub fn restore(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let name = invocation.operand(0)?.unwrap_or("-");
    if invocation.has("check") {
        let (header, end) = prove(name, open_input(name)?)?;
        return Ok(report_proof(invocation, &header, &end));
    }
    let merge = invocation.has("merge");
    let client = Client::new(invocation)?;
    // A pipe passes only once: it is proven on its way, and cut off at the first damage.
    let proven = match name {
        "-" => None,
        file => Some(prove(name, open_input(file)?)?),
    };
    if let Some((header, _)) = &proven {
        refuse_part(header, merge)?;
    }
    if !merge {
        refuse_full(&client)?;
    }
    let lines = match name {
        "-" => RestoredLines::new(open_input("-")?, merge),
        file => RestoredLines::new(Box::new(BufReader::new(open_file(file)?)), merge),
    };
    let answer = send_import(&client, Counted::new(lines, "restore"), false)?;
    report_import(invocation, &answer)
}

fn open_file(name: &str) -> Result<File, Failure> {
    File::open(name).map_err(|error| Failure::plain(format!("cannot read {name}: {error}")))
}

/// Reads a file from its first byte to its last.
fn prove(name: &str, input: impl Read) -> Result<(Header, End), Failure> {
    let damaged = |error: Damaged| Failure::new(FAILED, format!("{name}: {error}"));
    let mut reader = FrameReader::new(input);
    let mut progress = Progress::new("check");
    let (mut header, mut end) = (None, None);
    while let Some(frame) = reader.next_frame().map_err(damaged)? {
        match frame {
            Frame::Header(found) => header = Some(found),
            Frame::Data(lines) => {
                let items = check_lines(&lines).map_err(|what| Failure::plain(format!("{name}: {what}")))?;
                progress.add(items, lines.len() as u64);
            }
            Frame::End(found) => end = Some(found),
        }
    }
    header.zip(end).ok_or_else(|| Failure::plain(format!("{name}: the file is empty")))
}

/// The checksums say that the bytes are those that were saved; this says that they are values.
fn check_lines(lines: &[u8]) -> Result<u64, String> {
    let mut items = 0;
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<serde::de::IgnoredAny>(line)
            .map_err(|error| format!("a line that is no JSON: {error}"))?;
        items += 1;
    }
    Ok(items)
}

fn report_proof(invocation: &Invocation, header: &Header, end: &End) -> ExitCode {
    if invocation.has("json") {
        let (items, version) = (end.items, end.version);
        say(&format!(
            "{}\n",
            json!({"ok": true, "items": items, "version": version, "since": header.since,
            "namespace": header.namespace, "created": header.created, "larder": header.larder})
        ));
    } else {
        let part = match header.since {
            0 => String::new(),
            since => format!(", written after version {since}"),
        };
        complain(&format!("the file is whole: {} values at version {}{part}", end.items, end.version));
    }
    ExitCode::SUCCESS
}

/// A backup of a part, restored alone, would look like the whole.
fn refuse_part(header: &Header, merge: bool) -> Result<(), Failure> {
    if header.since == 0 || merge {
        return Ok(());
    }
    let since = header.since;
    Err(Failure::plain(format!(
        "this backup holds only what was written after version {since}: restore the one before it first, then this one with --merge"
    )))
}

fn refuse_full(client: &Client) -> Result<(), Failure> {
    let mut cursor: Option<String> = None;
    loop {
        let mut answer = client.document(&with_query("/api/v1/kv", &[("cursor", cursor)]))?;
        match answer["items"].as_array().map(Vec::is_empty) {
            Some(true) => {}
            Some(false) => {
                return Err(Failure::plain(
                    "the store is not empty; --merge restores over what is there (the backup's values win, all others stay)",
                ));
            }
            None => return Err(Failure::plain("the server's list of namespaces is not understood")),
        }
        // A page may be empty and not the last: what has expired lies there until it is swept.
        match answer["next"].take() {
            Value::String(next) => cursor = Some(next),
            _ => return Ok(()),
        }
    }
}

/// The lines of a backup as an export would have sent them. Damage ends them with an error, before the end line.
struct RestoredLines {
    frames: FrameReader<Box<dyn Read>>,
    merge: bool,
    ready: io::Cursor<Vec<u8>>,
    /// What is held back until nothing is found behind the end frame.
    end: Option<Vec<u8>>,
}

impl RestoredLines {
    fn new(input: Box<dyn Read>, merge: bool) -> RestoredLines {
        RestoredLines { frames: FrameReader::new(input), merge, ready: io::Cursor::default(), end: None }
    }

    fn refill(&mut self) -> io::Result<bool> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        match self.frames.next_frame().map_err(|error| wrong(error.to_string()))? {
            Some(Frame::Header(header)) => {
                refuse_part(&header, self.merge).map_err(|failure| wrong(failure.message))?;
            }
            Some(Frame::Data(lines)) => self.ready = io::Cursor::new(lines),
            Some(Frame::End(end)) => {
                let line: Value = json!({"end": true, "items": end.items, "version": end.version});
                self.end = Some(format!("{line}\n").into_bytes());
            }
            None => match self.end.take() {
                Some(line) => self.ready = io::Cursor::new(line),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

impl Read for RestoredLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.ready.read(buffer)?;
            if count > 0 || buffer.is_empty() || !self.refill()? {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(since: u64, lines: &[&str]) -> Vec<u8> {
        let header = Header { format: FORMAT, larder: "0.1.0".into(), created: 1, since, namespace: None };
        let mut writer = FrameWriter::new(Vec::new(), &header).unwrap();
        for line in lines {
            writer.line(line.as_bytes()).unwrap();
        }
        writer.finish(9).unwrap().0
    }

    fn restored(file: Vec<u8>, merge: bool) -> io::Result<String> {
        let mut text = String::new();
        RestoredLines::new(Box::new(io::Cursor::new(file)), merge).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_backup_restores_to_the_export_it_was_made_from() {
        let text = restored(file(0, &["{\"key\":\"a\"}", "{\"key\":\"b\"}"]), false).unwrap();
        assert_eq!(text, "{\"key\":\"a\"}\n{\"key\":\"b\"}\n{\"end\":true,\"items\":2,\"version\":9}\n");
    }

    #[test]
    fn damage_and_parts_never_reach_the_end_line() {
        let mut cut = file(0, &["{\"key\":\"a\"}"]);
        cut.pop();
        assert!(restored(cut, false).is_err());
        let mut longer = file(0, &["{\"key\":\"a\"}"]);
        longer.push(b'x');
        assert!(restored(longer, false).is_err());
        assert!(restored(file(5, &[]), false).is_err());
        assert!(restored(file(5, &[]), true).is_ok());
    }

    #[test]
    fn proving_looks_at_every_line() {
        assert_eq!(prove("f", file(0, &["{}"]).as_slice()).unwrap().1, End { items: 1, version: 9 });
        assert!(prove("f", file(0, &["{}", "{broken"]).as_slice()).unwrap_err().message.contains("no JSON"));
        assert!(prove("f", &b""[..]).is_err());
    }
}
