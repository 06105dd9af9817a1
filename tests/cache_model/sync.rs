//! The locks that the cache's files find here in place of `parking_lot`'s: the same calls, scheduled by loom.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use loom::sync as model;

thread_local! {
    static FILL_CHECKS_TICKET: Cell<bool> = const { Cell::new(true) };
}

/// Lets fills go unchecked in this test (loom runs all threads of a model on the test's own).
pub fn leave_fills_unchecked() {
    FILL_CHECKS_TICKET.set(false);
}

pub fn fill_checks_ticket() -> bool {
    FILL_CHECKS_TICKET.get()
}

pub struct RwLock<T>(model::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> RwLock<T> {
        RwLock(model::RwLock::new(value))
    }
    pub fn read(&self) -> model::RwLockReadGuard<'_, T> {
        self.0.read().expect("a panic ends the model")
    }
    pub fn write(&self) -> model::RwLockWriteGuard<'_, T> {
        self.0.write().expect("a panic ends the model")
    }
}

pub struct Mutex<T>(model::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(model::Mutex::new(value))
    }
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("a panic ends the model")))
    }
}

/// Empty only inside [`Condvar::wait_until`].
pub struct MutexGuard<'a, T>(Option<model::MutexGuard<'a, T>>);

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

pub struct Condvar(model::Condvar);

impl Condvar {
    pub fn new() -> Condvar {
        Condvar(model::Condvar::new())
    }
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
    /// A deadline that is over times out at once; any other never comes, since models have no clock. A waiter that
    /// nobody wakes is then a deadlock, which loom reports.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> Waited {
        let over = deadline <= Instant::now();
        if !over {
            guard.0 = guard.0.take().map(|held| self.0.wait(held).expect("a panic ends the model"));
        }
        Waited(over)
    }
}

pub struct Waited(bool);

impl Waited {
    pub fn timed_out(&self) -> bool {
        self.0
    }
}
