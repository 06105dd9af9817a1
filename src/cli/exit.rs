//! How a command ends: the numbers are part of the contract with scripts.

/// Done.
pub const OK: u8 = 0;
/// It did not work; the message says why.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// There is no such value, namespace or collection.
pub const NOT_FOUND: u8 = 3;
/// The value is not, or no longer, at the version that was asked for.
pub const PRECONDITION: u8 = 4;
/// No larder answers there.
pub const UNREACHABLE: u8 = 5;
/// The configuration makes no sense (sysexits' EX_CONFIG).
pub const CONFIG: u8 = 78;

/// A reason to end with a number other than 0.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to say on stderr, a line each.
    pub message: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// A plain failure.
    pub fn plain(message: impl Into<String>) -> Failure {
        Failure::new(FAILED, message)
    }
}
