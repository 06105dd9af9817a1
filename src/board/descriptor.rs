//! Naming a descriptor by its number, for those that libraries keep to themselves.
//!
//! Invariant: a number is only ever asked who it is or duplicated, never read, written or closed; everything else happens
//! on the duplicate, after it was asked again.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Lends a descriptor number for one call.
pub fn lend<'a>(number: RawFd) -> Option<BorrowedFd<'a>> {
    // SAFETY: -1 is excluded. Whoever owns the number may close it, or the kernel may give it to another file, during
    // the call: the callers make a single system call that neither changes the file nor touches our memory by it, fails
    // with EBADF in the first case, and is checked again on the duplicate in the second.
    (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Duplicates whatever now has this number. The caller must ask the duplicate who it is.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    let fd = lend(number).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
}

/// The descriptor numbers of this process that are in use now.
pub fn numbers() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::with_capacity(64);
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(numbers)
}
