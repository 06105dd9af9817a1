//! A simulated SD card: a folder seen through a FUSE file system whose syncs take time, one after the other, and which
//! counts, fails and loses power on demand, at any operation.
//!
//! It is a pass-through, not a model of a file system: what a program writes is at once in the folder behind it. With
//! [`CardOptions::power_cuts`] the card remembers how to take back whatever was not synced: bytes and lengths until
//! their file is synced, names as [`Names`] says. A power cut takes all of that back, or a part drawn from a seed: 4 KiB
//! pages each kept, lost or torn at a sector of 512 bytes, and of the names what came first. Permissions and times of
//! modification are never taken back. Memory maps that are written to are not supported.

mod disk;
mod filesystem;
mod names;
mod pages;
mod seeded;
mod trigger;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session};

use disk::{Disk, DiskOptions};
use filesystem::{Card as FileSystem, Control};
pub use names::Names;
pub use seeded::Seeded;
use trigger::Then;
pub use trigger::{Failure, Kept, Op};

/// What a card is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct CardOptions {
    /// How long each sync takes; syncs wait for each other.
    pub sync_delay: Duration,
    /// Whether to remember what is not synced, so that [`Card::cut_power`] can take it back. Costs memory.
    pub power_cuts: bool,
    /// What makes a name durable.
    pub names: Names,
    /// Whether folders tell no types of their entries (DT_UNKNOWN), as some file systems do: programs have to look at
    /// each, and may find it gone.
    pub untyped_entries: bool,
    /// Whether what a failed sync was to write is never written by a later one unless it is written to again, as on
    /// Linux, which holds such pages for clean.
    pub failed_syncs_forget: bool,
}

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every sync takes its time and then fails with EIO; what it was to make durable is not.
    SyncFails,
    /// Every sync takes its time and says that all is well, and makes nothing durable.
    SyncsLie,
    /// Every write and every new file fails with ENOSPC, and `statfs` still shows room (as on a card that lies).
    WriteFindsNoSpace,
    /// The same, and `statfs` says so.
    Full,
}

/// What a card has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardStats {
    /// Bytes handed to `write`.
    pub bytes_written: u64,
    /// Bytes of the 4 KiB pages that syncs found dirty, and of those still dirty: what reaches the card. Metadata of
    /// the file system itself is not in it.
    pub bytes_to_card: u64,
    /// Syncs of files and folders that came to an end.
    pub syncs: u64,
}

/// A mounted card. Its end unmounts it; the folder behind it stays.
pub struct Card {
    session: Option<BackgroundSession>,
    control: Arc<Control>,
    mountpoint: PathBuf,
    backing: PathBuf,
    options: CardOptions,
    /// A mountpoint of the card's own, removed with it.
    _folder: Option<tempfile::TempDir>,
}

impl Card {
    /// Mounts a card over a folder, at a mountpoint of its own. The `Err` says why there is no FUSE here.
    pub fn mount(backing: &Path, options: CardOptions) -> io::Result<Card> {
        let folder = tempfile::tempdir()?;
        let mountpoint = folder.path().to_owned();
        Card::mount_at(backing, &mountpoint, Some(folder), options)
    }

    /// The same at a given mountpoint.
    pub fn mount_at(
        backing: &Path,
        mountpoint: &Path,
        folder: Option<tempfile::TempDir>,
        options: CardOptions,
    ) -> io::Result<Card> {
        std::fs::create_dir_all(backing)?;
        let backing = backing.canonicalize()?;
        let (control, session) = mount(&backing, mountpoint, &options)?;
        let mountpoint = mountpoint.to_owned();
        Ok(Card { session: Some(session), control, mountpoint, backing, options, _folder: folder })
    }

    /// Where programs see the card.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// The folder behind it.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// What it has done so far.
    pub fn stats(&self) -> CardStats {
        self.control.stats()
    }

    /// How long syncs take from now on.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.control.set_sync_delay(delay);
    }

    /// What goes wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.control.set_fault(fault);
    }

    /// Holds every sync that has not ended until `false` is said.
    pub fn hold_syncs(&self, held: bool) {
        self.control.hold_syncs(held);
    }

    /// Holds every read until `false` is said. More than a few of them also hold all else.
    pub fn hold_reads(&self, held: bool) {
        self.control.hold_reads(held);
    }

    /// Syncs that are waiting or at work.
    pub fn syncs_in_progress(&self) -> u64 {
        self.control.syncs_in_progress()
    }

    /// Pulls the plug: every call fails from now on, and the folder behind holds what had been synced and no more.
    pub fn cut_power(&self) {
        self.control.cut_power(Kept::Nothing);
    }

    /// The same, but a part of what was not synced may be there.
    pub fn cut_power_keeping(&self, kept: Kept) {
        self.control.cut_power(kept);
    }

    /// Has the power fail just before the n-th operation of a kind from now on.
    pub fn cut_power_at(&self, op: Op, nth: u64, kept: Kept) {
        self.control.triggers(|triggers| triggers.arm(op, nth, Then::Cut(kept)));
    }

    /// Has the n-th operation of a kind from now on fail, and with `for_good` all later ones of the kind too.
    pub fn fail_at(&self, op: Op, nth: u64, failure: Failure, for_good: bool) {
        self.control.triggers(|triggers| triggers.arm(op, nth, Then::Fail { failure, for_good }));
    }

    /// Forgets what was to happen at later operations.
    pub fn disarm(&self) {
        self.control.disarm();
    }

    /// How many operations of a kind there were since the power came.
    pub fn count(&self, op: Op) -> u64 {
        self.control.triggers(|triggers| triggers.count(op))
    }

    /// How many operations met what was to happen at them since the power came.
    pub fn fired(&self) -> u64 {
        self.control.triggers(|triggers| triggers.fired())
    }

    /// Returns when the power has failed; `false`: it took too long.
    pub fn wait_for_cut(&self, at_most: Duration) -> bool {
        self.control.wait_for_cut(at_most)
    }

    /// When the power failed.
    pub fn cut_at(&self) -> Option<Instant> {
        self.control.cut_at()
    }

    /// Gives it power again, at the same place and with the same options. Nothing happens at later operations that was
    /// said before, and nothing is remembered of what was not synced.
    pub fn power_up(&mut self) -> io::Result<()> {
        self.unmount();
        (self.control, self.session) =
            mount(&self.backing, &self.mountpoint, &self.options).map(|(control, session)| (control, Some(session)))?;
        Ok(())
    }

    fn unmount(&mut self) {
        // A held sync would keep the file system from ending.
        self.control.hold_syncs(false);
        if let Some(session) = self.session.take() {
            // Lazily, since a program that hangs on the card must not make the test hang too.
            let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.mountpoint).output();
            if !unmounted.is_ok_and(|output| output.status.success()) {
                let _ = std::process::Command::new("fusermount3").args(["-u", "-z"]).arg(&self.mountpoint).output();
            }
            drop(session);
        }
    }
}

fn mount(backing: &Path, at: &Path, options: &CardOptions) -> io::Result<(Arc<Control>, BackgroundSession)> {
    let kept = DiskOptions {
        power_cuts: options.power_cuts,
        names: options.names,
        failed_syncs_forget: options.failed_syncs_forget,
    };
    let control = Arc::new(Control::new(Disk::open(backing, kept)?, options.sync_delay));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("simulated-card".to_owned()), MountOption::NoAtime];
    // Enough that reads go on while others write; syncs have a thread of their own.
    config.n_threads = Some(4);
    let session = Session::new(FileSystem::start(control.clone())?, at, &config)?;
    if options.untyped_entries {
        control.answer_through(session.as_fd().try_clone_to_owned()?.into());
    }
    Ok((control, session.spawn()?))
}

impl Drop for Card {
    fn drop(&mut self) {
        self.unmount();
    }
}
