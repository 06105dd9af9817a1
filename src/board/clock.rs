//! The kernel's clocks beside the wall clock, and its own word on that. It is only asked, never told anything.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The largest `struct timex` that any kernel writes has 208 bytes.
const TIMEX_WORDS: usize = 64;
/// What the kernel answers while nobody keeps its clock right.
const TIME_ERROR: libc::c_long = 5;

/// Whether something keeps the system clock right (an NTP client, or the host of a container or a virtual machine that
/// shares its clock); `None` if we may not ask, as in a service with `ProtectClock=yes`.
pub fn is_synchronised() -> Option<bool> {
    let mut timex = [0u64; TIMEX_WORDS];
    // NOTE: adjtimex itself and not the C library's function of that name, which may be clock_adjtime or
    // clock_adjtime64 below: one name for filters of system calls on every machine, and the one that container engines
    // let through for the longest time.
    #[allow(unsafe_code)]
    // SAFETY: the kernel writes a `struct timex` of at most 208 bytes to a buffer of 512 that is aligned for it. Its
    // first member, `modes`, is 0: nothing is changed, and no privilege is needed.
    let state = unsafe { libc::syscall(libc::SYS_adjtimex, timex.as_mut_ptr()) };
    (state >= 0).then_some(state != TIME_ERROR)
}

/// Time since the boot, sleep included. It only goes forward, whatever is done to the wall clock.
pub fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the kernel calls this boot; `None` if it does not say.
pub fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim_end().chars().filter(|digit| *digit != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_is_the_same_each_time_and_its_time_passes() {
        assert!(boot().is_some() && boot() == boot());
        let before = boot_time();
        assert!(before > Duration::ZERO && boot_time() >= before);
    }
}
