//! How a value gets from the thread that saw it into the histograms: not a store of figures, only the way there.
//!
//! Every thread that records has a list of its own, [`SAMPLES_MAX`] long, behind a mutex that only it and the scrape
//! take. A full list is poured into the histograms by its thread, a partly filled one by the scrape, by the ticker or by
//! the end of the thread. A list costs 4 KB where a histogram for each thread, route and status class would cost 10 KB
//! each: 8 MB for 20 routes, 5 classes and 8 threads.
//!
//! Invariant: a sample is poured exactly once, and the page shows every sample recorded before it was asked for.
//! Lock order: a thread's list, then the table of slots, then one window.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::counter::Counter;
use super::window::{SLICE_SECONDS, Window};

/// Samples a thread keeps before it pours them out.
const SAMPLES_MAX: usize = 512;
/// The value of a sample that is counted and not timed.
const UNTIMED: u32 = u32::MAX;

/// What a sample counts for.
pub(super) struct Slot {
    /// Counts every sample, timed or not.
    pub counters: Vec<Counter>,
    /// Receives the value of timed samples.
    pub window: Option<Arc<Mutex<Window>>>,
}

/// The number of a slot in the table of its hub.
pub(super) type SlotNumber = u32;

#[derive(Clone, Copy)]
struct Sample {
    slot: SlotNumber,
    value: u32,
}

/// The list of one thread.
#[derive(Default)]
struct Recorder {
    samples: Mutex<Vec<Sample>>,
}

/// Where all lists of one registry end.
pub(super) struct Hub {
    number: u64,
    started: Instant,
    /// The slice that is open now.
    slice: AtomicU64,
    /// Grows only: a slot number stays valid.
    slots: RwLock<Vec<Slot>>,
    recorders: Mutex<Vec<Arc<Recorder>>>,
}

/// Names a request series by the addresses of its texts, which live as long as the process: nothing is compared or hashed
/// byte by byte on the hot path. Equal texts at two addresses find the same slot on the slow path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SeriesKey {
    route: (usize, usize),
    method: (usize, usize),
    code: (usize, usize),
    status: u16,
}

impl SeriesKey {
    pub fn new(route: &'static str, method: &'static str, status: u16, code: Option<&'static str>) -> SeriesKey {
        let address = |text: &'static str| (text.as_ptr() as usize, text.len());
        SeriesKey { route: address(route), method: address(method), code: code.map_or((0, 0), address), status }
    }
}

impl Hash for SeriesKey {
    /// One word: addresses of texts differ in their low bits, and the status in its own.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let texts = self.route.0 ^ self.method.0.rotate_left(16) ^ self.code.0.rotate_left(32);
        state.write_usize(texts ^ usize::from(self.status).rotate_left(20));
    }
}

/// What a thread keeps for one registry.
struct Local {
    hub_number: u64,
    hub: Weak<Hub>,
    recorder: Arc<Recorder>,
    known: HashMap<SeriesKey, SlotNumber, foldhash::fast::RandomState>,
}

thread_local! {
    /// One entry for each registry this thread has recorded into: one, outside of tests.
    static LOCALS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Local {
    /// The thread ends: what it still holds is poured, and its list is released.
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.pour(&mut self.recorder.samples.lock());
            hub.recorders.lock().retain(|recorder| !Arc::ptr_eq(recorder, &self.recorder));
        }
    }
}

impl Hub {
    pub fn new() -> Hub {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Hub {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            slice: AtomicU64::new(0),
            slots: RwLock::new(Vec::new()),
            recorders: Mutex::new(Vec::new()),
        }
    }

    /// Adds a slot.
    pub fn add_slot(&self, slot: Slot) -> SlotNumber {
        let mut slots = self.slots.write();
        slots.push(slot);
        SlotNumber::try_from(slots.len() - 1).expect("slots are as many as routes, methods and statuses in the source")
    }

    /// Records a value in a slot; `None` counts it without a value.
    pub fn record(self: &Arc<Hub>, slot: SlotNumber, value: Option<u64>) {
        let sample = Sample { slot, value: sample_value(value) };
        let recorded =
            LOCALS.try_with(|locals| self.with_local(&mut locals.borrow_mut(), |local| self.push(local, sample)));
        if recorded.is_err() {
            self.pour(&mut vec![sample]);
        }
    }

    /// Records a value in the slot that `key` names, which `find` looks up the first time this thread sees it.
    pub fn record_keyed(self: &Arc<Hub>, key: SeriesKey, value: Option<u64>, find: impl Fn() -> SlotNumber) {
        let value = sample_value(value);
        let recorded = LOCALS.try_with(|locals| {
            self.with_local(&mut locals.borrow_mut(), |local| {
                let slot = *local.known.entry(key).or_insert_with(&find);
                self.push(local, Sample { slot, value });
            });
        });
        // Another thread-local's destructor may answer a request after ours has run.
        if recorded.is_err() {
            self.pour(&mut vec![Sample { slot: find(), value }]);
        }
    }

    fn push(&self, local: &Local, sample: Sample) {
        let mut samples = local.recorder.samples.lock();
        samples.push(sample);
        if samples.len() >= SAMPLES_MAX {
            self.pour(&mut samples);
        }
    }

    fn with_local(self: &Arc<Hub>, locals: &mut Vec<Local>, run: impl FnOnce(&mut Local)) {
        let at = locals.iter().position(|local| local.hub_number == self.number).unwrap_or_else(|| {
            locals.retain(|local| local.hub.strong_count() > 0);
            let recorder = Arc::new(Recorder { samples: Mutex::new(Vec::with_capacity(SAMPLES_MAX)) });
            self.recorders.lock().push(recorder.clone());
            let hub = Arc::downgrade(self);
            locals.push(Local { hub_number: self.number, hub, recorder, known: HashMap::default() });
            locals.len() - 1
        });
        run(&mut locals[at]);
    }

    /// Moves samples into counters and windows, and leaves the list empty with its room. Sorted first, so that threads
    /// which pour at the same time meet once for each series and not once for each sample.
    fn pour(&self, samples: &mut Vec<Sample>) {
        let slice = self.slice.load(Ordering::Relaxed);
        let slots = self.slots.read();
        samples.sort_unstable_by_key(|sample| sample.slot);
        for run in samples.chunk_by(|a, b| a.slot == b.slot) {
            let slot = &slots[run[0].slot as usize];
            slot.counters.iter().for_each(|counter| counter.add(run.len() as u64));
            let mut values = run.iter().filter(|sample| sample.value != UNTIMED).peekable();
            if let Some(window) = slot.window.as_ref().filter(|_| values.peek().is_some()) {
                let mut window = window.lock();
                values.for_each(|sample| window.record(u64::from(sample.value), slice));
            }
        }
        samples.clear();
    }

    /// Pours what every thread holds. Samples belong to the slice that was open until now.
    pub fn pour_all(&self) {
        let recorders = self.recorders.lock().clone();
        for recorder in recorders {
            self.pour(&mut recorder.samples.lock());
        }
    }

    /// Opens the slice of this moment, if it is another one, after pouring what belongs to the one before.
    /// Returns the number of the open slice.
    pub fn tick(&self) -> u64 {
        self.tick_at(self.started.elapsed())
    }

    /// [`Hub::tick`] at a given time after the start.
    pub fn tick_at(&self, since_start: Duration) -> u64 {
        self.pour_all();
        let slice = since_start.as_secs() / SLICE_SECONDS;
        self.slice.fetch_max(slice, Ordering::Relaxed).max(slice)
    }

    /// How long until the next slice opens.
    pub fn until_next_slice(&self) -> Duration {
        let into_slice = self.started.elapsed().as_millis() as u64 % (SLICE_SECONDS * 1000);
        Duration::from_millis(SLICE_SECONDS * 1000 - into_slice)
    }

    /// Threads that hold a list.
    #[cfg(test)]
    pub fn recorders(&self) -> usize {
        self.recorders.lock().len()
    }
}

fn sample_value(value: Option<u64>) -> u32 {
    value.map_or(UNTIMED, |value| u32::try_from(value).unwrap_or(UNTIMED).min(UNTIMED - 1))
}

/// A distribution; `record` takes no lock that another recording thread takes. A default one records nothing.
#[derive(Clone, Default)]
pub struct Distribution(Option<(Arc<Hub>, SlotNumber)>);

impl Distribution {
    pub(super) fn new(hub: Arc<Hub>, slot: SlotNumber) -> Distribution {
        Distribution(Some((hub, slot)))
    }

    /// Records a duration, to the microsecond. Quantiles tell durations up to 60 s apart.
    pub fn record_duration(&self, duration: Duration) {
        self.record(micros(duration));
    }

    /// Records a plain number (a group size, bytes). Quantiles tell numbers up to 60 million apart.
    pub fn record(&self, value: u64) {
        if let Some((hub, slot)) = &self.0 {
            hub.record(*slot, Some(value));
        }
    }
}

/// A duration in whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
