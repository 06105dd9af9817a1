//! What makes tiny_http bearable from outside: it looks at our sockets and ends, kicks or counts what tiny_http cannot.
//!
//! One loop, on the thread that called `serve`. Invariant: it never waits for anything longer than a tick, and it ends
//! only connections, never requests that are at work within their limits.

pub mod judge;
pub mod nudge;
pub mod scan;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::{Connection, Glimpse, Key};
use super::figures::Reason;
use super::shared::Shared;
use super::sys::TCP_ESTABLISHED;
use super::{socket, threads};
use crate::board::watchdog::Heartbeat;
use crate::http::engine::{DrainSignal, Ended};
use judge::{Memory, Verdict};
use scan::{Scan, Seen};

pub use nudge::Nudge;

/// The loop's beat; also how soon a drain signal is noticed.
const TICK: Duration = Duration::from_millis(250);
/// How often the memory in use is asked for, and the beat while tiny_http reads something that is no request.
const GLANCE: Duration = Duration::from_millis(25);
/// Growth of memory that is a reason to look.
const GROWTH_BYTES: usize = 8 * 1024 * 1024;
/// The beat while the engine drains.
const TICK_URGENT: Duration = Duration::from_millis(25);
/// A full look at least this often.
const LOOK: Duration = Duration::from_secs(2);
/// The least pause between two looks that somebody asked for.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How soon after a first request the rest of its burst is looked for.
const BURST: Duration = Duration::from_millis(50);
/// A socket that is closed on the wire and held by no request for this long has lost its thread.
const LEAKED_AFTER: Duration = Duration::from_secs(5);
/// How long the backlog may stand before the accept loop counts as dead.
const BACKLOG_STUCK: Duration = Duration::from_secs(5);
/// After a restart of an accept loop the next one waits, twice as long each time that the loop died again soon: the old
/// server stays for its connections, with a thread, so restarts that help nothing must be few.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these waits.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The guard's own state.
pub struct Guard {
    shared: Arc<Shared>,
    drain: DrainSignal,
    heartbeat: Heartbeat,
    memories: HashMap<Key, Memory, foldhash::fast::RandomState>,
    dead_since: HashMap<u64, Instant, foldhash::fast::RandomState>,
    /// How often each accept loop had looked for connections, and since when that stands.
    backlogs: Vec<(u64, Instant)>,
    looked_at: Instant,
    look_at: Instant,
    descriptors: usize,
    /// Memory in use at the last look.
    resident_bytes: usize,
    leaked: usize,
    couriers: Vec<JoinHandle<()>>,
    restarted_at: Instant,
    restart_pause: Duration,
    died: Vec<usize>,
}

impl Guard {
    /// A guard over an engine.
    pub fn new(shared: Arc<Shared>, drain: DrainSignal) -> Guard {
        let now = Instant::now();
        Guard {
            backlogs: vec![(0, now); shared.sources.len()],
            heartbeat: shared.watchdog.heartbeat("the guard"),
            shared,
            drain,
            memories: HashMap::default(),
            dead_since: HashMap::default(),
            looked_at: now,
            look_at: now + LOOK,
            descriptors: 0,
            resident_bytes: 0,
            leaked: 0,
            couriers: Vec::new(),
            restarted_at: now - RESTART_PAUSE,
            restart_pause: RESTART_PAUSE,
            died: Vec::new(),
        }
    }

    /// Watches until told to drain, or until too many threads have leaked; then drains.
    pub fn run(mut self) -> (Ended, Vec<JoinHandle<()>>) {
        let exhausted = loop {
            if self.drain.is_set() {
                break false;
            }
            if self.leaked >= self.shared.limits.get().leaked_threads_max {
                log::error!("{} threads of tiny_http are lost; larder drains to be started anew", self.leaked);
                break true;
            }
            self.beat();
        };
        let ended = self.finish();
        (if exhausted { Ended::Exhausted } else { ended }, self.couriers)
    }

    /// One turn of the loop.
    fn beat(&mut self) {
        let now = Instant::now();
        let pause = self.look_at.saturating_duration_since(now).min(GLANCE);
        let news = self.heartbeat.wait(|_| self.shared.nudge.wait(pause));
        let now = Instant::now();
        if self.memory_grew() {
            self.look_at = now;
        }
        self.died.extend(news.died);
        self.restart_dead(now);
        if news.now {
            self.look_at = self.look_at.min(self.looked_at + LOOK_PAUSE);
        }
        if news.new_connection {
            // A steady stream of new connections must not make the guard look more often than it ticks.
            self.look_at = self.look_at.min((self.looked_at + TICK).max(now + BURST));
        }
        let ticked = now.saturating_duration_since(self.looked_at) >= TICK;
        if self.look_at <= now || (ticked && self.descriptors_changed()) {
            self.look(now, false);
        }
        self.watch_backlogs(now);
        self.refuse_overdue();
        self.count();
    }

    /// Answers the requests whose time was over before a worker was free for them, also when no worker will ever be:
    /// each may sit in a read of a card that hangs.
    fn refuse_overdue(&self) {
        let request_timeout = self.shared.limits.get().request_timeout;
        self.shared.body_budget.tend(request_timeout);
        self.shared.answer_budget.tend();
        while let Some(stage) = self.shared.crew.next_overdue(request_timeout) {
            // The repliers write it: the guard never waits for a client.
            stage.into_late_reply().send(&self.shared);
        }
    }

    /// Whether so much memory was taken since the last look that whoever takes it must be looked for. What tiny_http reads
    /// of a head or of a chunk's size it keeps, and one client can send much of that between two ticks.
    fn memory_grew(&mut self) -> bool {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0);
        let grew = resident * rustix::param::page_size() > self.resident_bytes + GROWTH_BYTES;
        self.resident_bytes = if grew { resident * rustix::param::page_size() } else { self.resident_bytes };
        grew
    }

    fn descriptors_changed(&mut self) -> bool {
        let count = crate::board::descriptor::numbers().map_or(0, |numbers| numbers.len());
        std::mem::replace(&mut self.descriptors, count) != count
    }

    /// A look at every connection. What came between requests counts as nothing.
    fn scan(&self) -> std::io::Result<Scan> {
        let mut scan = scan::scan(&self.shared.sources)?;
        scan.seen.iter_mut().for_each(|seen| self.complete(seen));
        Ok(scan)
    }

    fn complete(&self, seen: &mut Seen) {
        if let Some(meter) = self.shared.porch.meter(seen.inode) {
            seen.info.bytes_received = seen.info.bytes_received.saturating_sub(meter.skipped_bytes());
            seen.has_thread = meter.has_thread();
            seen.is_kept = meter.has_kept();
        }
    }

    /// Looks at a connection once more if something was taken of it meanwhile: what came of that is nothing new. False if
    /// it cannot be seen by the number it had, which may have been that of whoever read a body: what was seen of it is
    /// too old then to go by.
    fn look_again(&self, seen: &mut Seen, glimpse: Option<&Glimpse>) -> bool {
        if !glimpse.is_some_and(|glimpse| judge::is_news(glimpse, self.memories.get(&seen.key))) {
            return true;
        }
        let Some(again) = scan::again(seen) else { return false };
        *seen = again;
        self.complete(seen);
        true
    }

    /// The connections that have sent requests, and how many.
    fn known(&self) -> Vec<(Arc<Connection>, u64)> {
        let all = self.shared.connections.all().into_iter();
        all.map(|connection| (Arc::clone(&connection), connection.glimpse().taken)).collect()
    }

    /// Looks at every connection and acts. Returns how many live connections there are.
    fn look(&mut self, now: Instant, draining: bool) -> usize {
        let before = self.known();
        self.looked_at = now;
        self.resident_bytes = 0;
        self.memory_grew();
        let began = Instant::now();
        let mut scan = match self.scan() {
            Ok(scan) => scan,
            Err(error) => {
                log::warn!("the guard cannot see its sockets: {error}");
                self.look_at = now + TICK;
                return self.shared.in_hand();
            }
        };
        let (limits, mut kicks) = (self.shared.limits.get(), HashMap::<u16, usize>::new());
        let (mut untended, mut urgent, mut near, mut filling) = (false, false, false, false);
        for seen in &mut scan.seen {
            let connection = self.shared.connections.get(&seen.key);
            let glimpse = connection.as_ref().map(|connection| connection.glimpse());
            if !self.look_again(seen, glimpse.as_ref()) {
                urgent = true;
                continue;
            }
            let memory = self.memories.entry(seen.key).or_default();
            // While a body comes that larder reads itself, tiny_http's thread waits too, but not the client.
            let has_body = glimpse.as_ref().is_some_and(|glimpse| glimpse.body.is_some());
            let verdict = match !has_body && self.shared.porch.is_waiting(seen.inode) {
                true => Verdict::Near,
                false => judge::judge(seen, glimpse.as_ref(), memory, &limits, draining, now),
            };
            match verdict {
                Verdict::Fine => {}
                Verdict::Near => near = true,
                Verdict::Filling => filling = true,
                Verdict::Stranded => {
                    urgent = true;
                    *kicks.entry(seen.key.port).or_default() += 1;
                }
                Verdict::Successor => {
                    *memory = Memory::default();
                    if let Some(ended) = connection {
                        self.shared.connections.remove(&ended);
                    }
                    near = true;
                    continue;
                }
                Verdict::TooSlow => {
                    near = true;
                    connection.inspect(|connection| self.shared.stop_slow_body(connection));
                }
                Verdict::End(reason) => {
                    memory.cut = true;
                    cut(&self.shared, seen, connection, reason);
                    continue;
                }
            }
            untended |= seen.unread_bytes > 0 && !seen.has_thread;
            urgent |= seen.unread_bytes > 0 && !glimpse.as_ref().is_some_and(|glimpse| glimpse.busy);
            self.shared.porch.observe(seen, glimpse.as_ref(), memory.head_since(), now);
        }
        self.kick(&kicks);
        self.count_leaks(&scan, now);
        if scan.is_whole {
            self.forget_gone(&scan, before);
        }
        self.shared.porch.looked(&scan, began);
        self.shared.figures.connections.set(scan.seen.len() as u64);
        self.look_at = now + if untended { LOOK_PAUSE } else { pause(filling, urgent, near || draining) };
        scan.seen.iter().filter(|seen| seen.info.state == TCP_ESTABLISHED).count()
    }

    /// Frees stranded connections, as many as there are. One kick that does not get through stands for the rest.
    fn kick(&self, kicks: &HashMap<u16, usize>) {
        for source in &self.shared.sources {
            for _ in 0..kicks.get(&source.port).copied().unwrap_or(0) {
                if self.shared.is_draining() || !source.kick() {
                    return;
                }
                self.shared.figures.kicks.inc();
            }
        }
    }

    /// Counts sockets that nobody will ever close: each has a thread of tiny_http that waits for ever.
    ///
    /// NOTE: a head that says `HTTP/2.0` or `HTTP/3.0` would come to this, which the meter keeps from tiny_http: its thread
    /// answers 505 itself, and for that waits, on a channel, until the writer before is dropped, that of the very request
    /// which the same thread still holds.
    fn count_leaks(&mut self, scan: &Scan, now: Instant) {
        let cut = scan.seen.iter().filter(|seen| self.memories.get(&seen.key).is_some_and(|memory| memory.cut));
        let busy: Vec<u64> = self
            .memories
            .iter()
            .filter(|(key, _)| self.shared.connections.get(key).is_some_and(|connection| connection.glimpse().busy))
            .map(|(_, memory)| memory.inode)
            .collect();
        let dead: Vec<u64> = scan.dead.iter().copied().chain(cut.map(|seen| seen.inode)).collect();
        self.dead_since.retain(|inode, _| dead.contains(inode));
        for inode in dead.iter().filter(|inode| !busy.contains(inode)) {
            self.dead_since.entry(*inode).or_insert(now);
        }
        let old =
            self.dead_since.values().filter(|since| now.saturating_duration_since(**since) >= LEAKED_AFTER).count();
        self.leaked = old;
        self.shared.figures.leaked_threads.set(self.leaked as u64);
    }

    /// Forgets connections that have gone. One that took a request since the look began is new, not gone.
    fn forget_gone(&mut self, scan: &Scan, before: Vec<(Arc<Connection>, u64)>) {
        let seen: std::collections::HashSet<Key> = scan.seen.iter().map(|seen| seen.key).collect();
        for (connection, taken) in before {
            let glimpse = connection.glimpse();
            if !glimpse.busy && glimpse.taken == taken && !seen.contains(&connection.key) {
                self.shared.connections.remove(&connection);
            }
        }
        let connections = &self.shared.connections;
        self.memories.retain(|key, _| seen.contains(key) || connections.get(key).is_some());
    }

    /// Replaces accept loops that have died.
    fn restart_dead(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.restarted_at);
        if self.died.is_empty() || since < self.restart_pause {
            return;
        }
        let lasted = since > 2 * RESTART_PAUSE_MAX;
        self.restart_pause = if lasted { RESTART_PAUSE } else { RESTART_PAUSE_MAX.min(self.restart_pause * 2) };
        self.restarted_at = now;
        for index in std::mem::take(&mut self.died) {
            if let Err(error) = self.restart(index) {
                log::error!("cannot accept connections, trying again: {error}");
                self.died.push(index);
            }
        }
    }

    fn restart(&mut self, index: usize) -> std::io::Result<()> {
        let moves = self.shared.crew.moves();
        let source = Arc::clone(&self.shared.sources[index]);
        let old = source.restart()?;
        self.shared.figures.accept_restarts.inc();
        log::warn!("replaced an accept loop of tiny_http that had died");
        // The workers take from the first listener's current server; every other server has a courier.
        let carried = if index == 0 {
            // IMPORTANT: the workers must have left the old queue before a courier takes from it, or the courier
            // could swallow the call that brings them out.
            self.shared.crew.move_over(&old, &source.current(), moves);
            old
        } else {
            source.current()
        };
        let shared = Arc::clone(&self.shared);
        self.couriers.push(threads::spawn("larder-courier", move || threads::carry(&shared, index, &carried))?);
        Ok(())
    }

    /// A backlog that nobody looks at means that the accept loop died without a word.
    fn watch_backlogs(&mut self, now: Instant) {
        for (index, source) in self.shared.sources.iter().enumerate() {
            let turns = source.turns();
            let (known, since) = self.backlogs[index];
            if source.backlog() == 0 || turns != known {
                self.backlogs[index] = (turns, now);
            } else if now.saturating_duration_since(since) >= BACKLOG_STUCK {
                self.backlogs[index] = (turns, now);
                if !self.died.contains(&index) {
                    self.died.push(index);
                }
            }
        }
    }

    fn count(&self) {
        let ((bodies, reading), (answers, writing)) = (self.shared.bodies.depth(), self.shared.answers.depth());
        self.shared.figures.lane_queued.set((bodies + answers) as u64);
        self.shared.figures.lane_busy.set((reading + writing) as u64);
        self.shared.figures.queued.set(self.shared.crew.queued() as u64);
    }

    /// Stops accepting, lets what is at work end, and ends the connections that are idle.
    fn finish(&mut self) -> Ended {
        self.shared.draining.store(true, Ordering::SeqCst);
        for source in &self.shared.sources {
            source.stop_accepting();
        }
        let deadline = Instant::now() + self.shared.limits.get().drain_timeout;
        let mut empty_looks = 0;
        while Instant::now() < deadline {
            let now = Instant::now();
            let open = self.look(now, true);
            let is_empty = open == 0 && self.shared.in_hand() == 0;
            empty_looks = if is_empty { empty_looks + 1 } else { 0 };
            if empty_looks == 2 {
                break;
            }
            self.heartbeat.wait(|_| std::thread::sleep(TICK_URGENT));
        }
        let in_hand = self.shared.in_hand();
        if let Ok(scan) = scan::scan(&self.shared.sources) {
            for seen in &scan.seen {
                cut(&self.shared, seen, self.shared.connections.get(&seen.key), Reason::Drain);
            }
        }
        for source in &self.shared.sources {
            source.leave();
        }
        if in_hand == 0 { Ended::Drained } else { Ended::CutShort }
    }
}

/// How soon the next look is.
fn pause(filling: bool, urgent: bool, near: bool) -> Duration {
    match (filling, urgent, near) {
        (true, ..) => GLANCE,
        (_, true, _) => BURST,
        (.., true) => TICK,
        _ => LOOK,
    }
}

/// Ends a connection that may never have sent a request.
fn cut(shared: &Shared, seen: &Seen, connection: Option<Arc<Connection>>, reason: Reason) {
    match connection {
        Some(connection) => shared.end(&connection, reason),
        None => {
            let hint = std::sync::atomic::AtomicI32::new(seen.number);
            if let Ok(Some(socket)) = socket::find(&seen.key, &hint) {
                socket::cut(&socket);
                shared.figures.closed(reason);
            }
        }
    }
}
