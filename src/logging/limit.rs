//! Keeps a warning that may repeat from filling the journal: a token bucket for one place in the source.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets `burst` lines through at once and one more each `period`; counts those it holds back.
pub struct RateLimit {
    burst: u32,
    period: Duration,
    state: Mutex<Option<State>>,
}

struct State {
    tokens: u32,
    /// When the bucket last gained a token, or was full.
    filled: Instant,
    held_back: u64,
}

impl RateLimit {
    /// A full bucket. `const`, so that a `static` beside the line can hold it.
    pub const fn new(burst: u32, period: Duration) -> RateLimit {
        RateLimit { burst, period, state: Mutex::new(None) }
    }

    /// Asks to log a line now. `Some` says yes, and how many lines were held back since the last yes.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let state = state.get_or_insert(State { tokens: self.burst, filled: now, held_back: 0 });
        let periods = now.saturating_duration_since(state.filled).as_nanos() / self.period.as_nanos().max(1);
        let gained = u32::try_from(periods).unwrap_or(u32::MAX);
        if gained >= self.burst - state.tokens {
            (state.tokens, state.filled) = (self.burst, now);
        } else {
            state.tokens += gained;
            state.filled += self.period * gained;
        }
        if state.tokens == 0 {
            state.held_back += 1;
            return None;
        }
        state.tokens -= 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

/// Logs like [`log::log!`], but only as often as a [`RateLimit`] allows; a line after a gap says how many are missing.
///
/// ```
/// use std::time::Duration;
/// use larder::{log_limited, logging::RateLimit};
/// static CLOSED: RateLimit = RateLimit::new(5, Duration::from_secs(10));
/// log_limited!(CLOSED, log::Level::Warn, "closed the connection of {}", "192.0.2.1");
/// ```
#[macro_export]
macro_rules! log_limited {
    ($limit:expr, $level:expr, $($message:tt)+) => {
        if log::log_enabled!($level) {
            match $limit.allow() {
                Some(0) => log::log!($level, $($message)+),
                Some(held_back) => log::log!($level, "{} ({held_back} like this were not logged)", format_args!($($message)+)),
                None => {}
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_through_then_one_a_period_with_the_number_held_back() {
        let (limit, start) = (RateLimit::new(2, SECOND), Instant::now());
        assert_eq!((limit.allow_at(start), limit.allow_at(start)), (Some(0), Some(0)));
        assert_eq!((limit.allow_at(start), limit.allow_at(start + SECOND / 2)), (None, None));
        assert_eq!(limit.allow_at(start + SECOND), Some(2));
        assert_eq!(limit.allow_at(start + SECOND), None);
    }

    #[test]
    fn part_of_a_period_is_not_lost_and_a_long_pause_gives_no_more_than_the_burst() {
        let (limit, start) = (RateLimit::new(2, SECOND), Instant::now());
        assert!(limit.allow_at(start).is_some() && limit.allow_at(start).is_some());
        assert!(limit.allow_at(start + SECOND * 3 / 2).is_some());
        assert!(limit.allow_at(start + SECOND * 2).is_some());
        assert!(limit.allow_at(start + SECOND * 2).is_none());
        let later = start + SECOND * 1_000_000;
        let allowed = (0..5).filter(|_| limit.allow_at(later).is_some()).count();
        assert_eq!(allowed, 2);
    }

    #[test]
    fn a_clock_that_stands_still_or_an_older_moment_is_no_panic() {
        let (limit, start) = (RateLimit::new(1, Duration::ZERO), Instant::now() + SECOND);
        assert!(limit.allow_at(start).is_some());
        assert!(limit.allow_at(start - SECOND).is_none());
    }
}
