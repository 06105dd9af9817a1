//! The figures of requests: how many, which errors, how long. A thin layer that maps a request to its series.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::recorder::{SeriesKey, Slot, SlotNumber, micros};
use super::registry::Registry;

const REQUESTS: &str = "larder_http_requests_total";
const REQUESTS_HELP: &str = "Requests answered, by method, route and status.";
const ERRORS: &str = "larder_http_errors_total";
const ERRORS_HELP: &str = "Error answers, by the code in their body.";
const DURATION: &str = "larder_http_request_duration_seconds";
const DURATION_HELP: &str = "From the moment a worker took the request to the moment its answer was handed to the \
    connection, since the start. With the tiny_http engine the wait before a worker takes a request is not in it. \
    Streams and long polls are counted in larder_http_requests_total and not timed.";

/// The slots of request series by their label texts.
pub(super) type RequestSlots = HashMap<(&'static str, &'static str, u16, Option<&'static str>), SlotNumber>;

impl Registry {
    /// Records one answered request: route and method are label texts; `code` is that of an error body; `timed` false
    /// counts it without timing it.
    pub fn request(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        code: Option<&'static str>,
        duration: Duration,
        timed: bool,
    ) {
        let key = SeriesKey::new(route, method, status, code);
        let value = timed.then(|| micros(duration));
        self.0.hub.record_keyed(key, value, || self.request_slot(route, method, status, code));
    }

    /// Shows the counter of a request series at zero before the first such request, so that a rate over it is true from
    /// the first one.
    pub fn expect_request(&self, route: &'static str, method: &'static str, status: u16) {
        self.request_slot(route, method, status, None);
    }

    fn request_slot(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        code: Option<&'static str>,
    ) -> SlotNumber {
        let mut slots = self.0.requests.lock();
        *slots.entry((route, method, status, code)).or_insert_with(|| {
            let labels =
                |last: (&'static str, String)| vec![("method", method.to_owned()), ("route", route.to_owned()), last];
            let mut counters = vec![self.counter_with(REQUESTS, REQUESTS_HELP, labels(("status", status.to_string())))];
            if let Some(code) = code {
                counters.push(self.counter_with(ERRORS, ERRORS_HELP, vec![("code", code.to_owned())]));
            }
            let window = self.window(DURATION, DURATION_HELP, labels(("class", format!("{}xx", status / 100))));
            self.0.hub.add_slot(Slot { counters, window: Some(Arc::clone(&window)) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_counts_in_its_series_and_its_error_code() {
        let registry = Registry::default();
        registry.request("/kv", "GET", 200, None, MS, true);
        registry.request("/kv", "GET", 404, Some("KEY_NOT_FOUND"), MS, true);
        registry.request("/other", "PUT", 404, Some("KEY_NOT_FOUND"), MS, true);
        let page = registry.expose();
        for line in [
            "larder_http_requests_total{method=\"GET\",route=\"/kv\",status=\"200\"} 1",
            "larder_http_requests_total{method=\"GET\",route=\"/kv\",status=\"404\"} 1",
            "larder_http_requests_total{method=\"PUT\",route=\"/other\",status=\"404\"} 1",
            "larder_http_errors_total{code=\"KEY_NOT_FOUND\"} 2",
            "larder_http_request_duration_seconds_count{method=\"GET\",route=\"/kv\",class=\"4xx\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing from\n{page}");
        }
    }

    #[test]
    fn an_untimed_request_is_counted_and_has_no_duration() {
        let registry = Registry::default();
        registry.request("/changes", "GET", 200, None, Duration::from_secs(50), false);
        let page = registry.expose();
        assert!(
            page.contains("larder_http_requests_total{method=\"GET\",route=\"/changes\",status=\"200\"} 1\n"),
            "{page}"
        );
        assert!(!page.contains("larder_http_request_duration_seconds"), "{page}");
    }

    #[test]
    fn statuses_of_one_class_share_a_histogram() {
        let registry = Registry::default();
        registry.request("/kv", "PUT", 200, None, MS, true);
        registry.request("/kv", "PUT", 201, None, 3 * MS, true);
        let page = registry.expose();
        let sum = "larder_http_request_duration_seconds_sum{method=\"PUT\",route=\"/kv\",class=\"2xx\"} 0.004\n";
        assert!(page.contains(sum), "{page}");
    }

    #[test]
    fn equal_texts_at_two_addresses_are_one_series() {
        let registry = Registry::default();
        let twin: &'static str = Box::leak(String::from("/kv").into_boxed_str());
        registry.request("/kv", "GET", 200, None, MS, true);
        registry.request(twin, "GET", 200, None, MS, true);
        assert!(registry.expose().contains("{method=\"GET\",route=\"/kv\",status=\"200\"} 2\n"));
    }

    #[test]
    fn an_expected_series_is_shown_at_zero() {
        let registry = Registry::default();
        registry.expect_request("/kv", "GET", 200);
        assert!(registry.expose().contains("{method=\"GET\",route=\"/kv\",status=\"200\"} 0\n"));
    }
}
