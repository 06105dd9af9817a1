//! Finding the socket of a connection from outside tiny_http, and ending it.
//!
//! Invariant: what is returned was asked for its peer *after* it was duplicated, so it is the connection that was
//! meant, however fast descriptor numbers are reused.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::net::{RecvFlags, Shutdown};

use super::connection::Key;
use super::sys;
use crate::board::descriptor;

/// Which connection a socket belongs to, from its own point of view. Scope and flow of IPv6 are left aside.
fn is(peer: SocketAddr, local_port: u16, key: &Key) -> bool {
    peer.port() == key.peer.port() && peer.ip() == key.peer.ip() && local_port == key.port
}

fn pin(number: RawFd, key: &Key) -> io::Result<Option<OwnedFd>> {
    let matches = |number| {
        let peer = sys::peer_of(number)?;
        Some(is(peer, sys::local_of(number)?.port(), key))
    };
    if matches(number) != Some(true) {
        return Ok(None);
    }
    let pinned = match descriptor::duplicate(number) {
        // It was closed since it was asked: that is one of another connection, or this one has ended.
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
        pinned => pinned?,
    };
    let own = std::os::fd::AsRawFd::as_raw_fd(&pinned);
    Ok((matches(own) == Some(true)).then_some(pinned))
}

/// Finds the socket of a connection and holds it by a duplicate. `Ok(None)` if it is gone or closed; an error says nothing
/// of the connection, only that it could not be looked for. `hint` is where it was found before.
pub fn find(key: &Key, hint: &AtomicI32) -> io::Result<Option<OwnedFd>> {
    if let Some(pinned) = pin(hint.load(Ordering::Relaxed), key)? {
        return Ok(Some(pinned));
    }
    for number in descriptor::numbers()? {
        if let Some(pinned) = pin(number, key)? {
            hint.store(number, Ordering::Relaxed);
            return Ok(Some(pinned));
        }
    }
    Ok(None)
}

/// Ends a connection both ways. Threads that wait for it wake up. Already closed is fine.
pub fn cut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    // What came before could still be read, and tiny_http would make it a head of any size.
    let mut piece = [0u8; 16 * 1024];
    while rustix::net::recv(socket, &mut piece[..], RecvFlags::DONTWAIT).is_ok_and(|(_, count)| count > 0) {}
}

/// Lets nothing more in: waiting readers wake up with what is there, then with the end.
pub fn stop_reading(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
}

/// Makes the close a reset, so that a client can tell a cut answer from a whole one.
pub fn reset_on_close(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
}

/// The address behind an IPv4-mapped IPv6 address.
pub fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_by_its_peer_and_can_be_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (served, peer) = listener.accept().unwrap();
        let hint = AtomicI32::new(-1);
        let found = find(&Key { port, peer }, &hint).unwrap().expect("the connection is open");
        assert_ne!(hint.load(Ordering::Relaxed), -1);
        cut(&found);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        drop(served);
    }

    #[test]
    fn descriptors_that_come_and_go_meanwhile_hide_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // So that the duplicates get lower numbers, which are looked at first.
        let low: Vec<TcpListener> = (0..8).map(|_| listener.try_clone().unwrap()).collect();
        let (served, peer) = listener.accept().unwrap();
        drop(low);
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Duplicates of the very connection, as the guard and the writers of answers make them all the time.
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_done.load(Ordering::SeqCst) {
                        drop(served.try_clone());
                    }
                });
            }
            let look = || find(&Key { port, peer }, &AtomicI32::new(-1));
            let is_found = (0..3000).all(|_| look().is_ok_and(|found| found.is_some()));
            is_done.store(true, Ordering::SeqCst);
            assert!(is_found);
        });
    }

    #[test]
    fn neither_a_wrong_hint_nor_another_port_finds_a_stranger() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (served, peer) = listener.accept().unwrap();
        let hint = AtomicI32::new(std::os::fd::AsRawFd::as_raw_fd(&served));
        assert!(find(&Key { port: port ^ 1, peer }, &hint).unwrap().is_none());
        let stranger = SocketAddr::new(peer.ip(), peer.port() ^ 1);
        assert!(find(&Key { port, peer: stranger }, &hint).unwrap().is_none());
    }
}
