//! A listener and the tiny_http servers that have accepted from it.
//!
//! Invariant: a `Server` is never dropped, because its drop connects to itself, which may block. One whose accept loop
//! has died still delivers the requests of the connections it accepted, so it stays in use beside its successor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt;
use tiny_http::Server;

use super::porch::Porch;
use super::porter::DoorPorter;
use super::sys::{self, Porter};

/// What the send buffer of an accepted socket is set to; the kernel doubles it, and may give less.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// How long one blocking write may wait before it is tried again, or given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an accept loop may take to begin.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const KICK_TIMEOUT: Duration = Duration::from_millis(250);

/// Bounds a socket's blocking writes in time, and gives it a send buffer of known size. Accepted sockets inherit both.
pub fn set_send_options(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SEND_TIMEOUT))?;
    Ok(sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?)
}

/// Has a server accept from a listener, through its porter.
fn serve(listener: TcpListener, porter: &Arc<DoorPorter>) -> io::Result<Server> {
    let theirs: Arc<dyn Porter> = porter.clone();
    sys::stand_at(listener.as_raw_fd(), theirs);
    Server::from_listener(listener, None).map_err(other)
}

/// One listener with its servers.
pub struct Source {
    /// Its port, by which accepted sockets are recognised.
    pub port: u16,
    address: SocketAddr,
    listener: TcpListener,
    /// A clone made in advance: it is needed most when descriptors have run out.
    spare: Mutex<Option<TcpListener>>,
    porter: Arc<DoorPorter>,
    current: Mutex<Arc<Server>>,
    old: Mutex<Vec<Arc<Server>>>,
}

fn other(error: Box<dyn std::error::Error + Send + Sync>) -> io::Error {
    io::Error::other(error.to_string())
}

impl Source {
    /// Starts a server on a listener. Returns it with the bytes that a send buffer takes for sure.
    pub fn start(listener: TcpListener, porch: &Arc<Porch>) -> io::Result<(Source, usize)> {
        // A former owner of the socket may have left it non-blocking, which would end tiny_http's accept loop.
        listener.set_nonblocking(false)?;
        set_send_options(&listener)?;
        let budget_bytes = sockopt::socket_send_buffer_size(&listener)? / 2;
        let address = listener.local_addr()?;
        let porter = Arc::new(DoorPorter::new(Arc::clone(porch), &listener)?);
        let server = serve(listener.try_clone()?, &porter)?;
        let deadline = Instant::now() + ASK_TIMEOUT;
        while !porter.is_asked() {
            if Instant::now() > deadline {
                return Err(io::Error::other(
                    "tiny_http accepts connections past larder: this program is not well linked",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let spare = Mutex::new(Some(listener.try_clone()?));
        let current = Mutex::new(keep(server));
        Ok((
            Source { port: address.port(), address, listener, spare, porter, current, old: Mutex::default() },
            budget_bytes,
        ))
    }

    /// The server that accepts now.
    pub fn current(&self) -> Arc<Server> {
        Arc::clone(&self.current.lock())
    }

    /// Puts a new server in place of one whose accept loop has died. Returns the old one, which must stay in use.
    pub fn restart(&self) -> io::Result<Arc<Server>> {
        let listener = match self.spare.lock().take() {
            Some(listener) => listener,
            None => self.listener.try_clone()?,
        };
        let server = keep(serve(listener, &self.porter)?);
        *self.spare.lock() = self.listener.try_clone().ok();
        let old = std::mem::replace(&mut *self.current.lock(), server);
        self.old.lock().push(Arc::clone(&old));
        Ok(old)
    }

    /// Every server that has accepted from this listener.
    pub fn all(&self) -> Vec<Arc<Server>> {
        let mut all = self.old.lock().clone();
        all.push(self.current());
        all
    }

    /// How often its accept loop has looked for connections.
    pub fn turns(&self) -> u64 {
        self.porter.turns()
    }

    /// Connections that wait to be accepted.
    pub fn backlog(&self) -> u32 {
        super::sys::tcp_info(&self.listener).map_or(0, |info| info.unacknowledged)
    }

    /// Ends the accept loop without touching what other processes hold of the socket: the next `accept` finds nobody.
    pub fn stop_accepting(&self) {
        if let Err(error) = self.listener.set_nonblocking(true) {
            log::warn!("cannot stop accepting: {error}");
        }
        for _ in self.all() {
            self.kick();
        }
    }

    /// Leaves the socket as it was, for whoever gets it next.
    pub fn leave(&self) {
        let _ = self.listener.set_nonblocking(false);
    }

    /// Connects to ourselves and closes: tiny_http wakes up for it, and starts a thread that takes a stranded connection.
    /// False if we could not connect.
    pub fn kick(&self) -> bool {
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip(match to {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        std::net::TcpStream::connect_timeout(&to, KICK_TIMEOUT).is_ok()
    }
}

#[cfg(test)]
impl Source {
    /// A source that accepts nothing, for scans in tests.
    pub fn for_scan(listener: TcpListener) -> Source {
        let address = listener.local_addr().unwrap();
        let idle = TcpListener::bind("127.0.0.1:0").unwrap();
        let current = Mutex::new(keep(Server::from_listener(idle, None).unwrap()));
        let figures = Arc::new(super::figures::Figures::new(&crate::metrics::Registry::default()));
        let porch = Arc::new(Porch::new(Default::default(), Arc::default(), figures));
        let porter = Arc::new(DoorPorter::new(porch, &listener).unwrap());
        let (port, spare) = (address.port(), Mutex::new(None));
        Source { port, address, listener, spare, porter, current, old: Mutex::default() }
    }
}

/// Makes sure that a server is never dropped: one reference is given away for good.
fn keep(server: Server) -> Arc<Server> {
    let server = Arc::new(server);
    std::mem::forget(Arc::clone(&server));
    server
}
