//! Whether a client takes anything of what its socket holds for it.
//!
//! The kernel says that a full socket can be written to when a third of its buffer is free, which over a slow link takes
//! minutes: until then only what is not acknowledged tells a client that takes a little from one that takes nothing.

use std::io;
use std::os::fd::OwnedFd;

/// What a socket held for its client at the last look.
#[derive(Default)]
pub struct Backlog(Option<usize>);

impl Backlog {
    /// Looks again. Whether the client took something since the last look, if nothing was written since.
    pub fn shrank(&mut self, socket: &OwnedFd) -> bool {
        let (before, now) = (self.0, unsent_bytes(socket).ok());
        self.0 = now;
        before.zip(now).is_some_and(|(before, now)| now < before)
    }
}

/// How many bytes of a connection the peer has not acknowledged yet, sent or not (`SIOCOUTQ`).
#[allow(unsafe_code)]
pub fn unsent_bytes(socket: &OwnedFd) -> io::Result<usize> {
    // SAFETY: on sockets this ioctl stores one `int`, which is what the getter reserves.
    let getter = unsafe { rustix::ioctl::Getter::<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, libc::c_int>::new() };
    // SAFETY: as above, and the descriptor is owned, so it is the socket that it was.
    let bytes = unsafe { rustix::ioctl::ioctl(socket, getter) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_client_that_takes_a_little_is_told_from_one_that_takes_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&client, 4096).unwrap();
        let mut served = listener.accept().unwrap().0;
        served.set_nonblocking(true).unwrap();
        while served.write(&[0; 65536]).is_ok() {}
        let socket = OwnedFd::from(served);
        let mut backlog = Backlog::default();
        assert!(!backlog.shrank(&socket), "the first look tells nothing");
        let mut settle = |shrinks: bool| {
            while backlog.shrank(&socket) != shrinks {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            backlog.0.unwrap()
        };
        // What is on its way to the client's window comes there first; then it stays as it is.
        settle(false);
        for _ in 0..3 {
            client.read_exact(&mut [0; 100_000]).unwrap();
            settle(true);
            assert!(settle(false) > 0);
        }
    }
}
