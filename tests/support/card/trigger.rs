//! What is to happen at the n-th operation of a kind, counted from when it was said.

use fuser::Errno;

/// A kind of operation. Looking up a name, listing a folder and closing a file are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A sync of a file or a folder.
    Sync,
    /// A write to a file, or an allocation of room for one.
    Write,
    /// A move of a name.
    Rename,
    /// The opening of a file that is there, or of a folder.
    Open,
    /// The making of a file, a link or a symbolic link.
    Create,
    /// The making of a folder.
    Mkdir,
    /// The removal of a file or folder.
    Unlink,
    /// A change of length.
    Truncate,
    /// A read from a file that the system has not in memory.
    Read,
}

impl Op {
    /// All kinds.
    pub const ALL: [Op; 9] =
        [Op::Sync, Op::Write, Op::Rename, Op::Open, Op::Create, Op::Mkdir, Op::Unlink, Op::Truncate, Op::Read];
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// A part, drawn from this seed.
    Drawn(u64),
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
}

impl Failure {
    pub fn errno(self) -> Errno {
        match self {
            Failure::Io => Errno::EIO,
            Failure::NoSpace => Errno::ENOSPC,
        }
    }
}

/// What happens then.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// The power fails before the operation.
    Cut(Kept),
    /// The operation fails; `for_good`: and so do all later ones of its kind.
    Fail { failure: Failure, for_good: bool },
}

/// Operations so far, and what is to happen.
#[derive(Default)]
pub struct Triggers {
    counts: [u64; Op::ALL.len()],
    armed: Vec<(Op, u64, Then)>,
    fired: u64,
}

impl Triggers {
    /// Has something happen at the n-th operation of a kind from now on; the next one is the first.
    pub fn arm(&mut self, op: Op, nth: u64, then: Then) {
        self.armed.push((op, self.counts[op as usize] + nth.max(1), then));
    }

    pub fn disarm(&mut self) {
        self.armed.clear();
    }

    /// How many operations of a kind there were.
    pub fn count(&self, op: Op) -> u64 {
        self.counts[op as usize]
    }

    /// How often something happened.
    pub fn fired(&self) -> u64 {
        self.fired
    }

    /// An operation is about to begin.
    pub fn at(&mut self, op: Op) -> Option<Then> {
        let count = &mut self.counts[op as usize];
        *count += 1;
        let count = *count;
        let place = self.armed.iter().position(|(kind, nth, _)| *kind == op && *nth <= count)?;
        let then = self.armed[place].2;
        if !matches!(then, Then::Fail { for_good: true, .. }) {
            self.armed.remove(place);
        }
        self.fired += 1;
        Some(then)
    }
}
