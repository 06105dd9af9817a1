//! Listening sockets: binding them, their options (accepted sockets inherit them), and those that systemd hands over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket (epoll only).
    Unix(UnixListener),
}

/// What the kernel may keep of bytes that we have not read, a connection; it takes twice that for its own part. Left to
/// itself it goes up to 6 MiB, and a few hundred bodies that wait unread would take the memory that they wait for.
const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// Connections that may wait to be accepted. With the 128 of the standard library a burst of 300 overflows the queue while
/// we make room; the kernel then answers with cookies, and resets some of those connections once they send something.
const QUEUE: i32 = 1024;

impl Listener {
    /// Binds a TCP address; port 0 lets the kernel choose.
    pub fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        rustix::net::listen(&listener, QUEUE)?;
        set_tcp_options(&listener)?;
        Ok(Listener::Tcp(listener))
    }

    /// Binds a Unix socket with mode 0660. A socket file that nobody listens on any more is replaced.
    pub fn bind_unix(path: &Path) -> io::Result<Listener> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let stale = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if stale {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Listener::Unix(listener))
    }

    /// Takes a listening socket that was handed over (systemd socket activation).
    pub fn from_fd(fd: std::os::fd::OwnedFd) -> io::Result<Listener> {
        let address = rustix::net::getsockname(&fd)?;
        if SocketAddr::try_from(address).is_ok() {
            let listener = TcpListener::from(fd);
            set_tcp_options(&listener)?;
            Ok(Listener::Tcp(listener))
        } else {
            Ok(Listener::Unix(UnixListener::from(fd)))
        }
    }

    /// The address clients use: `http://127.0.0.1:8080` or `unix:/run/larder/larder.sock`.
    pub fn url(&self) -> String {
        match self {
            Listener::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "http://?".to_owned(), |address| format!("http://{address}"))
            }
            Listener::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!("unix:{}", path.map_or("?".into(), |path| path.display().to_string()))
            }
        }
    }
}

fn set_tcp_options(listener: &TcpListener) -> io::Result<()> {
    let fd = listener.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER_BYTES)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    // No TCP_USER_TIMEOUT: it also counts while a client that is there takes nothing, and how long that may last is for
    // the engines to say, which count it.
    Ok(())
}
