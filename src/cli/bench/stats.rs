//! What was seen: latencies, statuses and troubles of a phase and a kind of request, and the course by seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::client::Trouble;

/// Latencies are kept from 1 µs to 10 minutes; longer ones count as that.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Two digits: 1 % of error at 20 KB.
const DIGITS: u8 = 2;
/// Sent so long after its time, a request says that all connections were busy.
pub const LATE: Duration = Duration::from_millis(10);

/// So many good seconds in a row are a recovery.
const RECOVERED_SECONDS: usize = 3;

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An answer that was wanted.
    Right(u16),
    /// An answer with a status that was not.
    WrongStatus(u16),
    /// The right answer, later than the request allows.
    TooSlow(u16),
    /// No answer.
    Failed(Trouble),
    /// Never sent: every connection was busy until long after its time.
    Unsent,
}

/// The sum of many requests.
#[derive(Clone)]
pub struct Stats {
    latencies: Histogram<u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were sent late.
    pub late: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// Bytes of bodies that came.
    pub body_bytes: u64,
}

impl Default for Stats {
    fn default() -> Stats {
        // The bounds are constants, and good ones.
        #[allow(clippy::expect_used)]
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("1 < 600 000 000 and 2 digits");
        Stats { latencies, statuses: BTreeMap::new(), errors: BTreeMap::new(), late: 0, reconnects: 0, body_bytes: 0 }
    }
}

impl Stats {
    /// Counts a request; the latency counts from when it should have been sent.
    pub fn record(&mut self, ending: Ending, latency: Duration) {
        self.latencies.saturating_record((latency.as_micros() as u64).max(1));
        match ending {
            Ending::Right(status) => *self.statuses.entry(status).or_default() += 1,
            Ending::WrongStatus(status) => {
                *self.statuses.entry(status).or_default() += 1;
                self.error(format!("status {status}"));
            }
            Ending::TooSlow(status) => {
                *self.statuses.entry(status).or_default() += 1;
                self.error("too slow".to_owned());
            }
            Ending::Failed(trouble) => self.error(trouble.name().to_owned()),
            Ending::Unsent => self.error("unsent".to_owned()),
        }
    }

    fn error(&mut self, name: String) {
        *self.errors.entry(name).or_default() += 1;
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Stats) {
        // Both have the same bounds, so that nothing is out of range.
        let _ = self.latencies.add(&other.latencies);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (name, count) in &other.errors {
            *self.errors.entry(name.clone()).or_default() += count;
        }
        self.late += other.late;
        self.reconnects += other.reconnects;
        self.body_bytes += other.body_bytes;
    }

    /// All requests, those without an answer too.
    pub fn count(&self) -> u64 {
        self.latencies.len()
    }

    /// Requests that were answered as wanted.
    pub fn good(&self) -> u64 {
        self.count().saturating_sub(self.error_count())
    }

    /// Requests that ended in an error.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Errors of all requests, from 0 to 1.
    pub fn error_share(&self) -> f64 {
        self.error_count() as f64 / self.count().max(1) as f64
    }

    /// The latency that this share of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(share))
    }

    /// The longest latency.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.latencies.max())
    }

    /// The mean latency.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.latencies.mean().max(0.0) / 1e6)
    }

    /// The distribution in the text form that HdrHistogram's plotters read: milliseconds, share, count, 1/(1 − share).
    pub fn distribution(&self) -> String {
        let mut text =
            format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut total = 0;
        for step in self.latencies.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let share = step.quantile_iterated_to();
            let inverse = 1.0 / (1.0 - share);
            let value_ms = step.value_iterated_to() as f64 / 1000.0;
            text.push_str(&format!("{value_ms:>12.3} {share:>14.12} {total:>10} {inverse:>14.2}\n"));
        }
        text
    }
}

/// What is kept of one second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    count: u64,
    over_p95: u64,
    over_p99: u64,
    errors: u64,
}

/// The course of a run by the seconds in which requests were due: small, so that a day of it fits a board.
#[derive(Clone, Debug, Default)]
pub struct Course {
    p95: Option<Duration>,
    p99: Option<Duration>,
    seconds: Vec<Second>,
}

impl Course {
    /// A course that is judged by these targets.
    pub fn new(p95: Option<Duration>, p99: Option<Duration>) -> Course {
        Course { p95, p99, seconds: Vec::new() }
    }

    /// Counts a request in the second in which it was due.
    pub fn record(&mut self, due: Duration, latency: Duration, is_error: bool) {
        let index = due.as_secs() as usize;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        let second = &mut self.seconds[index];
        second.count += 1;
        second.over_p95 += u64::from(self.p95.is_some_and(|target| latency >= target));
        second.over_p99 += u64::from(self.p99.is_some_and(|target| latency >= target));
        second.errors += u64::from(is_error);
    }

    /// Adds another worker's course.
    pub fn add(&mut self, other: &Course) {
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), Second::default());
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.count += theirs.count;
            mine.over_p95 += theirs.over_p95;
            mine.over_p99 += theirs.over_p99;
            mine.errors += theirs.errors;
        }
    }

    /// Whole seconds from `from` until latencies and errors are in target and stay so for [`RECOVERED_SECONDS`], or up
    /// to `to`; `None`: they never are. A single hiccup much later is no part of the recovery.
    pub fn recovery(&self, from: Duration, to: Duration) -> Option<u64> {
        let (from, to) = (from.as_secs() as usize, (to.as_secs() as usize).min(self.seconds.len()));
        let stays =
            |first: &usize| self.seconds[*first..to].iter().take(RECOVERED_SECONDS).all(|second| second.is_in_target());
        (from..to).find(stays).map(|first| (first - from) as u64)
    }
}

impl Second {
    fn is_in_target(&self) -> bool {
        self.errors == 0 && self.over_p95 * 20 <= self.count && self.over_p99 * 100 <= self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn endings_are_counted_by_what_they_are() {
        let mut stats = Stats::default();
        for ending in [
            Ending::Right(200),
            Ending::WrongStatus(503),
            Ending::TooSlow(200),
            Ending::Failed(Trouble::Timeout),
            Ending::Unsent,
        ] {
            stats.record(ending, 3 * MS);
        }
        let mut sum = Stats::default();
        sum.add(&stats);
        sum.add(&stats);
        assert_eq!((sum.count(), sum.good(), sum.error_count()), (10, 2, 8));
        assert_eq!((sum.statuses[&200], sum.statuses[&503], sum.errors["unsent"]), (4, 2, 2));
        assert!((sum.error_share() - 0.8).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_right_within_one_per_cent() {
        let mut stats = Stats::default();
        for number in 1..=1000 {
            stats.record(Ending::Right(200), number * MS);
        }
        for (share, ms) in [(0.5, 500.0), (0.95, 950.0), (0.999, 999.0)] {
            let seen = stats.quantile(share).as_secs_f64() * 1000.0;
            assert!((seen / ms - 1.0).abs() < 0.011, "{share}: {seen}");
        }
        let text = stats.distribution();
        assert!(text.lines().last().is_some_and(|line| line.contains(" 1000 ")), "{text}");
    }

    #[test]
    fn recovery_is_the_time_until_three_seconds_in_a_row_are_good() {
        let mut course = Course::new(Some(100 * MS), Some(500 * MS));
        let mut second = |at: u64, latency: Duration| {
            for _ in 0..100 {
                course.record(Duration::from_secs(at), latency, false);
            }
        };
        for (at, ms) in [(0, 1), (1, 900), (2, 200), (3, 1), (4, 150), (5, 1), (6, 1), (7, 1), (8, 900), (9, 1)] {
            second(at, ms * MS);
        }
        let seconds = Duration::from_secs;
        assert_eq!(course.recovery(seconds(2), seconds(10)), Some(3));
        assert_eq!(course.recovery(seconds(5), seconds(7)), Some(0));
        assert_eq!(course.recovery(seconds(2), seconds(5)), None);
    }
}
