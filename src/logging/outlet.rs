//! The way of a line to standard error: a bounded queue, and one thread that writes. Who logs never waits for who reads:
//! a terminal may be stopped, a pipe full, a file on a card that hangs.
//!
//! Invariant: a line is written whole and in its order, or counted; a gap says how long it is where it stands.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Bytes of lines that wait for their reader; what does not fit is dropped.
const QUEUED_BYTES_MAX: usize = 256 * 1024;
/// At the end of the process: how long to wait for a reader that takes nothing, and for one that is slow.
const IDLE_READER_MAX: Duration = Duration::from_secs(1);
const SLOW_READER_MAX: Duration = Duration::from_secs(5);

/// What stands in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A line with its newline.
    Line(String),
    /// So many lines are missing here.
    Gap(u64),
}

/// The queue and what is known of its reader.
#[derive(Default)]
pub(super) struct Outlet {
    state: Mutex<State>,
    filled: Condvar,
    moved: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    /// Lines dropped behind the last one of the queue.
    gap: u64,
    is_writing: bool,
    /// The last write failed: a gap at the end of the queue waits until another line gets through.
    has_failed: bool,
    /// Attempts to write, for who waits for the last.
    attempts: u64,
}

impl Outlet {
    /// Lines that were never shown, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Queues a line, or drops it.
    pub fn push(&self, line: String) {
        let mut state = self.state.lock();
        if state.bytes + line.len() > QUEUED_BYTES_MAX {
            state.gap += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(gap) = state.take_gap() {
            state.queue.push_back(gap);
        }
        state.bytes += line.len();
        state.queue.push_back(Entry::Line(line));
        drop(state);
        self.filled.notify_one();
    }

    /// Takes what comes, for ever. `write` returns when the entry is out or cannot be.
    pub fn run(&self, mut write: impl FnMut(&Entry) -> io::Result<()>) -> ! {
        loop {
            let entry = self.next();
            let result = write(&entry);
            self.done(&entry, result.is_ok());
        }
    }

    fn next(&self) -> Entry {
        let mut state = self.state.lock();
        loop {
            if let Some(entry) = state.take() {
                state.is_writing = true;
                return entry;
            }
            self.filled.wait(&mut state);
        }
    }

    fn done(&self, entry: &Entry, is_written: bool) {
        let mut state = self.state.lock();
        (state.is_writing, state.has_failed) = (false, !is_written);
        state.attempts += 1;
        if !is_written {
            state.gap += match entry {
                Entry::Line(_) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    1
                }
                Entry::Gap(lines) => *lines,
            };
        }
        drop(state);
        self.moved.notify_all();
    }

    /// Waits until all is written, or until it is clear that nobody reads.
    pub fn flush(&self) {
        let give_up = Instant::now() + SLOW_READER_MAX;
        let mut state = self.state.lock();
        while state.is_writing || state.has_more() {
            let attempts = state.attempts;
            let until = give_up.min(Instant::now() + IDLE_READER_MAX);
            let is_over = self.moved.wait_until(&mut state, until).timed_out();
            if is_over && (state.attempts == attempts || Instant::now() >= give_up) {
                return;
            }
        }
    }
}

impl State {
    fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.gap > 0 && !self.has_failed
    }

    fn take_gap(&mut self) -> Option<Entry> {
        (self.gap > 0).then(|| Entry::Gap(std::mem::take(&mut self.gap)))
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front();
        if let Some(Entry::Line(line)) = &entry {
            self.bytes -= line.len();
        }
        if entry.is_none() && !self.has_failed { self.take_gap() } else { entry }
    }
}

/// Writes all of `text`, and waits as long as that takes. After an error in the middle `is_torn` stays true, and the next
/// text begins a line of its own.
pub(super) fn write_text(to: impl AsFd, text: &str, is_torn: &mut bool) -> io::Result<()> {
    let text = if *is_torn { &format!("\n{text}") } else { text };
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(written) => (rest, *is_torn) = (&rest[written..], true),
            Err(Errno::INTR) => {}
            // Others who have it open may have made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    *is_torn = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    fn line(n: usize) -> String {
        format!("{n}{}\n", "x".repeat(QUEUED_BYTES_MAX / 4 - 2))
    }

    /// An outlet whose writes are seen, and end as the test says.
    fn outlet() -> (Arc<Outlet>, Receiver<Entry>, Sender<io::Result<()>>) {
        let outlet = Arc::<Outlet>::default();
        let ((seen, entries), (ends, end)) = (unbounded(), bounded(0));
        let running = outlet.clone();
        std::thread::spawn(move || {
            running.run(|entry| {
                let copy = match entry {
                    Entry::Line(line) => Entry::Line(line[..1].to_owned()),
                    Entry::Gap(lines) => Entry::Gap(*lines),
                };
                let _ = seen.send(copy);
                end.recv().unwrap_or(Ok(()))
            })
        });
        (outlet, entries, ends)
    }

    fn text(n: usize) -> Entry {
        Entry::Line(n.to_string())
    }

    fn failed() -> io::Result<()> {
        Err(Errno::NOSPC.into())
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_the_gap_is_told_where_it_is() {
        let (outlet, entries, ends) = outlet();
        outlet.push(line(0));
        assert_eq!(entries.recv().unwrap(), text(0));
        // The first is in the writer's hand; four fill the queue, two are too many.
        (1..7).for_each(|n| outlet.push(line(n)));
        assert_eq!(outlet.dropped(), 2);
        ends.send(Ok(())).unwrap();
        assert_eq!(entries.recv().unwrap(), text(1));
        outlet.push(line(7));
        for wanted in [text(2), text(3), text(4), Entry::Gap(2), text(7)] {
            ends.send(Ok(())).unwrap();
            assert_eq!(entries.recv().unwrap(), wanted);
        }
        assert_eq!(outlet.dropped(), 2);
    }

    #[test]
    fn a_gap_at_the_end_is_told_as_well_and_flush_waits_for_it() {
        let (outlet, entries, ends) = outlet();
        outlet.push(line(0));
        assert_eq!(entries.recv().unwrap(), text(0));
        (1..6).for_each(|n| outlet.push(line(n)));
        drop(ends);
        outlet.flush();
        let seen: Vec<_> = entries.try_iter().collect();
        assert_eq!(seen, [text(1), text(2), text(3), text(4), Entry::Gap(1)]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_once_it_can() {
        let (outlet, entries, ends) = outlet();
        for n in 0..2 {
            outlet.push(line(n));
            if n > 0 {
                assert_eq!(entries.recv().unwrap(), Entry::Gap(1));
                ends.send(failed()).unwrap();
            }
            assert_eq!(entries.recv().unwrap(), text(n));
            ends.send(failed()).unwrap();
            outlet.flush();
        }
        assert_eq!(outlet.dropped(), 2, "a gap that could not be told is not one more line");
        assert!(entries.try_recv().is_err(), "nothing is tried again before there is something new");
        outlet.push(line(2));
        for wanted in [Entry::Gap(2), text(2)] {
            assert_eq!(entries.recv().unwrap(), wanted);
            ends.send(Ok(())).unwrap();
        }
        outlet.flush();
        assert_eq!((outlet.dropped(), entries.try_recv().is_err()), (2, true));
    }

    #[test]
    fn flush_does_not_wait_for_who_never_reads() {
        let (outlet, entries, _ends) = outlet();
        outlet.push(line(0));
        assert_eq!(entries.recv().unwrap(), text(0));
        outlet.flush();
        assert_eq!(outlet.dropped(), 0);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let mut is_torn = false;
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(write_text(&full, "a\n", &mut is_torn).is_err() && !is_torn, "nothing of it was written");
        is_torn = true;
        assert!(write_text(&full, "b\n", &mut is_torn).is_err() && is_torn);
        let file = tempfile::NamedTempFile::new().unwrap();
        write_text(file.as_file(), "c\n", &mut is_torn).unwrap();
        write_text(file.as_file(), "d\n", &mut is_torn).unwrap();
        assert_eq!((std::fs::read_to_string(file.path()).unwrap().as_str(), is_torn), ("\nc\nd\n", false));
    }

    #[test]
    fn a_description_that_others_made_non_blocking_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let text = "x".repeat(1 << 20);
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let result = write_text(&writer, &text, &mut false);
                drop(writer);
                result
            });
            let mut read = String::new();
            io::Read::read_to_string(&mut reader, &mut read).unwrap();
            assert_eq!(read.len(), text.len());
            writing.join().unwrap()
        });
        written.unwrap();
    }
}
