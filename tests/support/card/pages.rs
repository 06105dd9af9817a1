//! What of one file is not on the card: what each page held before each write since the last sync, and each length.
//!
//! Invariant: the oldest state of every page together with the oldest length is the file as of its last sync.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::seeded::Seeded;

/// What a card writes at once.
pub const PAGE_BYTES: u64 = 4096;
/// What of a page is written wholly or not at all, whenever the power fails.
const SECTOR_BYTES: usize = 512;

const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// The bytes of a page, zeros behind the end of the file; `None` if they are all zeros.
type Image = Option<Box<[u8]>>;

/// What is not synced of a file.
#[derive(Default)]
pub struct Unsynced {
    pages: BTreeMap<u64, Page>,
    lengths: Vec<EarlierLength>,
}

#[derive(Default)]
struct Page {
    /// Oldest first. Empty if nobody has to remember.
    earlier: Vec<Earlier>,
    /// Whether a sync would write it.
    dirty: bool,
    /// A sync of it failed: the system holds it for clean from then on, and no later sync writes it.
    forgotten: bool,
}

/// What a page held before the change of a moment.
struct Earlier {
    moment: u64,
    image: Image,
    /// The file was cut short in this page or before it.
    cut: bool,
}

/// How long the file was before the change of a moment.
struct EarlierLength {
    moment: u64,
    bytes: u64,
    /// It became shorter.
    cut: bool,
}

/// What a sync that has begun will have written.
pub struct DataMark {
    moment: u64,
    pages: Vec<u64>,
    /// Bytes that go to the card.
    pub bytes: u64,
}

impl Unsynced {
    /// Whether all is on the card.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.lengths.is_empty()
    }

    /// Pages that a sync would write.
    pub fn dirty_pages(&self) -> u64 {
        self.pages.values().filter(|page| page.dirty).count() as u64
    }

    /// Before a write. `moment`: when, if what was there has to be remembered.
    pub fn write(&mut self, file: &File, offset: u64, bytes: u64, moment: Option<u64>) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        for number in offset / PAGE_BYTES..=(offset + bytes - 1) / PAGE_BYTES {
            let earlier = moment.map(|moment| Earlier::read(file, number, moment, false)).transpose()?;
            let page = self.pages.entry(number).or_default();
            page.earlier.extend(earlier);
            (page.dirty, page.forgotten) = (true, false);
        }
        if let Some(moment) = moment {
            let before = file.metadata()?.len();
            if offset + bytes > before {
                self.lengths.push(EarlierLength { moment, bytes: before, cut: false });
            }
        }
        Ok(())
    }

    /// Before the length becomes another.
    pub fn set_length(&mut self, file: &File, length: u64, moment: Option<u64>) -> io::Result<()> {
        let before = file.metadata()?.len();
        let cut = length < before;
        if let Some(moment) = moment.filter(|_| length != before) {
            let gone = if cut { length / PAGE_BYTES..before.div_ceil(PAGE_BYTES) } else { 0..0 };
            for number in gone {
                let earlier = Earlier::read(file, number, moment, true)?;
                if earlier.image.is_some() || self.pages.contains_key(&number) {
                    self.pages.entry(number).or_default().earlier.push(earlier);
                }
            }
            self.lengths.push(EarlierLength { moment, bytes: before, cut });
        }
        for (_, page) in self.pages.range_mut(length.div_ceil(PAGE_BYTES)..) {
            (page.dirty, page.forgotten) = (false, false);
        }
        self.forget_what_is_synced();
        Ok(())
    }

    fn forget_what_is_synced(&mut self) {
        self.pages.retain(|_, page| page.dirty || !page.earlier.is_empty());
    }

    /// A sync begins.
    pub fn begin_sync(&mut self, moment: u64) -> DataMark {
        let bytes = self.dirty_pages() * PAGE_BYTES;
        let pages = self.pages.iter_mut().filter(|(_, page)| !page.forgotten).map(|(number, page)| {
            page.dirty = false;
            *number
        });
        DataMark { moment, pages: pages.collect(), bytes }
    }

    /// The sync has ended well.
    pub fn end_sync(&mut self, mark: &DataMark) {
        for number in &mark.pages {
            if let Some(page) = self.pages.get_mut(number) {
                page.earlier.retain(|earlier| earlier.moment >= mark.moment);
            }
        }
        self.lengths.retain(|length| length.moment >= mark.moment);
        self.forget_what_is_synced();
    }

    /// The sync has failed. With `forget`, what it was to write, and has not been written to since, will never be
    /// written.
    pub fn fail_sync(&mut self, mark: &DataMark, forget: bool) {
        for number in &mark.pages {
            if let Some(page) = self.pages.get_mut(number) {
                page.forgotten = forget && !page.dirty;
                page.dirty = !page.forgotten;
            }
        }
        self.forget_what_is_synced();
    }

    /// Makes the file what it is after a power cut: as of its last sync, or with a drawn part of what came since.
    ///
    /// What was written in place may be there or not, page by page, in any of its states, torn between two of them at a
    /// sector's edge. Cutting a file short is the file system's own doing, and that keeps its order: a cut that is lost
    /// loses all later changes of the file, and a cut that is kept leaves nothing from before it behind the new end.
    pub fn cut_power(&self, file: &File, drawn: Option<&mut Seeded>) -> io::Result<()> {
        let Some(drawn) = drawn else {
            let oldest = |page: &Page| page.earlier.first().map(|earlier| earlier.image.clone());
            let length = self.lengths.first().map(|length| length.bytes);
            return restore(file, self.pages.iter().filter_map(|(n, page)| Some((*n, oldest(page)?))), length);
        };
        let cuts: Vec<u64> = self.lengths.iter().filter(|length| length.cut).map(|length| length.moment).collect();
        let lost_from = match drawn.below(cuts.len() as u64 + 1) as usize {
            0 => u64::MAX,
            n => cuts[n - 1],
        };
        // Often the system had just written all of it, or nothing yet.
        let kept_percent = *drawn.one_of(&[0, 20, 50, 50, 80, 100]);
        let mut chosen = Vec::new();
        for (number, page) in &self.pages {
            if let Some(image) = page.draw(file, *number, lost_from, kept_percent, drawn)? {
                chosen.push((*number, image));
            }
        }
        let first = self.lengths.iter().rposition(|length| length.cut && length.moment < lost_from);
        let first = first.map_or(0, |kept| kept + 1);
        let last = self.lengths.partition_point(|length| length.moment < lost_from);
        let state = if drawn.percent(kept_percent) { last } else { drawn.between(first as u64, last as u64) as usize };
        restore(file, chosen.into_iter(), self.lengths.get(state).map(|length| length.bytes))
    }
}

impl Page {
    /// What is there after the power cut; `None`: what is there now.
    fn draw(
        &self,
        file: &File,
        number: u64,
        lost_from: u64,
        kept_percent: u64,
        drawn: &mut Seeded,
    ) -> io::Result<Option<Image>> {
        let kept_cut = self.earlier.iter().rposition(|earlier| earlier.cut && earlier.moment < lost_from);
        let first = kept_cut.map_or(0, |kept| kept + 1);
        let last = self.earlier.partition_point(|earlier| earlier.moment < lost_from);
        let image = |state: usize| match self.earlier.get(state) {
            Some(earlier) => Ok(earlier.image.clone()),
            None => read_page(file, number),
        };
        let other = drawn.between(first as u64, last as u64) as usize;
        let state = match drawn.below(100) {
            0..15 if other < last => return Ok(Some(torn(&image(other)?, &image(last)?, drawn))),
            15..25 => other,
            _ if drawn.percent(kept_percent) => last,
            _ => first,
        };
        if state == self.earlier.len() { Ok(None) } else { image(state).map(Some) }
    }
}

/// A page of which some sectors are old and some new.
fn torn(old: &Image, new: &Image, drawn: &mut Seeded) -> Image {
    let zeros = vec![0; PAGE_BYTES as usize].into_boxed_slice();
    let (old, new) = (old.as_ref().unwrap_or(&zeros), new.as_ref().unwrap_or(&zeros));
    let sectors = PAGE_BYTES as usize / SECTOR_BYTES;
    // Mostly the first ones, as a card writes; else any, as its controller may.
    let (in_order, end) = (drawn.percent(70), drawn.between(1, sectors as u64 - 1) as usize);
    let mut bytes = Vec::with_capacity(PAGE_BYTES as usize);
    for sector in 0..sectors {
        let is_new = if in_order { sector < end } else { drawn.percent(50) };
        let from = if is_new { new } else { old };
        bytes.extend_from_slice(&from[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]);
    }
    Some(bytes.into_boxed_slice())
}

impl Earlier {
    fn read(file: &File, number: u64, moment: u64, cut: bool) -> io::Result<Earlier> {
        Ok(Earlier { moment, image: read_page(file, number)?, cut })
    }
}

fn read_page(file: &File, number: u64) -> io::Result<Image> {
    let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], number * PAGE_BYTES + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok((bytes[..] != ZEROS).then_some(bytes))
}

/// Writes pages, and gives the file its length: this one, or the one that it has.
fn restore(file: &File, pages: impl Iterator<Item = (u64, Image)>, length: Option<u64>) -> io::Result<()> {
    let length = length.map_or_else(|| file.metadata().map(|metadata| metadata.len()), Ok)?;
    for (number, image) in pages.filter(|(number, _)| number * PAGE_BYTES < length) {
        file.write_all_at(image.as_deref().unwrap_or(&ZEROS), number * PAGE_BYTES)?;
    }
    file.set_len(length)
}
