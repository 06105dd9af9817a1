//! What larder measures, and the page that shows it. Knows nothing of HTTP; routes and methods are label texts to it.
//!
//! The shape that the other rooms build on (this file is the seam; the parts behind it may grow):
//! counters and gauges are handles that anyone may hold; what is cheaper to ask than to track is sampled at scrape time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution; `record` takes no lock that another recording thread takes.
#[derive(Clone, Default)]
pub struct Distribution(());

impl Distribution {
    /// Records a duration.
    pub fn record_duration(&self, _duration: Duration) {}
    /// Records a plain number (a group size, bytes).
    pub fn record(&self, _value: u64) {}
}

/// Label names and values of one series.
pub type Labels = &'static [(&'static str, &'static str)];

/// A sample that is taken at scrape time.
pub type Sampler = Box<dyn Fn() -> f64 + Send + Sync>;

/// The place where every figure is registered, once, at start.
#[derive(Clone, Default)]
pub struct Registry(());

impl Registry {
    /// A counter `larder_…_total`. Registering the same name with other labels adds a series to the family.
    pub fn counter(&self, _name: &'static str, _help: &'static str, _labels: Labels) -> Counter {
        Counter::default()
    }
    /// A gauge.
    pub fn gauge(&self, _name: &'static str, _help: &'static str, _labels: Labels) -> Gauge {
        Gauge::default()
    }
    /// A gauge that is asked for at scrape time.
    pub fn sampled_gauge(&self, _name: &'static str, _help: &'static str, _labels: Labels, _sampler: Sampler) {}
    /// A counter that is kept elsewhere and asked for at scrape time.
    pub fn sampled_counter(&self, _name: &'static str, _help: &'static str, _labels: Labels, _sampler: Sampler) {}
    /// A distribution of durations (`…_seconds`) or of plain numbers.
    pub fn distribution(&self, _name: &'static str, _help: &'static str, _labels: Labels) -> Distribution {
        Distribution::default()
    }
    /// Records one answered request: route and method are label texts; `timed` false counts it without timing it.
    pub fn request(
        &self,
        _route: &'static str,
        _method: &'static str,
        _status: u16,
        _code: Option<&'static str>,
        _duration: Duration,
        _timed: bool,
    ) {
    }
    /// The page in Prometheus text format 0.0.4.
    pub fn expose(&self) -> String {
        String::new()
    }
}
