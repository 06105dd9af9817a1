//! The stored form of a value: what stands in the data keyspace behind a record's key.
//!
//! It is not the wire form, and it knows nothing of keys or of who reads it.
//! Invariant: every byte is accounted for. A stored form that is cut, extended or of a format this release does not
//! read is an error, never a guess.
//!
//! Format 1, byte by byte (`varint`: little-endian base 128, seven bits a byte, the top bit set on all but the last,
//! at most ten bytes, no superfluous trailing zero byte):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the format: `0x01` |
//! | varint | the version |
//! | varint | modified, ms since 1970 |
//! | varint | expires, ms since 1970 as was believed when it was written ([`super::epochs`]); 0 if it does not expire |
//! | varint, n bytes | the content type: its length, then its bytes |
//! | varint, n bytes | the value: its length, then its bytes, which end the form |
//!
//! An ordinary record spends 16 bytes beside its content type and value.
//! There is no checksum here: the journal and the tables below keep their own over every byte.
//!
//! Policy: a release reads the formats n-1 and n, and writes n-1 until it is told to upgrade, so that a rollback always
//! finds what it can read. Today there is only format 1.

use std::ops::RangeInclusive;

use bytes::{BufMut, Bytes, BytesMut};

use super::StoreError;

/// The format this release writes.
pub const FORMAT_WRITTEN: u8 = 1;
/// The formats this release reads.
pub const FORMATS_READ: RangeInclusive<u8> = 1..=1;

/// The most bytes a varint of 64 bits takes.
const VARINT_BYTES_MAX: usize = 10;

/// A stored value with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The version it got when it was written.
    pub version: u64,
    /// Wall time of the write, ms since 1970.
    pub modified_ms: u64,
    /// Expiry, to be judged by a [`super::Moment`]; 0 if it does not expire.
    pub expires_ms: u64,
    /// The content type as given.
    pub content_type: Bytes,
    /// The value.
    pub value: Bytes,
}

/// The stored form of a record. Copies the value once.
pub fn encode(record: &Record) -> Bytes {
    let payload_bytes = record.content_type.len() + record.value.len();
    let mut form = BytesMut::with_capacity(1 + 5 * VARINT_BYTES_MAX + payload_bytes);
    form.put_u8(FORMAT_WRITTEN);
    put_varint(&mut form, record.version);
    put_varint(&mut form, record.modified_ms);
    put_varint(&mut form, record.expires_ms);
    put_varint(&mut form, record.content_type.len() as u64);
    form.put_slice(&record.content_type);
    put_varint(&mut form, record.value.len() as u64);
    form.put_slice(&record.value);
    form.freeze()
}

/// Reads a stored form. Content type and value share its memory.
pub fn decode(form: Bytes) -> Result<Record, StoreError> {
    let mut cursor = Cursor::open(&form)?;
    let version = cursor.varint()?;
    let modified_ms = cursor.varint()?;
    let expires_ms = cursor.varint()?;
    let content_type = cursor.block()?;
    let value = cursor.block()?;
    if value.end != form.len() {
        return Err(damaged("bytes after its end"));
    }
    Ok(Record { version, modified_ms, expires_ms, content_type: form.slice(content_type), value: form.slice(value) })
}

/// The version in a stored form, without reading the rest.
pub fn peek_version(form: &[u8]) -> Result<u64, StoreError> {
    Cursor::open(form)?.varint()
}

/// What a [`super::Moment`] judges a record by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its version.
    pub version: u64,
    /// When it was written.
    pub modified_ms: u64,
    /// Its expiry; 0 if it does not expire.
    pub expires_ms: u64,
}

impl Record {
    /// What a [`super::Moment`] judges it by.
    pub fn life(&self) -> Life {
        Life { version: self.version, modified_ms: self.modified_ms, expires_ms: self.expires_ms }
    }
}

/// What a stored form is judged by, without reading the rest.
pub fn peek_life(form: &[u8]) -> Result<Life, StoreError> {
    let mut cursor = Cursor::open(form)?;
    Ok(Life { version: cursor.varint()?, modified_ms: cursor.varint()?, expires_ms: cursor.varint()? })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("a stored record has {what}"))
}

fn put_varint(form: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        form.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    form.put_u8(number as u8);
}

/// A reading position in a stored form.
struct Cursor<'a> {
    form: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Checks the format byte and stands behind it.
    fn open(form: &'a [u8]) -> Result<Cursor<'a>, StoreError> {
        match form.first() {
            None => Err(damaged("no bytes")),
            Some(format) if FORMATS_READ.contains(format) => Ok(Cursor { form, at: 1 }),
            Some(format) => Err(damaged(&format!("the format {format}, which this release does not read"))),
        }
    }

    fn varint(&mut self) -> Result<u64, StoreError> {
        let mut number = 0u64;
        for place in 0..VARINT_BYTES_MAX {
            let byte = *self.form.get(self.at).ok_or_else(|| damaged("no end"))?;
            self.at += 1;
            let overflows = place == VARINT_BYTES_MAX - 1 && byte > 1;
            let padded = place > 0 && byte == 0;
            if overflows || padded {
                return Err(damaged("a number that larder does not write"));
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number without end"))
    }

    /// A length and as many bytes: their place in the form.
    fn block(&mut self) -> Result<std::ops::Range<usize>, StoreError> {
        let length = usize::try_from(self.varint()?).map_err(|_| damaged("a length beyond this machine"))?;
        let start = self.at;
        let end = start.checked_add(length).filter(|end| *end <= self.form.len()).ok_or_else(|| damaged("no end"))?;
        self.at = end;
        Ok(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Record {
        Record {
            version: 300,
            modified_ms: 1_700_000_000_000,
            expires_ms: 0,
            content_type: Bytes::from_static(b"text/plain"),
            value: Bytes::from_static(b"hello"),
        }
    }

    prop_compose! {
        fn any_record()(
            version in prop_oneof![any::<u64>(), 0u64..1000],
            modified_ms in any::<u64>(),
            expires_ms in prop_oneof![Just(0u64), any::<u64>()],
            content_type in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..600),
        ) -> Record {
            Record { version, modified_ms, expires_ms, content_type: content_type.into(), value: value.into() }
        }
    }

    proptest! {
        #[test]
        fn a_record_survives_the_round_trip(record in any_record()) {
            let form = encode(&record);
            prop_assert_eq!(peek_version(&form).unwrap(), record.version);
            prop_assert_eq!(peek_life(&form).unwrap(), record.life());
            prop_assert_eq!(decode(form).unwrap(), record);
        }

        #[test]
        fn every_cut_and_every_extension_is_an_error(record in any_record(), extra in any::<u8>()) {
            let form = encode(&record);
            for length in 0..form.len() {
                prop_assert!(decode(form.slice(..length)).is_err(), "cut to {}", length);
            }
            let mut longer = form.to_vec();
            longer.push(extra);
            prop_assert!(decode(longer.into()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_decode_to_another_form(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = peek_version(&bytes);
            let _ = peek_life(&bytes);
            if let Ok(record) = decode(bytes.clone().into()) {
                prop_assert_eq!(&encode(&record)[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn format_1_stays_what_it_is_byte_by_byte() {
        let expected = b"\x01\xac\x02\x80\xd0\x95\xff\xbc\x31\x00\x0atext/plain\x05hello";
        assert_eq!(&encode(&sample())[..], expected);
    }

    #[test]
    fn the_value_is_not_copied_on_reading() {
        let form = encode(&sample());
        let record = decode(form.clone()).unwrap();
        let inside = form.as_ptr_range();
        assert!(inside.contains(&record.value.as_ptr()) && inside.contains(&record.content_type.as_ptr()));
    }

    #[test]
    fn an_unknown_format_is_an_error_for_every_reader() {
        for format in (0..=255u8).filter(|format| !FORMATS_READ.contains(format)) {
            let mut form = encode(&sample()).to_vec();
            form[0] = format;
            assert!(peek_version(&form).is_err() && peek_life(&form).is_err());
            assert!(matches!(decode(form.into()), Err(StoreError::Corrupt(_))), "format {format}");
        }
    }
}
