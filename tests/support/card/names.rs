//! Names that were made, moved or removed and are not on the card yet, and what of them a power cut leaves.
//!
//! It knows numbers of folders and files, not the files. A change is wholly kept or wholly lost.
//! Invariant: what is kept is closed towards the past: in the strict model within each folder, else over the whole card.

use std::collections::HashMap;
use std::ffi::OsString;

use super::seeded::Seeded;

/// What makes a name durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// The sync of anything makes all earlier names durable, as on ext4, whose journal carries them along.
    #[default]
    Ext4Like,
    /// Only the sync of the folder that a name is in, as POSIX has it: a synced file whose folder was not synced is
    /// gone, and with a folder that has lost its own name goes all that is in it.
    ///
    /// A move within a folder is one change. A move from one folder to another is two, the new name and then the loss of
    /// the old one, each durable with its own folder; but an old name never goes before the new one is there, so a sync
    /// of the old folder alone takes the new name along (with what came before it in its folder), and a sync of the new
    /// folder alone can leave the file under both names.
    Strict,
}

/// A name in a folder, and what it stands for.
#[derive(Clone, Debug)]
pub struct Entry {
    pub folder: u64,
    pub name: OsString,
    pub before: Option<u64>,
    pub after: Option<u64>,
}

/// One change of names; in the strict model all its entries are of one folder.
struct Change {
    number: u64,
    entries: Vec<Entry>,
    /// A change that is never lost when this one is kept.
    needs: Option<u64>,
}

impl Change {
    fn is_in(&self, folder: u64) -> bool {
        self.entries.iter().any(|entry| entry.folder == folder)
    }
}

/// The changes that are not on the card, oldest first.
pub struct UnsyncedNames {
    model: Names,
    changes: Vec<Change>,
    next: u64,
}

impl UnsyncedNames {
    pub fn new(model: Names) -> UnsyncedNames {
        UnsyncedNames { model, changes: Vec::new(), next: 0 }
    }

    /// A name was made or removed.
    pub fn note(&mut self, entry: Entry) {
        self.push(vec![entry], None);
    }

    /// A move: the loss of the old name and the new one.
    pub fn note_move(&mut self, from: Entry, to: Entry) {
        if from.folder == to.folder || self.model == Names::Ext4Like {
            self.push(vec![from, to], None);
        } else {
            let needed = self.push(vec![to], None);
            self.push(vec![from], Some(needed));
        }
    }

    fn push(&mut self, entries: Vec<Entry>, needs: Option<u64>) -> u64 {
        self.next += 1;
        self.changes.push(Change { number: self.next, entries, needs });
        self.next
    }

    /// The last change so far: what a sync that begins now covers.
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// The sync of a file or folder that began at a mark has ended. Hands back what was in the changes that are durable
    /// now.
    pub fn synced(&mut self, inode: u64, mark: u64) -> Vec<Entry> {
        let mut covered: HashMap<u64, u64> = HashMap::new();
        if self.model == Names::Strict {
            covered.insert(inode, mark);
            while let Some((folder, until)) = self.needed_beyond(&covered) {
                covered.insert(folder, until);
            }
        }
        let is_durable = |change: &Change| match self.model {
            Names::Ext4Like => change.number <= mark,
            Names::Strict => {
                change.entries.iter().any(|entry| covered.get(&entry.folder).is_some_and(|&m| change.number <= m))
            }
        };
        let (durable, pending) = std::mem::take(&mut self.changes).into_iter().partition(is_durable);
        self.changes = pending;
        let durable: Vec<Change> = durable;
        durable.into_iter().flat_map(|change| change.entries).collect()
    }

    /// A folder that has to be covered further than it is, since a covered change needs one of its changes.
    fn needed_beyond(&self, covered: &HashMap<u64, u64>) -> Option<(u64, u64)> {
        let is_covered =
            |change: &&Change| covered.get(&change.entries[0].folder).is_some_and(|&until| change.number <= until);
        let needed = self.changes.iter().filter(is_covered).filter_map(|change| change.needs);
        let mut needed = needed.filter_map(|number| self.changes.iter().find(|change| change.number == number));
        needed.find(|change| !is_covered(change)).map(|change| (change.entries[0].folder, change.number))
    }

    /// Whether a file or folder is in a change that may still be taken back.
    pub fn mention(&self, inode: u64) -> bool {
        let mut entries = self.changes.iter().flat_map(|change| &change.entries);
        entries.any(|entry| entry.before == Some(inode) || entry.after == Some(inode))
    }

    /// What each name that is not durable stands for after a power cut: as of the last syncs, or with a drawn part of
    /// the changes since.
    pub fn cut_power(&self, drawn: Option<&mut Seeded>) -> Vec<Entry> {
        let is_kept = match drawn {
            None => vec![false; self.changes.len()],
            Some(drawn) => self.draw(drawn),
        };
        let mut names: Vec<Entry> = Vec::new();
        let mut places: HashMap<(u64, OsString), usize> = HashMap::new();
        for (change, is_kept) in self.changes.iter().zip(is_kept) {
            for entry in &change.entries {
                let place = *places.entry((entry.folder, entry.name.clone())).or_insert_with(|| {
                    names.push(Entry { after: entry.before, ..entry.clone() });
                    names.len() - 1
                });
                if is_kept {
                    names[place].after = entry.after;
                }
            }
        }
        names
    }

    fn draw(&self, drawn: &mut Seeded) -> Vec<bool> {
        let mut prefix = |length: usize| match drawn.below(5) {
            0 => 0,
            1 => length,
            _ => drawn.below(length as u64 + 1) as usize,
        };
        if self.model == Names::Ext4Like {
            let kept = prefix(self.changes.len());
            return (0..self.changes.len()).map(|place| place < kept).collect();
        }
        let mut is_kept = vec![false; self.changes.len()];
        let mut seen = Vec::new();
        for change in &self.changes {
            let folder = change.entries[0].folder;
            if seen.contains(&folder) {
                continue;
            }
            seen.push(folder);
            let places: Vec<usize> = (0..self.changes.len()).filter(|&at| self.changes[at].is_in(folder)).collect();
            let kept = prefix(places.len());
            places[..kept].iter().for_each(|&place| is_kept[place] = true);
        }
        while let Some(place) = self.kept_without_need(&is_kept) {
            let folder = self.changes[place].entries[0].folder;
            for (later, change) in self.changes.iter().enumerate().skip(place) {
                is_kept[later] &= !change.is_in(folder);
            }
        }
        is_kept
    }

    fn kept_without_need(&self, is_kept: &[bool]) -> Option<usize> {
        let lost =
            |number: u64| self.changes.iter().zip(is_kept).any(|(change, kept)| change.number == number && !kept);
        (0..self.changes.len()).find(|&place| is_kept[place] && self.changes[place].needs.is_some_and(lost))
    }
}
