//! What larder measures, and the page that shows it. Knows nothing of HTTP; routes and methods are label texts to it.
//!
//! Counters and gauges are handles that anyone may hold; what is cheaper to ask than to track is sampled at scrape time.
//! Distributions and requests go through [`recorder`]: a thread appends to a short list that only it and the scrape
//! touch, and a full list is poured into the HdrHistograms of [`window`].
//!
//! Invariant: recording never waits for a thread that renders the page, beyond the microseconds that pouring one list or
//! copying the figures of one series takes; and all histograms together stay below 4 MB (`tests/metrics_memory.rs`).

mod counter;
mod exposition;
mod family;
mod json;
mod recorder;
mod registry;
mod requests;
mod ticker;
mod window;

pub use counter::{Counter, Gauge};
pub use recorder::Distribution;
pub use registry::Registry;
pub use ticker::Ticker;

/// Label names and values of one series, known when larder was built.
pub type Labels = &'static [(&'static str, &'static str)];

/// Label names and values of one series, where a value is known only at run time. Its values must come from a bounded
/// set: a series is never forgotten unless [`Registry::unregister`] is called.
pub type DynamicLabels = Vec<(&'static str, String)>;

/// A sample that is taken at scrape time.
pub type Sampler = Box<dyn Fn() -> f64 + Send + Sync>;
