//! A look at all sockets of this process that came from our listeners.
//!
//! Invariant: what is told of a connection was read from a duplicate that was asked for its peer after it was made.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::board::descriptor;
use crate::http::tiny::connection::Key;
use crate::http::tiny::source::Source;
use crate::http::tiny::sys::{self, TcpInfo};

/// One connection, as the kernel sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its name.
    pub key: Key,
    /// A number of it, to find it again.
    pub number: RawFd,
    /// The socket's inode, which names it also when its peer is gone.
    pub inode: u64,
    /// Its state and counters.
    pub info: TcpInfo,
    /// Bytes that came in and that nobody has read.
    pub unread_bytes: u64,
    /// A thread of tiny_http has begun to read it.
    pub has_thread: bool,
    /// Something of it was read that nobody has had yet, or nothing is missing of the body that is being read.
    pub is_kept: bool,
}

/// What a scan found.
#[derive(Default)]
pub struct Scan {
    /// Connections that have a peer.
    pub seen: Vec<Seen>,
    /// Inodes of accepted sockets that are closed on the wire and still open in this process.
    pub dead: Vec<u64>,
    /// Every socket could be looked at.
    pub is_whole: bool,
}

/// Looks at all descriptors.
pub fn scan(sources: &[std::sync::Arc<Source>]) -> io::Result<Scan> {
    let mut scan = Scan { is_whole: true, ..Scan::default() };
    let mut done: HashMap<Key, (), foldhash::fast::RandomState> = HashMap::default();
    for number in descriptor::numbers()? {
        let Some(local) = sys::local_of(number) else { continue };
        let Some(source) = sources.iter().find(|source| source.port == local.port()) else { continue };
        match sys::peer_of(number) {
            Some(peer) => {
                let key = Key { port: source.port, peer };
                if done.insert(key, ()).is_none() {
                    let seen = look(number, key, &mut scan.is_whole);
                    scan.seen.extend(seen);
                }
            }
            None => {
                let dead = dead_inode(number, source.port, &mut scan.is_whole);
                scan.dead.extend(dead);
            }
        }
    }
    scan.dead.sort_unstable();
    scan.dead.dedup();
    Ok(scan)
}

/// Holds a socket; one that could not be held, though it may be open, makes the look incomplete.
fn hold(number: RawFd, is_whole: &mut bool) -> Option<OwnedFd> {
    let held = descriptor::duplicate(number);
    *is_whole &= !held.as_ref().is_err_and(|error| error.raw_os_error() != Some(libc::EBADF));
    held.ok()
}

fn look(number: RawFd, key: Key, is_whole: &mut bool) -> Option<Seen> {
    let socket = hold(number, is_whole)?;
    let same: fn(SocketAddr, SocketAddr) -> bool = |a, b| a.port() == b.port() && a.ip() == b.ip();
    if !sys::peer_of(socket.as_raw_fd()).is_some_and(|peer| same(peer, key.peer)) {
        return None;
    }
    Some(Seen {
        key,
        number,
        inode: inode(&socket)?,
        info: sys::tcp_info(&socket).ok()?,
        unread_bytes: rustix::io::ioctl_fionread(&socket).unwrap_or(0),
        has_thread: true,
        is_kept: false,
    })
}

/// Looks once more at a connection that was seen, if it is still there.
pub fn again(seen: &Seen) -> Option<Seen> {
    look(seen.number, seen.key, &mut true).filter(|again| again.inode == seen.inode)
}

fn dead_inode(number: RawFd, port: u16, is_whole: &mut bool) -> Option<u64> {
    let socket = hold(number, is_whole)?;
    let is_ours = sys::local_of(socket.as_raw_fd()).is_some_and(|local| local.port() == port);
    let is_dead = is_ours
        && sys::peer_of(socket.as_raw_fd()).is_none()
        && !rustix::net::sockopt::socket_acceptconn(&socket).ok()?;
    is_dead.then(|| inode(&socket)).flatten()
}

fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_scan_sees_open_connections_with_what_waits_in_them_and_dead_sockets_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut open = TcpStream::connect(address).unwrap();
        let (_open_served, _) = listener.accept().unwrap();
        let gone = TcpStream::connect(address).unwrap();
        let (gone_served, _) = listener.accept().unwrap();
        open.write_all(b"hello").unwrap();
        rustix::net::sockopt::set_socket_linger(&gone, Some(std::time::Duration::ZERO)).unwrap();
        drop(gone);
        // The source must not accept for itself, so it is made of another listener with this one's port.
        let source = Arc::new(Source::for_scan(listener));
        let scan = scan(&[source]).unwrap();
        assert_eq!(scan.seen.len(), 1);
        assert_eq!(scan.seen[0].key.peer, open.local_addr().unwrap());
        assert_eq!(scan.seen[0].unread_bytes, 5);
        assert_eq!(scan.dead.len(), 1);
        drop(gone_served);
    }
}
