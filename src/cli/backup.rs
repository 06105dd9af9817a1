//! `larder backup` and `restore`: the whole store in a file that proves itself.

use std::io::{self, Read};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::client::Client;
use super::exit::{FAILED, Failure};
use super::frames::{Damaged, End, FORMAT, Frame, FrameReader, FrameWriter, Header};
use super::output::{Output, open_input, wrote};
use super::parse::Invocation;
use super::path::with_query;
use super::progress::Progress;
use super::transfer::{Counted, ExportLine, ExportLines, report_import, send_import};
use super::{complain, proof, say_json};

/// Saves the store.
pub fn backup(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let name = invocation.operand(0)?.unwrap_or("-");
    let client = Client::new(invocation)?;
    let output = Output::open_or_replace(name, invocation.has("force"))?;
    let mut lines = ExportLines::request(&client, invocation, false)?;
    let header = Header {
        format: FORMAT,
        larder: env!("CARGO_PKG_VERSION").to_owned(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        since: lines.since,
        namespace: invocation.text("namespace")?.map(str::to_owned),
    };
    let mut writer = FrameWriter::new(output, &header).map_err(wrote)?;
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
    last.complain_of_nothing(invocation)?;
    if name != "-" && invocation.has("json") {
        say_json(
            &json!({"items": end.items, "version": end.version, "views": last.views, "since": header.since, "bytes": bytes}),
        )?;
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
        return report_proof(invocation, &header, &end);
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
        "-" => RestoredLines::new(FrameReader::proving_ahead(open_input("-")?), merge),
        file => RestoredLines::new(FrameReader::new(open_input(file)?), merge),
    };
    let answer = send_import(&client, Counted::new(lines, "restore"), false)?;
    report_import(invocation, &answer)
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
            Frame::Data => {
                let checked = proof::check_lines(&mut reader, |bytes| progress.add(0, bytes));
                checked.map_err(|what| Failure::plain(format!("{name}: {what}")))?;
            }
            Frame::End(found) => end = Some(found),
        }
    }
    header.zip(end).ok_or_else(|| Failure::plain(format!("{name}: the file is empty")))
}

fn report_proof(invocation: &Invocation, header: &Header, end: &End) -> Result<ExitCode, Failure> {
    if invocation.has("json") {
        let (items, version) = (end.items, end.version);
        say_json(&json!({"ok": true, "items": items, "version": version, "since": header.since,
            "namespace": header.namespace, "created": header.created, "larder": header.larder}))?;
    } else {
        let part = match header.since {
            0 => String::new(),
            since => format!(", written after version {since}"),
        };
        complain(&format!("the file is whole: {} values at version {}{part}", end.items, end.version));
    }
    Ok(ExitCode::SUCCESS)
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
        let page = client.page(&with_query("/api/v1/kv", &[("cursor", cursor)]))?;
        if !page.items.is_empty() {
            return Err(Failure::plain(
                "the store is not empty; --merge restores over what is there (the backup's values win, all others stay)",
            ));
        }
        // A page may be empty and not the last: what has expired lies there until it is swept.
        cursor = page.next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// The lines of a backup as an export would have sent them. Damage ends them with an error, before the end line.
struct RestoredLines {
    frames: FrameReader<Box<dyn Read>>,
    merge: bool,
    /// Whether the lines of a frame are being read.
    inside: bool,
    /// What is held back until nothing is found behind the end frame.
    end: Option<Vec<u8>>,
    /// The same when it is its turn.
    last: io::Cursor<Vec<u8>>,
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl RestoredLines {
    fn new(frames: FrameReader<Box<dyn Read>>, merge: bool) -> RestoredLines {
        RestoredLines { frames, merge, inside: false, last: io::Cursor::default(), end: None }
    }

    fn refill(&mut self) -> io::Result<bool> {
        match self.frames.next_frame().map_err(|error| wrong(error.to_string()))? {
            Some(Frame::Header(header)) => {
                refuse_part(&header, self.merge).map_err(|failure| wrong(failure.message))?;
            }
            Some(Frame::Data) => self.inside = true,
            Some(Frame::End(end)) => {
                let line: Value = json!({"end": true, "items": end.items, "version": end.version});
                self.end = Some(format!("{line}\n").into_bytes());
            }
            None => match self.end.take() {
                Some(line) => self.last = io::Cursor::new(line),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

impl Read for RestoredLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match self.inside {
                true => self.frames.read_lines(buffer).map_err(|error| wrong(error.to_string()))?,
                false => self.last.read(buffer)?,
            };
            self.inside &= count > 0;
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
        let frames = FrameReader::new(Box::new(io::Cursor::new(file)) as Box<dyn Read>);
        RestoredLines::new(frames, merge).read_to_string(&mut text)?;
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
