//! The journal format of fjall 3.1, read independently of fjall: where does a journal stop being good, is there anything
//! good behind that spot, and what do its batches say?
//!
//! It never writes, and it judges bytes, not policy: what to do about a bad spot is for [`super::recovery`].
//! Invariant: memory stays at one window of 64 KiB whatever the journal holds, and time is bounded also for a journal
//! whose values were made to look like batches.
//!
//! A journal is a row of batches, then perhaps zeros (files are made 64 MiB long at once). A batch, little-endian:
//!
//! | part | bytes |
//! |---|---|
//! | start | tag 1, items `u32`, sequence number `u64` |
//! | item, value | tag 2, kind `u8` (0 value, 1 and 2 tombstones), compression `u8` (0 none, 1 LZ4), keyspace `u64`, key length `u16`, value length `u32`, stored length `u32`, key, stored value |
//! | item, clear | tag 4, keyspace `u64` |
//! | end | tag 3, xxh3 of all items `u64`, `FJL` and 3 |

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

const WINDOW_BYTES: usize = 64 * 1024;
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const START_BYTES: u64 = 13;
const ITEM_HEAD_BYTES: u64 = 21;
const CLEAR_BYTES: u64 = 9;
const END_BYTES: u64 = 13;
const END_MAGIC: &[u8; 4] = b"FJL\x03";
/// A search behind a bad spot may walk and hash this many times the length of the journal, then it gives up.
const SEARCH_EFFORT: u64 = 8;
/// The search may always spend this much, so that small journals are searched to the end.
const SEARCH_EFFORT_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// More sequence numbers than this between two batches are damage.
const SEQNO_GAP_MAX: u64 = 1 << 32;
/// Larger values than larder may be set to store (64 MiB, with what it writes around them) are none of a journal's.
const VALUE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// No board lives to see this sequence number.
const SEQNO_MAX: u64 = 1 << 56;

/// What a journal turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the last batch of the good beginning ends.
    pub(super) good_bytes: u64,
    /// The sequence number of its first batch; `None`: there is none.
    pub(super) first_seqno: Option<u64>,
    /// The highest sequence number in the good beginning.
    pub(super) last_seqno: Option<u64>,
    /// Whether the sequence numbers of the good beginning only grow, as fjall needs them to.
    pub(super) ordered: bool,
    /// What follows it.
    pub(super) rest: Rest,
}

/// What follows the good beginning of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing, or zeros.
    Empty,
    /// Bytes that are no whole batch, and no whole batch behind them.
    Torn {
        /// From the end of the good beginning to the last byte that is not zero.
        bytes: u64,
    },
    /// A bad spot with whole batches behind it, or one that was too much work to search behind.
    Damaged {
        /// From the end of the good beginning to the last byte that is not zero.
        bytes: u64,
        /// Whole, verified batches behind the bad spot.
        batches_behind: u64,
    },
}

impl Rest {
    /// Bytes up to the last one that is not zero, and whole batches among them.
    pub(super) fn extent(&self) -> (u64, u64) {
        match *self {
            Rest::Empty => (0, 0),
            Rest::Torn { bytes } => (bytes, 0),
            Rest::Damaged { bytes, batches_behind } => (bytes, batches_behind),
        }
    }
}

/// Reads a whole journal and says where it stops being good.
pub(super) fn scan(file: &File) -> io::Result<Scan> {
    let mut reader = Reader::open(file)?;
    let mut good_bytes = 0;
    let (mut first_seqno, mut last_seqno) = (None, None);
    let mut ordered = true;
    // A whole batch that begins just where the one before ends is real, whatever its number: the number stands under no
    // checksum, and a store that lost a keyspace has given some out twice.
    while let Some(batch) = reader.batch(good_bytes)? {
        good_bytes = batch.end;
        ordered &= batch.follows(last_seqno);
        first_seqno.get_or_insert(batch.seqno);
        last_seqno = last_seqno.max(Some(batch.seqno));
    }
    let Some(last_set) = reader.last_nonzero(good_bytes)? else {
        return Ok(Scan { good_bytes, first_seqno, last_seqno, ordered, rest: Rest::Empty });
    };
    let bytes = last_set + 1 - good_bytes;
    let after_seqno = last_seqno.filter(|_| ordered);
    let (batches_behind, searched_all) = reader.search(good_bytes + 1, last_set, after_seqno)?;
    let rest = if batches_behind == 0 && searched_all {
        Rest::Torn { bytes }
    } else {
        Rest::Damaged { bytes, batches_behind }
    };
    Ok(Scan { good_bytes, first_seqno, last_seqno, ordered, rest })
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// fjall's number of the keyspace.
    pub(super) keyspace: u64,
    pub(super) key: Bytes,
    /// `None`: removed.
    pub(super) value: Option<Bytes>,
}

/// Gives the batches of a journal's good beginning in their order, each with all its changes.
pub(super) fn for_each_batch<E: From<io::Error>>(
    file: &File,
    mut each: impl FnMut(Vec<Item>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader::open(file)?;
    let mut at = 0;
    while let Some(batch) = reader.batch(at)? {
        each(reader.items(&batch)?)?;
        at = batch.end;
    }
    Ok(())
}

/// A batch that is whole: its structure holds, and once verified its checksum too.
struct Batch {
    items_start: u64,
    items_end: u64,
    end: u64,
    seqno: u64,
    checksum: u64,
}

impl Batch {
    /// Whether this may be the next batch of a journal. Sequence numbers stand under no checksum, but they only grow,
    /// by one a commit and a few more for each flush and compaction.
    fn follows(&self, last_seqno: Option<u64>) -> bool {
        let next = last_seqno.map_or(0, |last| last.saturating_add(1));
        (next..next.saturating_add(SEQNO_GAP_MAX)).contains(&self.seqno)
            || (last_seqno.is_none() && self.seqno < SEQNO_MAX)
    }
}

/// A file seen through one window.
struct Reader<'a> {
    file: &'a File,
    length: u64,
    window: Vec<u8>,
    window_start: u64,
    /// Bytes read, walked or hashed so far.
    effort: u64,
}

impl<'a> Reader<'a> {
    fn open(file: &'a File) -> io::Result<Reader<'a>> {
        let length = file.metadata()?.len();
        Ok(Reader { file, length, window: Vec::with_capacity(WINDOW_BYTES), window_start: 0, effort: 0 })
    }

    /// What the file holds from `at` on: at most a window, at least one byte; empty at the end of the file.
    fn bytes_at(&mut self, at: u64) -> io::Result<&[u8]> {
        self.bytes_at_least(at, 1)
    }

    /// The same with at least `count` bytes, unless the file ends before.
    fn bytes_at_least(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let held_end = self.window_start + self.window.len() as u64;
        if at < self.window_start || at + count as u64 > held_end {
            self.fill(at)?;
        }
        let skip = (at - self.window_start).min(self.window.len() as u64) as usize;
        Ok(&self.window[skip..])
    }

    fn fill(&mut self, at: u64) -> io::Result<()> {
        self.window.resize(WINDOW_BYTES, 0);
        self.window_start = at;
        let mut filled = 0;
        while filled < WINDOW_BYTES {
            match self.file.read_at(&mut self.window[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        self.effort += filled as u64;
        Ok(())
    }

    /// Exactly so many bytes at `at`, or `None` if the file ends before.
    fn array<const N: usize>(&mut self, at: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.bytes_at_least(at, N)?.first_chunk::<N>().copied())
    }

    /// The whole, verified batch at `at`, if there is one.
    fn batch(&mut self, at: u64) -> io::Result<Option<Batch>> {
        let Some(batch) = self.walk(at)? else { return Ok(None) };
        let holds = self.hash(batch.items_start, batch.items_end)? == batch.checksum;
        Ok(holds.then_some(batch))
    }

    /// The batch at `at` judged by its structure alone.
    fn walk(&mut self, at: u64) -> io::Result<Option<Batch>> {
        let Some(start) = self.array::<{ START_BYTES as usize }>(at)? else { return Ok(None) };
        let items = u32_at(&start, 1);
        if start[0] != TAG_START || items == 0 {
            return Ok(None);
        }
        let items_start = at + START_BYTES;
        let mut position = items_start;
        for _ in 0..items {
            match self.item_bytes(position)? {
                Some(bytes) => position += bytes,
                None => return Ok(None),
            }
            self.effort += ITEM_HEAD_BYTES;
        }
        let Some(end) = self.array::<{ END_BYTES as usize }>(position)? else { return Ok(None) };
        if end[0] != TAG_END || &end[9..] != END_MAGIC {
            return Ok(None);
        }
        let (seqno, checksum) = (u64_at(&start, 5), u64_at(&end, 1));
        Ok(Some(Batch { items_start, items_end: position, end: position + END_BYTES, seqno, checksum }))
    }

    /// The length of the item at `at`, if it looks like one and ends within the file.
    fn item_bytes(&mut self, at: u64) -> io::Result<Option<u64>> {
        let bytes = match self.bytes_at(at)?.first() {
            Some(&TAG_CLEAR) => CLEAR_BYTES,
            Some(&TAG_ITEM) => {
                let Some(head) = self.array::<{ ITEM_HEAD_BYTES as usize }>(at)? else { return Ok(None) };
                let (kind, compression) = (head[1], head[2]);
                let key_bytes = u64::from(u16::from_le_bytes([head[11], head[12]]));
                let (value_bytes, stored_bytes) = (u32_at(&head, 13), u32_at(&head, 17));
                if kind > 2 || compression > 1 || (compression == 0 && value_bytes != stored_bytes) {
                    return Ok(None);
                }
                ITEM_HEAD_BYTES + key_bytes + u64::from(stored_bytes)
            }
            _ => return Ok(None),
        };
        Ok((at + bytes <= self.length).then_some(bytes))
    }

    /// The changes of a batch that [`Reader::batch`] has found whole.
    fn items(&mut self, batch: &Batch) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut at = batch.items_start;
        while at < batch.items_end {
            let (Some(head), Some(bytes)) = (self.array::<{ ITEM_HEAD_BYTES as usize }>(at)?, self.item_bytes(at)?)
            else {
                return Err(unknown("an item that is none"));
            };
            if head[0] != TAG_ITEM || head[2] != 0 {
                return Err(unknown("a compressed value or a cleared keyspace, which larder never writes"));
            }
            let key_bytes = u64::from(u16::from_le_bytes([head[11], head[12]]));
            let key_start = at + ITEM_HEAD_BYTES;
            let key = self.copy(key_start, key_start + key_bytes)?;
            let value = self.copy(key_start + key_bytes, at + bytes)?;
            items.push(Item { keyspace: u64_at(&head, 3), key, value: (head[1] == 0).then_some(value) });
            at += bytes;
        }
        Ok(items)
    }

    fn copy(&mut self, mut at: u64, end: u64) -> io::Result<Bytes> {
        let bytes = usize::try_from(end - at).ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| unknown("a value that is larger than any that larder writes"))?;
        let mut copied = Vec::with_capacity(bytes);
        while at < end {
            let bytes = self.bytes_at(at)?;
            let count = (bytes.len() as u64).min(end - at) as usize;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            copied.extend_from_slice(&bytes[..count]);
            at += count as u64;
        }
        Ok(copied.into())
    }

    fn hash(&mut self, start: u64, end: u64) -> io::Result<u64> {
        let mut hasher = Xxh3::new();
        let mut at = start;
        while at < end {
            let bytes = self.bytes_at(at)?;
            let count = (bytes.len() as u64).min(end - at) as usize;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&bytes[..count]);
            at += count as u64;
        }
        self.effort += end - start;
        Ok(hasher.digest())
    }

    /// The place of the last byte from `at` on that is not zero. Skips holes without reading them.
    fn last_nonzero(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        let mut last = None;
        while let Some(data) = self.next_data(at)? {
            let bytes = self.bytes_at(data)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(place) = bytes.iter().rposition(|byte| *byte != 0) {
                last = Some(data + place as u64);
            }
            at = data + bytes.len() as u64;
        }
        Ok(last)
    }

    /// Where the next allocated bytes are from `at` on, on file systems that know.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(place) => Ok(Some(place)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    /// Counts whole batches that begin from `at` to `until`, and says whether the search got there.
    ///
    /// A batch whose sequence number does not follow is no batch of this journal's: it is part of a value.
    fn search(&mut self, mut at: u64, until: u64, after_seqno: Option<u64>) -> io::Result<(u64, bool)> {
        let effort_max =
            self.effort.saturating_add(SEARCH_EFFORT_MIN_BYTES.max(SEARCH_EFFORT.saturating_mul(self.length)));
        let mut found = 0;
        let mut last_seqno = after_seqno;
        while at <= until {
            let bytes = self.bytes_at(at)?;
            if bytes.is_empty() {
                break;
            }
            let Some(place) = bytes.iter().position(|byte| *byte == TAG_START) else {
                at += bytes.len() as u64;
                continue;
            };
            at += place as u64;
            match self.batch(at)? {
                Some(batch) if batch.follows(last_seqno) => {
                    found += 1;
                    last_seqno = Some(batch.seqno);
                    at = batch.end;
                }
                _ => at += 1,
            }
            if self.effort > effort_max {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }
}

fn unknown(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the journal holds {what}"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A batch with one item of this value, as fjall writes it.
    fn batch(seqno: u64, value: &[u8]) -> Vec<u8> {
        let mut items = vec![TAG_ITEM, 0, 0];
        items.extend_from_slice(&1u64.to_le_bytes());
        items.extend_from_slice(&1u16.to_le_bytes());
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        items.extend_from_slice(&[length, length].concat());
        items.push(b'k');
        items.extend_from_slice(value);
        let mut hasher = Xxh3::new();
        hasher.update(&items);
        let mut out = vec![TAG_START];
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&seqno.to_le_bytes());
        out.extend_from_slice(&items);
        out.push(TAG_END);
        out.extend_from_slice(&hasher.digest().to_le_bytes());
        out.extend_from_slice(END_MAGIC);
        out
    }

    /// A file that is sparse between its pieces.
    fn file(pieces: &[(u64, &[u8])], length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn places_and_lengths_beyond_32_bits_are_no_shorter_ones() {
        const FAR: u64 = 1 << 32;
        let one = batch(7, b"value");
        let good = one.len() as u64;
        let whole =
            Scan { good_bytes: good, first_seqno: Some(7), last_seqno: Some(7), ordered: true, rest: Rest::Empty };
        // Where 2^32 is taken for 0, what follows is looked for in the wrong place, or for ever.
        for length in [FAR, FAR + good, 3 * FAR] {
            assert_eq!(scan(&file(&[(0, &one)], length)).unwrap(), whole, "{length}");
        }
        let far = file(&[(0, &one), (FAR + good, &one), (2 * FAR, b"end")], 2 * FAR + 3);
        let mut reader = Reader::open(&far).unwrap();
        for at in [0, FAR + good] {
            assert_eq!(reader.batch(at).unwrap().map(|batch| batch.end), Some(at + good));
        }
        assert!(reader.batch(FAR).unwrap().is_none());
        assert_eq!(reader.last_nonzero(FAR + 2 * good).unwrap(), Some(2 * FAR + 2));
    }

    #[test]
    fn an_item_that_says_it_is_huge_ends_the_good_beginning() {
        for (value_bytes, length) in
            [(u32::MAX, 1 << 20), (u32::MAX, 1 << 31), (u32::MAX - 21, 1 << 20), (1 << 31, 1 << 20)]
        {
            let mut crafted = batch(8, b"value");
            let lengths = 13 + 13;
            for at in [lengths, lengths + 4] {
                crafted[at..at + 4].copy_from_slice(&u32::to_le_bytes(value_bytes));
            }
            let one = batch(7, b"value");
            let good = one.len() as u64;
            let scan = scan(&file(&[(0, &one), (good, &crafted)], length)).unwrap();
            assert_eq!((scan.good_bytes, scan.last_seqno), (good, Some(7)), "{value_bytes} {length}");
            let mut batches = 0;
            let each = |_| -> io::Result<()> {
                batches += 1;
                Ok(())
            };
            for_each_batch(&file(&[(0, &one), (good, &crafted)], length), each).unwrap();
            assert_eq!(batches, 1, "{value_bytes} {length}");
        }
    }

    #[test]
    fn no_sequence_number_overflows_what_is_made_of_it() {
        for seqno in [u64::MAX, u64::MAX - 1, SEQNO_MAX, 1 << 32] {
            let bytes =
                [batch(seqno, b"a"), batch(seqno.wrapping_add(1), b"b"), batch(3, b"c"), b"torn".to_vec()].concat();
            let scan = scan(&file(&[(0, &bytes)], bytes.len() as u64)).unwrap();
            assert_eq!(scan.first_seqno, Some(seqno));
            assert!(!scan.ordered, "{seqno}");
        }
    }
}
