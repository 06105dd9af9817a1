//! Families of series: a name, what it means, and the numbers under it. Holds no figures itself, only where they are.
//!
//! Invariant: a name has one help text and one kind, and a set of labels occurs once under it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::DynamicLabels;
use super::counter::{Counter, Gauge};
use super::window::{Stats, Window};

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Distribution,
}

/// Where the number of a series is.
#[derive(Clone)]
pub(super) enum Source {
    Counter(Counter),
    Gauge(Gauge),
    Sampled(Arc<dyn Fn() -> f64 + Send + Sync>),
    Window(Arc<Mutex<Window>>),
}

#[derive(Clone)]
pub(super) struct Series {
    pub labels: DynamicLabels,
    pub source: Source,
}

#[derive(Clone)]
pub(super) struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub series: Vec<Series>,
}

/// The figures of a series at one moment.
pub(super) enum Figure {
    Number(f64),
    Distribution { total: Stats, last_minute: Stats },
}

/// A family at one moment, ready to be rendered.
pub(super) struct FamilyView {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub series: Vec<(DynamicLabels, Figure)>,
}

/// All families.
#[derive(Default)]
pub(super) struct Families(Mutex<Vec<Family>>);

impl Families {
    /// Registers a series and returns where its number is: `source`, unless the series was there before.
    ///
    /// A sampler replaces the one before it, so that a part that is opened again answers for itself.
    pub fn register(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: DynamicLabels,
        source: Source,
    ) -> Source {
        let mut families = self.0.lock();
        let at = match families.binary_search_by_key(&name, |family| family.name) {
            Ok(at) => at,
            Err(at) => {
                families.insert(at, Family { name, help, kind, series: Vec::new() });
                at
            }
        };
        let family = &mut families[at];
        if family.kind != kind {
            log::error!("metric {name} is registered as two kinds; the second is not shown");
            return source;
        }
        let Some(series) = family.series.iter_mut().find(|series| series.labels == labels) else {
            family.series.push(Series { labels, source: source.clone() });
            return source;
        };
        match (&series.source, &source) {
            (Source::Sampled(_), _) | (_, Source::Sampled(_)) => {
                series.source = source.clone();
                source
            }
            (Source::Counter(_) | Source::Gauge(_) | Source::Window(_), _) => series.source.clone(),
        }
    }

    /// Forgets a series. Handles that are still held count for nobody.
    pub fn unregister(&self, name: &str, labels: &[(&'static str, String)]) {
        let mut families = self.0.lock();
        for family in families.iter_mut().filter(|family| family.name == name) {
            family.series.retain(|series| series.labels != labels);
        }
        families.retain(|family| !family.series.is_empty());
    }

    /// The figures of this moment, sorted by name. No lock is held while a sampler runs.
    pub fn view(&self, slice: u64) -> Vec<FamilyView> {
        let families = self.0.lock().clone();
        families
            .into_iter()
            .map(|family| FamilyView {
                name: family.name,
                help: family.help,
                kind: family.kind,
                series: family
                    .series
                    .into_iter()
                    .map(|series| (series.labels, figure(&series.source, slice)))
                    .collect(),
            })
            .collect()
    }
}

fn figure(source: &Source, slice: u64) -> Figure {
    match source {
        Source::Counter(counter) => Figure::Number(counter.get() as f64),
        Source::Gauge(gauge) => Figure::Number(gauge.get() as f64),
        Source::Sampled(sampler) => Figure::Number(sampler()),
        Source::Window(window) => {
            let mut window = window.lock();
            Figure::Distribution { last_minute: window.last_minute(slice), total: window.total() }
        }
    }
}
