//! fjall's errors in larder's words. The texts are for the log: they may hold paths.

use std::io;

use crate::store::StoreError;

pub(super) fn from_io(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        _ => StoreError::Io(error.to_string()),
    }
}

pub(super) fn from_fjall(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) => from_io(error),
        fjall::Error::Storage(error) => from_lsm(error),
        fjall::Error::Locked => StoreError::Locked,
        fjall::Error::Poisoned => StoreError::Io("an earlier write or sync failed; only a new start helps".into()),
        other => StoreError::Corrupt(other.to_string()),
    }
}

pub(super) fn from_lsm(error: fjall::LsmError) -> StoreError {
    match error {
        fjall::LsmError::Io(error) => from_io(error),
        other => StoreError::Corrupt(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_card_is_told_from_a_failing_one() {
        let full = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let failing = || io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        assert!(matches!(from_fjall(fjall::Error::Io(full())), StoreError::NoSpace));
        assert!(matches!(from_fjall(fjall::Error::Storage(fjall::LsmError::Io(full()))), StoreError::NoSpace));
        assert!(matches!(from_fjall(fjall::Error::Io(failing())), StoreError::Io(_)));
        assert!(matches!(from_fjall(fjall::Error::Locked), StoreError::Locked));
        assert!(matches!(from_fjall(fjall::Error::Poisoned), StoreError::Io(_)));
        assert!(matches!(from_fjall(fjall::Error::Unrecoverable), StoreError::Corrupt(_)));
    }
}
