//! `warm.keys`: the hottest keys of the last run, so that the next start can load them before they are asked for.
//!
//! Only names, never values, and only a hint: a missing or damaged file costs nothing but a cold cache. Invariant: a
//! file that reads without an error was written whole.
//!
//! Layout, little-endian: magic, number of keys (u32), then each key as its length (u16) and its bytes, then the crc32
//! of all before it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"LRDWARM1";
/// Keys in a file; the rest are left out.
const KEYS_MAX: usize = 10_000;
/// Bytes of a file.
const FILE_BYTES_MAX: usize = 1024 * 1024;
const HEAD_BYTES: usize = MAGIC.len() + 4;
const CRC_BYTES: usize = 4;

/// Why there are no warm keys. The caller logs it and starts cold.
#[derive(Debug)]
pub enum WarmError {
    /// The file could not be read; `NotFound` is the first start.
    Io(io::Error),
    /// The file is not what [`write_warm_keys`] writes.
    Damaged(&'static str),
}

impl fmt::Display for WarmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WarmError::Io(error) => write!(f, "warm keys cannot be read: {error}"),
            WarmError::Damaged(what) => write!(f, "warm keys are damaged: {what}"),
        }
    }
}

impl std::error::Error for WarmError {}

impl From<io::Error> for WarmError {
    fn from(error: io::Error) -> WarmError {
        WarmError::Io(error)
    }
}

/// Writes as many of the keys, from the first, as the bounds allow. Durable when it returns `Ok`, whole or absent
/// after a power cut. For the shutdown only: it syncs.
pub fn write_warm_keys(path: &Path, keys: &[Bytes]) -> io::Result<()> {
    let body = encode(keys);
    let temporary = path.with_extension("keys.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn encode(keys: &[Bytes]) -> Vec<u8> {
    let mut body = Vec::from(MAGIC);
    body.extend_from_slice(&[0; 4]);
    let mut count = 0u32;
    for key in keys.iter().take(KEYS_MAX) {
        let Ok(length) = u16::try_from(key.len()) else { continue };
        if body.len() + 2 + key.len() + CRC_BYTES > FILE_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(key);
        count += 1;
    }
    body[MAGIC.len()..HEAD_BYTES].copy_from_slice(&count.to_le_bytes());
    body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    body
}

/// The keys that the last run left, the hottest first.
pub fn read_warm_keys(path: &Path) -> Result<Vec<Bytes>, WarmError> {
    let mut body = Vec::new();
    // One byte more than allowed shows that the file is too large, without reading all of it.
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut body)?;
    decode(Bytes::from(body))
}

fn decode(mut body: Bytes) -> Result<Vec<Bytes>, WarmError> {
    if body.len() > FILE_BYTES_MAX {
        return Err(WarmError::Damaged("too large"));
    }
    if body.len() < HEAD_BYTES + CRC_BYTES || !body.starts_with(MAGIC) {
        return Err(WarmError::Damaged("no such file format"));
    }
    let crc = body.split_off(body.len() - CRC_BYTES);
    if *crc != crc32fast::hash(&body).to_le_bytes() {
        return Err(WarmError::Damaged("wrong checksum"));
    }
    let mut rest = body.split_off(HEAD_BYTES);
    let count = body[MAGIC.len()..].iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
    if count > KEYS_MAX {
        return Err(WarmError::Damaged("too many keys"));
    }
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(&[low, high]) = rest.first_chunk() else { return Err(WarmError::Damaged("ends too early")) };
        let end = 2 + usize::from(u16::from_le_bytes([low, high]));
        if rest.len() < end {
            return Err(WarmError::Damaged("ends too early"));
        }
        keys.push(rest.split_to(end).split_off(2));
    }
    if !rest.is_empty() {
        return Err(WarmError::Damaged("bytes after the last key"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize, bytes: usize) -> Vec<Bytes> {
        (0..count).map(|n| Bytes::from(format!("{n:0bytes$}"))).collect()
    }

    #[test]
    fn keys_come_back_as_they_were_written_and_replace_the_file_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warm.keys");
        for written in [keys(3, 10), vec![], vec![Bytes::new(), Bytes::from_static(b"\x01a\0b\0c")]] {
            write_warm_keys(&path, &written).unwrap();
            assert_eq!(read_warm_keys(&path).unwrap(), written);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn too_many_keys_or_bytes_are_left_out_from_the_cold_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warm.keys");
        let many = keys(KEYS_MAX + 5, 8);
        write_warm_keys(&path, &many).unwrap();
        assert_eq!(read_warm_keys(&path).unwrap(), many[..KEYS_MAX]);
        let long = keys(3000, 500);
        write_warm_keys(&path, &long).unwrap();
        let read = read_warm_keys(&path).unwrap();
        assert_eq!(read, long[..read.len()]);
        let bytes = fs::metadata(&path).unwrap().len() as usize;
        assert!(bytes <= FILE_BYTES_MAX && bytes > FILE_BYTES_MAX - 1000, "{bytes}");
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error() {
        let whole = encode(&keys(4, 6));
        assert_eq!(decode(Bytes::from(whole.clone())).unwrap(), keys(4, 6));
        for end in 0..whole.len() {
            assert!(decode(Bytes::copy_from_slice(&whole[..end])).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(decode(Bytes::from(damaged)).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_right_checksum_over_wrong_content_is_an_error_and_not_a_panic() {
        let with_crc = |mut body: Vec<u8>| {
            body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
            decode(Bytes::from(body))
        };
        let mut body = encode(&keys(4, 6));
        body.truncate(body.len() - CRC_BYTES);
        assert!(with_crc(body.clone()).is_ok());
        for count in [5, 3, u32::MAX] {
            let mut wrong = body.clone();
            wrong[MAGIC.len()..HEAD_BYTES].copy_from_slice(&u32::to_le_bytes(count));
            assert!(matches!(with_crc(wrong), Err(WarmError::Damaged(_))), "{count} keys claimed");
        }
        let mut wrong = body.clone();
        wrong[HEAD_BYTES] = 0xff;
        assert!(matches!(with_crc(wrong), Err(WarmError::Damaged(_))));
        wrong = vec![0; FILE_BYTES_MAX];
        assert!(matches!(with_crc(wrong), Err(WarmError::Damaged(_))));
    }

    #[test]
    fn a_missing_file_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read_warm_keys(&folder.path().join("warm.keys"));
        assert!(matches!(missing, Err(WarmError::Io(error)) if error.kind() == io::ErrorKind::NotFound));
    }
}
