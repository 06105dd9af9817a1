//! Talking with the service manager: ready, stopping, status, and the sockets it hands over.
//!
//! Without a service manager everything here does nothing. The environment is read and not changed, since changing it
//! beside running threads is not sound.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::log_limited;
use crate::logging::RateLimit;

/// How long to wait for a manager that has no room for a message.
const SEND_MAX: Duration = Duration::from_secs(1);

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
    static FAILED: RateLimit = RateLimit::new(1, Duration::from_secs(60));
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let text: String = state.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send_to(path.as_bytes(), text.as_bytes()) {
        log_limited!(FAILED, log::Level::Warn, "cannot notify the service manager: {error}");
    }
}

/// A manager that does not read must hold up neither a stop nor the watchdog: what it has no room for in time is not sent.
fn send_to(path: &[u8], text: &[u8]) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    socket.send_to_addr(text, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(one_line("serving\nMAINPID=1"), "serving MAINPID=1");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let name = format!("@larder-test-{}", std::process::id());
        let hidden = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap();
        for (path, reader) in [(path.as_os_str().as_bytes(), manager), (name.as_bytes(), hidden)] {
            let mut sent = 0;
            let error = loop {
                match send_to(path, b"WATCHDOG=1\n") {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((sent > 0, error.kind()), (true, io::ErrorKind::WouldBlock), "{error}");
            assert_eq!(reader.recv(&mut [0; 64]).unwrap(), 11);
            send_to(path, b"STOPPING=1\n").unwrap();
        }
    }

    #[test]
    fn without_a_service_manager_there_are_no_sockets() {
        assert!(listen_fds().unwrap().is_empty());
    }
}
