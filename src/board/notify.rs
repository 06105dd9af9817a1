//! Talking with the service manager: ready, stopping, status, and the sockets it hands over.
//!
//! Without a service manager everything here does nothing. The environment is read and never changed, since changing it
//! beside running threads is not sound.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Says that requests are served now, with a line for `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Says that a stop has begun.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// Sets the line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// Asks for more time to start or stop, counted from now: for a recovery that takes long.
pub fn extend_timeout(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// Says that we are alive. Whoever calls this vouches for it: see [`super::watchdog`].
pub fn watchdog_ping() {
    send(&[NotifyState::Watchdog]);
}

/// How often the service manager wants to hear [`watchdog_ping`] at least. `None` if it does not watch.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Whether a service manager listens to us: one that would start us anew.
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// The listening sockets handed over by socket activation, with the names the unit gives them (`unknown` if none).
/// They are closed on exec. A second call returns none: the sockets belong to the first caller.
///
/// Must be called before anything else opens files. An error says that the environment contradicts itself or names a
/// descriptor that is not open.
pub fn listen_fds() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let handed_over = sd_notify::listen_fds_with_names()?;
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    #[allow(unsafe_code)]
    // SAFETY: LISTEN_PID says that these descriptors were opened for this process; setting their close-on-exec flag has
    // just shown that they are open; and the flag above makes this the only place that ever owns them.
    Ok(handed_over.map(|(fd, name)| (unsafe { OwnedFd::from_raw_fd(fd) }, name)).collect())
}

/// A newline would begin another message.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(one_line("serving\nMAINPID=1"), "serving MAINPID=1");
    }

    #[test]
    fn without_a_service_manager_there_are_no_sockets() {
        assert!(listen_fds().unwrap().is_empty());
    }
}
