//! What a power cut takes back in each model, and what a drawn one leaves.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::support::{CardOptions, Failure, Kept, Names, Op};
use super::{card, cuttable, make, sync_folder};

const BOTH: [Names; 2] = [Names::Ext4Like, Names::Strict];

/// Has a program use a card in a model until the power is cut, and hands over the folder behind it.
fn after_a_cut(names: Names, kept: Kept, program: impl FnOnce(&Path)) -> Option<tempfile::TempDir> {
    let backing = tempfile::tempdir().unwrap();
    let card = card(backing.path(), CardOptions { names, ..cuttable() })?;
    program(card.path());
    card.cut_power_keeping(kept);
    Some(backing)
}

/// All names beneath a folder, in order.
fn names_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(names_in(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
        }
        found.push(name);
    }
    found.sort();
    found
}

/// A program on the card, what it does before all is synced and what after.
struct Case {
    what: &'static str,
    before: fn(&Path),
    then: fn(&Path),
    ext4_like: &'static [&'static str],
    strict: &'static [&'static str],
}

fn make_folders(path: &Path) {
    fs::create_dir(path.join("a")).unwrap();
    fs::create_dir(path.join("b")).unwrap();
}

fn sync_file(path: &Path, name: &str) {
    File::open(path.join(name)).unwrap().sync_all().unwrap();
}

#[test]
fn a_name_is_durable_by_a_sync_of_its_folder_only_in_the_strict_model_and_by_any_sync_in_the_other() {
    let cases = [
        Case {
            what: "a new file, synced itself",
            before: |_| (),
            then: |at| {
                make(at, "new");
                sync_file(at, "new");
            },
            ext4_like: &["new"],
            strict: &[],
        },
        Case {
            what: "a new file in a folder that was synced, itself not",
            before: |_| (),
            then: |at| {
                make(at, "new");
                sync_folder(at);
            },
            ext4_like: &["new"],
            strict: &["new"],
        },
        Case {
            what: "a new folder that was synced, and its file, but not the folder around it",
            before: |_| (),
            then: |at| {
                fs::create_dir(at.join("folder")).unwrap();
                make(at, "folder/x");
                sync_file(at, "folder/x");
                sync_folder(&at.join("folder"));
            },
            ext4_like: &["folder", "folder/x"],
            strict: &[],
        },
        Case {
            what: "a new folder whose name was synced, but not what is in it",
            before: |_| (),
            then: |at| {
                fs::create_dir(at.join("folder")).unwrap();
                make(at, "folder/x");
                sync_file(at, "folder/x");
                sync_folder(at);
            },
            ext4_like: &["folder", "folder/x"],
            strict: &["folder"],
        },
        Case {
            what: "a removed file, while another is synced",
            before: |at| ["gone", "other"].iter().for_each(|name| make(at, name)),
            then: |at| {
                fs::remove_file(at.join("gone")).unwrap();
                sync_file(at, "other");
            },
            ext4_like: &["other"],
            strict: &["gone", "other"],
        },
        Case {
            what: "a move within a folder, while the file is synced",
            before: |at| make(at, "old"),
            then: |at| {
                fs::rename(at.join("old"), at.join("new")).unwrap();
                sync_file(at, "new");
            },
            ext4_like: &["new"],
            strict: &["old"],
        },
        Case {
            what: "a second name and a symbolic link, while the file is synced",
            before: |at| make(at, "file"),
            then: |at| {
                fs::hard_link(at.join("file"), at.join("second")).unwrap();
                std::os::unix::fs::symlink("file", at.join("link")).unwrap();
                assert_eq!(fs::read_to_string(at.join("link")).unwrap(), "file");
                sync_file(at, "file");
            },
            ext4_like: &["file", "link", "second"],
            strict: &["file"],
        },
        Case {
            what: "two names of a file, of which the first is removed and that is synced",
            before: |at| {
                make(at, "file");
                fs::hard_link(at.join("file"), at.join("second")).unwrap();
            },
            then: |at| {
                fs::remove_file(at.join("file")).unwrap();
                sync_folder(at);
                fs::remove_file(at.join("second")).unwrap();
            },
            ext4_like: &["second"],
            strict: &["second"],
        },
        Case {
            what: "a move between folders, the new one synced",
            before: |at| {
                make_folders(at);
                make(at, "a/x");
            },
            then: |at| {
                fs::rename(at.join("a/x"), at.join("b/x")).unwrap();
                sync_folder(&at.join("b"));
            },
            ext4_like: &["a", "b", "b/x"],
            strict: &["a", "a/x", "b", "b/x"],
        },
        Case {
            what: "a move between folders, the old one synced",
            before: |at| {
                make_folders(at);
                make(at, "a/x");
            },
            then: |at| {
                fs::rename(at.join("a/x"), at.join("b/x")).unwrap();
                sync_folder(&at.join("a"));
            },
            ext4_like: &["a", "b", "b/x"],
            strict: &["a", "b", "b/x"],
        },
        Case {
            what: "a removed folder whose own folder was not synced",
            before: |at| {
                make_folders(at);
                make(at, "a/x");
            },
            then: |at| {
                fs::remove_file(at.join("a/x")).unwrap();
                sync_folder(&at.join("a"));
                fs::remove_dir(at.join("a")).unwrap();
            },
            ext4_like: &["a", "b"],
            strict: &["a", "b"],
        },
    ];
    for case in cases {
        for (model, expected) in [(Names::Ext4Like, case.ext4_like), (Names::Strict, case.strict)] {
            let program = |at: &Path| {
                (case.before)(at);
                // The folders within come after those around them, and all of them are synced.
                let folders = names_in(at).into_iter().filter(|name| at.join(name).is_dir());
                folders.for_each(|name| sync_folder(&at.join(name)));
                names_in(at).iter().for_each(|name| sync_file(at, name));
                sync_folder(at);
                (case.then)(at);
            };
            let Some(backing) = after_a_cut(model, Kept::Nothing, program) else { return };
            assert_eq!(names_in(backing.path()), expected, "{}, {model:?}", case.what);
            for name in ["file", "second", "a/x", "b/x"].map(|name| backing.path().join(name)) {
                let text = fs::read_to_string(&name).unwrap_or_else(|_| "file".to_owned());
                assert!(text == "file" || text == "a/x", "{}, {model:?}: {text}", case.what);
            }
        }
    }
}

#[test]
fn what_a_cut_keeps_of_names_is_what_came_first_and_is_drawn_from_the_seed() {
    let first_n = |names: &[String], folder: &str, n: usize| (0..n).all(|k| names.contains(&format!("{folder}/{k}")));
    let (mut ahead, mut behind, mut some, mut apart) = (0, 0, 0, 0);
    for seed in 0..40 {
        for model in BOTH {
            let program = |at: &Path| {
                make_folders(at);
                sync_folder(at);
                for n in 0..10 {
                    make(at, &format!("a/{n}"));
                    make(at, &format!("b/{n}"));
                }
                fs::create_dir(at.join("b/later")).unwrap();
                make(at, "b/later/x");
            };
            let Some(backing) = after_a_cut(model, Kept::Drawn(seed), program) else { return };
            let names = names_in(backing.path());
            let count = |folder: &str| {
                names.iter().filter(|name| name.starts_with(folder) && !name.starts_with("b/later")).count()
            };
            let (a, b) = (count("a/"), count("b/"));
            assert!(first_n(&names, "a", a) && first_n(&names, "b", b), "{model:?}, {seed}: {names:?}");
            if names.iter().any(|name| name.starts_with("b/later")) {
                assert_eq!(b, 10, "{model:?}, {seed}: {names:?}");
            }
            match model {
                Names::Ext4Like => assert!(a == b || a == b + 1, "{seed}: {names:?}"),
                Names::Strict => {
                    apart += usize::from(a.abs_diff(b) > 1);
                    let later = names.iter().any(|name| name == "b/later");
                    ahead += usize::from(later && !names.iter().any(|name| name == "b/later/x"));
                    behind += usize::from(later && names.iter().any(|name| name == "b/later/x"));
                }
            }
            some += usize::from((1..10).contains(&a));
        }
    }
    assert!(ahead > 0 && behind > 0 && some > 10 && apart > 10, "{ahead} {behind} {some} {apart}");
}

#[test]
fn a_move_over_a_file_is_whole_whatever_a_cut_keeps() {
    for model in BOTH {
        let mut seen = [0, 0];
        for seed in 0..20 {
            let program = |at: &Path| {
                fs::write(at.join("it"), b"old").unwrap();
                sync_file(at, "it");
                sync_folder(at);
                fs::write(at.join("new"), b"new").unwrap();
                sync_file(at, "new");
                fs::rename(at.join("new"), at.join("it")).unwrap();
            };
            let Some(backing) = after_a_cut(model, Kept::Drawn(seed), program) else { return };
            let text = fs::read_to_string(backing.path().join("it")).unwrap();
            assert!(text == "old" || text == "new", "{text}");
            seen[usize::from(text == "new")] += 1;
            assert!(text == "old" || !backing.path().join("new").exists());
        }
        assert!(seen.iter().all(|times| *times > 0), "{model:?}: {seen:?}");
    }
}

#[test]
fn what_a_cut_keeps_of_bytes_is_pages_or_sectors_and_is_drawn_from_the_seed() {
    const PAGES: usize = 16;
    let write = |at: &Path| {
        let file = File::create(at.join("f")).unwrap();
        file.write_all_at(&[1; PAGES * 4096], 0).unwrap();
        file.sync_all().unwrap();
        sync_folder(at);
        file.write_all_at(&[2; PAGES * 4096 - 100], 0).unwrap();
        file.write_all_at(&[3; 5000], PAGES as u64 * 4096).unwrap();
    };
    let (mut kept, mut lost, mut torn, mut lengths) = (0, 0, 0, Vec::new());
    for seed in 0..40 {
        let Some(backing) = after_a_cut(Names::Strict, Kept::Drawn(seed), write) else { return };
        let bytes = fs::read(backing.path().join("f")).unwrap();
        let again = after_a_cut(Names::Strict, Kept::Drawn(seed), write).unwrap();
        assert!(fs::read(again.path().join("f")).unwrap() == bytes, "{seed} drew something else");
        lengths.push(bytes.len());
        for page in bytes[..(PAGES - 1) * 4096].chunks(4096) {
            for sector in page.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]) && matches!(sector[0], 1 | 2), "{seed}");
            }
            let new = page.iter().filter(|byte| **byte == 2).count();
            *if new == 4096 {
                &mut kept
            } else if new == 0 {
                &mut lost
            } else {
                &mut torn
            } += 1;
        }
        assert!(bytes[PAGES * 4096..].iter().all(|byte| matches!(byte, 0 | 3)), "{seed}");
    }
    assert!(kept > 50 && lost > 50 && torn > 10, "{kept} kept, {lost} lost, {torn} torn");
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [PAGES * 4096, PAGES * 4096 + 5000]);
}

#[test]
fn a_file_that_was_cut_short_never_has_what_was_behind_its_end_and_what_came_after_needs_the_cut() {
    let mut seen = [0; 3];
    for seed in 0..40 {
        let write = |at: &Path| {
            let file = File::create(at.join("f")).unwrap();
            file.write_all_at(&[1; 3 * 4096], 0).unwrap();
            file.sync_all().unwrap();
            sync_folder(at);
            file.set_len(100).unwrap();
            file.set_len(3 * 4096).unwrap();
            file.write_all_at(&[2; 4096], 4096).unwrap();
        };
        let Some(backing) = after_a_cut(Names::Ext4Like, Kept::Drawn(seed), write) else { return };
        let bytes = fs::read(backing.path().join("f")).unwrap();
        assert_eq!(bytes[..100], [1; 100]);
        if bytes.len() == 3 * 4096 && bytes[100] == 1 {
            assert!(bytes.iter().all(|byte| *byte == 1), "{seed}: the cut was lost, and all after it with it");
            seen[0] += 1;
        } else {
            assert!(!bytes[100..].contains(&1), "{seed}");
            seen[if bytes.contains(&2) { 2 } else { 1 }] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn room_can_be_allocated_and_given_back_and_a_cut_brings_back_what_was_in_it() {
    use rustix::fs::{FallocateFlags, fallocate};
    let write = |at: &Path| {
        let file = File::create(at.join("f")).unwrap();
        file.write_all_at(&[1; 3 * 4096], 0).unwrap();
        file.sync_all().unwrap();
        sync_folder(at);
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 * 4096);
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 4096);
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(4096)).unwrap(), 2 * 4096);
        fallocate(&file, FallocateFlags::empty(), 0, 5 * 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5 * 4096);
    };
    let Some(backing) = after_a_cut(Names::Strict, Kept::Nothing, write) else { return };
    assert!(fs::read(backing.path().join("f")).unwrap() == [1; 3 * 4096]);
    let punched = (0..10).filter(|seed| {
        let backing = after_a_cut(Names::Strict, Kept::Drawn(*seed), write).unwrap();
        let bytes = fs::read(backing.path().join("f")).unwrap();
        assert!(matches!(bytes.len() / 4096, 3 | 5) && bytes[..4096] == [1; 4096]);
        bytes[4096] == 0
    });
    assert!((1..10).contains(&punched.count()));
}

#[test]
fn what_a_failed_sync_was_to_write_is_forgotten_where_the_system_does_so() {
    for (forget, expected) in [(false, b"first second"), (true, b"first\0\0\0\0\0\0\0")] {
        let backing = tempfile::tempdir().unwrap();
        let options = CardOptions { failed_syncs_forget: forget, ..cuttable() };
        let Some(card) = card(backing.path(), options) else { return };
        let file = File::create(card.path().join("f")).unwrap();
        file.set_len(3 * 4096).unwrap();
        sync_folder(card.path());
        file.sync_all().unwrap();
        card.fail_at(Op::Sync, 1, Failure::Io, false);
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b" second", 4096).unwrap();
        assert!(file.sync_all().is_err());
        // What is written to again is written again.
        file.write_all_at(b"first", 0).unwrap();
        file.sync_all().unwrap();
        card.cut_power();
        let bytes = fs::read(backing.path().join("f")).unwrap();
        assert_eq!([&bytes[..5], &bytes[4096..4103]].concat(), expected, "forget: {forget}");
    }
}

#[test]
fn a_folder_can_tell_no_types_of_its_entries() {
    for untyped in [false, true] {
        let backing = tempfile::tempdir().unwrap();
        for n in 0..300 {
            fs::write(backing.path().join(format!("a name that is long enough to fill answers {n}")), "").unwrap();
        }
        fs::create_dir(backing.path().join("folder")).unwrap();
        let Some(card) = card(backing.path(), CardOptions { untyped_entries: untyped, ..CardOptions::default() })
        else {
            return;
        };
        let folder = File::open(card.path()).unwrap();
        let mut types = std::collections::HashMap::new();
        for entry in rustix::fs::Dir::read_from(&folder).unwrap() {
            let entry = entry.unwrap();
            types.insert(entry.file_name().to_str().unwrap().to_owned(), entry.file_type());
        }
        let of = |name: &str| types.get(name).copied();
        let expected = |kind| Some(if untyped { rustix::fs::FileType::Unknown } else { kind });
        assert_eq!(of("folder"), expected(rustix::fs::FileType::Directory));
        assert_eq!(types.keys().filter(|name| name.starts_with("a name")).count(), 300);
        // Those who ask for it find it all the same.
        let folders = fs::read_dir(card.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(folders.count(), 1);
    }
}
