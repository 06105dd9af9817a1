//! How other threads wake the guard.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What there is to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Something that must not wait for the next tick.
    pub now: bool,
    /// A connection sent its first request, so others may have come with it.
    pub new_connection: bool,
    /// Sources whose accept loop died.
    pub died: Vec<usize>,
}

/// A bell for the guard.
#[derive(Default)]
pub struct Nudge {
    news: Mutex<News>,
    bell: Condvar,
}

impl Nudge {
    /// There is a new connection.
    pub fn new_connection(&self) {
        let mut news = self.news.lock();
        if !news.new_connection {
            news.new_connection = true;
            self.bell.notify_one();
        }
    }

    /// An accept loop died.
    pub fn accept_died(&self, source: usize) {
        let mut news = self.news.lock();
        if !news.died.contains(&source) {
            news.died.push(source);
        }
        self.bell.notify_one();
    }

    /// Look now.
    pub fn now(&self) {
        self.news.lock().now = true;
        self.bell.notify_one();
    }

    /// Waits for news, at most so long.
    pub fn wait(&self, at_most: Duration) -> News {
        let mut news = self.news.lock();
        if *news == News::default() {
            self.bell.wait_for(&mut news, at_most);
        }
        std::mem::take(&mut news)
    }
}
