//! What a run does: requests with their weights, phases with their load, and the targets it is judged by.
//!
//! A plan is complete and checked: it comes from a scenario file or from the options, and nothing here reads either.

use std::time::Duration;

use super::columns::Columns;
use super::random::Random;
use super::template::Template;

/// The longest an answer may take where the plan does not say.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way at once in phases with a rate, where the plan does not say. With the connection that reads the
/// figures, below the 64 that larder lets one address have.
pub const CONNECTIONS_AT_A_RATE: usize = 48;
/// No phase is shortened to less.
const SHORTEST: Duration = Duration::from_millis(1);
/// More threads than this say more about the generator than about the server.
pub const CONNECTIONS_MAX: usize = 1024;

/// A whole run.
#[derive(Debug)]
pub struct Plan {
    /// What it is called in the report.
    pub name: String,
    /// The kinds of requests.
    pub requests: Vec<RequestPlan>,
    /// The phases, in order.
    pub phases: Vec<Phase>,
    /// The pause of a user between two requests.
    pub think: Option<Think>,
    /// Requests that each user who arrives at a rate sends before leaving.
    pub requests_per_user: u32,
    /// The longest an answer may take.
    pub timeout: Duration,
    /// Requests under way at once in phases with a rate.
    pub connections: usize,
    /// What the run is judged by.
    pub targets: Targets,
    /// The rows that templates take their columns from.
    pub data: Option<Columns>,
    /// Paths that are deleted at the end.
    pub cleanup: Vec<Template>,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Plan {
    /// Takes no longer than this in all, with the parts that phases have of the time, and sends no more requests than
    /// this in any phase, but for those that fill a store: they are not judged, and end by their number alone.
    pub fn shorten(&mut self, longest: Option<Duration>, requests_max: Option<u64>) {
        if let Some(most) = requests_max {
            for phase in self.phases.iter_mut().filter(|phase| phase.measured || phase.load.seconds() > 0.0) {
                phase.load = phase.load.with_at_most(most, f64::from(self.requests_per_user));
            }
        }
        let whole: f64 = self.phases.iter().map(|phase| phase.load.seconds()).sum();
        if let Some(longest) = longest.map(|longest| longest.as_secs_f64()).filter(|longest| *longest < whole) {
            for phase in &mut self.phases {
                phase.load = phase.load.for_a_part(longest / whole);
            }
        }
    }
}

/// A kind of request.
#[derive(Debug)]
pub struct RequestPlan {
    /// What it is called in the report.
    pub name: String,
    /// How often it is chosen, relative to the others.
    pub weight: f64,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: Template,
    /// Header fields.
    pub headers: Vec<(String, Template)>,
    /// The body.
    pub body: Option<Template>,
    /// The statuses that are right; none: 200 to 399.
    pub statuses: Vec<u16>,
    /// A slower answer than this is an error.
    pub latency_max: Option<Duration>,
}

impl RequestPlan {
    /// Whether an answer with this status is what was wanted.
    pub fn accepts(&self, status: u16) -> bool {
        if self.statuses.is_empty() { (200..400).contains(&status) } else { self.statuses.contains(&status) }
    }
}

/// A part of a run.
#[derive(Debug)]
pub struct Phase {
    /// What it is called in the report.
    pub name: String,
    /// How requests come.
    pub load: Load,
    /// The requests it chooses from, by index.
    pub only: Vec<usize>,
    /// Whether the verdict counts it.
    pub measured: bool,
    /// Whether the time until latencies are back in target is measured after it.
    pub spike: bool,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Open loop: users arrive at times that the server has no influence on.
    Rate {
        /// Users a second at the beginning.
        from: f64,
        /// Users a second at the end.
        to: f64,
        /// How long.
        duration: Duration,
    },
    /// Closed loop: each connection sends its next request when the last is answered.
    Connections {
        /// How many.
        count: usize,
        /// Ends after so long.
        duration: Option<Duration>,
        /// Ends after so many requests.
        requests: Option<u64>,
    },
    /// Open loop at rising rates, until a target is missed.
    Steps {
        /// The first rate.
        from: f64,
        /// The last rate.
        to: f64,
        /// What each step adds.
        step: f64,
        /// How long each step is held.
        hold: Duration,
    },
}

impl Load {
    /// How long it takes at most; 0 if it is a number of requests that ends it.
    fn seconds(self) -> f64 {
        match self {
            Load::Rate { duration, .. } => duration.as_secs_f64(),
            Load::Connections { duration, .. } => duration.unwrap_or_default().as_secs_f64(),
            Load::Steps { from, to, step, hold } => (((to - from) / step).floor() + 1.0).max(1.0) * hold.as_secs_f64(),
        }
    }

    fn for_a_part(self, part: f64) -> Load {
        let shorter = |time: Duration| time.mul_f64(part).max(SHORTEST);
        match self {
            Load::Rate { from, to, duration } => Load::Rate { from, to, duration: shorter(duration) },
            Load::Connections { count, duration, requests } => {
                Load::Connections { count, duration: duration.map(shorter), requests }
            }
            Load::Steps { from, to, step, hold } => Load::Steps { from, to, step, hold: shorter(hold) },
        }
    }

    fn with_at_most(self, requests_max: u64, requests_per_user: f64) -> Load {
        let within = |time: Duration, users_per_second: f64| {
            let most = requests_max as f64 / (users_per_second * requests_per_user);
            time.min(Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX)).max(SHORTEST)
        };
        match self {
            Load::Rate { from, to, duration } => Load::Rate { from, to, duration: within(duration, (from + to) / 2.0) },
            Load::Connections { count, duration, requests } => {
                let requests = Some(requests.map_or(requests_max, |requests| requests.min(requests_max)));
                Load::Connections { count, duration, requests }
            }
            Load::Steps { from, to, step, hold } => Load::Steps { from, to, step, hold: within(hold, to) },
        }
    }
}

/// A pause, by chance between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Think {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Think {
    /// The next pause.
    pub fn pause(&self, random: &mut Random) -> Duration {
        let span = self.most.saturating_sub(self.least).as_micros() as u64;
        self.least + Duration::from_micros(random.below(span + 1))
    }
}

/// What a run is judged by. `None` is not judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// 95 of 100 answers come sooner.
    pub p95: Option<Duration>,
    /// 99 of 100 answers come sooner.
    pub p99: Option<Duration>,
    /// The server stays below this, in bytes.
    pub rss_bytes: Option<u64>,
    /// The server answers so soon after its start.
    pub start: Option<Duration>,
    /// At least so many requests a second: in closed loops without pauses, and the knee of a stress phase.
    pub requests_per_second: Option<f64>,
    /// Errors stay below this share of all requests.
    pub error_share: Option<f64>,
}

impl Default for Targets {
    fn default() -> Targets {
        Targets {
            p95: Some(Duration::from_millis(100)),
            p99: Some(Duration::from_millis(50)),
            rss_bytes: Some(100_000_000),
            start: Some(Duration::from_secs(1)),
            requests_per_second: Some(1000.0),
            error_share: Some(0.001),
        }
    }
}

impl Targets {
    /// The names that [`Targets::set`] knows.
    pub const NAMES: [&'static str; 6] = ["p95", "p99", "rss", "start", "requests_per_second", "errors"];

    /// Sets a target by its name; `off` is not judged.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        use crate::config::units::{parse_duration, parse_size};
        let off = value == "off";
        fn unless<T>(off: bool, read: impl FnOnce() -> Result<T, String>) -> Result<Option<T>, String> {
            if off { Ok(None) } else { read().map(Some) }
        }
        match name {
            "p95" => self.p95 = unless(off, || parse_duration(value))?,
            "p99" => self.p99 = unless(off, || parse_duration(value))?,
            "rss" => self.rss_bytes = unless(off, || parse_size(value))?,
            "start" => self.start = unless(off, || parse_duration(value))?,
            "requests_per_second" => self.requests_per_second = unless(off, || parse_number(value))?,
            "errors" => self.error_share = unless(off, || parse_share(value))?,
            _ => {
                let hint = crate::config::suggest::hint(name, Targets::NAMES);
                return Err(format!("there is no target `{name}`{hint}"));
            }
        }
        Ok(())
    }
}

fn parse_number(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| number.is_finite() && *number > 0.0).ok_or(format!("expected a number, not `{text}`"))
}

/// `0.1%` or `0.001`.
fn parse_share(text: &str) -> Result<f64, String> {
    let expected = || format!("expected a share such as 0.1%, not `{text}`");
    let (number, factor) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.trim().parse::<f64>().map_err(|_| expected())? * factor;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(loads: &[(Load, bool)]) -> Plan {
        let phase = |&(load, measured): &(Load, bool)| Phase {
            name: "x".to_owned(),
            load,
            only: Vec::new(),
            measured,
            spike: false,
        };
        Plan {
            name: "x".to_owned(),
            requests: Vec::new(),
            phases: loads.iter().map(phase).collect(),
            think: None,
            requests_per_user: 2,
            timeout: TIMEOUT,
            connections: 1,
            targets: Targets::default(),
            data: None,
            cleanup: Vec::new(),
            seed: 1,
        }
    }

    #[test]
    fn a_run_is_shortened_in_all_its_phases() {
        let seconds = Duration::from_secs;
        let rate = |from, to, time| Load::Rate { from, to, duration: seconds(time) };
        let closed =
            |time: Option<u64>, requests| Load::Connections { count: 8, duration: time.map(seconds), requests };
        let steps = |hold| Load::Steps { from: 100.0, to: 300.0, step: 100.0, hold };
        let fill = (closed(None, Some(1000)), false);
        let whole = [fill, (rate(50.0, 150.0, 40), true), (closed(Some(30), None), true), (steps(seconds(10)), true)];
        for (longest, requests_max, expected) in [
            (None, None, whole),
            (Some(seconds(100)), None, whole),
            (Some(seconds(500)), None, whole),
            (
                Some(seconds(10)),
                None,
                [fill, (rate(50.0, 150.0, 4), true), (closed(Some(3), None), true), (steps(seconds(1)), true)],
            ),
            (
                None,
                Some(600),
                [fill, (rate(50.0, 150.0, 3), true), (closed(Some(30), Some(600)), true), (steps(seconds(1)), true)],
            ),
        ] {
            let mut shortened = plan(&whole);
            shortened.shorten(longest, requests_max);
            let loads: Vec<Load> = shortened.phases.iter().map(|phase| phase.load).collect();
            assert_eq!(loads, expected.map(|(load, _)| load), "{longest:?} {requests_max:?}");
        }
        let mut least = plan(&[(rate(1.0, 1.0, 5), false), (closed(None, Some(9)), true)]);
        least.shorten(Some(Duration::ZERO), Some(1));
        assert_eq!(least.phases[0].load, Load::Rate { from: 1.0, to: 1.0, duration: SHORTEST });
        assert_eq!(least.phases[1].load, closed(None, Some(1)));
    }

    #[test]
    fn targets_are_set_by_name_and_can_be_switched_off() {
        let mut targets = Targets::default();
        for (name, value) in [("p95", "20ms"), ("errors", "1%"), ("rss", "64MiB"), ("start", "off")] {
            targets.set(name, value).unwrap();
        }
        assert_eq!(
            (targets.p95, targets.rss_bytes, targets.start),
            (Some(Duration::from_millis(20)), Some(64 << 20), None)
        );
        assert!((targets.error_share.unwrap() - 0.01).abs() < 1e-12);
        for (name, value, part) in [
            ("p98", "1s", "did you mean"),
            ("p95", "20", "duration"),
            ("errors", "101%", "share"),
            ("requests_per_second", "NaN", "number"),
        ] {
            let error = targets.set(name, value).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_pause_stays_within_its_bounds() {
        let think = Think { least: Duration::from_millis(3), most: Duration::from_millis(5) };
        let mut random = Random::new(7);
        let pauses: Vec<Duration> = (0..1000).map(|_| think.pause(&mut random)).collect();
        assert!(pauses.iter().all(|pause| (think.least..=think.most).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
