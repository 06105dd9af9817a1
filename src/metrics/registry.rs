//! The one handle through which figures are registered and shown.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::counter::{Counter, Gauge};
use super::family::{Families, Kind, Source};
use super::recorder::{Distribution, Hub, Slot};
use super::requests::RequestSlots;
use super::window::Window;
use super::{DynamicLabels, Labels, Sampler, exposition, json};

/// The place where every figure is registered, once, at start. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(pub(super) Arc<Parts>);

pub(super) struct Parts {
    pub families: Families,
    pub hub: Arc<Hub>,
    pub requests: Mutex<RequestSlots>,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { families: Families::default(), hub: Arc::new(Hub::new()), requests: Mutex::new(HashMap::new()) }
    }
}

impl Registry {
    /// A counter `larder_…_total`. Registering the same name with other labels adds a series to the family; with the same
    /// labels it returns the counter that is there.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels) -> Counter {
        self.counter_with(name, help, owned(labels))
    }

    /// [`Registry::counter`] with label values that are known only now.
    pub fn counter_with(&self, name: &'static str, help: &'static str, labels: DynamicLabels) -> Counter {
        let counter = Counter::default();
        match self.0.families.register(name, help, Kind::Counter, labels, Source::Counter(counter.clone())) {
            Source::Counter(registered) => registered,
            Source::Gauge(_) | Source::Sampled(_) | Source::Window(_) => counter,
        }
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels) -> Gauge {
        self.gauge_with(name, help, owned(labels))
    }

    /// [`Registry::gauge`] with label values that are known only now.
    pub fn gauge_with(&self, name: &'static str, help: &'static str, labels: DynamicLabels) -> Gauge {
        let gauge = Gauge::default();
        match self.0.families.register(name, help, Kind::Gauge, labels, Source::Gauge(gauge.clone())) {
            Source::Gauge(registered) => registered,
            Source::Counter(_) | Source::Sampled(_) | Source::Window(_) => gauge,
        }
    }

    /// A gauge that is asked for at scrape time. NaN says that it is not known. The sampler should not wait for long: it
    /// holds up the scrape. Registering it again replaces the sampler.
    pub fn sampled_gauge(&self, name: &'static str, help: &'static str, labels: Labels, sampler: Sampler) {
        self.0.families.register(name, help, Kind::Gauge, owned(labels), Source::Sampled(Arc::from(sampler)));
    }

    /// [`Registry::sampled_gauge`] with label values that are known only now.
    pub fn sampled_gauge_with(&self, name: &'static str, help: &'static str, labels: DynamicLabels, sampler: Sampler) {
        self.0.families.register(name, help, Kind::Gauge, labels, Source::Sampled(Arc::from(sampler)));
    }

    /// A counter that is kept elsewhere and asked for at scrape time.
    pub fn sampled_counter(&self, name: &'static str, help: &'static str, labels: Labels, sampler: Sampler) {
        self.0.families.register(name, help, Kind::Counter, owned(labels), Source::Sampled(Arc::from(sampler)));
    }

    /// A distribution of durations (name it `…_seconds` and use `record_duration`) or of plain numbers (`record`).
    ///
    /// It is shown as a summary since the start, with gauges `…_min…` and `…_max…`, and as gauges `…_last_minute_…`.
    pub fn distribution(&self, name: &'static str, help: &'static str, labels: Labels) -> Distribution {
        let window = self.window(name, help, owned(labels));
        let slot = self.0.hub.add_slot(Slot { counters: Vec::new(), window: Some(window) });
        Distribution::new(self.0.hub.clone(), slot)
    }

    pub(super) fn window(&self, name: &'static str, help: &'static str, labels: DynamicLabels) -> Arc<Mutex<Window>> {
        let window = Arc::<Mutex<Window>>::default();
        match self.0.families.register(name, help, Kind::Distribution, labels, Source::Window(window.clone())) {
            Source::Window(registered) => registered,
            Source::Counter(_) | Source::Gauge(_) | Source::Sampled(_) => window,
        }
    }

    /// Forgets the series of a name with exactly these labels; a name without series is no longer shown.
    pub fn unregister(&self, name: &str, labels: &[(&'static str, String)]) {
        self.0.families.unregister(name, labels);
    }

    /// Opens the slice of a time after the start, which the ticker does as time passes: for tests that cannot wait.
    pub fn open_slice_at(&self, since_start: std::time::Duration) {
        self.0.hub.tick_at(since_start);
    }

    /// The page in Prometheus text format 0.0.4 (`text/plain; version=0.0.4; charset=utf-8`), families sorted by name.
    pub fn expose(&self) -> String {
        let slice = self.0.hub.tick();
        exposition::render(&self.0.families.view(slice))
    }

    /// The same figures as a JSON object: the name of a family to its kind, help and series.
    pub fn to_json(&self) -> serde_json::Value {
        let slice = self.0.hub.tick();
        json::render(&self.0.families.view(slice))
    }
}

fn owned(labels: Labels) -> DynamicLabels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn value(page: &str, series: &str) -> Option<f64> {
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn registering_a_series_twice_returns_the_same_number() {
        let registry = Registry::default();
        registry.counter("larder_a_total", "A.", &[("x", "1")]).add(2);
        registry.counter("larder_a_total", "A.", &[("x", "1")]).add(3);
        registry.counter("larder_a_total", "A.", &[("x", "2")]).inc();
        let page = registry.expose();
        assert_eq!(value(&page, "larder_a_total{x=\"1\"}"), Some(5.0));
        assert_eq!(value(&page, "larder_a_total{x=\"2\"}"), Some(1.0));
    }

    #[test]
    fn two_distribution_handles_of_one_series_fill_one_histogram() {
        let registry = Registry::default();
        registry.distribution("larder_size", "S.", &[]).record(1);
        registry.distribution("larder_size", "S.", &[]).record(3);
        assert_eq!(value(&registry.expose(), "larder_size_sum"), Some(4.0));
    }

    #[test]
    fn a_name_registered_as_two_kinds_keeps_the_first() {
        let registry = Registry::default();
        registry.gauge("larder_thing", "T.", &[]).set(7);
        registry.counter("larder_thing", "T.", &[]).inc();
        assert_eq!(value(&registry.expose(), "larder_thing"), Some(7.0));
    }

    #[test]
    fn a_sampler_may_use_the_registry_and_is_replaced_by_the_next() {
        let registry = Registry::default();
        let inner = registry.clone();
        registry.sampled_gauge("larder_s", "S.", &[], Box::new(|| 1.0));
        let sampler: Sampler = Box::new(move || inner.counter("larder_scrapes_total", "N.", &[]).get() as f64 + 2.0);
        registry.sampled_gauge("larder_s", "S.", &[], sampler);
        assert_eq!(value(&registry.expose(), "larder_s"), Some(2.0));
    }

    #[test]
    fn an_unregistered_series_is_gone_and_the_others_stay() {
        let registry = Registry::default();
        for name in ["a", "b"] {
            registry.gauge_with("larder_g", "G.", vec![("of", name.to_owned())]).inc();
        }
        registry.unregister("larder_g", &[("of", "a".to_owned())]);
        let page = registry.expose();
        assert_eq!(value(&page, "larder_g{of=\"a\"}"), None);
        assert_eq!(value(&page, "larder_g{of=\"b\"}"), Some(1.0));
        registry.unregister("larder_g", &[("of", "b".to_owned())]);
        assert_eq!(registry.expose(), "");
    }

    #[test]
    fn every_sample_of_many_ending_threads_is_shown_once() {
        let registry = Registry::default();
        let sizes = registry.distribution("larder_size", "S.", &[]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..1_700 {
                        sizes.record(1);
                        registry.request("/r", "GET", 200, None, Duration::from_micros(n), true);
                    }
                });
            }
            for _ in 0..20 {
                registry.expose();
            }
        });
        // A scope ends before the destructors of its threads' locals need to have run.
        let page = registry.expose();
        assert_eq!(value(&page, "larder_size_count"), Some(8.0 * 1_700.0));
        assert_eq!(
            value(&page, "larder_http_requests_total{method=\"GET\",route=\"/r\",status=\"200\"}"),
            Some(8.0 * 1_700.0)
        );
    }

    #[test]
    fn an_ended_thread_leaves_no_list_behind() {
        let registry = Registry::default();
        for _ in 0..10 {
            let registry = registry.clone();
            let thread = std::thread::spawn(move || {
                registry.request("/r", "GET", 200, None, Duration::from_micros(1), true);
                assert!(registry.0.hub.recorders() >= 1);
            });
            thread.join().unwrap();
        }
        assert_eq!(registry.0.hub.recorders(), 0);
    }
}
