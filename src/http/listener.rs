//! Listening sockets: binding them, their options (accepted sockets inherit them), and those that systemd hands over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

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

/// Connections that may wait to be accepted, where nothing else is said. With the 128 of the standard library a burst of
/// 300 overflows the queue while we make room; the kernel then answers with cookies, and resets some of those connections
/// once they send something.
pub const BACKLOG: usize = 1024;

/// How a TCP address is bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binding {
    /// Of an IPv6 address: whether it takes no IPv4. `[::]` takes both by itself, whatever `net.ipv6.bindv6only` says.
    pub v6_only: bool,
    /// Whether this machine need not have the address yet.
    pub is_awaited: bool,
}

impl Listener {
    /// Binds a TCP address; port 0 lets the kernel choose.
    pub fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
        Listener::bind_tcp_as(address, Binding::default())
    }

    /// The same, in another way than the usual one.
    pub fn bind_tcp_as(address: SocketAddr, binding: Binding) -> io::Result<Listener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Connections of an earlier process may still be ending.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, binding.v6_only)?;
        }
        if binding.is_awaited {
            sockopt::set_ip_freebind(&socket, true)?;
        }
        bind(&socket, &address)?;
        listen(&socket, backlog_of(BACKLOG))?;
        let listener = TcpListener::from(socket);
        set_tcp_options(&listener)?;
        Ok(Listener::Tcp(listener))
    }

    /// Lets so many connections wait to be accepted; the kernel may allow fewer.
    pub fn set_backlog(&self, connections: usize) -> io::Result<()> {
        let socket = match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        };
        Ok(listen(socket, backlog_of(connections))?)
    }

    /// Binds a Unix socket with mode 0660. A socket file that nobody listens on any more is replaced; anything else that
    /// stands there stays, and is an invalid input.
    pub fn bind_unix(path: &Path) -> io::Result<Listener> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "something that is no socket stands there"));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_err() => std::fs::remove_file(path)?,
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Listener::Unix(listener))
    }

    /// Takes a listening socket that was handed over (systemd socket activation).
    pub fn from_fd(fd: std::os::fd::OwnedFd) -> io::Result<Listener> {
        let number = fd.as_raw_fd();
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} {what}"));
        let kind = sockopt::socket_type(&fd).map_err(|_| wrong("is no socket"))?;
        if kind != SocketType::STREAM {
            return Err(wrong("is a socket without connections: ListenStream= makes one with them"));
        }
        match sockopt::socket_domain(&fd)? {
            _ if !sockopt::socket_acceptconn(&fd)? => Err(wrong("is a socket that does not listen")),
            AddressFamily::INET | AddressFamily::INET6 => {
                let listener = TcpListener::from(fd);
                set_tcp_options(&listener)?;
                Ok(Listener::Tcp(listener))
            }
            AddressFamily::UNIX => Ok(Listener::Unix(UnixListener::from(fd))),
            _ => Err(wrong("is neither a TCP nor a Unix socket")),
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

fn backlog_of(connections: usize) -> i32 {
    i32::try_from(connections).unwrap_or(i32::MAX)
}

fn set_tcp_options(listener: &TcpListener) -> io::Result<()> {
    let fd = listener.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER_BYTES)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    sockopt::set_tcp_user_timeout(fd, 0)?;
    // IMPORTANT: no TCP_USER_TIMEOUT. It also counts while a client that is there takes nothing, and how long that may last
    // is for the engines to say, which count it: a client may pause for `limits.idle_timeout`, as long as that is now.
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn the_kernel_does_not_end_a_connection_whose_client_takes_nothing_for_a_while() {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_tcp_user_timeout(&passed, 30_000).unwrap();
        let listeners = [
            Listener::bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(),
            Listener::bind_tcp("[::]:0".parse().unwrap()).unwrap(),
            Listener::from_fd(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap(),
            Listener::from_fd(passed.into()).unwrap(),
        ];
        for listener in listeners {
            let Listener::Tcp(listener) = listener else { panic!("of TCP") };
            let port = listener.local_addr().unwrap().port();
            let host = if listener.local_addr().unwrap().is_ipv6() { "::1" } else { "127.0.0.1" };
            let _client = std::net::TcpStream::connect((host, port)).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            // The engines count how long a client may pause, by limits that may change.
            assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 0);
        }
    }

    #[test]
    fn only_a_socket_that_listens_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("s")).unwrap();
        let bound = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let wrong: [(OwnedFd, &str); 6] = [
            (std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(), "without connections"),
            (UnixDatagram::unbound().unwrap().into(), "without connections"),
            (rustix::pipe::pipe().unwrap().0, "is no socket"),
            (bound, "does not listen"),
            (connected.into(), "does not listen"),
            (UnixStream::pair().unwrap().0.into(), "does not listen"),
        ];
        for (fd, part) in wrong {
            let error = Listener::from_fd(fd).unwrap_err().to_string();
            assert!(error.starts_with("descriptor ") && error.contains(part), "{part}: {error}");
        }
        assert!(matches!(Listener::from_fd(unix.into()).unwrap(), Listener::Unix(_)));
        assert!(matches!(Listener::from_fd(listener.into()).unwrap(), Listener::Tcp(_)));
    }

    #[test]
    fn both_families_share_a_port_if_the_one_leaves_the_other_alone() {
        let Ok(probe) = TcpListener::bind("[::1]:0") else { return };
        drop(probe);
        let v4 = Listener::bind_tcp(([0, 0, 0, 0], 0).into()).unwrap();
        let Listener::Tcp(bound) = &v4 else { return };
        let all: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, bound.local_addr().unwrap().port()).into();
        let error = Listener::bind_tcp(all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "alone it takes both");
        Listener::bind_tcp_as(all, Binding { v6_only: true, ..Binding::default() }).unwrap();
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_awaited() {
        // Of the networks for documentation.
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address = address.parse().unwrap();
            let Err(error) = Listener::bind_tcp(address) else { panic!("{address} is there") };
            if error.kind() == io::ErrorKind::AddrNotAvailable {
                Listener::bind_tcp_as(address, Binding { is_awaited: true, ..Binding::default() }).unwrap();
            }
        }
    }
}
