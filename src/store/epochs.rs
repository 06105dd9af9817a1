//! By which clock a record's expiry is to be read. Time passes by the boot time alone, which nobody sets and which counts
//! a suspended board's sleep; the wall clock only says what date that is, and may say it wrong.
//!
//! A record holds its expiry as the date that was believed when it was written. An epoch is a stretch of versions with one
//! belief: what has to be added to the boot time to get that date. A corrected wall clock begins a new epoch, and all that
//! was written before it expires when it would have without the correction.
//!
//! The boot time begins anew with each boot, and nobody knows how long the board was off until the wall clock is
//! synchronised. Until then epochs are unsettled: dates that were known before the boot, or that came from outside (an
//! import), are moved when the truth is known; durations that began in this boot are not. The last bit of `modified` tells
//! the two apart in an unsettled epoch: 0 for durations, 1 for dates. It costs a millisecond that nobody vouches for.
//!
//! Invariant: no guess makes a record expire early for good: what is not known counts as if no time had passed, and what
//! was only guessed is taken back when the clock is synchronised. There are [`EPOCHS_MAX`] epochs at most.

use super::record::Life;
use super::{StoreError, Ttl};

/// Epochs remembered; of more than these, the two neighbours that differ least become one, by the later expiry of both.
pub const EPOCHS_MAX: usize = 16;
/// Two clocks that differ by less show the same time.
pub(super) const TOLERANCE_MS: u64 = 1000;

/// The boot that a store was last written in; `None` if the machine does not tell its boots apart.
pub type BootId = Option<[u8; 16]>;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + 1 + 16 + 8 + 8;
const EPOCH_BYTES: usize = 8 + 8 + 8 + 8 + 1;

/// A stretch of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    /// Its first version.
    first: u64,
    /// What to add to the boot time for records whose expiry is a duration after their write, ms.
    duration_ms: i64,
    /// The same for records whose expiry is a date.
    date_ms: i64,
    /// How much of `duration_ms` is a guess about the time between boots.
    guessed_ms: u64,
    /// Whether the clock was synchronised after it, or in it: its boot time and the date are surely linked. Of the last
    /// epoch: also that both clocks are one.
    settled: bool,
}

impl Epoch {
    fn new(first: u64, offset_ms: i64, settled: bool) -> Epoch {
        Epoch { first, duration_ms: offset_ms, date_ms: offset_ms, guessed_ms: 0, settled }
    }

    fn is_date(&self, life: &Life) -> bool {
        self.settled || life.modified_ms & 1 == 1
    }

    fn offset_ms(&self, life: &Life) -> i64 {
        if life.modified_ms & 1 == 1 { self.date_ms } else { self.duration_ms }
    }

    fn shift(&mut self, ms: i64) {
        self.duration_ms = self.duration_ms.saturating_add(ms);
        self.date_ms = self.date_ms.saturating_add(ms);
    }

    /// With the guess taken back, which only makes records expire earlier.
    fn without_guess(self) -> Epoch {
        Epoch { duration_ms: self.duration_ms.saturating_sub_unsigned(self.guessed_ms), guessed_ms: 0, ..self }
    }

    /// How far the clocks of two epochs are apart.
    fn distance_ms(&self, other: &Epoch) -> u64 {
        self.duration_ms.abs_diff(other.duration_ms).max(self.date_ms.abs_diff(other.date_ms))
    }
}

/// All epochs that records may be of, in the order of versions. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs(Vec<Epoch>);

impl Epochs {
    /// Those of a store without history: all there is was, or will be, dated by this clock.
    pub(super) fn new(offset_ms: i64, settled: bool) -> Epochs {
        Epochs(vec![Epoch::new(0, offset_ms, settled)])
    }

    fn last(&self) -> &Epoch {
        self.0.last().expect("there is always an epoch")
    }

    fn of(&self, version: u64) -> &Epoch {
        let behind = self.0.partition_point(|epoch| epoch.first <= version);
        &self.0[behind.saturating_sub(1)]
    }

    /// What to add to the boot time to get the date as it is believed now, ms.
    pub(super) fn belief_ms(&self) -> i64 {
        self.last().date_ms
    }

    /// Whether the last epoch's dates are sure.
    pub(super) fn is_settled(&self) -> bool {
        self.last().settled
    }

    /// What to add to the boot time to get the clock by which this expiry is to be read, ms.
    pub(super) fn offset_ms(&self, life: &Life) -> i64 {
        self.of(life.version).offset_ms(life)
    }

    /// The expiry of a record that is written now in place of `present`, by the belief of now, and its `modified`.
    pub(super) fn stamp(&self, boot_ms: u64, ttl: Ttl, present: Option<Life>, modified_ms: u64) -> (u64, u64) {
        let last = self.last();
        let (expires_ms, is_date) = match (ttl, present.filter(|present| present.expires_ms != 0)) {
            (Ttl::Clear, _) | (Ttl::Keep, None) => return (0, modified_ms),
            (Ttl::Keep, Some(present)) => self.keep(&present),
            (Ttl::At(date_ms), _) => (date_ms, true),
            (Ttl::After(time), _) => {
                let now_ms = boot_ms.saturating_add_signed(last.duration_ms);
                (now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), false)
            }
        };
        let modified_ms = match (last.settled, is_date) {
            (true, _) => modified_ms,
            (false, true) => modified_ms | 1,
            (false, false) => modified_ms.saturating_add(modified_ms & 1),
        };
        (expires_ms.max(1), modified_ms)
    }

    /// The same moment, as the last epoch puts it, and whether that is a date.
    fn keep(&self, present: &Life) -> (u64, bool) {
        let (last, epoch) = (self.last(), self.of(present.version));
        let offset_ms = epoch.offset_ms(present);
        if last.settled || epoch.is_date(present) {
            return (moved(present.expires_ms, offset_ms, last.date_ms), true);
        }
        let sure_ms = offset_ms.saturating_sub_unsigned(epoch.guessed_ms);
        (moved(present.expires_ms, sure_ms, last.duration_ms), false)
    }

    /// The date of a record's expiry as it is believed now.
    pub(super) fn shown_ms(&self, life: &Life) -> u64 {
        moved(life.expires_ms, self.offset_ms(life), self.belief_ms())
    }

    /// A new boot began, whose clocks are this much behind the boot time before, and more, nobody knows how much. The
    /// date is at least `hint_ms` (a battery clock) now. Versions from `next` on are of an epoch of this boot.
    pub(super) fn reboot(&mut self, next: u64, since_ms: i64, boot_ms: u64, hint_ms: u64) {
        let shown_ms = boot_ms.saturating_add_signed(self.belief_ms().saturating_add(since_ms));
        let guess_ms = hint_ms.saturating_sub(shown_ms);
        for epoch in &mut self.0 {
            epoch.shift(since_ms.saturating_add_unsigned(guess_ms));
            if !epoch.settled {
                epoch.guessed_ms = epoch.guessed_ms.saturating_add(guess_ms);
            }
        }
        self.begin(Epoch::new(next, self.belief_ms(), false));
    }

    /// The date is found to be the boot time plus `offset_ms`; if that is `sure`, all epochs are settled by it. Versions
    /// from `next` on are dated so. Tells by how much what is dated was moved.
    pub(super) fn correct(&mut self, next: u64, offset_ms: i64, sure: bool) -> i64 {
        let delta_ms = if self.is_settled() { 0 } else { offset_ms.saturating_sub(self.belief_ms()) };
        let settles = !self.is_settled();
        for epoch in self.0.iter_mut().filter(|_| settles) {
            if epoch.settled {
                epoch.shift(delta_ms);
                continue;
            }
            epoch.date_ms = epoch.date_ms.saturating_add(delta_ms);
            if sure {
                *epoch = Epoch { settled: true, ..epoch.without_guess() };
            }
        }
        let settled = self.is_settled();
        let epoch = Epoch::new(next, offset_ms, settled);
        let tolerance_ms = if settles { 1 } else { TOLERANCE_MS };
        if self.last().distance_ms(&epoch) >= tolerance_ms {
            self.begin(epoch);
        } else {
            self.tidy();
        }
        delta_ms
    }

    /// Which epochs there are: their first versions.
    pub(super) fn firsts(&self) -> Vec<u64> {
        self.0.iter().map(|epoch| epoch.first).collect()
    }

    /// The first version of the epoch that this version is of.
    pub(super) fn first_of(&self, version: u64) -> u64 {
        self.of(version).first
    }

    /// Forgets epochs, given by their first versions, of which no record is left that expires.
    pub(super) fn forget(&mut self, firsts: &[u64]) {
        let last = self.last().first;
        self.0.retain(|epoch| epoch.first == last || !firsts.contains(&epoch.first));
        self.tidy();
    }

    fn begin(&mut self, epoch: Epoch) {
        // One of which there can be no record yet.
        if self.last().first >= epoch.first {
            self.0.pop();
        }
        self.0.push(epoch);
        self.tidy();
    }

    /// Joins epochs that are alike, and more where there are too many. The last one stays as it is.
    fn tidy(&mut self) {
        self.0.dedup_by(|later, earlier| {
            let first = std::mem::replace(&mut later.first, earlier.first);
            let alike = later == earlier;
            later.first = first;
            alike
        });
        while self.0.len() > EPOCHS_MAX {
            // Settled ones come first, so that there are always two of a kind side by side.
            let pairs = self.0[..self.0.len() - 1].windows(2).enumerate();
            let pairs = pairs.filter(|(_, pair)| pair[0].settled == pair[1].settled);
            let Some((_, at)) = pairs.map(|(at, pair)| (pair[0].distance_ms(&pair[1]), at)).min() else { return };
            let later = self.0.remove(at + 1).without_guess();
            let earlier = self.0[at].without_guess();
            self.0[at] = Epoch {
                duration_ms: earlier.duration_ms.min(later.duration_ms),
                date_ms: earlier.date_ms.min(later.date_ms),
                ..earlier
            };
        }
    }
}

/// A moment by one clock, as another shows it. 0 stands for no moment.
fn moved(ms: u64, from_offset_ms: i64, to_offset_ms: i64) -> u64 {
    let moved = i128::from(ms) - i128::from(from_offset_ms) + i128::from(to_offset_ms);
    u64::try_from(moved.max(1)).unwrap_or(u64::MAX)
}

/// The epochs as they stand in the store, with what tells the next start how they go on.
pub(super) struct Saved {
    pub(super) epochs: Epochs,
    pub(super) boot: BootId,
    pub(super) boot_ms: u64,
    /// What was saved beside it as the last known time: if it is another, a release that knows no epochs has written.
    pub(super) clock_ms: u64,
}

impl Saved {
    /// Format 1, little endian: the format; 1 if the boot is known; its id; the boot time; the last known time; then for
    /// each epoch its first version, both clocks, the guess, and 1 if it is settled.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut form = vec![FORMAT, u8::from(self.boot.is_some())];
        form.extend_from_slice(&self.boot.unwrap_or_default());
        form.extend_from_slice(&self.boot_ms.to_le_bytes());
        form.extend_from_slice(&self.clock_ms.to_le_bytes());
        for epoch in &self.epochs.0 {
            form.extend_from_slice(&epoch.first.to_le_bytes());
            form.extend_from_slice(&epoch.duration_ms.to_le_bytes());
            form.extend_from_slice(&epoch.date_ms.to_le_bytes());
            form.extend_from_slice(&epoch.guessed_ms.to_le_bytes());
            form.push(u8::from(epoch.settled));
        }
        form
    }

    pub(super) fn decode(form: &[u8]) -> Result<Saved, StoreError> {
        let damaged =
            || StoreError::Corrupt(format!("{} bytes of metadata that are no epochs of the clock", form.len()));
        let (head, rest) = form.split_at_checked(HEAD_BYTES).ok_or_else(damaged)?;
        let (epochs, left) = rest.as_chunks::<EPOCH_BYTES>();
        let epochs: Vec<Epoch> = epochs.iter().map(Epoch::decode).collect();
        let ordered = epochs.windows(2).all(|pair| pair[0].first < pair[1].first && pair[0].settled >= pair[1].settled);
        if head[0] != FORMAT || !left.is_empty() || epochs.is_empty() || epochs.len() > EPOCHS_MAX || !ordered {
            return Err(damaged());
        }
        let boot = (head[1] == 1).then(|| head[2..18].try_into().expect("16 bytes"));
        Ok(Saved { epochs: Epochs(epochs), boot, boot_ms: number(head, 18), clock_ms: number(head, 26) })
    }
}

impl Epoch {
    fn decode(form: &[u8; EPOCH_BYTES]) -> Epoch {
        Epoch {
            first: number(form, 0),
            duration_ms: number(form, 8) as i64,
            date_ms: number(form, 16) as i64,
            guessed_ms: number(form, 24),
            settled: form[32] == 1,
        }
    }
}

/// Eight bytes of a form, from this place on.
fn number(form: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(form[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
#[path = "epochs_tests.rs"]
mod tests;
