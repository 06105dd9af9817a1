//! The kernel's own word on the system clock. It is only asked, never told anything.

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
