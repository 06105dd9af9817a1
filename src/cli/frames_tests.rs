//! What a backup file must survive: flips, cuts, frames out of place, lengths and data that lie.

use super::*;

fn header() -> Header {
    Header { format: FORMAT, larder: "0.1.0".into(), created: 7, since: 0, namespace: None }
}

fn backup(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = FrameWriter::new(Vec::new(), &header()).unwrap();
    for line in lines {
        writer.line(line).unwrap();
    }
    writer.finish(42).unwrap().0
}

fn read(file: &[u8]) -> Result<(Vec<u8>, End), Damaged> {
    let ahead = read_by(FrameReader::proving_ahead(file));
    let read = read_by(FrameReader::new(file));
    assert_eq!(ahead.as_ref().ok(), read.as_ref().ok());
    read
}

fn read_by(mut reader: FrameReader<&[u8]>) -> Result<(Vec<u8>, End), Damaged> {
    assert!(matches!(reader.next_frame()?, Some(Frame::Header(found)) if found == header()));
    let mut lines = Vec::new();
    let mut last = None;
    while let Some(frame) = reader.next_frame()? {
        match frame {
            Frame::Header(_) => unreachable!("a second header is refused"),
            Frame::Data => {
                let mut piece = [0; 1000];
                loop {
                    match reader.read_lines(&mut piece)? {
                        0 => break,
                        count => lines.extend_from_slice(&piece[..count]),
                    }
                }
            }
            Frame::End(end) => last = Some(end),
        }
    }
    Ok((lines, last.expect("the reader insists on an end")))
}

fn many_lines() -> Vec<Vec<u8>> {
    (0..3000u32)
        .map(|n| format!("{{\"key\":\"{n}\",\"value\":\"{}\"}}", "x".repeat(n as usize % 900)).into_bytes())
        .collect()
}

#[test]
fn what_is_written_reads_back() {
    for lines in [Vec::new(), vec![b"{}".to_vec()], many_lines()] {
        let (read, end) = read(&backup(&lines)).unwrap();
        let expected: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        assert!(read == expected);
        assert_eq!(end, End { items: lines.len() as u64, version: 42 });
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let file = backup(&[b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn no_cut_goes_unnoticed() {
    let file = backup(&many_lines());
    let step = file.len() / 60 + 1;
    for length in (0..file.len()).step_by(step).chain([file.len() - 1]) {
        let mut reader = FrameReader::new(&file[..length]);
        let error = loop {
            match reader.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{length} of {} bytes pass for a whole file", file.len()),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("cut") || length < 4, "{length}: {error}");
    }
}

#[test]
fn frames_that_are_missing_twice_or_appended_are_noticed() {
    let file = backup(&many_lines());
    let mut starts: Vec<usize> = (0..file.len() - 4).filter(|&at| &file[at..at + 4] == MAGIC).collect();
    starts.push(file.len());
    assert!(starts.len() > 5, "several data frames");
    let frame = |n: usize| &file[starts[n]..starts[n + 1]];
    let all: Vec<usize> = (0..starts.len() - 1).collect();
    let mut without = all.clone();
    without.remove(2);
    let mut twice = all.clone();
    twice.insert(2, 2);
    let mut swapped = all.clone();
    swapped.swap(1, 2);
    let mut appended = all.clone();
    appended.push(1);
    assert!(read(&all.iter().flat_map(|&n| frame(n).to_vec()).collect::<Vec<u8>>()).is_ok());
    for order in [without, twice, swapped, appended] {
        let rebuilt: Vec<u8> = order.iter().flat_map(|&n| frame(n).to_vec()).collect();
        assert!(read(&rebuilt).is_err(), "{order:?}");
    }
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let mut file = backup(&[]);
    file[13..17].copy_from_slice(&(FRAME_BYTES_MAX as u32).to_le_bytes());
    assert!(FrameReader::new(file.as_slice()).next_frame().unwrap_err().what.contains("cut"));
    file[13..17].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(FrameReader::new(file.as_slice()).next_frame().unwrap_err().what.contains("no frame"));
    assert!(FrameReader::new(&b"PK\x03\x04 something else"[..]).next_frame().unwrap_err().what.contains("no backup"));
}
