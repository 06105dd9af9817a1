//! Runs a plan: the threads of each phase, and what they saw put together.
//!
//! Phases with rates that follow each other share one time line and one set of workers, so that a backlog of one shows
//! in the next as it would in life. A phase with connections stands for itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Target;
use super::plan::{Load, Phase, Plan, Targets};
use super::random::Random;
use super::schedule::{Agenda, Schedule};
use super::stats::{Course, Stats};
use super::template::Filling;
use super::verdict;
use super::worker::{Seen, Shared, Worker};
use crate::cli::exit::Failure;

const STACK_BYTES: usize = 128 * 1024;

/// What a phase came to.
pub struct PhaseResult {
    /// Its name.
    pub name: String,
    /// Whether the verdict counts it.
    pub measured: bool,
    /// How requests came.
    pub load: Load,
    /// How long it took, the answers that were still due included.
    pub seconds: f64,
    /// By kind of request.
    pub kinds: Vec<Stats>,
    /// For a spike: whole seconds after it until latencies were back in target; `Some(None)`: they were not by the end.
    pub recovery: Option<Option<u64>>,
}

impl PhaseResult {
    /// All kinds together.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        for stats in &self.kinds {
            total.add(stats);
        }
        total
    }

    /// Answers as wanted, a second.
    pub fn good_per_second(&self) -> f64 {
        self.total().good() as f64 / self.seconds.max(1e-9)
    }
}

/// What a run came to.
#[derive(Default)]
pub struct RunResult {
    /// The phases, in order; those of a stress one a step.
    pub phases: Vec<PhaseResult>,
    /// The highest rate that held all targets, if there was a stress; `None` in it: not even the first did.
    pub knee: Option<Option<f64>>,
    /// Whether a stress ended without a miss: the knee lies above what was tried.
    pub knee_is_open: bool,
    /// Stopped from outside before its end.
    pub interrupted: bool,
}

/// What it takes to run.
pub struct Runner<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Where.
    pub target: &'a Target,
    /// `{run}`.
    pub run: String,
    /// Set to end early.
    pub stop: &'a AtomicBool,
    /// Told of each phase as it begins.
    pub tell: &'a dyn Fn(&str),
}

impl Runner<'_> {
    /// Runs all phases.
    pub fn run(&self) -> Result<RunResult, Failure> {
        let numbers: Vec<AtomicU64> = self.plan.requests.iter().map(|_| AtomicU64::new(0)).collect();
        let mut result = RunResult::default();
        let phases = &self.plan.phases;
        let mut next = 0;
        while next < phases.len() && !self.stop.load(Ordering::Relaxed) {
            let is_rate = |phase: &&Phase| matches!(phase.load, Load::Rate { .. });
            let count = phases[next..].iter().take_while(is_rate).count().max(1);
            let part = &phases[next..next + count];
            match part[0].load {
                Load::Rate { .. } => result.phases.extend(self.rates(part, &numbers)?),
                Load::Connections { count, duration, requests } => {
                    result.phases.push(self.connections(&part[0], (count, duration, requests), &numbers)?);
                }
                Load::Steps { from, to, step, hold } => {
                    let rates = (0..).map(|number| from + step * f64::from(number)).take_while(|rate| *rate <= to);
                    self.steps(&part[0], rates, hold, &numbers, &mut result)?;
                }
            }
            next += count;
        }
        result.interrupted = self.stop.load(Ordering::Relaxed);
        Ok(result)
    }

    fn rates(&self, phases: &[Phase], numbers: &[AtomicU64]) -> Result<Vec<PhaseResult>, Failure> {
        let mut schedule = Schedule::default();
        for (index, phase) in phases.iter().enumerate() {
            if let Load::Rate { from, to, duration } = phase.load {
                schedule.push(index, from, to, duration);
                (self.tell)(&format!("{}: {}", phase.name, describe(&phase.load)));
            }
        }
        let end = schedule.length();
        let last = end + self.plan.timeout;
        let agenda = Agenda::new(schedule.clone(), self.plan.requests_per_user);
        let began = Instant::now();
        let seen =
            self.crowd(phases, numbers, began, self.plan.connections, |worker| worker.open_loop(&agenda, last))?;
        let took = began.elapsed();
        let (kinds, course) = self.sum(phases.len(), seen);
        let spans = (0..phases.len()).map(|index| schedule.span(index).unwrap_or_default());
        let parts = phases.iter().zip(spans).zip(kinds);
        let results = parts.enumerate().map(|(index, ((phase, (from, to)), kinds))| {
            let until = if index + 1 == phases.len() { took.max(from) } else { to };
            PhaseResult {
                name: phase.name.clone(),
                measured: phase.measured,
                load: phase.load,
                seconds: (until - from).as_secs_f64(),
                kinds,
                recovery: phase.spike.then(|| course.recovery(to, end)),
            }
        });
        Ok(results.collect())
    }

    fn connections(
        &self,
        phase: &Phase,
        (count, duration, requests): (usize, Option<Duration>, Option<u64>),
        numbers: &[AtomicU64],
    ) -> Result<PhaseResult, Failure> {
        (self.tell)(&format!("{}: {}", phase.name, describe(&phase.load)));
        let left = AtomicU64::new(requests.unwrap_or(u64::MAX));
        let began = Instant::now();
        let part = std::slice::from_ref(phase);
        let seen = self.crowd(part, numbers, began, count, |worker| worker.closed_loop(duration, &left))?;
        let (mut kinds, _) = self.sum(1, seen);
        Ok(PhaseResult {
            name: phase.name.clone(),
            measured: phase.measured,
            load: phase.load,
            seconds: began.elapsed().as_secs_f64(),
            kinds: kinds.pop().unwrap_or_default(),
            recovery: None,
        })
    }

    /// Rates that rise until a target is missed.
    fn steps(
        &self,
        phase: &Phase,
        rates: impl Iterator<Item = f64>,
        hold: Duration,
        numbers: &[AtomicU64],
        result: &mut RunResult,
    ) -> Result<(), Failure> {
        let mut knee = None;
        result.knee_is_open = true;
        for rate in rates {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let single = Phase {
                name: format!("{} {rate:.0}/s", phase.name),
                load: Load::Rate { from: rate, to: rate, duration: hold },
                only: phase.only.clone(),
                measured: false,
                spike: false,
            };
            let done = self.rates(std::slice::from_ref(&single), numbers)?;
            let held = done.iter().all(|phase| holds(phase, &self.plan.targets));
            result.phases.extend(done);
            if !held {
                result.knee_is_open = false;
                break;
            }
            knee = Some(rate);
        }
        result.knee = Some(knee);
        Ok(())
    }

    /// Runs workers on threads of their own, and joins them.
    fn crowd<'s>(
        &'s self,
        phases: &'s [Phase],
        numbers: &'s [AtomicU64],
        began: Instant,
        count: usize,
        work: impl Fn(Worker<'_>) -> Seen + Sync,
    ) -> Result<Vec<Seen>, Failure> {
        let shared = Shared { plan: self.plan, target: self.target, run: &self.run, numbers, stop: self.stop, began };
        let give_up = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut handles = Vec::new();
            let mut failure = None;
            for number in 0..count {
                let (shared, work, give_up) = (&shared, &work, &give_up);
                let body = move || {
                    (!give_up.load(Ordering::Relaxed)).then(|| work(Worker::new(shared, phases, number as u64)))
                };
                let builder = thread::Builder::new().name(format!("bench-{number}")).stack_size(STACK_BYTES);
                match builder.spawn_scoped(scope, body) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        // Those that run already are told to end, so that the scope can.
                        give_up.store(true, Ordering::Relaxed);
                        self.stop.store(true, Ordering::Relaxed);
                        failure = Some(Failure::plain(format!("cannot start {count} threads: {error}")));
                        break;
                    }
                }
            }
            let seen: Vec<Option<Seen>> = handles.into_iter().map(|handle| handle.join().ok().flatten()).collect();
            match failure {
                Some(failure) => Err(failure),
                None => {
                    seen.into_iter().collect::<Option<Vec<Seen>>>().ok_or(Failure::plain("a bench thread panicked"))
                }
            }
        })
    }

    fn sum(&self, phases: usize, all: Vec<Seen>) -> (Vec<Vec<Stats>>, Course) {
        let kinds = self.plan.requests.len();
        let mut sums = vec![vec![Stats::default(); kinds]; phases];
        let mut course = Course::new(self.plan.targets.p95, self.plan.targets.p99);
        for seen in all {
            for (sum, stats) in sums.iter_mut().flatten().zip(seen.stats.into_iter().flatten()) {
                stats.iter().for_each(|stats| sum.add(stats));
            }
            course.add(&seen.course);
        }
        (sums, course)
    }

    /// Deletes what the plan says to delete at the end. Failures are told, and are no part of the verdict.
    pub fn clean_up(&self) {
        let mut client = super::client::Client::new(self.target, Duration::from_secs(60));
        for path in &self.plan.cleanup {
            let mut filled = String::new();
            let filling = Filling { number: 0, run: &self.run, row: &[] };
            path.fill(&mut filled, &filling, &mut Random::new(self.plan.seed), true);
            let target = self.target;
            let authorization = target.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n"));
            let request = format!(
                "DELETE {}{filled} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
                target.base,
                target.host,
                authorization.unwrap_or_default()
            );
            match client.exchange(request.as_bytes(), "DELETE") {
                Ok(answer) if answer.status < 300 || answer.status == 404 => {}
                Ok(answer) => (self.tell)(&format!("cleanup: DELETE {filled} was answered {}", answer.status)),
                Err(trouble) => (self.tell)(&format!("cleanup: DELETE {filled} failed: {}", trouble.name())),
            }
        }
    }
}

/// Whether a step of a stress held every target on latency and errors, and was sent at the rate it should have.
fn holds(phase: &PhaseResult, targets: &Targets) -> bool {
    let total = phase.total();
    total.count() > 0 && verdict::of_requests(&total, targets).iter().all(|finding| finding.met != Some(false))
}

/// A load in words.
pub fn describe(load: &Load) -> String {
    let time = crate::config::units::show_duration;
    match load {
        Load::Rate { from, to, duration } if from == to => format!("{from}/s for {}", time(*duration)),
        Load::Rate { from, to, duration } => format!("{from}/s to {to}/s in {}", time(*duration)),
        Load::Connections { count, duration, requests } => {
            let requests = requests.map_or(String::new(), |requests| format!(", {requests} requests"));
            let duration = duration.map_or(String::new(), |duration| format!(" for {}", time(duration)));
            format!("{count} connections{requests}{duration}")
        }
        Load::Steps { from, to, step, hold } => {
            format!("{from}/s to {to}/s, {step}/s more every {}", time(*hold))
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
