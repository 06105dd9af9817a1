//! The guard's judgement of one connection: pure, from what was seen of it now and remembered of it.

use std::time::{Duration, Instant};

use super::scan::Seen;
use crate::http::tiny::connection::Glimpse;
use crate::http::tiny::figures::Reason;
use crate::http::tiny::sys::TCP_ESTABLISHED;
use crate::limits::Limits;

/// How long bytes may lie unread on a connection without a request before it counts as stranded.
pub const STRANDED_AFTER: Duration = Duration::from_millis(50);
/// The same of one that no thread of tiny_http has begun to read.
pub const UNTENDED_AFTER: Duration = Duration::from_millis(10);
/// How long kicks are tried before a stranded connection is given up.
pub const STRANDED_GIVEN_UP: Duration = Duration::from_secs(5);
/// A thread that was told that its body is too slow has this long to stop reading.
const SLOW_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Bytes beyond the limit of one head that may have come in since the last request was taken: a read-ahead, and a
/// small body that tiny_http reads with the head.
const HEAD_SLACK_BYTES: u64 = 64 * 1024;

/// Bytes that no head, and no framing of a body, ordinarily takes: from here on every tick counts.
const FILLING_BYTES: u64 = 8 * 1024;

/// What the guard remembers of a connection between two looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    taken: u64,
    bodies_read: u64,
    /// Bytes that had come in when the last request was seen taken.
    mark_bytes: u64,
    head_since: Option<Instant>,
    stranded_since: Option<Instant>,
    body_since: Option<(Instant, u64)>,
    slow_since: Option<Instant>,
    kicks: u32,
    /// The guard has shut it down.
    pub cut: bool,
    /// The socket's inode.
    pub inode: u64,
}

impl Memory {
    /// Since when bytes have come that are no request yet.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, and nothing is near.
    Fine,
    /// Nothing yet; look again soon.
    Near,
    /// Nothing yet, but tiny_http is reading something into memory that is no request: look again at once.
    Filling,
    /// tiny_http has no thread for it.
    Stranded,
    /// What the engine knows is of an earlier connection with the same name, which has ended.
    Successor,
    /// Its body is too slow: whoever reads it must stop and answer.
    TooSlow,
    /// It has to end.
    End(Reason),
}

/// Whether requests were taken of a connection, or bodies read, of which the last look did not know. What was seen of its
/// bytes before that was asked may be too little.
pub fn is_news(glimpse: &Glimpse, memory: Option<&Memory>) -> bool {
    memory.is_none_or(|memory| (memory.taken, memory.bodies_read) != (glimpse.taken, glimpse.bodies_read))
}

/// Judges one connection. What was seen of it is younger than `glimpse` if that [`is_news`]. `glimpse` is what the engine knows of it: nothing if it has sent no request yet.
pub fn judge(
    seen: &Seen,
    glimpse: Option<&Glimpse>,
    memory: &mut Memory,
    limits: &Limits,
    draining: bool,
    now: Instant,
) -> Verdict {
    if memory.inode != seen.inode {
        *memory = Memory { inode: seen.inode, ..Memory::default() };
    }
    let taken = glimpse.map_or(0, |glimpse| glimpse.taken);
    if taken != memory.taken {
        *memory = Memory { taken, mark_bytes: seen.info.bytes_received, inode: seen.inode, ..Memory::default() };
    }
    let bodies_read = glimpse.map_or(0, |glimpse| glimpse.bodies_read);
    if bodies_read != memory.bodies_read {
        // What came since the last look was a body's.
        memory.bodies_read = bodies_read;
        memory.slow_since = None;
        memory.mark_bytes = seen.info.bytes_received;
    }
    if glimpse.is_some_and(|glimpse| glimpse.lingering) {
        return Verdict::Near;
    }
    if memory.cut || glimpse.is_some_and(|glimpse| glimpse.ended) {
        let is_cut = memory.cut || glimpse.is_some_and(|glimpse| glimpse.cut);
        return match (seen.info.state == TCP_ESTABLISHED, is_cut) {
            (false, _) => Verdict::Fine,
            (true, true) => Verdict::Successor,
            (true, false) => Verdict::End(Reason::Refused),
        };
    }
    match glimpse.filter(|glimpse| glimpse.busy) {
        Some(glimpse) => judge_busy(seen, glimpse, memory, limits, now),
        None => judge_waiting(seen, memory, limits, draining, now),
    }
}

fn judge_busy(seen: &Seen, glimpse: &Glimpse, memory: &mut Memory, limits: &Limits, now: Instant) -> Verdict {
    memory.head_since = None;
    memory.stranded_since = None;
    let Some(body) = &glimpse.body else {
        memory.body_since = None;
        let read_bytes = seen.info.bytes_received.saturating_sub(seen.unread_bytes);
        let too_much = read_bytes.saturating_sub(memory.mark_bytes) > limits.head_bytes_max as u64 + HEAD_SLACK_BYTES;
        return if too_much { Verdict::End(Reason::Head) } else { Verdict::Fine };
    };
    let began_at = body.began_at;
    let mark = match memory.body_since {
        Some((known, mark)) if known == began_at => mark,
        _ => memory.mark_bytes,
    };
    memory.body_since = Some((began_at, mark));
    memory.mark_bytes = seen.info.bytes_received;
    if body.waits() {
        return Verdict::Near;
    }
    let elapsed = body.elapsed(now);
    let bytes = body.bytes.load(std::sync::atomic::Ordering::Relaxed);
    let late = body.timeout.is_some_and(|timeout| elapsed > timeout);
    let slow = elapsed > limits.body_grace && (bytes as f64) < elapsed.as_secs_f64() * limits.body_rate_min as f64;
    // What was read of the wire must show in the body: a byte in a chunk of its own is six. Else it is a line without end.
    let read_bytes = seen.info.bytes_received.saturating_sub(seen.unread_bytes).saturating_sub(mark);
    let long = read_bytes > bytes.saturating_mul(8).saturating_add(HEAD_SLACK_BYTES);
    // A handler that reads its own body may pause for the disk: only a client that sends nothing is slow.
    let client_waits = body.timeout.is_none() && (seen.unread_bytes > 0 || seen.is_kept);
    // However much of it has come: it holds one of few places.
    let stalled = body.timeout.is_none()
        && u128::from(seen.info.last_data_received_ms) > 2 * limits.body_grace.as_millis()
        && elapsed > 2 * limits.body_grace;
    if let Some(since) = memory.slow_since {
        let has_had_time = now.saturating_duration_since(since) >= SLOW_ANSWER_TIME;
        return if has_had_time && body.timeout.is_some() { Verdict::End(Reason::Body) } else { Verdict::Near };
    }
    if long {
        return Verdict::End(Reason::Body);
    }
    if late || ((slow || stalled) && !client_waits) {
        memory.slow_since = Some(now);
        return Verdict::TooSlow;
    }
    if read_bytes > bytes.saturating_mul(8).saturating_add(FILLING_BYTES) { Verdict::Filling } else { Verdict::Near }
}

fn judge_waiting(seen: &Seen, memory: &mut Memory, limits: &Limits, draining: bool, now: Instant) -> Verdict {
    memory.body_since = None;
    let half_closed = seen.info.state != TCP_ESTABLISHED;
    if seen.unread_bytes > 0 || half_closed {
        // A thread that read from it would have taken the bytes, or noticed the end.
        let since = now.saturating_duration_since(*memory.stranded_since.get_or_insert(now));
        let after = if seen.has_thread { STRANDED_AFTER } else { UNTENDED_AFTER };
        return match since {
            since if since >= STRANDED_GIVEN_UP => Verdict::End(Reason::Stranded),
            since if since >= after * 2u32.saturating_pow(memory.kicks) => {
                memory.kicks += 1;
                Verdict::Stranded
            }
            _ => Verdict::Near,
        };
    }
    memory.stranded_since = None;
    memory.kicks = 0;
    let quiet_ms = seen.info.last_data_received_ms.min(seen.info.last_data_sent_ms);
    let came = seen.info.bytes_received.saturating_sub(memory.mark_bytes);
    if came > 0 {
        let since = now.saturating_duration_since(*memory.head_since.get_or_insert(now));
        if came > limits.head_bytes_max as u64 + HEAD_SLACK_BYTES || since >= limits.head_timeout {
            return Verdict::End(Reason::Head);
        }
        if came > FILLING_BYTES {
            return Verdict::Filling;
        }
        let has_stalled = u128::from(seen.info.last_data_received_ms) >= DRAIN_STALL.as_millis();
        return if draining && has_stalled { Verdict::End(Reason::Drain) } else { Verdict::Near };
    }
    memory.head_since = None;
    if draining && u128::from(quiet_ms) >= DRAIN_QUIET.as_millis() {
        return Verdict::End(Reason::Drain);
    }
    if u128::from(quiet_ms) >= limits.idle_timeout.as_millis() {
        return Verdict::End(Reason::Idle);
    }
    if draining { Verdict::Near } else { Verdict::Fine }
}

/// While draining, a request that is still coming is waited for, but not one of which nothing came for this long. It may
/// be a head, or a small body, which tiny_http reads before it gives the request out: from outside they look the same.
const DRAIN_STALL: Duration = Duration::from_secs(1);
/// While draining, a connection this quiet is idle: a request that tiny_http has read would have been taken by now.
const DRAIN_QUIET: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::http::tiny::connection::{BodyPace, Key};
    use crate::http::tiny::sys::TcpInfo;

    fn seen(bytes_received: u64, quiet_ms: u32, unread_bytes: u64) -> Seen {
        let info = TcpInfo {
            state: TCP_ESTABLISHED,
            unacknowledged: 0,
            last_data_sent_ms: quiet_ms,
            last_data_received_ms: quiet_ms,
            bytes_received,
        };
        let key = Key { port: 80, peer: ([10, 0, 0, 1], 9).into() };
        Seen { key, number: 3, inode: 7, info, unread_bytes, has_thread: true, is_kept: false }
    }

    fn pace(began_at: Instant, bytes: u64) -> BodyPace {
        BodyPace {
            began_at,
            waits_since: Default::default(),
            waited_ms: AtomicU64::new(0),
            is_too_slow: false.into(),
            bytes: AtomicU64::new(bytes),
            timeout: Some(Duration::from_secs(60)),
        }
    }

    fn glimpse(busy: bool, taken: u64, body: Option<Arc<BodyPace>>) -> Glimpse {
        Glimpse { busy, ended: false, cut: false, lingering: false, taken, bodies_read: 0, body }
    }

    struct Case {
        memory: Memory,
        limits: Limits,
        start: Instant,
    }

    impl Case {
        fn new() -> Case {
            Case { memory: Memory::default(), limits: Limits::default(), start: Instant::now() }
        }
        fn after(&mut self, ms: u64, seen: &Seen, glimpse: Option<&Glimpse>) -> Verdict {
            let now = self.start + Duration::from_millis(ms);
            judge(seen, glimpse, &mut self.memory, &self.limits, false, now)
        }
    }

    #[test]
    fn a_quiet_connection_ends_after_the_idle_time_but_not_while_a_request_is_at_work() {
        let mut case = Case::new();
        let working = glimpse(true, 1, None);
        assert_eq!(case.after(0, &seen(100, 64_999, 0), Some(&glimpse(false, 1, None))), Verdict::Fine);
        assert_eq!(case.after(0, &seen(100, 65_000, 0), Some(&working)), Verdict::Fine);
        let idle = glimpse(false, 1, None);
        assert_eq!(case.after(0, &seen(100, 65_000, 0), Some(&idle)), Verdict::End(Reason::Idle));
        assert_eq!(Case::new().after(0, &seen(0, 65_000, 0), None), Verdict::End(Reason::Idle));
    }

    #[test]
    fn a_head_that_trickles_in_ends_at_its_limit() {
        let mut case = Case::new();
        assert_eq!(case.after(0, &seen(10, 1, 0), None), Verdict::Near);
        assert_eq!(case.after(9_999, &seen(20, 1, 0), None), Verdict::Near);
        assert_eq!(case.after(10_000, &seen(21, 1, 0), None), Verdict::End(Reason::Head));
    }

    #[test]
    fn at_a_stop_what_is_still_coming_is_waited_for_and_what_stalls_or_is_idle_is_not() {
        let (start, limits) = (Instant::now(), Limits::default());
        let mut memory = Memory::default();
        let mut after =
            |ms: u64, seen: &Seen| judge(seen, None, &mut memory, &limits, true, start + Duration::from_millis(ms));
        assert_eq!(after(0, &seen(10, 1, 0)), Verdict::Near);
        assert_eq!(after(5_000, &seen(20, 999, 0)), Verdict::Near, "a byte came within the last second");
        assert_eq!(after(6_000, &seen(20, 1_000, 0)), Verdict::End(Reason::Drain));
        let idle = judge(&seen(0, 100, 0), None, &mut Memory::default(), &limits, true, start);
        assert_eq!(idle, Verdict::End(Reason::Drain));
    }

    #[test]
    fn a_head_that_became_a_request_starts_anew() {
        let mut case = Case::new();
        assert_eq!(case.after(0, &seen(10, 1, 0), None), Verdict::Near);
        let idle = glimpse(false, 1, None);
        assert_eq!(case.after(9_000, &seen(200, 1, 0), Some(&idle)), Verdict::Fine);
        assert_eq!(case.after(12_000, &seen(210, 1, 0), Some(&idle)), Verdict::Near);
    }

    #[test]
    fn a_head_without_end_is_cut_by_its_length() {
        let mut case = Case::new();
        assert_eq!(case.after(0, &seen(200_000, 1, 0), None), Verdict::End(Reason::Head));
        let mut case = Case::new();
        let busy = glimpse(true, 1, None);
        assert_eq!(case.after(0, &seen(100, 1, 0), Some(&busy)), Verdict::Fine);
        assert_eq!(case.after(0, &seen(200_000, 1, 0), Some(&busy)), Verdict::End(Reason::Head));
    }

    #[test]
    fn unread_bytes_without_a_request_are_stranded_after_two_looks() {
        let mut case = Case::new();
        assert_eq!(case.after(0, &seen(80, 1, 80), None), Verdict::Near);
        assert_eq!(case.after(50, &seen(80, 1, 80), None), Verdict::Stranded);
        assert_eq!(case.after(99, &seen(80, 1, 80), None), Verdict::Near, "each kick has twice the time");
        assert_eq!(case.after(100, &seen(80, 1, 80), None), Verdict::Stranded);
        assert_eq!(case.after(5_000, &seen(80, 1, 80), None), Verdict::End(Reason::Stranded));
        let mut case = Case::new();
        let untended = Seen { has_thread: false, ..seen(80, 1, 80) };
        assert_eq!(case.after(0, &untended, None), Verdict::Near);
        assert_eq!(case.after(10, &untended, None), Verdict::Stranded, "nobody reads it");
        assert_eq!(case.after(19, &untended, None), Verdict::Near);
        assert_eq!(case.after(20, &untended, None), Verdict::Stranded);
        let mut case = Case::new();
        let busy = glimpse(true, 1, None);
        assert_eq!(case.after(50, &seen(80, 1, 80), Some(&busy)), Verdict::Fine, "its request is at work");
    }

    #[test]
    fn a_body_may_be_slow_in_its_grace_only_and_must_end_in_time() {
        let case = |bytes: u64, ms: u64| {
            let mut case = Case::new();
            let pace = pace(case.start, bytes);
            let reading = glimpse(true, 1, Some(Arc::new(pace)));
            case.after(ms, &seen(200 + bytes, 1, 0), Some(&reading))
        };
        assert_eq!(case(10, 10_000), Verdict::Near);
        assert_eq!(case(10, 10_001), Verdict::TooSlow);
        assert_eq!(case(1_000_000, 59_000), Verdict::Near);
        assert_eq!(case(1_000_000, 60_001), Verdict::TooSlow);
    }

    #[test]
    fn what_a_body_waits_for_memory_is_not_held_against_it_and_one_that_was_read_is_no_head() {
        let mut case = Case::new();
        let pace = Arc::new(pace(case.start, 0));
        let reading = glimpse(true, 1, Some(Arc::clone(&pace)));
        pace.set_waits(true);
        assert_eq!(case.after(0, &seen(100, 1, 0), Some(&reading)), Verdict::Near);
        assert_eq!(case.after(50_000, &seen(900_000, 1, 0), Some(&reading)), Verdict::Near);
        pace.set_waits(false);
        pace.waited_ms.store(40_000, Ordering::Relaxed);
        pace.bytes.store(900_000, Ordering::Relaxed);
        assert_eq!(case.after(50_000, &seen(900_000, 1, 0), Some(&reading)), Verdict::Near);
        pace.bytes.store(10, Ordering::Relaxed);
        assert_eq!(case.after(50_000, &seen(500, 1, 0), Some(&reading)), Verdict::Near, "as if it were 10 s");
        assert_eq!(case.after(50_001, &seen(500, 1, 0), Some(&reading)), Verdict::TooSlow, "its grace is over");
        let read = Glimpse { bodies_read: 1, ..glimpse(false, 1, None) };
        assert_eq!(case.after(90_250, &seen(1_000_000, 1, 0), Some(&read)), Verdict::Fine);
    }

    #[test]
    fn a_connection_that_was_cut_is_told_from_its_successor() {
        let mut case = Case::new();
        let ended = |cut| Glimpse { ended: true, cut, ..glimpse(false, 1, None) };
        let mut open = seen(100, 1, 0);
        assert_eq!(case.after(0, &open, Some(&ended(false))), Verdict::End(Reason::Refused), "it was not found then");
        assert_eq!(case.after(0, &open, Some(&ended(true))), Verdict::Successor);
        let lingering = Glimpse { lingering: true, ..ended(false) };
        assert_eq!(case.after(0, &open, Some(&lingering)), Verdict::Near, "it is held open on purpose");
        open.info.state = 4;
        assert_eq!(case.after(0, &open, Some(&ended(true))), Verdict::Fine, "on its way out");

        case.memory.cut = true;
        let mut other = seen(100, 1, 0);
        other.inode = 8;
        assert_eq!(case.after(0, &other, None), Verdict::Near, "another socket is judged anew");
    }

    #[test]
    fn chunks_that_blow_up_on_the_wire_are_cut() {
        let mut case = Case::new();
        let pace = BodyPace { timeout: None, ..pace(case.start, 9) };
        let reading = glimpse(true, 1, Some(Arc::new(pace)));
        let most = 200 + 9 * 8 + HEAD_SLACK_BYTES;
        assert_eq!(case.after(0, &seen(200, 1, 0), Some(&reading)), Verdict::Near);
        assert_eq!(case.after(1, &seen(most, 1, 0), Some(&reading)), Verdict::Filling);
        assert_eq!(
            case.after(2, &seen(most + 7, 1, 7), Some(&reading)),
            Verdict::Filling,
            "what is unread is not ours yet"
        );
        assert_eq!(case.after(3, &seen(most + 1, 1, 0), Some(&reading)), Verdict::End(Reason::Body));
    }
}
