//! Wake-ups that are put off and made together.
//!
//! Who answers many at once (the committer after a sync, a worker that goes through its queue) would wake the thread that
//! sends the answers at the first of them, and on a board with one core be interrupted by it, once for each answer.
//!
//! Invariant: a wake-up that was asked for inside [`together`] is made at the latest when that returns or unwinds.

use std::cell::RefCell;
use std::sync::Arc;

/// A thread that can be woken.
pub trait Wake: Send + Sync {
    /// Wakes it, if it sleeps.
    fn wake(&self);
}

/// Who is to be woken. Mostly one, which costs no allocation.
#[derive(Default)]
struct Sleepers {
    first: Option<Arc<dyn Wake>>,
    others: Vec<Arc<dyn Wake>>,
}

impl Sleepers {
    fn add<W: Wake + 'static>(&mut self, sleeper: &Arc<W>) {
        let is_known = |known: &Arc<dyn Wake>| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(sleeper));
        if self.first.iter().chain(&self.others).any(is_known) {
            return;
        }
        let sleeper = Arc::clone(sleeper) as Arc<dyn Wake>;
        match self.first {
            None => self.first = Some(sleeper),
            Some(_) => self.others.push(sleeper),
        }
    }
}

thread_local! {
    /// `None` outside [`together`].
    static PUT_OFF: RefCell<Option<Sleepers>> = const { RefCell::new(None) };
}

/// Wakes `sleeper` now, or at the end of the [`together`] that this thread is in.
pub fn wake<W: Wake + 'static>(sleeper: &Arc<W>) {
    let is_put_off = PUT_OFF.try_with(|put_off| {
        let mut put_off = put_off.borrow_mut();
        put_off.as_mut().map(|sleepers| sleepers.add(sleeper)).is_some()
    });
    // The list is gone while its thread ends.
    if is_put_off != Ok(true) {
        sleeper.wake();
    }
}

/// Does `work`, and makes the wake-ups that it asks for when it has ended. One inside another ends with the outer one.
pub fn together<R>(work: impl FnOnce() -> R) -> R {
    struct Outermost;
    impl Drop for Outermost {
        fn drop(&mut self) {
            let sleepers = PUT_OFF.try_with(|put_off| put_off.borrow_mut().take());
            if let Ok(Some(Sleepers { first, others })) = sleepers {
                first.into_iter().chain(others).for_each(|sleeper| sleeper.wake());
            }
        }
    }
    let is_outermost = PUT_OFF.with_borrow_mut(|put_off| {
        let is_outermost = put_off.is_none();
        put_off.get_or_insert_default();
        is_outermost
    });
    let _guard = is_outermost.then(|| Outermost);
    work()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Counter {
        fn wakes(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wake_up_is_made_at_once_unless_it_is_put_off() {
        let sleeper = Arc::new(Counter::default());
        wake(&sleeper);
        wake(&sleeper);
        assert_eq!(sleeper.wakes(), 2);
    }

    #[test]
    fn wake_ups_that_were_put_off_are_made_once_for_each_sleeper_at_the_end() {
        let (one, other) = (Arc::new(Counter::default()), Arc::new(Counter::default()));
        together(|| {
            wake(&one);
            together(|| wake(&one));
            wake(&other);
            assert_eq!((one.wakes(), other.wakes()), (0, 0));
        });
        assert_eq!((one.wakes(), other.wakes()), (1, 1));
        wake(&one);
        assert_eq!(one.wakes(), 2);
    }

    #[test]
    fn a_panic_does_not_lose_a_wake_up() {
        let sleeper = Arc::new(Counter::default());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            together(|| {
                wake(&sleeper);
                panic!("on purpose");
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(sleeper.wakes(), 1);
    }
}
