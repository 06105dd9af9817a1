//! The few system calls for which no safe crate has a door: `TCP_INFO`, the scheduling policy, and `accept4`, `recv`,
//! `send` and `shutdown`, which tiny_http calls without asking us.
//!
//! tiny_http keeps its sockets to itself, so their numbers are all we have. All unsafe code of the engine is in this
//! file, but for what names a descriptor by its number.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

use crate::board::descriptor::lend;

/// What the kernel knows of a connection, in the part that the guard judges by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// The TCP state: 1 is established, 7 closed, 10 listening.
    pub state: u8,
    /// Segments sent and not acknowledged; on a listening socket the connections that wait to be accepted.
    pub unacknowledged: u32,
    /// Milliseconds since data was last sent.
    pub last_data_sent_ms: u32,
    /// Milliseconds since data last came in.
    pub last_data_received_ms: u32,
    /// Bytes that came in since the connection began.
    pub bytes_received: u64,
}

/// `TcpInfo::state` of a connection that both sides still use.
pub const TCP_ESTABLISHED: u8 = 1;

/// The peer of the connection that now has this number, if it is one.
pub fn peer_of(number: RawFd) -> Option<SocketAddr> {
    let peer = rustix::net::getpeername(lend(number)?).ok()??;
    SocketAddr::try_from(peer).ok()
}

/// The local address of the socket that now has this number, if it is an IP socket.
pub fn local_of(number: RawFd) -> Option<SocketAddr> {
    let local = rustix::net::getsockname(lend(number)?).ok()?;
    SocketAddr::try_from(local).ok()
}

/// Has this thread, and those that it starts from now on, scheduled without preemption at a wake-up (`SCHED_BATCH`).
///
/// tiny_http wakes a thread of ours for every request, and we wake one of its own for every answer. On a single core
/// the default policy lets each of them interrupt the one that woke it; without that, several requests are read, then
/// several answered, and a request costs fewer changes of thread and a third less CPU.
pub fn run_in_batches() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 names the calling thread, and the kernel only reads the structure, during the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Who takes the connections of a listener in the place of `accept4`.
pub trait Porter: Send + Sync {
    /// The next connection that may come in. An error ends the accept loop.
    fn next(&self) -> io::Result<OwnedFd>;
}

type Post = (RawFd, Arc<dyn Porter>);

/// The porters of this process, each with the number of the listener that its accept loop knows.
static PORTERS: RwLock<Vec<Post>> = RwLock::new(Vec::new());

/// Has `porter` take the connections of the listener with this number, and of no other any more.
pub fn stand_at(number: RawFd, porter: Arc<dyn Porter>) {
    let mut porters = PORTERS.write();
    porters.retain(|(known, other)| *known != number && !Arc::ptr_eq(other, &porter));
    porters.push((number, porter));
}

/// Stands before libc's function of this name in our programs: the standard library's `TcpListener::accept`, which is all
/// that tiny_http uses, comes here. A listener without a porter is accepted from as ever.
///
/// # Safety
///
/// As `accept4(2)`: `address` and `length` are null, or `address` has room for the bytes that `length` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    socket: libc::c_int,
    address: *mut libc::sockaddr,
    length: *mut libc::socklen_t,
    flags: libc::c_int,
) -> libc::c_int {
    let porter = PORTERS.read().iter().find(|(number, _)| *number == socket).map(|(_, porter)| Arc::clone(porter));
    let Some(porter) = porter else {
        // SAFETY: the arguments are passed on as the caller gave them.
        return unsafe { libc::syscall(libc::SYS_accept4, socket, address, length, flags) } as libc::c_int;
    };
    loop {
        // A panic must not unwind into a caller of another language.
        let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| porter.next()));
        match next.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
            // SAFETY: the caller vouches for the two pointers; a failure changes neither. It fails for a client that has
            // gone, whose socket is closed here.
            Ok(connection) => {
                if unsafe { libc::getpeername(connection.as_raw_fd(), address, length) } == 0 {
                    return connection.into_raw_fd();
                }
            }
            Err(error) => {
                PORTERS.write().retain(|(number, known)| *number != socket || !Arc::ptr_eq(known, &porter));
                // SAFETY: libc's errno is this thread's own.
                unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
                return -1;
            }
        }
    }
}

/// Who looks at what is read of a connection. `is_theirs`: it is a thread of tiny_http that reads, which is a head with its
/// small body.
pub trait Gauge: Send + Sync {
    /// Called before each read, which fails with its error.
    fn before(&self, is_theirs: bool) -> io::Result<()>;
    /// Writes what was read before and held back, and says how much it is. Of nothing, the socket is read.
    fn held(&self, buffer: &mut [MaybeUninit<u8>]) -> usize;
    /// How many of these bytes the reader is given, which may be changed; of nothing given it reads anew.
    fn gives(&self, bytes: &mut [u8], is_theirs: bool) -> io::Result<usize>;
}

type Gauges = HashMap<u64, Arc<dyn Gauge>, foldhash::fast::RandomState>;

/// The gauges of this process, each by the inode of its socket: tiny_http reads from a duplicate, whose number it chose.
static GAUGES: LazyLock<RwLock<Gauges>> = LazyLock::new(RwLock::default);

/// Has `gauge` look at what is read from the socket with this inode, or nobody any more.
pub fn gauge(inode: u64, gauge: Option<Arc<dyn Gauge>>) {
    let mut gauges = GAUGES.write();
    match gauge {
        Some(gauge) => gauges.insert(inode, gauge),
        None => gauges.remove(&inode),
    };
}

fn gauge_of(socket: RawFd) -> Option<Arc<dyn Gauge>> {
    let inode = rustix::fs::fstat(lend(socket)?).ok()?.st_ino;
    GAUGES.read().get(&inode).cloned()
}

/// Whether this thread is tiny_http's: ours have names.
fn is_theirs() -> bool {
    thread_local!(static THEIRS: bool = std::thread::current().name().is_none());
    THEIRS.try_with(|theirs| *theirs).unwrap_or(false)
}

/// Stands before libc's function of this name in our programs: tiny_http ends the reading side of a connection whose last
/// head it has read, while larder may still read the body itself.
#[unsafe(no_mangle)]
pub extern "C" fn shutdown(socket: libc::c_int, how: libc::c_int) -> libc::c_int {
    let is_kept = || how == libc::SHUT_RD && is_theirs() && gauge_of(socket).is_some();
    // A panic must not unwind into a caller of another language.
    if std::panic::catch_unwind(is_kept).unwrap_or(false) {
        return 0;
    }
    // SAFETY: the arguments are passed on as the caller gave them; no memory is named.
    unsafe { libc::syscall(libc::SYS_shutdown, socket, how) as libc::c_int }
}

/// Stands before libc's function of this name in our programs: the standard library reads sockets with it. What comes over
/// one that has a gauge is shown to that.
///
/// # Safety
///
/// As `recv(2)`: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(
    socket: libc::c_int,
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    let nobody = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the arguments are passed on as the caller gave them; no address is asked for.
    let read = || unsafe { libc::syscall(libc::SYS_recvfrom, socket, buffer, length, flags, nobody, nobody) };
    // A panic must not unwind into a caller of another language.
    let looked = || (flags == 0).then(|| Some((gauge_of(socket)?, is_theirs()))).flatten();
    let gauge = std::panic::catch_unwind(looked).unwrap_or(None);
    let Some((gauge, is_theirs)) = gauge else { return read() as libc::ssize_t };
    loop {
        let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gauge.before(is_theirs)?;
            // SAFETY: the caller vouches for that much room, of which nobody else knows during the call.
            let room = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), length) };
            let count = match gauge.held(room) {
                0 => read(),
                held => held as libc::c_long,
            };
            let Some(came) = usize::try_from(count).ok().filter(|count| *count > 0) else { return Ok(Some(count)) };
            // SAFETY: the kernel, or the gauge, has written so many bytes there.
            let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), came) };
            let given = gauge.gives(bytes, is_theirs)?.min(came);
            Ok((given > 0).then_some(given as libc::c_long))
        }));
        match guarded.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
            Ok(Some(count)) => return count as libc::ssize_t,
            Ok(None) => {}
            Err::<_, io::Error>(_) => {
                // SAFETY: libc's errno is this thread's own.
                unsafe { *libc::__errno_location() = libc::EBADMSG };
                return -1;
            }
        }
    }
}

thread_local! {
    static INSTEAD: Cell<Option<&'static [u8]>> = const { Cell::new(None) };
}

/// Has whatever `write` sends to sockets be this in its place.
pub fn send_instead(bytes: &'static [u8], write: impl FnOnce()) {
    INSTEAD.set(Some(bytes));
    write();
    INSTEAD.set(None);
}

/// Stands before libc's function of this name in our programs: the standard library writes to sockets with it.
///
/// # Safety
///
/// As `send(2)`: `buffer` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    socket: libc::c_int,
    buffer: *const libc::c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    let nobody = std::ptr::null::<libc::c_void>();
    let write = |buffer: *const libc::c_void, length: libc::size_t| {
        // SAFETY: the arguments are passed on as the caller gave them, or name bytes of ours; no address is given.
        unsafe { libc::syscall(libc::SYS_sendto, socket, buffer, length, flags, nobody, 0) as libc::ssize_t }
    };
    match INSTEAD.try_with(Cell::get).unwrap_or(None) {
        None => write(buffer, length),
        Some([]) => length as libc::ssize_t,
        Some(bytes) => {
            let sent = write(bytes.as_ptr().cast(), bytes.len());
            if sent < 0 { sent } else { length as libc::ssize_t }
        }
    }
}

const INFO_BYTES: usize = 192;

/// Asks for `TCP_INFO`. Fields that the kernel is too old to know are 0.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut info = [0u8; INFO_BYTES];
    let mut length = INFO_BYTES as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer of that size, and the length actually written
    // into `length`; any bytes are valid for both.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse_info(&info))
}

/// Reads the fields at their offsets in the kernel's `struct tcp_info`, which only ever grows at its end.
fn parse_info(info: &[u8; INFO_BYTES]) -> TcpInfo {
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let mut received = [0u8; 8];
    received.copy_from_slice(&info[128..136]);
    TcpInfo {
        state: info[0],
        unacknowledged: word(24),
        last_data_sent_ms: word(44),
        last_data_received_ms: word(52),
        bytes_received: u64::from_ne_bytes(received),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_number_tells_its_peer_and_a_closed_one_tells_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, peer) = listener.accept().unwrap();
        assert_eq!(peer_of(served.as_raw_fd()), Some(peer));
        assert_eq!(local_of(served.as_raw_fd()), Some(listener.local_addr().unwrap()));
        assert_eq!(client.local_addr().unwrap(), peer);
        assert_eq!(peer_of(-1), None);
        assert_eq!(peer_of(RawFd::MAX), None);
        assert!(crate::board::descriptor::duplicate(RawFd::MAX).is_err());
    }

    #[test]
    fn threads_inherit_the_policy_from_the_one_that_asked_for_it() {
        /// The 41st field of `stat`; the name before it, in parentheses, may hold spaces.
        fn policy() -> String {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let after_name = &stat[stat.rfind(") ").unwrap() + 2..];
            after_name.split(' ').nth(38).unwrap().to_owned()
        }
        let asked = std::thread::spawn(|| {
            let before = policy();
            run_in_batches().unwrap();
            (before, policy(), std::thread::spawn(policy).join().unwrap())
        });
        let (batch, normal) = (libc::SCHED_BATCH.to_string(), libc::SCHED_OTHER.to_string());
        assert_eq!(asked.join().unwrap(), (normal, batch.clone(), batch));
    }

    #[test]
    fn the_kernel_counts_what_came_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut five = [0; 5];
        served.read_exact(&mut five).unwrap();
        let socket = OwnedFd::from(served.try_clone().unwrap());
        let info = tcp_info(&socket).unwrap();
        assert_eq!((info.state, info.bytes_received), (TCP_ESTABLISHED, 5));
    }

    #[test]
    fn a_listener_tells_how_many_wait_to_be_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = OwnedFd::from(listener);
        assert_eq!(tcp_info(&socket).unwrap().unacknowledged, 1);
    }
}
