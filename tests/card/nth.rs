//! What happens at the n-th operation of a kind.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::support::{Failure, Kept, Op};
use super::{card, cuttable, make, sync_folder};

/// Does one operation of a kind, the n-th.
fn operate(op: Op, at: &Path, n: usize) -> std::io::Result<()> {
    let file = |name: &str| OpenOptions::new().write(true).open(at.join(name));
    match op {
        Op::Sync => File::open(at)?.sync_all(),
        Op::Write => file("open")?.write_all_at(&[b'0' + n as u8], n as u64),
        Op::Rename => fs::rename(at.join(format!("old{n}")), at.join(format!("renamed{n}"))),
        Op::Open => file("open").map(drop),
        Op::Create => OpenOptions::new().create_new(true).write(true).open(at.join(format!("made{n}"))).map(drop),
        Op::Mkdir => fs::create_dir(at.join(format!("folder{n}"))),
        Op::Unlink => fs::remove_file(at.join(format!("unwanted{n}"))),
        Op::Truncate => file("open")?.set_len(10 + n as u64),
        Op::Read => fs::read(at.join(format!("read{n}"))).map(drop),
    }
}

fn with_files() -> tempfile::TempDir {
    let backing = tempfile::tempdir().unwrap();
    for name in ["old", "unwanted", "read"] {
        (0..6).for_each(|n| make(backing.path(), &format!("{name}{n}")));
    }
    make(backing.path(), "open");
    backing
}

#[test]
fn the_nth_operation_of_a_kind_fails_once_or_for_good() {
    for op in Op::ALL {
        for (failure, code) in [(Failure::Io, rustix::io::Errno::IO), (Failure::NoSpace, rustix::io::Errno::NOSPC)] {
            for for_good in [false, true] {
                let backing = with_files();
                let Some(card) = card(backing.path(), cuttable()) else { return };
                operate(op, card.path(), 0).unwrap();
                card.fail_at(op, 2, failure, for_good);
                let outcomes: Vec<_> = (1..5).map(|n| operate(op, card.path(), n)).collect();
                let errors = outcomes.iter().map(|outcome| outcome.as_ref().err().and_then(|e| e.raw_os_error()));
                let (no, yes) = (None, Some(code.raw_os_error()));
                let expected = if for_good { [no, yes, yes, yes] } else { [no, yes, no, no] };
                assert!(errors.eq(expected), "{op:?} {failure:?} {for_good}: {outcomes:?}");
                assert!(card.fired() >= if for_good { 3 } else { 1 });
                card.disarm();
                operate(op, card.path(), 5).unwrap();
            }
        }
    }
}

#[test]
fn the_power_fails_between_two_operations_and_all_fails_until_it_is_back() {
    for op in Op::ALL {
        let backing = with_files();
        let Some(mut card) = card(backing.path(), cuttable()) else { return };
        operate(op, card.path(), 0).unwrap();
        sync_folder(card.path());
        card.cut_power_at(op, 2, Kept::Nothing);
        operate(op, card.path(), 1).unwrap();
        assert!(card.cut_at().is_none());
        assert!(operate(op, card.path(), 2).is_err(), "{op:?}");
        assert!(card.wait_for_cut(Duration::from_secs(60)) && card.cut_at().is_some());
        for op in Op::ALL {
            assert!(operate(op, card.path(), 4).is_err(), "{op:?} without power");
        }
        card.power_up().unwrap();
        assert!(card.cut_at().is_none());
        for op in Op::ALL {
            operate(op, card.path(), 4).unwrap();
        }
        let done = |name: &str| backing.path().join(name).exists();
        match op {
            Op::Rename => assert!(done("renamed0") && done("old1") && done("old2")),
            Op::Create => assert!(done("made0") && !done("made1") && !done("made2")),
            Op::Mkdir => assert!(done("folder0") && !done("folder1") && !done("folder2")),
            Op::Unlink => assert!(!done("unwanted0") && done("unwanted1") && done("unwanted2")),
            _ => {}
        }
    }
}
