//! What one thread of the generator does: wait, send, read, count.
//!
//! Invariant: in an open loop a latency counts from when the request was due, not from when it could be sent. A server
//! that stalls delays what comes after, and all of it shows (no coordinated omission).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Target};
use super::plan::{Phase, Plan};
use super::random::Random;
use super::schedule::{Agenda, Due};
use super::stats::{Course, Ending, LATE, Stats};
use super::template::Filling;

/// A worker that sleeps looks so often whether it should end.
const NAP: Duration = Duration::from_millis(100);

/// What all workers of a run share.
pub struct Shared<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Where.
    pub target: &'a Target,
    /// `{run}`.
    pub run: &'a str,
    /// `{n}` of each kind of request.
    pub numbers: &'a [AtomicU64],
    /// Set when the run should end early.
    pub stop: &'a AtomicBool,
    /// When the first request of this part of the run is due.
    pub began: Instant,
}

/// What one worker saw.
pub struct Seen {
    /// By phase of the part and kind of request; made when first used.
    pub stats: Vec<Vec<Option<Box<Stats>>>>,
    /// By seconds.
    pub course: Course,
}

/// One thread of the generator.
pub struct Worker<'a> {
    shared: &'a Shared<'a>,
    phases: &'a [Phase],
    client: Client<'a>,
    random: Random,
    wire: Vec<u8>,
    path: String,
    text: String,
    seen: Seen,
}

impl<'a> Worker<'a> {
    /// A worker for some phases of the plan; `number` sets its random numbers apart.
    pub fn new(shared: &'a Shared<'a>, phases: &'a [Phase], number: u64) -> Worker<'a> {
        let plan = shared.plan;
        let kinds = || plan.requests.iter().map(|_| None).collect();
        Worker {
            shared,
            phases,
            client: Client::new(shared.target, plan.timeout),
            random: Random::new(plan.seed ^ number.wrapping_mul(0xa076_1d64_78bd_642f)),
            wire: Vec::new(),
            path: String::new(),
            text: String::new(),
            seen: Seen {
                stats: phases.iter().map(|_| kinds()).collect(),
                course: Course::new(plan.targets.p95, plan.targets.p99),
            },
        }
    }

    /// Sends what is due until nothing is. What could not be sent by `last` is counted and not sent.
    pub fn open_loop(mut self, agenda: &Agenda, last: Duration) -> Seen {
        while let Some(due) = agenda.take() {
            let intended = self.shared.began + due.at;
            if !self.sleep_until(intended) {
                break;
            }
            let late = intended.elapsed();
            let kind = self.choose(due.phase);
            if self.shared.began.elapsed() > last {
                self.count(due.phase, kind, due.at, Ending::Unsent, late);
                continue;
            }
            let ending = self.send(due.phase, kind);
            self.count(due.phase, kind, due.at, ending, intended.elapsed());
            if late > LATE {
                self.stats(due.phase, kind).late += 1;
            }
            if due.left > 1 {
                let pause = self.pause();
                agenda.put(Due { at: self.shared.began.elapsed() + pause, left: due.left - 1, ..due });
            }
        }
        self.seen
    }

    /// Sends one request after the other until the phase ends or its requests are used up.
    pub fn closed_loop(mut self, until: Option<Duration>, left: &AtomicU64) -> Seen {
        let take = |left: u64| left.checked_sub(1);
        while !self.shared.stop.load(Ordering::Relaxed)
            && until.is_none_or(|until| self.shared.began.elapsed() < until)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            let sent = Instant::now();
            let due = sent - self.shared.began;
            let kind = self.choose(0);
            let ending = self.send(0, kind);
            self.count(0, kind, due, ending, sent.elapsed());
            if matches!(ending, Ending::Failed(super::client::Trouble::Connect)) {
                // A server that is gone must not make this a busy loop.
                std::thread::sleep(Duration::from_millis(10));
            }
            let pause = self.pause();
            let resume = Instant::now() + pause;
            let resume = until.map_or(resume, |until| resume.min(self.shared.began + until));
            if pause > Duration::ZERO && !self.sleep_until(resume) {
                break;
            }
        }
        self.seen
    }

    fn pause(&mut self) -> Duration {
        self.shared.plan.think.map_or(Duration::ZERO, |think| think.pause(&mut self.random))
    }

    /// `false`: the run should end.
    fn sleep_until(&self, at: Instant) -> bool {
        loop {
            if self.shared.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// The kind of the next request, by the weights.
    fn choose(&mut self, phase: usize) -> usize {
        let only = &self.phases[phase].only;
        let requests = &self.shared.plan.requests;
        let total: f64 = only.iter().map(|kind| requests[*kind].weight).sum();
        let mut left = self.random.share() * total;
        for kind in only {
            left -= requests[*kind].weight;
            if left < 0.0 {
                return *kind;
            }
        }
        only.last().copied().unwrap_or(0)
    }

    fn send(&mut self, phase: usize, kind: usize) -> Ending {
        let request = &self.shared.plan.requests[kind];
        self.write_request(kind);
        let sent = Instant::now();
        let before = self.client.reconnects;
        let answer = self.client.exchange(&self.wire, &request.method);
        let reconnects = self.client.reconnects - before;
        let stats = self.stats(phase, kind);
        stats.reconnects += reconnects;
        match answer {
            Err(trouble) => Ending::Failed(trouble),
            Ok(answer) => {
                stats.body_bytes += answer.body_bytes;
                match answer.status {
                    status if !request.accepts(status) => Ending::WrongStatus(status),
                    status if request.latency_max.is_some_and(|max| sent.elapsed() > max) => Ending::TooSlow(status),
                    status => Ending::Right(status),
                }
            }
        }
    }

    /// Makes the bytes of a request in the buffers of the last one.
    fn write_request(&mut self, kind: usize) {
        let shared = self.shared;
        let request = &shared.plan.requests[kind];
        let number = shared.numbers[kind].fetch_add(1, Ordering::Relaxed);
        let row = shared.plan.data.as_ref().map_or(&[][..], |data| data.row(&mut self.random));
        let filling = Filling { number, run: shared.run, row };
        self.path.clear();
        request.path.fill(&mut self.path, &filling, &mut self.random, true);
        let target = shared.target;
        let wire = &mut self.wire;
        wire.clear();
        for part in [&request.method, " ", &target.base, &self.path, " HTTP/1.1\r\nHost: ", &target.host, "\r\n"] {
            wire.extend_from_slice(part.as_bytes());
        }
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                wire.extend_from_slice(part.as_bytes());
            }
        };
        if let Some(authorization) = &target.authorization {
            field("Authorization", authorization);
        }
        for (name, value) in &request.headers {
            self.text.clear();
            value.fill(&mut self.text, &filling, &mut self.random, false);
            field(name, &self.text);
        }
        self.text.clear();
        if let Some(body) = &request.body {
            body.fill(&mut self.text, &filling, &mut self.random, false);
        }
        if request.body.is_some() || matches!(request.method.as_str(), "PUT" | "POST" | "PATCH") {
            field("Content-Length", &self.text.len().to_string());
        }
        self.wire.extend_from_slice(b"\r\n");
        self.wire.extend_from_slice(self.text.as_bytes());
    }

    fn count(&mut self, phase: usize, kind: usize, due: Duration, ending: Ending, latency: Duration) {
        self.stats(phase, kind).record(ending, latency);
        self.seen.course.record(due, latency, !matches!(ending, Ending::Right(_)));
    }

    fn stats(&mut self, phase: usize, kind: usize) -> &mut Stats {
        self.seen.stats[phase][kind].get_or_insert_default()
    }
}
